"""The Qwen voice: a request becomes ids for the engine, and the engine's frames its audio.

It does not know HTTP, encoders or how frames are made.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.engine.engine import Engine
from qwen_tts_service.engine.job import Job, TextFeed
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.tokenizer import Tokenizer
from qwen_tts_service.qwen.open_text import GrowingText
from qwen_tts_service.text.language import detect_language
from qwen_tts_service.types import (
    FRAME_S,
    FinishReason,
    Language,
    Samples,
    SpeechRequest,
    VoiceChoice,
)
from qwen_tts_service.voice.mapping import VoiceCapabilities, choose_voice

PROMPT_FRAME_TOKENS = 8
"""Ids of an utterance that are not its text."""
FRAMES_PER_TOKEN = 5.0
"""Frames a text token takes in ordinary speech: 12.5 a second at two to three tokens a second."""
SHORTEST_FRAMES = 12
"""Frames of silence and of getting started, whatever the text."""
RAMBLE_FRAMES = 125
"""Frames that even a short text may take in a slow style: 10 s."""
LONGEST_PART_CHARS = 800
"""About a minute of speech, three in Chinese: the model keeps its voice and finds the end."""


@dataclass(frozen=True, slots=True)
class QwenUtterance:
    """A request as ids, with what is said about it."""

    job: Job
    choice: VoiceChoice
    expected_s: float
    warning: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenOptions:
    """What an utterance may need.

    max_positions: prompt and frames together; runaway_factor: see `runaway_frames`
    max_text_tokens: of a text that is still being written
    """

    max_positions: int
    max_text_tokens: int
    runaway_factor: float


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
            "number_format": f"{model.dtype}, codec {model.codec.dtype}".replace("torch.", ""),
        }
        self._model = model
        self._engine = engine
        self._options = options
        self._capabilities = VoiceCapabilities(
            speakers=model.config.speakers, obeys_instruct=model.config.obeys_instruct
        )

    def prepare(self, request: SpeechRequest) -> QwenUtterance:
        """Choose the voice and turn the text into ids.

        Raises CannotSpeak or InvalidRequest for what this checkpoint cannot say.
        """
        choice = self._choose(request)
        if request.text is not None:
            ids = self._model.tokenizer.encode(request.text)
        else:
            ids = self._model.tokenizer.wrap(self._checked(request.tokens or ()))
        tokens = len(ids) - PROMPT_FRAME_TOKENS
        if tokens < 1:
            raise CannotSpeak("the text has nothing to say", param="text", code="no_reading")
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
        return QwenUtterance(job, choice, expected_frames(tokens) * FRAME_S)

    def speak(self, utterance: QwenUtterance) -> PcmChannel:
        """Hand the job to the engine."""
        return self._engine.submit(utterance.job)

    def speak_open(self, request: SpeechRequest) -> "QwenOpenUtterance":
        """Prepare to speak a text that is still being written, in the layout for that."""
        choice = self._choose(request)
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
        """Speak a word, greedily, to its end or for ten frames."""
        warm = SpeechRequest(request_id="warm-up", seed=0, text="Hello.", max_frames=10)
        self._engine.run_whole(self.prepare(warm).job)

    @property
    def is_healthy(self) -> bool:
        """Whether the engine takes jobs and its step is not stuck."""
        return self._engine.is_healthy

    def close(self) -> None:
        """End the engine; streams that are still open fail."""
        self._engine.close()

    def _choose(self, request: SpeechRequest) -> VoiceChoice:
        language: Language = request.language or (
            detect_language(self._model.tokenizer.decode(request.tokens or ()))
        )
        choice = choose_voice(
            request.attributes, language, request.speaker, request.instruct, self._capabilities
        )
        if language in self._model.config.languages:
            return choice
        spoken = ", ".join(self._model.config.languages)
        raise InvalidRequest(f"this model speaks {spoken}", param="language")

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
                f"text and speech may need {most} positions together and MAX_POSITIONS allows "
                f"{self._options.max_positions}; send less text or set a smaller max_length",
                param="text",
            )


def expected_frames(tokens: int) -> float:
    """Frames that an ordinary reading of so many text tokens takes."""
    return SHORTEST_FRAMES + FRAMES_PER_TOKEN * tokens


def runaway_frames(tokens: int, factor: float) -> int:
    """Frames after which a speech has lost its end: `factor` ordinary readings and 10 s."""
    return int(RAMBLE_FRAMES + factor * expected_frames(tokens))


class QwenOpenUtterance:
    """A speech whose text is still being written; takes a slot when it is read and has a token."""

    def __init__(
        self,
        submit: Callable[[Job], PcmChannel],
        tokenizer: Tokenizer,
        job: Job,
        choice: VoiceChoice,
        options: QwenOptions,
    ) -> None:
        self.choice = choice
        self._submit = submit
        self._tokenizer = tokenizer
        self._job = job
        self._options = options
        self._text = GrowingText(tokenizer)
        self._feed = TextFeed()
        self._tokens = 0
        self._has_news = asyncio.Event()
        self._channel: PcmChannel | None = None
        self._end: FinishReason | None = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._end or (self._channel.finish_reason if self._channel else None)

    def append(self, text: str) -> None:
        """Add text; raises InvalidRequest when it has too many tokens."""
        self._take(self._text.append(text))

    def finish(self) -> None:
        """Say that the text is complete."""
        self._take(self._text.finish())
        self._feed.finish(
            min(
                runaway_frames(self._tokens, self._options.runaway_factor),
                self._job.runaway_frames,
            )
        )
        self._has_news.set()

    def _take(self, ids: list[int]) -> None:
        if not ids:
            return
        if self._tokens == 0:
            first = tuple(self._tokenizer.wrap(ids[:1]))
            self._job = replace(self._job, ids=first, feed=self._feed)
        self._feed.put(ids[1:] if self._tokens == 0 else ids)
        self._tokens += len(ids)
        if self._tokens > self._options.max_text_tokens:
            raise InvalidRequest("text is too long; end sentences, or send less", param="text")
        self._has_news.set()

    async def __aiter__(self) -> AsyncIterator[Samples]:
        await self._has_news.wait()
        if self._end is None and not self._tokens:
            self._end = "stop"
        if self._end is not None:
            return
        self._channel = self._submit(self._job)
        async for samples in self._channel:
            yield samples

    async def aclose(self) -> None:
        """Stop speaking; harmless when repeated."""
        if self._channel is not None:
            await self._channel.aclose()
        elif self._end is None:
            self._end = "cancelled"
        self._has_news.set()
