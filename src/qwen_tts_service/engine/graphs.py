"""Runs steps on CUDA: whole frames as captured graphs, the codec beside them on its own stream.

There is a graph per number of rows, bound of positions and kind of sorting; each reads the slots'
numbers from a small tensor that is filled before it is replayed, and rows that nobody needs go to
a spare slot. Outcomes are copied to pinned memory and looked at one frame later, so the device
never waits for Python. `Driver` is the seam to CUDA: with another one the same logic runs on the
CPU. It does not know streams of audio or plans.

NOT MEASURED: no CUDA device was at hand; what is tested is the logic, with a driver for the CPU.

Letters: B rows of a graph, S slots, N samples.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from qwen_tts_service.kernels.attention import MaskedAttention
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.qwen3_tts import Progress, Qwen3TTS
from qwen_tts_service.types import Samples

from .job import Job
from .options import EngineOptions
from .runner import RING_FRAMES, Ends, Slots, Sound

logger = logging.getLogger(__name__)

MIN_BOUND = 256
"""The smallest bound of positions that has graphs of its own."""
CODEC_LAG_STEPS = 8
"""Frame steps that the codec may lag behind before the next one waits for it."""
assert CODEC_LAG_STEPS * 2 + 8 <= RING_FRAMES

cuda: Any = torch.cuda  # much of it has no annotations

Work = Callable[[], None]


class Mark(Protocol):
    """A place in a device's stream of work."""

    def is_reached(self) -> bool: ...

    def wait(self) -> None:
        """Block this thread until it is reached."""


