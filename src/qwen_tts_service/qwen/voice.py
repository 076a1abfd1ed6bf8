"""The Qwen3-TTS voice: prepares requests as jobs for the engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.engine.engine import Engine
from qwen_tts_service.engine.job import Job
from qwen_tts_service.errors import (
    CannotClone,
    CannotSpeak,
    InvalidRequest,
    MisfitVoice,
    StartupError,
    SynthesisFailed,
)
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.text.language import detect_language
from qwen_tts_service.text.stress import drop_stress
from qwen_tts_service.types import (
    FRAME_S,
    KeptVoice,
    Language,
    Layout,
    SpeechRequest,
    VoiceChoice,
    VoiceReference,
)
from qwen_tts_service.voice.catalogue import SPEAKERS, Speaker
from qwen_tts_service.voice.cloned import choose_clone
from qwen_tts_service.voice.description import describe_voice
from qwen_tts_service.voice.mapping import VoiceCapabilities, choose_voice

from .limits import (
    LEAST_FACTOR,
    LONGEST_PART_FRAMES,
    PROMPT_FRAME_TOKENS,
    QwenOptions,
    expected_frames,
    part_chars,
    runaway_frames,
)
from .open_text import QwenOpenUtterance

_OPEN_TEXT = "a text that is still being written is spoken without the voice's recording"
_NO_SOUND = "the checkpoint does not speak, so its weights are damaged"
_LEAST_RANGE = 2**-15
"""Of the first word, between its lowest and its highest sample: one step of 16 bits."""
NO_VOICES: Mapping[str, KeptVoice] = {}


def _not_applied(request: SpeechRequest) -> str | None:
    """What this model cannot do of a request."""
    asked = {"pitch": request.pitch != 1, "phoneme": request.phonemes is not None}
    names = [name for name, is_asked in asked.items() if is_asked]
    return f"this model cannot apply: {', '.join(names)}" if names else None


def _number_format(model: Qwen3TTS) -> str:
    codec = "tf32" if model.codec.has_tf32 else str(model.codec.dtype)
    return f"{model.dtype}, codec {codec}".replace("torch.", "")


@dataclass(frozen=True, slots=True)
class QwenUtterance:
    """A request as a job for the engine, with its voice choice and warning."""

    job: Job
    choice: VoiceChoice
    expected_s: float
    submit: Callable[[Job], PcmChannel]
    warning: str | None = None

    def speak(self) -> PcmChannel:
        """Hand the job to the engine; it waits there for a slot."""
        return self.submit(self.job)


class QwenVoice:
    """Speaks with a Qwen3-TTS checkpoint of any kind."""

    def __init__(
        self,
        model: Qwen3TTS,
        engine: Engine,
        name: str,
        options: QwenOptions,
        *,
        kept: Mapping[str, KeptVoice] = NO_VOICES,
        known: Mapping[str, Speaker] = SPEAKERS,
    ) -> None:
        """Speak with `model` through `engine`.

        kept: the cloned voices that `speaker` may name, looked up at every request
        known: what is known of the checkpoint's own speakers
        """
        self.model_name = name
        self.sample_rate_hz = model.config.codec.sample_rate_hz
        self.device = str(model.device)
        self.has_own_rate = False
        self.slots: int | None = options.slots
        self.longest_part_chars: int | None = part_chars(options.max_positions)
        self.facts: Mapping[str, str] = {
            "kind": model.config.kind,
            "attention": f"{model.attention.name}: {model.attention.reason}",
            "kernels": f"{model.kernels.name}: {model.kernels.reason}",
            "linear_layers": model.linear_layers,
            "number_format": _number_format(model),
        }
        self._model = model
        self._engine = engine
        self._options = options
        self._kept = kept
        self.known = known
        self._capabilities = VoiceCapabilities(
            speakers=model.config.speakers,
            follows_instruct=model.config.follows_instruct,
            known=known,
        )

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names that `speaker` may have: the checkpoint's own, or those of kept voices."""
        return (*self._model.config.speakers, *self._kept)

    def prepare(self, request: SpeechRequest) -> QwenUtterance:
        """Choose the voice and turn the text into ids.

        Raises CannotSpeak or InvalidRequest for what this checkpoint cannot say.
        """
        choice, voice = self._choose(request)
        if request.text is not None:
            ids = self._model.tokenizer.encode(self._spoken(request.text))
        else:
            ids = self._model.tokenizer.wrap(self._checked(request.tokens or ()))
        tokens = len(ids) - PROMPT_FRAME_TOKENS
        if tokens < 1:
            raise CannotSpeak("text has nothing to speak", param="text", code="no_reading")
        job = Job(
            ids=tuple(ids),
            instruct_ids=tuple(self._model.tokenizer.encode_instruct(choice.instruct or "")),
            seed=request.seed,
            sampling=request.sampling,
            max_frames=min(request.max_frames, LONGEST_PART_FRAMES),
            runaway_frames=runaway_frames(tokens, self._options.runaway_factor),
            **self._who(choice, voice),
        )
        job = self._fitted(job, tokens, is_uncut=request.is_uncut)
        expected_s = expected_frames(tokens) * FRAME_S
        return QwenUtterance(job, choice, expected_s, self._engine.submit, _not_applied(request))

    def open(self, request: SpeechRequest) -> QwenOpenUtterance:
        """Prepare to speak a text that is still being written, in the layout for that.

        A cloned voice then speaks without its recording: beside that the whole text must be there.
        """
        choice, voice = self._choose(request)
        if voice is not None and voice.codes:
            voice = voice.without_recording()
            choice = replace(choice, not_applied=choice.not_applied | {"transcript": _OPEN_TEXT})
        instruct_ids = tuple(self._model.tokenizer.encode_instruct(choice.instruct or ""))
        prompt = len(instruct_ids) + 2 * PROMPT_FRAME_TOKENS + 1
        max_frames = min(request.max_frames, self._options.max_positions - prompt)
        job = Job(
            ids=(),
            instruct_ids=instruct_ids,
            seed=request.seed,
            sampling=request.sampling,
            max_frames=max_frames,
            runaway_frames=max_frames,
            **self._who(choice, voice) | {"layout": "streaming_text"},
        )
        return QwenOpenUtterance(
            self._engine.submit, self._model.tokenizer, job, choice, self._options
        )

    def warm_up(self) -> None:
        """Speak a word to its end or for ten frames, sampled as requests are by default.

        Raises StartupError if that is no sound.
        """
        nobody = None
        if self._model.encoder is not None:
            nobody = KeptVoice(embedding=(0.0,) * self._model.config.width)
        warm = SpeechRequest(
            request_id="warm-up", seed=0, text="Hello.", max_frames=10, voice=nobody
        )
        try:
            samples = self._engine.run_whole(self.prepare(warm).job)
        except SynthesisFailed as error:
            raise StartupError(f"{_NO_SOUND}: {error}") from error
        if not samples.size or np.ptp(samples) < _LEAST_RANGE:
            raise StartupError(f"{_NO_SOUND}: its first word is one constant sample")

    @property
    def is_healthy(self) -> bool:
        """Whether the engine takes jobs and no step hangs."""
        return self._engine.is_healthy

    def close(self) -> None:
        """End the engine; streams that are still open fail."""
        self._engine.close()

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        """Choose speaker, language and instruct.

        Raises InvalidRequest for an unknown speaker and a language the checkpoint lacks.
        """
        return self._choose(request)[0]

    def clone(self, reference: VoiceReference) -> KeptVoice:
        """Make a voice of a recording; takes seconds, on any thread but the event loop's.

        Raises CannotClone if this checkpoint cannot, and InvalidRequest for a recording that
        cannot be heard.
        """
        if self._model.encoder is None:
            raise CannotClone
        return self._model.encoder.keep(reference)

    def _choose(self, request: SpeechRequest) -> tuple[VoiceChoice, KeptVoice | None]:
        """Choose how to speak, and a cloned voice if this checkpoint speaks with those."""
        language: Language = request.language or detect_language(
            self._model.tokenizer.decode(self._checked(request.tokens or ())),
            self._options.default_language,
        )
        wishes = (request.attributes, language, request.speaker, request.instruct)
        kind, voice = self._model.config.kind, None
        if request.voice is not None and kind != "base":
            raise CannotClone
        if kind == "base":
            choice, voice = choose_clone(request, language, self._kept)
            self._check_voice(voice, request.speaker)
        elif kind == "voice_design":
            choice = describe_voice(*wishes)
        else:
            choice = choose_voice(*wishes, self._capabilities)
        self._check_instruct(choice.instruct or "")
        if language in self._model.config.languages:
            return choice, voice
        spoken = ", ".join(self._model.config.languages)
        raise InvalidRequest(
            f"language is not one that this model speaks; known: {spoken}", param="language"
        )

    def _who(self, choice: VoiceChoice, voice: KeptVoice | None) -> dict[str, Any]:
        """Say to the engine who speaks, in the way that the checkpoint was trained for."""
        config = self._model.config
        # The official script trains without the tag of a language.
        who: dict[str, Any] = {"language": "auto" if config.is_fine_tuned else choice.language}
        if voice is None:
            has_speakers = config.kind == "custom_voice"
            return who | {"speaker": choice.speaker if has_speakers else None}
        said = self._spoken(voice.transcript)
        reference_ids = self._model.tokenizer.encode_reference(said) if voice.codes else ()
        layout: Layout = "streaming_text"  # the official package's own for cloned voices
        return who | {"voice": voice, "reference_ids": tuple(reference_ids), "layout": layout}

    def _spoken(self, text: str) -> str:
        return text if self._options.keeps_stress else drop_stress(text)

    def _check_voice(self, voice: KeptVoice, name: str | None) -> None:
        """Refuse a voice of another model: on a device a code out of range would end everything."""
        config = self._model.config
        has_width = len(voice.embedding) == config.width
        if name is not None and not has_width:
            raise MisfitVoice(name.strip())
        is_sound = has_width and all(map(isfinite, voice.embedding))
        fits = is_sound and all(
            len(frame) == config.codebooks and min(frame) >= 0 and max(frame) < config.codes
            for frame in voice.codes
        )
        if not fits:
            raise InvalidRequest("this voice was made by another model", param="speaker")

    def _check_instruct(self, instruct: str) -> None:
        """Refuse an instruct that leaves no frame in a slot: its speech would never end."""
        room = self._options.max_positions - 2 * PROMPT_FRAME_TOKENS - 1
        is_surely_short = len(instruct.encode()) + PROMPT_FRAME_TOKENS < room
        if not is_surely_short and len(self._model.tokenizer.encode_instruct(instruct)) >= room:
            raise InvalidRequest("instruct leaves no room within MAX_POSITIONS", param="instruct")

    def _checked(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Only text may come as ids: a control token would end the prompt where it stands."""
        limit = self._model.tokenizer.text_tokens
        if all(token < limit for token in tokens):
            return tokens
        raise InvalidRequest(f"tokens must be text token ids, 0 to {limit - 1}", param="tokens")

    def _fitted(self, job: Job, tokens: int, *, is_uncut: bool) -> Job:
        """Let a job run as far as its slot goes; refuse it where even LEAST_FACTOR has no room."""
        prompt = len(job.ids) + len(job.instruct_ids) + PROMPT_FRAME_TOKENS
        if job.voice is not None:
            prompt += len(job.reference_ids) + len(job.voice.codes)
        factor = min(LEAST_FACTOR, self._options.runaway_factor)
        least = prompt + min(job.max_frames, runaway_frames(tokens, factor))
        room = self._options.max_positions
        if least > room:
            cure = "leave out split: never" if is_uncut else "set a smaller max_length"
            raise InvalidRequest(
                f"text and speech may need {least} positions, but MAX_POSITIONS is {room}; "
                f"send less text or {cure}",
                param="text",
            )
        return replace(job, runaway_frames=min(job.runaway_frames, room - prompt))
