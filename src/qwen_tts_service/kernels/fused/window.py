"""The codec's windowed attention: rotation, the window of keys and values, and softmax.

A row and head are handled by one program, which holds the window of W - 1 remembered and T new
positions, and leaves the last W - 1 of them for the next call.

Letters: B rows, S slots, T new frames, H heads, D head size, W window.
"""

import torch
from torch import Tensor

from .jit import fused, jit, next_power_of_2, rounded, tl

_WARPS = 16
"""So that keys and values of a window are 32 registers of each thread."""


@jit
def _kernel(qkv, cos, sin, keys, values, slots, frames, active, out, stride,
            scale, T, H: tl.constexpr, D: tl.constexpr, W: tl.constexpr,
            P: tl.constexpr):  # fmt: skip
    """One program per row and head; T is no constant, or each new one would be compiled anew."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dtype: tl.constexpr = qkv.dtype.element_ty
    j, d = tl.arange(0, P)[:, None], tl.arange(0, D)[None, :]
    opposite = (d + D // 2) % D
    kept = tl.load(slots + row) * stride + head * (W - 1) * D
    is_old, is_new = j < W - 1, (j >= W - 1) & (j < W - 1 + T)
    k = tl.load(keys + kept + j * D + d, mask=is_old, other=0.0).to(tl.float32)
    v = tl.load(values + kept + j * D + d, mask=is_old, other=0.0).to(tl.float32)
    t = row * T + j - (W - 1)
    new = qkv + t * (3 * H * D) + (H + head) * D
    x = tl.load(new + d, mask=is_new, other=0.0).to(tl.float32)
    y = tl.load(new + opposite, mask=is_new, other=0.0).to(tl.float32)
    c = tl.load(cos + t * D + d, mask=is_new, other=0.0).to(tl.float32)
    s = tl.load(sin + t * D + d, mask=is_new, other=0.0).to(tl.float32)
    k = tl.where(is_new, rounded(rounded(x * c, dtype) + rounded(y * s, dtype), dtype), k)
    v = tl.where(is_new, tl.load(new + H * D + d, mask=is_new, other=0.0).to(tl.float32), v)
    tl.debug_barrier()  # everything of the window has been read
    moves = (j >= T) & (j < W - 1 + T) & (tl.load(active + row) != 0)
    tl.store(keys + kept + (j - T) * D + d, k.to(dtype), mask=moves)
    tl.store(values + kept + (j - T) * D + d, v.to(dtype), mask=moves)
    position, column = tl.arange(0, P), tl.arange(0, D)
    has_been = position >= W - 1 - tl.load(frames + row)
    for step in range(T):
        at = row * T + step
        own = qkv + at * (3 * H * D) + head * D
        q_x = tl.load(own + column).to(tl.float32)
        q_y = tl.load(own + (column + D // 2) % D).to(tl.float32)
        q_c = tl.load(cos + at * D + column).to(tl.float32)
        q_s = tl.load(sin + at * D + column).to(tl.float32)
        q = rounded(rounded(q_x * q_c, dtype) + rounded(q_y * q_s, dtype), dtype)
        score = rounded(rounded(tl.sum(k * q[None, :], axis=1), dtype) * scale, dtype)
        seen = has_been & (position >= step) & (position <= step + W - 1)
        score = tl.where(seen, score, -float("inf"))
        share = tl.exp(score - tl.max(score, axis=0))
        share = rounded(share / tl.sum(share, axis=0), dtype)
        total = rounded(tl.sum(v * share[:, None], axis=0), dtype)
        tl.store(out + (at * H + head) * D + column, total.to(dtype))


def _launch(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, slots: Tensor,
    frames: Tensor, active: Tensor,
) -> Tensor:  # fmt: skip
    B, T = qkv.shape[:2]
    _, H, past, D = keys.shape
    out = qkv.new_empty(B, T, H * D)
    _kernel[(B, H)](
        qkv, cos, sin, keys, values, slots, frames, active, out, keys.stride(0), D**-0.5, T,
        H=H, D=D, W=past + 1, P=next_power_of_2(past + T), num_warps=_WARPS,
    )  # fmt: skip
    return out


def _fake(qkv: Tensor, *_rest: Tensor) -> Tensor:
    B, T, width = qkv.shape
    return qkv.new_empty(B, T, width // 3)


@fused(_launch, _fake, changes=("keys", "values"), strided=("keys", "values"))
def window_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, slots: Tensor,
    frames: Tensor, active: Tensor,
) -> Tensor:  # fmt: skip
    """Attend from T new frames to the W - 1 before each and itself: [B, T, H * D].

    qkv: [B, T, 3 * H * D]; cos, sin: [B, T, D], the first half of sin negated
    keys, values: [S, H, W - 1, D], oldest first, contiguous in a slot and of the same stride;
    written for active rows
    slots, frames: int64 [B], the latter the frames before these; active: bool [B]
    """
    B, T = qkv.shape[:2]
    _, H, past, D = keys.shape
    q, k, v = qkv.view(B, T, 3, H, D).unbind(2)
    q, k = (x * cos[:, :, None] + x.roll(D // 2, dims=-1) * sin[:, :, None] for x in (q, k))
    joined = []
    for stored, new in ((keys, k), (values, v)):
        old = stored.index_select(0, slots)
        both = torch.cat((old, new.transpose(1, 2)), dim=2)
        last = torch.where(active[:, None, None, None], both[:, :, T:], old)
        stored.index_copy_(0, slots, last)
        joined.append(both)
    column = torch.arange(past + T, device=qkv.device)
    query = torch.arange(T, device=qkv.device)[:, None]
    seen = (column >= query) & (column <= query + past)
    seen = seen & (column >= (past - frames)[:, None])[:, None, None, :]
    scores = torch.matmul(q.transpose(1, 2), joined[0].transpose(2, 3)) * D**-0.5
    shares = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1, dtype=torch.float32)
    return torch.matmul(shares.to(qkv.dtype), joined[1]).transpose(1, 2).reshape(B, T, H * D)
