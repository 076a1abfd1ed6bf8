"""What is done to a voice's samples, part by part: time stretch, then loudness.

Where there is nothing to do, utterances and samples are the voice's own.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from qwen_tts_service.audio.stages import AudioStage, StageChain
from qwen_tts_service.audio.stretch import TimeStretch
from qwen_tts_service.types import (
    FinishReason,
    OpenUtterance,
    OpenVoice,
    PcmStream,
    Samples,
    SpeechRequest,
    Utterance,
    Voice,
    WordMark,
    words_of,
)

from .loudness import SpeakerGains


class Gain:
    """Multiplies samples by a fixed gain, which may take them over full scale."""

    def __init__(self, gain_db: float) -> None:
        self._factor = np.float32(10 ** (gain_db / 20))

    def feed(self, samples: Samples) -> Samples:
        """Take and give float32 [N]."""
        return samples * self._factor

    def finish(self) -> Samples:
        """Give nothing: nothing is held."""
        return np.zeros(0, np.float32)


MakeStages = Callable[[], Awaitable[StageChain]]
"""Makes the stages of one stream."""


class ProcessedStream:
    """A `PcmStream` whose samples go through stages; it starts once it is read."""

    def __init__(self, start: Callable[[], PcmStream], stages: MakeStages) -> None:
        self._start = start
        self._make_stages = stages
        self._stream: PcmStream | None = None
        self._is_closed = False

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        if self._stream is None:
            return "cancelled" if self._is_closed else None
        return self._stream.finish_reason

    async def __aiter__(self) -> AsyncIterator[Samples]:
        stages = await self._make_stages()
        if self._is_closed:
            return
        self._stream = self._start()
        async for samples in self._stream:
            if len(ready := stages.feed(samples)):
                yield ready
        if len(rest := stages.finish()):
            yield rest

    def take_words(self) -> list[WordMark]:
        """Take the words that the voice has found, if it finds any."""
        return words_of(self._stream)

    async def aclose(self) -> None:
        """Stop speaking; harmless when repeated."""
        self._is_closed = True
        if self._stream is not None:
            await self._stream.aclose()


class ProcessedUtterance:
    """An utterance whose samples go through stages.

    stretch: how many times as fast it is heard as the voice speaks it
    """

    def __init__(self, utterance: Utterance, stages: MakeStages, stretch: float) -> None:
        self._utterance = utterance
        self._stages = stages
        self.choice = utterance.choice
        self.warning = utterance.warning
        self.expected_s = utterance.expected_s / stretch

    def speak(self) -> ProcessedStream:
        """Speak once it is read."""
        return ProcessedStream(self._utterance.speak, self._stages)


class ProcessedOpenUtterance(ProcessedStream):
    """An utterance whose text is still being written and whose samples go through stages."""

    def __init__(self, utterance: OpenUtterance, stages: MakeStages) -> None:
        super().__init__(lambda: utterance, stages)
        self._utterance = utterance
        self.choice = utterance.choice
        self.feed = utterance.feed
        self.finish = utterance.finish

    @property
    def waits_for_text(self) -> bool:
        """As the utterance itself."""
        return self._utterance.waits_for_text


class ProcessedVoice:
    """Prepares and opens utterances of a voice, and adds what is to be done to their samples."""

    def __init__(self, voice: Voice, gains: SpeakerGains | None) -> None:
        self._voice = voice
        self._gains = gains

    def prepare(self, request: SpeechRequest) -> Utterance:
        """Prepare to speak a part, as `Voice.prepare`."""
        stretch = self._stretch(request)
        utterance = self._voice.prepare(_at_usual_rate(request, stretch))
        if not self._has_stages(stretch):
            return utterance
        return ProcessedUtterance(utterance, partial(self._stages, stretch, request), stretch)

    def open(self, request: SpeechRequest) -> OpenUtterance:
        """Prepare to speak a text that is still being written, as `OpenVoice.open`."""
        stretch = self._stretch(request)
        utterance = cast("OpenVoice", self._voice).open(_at_usual_rate(request, stretch))
        if not self._has_stages(stretch):
            return utterance
        return ProcessedOpenUtterance(utterance, partial(self._stages, stretch, request))

    def _stretch(self, request: SpeechRequest) -> float:
        return 1.0 if request.rate == 1 or self._voice.has_own_rate else request.rate

    def _has_stages(self, stretch: float) -> bool:
        return stretch != 1 or self._gains is not None

    async def _stages(self, stretch: float, request: SpeechRequest) -> StageChain:
        stages: list[AudioStage] = []
        if stretch != 1:
            stages.append(TimeStretch(stretch, self._voice.sample_rate_hz))
        if self._gains is not None:
            stages.append(Gain(await self._gains.gain_db(request)))
        return StageChain(stages)


def _at_usual_rate(request: SpeechRequest, stretch: float) -> SpeechRequest:
    """What to ask of a voice so that it is as asked once it has been stretched."""
    if stretch == 1:
        return request
    return replace(request, rate=1.0, max_frames=math.ceil(request.max_frames * stretch))
