"""The use case: a request becomes a voice's audio, and the audio a file or a stream of bytes.

    SpeechRequest -> script -> voice.prepare -> voice.speak -> resample -> encode -> bytes

It does not know HTTP, nor which voice speaks, nor who may speak now.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

from qwen_tts_service.audio.formats import check_format
from qwen_tts_service.audio.pipe import AudioPipe
from qwen_tts_service.errors import CannotSpeak, InvalidRequest, SynthesisFailed
from qwen_tts_service.speech.parts import Script, write_script
from qwen_tts_service.speech.sequence import ScriptStream
from qwen_tts_service.speech.writing import OpenStream
from qwen_tts_service.text.language import preload_detector
from qwen_tts_service.text.normalise import preload_russian
from qwen_tts_service.text.split import Pause
from qwen_tts_service.types import (
    FRAME_S,
    AudioFormat,
    FinishReason,
    PcmStream,
    SpeechRequest,
    TextStreamer,
    Utterance,
    Voice,
    VoiceChoice,
)

ENCODED_IN_PLACE: frozenset[AudioFormat] = frozenset({"wav", "pcm"})
"""Formats so cheap to write that a thread would cost more than it saves."""

OPEN_PART_CHARS = 800
"""Parts of a text that is still being written, for a voice that names no length."""


@dataclass(frozen=True, slots=True)
class Output:
    """What the caller wants to receive."""

    format: AudioFormat
    is_stream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Preface:
    """What is known of a speech before it has begun; `expected_s` is an estimate."""

    choice: VoiceChoice
    warning: str | None
    expected_s: float
    seed: int


class EncodedStream:
    """Audio being made and encoded; iterate it once for the bytes to send.

    Iteration raises TTSError if the speech fails, whatever has been sent before.
    """

    def __init__(self, pcm: PcmStream, pipe: AudioPipe) -> None:
        self._pcm = pcm
        self._pipe = pipe

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._pcm.finish_reason

    @property
    def audio_s(self) -> float:
        """Seconds of audio encoded so far."""
        return self._pipe.audio_s

    def check_ending(self) -> None:
        """Raise SynthesisFailed if it did not end as it should: that must not look as if it had."""
        if self.finish_reason == "runaway":
            raise SynthesisFailed("the model did not find an end for this text", code="runaway")
        if self.finish_reason not in ("stop", "length"):
            raise SynthesisFailed("the speech was stopped before its end")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for samples in self._pcm:
            if data := await self._in_background(self._pipe.feed, samples):
                yield data
        if data := await self._in_background(self._pipe.finish):
            yield data

    async def _in_background(self, work: Any, *args: Any) -> bytes:
        if self._pipe.format in ENCODED_IN_PLACE:
            return bytes(work(*args))
        return bytes(await asyncio.to_thread(work, *args))

    async def aclose(self) -> None:
        """Stop speaking and free everything; harmless when repeated."""
        await self._pcm.aclose()
        self._pipe.close()


class Speech(EncodedStream):
    """One request being spoken."""

    def __init__(self, pcm: PcmStream, pipe: AudioPipe, preface: Preface) -> None:
        super().__init__(pcm, pipe)
        self.choice = preface.choice
        self.warning = preface.warning
        self.expected_s = preface.expected_s
        self.seed = preface.seed


class OpenSpeech(EncodedStream):
    """A text being spoken while it is still being written."""

    def __init__(self, stream: OpenStream, pipe: AudioPipe) -> None:
        super().__init__(stream, pipe)
        self._stream = stream
        self.append = stream.append
        self.finish = stream.finish

    @property
    def choice(self) -> VoiceChoice | None:
        """Who speaks; known by the time there is audio."""
        return self._stream.choice


class Synthesizer:
    """Speaks requests with one voice at one output rate."""

    def __init__(self, voice: Voice[Any], *, sample_rate_hz: int) -> None:
        self.voice = voice
        self.sample_rate_hz = sample_rate_hz

    def warm_up(self) -> None:
        """Speak once for real and load what the first request would wait for."""
        preload_detector()
        with suppress(InvalidRequest):  # not installed: whoever asks for it is told
            preload_russian()
        self.voice.warm_up()

    def close(self) -> None:
        """Stop for good."""
        self.voice.close()

    def speak(self, request: SpeechRequest, output: Output) -> Speech:
        """Start speaking. Must be called on the event loop that will read the speech.

        Raises InvalidRequest or CannotSpeak before anything has started.
        """
        check_format(output.format, self.sample_rate_hz)
        script = write_script(request, self.voice.longest_part_chars)
        parts = [p if isinstance(p, Pause) else self.voice.prepare(p) for p in script.parts]
        return Speech(
            self._perform(parts, request.max_frames),
            self._pipe(output),
            _preface(request, script, parts),
        )

    @property
    def can_stream_text(self) -> bool:
        """Whether the voice speaks a text while it is still being written."""
        return isinstance(self.voice, TextStreamer)

    def speak_open(self, request: SpeechRequest, output: Output) -> OpenSpeech:
        """Prepare to speak a text that is still being written; it takes a slot when it is read.

        Raises InvalidRequest for a voice that cannot, and for what needs the whole text.
        """
        check_format(output.format, self.sample_rate_hz)
        if not isinstance(self.voice, TextStreamer):
            raise InvalidRequest(
                f'{self.voice.model_name} needs whole sentences; ask for split "sentence"',
                param="split",
            )
        stream = OpenStream(
            self.voice,
            request,
            sample_rate_hz=self.voice.sample_rate_hz,
            part_chars=(self.voice.longest_part_chars or OPEN_PART_CHARS) // 2,
        )
        return OpenSpeech(stream, self._pipe(output))

    def _pipe(self, output: Output) -> AudioPipe:
        return AudioPipe(
            output.format,
            source_rate_hz=self.voice.sample_rate_hz,
            sample_rate_hz=self.sample_rate_hz,
            is_stream=output.is_stream,
        )

    def _perform(self, parts: Sequence[Any], max_frames: int) -> PcmStream:
        if len(parts) == 1:
            return self.voice.speak(parts[0])
        return ScriptStream(
            parts,
            self.voice.speak,
            sample_rate_hz=self.voice.sample_rate_hz,
            max_frames=max_frames,
        )

    async def speak_whole(
        self,
        request: SpeechRequest,
        format: AudioFormat,
        *,
        second_seed: int | None,
        on_begin: Callable[[Speech], object] = lambda _speech: None,
    ) -> tuple[bytes, Speech]:
        """Speak to the end and return the file, and the speech with what to say about it.

        A runaway is spoken once more with `second_seed`; with None, or when that runs away as
        well, it raises CannotSpeak with code `runaway`. `on_begin` is handed each attempt, so
        that its progress can be watched.
        """
        data, speech = await self._collect(request, format, on_begin)
        if speech.finish_reason == "runaway" and second_seed is not None:
            again = replace(request, seed=second_seed)
            data, speech = await self._collect(again, format, on_begin)
        if speech.finish_reason == "runaway":
            raise CannotSpeak(
                "the model did not find an end for this text; try another seed, "
                "a higher temperature or a longer text",
                code="runaway",
            )
        return data, speech

    async def _collect(
        self, request: SpeechRequest, format: AudioFormat, on_begin: Callable[[Speech], object]
    ) -> tuple[bytes, Speech]:
        speech = self.speak(request, Output(format, is_stream=False))
        async with aclosing(speech):
            on_begin(speech)
            data = b"".join([part async for part in speech])
            if speech.finish_reason == "cancelled":
                raise SynthesisFailed("the speech was stopped before its end")
            return data, speech


def _preface(request: SpeechRequest, script: Script, parts: Sequence[Utterance | Pause]) -> Preface:
    utterances = [part for part in parts if not isinstance(part, Pause)]
    pauses = [part for part in parts if isinstance(part, Pause)]
    expected_s = sum(u.expected_s for u in utterances) + sum(p.duration_s for p in pauses)
    warnings = [
        script.warning,
        *(utterance.warning for utterance in utterances),
        _length_warning(expected_s, request.max_frames * FRAME_S),
    ]
    return Preface(
        choice=utterances[0].choice,
        warning="; ".join(dict.fromkeys(filter(None, warnings))) or None,
        expected_s=expected_s,
        seed=request.seed,
    )


def _length_warning(expected_s: float, allowed_s: float) -> str | None:
    if expected_s <= allowed_s:
        return None
    return (
        f"the text takes about {expected_s:.0f} s and max_length allows {allowed_s:.0f} s: "
        "its end will probably be missing"
    )
