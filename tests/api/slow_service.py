"""The real service with a slow voice, for tests of waiting and disconnecting.

Served as `tests.api.slow_service:QwenTTS`. A text is a list of words: a number makes that many
frames of 80 ms, one every FRAME_EVERY_S; `fail` fails there, `runaway` ends there as a runaway.
Every sample says how many were made before it, so that a lost one would show.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import service

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import CannotSpeak, SynthesisFailed
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import ReportProgress, SpeechRequest, VoiceChoice

FRAME_SAMPLES = 1920
FRAME_EVERY_S = float(os.environ.get("FRAME_EVERY_S", "0.05"))


@dataclass(frozen=True)
class SlowUtterance:
    words: list[str]
    seed: int
    choice: VoiceChoice
    start: Callable[["SlowUtterance"], PcmChannel]
    warning: str | None = None
    expected_s: float = 0.0

    def speak(self) -> PcmChannel:
        return self.start(self)


class SlowVoice:
    model_name = "slow"
    sample_rate_hz = 24000
    device = "cpu"
    speakers = ("slow",)
    longest_part_chars = None
    slots = None
    facts: ClassVar[dict[str, str]] = {}

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        return VoiceChoice(speaker="slow", language=request.language or "english")

    def prepare(self, request: SpeechRequest) -> SlowUtterance:
        if request.text is None:
            raise CannotSpeak("no tokens here", code="tokens_not_supported", param="tokens")
        choice = self.choose(request)
        return SlowUtterance(request.text.split(), request.seed, choice, self._start)

    def _start(self, utterance: SlowUtterance) -> PcmChannel:
        channel = PcmChannel(capacity_samples=10 * FRAME_SAMPLES)
        threading.Thread(target=self._make, args=(utterance, channel), daemon=True).start()
        return channel

    def _make(self, utterance: SlowUtterance, channel: PcmChannel) -> None:
        made = 0
        stopped = threading.Event()
        for word in utterance.words:
            if word == "fail":
                channel.fail(SynthesisFailed("this text fails"))
                return
            if word == "runaway":
                channel.close("runaway")
                return
            for _ in range(int(word)):
                while not channel.has_room and not channel.is_cancelled:
                    stopped.wait(0.005)
                if channel.is_cancelled:
                    return
                stopped.wait(FRAME_EVERY_S)
                frame = np.arange(made, made + FRAME_SAMPLES) % 20000 / 32767
                channel.put(frame.astype(np.float32))
                made += FRAME_SAMPLES
        channel.close()

    def warm_up(self) -> None:
        pass

    @property
    def is_healthy(self) -> bool:
        return not Path(os.environ.get("SICK_FILE", "/nonexistent")).exists()

    def close(self) -> None:
        pass


def build_slow(settings: Settings, report: ReportProgress, worker: int) -> Synthesizer:
    print(f"worker {worker} loads", flush=True)  # noqa: T201 - for the test to see
    report("pretending to load", 0.5)
    while not Path(os.environ.get("LOADS_UNTIL_FILE", "/")).exists():
        threading.Event().wait(0.02)
    if os.environ.get("LOAD_FAILS"):
        raise RuntimeError("LOAD_FAILS is set")
    return Synthesizer(SlowVoice(), sample_rate_hz=settings.sampling_rate)


service.build = build_slow
service.check = lambda _settings: None
QwenTTS = service.QwenTTS
