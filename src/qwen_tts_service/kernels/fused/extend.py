"""A causal convolution's past inputs put before its new ones, and the snake activation with it.

Letters: B rows, S slots, N steps, C channels.
"""

import torch
from torch import Tensor

from .jit import fused, jit, next_power_of_2, rounded, tl

_VALUES = 2048
"""Values that one program handles."""


@jit
def _join(x, frequency, height, tails, slots, out, N, stride, C: tl.constexpr, P: tl.constexpr,
          REACH: tl.constexpr, BLOCK: tl.constexpr, HAS_SNAKE: tl.constexpr):  # fmt: skip
    """One program per row and block of steps: the tail, then the activated inputs."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = (block * BLOCK + tl.arange(0, BLOCK))[:, None]
    c = tl.arange(0, P)[None, :]
    dtype: tl.constexpr = out.dtype.element_ty
    inside = (n < REACH + N) & (c < C)
    is_new = n >= REACH
    value = tl.load(x + (row * N + n - REACH) * C + c, mask=inside & is_new, other=0.0)
    value = value.to(tl.float32)
    if HAS_SNAKE:
        f = tl.load(frequency + c, mask=c < C, other=0.0).to(tl.float32)
        h = tl.load(height + c, mask=c < C, other=0.0).to(tl.float32)
        wave = rounded(tl.sin(rounded(value * f, dtype)), dtype)
        value += rounded(wave * wave, dtype) * h
    if REACH > 0:
        slot = tl.load(slots + row)
        old = tl.load(tails + slot * stride + n * C + c, mask=inside & (n < REACH), other=0.0)
        value = tl.where(is_new, value, old.to(tl.float32))
    tl.store(out + (row * (REACH + N) + n) * C + c, rounded(value, dtype).to(dtype), mask=inside)


@jit
def _keep(joined, tails, slots, active, N, C, stride, REACH: tl.constexpr, BLOCK: tl.constexpr):
    """One program per row, step of the tail and block of channels."""
    row, step = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = (c < C) & (tl.load(active + row) != 0)
    value = tl.load(joined + (row * (REACH + N) + N + step) * C + c, mask=inside)
    tl.store(tails + tl.load(slots + row) * stride + step * C + c, value, mask=inside)


def _launch_join(
    x: Tensor, tails: Tensor | None, slots: Tensor, snake: tuple[Tensor, Tensor] | None
) -> Tensor:
    x = x.contiguous()
    B, N, C = x.shape
    reach = 0 if tails is None else tails.shape[1]
    frequency, height = snake or (x, x)
    out, P = x.new_empty(B, reach + N, C), next_power_of_2(C)
    block = max(1, _VALUES // P)
    _join[(B, -(-(reach + N) // block))](
        x, frequency, height, x if tails is None else tails, slots, out, N,
        0 if tails is None else tails.stride(0),
        C=C, P=P, REACH=reach, BLOCK=block, HAS_SNAKE=snake is not None,
    )  # fmt: skip
    return out


def _launch_extend(
    x: Tensor, tails: Tensor, slots: Tensor, active: Tensor,
    frequency: Tensor | None = None, height: Tensor | None = None,
) -> Tensor:  # fmt: skip
    snake = None if frequency is None or height is None else (frequency, height)
    joined = _launch_join(x, tails, slots, snake)
    (B, N, C), reach, block = x.shape, tails.shape[1], 256
    grid = (B, reach, -(-C // block))
    _keep[grid](joined, tails, slots, active, N, C, tails.stride(0), REACH=reach, BLOCK=block)
    return joined


def _launch_snake(x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
    return _launch_join(x, None, x, (frequency, height))


def _fake_snake(x: Tensor, *_rest: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fake_extend(x: Tensor, tails: Tensor, *_rest: Tensor | None) -> Tensor:
    B, N, C = x.shape
    return x.new_empty(B, tails.shape[1] + N, C)


@fused(_launch_snake, _fake_snake, strided=("x",))
def snake(x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
    """X + sin²(x · frequency) · height ("BigVGAN"): [B, N, C], the others [C]."""
    wave = (x * frequency).sin_().square_()
    return torch.addcmul(x, wave, height, out=wave)


@fused(_launch_extend, _fake_extend, changes=("tails",), strided=("x", "tails"), kernels=2)
def extend(
    x: Tensor, tails: Tensor, slots: Tensor, active: Tensor,
    frequency: Tensor | None = None, height: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Put the slots' last inputs before x [B, N, C], and keep the new last ones: [B, reach + N, C].

    tails: [S, reach, C], contiguous in a slot, written for active rows
    slots: int64 [B], none twice; active: bool [B]
    frequency, height: [C], the snake that x goes through first, if there is one
    """
    if frequency is not None and height is not None:
        x = snake.plain(x, frequency, height)
    old = tails.index_select(0, slots)
    joined = torch.cat((old, x), dim=1)
    last = joined[:, joined.shape[1] - old.shape[1] :]
    tails.index_copy_(0, slots, torch.where(active[:, None, None], last, old))
    return joined
