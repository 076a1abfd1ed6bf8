"""The code predictor's attention: head norms, rotation, cache and softmax in one kernel.

A frame has at most N positions, the same for all rows, so that a row's cache fits the registers.

Letters: B rows, T new positions, H heads, K key/value heads, D head size, N positions.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .heads import rotated_head
from .jit import fused, jit, rounded, tl


@jit
def _kernel(qkv, weight, cos, sin, keys, values, out, start, eps, scale,
            T: tl.constexpr, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
            N: tl.constexpr):  # fmt: skip
    """One program per row and key head; rounds wherever the plain definition does."""
    row, key_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    G: tl.constexpr = H // K
    dtype: tl.constexpr = qkv.dtype.element_ty
    d, n = tl.arange(0, D), tl.arange(0, N)
    cached = ((row * N + n) * K + key_head)[:, None] * D + d[None, :]
    old = (n < start)[:, None]
    k = tl.load(keys + cached, mask=old, other=0.0).to(tl.float32)
    v = tl.load(values + cached, mask=old, other=0.0).to(tl.float32)
    for t in tl.static_range(T):
        position = start + t
        own = qkv + (row * T + t) * (H + 2 * K) * D
        new_k = rotated_head(own, weight, cos, sin, H + key_head, position, eps, D)
        new_v = tl.load(own + (H + K + key_head) * D + d).to(tl.float32)
        target = ((row * N + position) * K + key_head) * D + d
        tl.store(keys + target, new_k.to(dtype))
        tl.store(values + target, new_v.to(dtype))
        new = (n == position)[:, None]
        k, v = tl.where(new, new_k[None, :], k), tl.where(new, new_v[None, :], v)
        for group in tl.static_range(G):
            head = key_head * G + group
            q = rotated_head(own, weight, cos, sin, head, position, eps, D)
            score = rounded(rounded(tl.sum(k * q[None, :], axis=1), dtype) * scale, dtype)
            score = tl.where(n <= position, score, -float("inf"))
            share = tl.exp(score - tl.max(score, axis=0))
            share = rounded(share / tl.sum(share, axis=0), dtype)
            total = rounded(tl.sum(v * share[:, None], axis=0), dtype)
            tl.store(out + ((row * T + t) * H + head) * D + d, total.to(dtype))


def _launch(
    qkv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor,
    start: int, eps: float,
) -> Tensor:  # fmt: skip
    B, T = qkv.shape[:2]
    N, K, D = keys.shape[1:]
    H = len(weight) - K
    out = qkv.new_empty(B, T, H * D)
    _kernel[(B, K)](
        qkv, weight, cos, sin, keys, values, out, start, eps, D**-0.5, T=T, H=H, K=K, D=D, N=N
    )
    return out


def _fake(
    qkv: Tensor, weight: Tensor, _cos: Tensor, _sin: Tensor, keys: Tensor, *_rest: object
) -> Tensor:
    K, D = keys.shape[2:]
    return qkv.new_empty(*qkv.shape[:2], (len(weight) - K) * D)


@fused(_launch, _fake, changes=("keys", "values"))
def predictor_attention(
    qkv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor,
    start: int, eps: float,
) -> Tensor:  # fmt: skip
    """Add the positions `start` to `start` + T - 1 of every row and attend: [B, T, H * D].

    qkv: [B, T, (H + 2K) * D]; weight: [H + K, D]; cos, sin: [N, D]; keys, values: [B, N, K, D],
    of which `start` positions are filled; N: a power of 2
    """
    B, T = qkv.shape[:2]
    K, D = keys.shape[2:]
    H, end = len(weight) - K, start + T
    heads = qkv.view(B, T, H + 2 * K, D)
    qk = weight * functional.rms_norm(heads[:, :, : H + K], (D,), eps=eps)
    qk = qk * cos[start:end, None] + qk.roll(D // 2, dims=-1) * sin[start:end, None]
    keys[:, start:end], values[:, start:end] = qk[:, :, H:], heads[:, :, H + K :]
    k, v = (x[:, :end].transpose(1, 2).contiguous() for x in (keys, values))
    queries = qk[:, :, :H].transpose(1, 2).reshape(B, K, H // K * T, D)
    scores = torch.matmul(queries, k.transpose(2, 3)) * D**-0.5
    future = torch.ones(T, end, dtype=torch.bool, device=qkv.device).triu(start + 1)
    scores = scores.view(B, K, -1, T, end).masked_fill(future, float("-inf")).view(B, K, -1, end)
    out = torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(qkv.dtype), v)
    return out.view(B, H, T, D).transpose(1, 2).reshape(B, T, H * D)
