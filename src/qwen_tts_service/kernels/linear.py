"""Linear layers in several arithmetics; on the CPU each row by itself.

`torch.nn.functional.linear` picks another summation order for another number of rows, so that a
request's last bits, and one day its codes, depend on who else is speaking. On the CPU the four
packed kinds here do not: "packed" keeps the dtype of the weights, "half" loses nothing of bfloat16
weights and reads half the bytes of float32, "bfloat16" reads the same and rounds inputs and
outputs, "int8" reads a quarter and rounds more. For "packed" in bfloat16 that holds for up to 32
rows, for the others for any number. What was measured, and what lost, is in docs/log.md,
2026-11-23 and 2026-12-01.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_tts_service.errors import StartupError

from .fused.rows import can_order, linear_rows

Arithmetic = Literal["float", "ordered", "packed", "half", "bfloat16", "int8"]
"""How layers keep their weights: as they are ("ordered": few rows are summed in one order, by a
fused kernel), or packed for the CPU in one of four ways."""

_RESIDUAL_SCALE = 2.0**11
"""A float16 keeps 11 bits, so what it drops is this much smaller than what it keeps."""
_NEGLIGIBLE = 2.0**-25
"""Half a step of the smallest float16: a bfloat16 weight loses at most this, and only below 2^-14
(0.00006); larger ones fit exactly."""
_BFLOAT16_ROWS = 32
"""So many rows oneDNN sums in one order in bfloat16, at every published shape; more not in all."""


def fixed(tensor: Tensor) -> nn.Parameter:
    """Return a parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)


class Linear(nn.Module):
    """y = x Wᵀ + b in the dtype of the weights, by the library's own kernels."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = fixed(weight)
        self.bias = None if bias is None else fixed(bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return functional.linear(x, self.weight, self.bias)


class OrderedLinear(Linear):
    """The same, but with few rows no row's bits depend on how many there are; for fused kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear_rows(x, self.weight, self.bias) if can_order(x) else super().forward(x)


class PackedLinear(nn.Module):
    """y = x Wᵀ + b, laid out for oneDNN on the CPU beforehand.

    Computes in the dtype of the weights; in float32 where the CPU has no kernels for bfloat16.
    `packed_bytes` is what the weights take.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Pack `weight` [out, in]; `bias`: [out]."""
        super().__init__()
        wide = weight.detach()
        if wide.dtype == torch.bfloat16 and not _has_bfloat16():
            wide, bias = wide.float(), None if bias is None else bias.float()
        self.rows = len(wide)
        self._dtype = wide.dtype
        # One row alone is summed in another order than one of several, except in AMX's tiles.
        self._is_one_other = not (wide.dtype == torch.bfloat16 and has_amx())
        self._packed = torch.ops.mkldnn._reorder_linear_weight(wide, None)  # noqa: SLF001
        self.packed_bytes = wide.nbytes
        self.bias = None if bias is None else fixed(bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], the dtype of `x`."""
        rows = x.to(self._dtype)
        is_one = self._is_one_other and x.numel() == x.shape[-1]
        if is_one:
            rows = torch.stack((rows, rows))
        y: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            rows, self._packed, self.bias, "none", [], ""
        )
        return (y[0] if is_one else y).to(x.dtype)


class BlockedLinear(PackedLinear):
    """The same, few rows at a time, so that no row's bits depend on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], the dtype of `x`."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= _BFLOAT16_ROWS:
            return super().forward(x)
        multiply = super().forward
        y = torch.cat([multiply(block) for block in torch.split(rows, _BFLOAT16_ROWS)])
        return y.view(*x.shape[:-1], self.rows)


class HalfLinear(nn.Module):
    """y = x Wᵀ + b with float32 inputs and sums, and weights kept as float16.

    A bfloat16 checkpoint's weights fit float16 exactly, so this is float32 arithmetic at half the
    memory traffic. Weights that do not fit are kept as two float16 matrices, value and remainder:
    as exact, at the traffic of float32. `packed_bytes` is what the weights take.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Pack `weight`, float [out, in]; `bias`: [out]. Raises ValueError beyond ±65504."""
        super().__init__()
        wide = weight.detach().float()
        if wide.abs().amax() > torch.finfo(torch.float16).max:
            raise ValueError("a weight is too large for float16")
        remainder = wide - wide.half().float()
        self.rows = len(wide)
        self._value = torch.ops.quantized.linear_prepack_fp16(wide, None)
        self._remainder = None
        self.packed_bytes = 2 * wide.numel()
        if remainder.abs().amax() > _NEGLIGIBLE:
            self._remainder = torch.ops.quantized.linear_prepack_fp16(
                remainder * _RESIDUAL_SCALE, None
            )
            self.packed_bytes *= 2
        self.bias = None if bias is None else fixed(bias.float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], the dtype of `x`."""
        rows = x.float().reshape(-1, x.shape[-1])
        # FBGEMM sums blocks of one or two rows in another order than full ones.
        missing = -len(rows) % _block_rows()
        wide = functional.pad(rows, (0, 0, 0, missing)) if missing else rows
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(wide, self._value)
        if self._remainder is not None:
            rest = torch.ops.quantized.linear_dynamic_fp16(wide, self._remainder)
            y.add_(rest, alpha=1 / _RESIDUAL_SCALE)
        if self.bias is not None:
            y.add_(self.bias)
        return y[: len(rows)].view(*x.shape[:-1], self.rows).to(x.dtype)


class Int8Linear(nn.Module):
    """y = x Wᵀ + b with int8 weights, scaled per output, and int8 inputs, scaled per row.

    Integer sums are exact in any order, hence independent of the kernel. The relative error of a
    product is about 1 %: speech from it is close to, never equal to, that of float32.
    `packed_bytes` is what the weights take.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Pack `weight`, float [out, in]; `bias`: [out]."""
        super().__init__()
        wide = weight.detach().float()
        self.rows = len(weight)
        scale = wide.abs().amax(dim=1).clamp_min(1e-12) / 127
        packed = torch.round(wide / scale.unsqueeze(1)).to(torch.int8)
        # Without VNNI two products are added in 16 bits, which overflow beyond 7-bit inputs.
        self._levels = 127 if _has_vnni() else 63
        self._packed = torch.ops.onednn.qlinear_prepack(packed, None)
        self._scale = scale
        self._zeros = torch.zeros(self.rows, dtype=torch.int64)
        self._middle = torch.tensor(self._levels + 1.5)
        self.packed_bytes = packed.numel()
        self.bias = None if bias is None else fixed(bias.float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], the dtype of `x`."""
        flat = x.float().reshape(-1, x.shape[-1])
        step = torch.linalg.vector_norm(flat, torch.inf, dim=-1, keepdim=True)
        step = step.clamp_min_(1e-12).mul_(1 / self._levels)
        # Shifted by a zero point to be unsigned, as oneDNN has no fast signed path for this; the
        # half in `_middle` makes the cast, which cuts off, round to nearest.
        levels = torch.addcdiv(self._middle, flat, step).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, self._levels + 1, self._packed, self._scale, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        y.mul_(step)
        if self.bias is not None:
            y.add_(self.bias)
        return y.to(x.dtype).view(*x.shape[:-1], self.rows)


