"""Read tensors from a safetensors file by name, and account for every one of them.

Layers ask for tensors by their official names and shapes while they are built; `close` then
complains about every tensor that was missing, had another shape, or was never asked for. The
file is mapped: a tensor already in the wanted dtype on the CPU is used where it lies, any other
is copied once, straight to where it stays.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.linear import Arithmetic, fixed, make_linear


class CheckpointError(StartupError):
    """The checkpoint does not fit; the message names every tensor that is wrong."""


MOST_NAMED = 50
"""Problems of a file that its error names; another model's has hundreds."""


class Weights(Protocol):
    """Where layers get their tensors from while they are built."""

    device: torch.device
    dtype: torch.dtype
    arithmetic: Arithmetic

    def take(self, name: str, *shape: int) -> Tensor:
        """Return the tensor in this source's dtype on its device."""

    def take_raw(self, name: str, *shape: int) -> Tensor:
        """Return the tensor as it is stored, on the host: to stay there, or to be folded first."""


def placed(tensor: Tensor, weights: Weights) -> nn.Parameter:
    """Return a parameter made of a folded tensor, where and in what dtype `weights` has its own."""
    return fixed(tensor.to(weights.device, weights.dtype))


def stack_rows(weights: Weights, parts: Sequence[tuple[str, int]], columns: int) -> Tensor:
    """Concatenate matrices [rows, columns] one below another, each copied once."""
    total = sum(rows for _, rows in parts)
    taken = [weights.take_raw(name, rows, columns) for name, rows in parts]  # they are mapped
    fused = torch.empty(total, columns, dtype=weights.dtype, device=weights.device)
    start = 0
    for (_, rows), tensor in zip(parts, taken, strict=True):
        fused[start : start + rows].copy_(tensor)
        start += rows
    return fused


def read_linear(
    weights: Weights,
    parts: Sequence[tuple[str, int]],
    columns: int,
    *,
    bias: bool = False,
    arithmetic: Arithmetic | None = None,
) -> nn.Module:
    """Read matrices `name`.weight [rows, columns] as one layer, outputs side by side.

    parts: (name, rows) of each; bias: the one part has `name`.bias [rows] too; arithmetic: None
    is that of `weights`. Raises CheckpointError for weights that the arithmetic cannot hold.
    """
    named = [(f"{name}.weight", rows) for name, rows in parts]
    if len(named) == 1:
        weight = weights.take(*named[0], columns)
    else:
        weight = stack_rows(weights, named, columns)
    offset = weights.take(f"{parts[0][0]}.bias", parts[0][1]) if bias else None
    return pack_linear(parts[0][0], weight, offset, arithmetic or weights.arithmetic)


def pack_linear(
    name: str, weight: Tensor, bias: Tensor | None, arithmetic: Arithmetic
) -> nn.Module:
    """`make_linear` that raises CheckpointError, with the name, for what it cannot hold.

    Packed weights are no parameters, which `check_finite` sees, and may lose what is not finite.
    """
    if arithmetic not in ("float", "ordered") and not _sum(weight).isfinite():
        raise CheckpointError(f"{name}: a weight is NaN or infinite")
    try:
        return make_linear(weight, bias, arithmetic=arithmetic)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}; linear layers must be float") from error


def _sum(tensor: Tensor) -> Tensor:
    """A sum that shows NaN and infinity; bfloat16 is added up in float32, eight times as fast as
    when it is converted first.
    """
    return tensor.sum(dtype=torch.float32 if tensor.dtype == torch.float16 else None)


def check_finite(path: Path, **networks: nn.Module) -> None:
    """Raise CheckpointError that names the weights of a checkpoint with NaN or infinity.

    A sum shows either, and is asked for once for all: a device is not waited for at each.
    """
    named = [
        (f"{network}.{name}", _sum(tensor).float())
        for network, module in networks.items()
        for name, tensor in module.named_parameters()
    ]
    sums = torch.stack([total for _, total in named]).isfinite().tolist()
    wrong = [name for (name, _), is_finite in zip(named, sums, strict=True) if not is_finite]
    if wrong:
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        said = ", ".join(wrong[:MOST_NAMED])
        raise CheckpointError(f"{path} has weights that are NaN or infinite: {said}{more}")


class CheckpointFile:
    """One safetensors file as `Weights`; use it as a context manager.

    ignored: prefixes of tensors that are there on purpose and not loaded
    on_take: hears after each tensor which fraction of the file's has been asked for
    Leaving the context normally raises CheckpointError unless the file and what was asked for
    agree exactly; so does a tensor that would be larger than the whole file, before anything of its
    size is allocated. Tensors stay valid afterwards.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        arithmetic: Arithmetic = "float",
        ignored: Iterable[str] = (),
        on_take: Callable[[float], None] = lambda _fraction: None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.arithmetic = arithmetic
        self._path = path
        self._ignored = tuple(ignored)
        self._on_take = on_take
        self._problems: list[str] = []
        try:
            self._file_bytes = path.stat().st_size
            self._file: Any = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError, MemoryError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
        self._left = set(self._file.keys())  # type: ignore[no-untyped-call]
        self._count = len(self._left)

    def take(self, name: str, *shape: int) -> Tensor:
        return self.take_raw(name, *shape).to(self.device, self.dtype)

    def take_raw(self, name: str, *shape: int) -> Tensor:
        if name not in self._left:
            return self._complain(f"missing: {name} {list(shape)}", shape)
        self._left.remove(name)
        self._on_take(1 - len(self._left) / self._count)
        tensor: Tensor = self._file.get_tensor(name)
        if not tensor.is_floating_point():
            return self._complain(f"wrong dtype: {name} is {tensor.dtype}, must be float", shape)
        if tensor.shape == shape:
            return tensor
        found = list(tensor.shape)
        return self._complain(f"wrong shape: {name} is {found}, must be {list(shape)}", shape)

    def _complain(self, problem: str, shape: tuple[int, ...]) -> Tensor:
        """Note a problem and give a substitute to go on with, unless that would be absurd."""
        self._problems.append(problem)
        if math.prod(shape) > self._file_bytes:
            self.close()
        return torch.zeros(1, dtype=self.dtype).expand(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What layers made of substitutes fail with is a result of the problems.
        is_result = kind is not None and issubclass(kind, Exception) and bool(self._problems)
        if kind is None or (is_result and not issubclass(kind, CheckpointError)):
            self.close()

    def close(self) -> None:
        """Raise CheckpointError unless the file holds exactly the tensors that were asked for."""
        extra = sorted(name for name in self._left if not name.startswith(self._ignored))
        problems = self._problems + [f"not expected: {name}" for name in extra]
        if problems:
            more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
            said = "; ".join(problems[:MOST_NAMED])
            raise CheckpointError(f"{self._path} does not fit: {said}{more}")
