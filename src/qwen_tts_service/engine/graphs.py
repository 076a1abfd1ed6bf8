"""Run steps on CUDA: prompts and whole frames as captured graphs, the codec on its own stream.

Frames have a graph per number of rows, bound of positions and kind of sorting; prompts one per
number of rows, and with fused kernels those of several prompts stand side by side in it; the codec
one per number of rows and of frames, twice for first chunks, which have a stream of their own; the
beginning of an utterance is one more. Each reads the slots' numbers from a small tensor that is
filled before it is replayed; what a graph has too many of goes to a spare slot, or behind the end.
Outcomes are copied to pinned memory and looked at one frame later, so the device never waits for
Python. driver.py is the interface to CUDA.

NOT MEASURED: no CUDA device was at hand; what is tested is the logic, with a driver for the CPU.
`scripts/check_cuda.py` is what to run on the first one.

Letters: B rows of a graph, S slots, R prompt rows, C width, N samples.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import torch
from torch import Tensor

from qwen_tts_service.kernels.attention import CachePositions, MaskedAttention
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.state import StartNumbers
from qwen_tts_service.types import ReportProgress

from .driver import Driver, Mark, Stream, Work
from .job import Job
from .options import EngineOptions
from .runner import Outcome
from .slots import RING_FRAMES, PromptPiece, SlotTensors, rows_of

logger = logging.getLogger(__name__)

MIN_BOUND = 256
"""The smallest bound of positions that has graphs of its own."""
MIN_PROMPT_ROWS = 16
"""The fewest rows of prompts that have a graph of their own."""
MAX_PROMPT_ROWS = 256
"""The most rows of prompts in one graph, where several may stand side by side."""
PINNED_COPIES = 4
"""Buffers for each kind of transfer between host and device that are there from the start."""
CODEC_LAG_STEPS = 8
"""Frame steps that the codec may lag behind before the next one waits for it."""
assert CODEC_LAG_STEPS * 2 + 8 <= RING_FRAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSizes:
    """Sizes that have graphs; what is smaller is padded to the next.

    rows:     of a frame and of a codec call; bounds: of the positions that a frame reads
    prompt_rows, prompt_bounds: of prompts side by side
    sorts:    whether a frame sorts all choices
    chunks:   frames of a codec call; first_frames: of an utterance's first one
    """

    rows: tuple[int, ...]
    bounds: tuple[int, ...]
    prompt_rows: tuple[int, ...]
    prompt_bounds: tuple[int, ...]
    sorts: tuple[bool, ...]
    chunks: tuple[int, ...]
    first_frames: int

    @classmethod
    def of(cls, options: EngineOptions, *, is_fused: bool, is_masked: bool) -> "GraphSizes":
        """Choose them; is_masked: whether torch's own masked attention decodes."""
        every_bound, all_of_it = doubling(MIN_BOUND, options.max_positions), options.max_positions
        # Only masked attention reads all positions below a bound; fused kernels read what is there,
        # and sort nothing.
        has_bounds = is_masked and not is_fused and not options.deterministic
        most = MAX_PROMPT_ROWS if is_fused else options.prefill_piece_rows
        # Side by side, how many rows there are is a matter of company.
        has_one = is_fused and options.deterministic
        return cls(
            rows=doubling(options.slots if options.deterministic else 1, options.slots),
            bounds=every_bound if has_bounds else (all_of_it,),
            prompt_rows=(most,) if has_one else doubling(MIN_PROMPT_ROWS, most),
            prompt_bounds=(all_of_it,) if is_fused else every_bound,
            sorts=(False,) if is_fused else (True, False),
            chunks=tuple(sorted(set(options.chunk_frames))),
            first_frames=options.chunk_frames[0],
        )

    @property
    def frames(self) -> list[tuple[int, int, bool]]:
        """(rows, bound, whether it sorts) of every graph of a frame, the largest first."""
        return list(product(self.rows[::-1], self.bounds[::-1], self.sorts))

    @property
    def prompts(self) -> list[tuple[int, int]]:
        """(rows, bound) of every graph of prompts, the largest first."""
        return list(product(self.prompt_rows[::-1], self.prompt_bounds[::-1]))

    @property
    def sounds(self) -> list[tuple[Stream, int, int]]:
        """(stream, rows, frames) of every graph of the codec, the largest of a stream first."""
        streams: list[tuple[Stream, int]] = [("bulk", length) for length in self.chunks[::-1]]
        streams.append(("first", self.first_frames))
        return [(stream, rows, length) for stream, length in streams for rows in self.rows[::-1]]


