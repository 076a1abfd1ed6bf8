"""Turn speech requests into encoded audio with one voice: whole files and streams.

SpeechRequest -> parts of text -> Voice.prepare -> Utterance.speak -> stretch, loudness -> resample
-> encode -> bytes
"""

import asyncio
import io
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, TypeVar

import numpy as np

from qwen_tts_service.audio.formats import rate_of
from qwen_tts_service.audio.label import label_of
from qwen_tts_service.audio.pipe import AudioPipe
from qwen_tts_service.errors import CannotSpeak, InvalidRequest, MisfitVoice, SynthesisFailed
from qwen_tts_service.text.latin import preload_detector
from qwen_tts_service.text.russian import preload_russian
from qwen_tts_service.text.segments import ParsedText, Pause
from qwen_tts_service.types import (
    FRAME_S,
    MAX_SEED,
    AudioFormat,
    FinishReason,
    PcmStream,
    Samples,
    SpeechRequest,
    Timestamp,
    Voice,
    VoiceChoice,
    WordAligner,
    WordTimingVoice,
)

from .aligned import AlignedStream
from .cloning import VoiceCloner
from .faded import FadedStream
from .loudness import SpeakerGains
from .parts import DEFAULT_TEXT_OPTIONS, TextOptions, TextParts, blame_text, split_request
from .processing import ProcessedUtterance, ProcessedVoice
from .sequence import PartSequence
from .timeline import HeardSpan, Timeline
from .unspeakable import SILENCE, WARNING, SpokenOrSilent, SpokenPart, Unspoken, prepare_or_silence

T = TypeVar("T")

logger = logging.getLogger(__name__)

ENCODED_IN_PLACE: frozenset[AudioFormat] = frozenset({"wav", "pcm", "mulaw", "alaw"})
"""Formats so cheap to write that a thread would cost more than it saves."""


READ_IN_PLACE_CHARS = 200
"""Longer texts are read on a thread: dense Russian takes about 0.1 ms a character."""
READERS = 2
"""Threads that read long texts. More would only take turns with each other and the event loop."""


_WARM_UP = SpeechRequest(
    request_id="warm-up", seed=0, language="russian", text="5 января 2024 г. API за 10 000 руб."
)


@dataclass(frozen=True, slots=True)
class Output:
    """What the caller wants to receive.

    is_continued: it follows other audio of the same text, so it needs no label
    file: where a whole file goes on disk, empty and to be sought in; None keeps it in memory
    """

    format: AudioFormat
    is_stream: bool
    is_continued: bool = False
    file: BinaryIO | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechInfo:
    """What is known of a speech before it has begun; `expected_s` is an estimate.

    choice: of its first part
    speakers: of all its parts, each once, in the order in which they are heard
    """

    choice: VoiceChoice
    speakers: tuple[str, ...]
    warning: str | None = None
    expected_s: float = 0.0


