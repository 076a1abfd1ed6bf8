"""CUDA graphs, streams and events behind one interface.

`CudaDriver` is CUDA. `EagerDriver` does the same steps by plain calls, which is how the logic runs
on a CPU, and what graphs are compared with.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

cuda: Any = torch.cuda  # much of it has no annotations

Work = Callable[[], None]


Stream = Literal["frames", "first", "bulk"]
"""Where work of a kind goes, in order: frames and prompts, first chunks, and all other chunks."""


class Mark(Protocol):
    """An event in a device's stream of work."""

    def is_reached(self, *, within_s: float = 0.0) -> bool:
        """Whether it is reached; if not, ask once more after this time."""

    def wait(self) -> None:
        """Block this thread until it is reached."""


class Driver(Protocol):
    """Graphs, streams, events and pinned memory of one device."""

    def capture(self, work: Work, stream: Stream) -> Work:
        """Run `work` to warm up, then record it; returns what repeats it on the same tensors.

        Graphs of one stream share memory, so they must run one after another. Graphs of two share
        nothing.
        """

    def stream(self, stream: Stream) -> AbstractContextManager[object]:
        """Within it, work goes to a stream; outside, to that of the frames."""

    def mark(self) -> Mark:
        """Mark the end of what the current stream has been given so far."""

    def hold(self, mark: Mark) -> None:
        """Make the current stream wait for a mark of another; returns at once."""

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return pinned host memory, for asynchronous copies."""


class _Reached:
    def is_reached(self, *, within_s: float = 0.0) -> bool:  # noqa: ARG002
        return True

    def wait(self) -> None:
        pass


class EagerDriver:
    """The same steps by plain calls on one stream: what graphs must agree with to the bit."""

    def capture(self, work: Work, stream: Stream) -> Work:  # noqa: ARG002
        work()
        return work

    def stream(self, stream: Stream) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    def mark(self) -> Mark:
        if cuda.is_initialized():
            cuda.current_stream().synchronize()
        return _Reached()

    def hold(self, mark: Mark) -> None:
        assert isinstance(mark, _Reached)

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype)


class _CudaMark:
    def __init__(self) -> None:
        self.event = cuda.Event()
        self.event.record()

    def is_reached(self, *, within_s: float = 0.0) -> bool:
        if within_s and not self.event.query():
            time.sleep(within_s)
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()


_PRIORITIES: dict[Stream, int] = {"first": -2, "frames": -1, "bulk": 0}
"""The lower, the sooner. A first chunk is one short call per utterance, so it may go before frames,
which no other chunk may; and frames wait for chunks that lag far behind."""


class CudaDriver:
    """CUDA's graphs, events and streams; frames and prompts run on the current stream."""

    def __init__(self, device: torch.device) -> None:
        cuda.set_device(device)
        # cuBLAS has one workspace per stream, which graphs keep using: graphs that run at the
        # same time must be captured on different ones. So is a graph's priority its stream's.
        self._streams = {
            name: cuda.Stream(device, priority=priority) for name, priority in _PRIORITIES.items()
        }
        self._pools: dict[Stream, Any] = {}

    def capture(self, work: Work, stream: Stream) -> Work:
        recorder = self._streams[stream]
        recorder.wait_stream(cuda.current_stream())
        with cuda.stream(recorder):
            work()
            work()
        cuda.current_stream().wait_stream(recorder)
        graph = cuda.CUDAGraph()
        # Other threads may do as they like: they do not touch what is captured here.
        how = {"stream": recorder, "capture_error_mode": "thread_local"}
        with cuda.graph(graph, pool=self._pools.get(stream), **how):
            work()
        self._pools.setdefault(stream, graph.pool())
        replay: Work = graph.replay
        return replay

    def stream(self, stream: Stream) -> AbstractContextManager[object]:
        if stream == "frames":
            return nullcontext()
        current: AbstractContextManager[object] = cuda.stream(self._streams[stream])
        return current

    def mark(self) -> Mark:
        return _CudaMark()

    def hold(self, mark: Mark) -> None:
        assert isinstance(mark, _CudaMark)
        cuda.current_stream().wait_event(mark.event)

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, pin_memory=True)


def choose_driver(device: torch.device) -> Driver:
    """Return CUDA's graphs, or plain calls: on the CPU, and on ROCm, whose graphs nobody tried."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return CudaDriver(device) if is_nvidia else EagerDriver()