@cache
def _block_rows() -> int:
    """Rows that FBGEMM's float16 kernel takes at once if it sums fewer in another order, else 1.

    Tried out: with AVX-512 any number gives equal bits, with AVX2 it does not, and environment
    variables may allow torch other instructions than FBGEMM.
    """
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(size, 256, generator=generator) for size in (6, 64))
    packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
    y = torch.ops.quantized.linear_dynamic_fp16(rows, packed)
    fewer = [torch.ops.quantized.linear_dynamic_fp16(rows[:n], packed) for n in range(1, 6)]
    return 1 if all(torch.equal(part, y[: len(part)]) for part in fewer) else 6


def _pack_bfloat16(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Build a layer that multiplies in bfloat16, as CUDA does, and sums in float32.

    Weights that bfloat16 does not hold exactly are not rounded: they become a `HalfLinear`.
    """
    narrow = weight.detach().bfloat16()
    if not torch.equal(narrow.float(), weight.float()):
        return HalfLinear(weight, bias)
    return BlockedLinear(narrow, bias)


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 in tiles, for which rows of a tile cost nothing."""
    return can_pack() and bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - as below


def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - as below


def _has_vnni() -> bool:
    return bool(torch.cpu._is_vnni_supported())  # noqa: SLF001 - torch has no public question


def can_pack() -> bool:
    """Whether this build of torch has the kernels: x86 with FBGEMM, as its wheels for x86 are."""
    has_fbgemm = "fbgemm" in torch.backends.quantized.supported_engines
    return has_fbgemm and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def choose_arithmetic(
    asked: Arithmetic | None, device: torch.device, dtype: torch.dtype
) -> Arithmetic:
    """Return what is asked, or what suits a device and a dtype.

    That is, for float32 on a CPU that can, "half", which gives the same codes on every CPU. Raises
    StartupError for packed kinds where there are no kernels for them.
    """
    is_able = device.type == "cpu" and can_pack()
    if asked is None:
        return ("half" if dtype == torch.float32 else "packed") if is_able else "float"
    if asked != "float" and not is_able:
        raise StartupError(f"{asked} weights need an x86 CPU; set CPU_WEIGHTS=float")
    return asked


def fastest_arithmetic(device: torch.device) -> Arithmetic | None:
    """Return what is fastest on a device and rounds no more than CUDA does; None: its usual one.

    bfloat16 on a CPU with AMX, where it takes two thirds of half's time at one row and a quarter
    at 16; without AMX it is no faster.
    """
    return "bfloat16" if device.type == "cpu" and has_amx() else None


_DESCRIPTIONS: dict[Arithmetic, str] = {
    "float": "in the model's own number format",
    "ordered": "in the model's own number format, the same bits for 1 to 16 rows",
    "packed": "in the model's own number format, packed for this CPU",
    "half": "exact for the published weights, sums and inputs in float32",
    "bfloat16": "inputs and results rounded as on CUDA, sums in float32",
    "int8": "weights and inputs rounded to 8 bits",
}


def describe_arithmetic(arithmetic: Arithmetic) -> str:
    """Say for people what linear layers compute in."""
    return f"{arithmetic}: {_DESCRIPTIONS[arithmetic]}"


_KINDS: dict[Arithmetic, Callable[[Tensor, Tensor | None], nn.Module]] = {
    "float": Linear,
    "ordered": OrderedLinear,
    "packed": PackedLinear,
    "half": HalfLinear,
    "bfloat16": _pack_bfloat16,
    "int8": Int8Linear,
}


def make_linear(
    weight: Tensor, bias: Tensor | None = None, *, arithmetic: Arithmetic = "float"
) -> nn.Module:
    """Build a layer from `weight` [out, in] and `bias` [out], which it does not keep if packed.

    Raises ValueError for weights that the arithmetic cannot hold.
    """
    layer = _KINDS[arithmetic](weight, bias)
    if arithmetic not in ("float", "ordered"):
        return_freed_memory()
    return layer


def _find_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only


_trim = _find_trim()


def return_freed_memory() -> None:
    """Give what packing freed back to the system.

    Packed weights land between temporary copies, and glibc keeps the holes: 1.3 GB of 3.2 after
    loading the 0.6B checkpoint.
    """
    if _trim is not None:
        _trim(0)
