"""Device choice per worker, torch switches, number formats and memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qwen_tts_service.errors import StartupError

from .linear import return_freed_memory


def choose_device(asked: str | None, worker: int) -> torch.device:
    """Return the device for worker number `worker`, from 0.

    asked: "cpu", "cuda:N": that one; "cuda": the workers share the GPUs out among themselves;
    None: CUDA if torch can use it, and otherwise the CPU
    """
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda":
        return torch.device("cuda", worker % max(1, torch.cuda.device_count()))
    return torch.device(asked)


def with_number(device: torch.device) -> torch.device:
    """Return the device by its number, which "cuda" alone leaves open."""
    if device == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    return device


def prepare(device: torch.device, *, fuse: bool = False, tf32: bool = False) -> None:
    """Check what is asked of a device, and set torch's switches for the whole process.

    On CUDA: float32 stays float32, which the codec's tolerance needs; algorithms are the
    deterministic ones; and attention is not cuDNN's, which plans for up to a second at every shape
    that a thread has not had yet.

    fuse, tf32: whether torch.compile and TF32 are asked for; raises StartupError without them
    """
    _require(device, fuse=fuse, tf32=tf32)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # this thread's, where Triton launches and graphs are timed
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False  # some images turn it on
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.enable_cudnn_sdp(False)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the host's memory, without a wait for what the device is doing."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def dtype_named(name: Literal["float32", "tf32", "bfloat16"]) -> torch.dtype:
    """Return the number format of weights by this name; tf32 is a way to multiply float32."""
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device computes in bfloat16, and with it in TF32; ROCm's all do."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def network_dtype(device: torch.device) -> torch.dtype:
    """Return the number format of talker and code predictor on a device.

    Where there is no bfloat16 it is float32: the published weights have values that float16,
    with its narrower range, would turn into infinities.
    """
    is_half = device.type == "cuda" and has_bfloat16(device)
    return torch.bfloat16 if is_half else torch.float32


def _require(device: torch.device, *, fuse: bool, tf32: bool) -> None:
    """Raise StartupError unless a device can fuse by torch.compile and has TF32, where asked."""
    if fuse and device.type != "cuda":
        raise StartupError(f"fused kernels (TORCH_COMPILE=1) need CUDA, and this is {device}")
    if not tf32:
        return
    if device.type != "cuda" or torch.version.hip is not None or not has_bfloat16(device):
        raise StartupError(
            "CODEC_DTYPE=tf32 needs a CUDA device of compute capability 8.0 or higher, and this "
            f"is {device}. Take float32 or bfloat16."
        )


@contextmanager
def tf32(*, is_allowed: bool) -> Iterator[None]:
    """Within the block, let CUDA multiply float32 in TF32, if that is allowed.

    torch's switches are the whole process's, so only one thread may compute on CUDA meanwhile.
    """
    if not is_allowed:
        yield
        return
    switches: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        yield
    finally:
        for switch, was_allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = was_allowed


def replay_seconds(work: Callable[[], object], *, calls: int = 10, replays: int = 20) -> float:
    """Return how long CUDA takes for one call of `work` within a graph, without its launch."""
    cuda: Any = torch.cuda  # much of it has no annotations
    stream = cuda.Stream()
    with cuda.stream(stream):  # what is compiled at the first call is no part of a graph
        work()
    stream.synchronize()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        for _ in range(calls):
            work()
    graph.replay()
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / (calls * replays)


def zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on the CPU their memory is taken page by page as it is written.

    torch.zeros writes all of it at once: 19 GB for ten slots of 8192 positions in float32, of
    which ordinary utterances use a few hundred positions each.
    """
    if device.type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    count = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, np.uint8)).view(dtype).view(shape)


def return_memory() -> None:
    """Give back to the system and the devices what has been freed."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return_freed_memory()


_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
"""Versions 2 and 1: folder, limit, use, and what of the use is cache that can be dropped."""


def free_memory(device: torch.device, *, sharers: int = 1) -> int:
    """Return the bytes of a device that a process may take, if so many share it alike.

    On the CPU that is memory of the machine, or of the container if it has a limit.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
    else:
        import psutil  # noqa: PLC0415 - scripts/measure_device does without it

        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
        for limit, left in filter(None, map(_container_memory, _CGROUPS)):
            free, total = min(free, left), min(total, limit)
    return int(min(free, total // sharers))


def _container_memory(names: tuple[str, str, str, str]) -> tuple[int, int] | None:
    """Return a container's limit and what is left of it; None where there is no limit."""
    folder, *files, cache = names
    try:
        limit, used = (int((Path(folder) / name).read_text()) for name in files)
        stat = (Path(folder) / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # not this version, or "max": no limit
        return None
    cached = dict(line.split() for line in stat).get(cache, 0)
    return limit, max(0, limit - used + int(cached))