class Driver(Protocol):
    """What is needed of CUDA."""

    def capture(self, work: Work, pool: str) -> Work:
        """Run `work` to warm up, then record it; returns what repeats it on the same tensors.

        Graphs of one pool share memory, so they must run on one stream.
        """

    def codec_stream(self) -> AbstractContextManager[object]:
        """Within it, work goes to the codec's own stream."""

    def mark(self) -> Mark:
        """Mark the end of what the current stream has been given so far."""

    def hold(self, mark: Mark) -> None:
        """Make the current stream wait for a mark of the other; returns at once."""

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return host memory that copies can go to and from by themselves."""


@dataclass(frozen=True, slots=True)
class _FrameCall:
    """slots: int64 [B], read by `run`; ends: bool [B], written by it."""

    slots: Tensor
    ends: Tensor
    run: Work


@dataclass(frozen=True, slots=True)
class _SoundCall:
    """rows: int64 [3, B], slots, first frames and whether active; samples: float32 [B, N]."""

    rows: Tensor
    samples: Tensor
    run: Work


class _MarkedEnds:
    def __init__(self, mark: Mark, ends: Tensor) -> None:
        self._mark = mark
        self._ends = ends

    def wait(self) -> list[bool]:
        self._mark.wait()
        ends: list[bool] = self._ends.tolist()
        return ends


class _MarkedSound:
    def __init__(self, mark: Mark, samples: Tensor) -> None:
        self._mark = mark
        self._samples = samples

    def is_ready(self) -> bool:
        return self._mark.is_reached()

    def wait(self) -> Samples:
        self._mark.wait()
        samples: Samples = self._samples.numpy().copy()  # pinned memory goes back at once
        return samples


class GraphRunner:
    """A `Runner` that replays graphs; everything is captured when it is made."""

    run_ahead = 1

    def __init__(
        self,
        model: Qwen3TTS,
        options: EngineOptions,
        driver: Driver,
        on_progress: Progress = lambda _step, _fraction: None,
    ) -> None:
        self._slots = Slots(model, options, spare=1)
        self._spare = options.slots
        self._driver = driver
        self._device = model.device
        self._buckets = (options.slots,) if options.deterministic else buckets(options.slots)
        needs_bounds = isinstance(model.attention, MaskedAttention) and not options.deterministic
        self._bounds = bounds(options.max_positions) if needs_bounds else (options.max_positions,)
        # Two of each: one may still be read by the device while the other is filled.
        self._to_device = [driver.pinned(options.slots, dtype=torch.int64) for _ in range(2)]
        self._to_host = [driver.pinned(options.slots, dtype=torch.bool) for _ in range(2)]
        self._turn = 0
        self._frame_marks: deque[Mark] = deque(maxlen=2)
        self._sound_mark: Mark | None = None
        self._old_sounds: deque[Mark | None] = deque()
        self._frames: dict[tuple[int, int, bool], _FrameCall] = {}
        self._sounds: dict[tuple[int, int], _SoundCall] = {}
        self._capture_all(on_progress)
        logger.info("engine memory: %s", self._slots.memory)

    def begin(self, slot: int, job: Job) -> PromptEmbeddings:
        # The codec may still be reading the codes of the slot's last user.
        if self._sound_mark is not None:
            self._driver.hold(self._sound_mark)
        prompt = self._slots.begin(slot, job)
        with self._driver.codec_stream():
            self._slots.model.codec.reset(self._slots.codec_state, self._slots.index(slot))
        return prompt

    def prefill(self, slot: int, prompt: PromptEmbeddings, start: int, rows: int) -> None:
        self._slots.prefill(slot, prompt, start, rows)

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        self._slots.append_text(slot, ids, start=start, is_end=is_end)

    def frame(self, slots: Sequence[int], *, full_sort: bool, positions: int) -> Ends:
        rows = len(slots)
        size = smallest(self._buckets, rows)
        call = self._frames[size, smallest(self._bounds, positions), full_sort]
        self._turn = 1 - self._turn
        numbers = self._to_device[self._turn][:size]
        numbers.copy_(torch.tensor([*slots, *[self._spare] * (size - rows)]))
        call.slots.copy_(numbers, non_blocking=True)
        self._hold_for_codec()
        call.run()
        ends = self._to_host[self._turn][:rows]
        ends.copy_(call.ends[:rows], non_blocking=True)
        mark = self._driver.mark()
        self._frame_marks.append(mark)
        return _MarkedEnds(mark, ends)

    def sound(self, slots: Sequence[int], first: Sequence[int], frames: int) -> Sound:
        rows = len(slots)
        size = smallest(self._buckets, rows)
        if (size, frames) not in self._sounds:  # the end of an utterance may have any length
            self._sounds[size, frames] = self._sound_call(size, frames, is_captured=False)
        call = self._sounds[size, frames]
        # The codec wants no slot twice: rows that nobody needs are others' slots, inactive.
        others = [slot for slot in range(self._slots.count) if slot not in slots][: size - rows]
        unused = [0] * len(others)
        table = self._driver.pinned(3, size, dtype=torch.int64)
        table.copy_(torch.tensor([[*slots, *others], [*first, *unused], [*[1] * rows, *unused]]))
        with self._driver.codec_stream():
            # Codes that are asked for were seen to be made one frame step ago.
            if self._frame_marks:
                self._driver.hold(self._frame_marks[0])
            call.rows.copy_(table, non_blocking=True)
            call.run()
            samples = self._driver.pinned(rows, call.samples.shape[1], dtype=torch.float32)
            samples.copy_(call.samples[:rows], non_blocking=True)
            self._sound_mark = self._driver.mark()
        return _MarkedSound(self._sound_mark, samples)

    def clear(self, slots: Sequence[int]) -> None:
        if self._sound_mark is not None:
            self._driver.hold(self._sound_mark)
        self._slots.clear(slots)

    def _hold_for_codec(self) -> None:
        """Keep the ring of codes from overtaking a codec that lags far behind."""
        self._old_sounds.append(self._sound_mark)
        if len(self._old_sounds) > CODEC_LAG_STEPS:
            mark = self._old_sounds.popleft()
            if mark is not None:
                self._driver.hold(mark)

    @torch.inference_mode()
    def _capture_all(self, on_progress: Progress) -> None:
        """Capture the largest first, whose memory the others then share."""
        sizes = sorted(self._buckets, reverse=True)
        ramp = sorted(set(self._slots.options.chunk_frames), reverse=True)
        kinds = [(bound, full) for bound in reversed(self._bounds) for full in (True, False)]
        total = len(sizes) * (len(kinds) + len(ramp))
        for size in sizes:
            for bound, full_sort in kinds:
                on_progress("capturing graphs", (len(self._frames) + len(self._sounds)) / total)
                self._frames[size, bound, full_sort] = self._frame_call(size, bound, full_sort)
            for frames in ramp:
                self._sounds[size, frames] = self._sound_call(size, frames, is_captured=True)
        on_progress("capturing graphs", 1.0)

    def _frame_call(self, size: int, bound: int, full_sort: bool) -> _FrameCall:
        slots = torch.full((size,), self._spare, device=self._device)
        ends = torch.zeros(size, dtype=torch.bool, device=self._device)
        spare_length = self._slots.state.length[self._spare :]

        def work() -> None:
            spare_length.zero_()  # or its attention would grow for ever
            ends.copy_(self._slots.frame(slots, full_sort=full_sort, max_position=bound))

        return _FrameCall(slots, ends, self._driver.capture(work, "frames"))

    def _sound_call(self, size: int, frames: int, *, is_captured: bool) -> _SoundCall:
        rows = torch.zeros(3, size, dtype=torch.int64, device=self._device)
        rows[0] = torch.arange(size, device=self._device)
        length = frames * self._slots.model.config.codec.samples_per_frame
        samples = torch.zeros(size, length, device=self._device)

        def work() -> None:
            samples.copy_(self._slots.sound(rows[0], rows[1], frames, active=rows[2].bool()))

        run = self._driver.capture(work, "codec") if is_captured else work
        return _SoundCall(rows, samples, run)


def buckets(slots: int) -> tuple[int, ...]:
    """Return the numbers of rows that have graphs: powers of two, and all slots."""
    powers = (1 << bit for bit in range(slots.bit_length()))
    return (*(size for size in powers if size < slots), slots)


def bounds(max_positions: int) -> tuple[int, ...]:
    """Return the bounds of positions that have graphs: doubling, and the whole cache."""
    sizes = []
    size = MIN_BOUND
    while size < max_positions:
        sizes.append(size)
        size *= 2
    return (*sizes, max_positions)


def smallest(sizes: Sequence[int], need: int) -> int:
    """Return the smallest of the rising sizes that is enough."""
    return next(size for size in sizes if size >= need)


class _CudaMark:
    def __init__(self) -> None:
        self.event = cuda.Event()
        self.event.record()

    def is_reached(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()


class CudaDriver:
    """CUDA's graphs, events and one more stream; the model's stream is the current one."""

    def __init__(self, device: torch.device) -> None:
        cuda.set_device(device)
        self._codec = cuda.Stream(device, priority=-1)
        self._pools: dict[str, Any] = {}

    def capture(self, work: Work, pool: str) -> Work:
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            work()
            work()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self._pools.get(pool)):
            work()
        self._pools.setdefault(pool, graph.pool())
        replay: Work = graph.replay
        return replay

    def codec_stream(self) -> AbstractContextManager[object]:
        stream: AbstractContextManager[object] = cuda.stream(self._codec)
        return stream

    def mark(self) -> Mark:
        return _CudaMark()

    def hold(self, mark: Mark) -> None:
        assert isinstance(mark, _CudaMark)
        cuda.current_stream().wait_event(mark.event)

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, pin_memory=True)
