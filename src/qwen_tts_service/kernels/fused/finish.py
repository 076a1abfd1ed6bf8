"""The end of a frame: the next input of each row, and what its slot remembers.

Letters: B rows, S slots, Q codebooks, V codes per codebook, C width, R text rows.
"""

import torch
from torch import Tensor

from .jit import fused, jit, rounded, tl

_BLOCK = 256


@jit
def _kernel(codes, slots, frames, first_table, rest_table, text_rows, text_length, pad_row,
            next_input, frame, seen, V, Vs, R, C, Q: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    """One program per row and block of columns."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    dtype: tl.constexpr = next_input.dtype.element_ty
    slot, made = tl.load(slots + row), tl.load(frames + row)
    first = tl.load(codes + row * Q)
    total = tl.load(first_table + first * C + c, mask=inside, other=0.0).to(tl.float32)
    for book in tl.static_range(1, Q):
        at = (book - 1) * V + tl.load(codes + row * Q + book)
        total += tl.load(rest_table + at * C + c, mask=inside, other=0.0).to(tl.float32)
    has_text = made < tl.load(text_length + slot)
    text = tl.load(text_rows + (slot * R + made) * C + c, mask=inside & has_text, other=0.0)
    pad = tl.load(pad_row + c, mask=inside, other=0.0)
    total = rounded(total, dtype) + tl.where(has_text, text, pad).to(tl.float32)
    tl.store(next_input + slot * C + c, rounded(total, dtype).to(dtype), mask=inside)
    if block == 0:
        tl.store(frame + slot, made + 1)
        tl.store(seen + slot * Vs + first, True)


def _launch(
    codes: Tensor, slots: Tensor, frames: Tensor, first_table: Tensor, rest_table: Tensor,
    text_rows: Tensor, text_length: Tensor, pad_row: Tensor, next_input: Tensor, frame: Tensor,
    seen: Tensor,
) -> None:  # fmt: skip
    B, Q = codes.shape
    R, C = text_rows.shape[1:]
    _kernel[(B, -(-C // _BLOCK))](
        codes, slots, frames, first_table, rest_table, text_rows, text_length, pad_row,
        next_input, frame, seen, len(rest_table) // (Q - 1), seen.shape[1], R, C,
        Q=Q, BLOCK=_BLOCK,
    )  # fmt: skip


def _fake(*_arguments: Tensor) -> None:
    return None


@fused(_launch, _fake, changes=("next_input", "frame", "seen"))
def finish_frame(
    codes: Tensor, slots: Tensor, frames: Tensor, first_table: Tensor, rest_table: Tensor,
    text_rows: Tensor, text_length: Tensor, pad_row: Tensor, next_input: Tensor, frame: Tensor,
    seen: Tensor,
) -> None:  # fmt: skip
    """Set the slots' next input: the sum of the frame's embeddings, and its text row.

    codes: int64 [B, Q]; slots, frames: int64 [B], the latter the frames made before this one
    first_table: [rows, C] of codebook 0; rest_table: [(Q - 1) * V, C]; text_rows: [S, R, C], of
    which `text_length` [S] are there, then `pad_row` [1, C]
    next_input [S, C], frame int64 [S], seen bool [S, ...]: written for the slots
    """
    books = codes.shape[1] - 1
    first_of = torch.arange(books, device=codes.device) * (len(rest_table) // books)
    rest = rest_table[codes[:, 1:] + first_of]
    embedded = torch.cat((first_table[codes[:, :1]], rest), dim=1).sum(dim=1)
    text = text_rows[slots, frames.clamp(max=text_rows.shape[1] - 1)]
    has_text = (frames < text_length[slots])[:, None]
    next_input.index_put_((slots,), embedded + torch.where(has_text, text, pad_row))
    frame.index_put_((slots,), frames + 1)
    seen.index_put_((slots, codes[:, 0]), torch.ones_like(slots, dtype=torch.bool))
