"""The Qwen3-TTS voice: prepares requests as jobs for the engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.engine.engine import Engine
from qwen_tts_service.engine.job import Job
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.text.language import detect_language
from qwen_tts_service.text.stress import drop_stress
from qwen_tts_service.types import FRAME_S, Language, SpeechRequest, VoiceChoice
from qwen_tts_service.voice.mapping import VoiceCapabilities, choose_voice

from .limits import PROMPT_FRAME_TOKENS, QwenOptions, expected_frames, runaway_frames
from .open_text import QwenOpenUtterance

LONGEST_PART_CHARS = 800
"""About a minute of speech, three in Chinese: the model keeps its voice and finds the end."""


def _not_applied(rate: float, phonemes: str | None) -> str | None:
    """What this model cannot do of a request."""
    names = ["rate"] * (rate != 1) + ["phoneme"] * (phonemes is not None)
    return f"this model cannot apply: {', '.join(names)}" if names else None


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
    """Speaks with a Qwen3-TTS CustomVoice checkpoint."""

    longest_part_chars: int | None = LONGEST_PART_CHARS

    def __init__(self, model: Qwen3TTS, engine: Engine, name: str, options: QwenOptions) -> None:
        self.model_name = name
        self.sample_rate_hz = model.config.codec.sample_rate_hz
        self.device = str(model.device)
        self.speakers = model.config.speakers
        self.facts: Mapping[str, str] = {
            "attention": f"{model.attention.name}: {model.attention.reason}",
            "kernels": f"{model.kernels.name}: {model.kernels.reason}",
            "linear_layers": model.linear_layers,
            "number_format": f"{model.dtype}, codec {model.codec.dtype}".replace("torch.", ""),
        }
        self._model = model
        self._engine = engine
        self._options = options
        self._capabilities = VoiceCapabilities(
            speakers=model.config.speakers, follows_instruct=model.config.follows_instruct
        )

    def prepare(self, request: SpeechRequest) -> QwenUtterance:
        """Choose the voice and turn the text into ids.

        Raises CannotSpeak or InvalidRequest for what this checkpoint cannot say.
        """
        choice = self.choose(request)
        if request.text is not None:
            text = request.text if self._options.keeps_stress else drop_stress(request.text)
            ids = self._model.tokenizer.encode(text)
        else:
            ids = self._model.tokenizer.wrap(self._checked(request.tokens or ()))
        tokens = len(ids) - PROMPT_FRAME_TOKENS
        if tokens < 1:
            raise CannotSpeak("text has nothing to speak", param="text", code="no_reading")
        job = Job(
            ids=tuple(ids),
            instruct_ids=tuple(self._model.tokenizer.encode_instruct(choice.instruct or "")),
            speaker=choice.speaker,
            language=choice.language,
            seed=request.seed,
            sampling=request.sampling,
            max_frames=request.max_frames,
            runaway_frames=runaway_frames(tokens, self._options.runaway_factor),
        )
        self._check_fit(job)
        expected_s = expected_frames(tokens) * FRAME_S
        return QwenUtterance(
            job,
            choice,
            expected_s,
            self._engine.submit,
            _not_applied(request.rate, request.phonemes),
        )

    def open(self, request: SpeechRequest) -> QwenOpenUtterance:
        """Prepare to speak a text that is still being written, in the layout for that."""
        choice = self.choose(request)
        instruct_ids = tuple(self._model.tokenizer.encode_instruct(choice.instruct or ""))
        prompt = len(instruct_ids) + 2 * PROMPT_FRAME_TOKENS + 1
        max_frames = min(request.max_frames, self._options.max_positions - prompt)
        job = Job(
            ids=(),
            instruct_ids=instruct_ids,
            speaker=choice.speaker,
            language=choice.language,
            layout="streaming_text",
            seed=request.seed,
            sampling=request.sampling,
            max_frames=max_frames,
            runaway_frames=max_frames,
        )
        return QwenOpenUtterance(
            self._engine.submit, self._model.tokenizer, job, choice, self._options
        )

    def warm_up(self) -> None:
        """Speak a word to its end or for ten frames, sampled as requests are by default."""
        warm = SpeechRequest(request_id="warm-up", seed=0, text="Hello.", max_frames=10)
        self._engine.run_whole(self.prepare(warm).job)

    @property
    def is_healthy(self) -> bool:
        """Whether the engine takes jobs and its step is not stuck."""
        return self._engine.is_healthy

    def close(self) -> None:
        """End the engine; streams that are still open fail."""
        self._engine.close()

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        """Choose speaker, language and instruct.

        Raises InvalidRequest for an unknown speaker and a language the checkpoint lacks.
        """
        language: Language = request.language or detect_language(
            self._model.tokenizer.decode(self._checked(request.tokens or ())),
            self._options.default_language,
        )
        choice = choose_voice(
            request.attributes, language, request.speaker, request.instruct, self._capabilities
        )
        self._check_instruct(choice.instruct or "")
        if language in self._model.config.languages:
            return choice
        spoken = ", ".join(self._model.config.languages)
        raise InvalidRequest(
            f"language is not one that this model speaks; known: {spoken}", param="language"
        )

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

    def _check_fit(self, job: Job) -> None:
        prompt = len(job.ids) + len(job.instruct_ids) + PROMPT_FRAME_TOKENS
        most = prompt + min(job.max_frames, job.runaway_frames)
        if most > self._options.max_positions:
            raise InvalidRequest(
                f"text and speech may need {most} positions, but MAX_POSITIONS is "
                f"{self._options.max_positions}; send less text or set a smaller max_length",
                param="text",
            )
