"""Run the steps that were planned: prompts, frames and codec calls, for slots given by number.

`Runner` is the interface between the engine's loop and torch; `PlainRunner` is the one for the
CPU, whose calls return when the work is done. CUDA's is in graphs.py.

Letters: B rows of one call, N samples.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.qwen3_tts import Qwen3TTS

from .driver import Mark
from .job import Job
from .options import EngineOptions
from .slots import PromptPiece, SlotTensors

logger = logging.getLogger(__name__)


class Outcome:
    """The result of one call, which a device may still be computing.

    mark: reached once `result` is there; None if it is there already
    """

    def __init__(self, result: Tensor, mark: Mark | None = None) -> None:
        self._result = result
        self._mark = mark

    def is_ready(self, *, within_s: float = 0.0) -> bool:
        """Whether `wait` would not block, at once or after a moment."""
        return self._mark is None or self._mark.is_reached(within_s=within_s)

    def wait(self) -> NDArray[Any]:
        """Block until it is there; a copy, since pinned memory is used again."""
        if self._mark is not None:
            self._mark.wait()
        result: NDArray[Any] = self._result.numpy().copy()
        return result


class Runner(Protocol):
    """Executes steps. `run_ahead`: frame steps begun before the outcome of one is looked at."""

    run_ahead: int

    def begin(self, slot: int, job: Job) -> tuple[PromptEmbeddings, int]:
        """Give a slot to a job; returns its prompt and how many of its rows were cached.

        `prefill` is to read the others, except the last, and a prefix in pieces of its own. Raises
        InvalidRequest for what the job asks and this model does not have.
        """

    def prefill(self, pieces: Sequence[PromptPiece]) -> None:
        """Read pieces of prompts, side by side; those of one prompt in their order."""

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        """Add text behind the `start` text rows that a slot has, and its end if this is it."""

    def frame(self, slots: Sequence[int], *, full_sort: bool, positions: int) -> Outcome:
        """Make one frame for each slot: uint8 [B], whether it drew end of speech, or NOT_FINITE.

        `positions` bounds what their caches hold afterwards.
        """

    def decode(
        self, slots: Sequence[int], first: Sequence[int], frames: int, *, is_first: bool
    ) -> Outcome:
        """Decode `frames` frames of each slot from its frame `first` on: float32 [B, N].

        is_first: somebody waits for their first audio, so the device does it before other chunks
        """

    def clear(self, slots: Sequence[int]) -> None:
        """Forget what slots hold after a failure, whatever it is."""


class PlainRunner:
    """For the CPU: plain calls, nothing runs ahead."""

    run_ahead = 0

    def __init__(self, model: Qwen3TTS, options: EngineOptions) -> None:
        self._slots = SlotTensors(model, options)
        # The other arithmetics give a row the same bits in any company.
        self._rows_alone = options.deterministic and model.linear == "float"
        logger.info("engine memory: %s", self._slots.memory)

    def begin(self, slot: int, job: Job) -> tuple[PromptEmbeddings, int]:
        prompt = self._slots.build_prompt(job)
        self._slots.begin(slot, job, prompt)
        self._slots.hear(slot, job.voice)
        return prompt, self._slots.take_prefix(slot, prompt)

    def prefill(self, pieces: Sequence[PromptPiece]) -> None:
        size = 1 if self._rows_alone else len(pieces)
        for first in range(0, len(pieces), size):
            self._slots.prefill(pieces[first : first + size])

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        self._slots.append_text(slot, ids, start=start, is_end=is_end)

    def frame(
        self,
        slots: Sequence[int],
        *,
        full_sort: bool,
        positions: int,  # noqa: ARG002 - attention on the CPU reads each row's own length
    ) -> Outcome:
        size = 1 if self._rows_alone else len(slots)
        parts = [
            self._slots.frame(index, full_sort=full_sort)
            for index in torch.split(torch.tensor(slots), size)
        ]
        return Outcome(torch.cat(parts))

    def decode(
        self,
        slots: Sequence[int],
        first: Sequence[int],
        frames: int,
        *,
        is_first: bool,  # noqa: ARG002 - calls are done one after the other
    ) -> Outcome:
        # A convolution's last bits depend on the batch; alone they are always the same.
        size = 1 if self._slots.options.deterministic else len(slots)
        rows = torch.tensor([slots, first])
        parts = [
            self._slots.decode(index, begins, frames)
            for index, begins in torch.split(rows, size, dim=1)
        ]
        return Outcome(torch.cat(parts))

    def clear(self, slots: Sequence[int]) -> None:
        self._slots.clear(slots)
