"""Attention of single positions over the KV cache, read where it lies.

Spans of SPAN positions are attended to on their own and then merged, in an order that depends on
the row alone ("FlashDecoding", with a fixed split): a row's bits are the same alone and in company.

Letters: R rows, H heads, K key/value heads, D head size, S slots, L positions, M spans.
"""

import torch
from torch import Tensor

from .jit import fused, jit, rounded, tl

SPAN = 128
_BLOCK = 32


@jit
def _attend_span(queries, keys, values, slots, positions, parts, weights, L, scale,
                 H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
                 SPAN: tl.constexpr):  # fmt: skip
    """One program per row, key head and span; leaves [D] sums, their largest score and weight."""
    row, key_head, span = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    G: tl.constexpr = H // K
    length, slot = tl.load(positions + row) + 1, tl.load(slots + row)
    start = span * SPAN
    if start < length:
        d, n = tl.arange(0, D), tl.arange(0, BLOCK)
        end = tl.minimum(start + SPAN, length)
        for group in tl.static_range(G):
            head = key_head * G + group
            q = tl.load(queries + (row * H + head) * D + d).to(tl.float32) * scale
            top, weight = -float("inf"), 0.0
            total = tl.zeros([D], tl.float32)
            for first in range(start, end, BLOCK):
                inside = first + n < length
                cached = ((slot * L + first + n) * K + key_head)[:, None] * D + d[None, :]
                k = tl.load(keys + cached, mask=inside[:, None], other=0.0).to(tl.float32)
                score = tl.where(inside, tl.sum(k * q[None, :], axis=1), -float("inf"))
                new_top = tl.maximum(top, tl.max(score, axis=0))
                share, faded = tl.exp(score - new_top), tl.exp(top - new_top)
                v = tl.load(values + cached, mask=inside[:, None], other=0.0).to(tl.float32)
                total = total * faded + tl.sum(v * share[:, None], axis=0)
                weight = weight * faded + tl.sum(share, axis=0)
                top = new_top
            part = (row * H + head) * tl.num_programs(2) + span
            tl.store(parts + part * D + d, total)
            tl.store(weights + part * 2, top)
            tl.store(weights + part * 2 + 1, weight)


@jit
def _merge(parts, weights, positions, out, M, H: tl.constexpr, D: tl.constexpr, SPAN: tl.constexpr):
    """One program per row and head: the spans, one after the other."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, D)
    top, weight = -float("inf"), 0.0
    total = tl.zeros([D], tl.float32)
    for span in range(tl.load(positions + row) // SPAN + 1):
        part = (row * H + head) * M + span
        span_top, span_weight = tl.load(weights + part * 2), tl.load(weights + part * 2 + 1)
        new_top = tl.maximum(top, span_top)
        faded, share = tl.exp(top - new_top), tl.exp(span_top - new_top)
        total = total * faded + tl.load(parts + part * D + d) * share
        weight = weight * faded + span_weight * share
        top = new_top
    dtype: tl.constexpr = out.dtype.element_ty
    tl.store(out + (row * H + head) * D + d, rounded(total / weight, dtype).to(dtype))


def _launch(
    queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor
) -> Tensor:
    R, H, D = queries.shape
    L, K = keys.shape[1:3]
    spans = -(-L // SPAN)
    parts = torch.empty(R, H, spans, D, dtype=torch.float32, device=queries.device)
    weights = torch.empty(R, H, spans, 2, dtype=torch.float32, device=queries.device)
    _attend_span[(R, K, spans)](
        queries, keys, values, slots, positions, parts, weights, L, D**-0.5,
        H=H, K=K, D=D, BLOCK=_BLOCK, SPAN=SPAN,
    )  # fmt: skip
    out = queries.new_empty(R, H * D)
    _merge[(R, H)](parts, weights, positions, out, spans, H=H, D=D, SPAN=SPAN)
    return out


def _fake(queries: Tensor, *_rest: Tensor) -> Tensor:
    R, H, D = queries.shape
    return queries.new_empty(R, H * D)


@fused(_launch, _fake, kernels=2)
def decode_attention(
    queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor
) -> Tensor:
    """Attend from one position per row to it and all before it in its slot: [R, H * D].

    queries: [R, H, D]; keys, values: [S, L, K, D]; slots, positions: int64 [R]
    Scale 1/√D, float32 inside; the kernel's sums are split, so it differs from this definition by
    float32's last bits.
    """
    R, H, D = queries.shape
    L, K = keys.shape[1:3]
    q = queries.float().view(R, K, H // K, D)
    k, v = (x[slots].transpose(1, 2).float() for x in (keys, values))
    hidden = torch.arange(L, device=queries.device) > positions[:, None]
    scores = torch.matmul(q, k.transpose(2, 3)) * D**-0.5
    shares = scores.masked_fill(hidden[:, None, None], float("-inf")).softmax(dim=-1)
    v = v.masked_fill(hidden[:, None, :, None], 0.0)  # what lies there may be NaN
    return torch.matmul(shares, v).view(R, H * D).to(queries.dtype)
