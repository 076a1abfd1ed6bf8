"""Linear layer for few rows that adds up each row in one order, however many rows there are.

cuBLAS picks another kernel, and so another order, for another number of rows; here a program
always takes 16, of which some may be missing. A row of the tensor cores' tiles does not see the
others, so batch sizes 1 to 16 come to the same bits. Weights are read once for up to 16 rows, which
is what such a layer's time goes into.

Letters: M rows, N outputs, K inputs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .jit import fused, is_interpreted, jit, rounded, tl

MOST_ROWS = 32
"""The code predictor starts with two rows for each of up to 16."""

_ROWS = 16
_OUTPUTS = 16
_INPUTS = 256
_STAGES = 4
"""Tiles under way at once: 16 KiB each, 64 KiB in all, which every device has."""


@jit
def _kernel(x, weight, bias, out, M, N, K: tl.constexpr, ROWS: tl.constexpr,
            OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, HAS_BIAS: tl.constexpr,
            IS_WIDE: tl.constexpr):  # fmt: skip
    """One program per block of rows and of outputs; blocks of rows side by side share the cache."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    dtype: tl.constexpr = out.dtype.element_ty
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, K, INPUTS):
        k = start + tl.arange(0, INPUTS)
        rows = tl.load(
            x + m[:, None] * K + k[None, :], mask=(m < M)[:, None] & (k < K)[None, :], other=0.0
        )
        columns = tl.load(
            weight + n[None, :] * K + k[:, None], mask=(n < N)[None, :] & (k < K)[:, None],
            other=0.0, eviction_policy="evict_first",
        )  # fmt: skip
        if IS_WIDE:  # the interpreter multiplies bfloat16 wrongly
            rows, columns = rows.to(tl.float32), columns.to(tl.float32)
        total = tl.dot(rows, columns, total)
    if HAS_BIAS:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    where = (m < M)[:, None] & (n < N)[None, :]
    tl.store(out + m[:, None] * N + n[None, :], rounded(total, dtype).to(dtype), mask=where)


def _launch(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, (N, K) = x.contiguous(), weight.shape
    out, M = _like(x, weight), x.numel() // K
    _kernel[(-(-M // _ROWS), -(-N // _OUTPUTS))](
        x, weight, weight if bias is None else bias, out, M, N,
        K=K, ROWS=_ROWS, OUTPUTS=_OUTPUTS, INPUTS=_INPUTS, HAS_BIAS=bias is not None,
        IS_WIDE=is_interpreted, num_warps=2, num_stages=_STAGES,
    )  # fmt: skip
    return out


def _like(x: Tensor, weight: Tensor, _bias: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@fused(_launch, _like)
def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b of [..., K], summed in float32: [..., N]; bfloat16 or float16."""
    return functional.linear(x, weight, bias)


def can_order(x: Tensor) -> bool:
    """Whether `linear_rows` is for these rows: few, in a format that tensor cores multiply."""
    is_short = x.dtype in {torch.bfloat16, torch.float16}
    return is_short and x.numel() <= MOST_ROWS * x.shape[-1]
