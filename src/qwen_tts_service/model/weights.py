"""Read tensors from a safetensors file by name, and account for every one of them.

Layers ask for tensors by their official names and shapes while they are built; `close` then
complains about every tensor that was missing, had another shape, or was never asked for. The
file is mapped: a tensor already in the wanted dtype on the CPU is used where it lies, any other
is copied once, straight to where it stays.
"""

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
    fused = torch.empty(total, columns, dtype=weights.dtype, device=weights.device)
    start = 0
    for name, rows in parts:
        fused[start : start + rows].copy_(weights.take_raw(name, rows, columns))
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
    try:
        return make_linear(weight, offset, arithmetic=arithmetic or weights.arithmetic)
    except ValueError as error:
        raise CheckpointError(f"{parts[0][0]}: {error}; linear layers must be float") from error


class CheckpointFile:
    """One safetensors file as `Weights`; use it as a context manager.

    ignored: prefixes of tensors that are there on purpose and not loaded
    on_take: hears after each tensor which fraction of the file's has been asked for
    Leaving the context normally raises CheckpointError unless the file and what was asked for
    agree exactly. Tensors stay valid afterwards.
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
            self._file: Any = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
        self._left = set(self._file.keys())  # type: ignore[no-untyped-call]
        self._count = len(self._left)

    def take(self, name: str, *shape: int) -> Tensor:
        return self.take_raw(name, *shape).to(self.device, self.dtype)

    def take_raw(self, name: str, *shape: int) -> Tensor:
        if name not in self._left:
            self._problems.append(f"missing: {name} {list(shape)}")
            return torch.zeros(1, dtype=self.dtype).expand(shape)
        self._left.remove(name)
        self._on_take(1 - len(self._left) / self._count)
        tensor: Tensor = self._file.get_tensor(name)
        if tensor.shape == shape:
            return tensor
        found = list(tensor.shape)
        self._problems.append(f"wrong shape: {name} is {found}, must be {list(shape)}")
        return torch.zeros(1, dtype=self.dtype).expand(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Raise CheckpointError unless the file holds exactly the tensors that were asked for."""
        extra = sorted(name for name in self._left if not name.startswith(self._ignored))
        problems = self._problems + [f"not expected: {name}" for name in extra]
        if problems:
            raise CheckpointError(f"{self._path} does not fit: " + "; ".join(problems))
