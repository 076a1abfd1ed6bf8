"""Stages that change samples while they are being made: one interface, and several in a row."""

from collections.abc import Sequence
from functools import reduce
from typing import Protocol

import numpy as np

from qwen_tts_service.types import Samples


class AudioStage(Protocol):
    """Changes samples as they come; what it gives does not depend on how they were cut."""

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N], give the float32 [M] that are ready."""

    def finish(self) -> Samples:
        """Give what stayed inside; nothing may be fed afterwards."""


class StageChain:
    """Several stages as one."""

    def __init__(self, stages: Sequence[AudioStage]) -> None:
        self._stages = stages

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N], give the float32 [M] that are ready."""
        return reduce(lambda passed, stage: stage.feed(passed), self._stages, samples)

    def finish(self) -> Samples:
        """Give what stayed inside; nothing may be fed afterwards."""
        rest = np.zeros(0, np.float32)
        for stage in self._stages:
            rest = np.concatenate([stage.feed(rest), stage.finish()])
        return rest