class Speech:
    """One request being spoken and encoded; iterate it once for the bytes to send.

    Iteration raises TTSError if the speech fails, whatever has been sent before, and if it
    ends without any audio.
    """

    def __init__(
        self,
        pcm: PcmStream,
        pipe: AudioPipe,
        request: SpeechRequest,
        info: Callable[[], SpeechInfo],
        timeline: Timeline | None = None,
    ) -> None:
        self._timeline = timeline
        self._timestamps: list[Timestamp] = []
        self._pcm = pcm
        self._pipe = pipe
        self._info = info
        self._is_closed = False
        self.seed = request.seed
        self.text = request.text

    @property
    def info(self) -> SpeechInfo:
        """Who speaks and for how long; for a text being written known once there is audio."""
        return self._info()

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._pcm.finish_reason

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second of the audio that is sent."""
        return self._pipe.sample_rate_hz

    @property
    def audio_s(self) -> float:
        """Seconds of audio encoded so far."""
        return self._pipe.audio_s

    @property
    def spoken_s(self) -> float:
        """Seconds of it that count towards max_length: without lead-in and tail."""
        return self._pipe.spoken_s

    @property
    def timestamps(self) -> Sequence[Timestamp]:
        """Of what has been spoken to its end, in order; at the end of the iteration all of it.

        Empty unless the request has `timestamps`.
        """
        if self._timeline is not None:
            new = self._timeline.spans[len(self._timestamps) :]
            self._timestamps += [self._timestamp(span) for span in new]
        return self._timestamps

    @property
    def begun_sentence(self) -> Timestamp | None:
        """The sentence that is being spoken, as far as it has been, if sentences are timed."""
        begun = self._timeline.begun if self._timeline is not None else None
        return None if begun is None else self._timestamp(begun)

    def _timestamp(self, span: HeardSpan) -> Timestamp:
        assert self._timeline is not None
        return Timestamp(
            text=self._timeline.sent[span.start_char : span.end_char],
            start_s=self._pipe.time_s(span.start_sample),
            end_s=self._pipe.time_s(span.end_sample),
            start_char=span.start_char,
            end_char=span.end_char,
        )

    def check_ending(self) -> None:
        """Raise SynthesisFailed unless the speech ended with "stop" or "length"."""
        if self.finish_reason == "runaway":
            raise SynthesisFailed("the model did not find an end for this text", code="runaway")
        if self.finish_reason not in ("stop", "length"):
            raise SynthesisFailed("the speech was stopped before its end")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for samples in self._pcm:
            if data := await self._in_background(self._pipe.feed, samples):
                yield data
        data = await self._in_background(self._pipe.finish)
        is_at_end = self.finish_reason in ("stop", "length") and not self._is_closed
        if is_at_end and not self.audio_s:
            raise SynthesisFailed("the voice made no sound for this text")
        if data:
            yield data

    async def _in_background(self, work: Callable[..., bytes], *args: Samples) -> bytes:
        if self._pipe.format in ENCODED_IN_PLACE:
            return work(*args)
        return await asyncio.to_thread(work, *args)

    async def aclose(self) -> None:
        """Stop speaking and free everything; harmless when repeated."""
        self._is_closed = True
        await self._pcm.aclose()
        self._pipe.close()


class Synthesizer:
    """Speaks requests with one voice at one output rate.

    aligner: finds the words in the audio of a voice that does not know where they are
    labelled: formats whose metadata say that the speech is machine-made
    """

    def __init__(
        self,
        voice: Voice,
        *,
        sample_rate_hz: int,
        text_options: TextOptions = DEFAULT_TEXT_OPTIONS,
        aligner: WordAligner | None = None,
        labelled: Collection[AudioFormat] = (),
        gains: SpeakerGains | None = None,
    ) -> None:
        self.voice = voice
        self._aligner = None if isinstance(voice, WordTimingVoice) else aligner
        self.sample_rate_hz = sample_rate_hz
        self.text_options = text_options
        self._labelled = labelled
        self.cloner = VoiceCloner(voice)
        self.fit: Callable[[str], None] | None = None
        """Encodes a kept voice anew for this model, by its name; takes seconds."""
        self.processed = ProcessedVoice(voice, gains)
        self._is_limited = gains is not None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="text")

    def warm_up(self) -> None:
        """Speak once for real and load what the first request would wait for."""
        preload_detector()
        try:
            preload_russian()
        except InvalidRequest:  # not installed: requests for it get this error
            logger.info("normalize auto is light: the extra ru is not installed")
        else:
            logger.info("normalize auto reads out Russian numbers, dates and abbreviations")
        # What is compiled and looked up at the first text takes 0.2 s.
        split_request(_WARM_UP, None, self.text_options)
        self.voice.warm_up()

    def close(self) -> None:
        """Stop for good; texts that wait to be read are forgotten."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self.cloner.close()
        self.voice.close()

    async def speak(
        self, request: SpeechRequest, output: Output, parsed: ParsedText | None = None
    ) -> Speech:
        """Start speaking, on the event loop that will read the speech.

        A caller who is cancelled before has started nothing; a thread may read on to the text's
        end.

        parsed: the request's text, if its markup has been read
        raises: InvalidRequest or CannotSpeak, before anything has started
        """
        self.rate_of(request, output.format)
        self.check_times(request)

        async def read() -> tuple[TextParts, list[SpokenPart | Pause]]:
            if len(request.text or "") <= READ_IN_PLACE_CHARS:
                return self._read(request, parsed)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._readers, self._read, request, parsed)

        text_parts, parts = await self._fitting(read)
        return self._speech(text_parts, parts, request, output)

    async def choose(self, request: SpeechRequest) -> VoiceChoice:
        """Choose the voice, and encode it anew if it is of a model of another size."""

        async def choose() -> VoiceChoice:
            return self.voice.choose(request)

        return await self._fitting(choose)

    async def _fitting(self, work: Callable[[], Awaitable[T]]) -> T:
        """Work, and whenever a kept voice turns out to need it, encode that anew; each once."""
        tried: set[str] = set()
        while True:
            try:
                return await work()
            except MisfitVoice as misfit:
                name = misfit.name.lower()
                if self.fit is None or name in tried:
                    raise
                tried.add(name)
                await self.cloner.run(self.fit, name)

    def _read(
        self, request: SpeechRequest, parsed: ParsedText | None
    ) -> tuple[TextParts, list[SpokenPart | Pause]]:
        """Do all that takes long before a text is spoken; on any thread."""
        text_parts = split_request(
            request,
            self.voice.longest_part_chars,
            self.text_options,
            parsed,
            partial(self.check_speaker, request),
        )
        return text_parts, self._prepare(text_parts)

    def _speech(
        self,
        text_parts: TextParts,
        parts: list[SpokenPart | Pause],
        request: SpeechRequest,
        output: Output,
    ) -> Speech:
        spoken = [part for part in parts if not isinstance(part, Pause)]
        choices = [part.utterance.choice for part in spoken]
        choices = choices or [self.voice.choose(text_parts.request)]
        info = SpeechInfo(
            choice=choices[0],
            speakers=tuple(dict.fromkeys(choice.speaker for choice in choices)),
            expected_s=_expected_s(parts),
        )
        warnings = _warnings(text_parts, parts, info.expected_s)
        timeline = None
        if request.timestamps is not None:
            places = (part.places for part in spoken)
            timeline = Timeline(text_parts.sent, places, request.timestamps)
        pcm = self._start(parts, request, partial(warnings.append, WARNING), timeline)
        return Speech(
            pcm,
            self.pipe(request, output),
            request,
            lambda: replace(info, warning=_joined(warnings)),
            timeline,
        )

    def check_times(self, request: SpeechRequest) -> None:
        """Raise CannotSpeak for word times if nothing here can tell where words are."""
        can_time_words = self._aligner is not None or isinstance(self.voice, WordTimingVoice)
        if request.timestamps == "word" and not can_time_words:
            raise CannotSpeak(
                f"timestamps: {self.voice.model_name} does not tell where its words are; "
                '"sentence" works with every voice',
                param="timestamps",
                code="word_times_not_supported",
            )

    def check_speaker(self, request: SpeechRequest, name: str) -> None:
        """Raise InvalidRequest for a speaker in a request's text whom the voice does not know."""
        try:
            self.voice.choose(replace(request, speaker=name))
        except InvalidRequest as error:
            if error.code == "unknown_speaker":  # the language may still be found in the text
                raise blame_text(error, name) from None

    def _prepare(self, text_parts: TextParts) -> list[SpokenPart | Pause]:
        """Read every part; where there is nothing to say, a silence was asked for."""
        parts: list[SpokenPart | Pause] = []
        for part in text_parts.parts:
            if isinstance(part, Pause):
                parts.append(part)
            else:
                parts += self._prepare_part(part, text_parts.request)
        has_words = any(isinstance(part, SpeechRequest) for part in text_parts.parts)
        return parts if has_words else [*parts, SILENCE]

    def _prepare_part(
        self, part: SpeechRequest, request: SpeechRequest
    ) -> Sequence[SpokenPart | Pause]:
        try:
            return prepare_or_silence(self.processed.prepare, part)
        except InvalidRequest as error:
            if part.speaker == request.speaker:
                raise
            raise blame_text(error, part.speaker) from None

    def rate_of(self, request: SpeechRequest, format: AudioFormat) -> int:
        """Give the rate to send; raises InvalidRequest for what the format does not carry."""
        return rate_of(format, request.sample_rate_hz, self.sample_rate_hz)

    def pipe(self, request: SpeechRequest, output: Output) -> AudioPipe:
        """Make the pipe that resamples and encodes one response; raises as `rate_of` does."""
        is_labelled = output.format in self._labelled and not output.is_continued
        return AudioPipe(
            output.format,
            source_rate_hz=self.voice.sample_rate_hz,
            sample_rate_hz=self.rate_of(request, output.format),
            is_stream=output.is_stream,
            lead_in_s=request.lead_in_ms / 1000,
            tail_s=request.tail_ms / 1000,
            comment=label_of(self.voice.model_name) if is_labelled else None,
            file=output.file,
            is_limited=self._is_limited,
        )

    def _start(
        self,
        parts: Sequence[SpokenPart | Pause],
        request: SpeechRequest,
        on_silence: Callable[[], object],
        timeline: Timeline | None,
    ) -> PcmStream:
        def start(part: SpokenPart) -> PcmStream:
            pcm = self._with_words(part, request)
            if request.on_unspeakable == "error":
                return pcm
            silence_s = min(SILENCE.duration_s, request.max_frames * FRAME_S)
            silence = np.zeros(round(silence_s * self.voice.sample_rate_hz), np.float32)
            return SpokenOrSilent(pcm, silence=silence, on_silence=on_silence)

        def start_part(part: SpokenPart) -> PcmStream:
            return self.faded(start(part))

        # What is stretched is cut where max_length ends, to the sample.
        is_one = len(parts) == 1 and timeline is None
        if is_one and not isinstance(parts[0], Pause) and not _is_stretched(parts[0]):
            return start(parts[0])
        sequence = PartSequence(
            (part if isinstance(part, Pause) else partial(start_part, part) for part in parts),
            sample_rate_hz=self.voice.sample_rate_hz,
            max_frames=request.max_frames,
            timeline=timeline,
        )
        sequence.finish()
        return sequence

    def faded(self, pcm: PcmStream) -> PcmStream:
        """Let a part of several neither begin nor end with a click."""
        return FadedStream(pcm, self.voice.sample_rate_hz)

    def _with_words(self, part: SpokenPart, request: SpeechRequest) -> PcmStream:
        """Start a part, and have its words looked for if they are asked for and not known."""
        pcm = part.utterance.speak()
        if request.timestamps != "word" or self._aligner is None:
            return pcm
        return AlignedStream(
            pcm,
            self._aligner,
            sample_rate_hz=self.voice.sample_rate_hz,
            text=part.text,
            language=part.utterance.choice.language,
        )

    async def speak_whole(
        self,
        request: SpeechRequest,
        format: AudioFormat,
        *,
        on_begin: Callable[[Speech], object] = lambda _speech: None,
    ) -> tuple[bytes, Speech]:
        """Speak to the end and return the file, and the speech with what to say about it."""
        file = io.BytesIO()
        speech = await self.speak_into(file, request, format, on_begin=on_begin)
        return file.getvalue(), speech

    async def speak_into(
        self,
        file: BinaryIO,
        request: SpeechRequest,
        format: AudioFormat,
        *,
        on_begin: Callable[[Speech], object] = lambda _speech: None,
    ) -> Speech:
        """Speak to the end into an empty file that can be sought in; never holds all the audio.

        A runaway is spoken once more with another seed if the caller gave none; a runaway that
        remains raises CannotSpeak with code `runaway`. `on_begin` is handed each attempt, so
        that its progress can be watched.
        """
        speech = await self._write(file, request, format, on_begin)
        if speech.finish_reason == "runaway" and request.is_seed_drawn:
            again = replace(request, seed=secrets.randbelow(MAX_SEED + 1))
            file.seek(0)
            file.truncate()
            speech = await self._write(file, again, format, on_begin)
        if speech.finish_reason == "runaway":
            raise CannotSpeak(
                "the model did not find an end for this text; try another seed, "
                "a higher temperature or a longer text",
                code="runaway",
            )
        speech.check_ending()
        return speech

    async def _write(
        self,
        file: BinaryIO,
        request: SpeechRequest,
        format: AudioFormat,
        on_begin: Callable[[Speech], object],
    ) -> Speech:
        speech = await self.speak(request, Output(format, is_stream=False, file=file))
        async with aclosing(speech):
            on_begin(speech)
            async for data in speech:
                file.write(data)
        return speech


def _expected_s(parts: Sequence[SpokenPart | Pause]) -> float:
    return sum(p.duration_s if isinstance(p, Pause) else p.utterance.expected_s for p in parts)


def _is_stretched(part: SpokenPart) -> bool:
    return isinstance(part.utterance, ProcessedUtterance)


def _warnings(
    text_parts: TextParts, parts: Sequence[SpokenPart | Pause], expected_s: float
) -> list[str]:
    warnings = [
        text_parts.warning,
        *(part.utterance.warning for part in parts if not isinstance(part, Pause)),
        WARNING if any(isinstance(part, Unspoken) for part in parts) else None,
        _length_warning(expected_s, text_parts.request.max_frames * FRAME_S),
    ]
    return [warning for warning in warnings if warning]


def _joined(warnings: Sequence[str]) -> str | None:
    return "; ".join(dict.fromkeys(warnings)) or None


def _length_warning(expected_s: float, allowed_s: float) -> str | None:
    if expected_s <= allowed_s:
        return None
    decimals = 1 if allowed_s < 10 else 0
    return (
        f"the text takes about {expected_s:.{decimals}f} s "
        f"and max_length allows {allowed_s:.{decimals}f} s: "
        "its end will probably be missing"
    )
