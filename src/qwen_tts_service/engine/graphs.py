"""Run steps on CUDA: prompts and whole frames as captured graphs, the codec on its own stream.

Frames have a graph per number of rows, bound of positions and kind of sorting; prompts one per
length of a piece and bound; the codec one per number of rows and of frames. Each reads the slots'
numbers from a small tensor that is filled before it is replayed; what a graph has too many of goes
to a spare slot, or behind the end. Outcomes are copied to pinned memory and looked at one frame
later, so the device never waits for Python. driver.py is the interface to CUDA.

NOT MEASURED: no CUDA device was at hand; what is tested is the logic, with a driver for the CPU.
`scripts/check_cuda.py` is what to run on the first one.

Letters: B rows of a graph, S slots, P prompt rows, C width, N samples.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import torch
from torch import Tensor

from qwen_tts_service.kernels.attention import MaskedAttention
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import ReportProgress

from .driver import Driver, Mark, Work
from .job import Job
from .options import EngineOptions
from .runner import Outcome
from .slots import RING_FRAMES, SlotTensors

logger = logging.getLogger(__name__)

MIN_BOUND = 256
"""The smallest bound of positions that has graphs of its own."""
MIN_PIECE_ROWS = 16
"""The smallest piece of a prompt that has graphs of its own."""
CODEC_LAG_STEPS = 8
"""Frame steps that the codec may lag behind before the next one waits for it."""
assert CODEC_LAG_STEPS * 2 + 8 <= RING_FRAMES


@dataclass(frozen=True, slots=True)
class _Call:
    """A captured graph: `run` reads the inputs and writes the output, if it has one.

    frame:   slots int64 [B] -> whether each drew end of speech, bool [B]
    prefill: rows [1, P, C], slot and first position int64 [2] -> nothing
    decode:  slots, first frames and whether active, int64 [3, B] -> samples float32 [B, N]
    """

    inputs: tuple[Tensor, ...]
    output: Tensor
    run: Work


class GraphRunner:
    """A `Runner` that replays graphs; everything is captured when it is made."""

    run_ahead = 1

    def __init__(
        self,
        model: Qwen3TTS,
        options: EngineOptions,
        driver: Driver,
        on_progress: ReportProgress = lambda _step, _fraction: None,
    ) -> None:
        self._slots = SlotTensors(model, options, spare=1)
        self._spare = options.slots
        self._driver = driver
        self._device = model.device
        self._buckets = doubling(options.slots if options.deterministic else 1, options.slots)
        every_bound = doubling(MIN_BOUND, options.max_positions)
        # Only masked attention reads all positions below a bound; fused kernels read what is there,
        # and sort nothing.
        reads_all = isinstance(model.attention, MaskedAttention) and not model.is_fused
        has_bounds = reads_all and not options.deterministic
        self._bounds = every_bound if has_bounds else (options.max_positions,)
        self._prefill_bounds = (options.max_positions,) if model.is_fused else every_bound
        self._sorts = (False,) if model.is_fused else (True, False)
        self._pieces = doubling(MIN_PIECE_ROWS, options.prefill_piece_rows)
        self._chunks = sorted(set(options.chunk_frames))
        # Two: one may not have been looked at yet when the other is filled.
        self._to_host = [driver.pinned(options.slots, dtype=torch.bool) for _ in range(2)]
        self._turn = 0
        self._frame_marks: deque[Mark] = deque(maxlen=2)
        self._codec_mark: Mark | None = None
        self._old_audio: deque[Mark | None] = deque()
        self._has_new_slot = False
        self._frames: dict[tuple[int, int, bool], _Call] = {}
        self._prefills: dict[tuple[int, int], _Call] = {}
        self._audio: dict[tuple[int, int], _Call] = {}
        self._capture_all(on_progress)
        logger.info("engine memory: %s", self._slots.memory)

    def begin(self, slot: int, job: Job) -> tuple[PromptEmbeddings, int]:
        # The codec may still be reading the codes of the slot's last user.
        self._has_new_slot = True
        begun = self._slots.begin(slot, job)
        with self._driver.codec_stream():
            # A voice's recording is heard here too: what it leaves is only read on this stream.
            self._slots.begin_codec(slot, job.voice)
        return begun

    def prefill(self, slot: int, prompt: PromptEmbeddings, start: int, rows: int) -> None:
        end = start + rows
        call = self._prefills[smallest(self._pieces, rows), smallest(self._prefill_bounds, end)]
        prompt_rows, target = call.inputs
        prompt_rows[0, :rows] = prompt.rows[start:end]
        self._fill(target, [slot, start])
        call.run()
        self._slots.keep_prefix(slot, prompt, end)

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        self._slots.append_text(slot, ids, start=start, is_end=is_end)

    def frame(self, slots: Sequence[int], *, full_sort: bool, positions: int) -> Outcome:
        rows = len(slots)
        size = smallest(self._buckets, rows)
        sorts = full_sort and True in self._sorts
        call = self._frames[size, smallest(self._bounds, positions), sorts]
        self._fill(call.inputs[0], [*slots, *[self._spare] * (size - rows)])
        self._hold_for_codec()
        call.run()
        ends = self._to_host[self._turn][:rows]
        ends.copy_(call.output[:rows], non_blocking=True)
        mark = self._driver.mark()
        self._frame_marks.append(mark)
        self._turn = 1 - self._turn
        return Outcome(ends, mark)

    def decode(self, slots: Sequence[int], first: Sequence[int], frames: int) -> Outcome:
        rows = len(slots)
        size = smallest(self._buckets, rows)
        # Only the last chunk of an utterance has a length of its own. What the graph decodes
        # behind it is cut off, and its state is never used again.
        call = self._audio[size, smallest(self._chunks, frames)]
        # The codec wants no slot twice: rows that nobody needs are others' slots, inactive.
        others = [slot for slot in range(self._slots.count) if slot not in slots][: size - rows]
        unused = [0] * len(others)
        with self._driver.codec_stream():
            # Codes that are asked for were seen to be made one frame step ago.
            if self._frame_marks:
                self._driver.hold(self._frame_marks[0])
            self._fill(
                call.inputs[0], [[*slots, *others], [*first, *unused], [*[1] * rows, *unused]]
            )
            call.run()
            samples = self._driver.pinned(rows, call.output.shape[1], dtype=torch.float32)
            samples.copy_(call.output[:rows], non_blocking=True)
            self._codec_mark = self._driver.mark()
        length = frames * self._slots.model.config.codec.samples_per_frame
        return Outcome(samples[:, :length], self._codec_mark)

    def clear(self, slots: Sequence[int]) -> None:
        if self._codec_mark is not None:
            self._driver.hold(self._codec_mark)
        self._slots.clear(slots)

    def _fill(self, target: Tensor, numbers: Sequence[Any]) -> None:
        """Put numbers into a graph's input, in the order of the current stream."""
        pinned = self._driver.pinned(*target.shape, dtype=target.dtype)
        pinned.copy_(torch.tensor(numbers))
        target.copy_(pinned, non_blocking=True)

    def _hold_for_codec(self) -> None:
        """Keep codes from being written where the codec still reads.

        It does in the ring of a slot that changed hands, and of all slots when it lags far behind.
        """
        if self._has_new_slot and self._codec_mark is not None:
            self._driver.hold(self._codec_mark)
        self._has_new_slot = False
        self._old_audio.append(self._codec_mark)
        if len(self._old_audio) > CODEC_LAG_STEPS:
            mark = self._old_audio.popleft()
            if mark is not None:
                self._driver.hold(mark)

    @torch.inference_mode()
    def _capture_all(self, on_progress: ReportProgress) -> None:
        """Capture everything; the largest first, whose memory the others of its pool then share."""
        sizes = sorted(self._buckets, reverse=True)
        bounds = self._bounds[::-1]
        frames = list(product(sizes, bounds, self._sorts))
        prefills = list(product(self._pieces[::-1], self._prefill_bounds[::-1]))
        sounds = list(product(sizes, self._chunks[::-1]))
        total, done = len(frames) + len(prefills) + len(sounds), count()

        def tell() -> None:
            on_progress("capturing graphs", next(done) / total)

        for size, bound, full_sort in frames:
            tell()
            self._frames[size, bound, full_sort] = self._frame_call(size, bound, full_sort)
        for rows, bound in prefills:
            tell()
            self._prefills[rows, bound] = self._prefill_call(rows, bound)
        for size, length in sounds:
            tell()
            self._audio[size, length] = self._decode_call(size, length)
        tell()

    def _frame_call(self, size: int, bound: int, full_sort: bool) -> _Call:
        slots = torch.full((size,), self._spare, device=self._device)
        ends = torch.zeros(size, dtype=torch.bool, device=self._device)
        spare_length = self._slots.state.length[self._spare :]

        def work() -> None:
            spare_length.zero_()  # or its attention would grow for ever
            ends.copy_(self._slots.frame(slots, full_sort=full_sort, bound=bound))

        return _Call((slots,), ends, self._driver.capture(work, "frames"))

    def _prefill_call(self, rows: int, bound: int) -> _Call:
        model, state = self._slots.model, self._slots.state
        inputs = torch.zeros(1, rows, model.config.width, dtype=model.dtype, device=self._device)
        target = torch.tensor([self._spare, 0], device=self._device)

        def work() -> None:
            model.prefill(state, target[:1], inputs, start=target[1], bound=bound)

        # In the pool of the frames, which run on the same stream.
        return _Call((inputs, target), inputs, self._driver.capture(work, "frames"))

    def _decode_call(self, size: int, frames: int) -> _Call:
        rows = torch.zeros(3, size, dtype=torch.int64, device=self._device)
        rows[0] = torch.arange(size, device=self._device)
        length = frames * self._slots.model.config.codec.samples_per_frame
        samples = torch.zeros(size, length, device=self._device)

        def work() -> None:
            samples.copy_(self._slots.decode(rows[0], rows[1], frames, active=rows[2].bool()))

        return _Call((rows,), samples, self._driver.capture(work, "codec"))


def doubling(first: int, most: int) -> tuple[int, ...]:
    """Return `first`, twice that, and so on below `most`, and `most`: sizes that have graphs."""
    sizes = []
    while first < most:
        sizes.append(first)
        first *= 2
    return (*sizes, most)


def smallest(sizes: Sequence[int], need: int) -> int:
    """Return the smallest of the rising sizes that is enough."""
    return next(size for size in sizes if size >= need)
