"""RMS norm, alone and with what is added before it ("Root Mean Square Layer Normalization").

Letters: R rows, C width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .jit import fused, jit, next_power_of_2, rounded, tl


@jit
def _kernel(x, y, scale, weight, total, out, eps, C: tl.constexpr, P: tl.constexpr,
            HAS_Y: tl.constexpr, HAS_SCALE: tl.constexpr):  # fmt: skip
    """One program per row."""
    row = tl.program_id(0).to(tl.int64) * C
    c = tl.arange(0, P)
    inside = c < C
    dtype: tl.constexpr = out.dtype.element_ty
    v = tl.load(x + row + c, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        added = tl.load(y + row + c, mask=inside, other=0.0).to(tl.float32)
        if HAS_SCALE:
            factor = tl.load(scale + c, mask=inside, other=0.0).to(tl.float32)
            added = rounded(added * factor, dtype)
        v = rounded(v + added, dtype)
        tl.store(total + row + c, v.to(dtype), mask=inside)
    normed = rounded(v * (1.0 / tl.sqrt(tl.sum(v * v, axis=0) / C + eps)), dtype)
    w = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + c, rounded(w * normed, dtype).to(dtype), mask=inside)


def _launch(
    x: Tensor, y: Tensor | None, scale: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    out, C = torch.empty_like(x), x.shape[-1]
    total = out if y is None else torch.empty_like(x)
    y = x if y is None else y.contiguous()
    _kernel[(x.numel() // C,)](
        x, y, x if scale is None else scale, weight, total, out, eps,
        C=C, P=next_power_of_2(C), HAS_Y=total is not out, HAS_SCALE=scale is not None,
    )  # fmt: skip
    return total, out


def _launch_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _launch(x, None, None, weight, eps)[1]


def _launch_add(
    x: Tensor, y: Tensor, weight: Tensor, eps: float, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return _launch(x, y, scale, weight, eps)


def _like(x: Tensor, *_rest: object) -> Tensor:
    return x.new_empty(x.shape)


def _two_like(x: Tensor, *_rest: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@fused(_launch_norm, _like, strided=("x",))
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """X · rsqrt(mean(x²) + eps), rounded, times the weight: [..., C] -> [..., C]."""
    return weight * functional.rms_norm(x, x.shape[-1:], eps=eps)


@fused(_launch_add, _two_like, strided=("x", "y"))
def add_rms_norm(
    x: Tensor, y: Tensor, weight: Tensor, eps: float, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return x + y, and its RMS norm; y is multiplied by `scale` [C] first if there is one."""
    total = x + (y if scale is None else scale * y)
    return total, weight * functional.rms_norm(total, total.shape[-1:], eps=eps)
