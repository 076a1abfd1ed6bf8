"""Run the steps that were planned: prompts, frames and codec calls, for slots given by number.

`Runner` is the interface between the engine's loop and torch; `PlainRunner` is the one for the
CPU, whose calls return when the work is done. CUDA's is in graphs.py.

Letters: B rows of one call, N samples.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import Samples

from .job import Job
from .options import EngineOptions
from .slots import SlotTensors

logger = logging.getLogger(__name__)


class PendingEnds(Protocol):
    """The outcome of one frame step."""

    def wait(self) -> list[bool]:
        """Return for each row whether it drew end of speech; blocks until that is known."""


class PendingAudio(Protocol):
    """The outcome of one call of the codec."""

    def is_ready(self) -> bool:
        """Whether `wait` would not block."""

    def wait(self) -> Samples:
        """Return the samples, float32 [B, N]."""


class Runner(Protocol):
    """Executes steps. `run_ahead`: frame steps begun before the outcome of one is looked at."""

    run_ahead: int

    def begin(self, slot: int, job: Job) -> tuple[PromptEmbeddings, int]:
        """Give a slot to a job; its prompt, and how many rows of it need not be read any more.

        `prefill` is to read the others, except the last, and a prefix in calls of its own. Raises
        InvalidRequest for what the job asks and this model does not have.
        """

    def prefill(self, slot: int, prompt: PromptEmbeddings, start: int, rows: int) -> None:
        """Read some rows of a slot's prompt."""

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        """Add text behind the `start` text rows that a slot has, and its end if this is it."""

    def frame(self, slots: Sequence[int], *, full_sort: bool, positions: int) -> PendingEnds:
        """Make one frame for each slot; `positions` bounds what their caches hold afterwards."""

    def decode(self, slots: Sequence[int], first: Sequence[int], frames: int) -> PendingAudio:
        """Turn `frames` frames of each slot from its frame `first` on into sound."""

    def clear(self, slots: Sequence[int]) -> None:
        """Forget what slots hold after a failure, whatever it is."""


class _Ready:
    """An outcome that is already there."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def is_ready(self) -> bool:
        return True


class _ReadyEnds(_Ready):
    def wait(self) -> list[bool]:
        ends: list[bool] = self._tensor.tolist()
        return ends


class _ReadyAudio(_Ready):
    def wait(self) -> Samples:
        samples: Samples = self._tensor.numpy()
        return samples


class PlainRunner:
    """For the CPU: plain calls, nothing runs ahead."""

    run_ahead = 0

    def __init__(self, model: Qwen3TTS, options: EngineOptions) -> None:
        self._slots = SlotTensors(model, options)
        logger.info("engine memory: %s", self._slots.memory)

    def begin(self, slot: int, job: Job) -> tuple[PromptEmbeddings, int]:
        begun = self._slots.begin(slot, job)
        self._slots.model.codec.reset(self._slots.codec_state, self._slots.index(slot))
        return begun

    def prefill(self, slot: int, prompt: PromptEmbeddings, start: int, rows: int) -> None:
        self._slots.prefill(slot, prompt, start, rows)

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        self._slots.append_text(slot, ids, start=start, is_end=is_end)

    def frame(
        self,
        slots: Sequence[int],
        *,
        full_sort: bool,
        positions: int,  # noqa: ARG002 - attention on the CPU reads each row's own length
    ) -> PendingEnds:
        # Packed layers give a row the same bits in any company, the library's own do not.
        is_exact = self._slots.options.deterministic
        size = 1 if is_exact and self._slots.model.linear == "float" else len(slots)
        parts = [
            self._slots.frame(index, full_sort=full_sort)
            for index in torch.split(torch.tensor(slots), size)
        ]
        return _ReadyEnds(torch.cat(parts))

    def decode(self, slots: Sequence[int], first: Sequence[int], frames: int) -> PendingAudio:
        # A convolution's last bits depend on the batch; alone they are always the same.
        size = 1 if self._slots.options.deterministic else len(slots)
        rows = torch.tensor([slots, first])
        parts = [
            self._slots.decode(index, begins, frames)
            for index, begins in torch.split(rows, size, dim=1)
        ]
        return _ReadyAudio(torch.cat(parts))

    def clear(self, slots: Sequence[int]) -> None:
        self._slots.clear(slots)