@dataclass(frozen=True, slots=True)
class _Call:
    """A captured graph: `run` reads the inputs and writes the output; an input if it has none.

    begin:   int64 [7] and float64 [5], see `StartNumbers`, and the first input [C] -> nothing
    frame:   slots int64 [B] -> whether each drew end of speech, or NOT_FINITE, uint8 [B]
    prefill: slots and positions int64 [2, R], rows [R, C] -> nothing
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
        is_masked = isinstance(model.attention, MaskedAttention)
        self._sizes = GraphSizes.of(options, is_fused=model.is_fused, is_masked=is_masked)
        # A row that a prompt's graph has too many: where fused kernels read next to nothing, and
        # where torch's own attention lets no other row see it.
        self._unused_row = (self._spare, 0 if model.is_fused else options.max_positions - 1)
        # Two: one may not have been looked at yet when the other is filled.
        self._to_host = [driver.pinned(options.slots, dtype=torch.uint8) for _ in range(2)]
        self._turn = 0
        self._frame_marks: deque[Mark] = deque(maxlen=2)
        self._codec_marks: dict[Stream, Mark] = {}
        self._slot_marks: dict[int, tuple[Stream, Mark]] = {}
        self._old_marks: deque[list[Mark]] = deque()
        self._frames: dict[tuple[int, int, bool], _Call] = {}
        self._prefills: dict[tuple[int, int], _Call] = {}
        self._audio: dict[tuple[Stream, int, int], _Call] = {}
        self._capture_all(on_progress)
        logger.info("engine memory: %s", self._slots.memory)

    def begin(self, slot: int, job: Job) -> tuple[PromptEmbeddings, int]:
        prompt = self._slots.build_prompt(job)
        # The codec may still be at work for the slot's last user.
        if slot in self._slot_marks:
            self._hold([self._slot_marks.pop(slot)[1]])
        numbers = StartNumbers.of(
            slot, prompt, seed=job.seed, talker=job.sampling, predictor=job.sampling
        )
        integers, reals, next_input = self._begin.inputs
        self._fill(integers, numbers.integers)
        self._fill(reals, numbers.reals)
        next_input.copy_(prompt.rows[-1])
        self._begin.run()
        self._slots.hear(slot, job.voice)
        if len(prompt.text_rows):
            self._slots.state.text_rows[slot, : len(prompt.text_rows)] = prompt.text_rows
        return prompt, self._slots.take_prefix(slot, prompt)

    def prefill(self, pieces: Sequence[PromptPiece]) -> None:
        together = [pieces] if self._slots.model.is_fused else [[piece] for piece in pieces]
        for part in together:
            self._read(part)
        self._slots.keep_prefixes(pieces)

    def _read(self, pieces: Sequence[PromptPiece]) -> None:
        """Read the rows of pieces, as many at once as there are graphs for."""
        rows = rows_of(pieces)
        where = [(p.slot, p.start + row) for p in pieces for row in range(p.rows)]
        most = self._sizes.prompt_rows[-1]
        for first in range(0, len(where), most):
            part = where[first : first + most]
            size, end = smallest(self._sizes.prompt_rows, len(part)), 1 + max(at for _, at in part)
            call = self._prefills[size, smallest(self._sizes.prompt_bounds, end)]
            unused = [self._unused_row] * (size - len(part))
            self._fill(call.inputs[0], list(zip(*part, *unused, strict=True)))
            call.inputs[1][: len(part)] = rows[first : first + len(part)]
            call.run()

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        self._slots.append_text(slot, ids, start=start, is_end=is_end)

    def frame(self, slots: Sequence[int], *, full_sort: bool, positions: int) -> Outcome:
        rows = len(slots)
        size = smallest(self._sizes.rows, rows)
        sorts = full_sort and True in self._sizes.sorts
        call = self._frames[size, smallest(self._sizes.bounds, positions), sorts]
        self._fill(call.inputs[0], [*slots, *[self._spare] * (size - rows)])
        self._hold_for_late_codec()
        call.run()
        ends = self._to_host[self._turn][:rows]
        ends.copy_(call.output[:rows], non_blocking=True)
        mark = self._driver.mark()
        self._frame_marks.append(mark)
        self._turn = 1 - self._turn
        return Outcome(ends, mark)

    def decode(
        self, slots: Sequence[int], first: Sequence[int], frames: int, *, is_first: bool
    ) -> Outcome:
        rows = len(slots)
        size = smallest(self._sizes.rows, rows)
        stream: Stream = "first" if is_first else "bulk"
        # Only the last chunk of an utterance has a length of its own. What the graph decodes
        # behind it is cut off, and its state is never used again.
        length = self._sizes.first_frames if is_first else smallest(self._sizes.chunks, frames)
        call = self._audio[stream, size, length]
        # Both streams may be at work at once, so rows that nobody needs are the spare slot's.
        unused = [self._spare] * (size - rows)
        none = [0] * len(unused)
        earlier = [self._slot_marks[slot] for slot in slots if slot in self._slot_marks]
        with self._driver.stream(stream):
            # Codes that are asked for were seen to be made one frame step ago.
            self._hold(list(self._frame_marks)[:1])
            self._hold({mark for other, mark in earlier if other != stream})
            self._fill(call.inputs[0], [[*slots, *unused], [*first, *none], [*[1] * rows, *none]])
            call.run()
            samples = self._driver.pinned(*call.output.shape, dtype=torch.float32)
            samples.copy_(call.output, non_blocking=True)
            mark = self._codec_marks[stream] = self._driver.mark()
        self._slot_marks.update(dict.fromkeys(slots, (stream, mark)))
        end = frames * self._slots.model.config.codec.samples_per_frame
        return Outcome(samples[:rows, :end], mark)

    def clear(self, slots: Sequence[int]) -> None:
        self._hold(self._codec_marks.values())
        self._slots.clear(slots)

    def _fill(self, target: Tensor, numbers: Sequence[Any]) -> None:
        """Put numbers into a graph's input, in the order of the current stream."""
        pinned = self._driver.pinned(*target.shape, dtype=target.dtype)
        pinned.copy_(torch.tensor(numbers, dtype=target.dtype))
        target.copy_(pinned, non_blocking=True)

    def _hold(self, marks: Iterable[Mark]) -> None:
        """Make the current stream wait for marks, if it has to."""
        for mark in marks:
            if not mark.is_reached():
                self._driver.hold(mark)

    def _hold_for_late_codec(self) -> None:
        """Keep codes from being written where a codec that lags far behind still reads."""
        self._old_marks.append(list(self._codec_marks.values()))
        if len(self._old_marks) > CODEC_LAG_STEPS:
            self._hold(self._old_marks.popleft())

    @torch.inference_mode()
    def _capture_all(self, on_progress: ReportProgress) -> None:
        """Capture everything; the largest first, whose memory the others of its pool then share."""
        frames, prompts, sounds = self._sizes.frames, self._sizes.prompts, self._sizes.sounds
        total, done = len(frames) + len(prompts) + len(sounds), count()

        def tell() -> None:
            on_progress("capturing graphs", next(done) / total)

        self._slots.model.prepare()
        # Capturing returns pinned memory that nobody holds to the system.
        pinned = self._pin_buffers()
        self._begin = self._begin_call()
        for size, bound, full_sort in frames:
            tell()
            self._frames[size, bound, full_sort] = self._frame_call(size, bound, full_sort)
        for rows, bound in prompts:
            tell()
            self._prefills[rows, bound] = self._prefill_call(rows, bound)
        for stream, size, length in sounds:
            tell()
            self._audio[stream, size, length] = self._decode_call(stream, size, length)
        tell()
        pinned.clear()

    def _pin_buffers(self) -> list[Tensor]:
        """Allocate what transfers will need: buffers that are let go of are taken again."""
        per_frame = self._slots.model.config.codec.samples_per_frame
        sizes = self._sizes
        small = [(size,) for size in sizes.rows] + [(3, size) for size in sizes.rows]
        small += [(7,), *((2, rows) for rows in sizes.prompt_rows)]
        shapes = [(shape, torch.int64) for shape in small] + [((5,), torch.float64)]
        for size, frames in product(sizes.rows, sizes.chunks):
            shapes.append(((size, frames * per_frame), torch.float32))
        pinned = self._driver.pinned
        return [
            pinned(*shape, dtype=dtype) for shape, dtype in shapes for _ in range(PINNED_COPIES)
        ]

    def _frame_call(self, size: int, bound: int, full_sort: bool) -> _Call:
        slots = torch.full((size,), self._spare, device=self._device)
        ends = torch.zeros(size, dtype=torch.uint8, device=self._device)
        spare_length = self._slots.state.length[self._spare :]

        def work() -> None:
            spare_length.zero_()  # or its attention would grow for ever
            ends.copy_(self._slots.frame(slots, full_sort=full_sort, bound=bound))

        return _Call((slots,), ends, self._driver.capture(work, "frames"))

    def _prefill_call(self, rows: int, bound: int) -> _Call:
        model, state = self._slots.model, self._slots.state
        inputs = torch.zeros(rows, model.config.width, dtype=model.dtype, device=self._device)
        where = torch.zeros(2, rows, dtype=torch.int64, device=self._device)
        where[0] = self._spare
        # Torch's own attention reads the positions of one slot.
        slots = where[0] if model.is_fused else where[0, :1]

        def work() -> None:
            model.prefill(state, inputs, [CachePositions(slots, where[1], bound)])

        return _Call((where, inputs), inputs, self._driver.capture(work, "frames"))

    def _decode_call(self, stream: Stream, size: int, frames: int) -> _Call:
        rows = torch.zeros(3, size, dtype=torch.int64, device=self._device)
        rows[0] = self._spare
        length = frames * self._slots.model.config.codec.samples_per_frame
        samples = torch.zeros(size, length, device=self._device)

        def work() -> None:
            samples.copy_(self._slots.decode(rows[0], rows[1], frames, active=rows[2].bool()))

        return _Call((rows,), samples, self._driver.capture(work, stream))

    def _begin_call(self) -> _Call:
        model = self._slots.model
        integers = torch.zeros(7, dtype=torch.int64, device=self._device)
        integers[0] = self._spare
        reals = torch.ones(5, dtype=torch.float64, device=self._device)
        row = torch.zeros(model.config.width, dtype=model.dtype, device=self._device)

        def work() -> None:
            self._slots.restart(integers, reals, row)

        return _Call((integers, reals, row), row, self._driver.capture(work, "frames"))


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
