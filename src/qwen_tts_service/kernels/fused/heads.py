"""Head norms, rotation and the write to the KV cache, in one kernel.

Letters: R rows, H heads, K key/value heads, D head size, S slots, L positions, N positions that
have rotary tables.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .jit import fused, jit, rounded, tl


@jit
def rotated_head(qkv, weight, cos, sin, head, position, eps, D: tl.constexpr):
    """Norm one head [D] at `qkv` and rotate it by the tables' row; float32 values, rounded."""
    dtype: tl.constexpr = qkv.dtype.element_ty
    d = tl.arange(0, D)
    opposite = (d + D // 2) % D
    x = tl.load(qkv + head * D + d).to(tl.float32)
    y = tl.load(qkv + head * D + opposite).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / D + eps)
    wx = tl.load(weight + head * D + d).to(tl.float32)
    wy = tl.load(weight + head * D + opposite).to(tl.float32)
    x, y = (
        rounded(wx * rounded(x * scale, dtype), dtype),
        rounded(wy * rounded(y * scale, dtype), dtype),
    )
    c = tl.load(cos + position * D + d).to(tl.float32)
    s = tl.load(sin + position * D + d).to(tl.float32)
    return rounded(rounded(x * c, dtype) + rounded(y * s, dtype), dtype)


@jit
def _kernel(qkv, weight, cos, sin, slots, positions, keys, values, queries, L, eps,
            H: tl.constexpr, K: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """One program per row and head: queries first, then keys, then values."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, D)
    dtype: tl.constexpr = qkv.dtype.element_ty
    slot, position = tl.load(slots + row), tl.load(positions + row)
    own = qkv + row * (H + 2 * K) * D
    cached = (slot * L + position) * K
    if head < H:
        q = rotated_head(own, weight, cos, sin, head, position, eps, D)
        tl.store(queries + (row * H + head) * D + d, q.to(dtype))
    elif head < H + K:
        k = rotated_head(own, weight, cos, sin, head, position, eps, D)
        tl.store(keys + (cached + head - H) * D + d, k.to(dtype))
    else:
        tl.store(values + (cached + head - H - K) * D + d, tl.load(own + head * D + d))


def _launch(
    qkv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, positions: Tensor,
    keys: Tensor, values: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    K, D = keys.shape[2:]
    H = len(weight) - K
    queries = qkv.new_empty(len(qkv), H, D)
    _kernel[(len(qkv), H + 2 * K)](
        qkv, weight, cos, sin, slots, positions, keys, values, queries, keys.shape[1], eps,
        H=H, K=K, D=D,
    )  # fmt: skip
    return queries


def _fake(qkv: Tensor, weight: Tensor, *rest: Tensor | float) -> Tensor:
    keys = rest[4]
    assert isinstance(keys, Tensor)
    K, D = keys.shape[2:]
    return qkv.new_empty(len(qkv), len(weight) - K, D)


@fused(_launch, _fake, changes=("keys", "values"))
def store_heads(
    qkv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, positions: Tensor,
    keys: Tensor, values: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """Norm and rotate queries and keys, write keys and values; returns the queries [R, H, D].

    qkv: [R, (H + 2K) * D]; weight: [H + K, D]; cos, sin: [N, D], the first half of sin negated
    slots, positions: int64 [R]; keys, values: [S, L, K, D], written at (slot, position)
    """
    K, D = keys.shape[2:]
    H = len(weight) - K
    heads = qkv.view(len(qkv), H + 2 * K, D)
    qk = weight * functional.rms_norm(heads[:, : H + K], (D,), eps=eps)
    qk = qk * cos[positions][:, None] + qk.roll(D // 2, dims=-1) * sin[positions][:, None]
    keys.index_put_((slots, positions), qk[:, H:])
    values.index_put_((slots, positions), heads[:, H + K :])
    return torch.clone(qk[:, :H])
