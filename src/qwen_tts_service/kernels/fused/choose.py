"""Drawing a code: temperature, exact top-k and top-p, the exponential race, and the code's
embedding, in one kernel (see model/sampling.py for the order and its source).

Letters: B rows, S slots, V choices, Q codebooks, W choices that noise was made for, C width.
"""

import torch
from torch import Tensor

from .jit import fused, jit, next_power_of_2, tl

_COLUMNS = 1024


@jit
def _order(x):
    """float32 -> int32 that sorts alike; -0.0 and 0.0 are the same."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@jit
def _kernel(logits, noise, slots, temperatures, top_ks, top_ps, table, first_row, codes, embedded,
            book, end, V, W, Q, C, P: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """One program per row; thresholds are found by bisection over the order of float32."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    choice = tl.arange(0, P)
    inside = choice < V
    score = tl.load(logits + row * V + choice, mask=inside, other=-float("inf")).to(tl.float32)
    temperature = tl.load(temperatures + slot).to(tl.float32)
    k = tl.load(top_ks + slot)
    dropped = (1.0 - tl.load(top_ps + slot)).to(tl.float32)
    is_greedy = temperature == 0.0
    score = score / tl.where(is_greedy, 1.0, temperature)
    rank = _order(score)
    low = tl.min(tl.where(inside, rank, 0x7FFFFFFF), axis=0).to(tl.int64)
    high = tl.max(tl.where(inside, rank, -0x7FFFFFFF), axis=0).to(tl.int64)
    top, least = high, low
    for _ in range(32):  # the largest threshold that keeps at least k
        middle = (low + high + 1) >> 1
        keeps = tl.sum(tl.where(inside & (rank >= middle.to(tl.int32)), 1, 0), axis=0) >= k
        low = tl.where(keeps, middle, low)
        high = tl.where(keeps, high, middle - 1)
    kept = inside & ((k == 0) | is_greedy | (rank >= low.to(tl.int32)))
    if (dropped > 0.0) & ~is_greedy:
        best = tl.max(tl.where(kept, score, -float("inf")), axis=0)
        weight = tl.where(kept, tl.exp(score - best), 0.0)
        weight = weight / tl.sum(weight, axis=0)
        low, high = least - 1, top
        for _ in range(33):  # the largest threshold up to which all together may go
            middle = (low + high + 1) >> 1
            below = tl.sum(tl.where(rank <= middle.to(tl.int32), weight, 0.0), axis=0) <= dropped
            low = tl.where(below, middle, low)
            high = tl.where(below, high, middle - 1)
        gone = rank <= low.to(tl.int32)
        # Of the next, which are equal, the last ones go as long as there is room for them.
        next_rank = tl.min(tl.where(kept & ~gone, rank, 0x7FFFFFFF), axis=0)
        equal = kept & (rank == next_rank)
        sum_gone = tl.sum(tl.where(gone, weight, 0.0), axis=0)
        from_last = tl.cumsum(tl.where(equal, weight, 0.0), axis=0, reverse=True)
        gone = gone | (equal & (sum_gone + from_last <= dropped))
        first_best = tl.min(tl.where(kept & (rank == top.to(tl.int32)), choice, P), axis=0)
        kept = kept & (~gone | (choice == first_best))
    race = tl.load(noise + (row * Q + book) * W + choice, mask=inside, other=0.0)
    race = tl.where(kept, score - tl.where(is_greedy, 0.0, race), -float("inf"))
    code = tl.argmax(race, axis=0, tie_break_left=True).to(tl.int64)
    tl.store(codes + row * Q + book, code)
    source = first_row + tl.where(code == end, 0, code)
    for start in range(0, C, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        value = tl.load(table + source * C + c, mask=c < C)
        tl.store(embedded + row * C + c, value, mask=c < C)


def _launch(
    logits: Tensor, noise: Tensor, slots: Tensor, temperature: Tensor, top_k: Tensor,
    top_p: Tensor, table: Tensor, first_row: int, codes: Tensor, book: int, end: int,
) -> Tensor:  # fmt: skip
    B, V = logits.shape
    _, Q, W = noise.shape
    C = table.shape[1]
    embedded = table.new_empty(B, C)
    _kernel[(B,)](
        logits, noise, slots, temperature, top_k, top_p, table, first_row, codes, embedded,
        book, end, V, W, Q, C, P=next_power_of_2(V), COLUMNS=_COLUMNS, num_warps=8,
    )  # fmt: skip
    return embedded


def _fake(logits: Tensor, *rest: Tensor | int) -> Tensor:
    table = rest[5]
    assert isinstance(table, Tensor)
    return table.new_empty(len(logits), table.shape[1])


@fused(_launch, _fake, changes=("codes",))
def choose_code(
    logits: Tensor, noise: Tensor, slots: Tensor, temperature: Tensor, top_k: Tensor,
    top_p: Tensor, table: Tensor, first_row: int, codes: Tensor, book: int, end: int,
) -> Tensor:  # fmt: skip
    """Draw a code per row into codes[:, book]; returns its embeddings [B, C].

    logits: float [B, V]; noise: float32 [B, Q, W], of `race_noise`; slots: int64 [B]
    temperature float, top_k int64, top_p float64: [S]; 0, 0 and 1 are off
    table: [rows, C], in which code 0 of this codebook is `first_row`
    end: the code that has no embedding, and gets that of code 0; -1 for none
    """
    warmth = temperature[slots].float()
    greedy = warmth == 0
    kept = keep_choices(logits.float(), warmth, top_k[slots], top_p[slots])
    race = kept - noise[:, book, : logits.shape[1]].masked_fill(greedy[:, None], 0.0)
    code = race.argmax(dim=1)
    codes[:, book] = code
    return table[first_row + code.masked_fill(code == end, 0)]


def keep_choices(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Apply temperature, top-k and top-p [B] to float32 [B, V]; what is excluded becomes -inf."""
    greedy = (temperature == 0)[:, None]
    logits = logits / temperature[:, None].masked_fill(greedy, 1.0)
    best, order = logits.sort(dim=1, descending=True, stable=True)
    kth = (top_k - 1).clamp(0, best.shape[1] - 1)[:, None]
    worst = best.gather(1, kth).masked_fill((top_k == 0)[:, None] | greedy, float("-inf"))
    # From the least likely up, what together has no more than 1 - p goes, but never the best.
    shares = best.masked_fill(best < worst, float("-inf")).softmax(dim=1)
    sums = shares.flip(1).cumsum(dim=1).flip(1)
    tail = (sums <= (1 - top_p).float()[:, None]) & (top_p < 1)[:, None] & ~greedy
    tail[:, 0] = False
    gone = torch.zeros_like(tail).scatter(1, order, tail) | (logits < worst)
    return logits.masked_fill(gone, float("-inf"))


@jit
def _penalise(logits, slots, penalties, frames, seen, kept_logits, out, least, V,
              BLOCK: tl.constexpr):  # fmt: skip
    """One program per row and block of choices."""
    row, choice = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = choice < V
    slot = tl.load(slots + row)
    x = tl.load(logits + row * V + choice, mask=inside, other=0.0).to(tl.float32)
    tl.store(kept_logits + slot * V + choice, x, mask=inside)
    penalty = tl.load(penalties + slot).to(tl.float32)
    was_seen = tl.load(seen + slot * V + choice, mask=inside, other=0) != 0
    x = tl.where(was_seen, tl.where(x < 0, x * penalty, x / penalty), x)
    is_early = (tl.load(frames + row) < least) & (choice == V - 1)
    tl.store(out + row * V + choice, tl.where(is_early, -float("inf"), x), mask=inside)


def _launch_penalise(
    logits: Tensor, slots: Tensor, penalty: Tensor, frames: Tensor, seen: Tensor, kept: Tensor,
    least: int,
) -> Tensor:  # fmt: skip
    B, V = logits.shape
    out = torch.empty(B, V, dtype=torch.float32, device=logits.device)
    grid = (B, -(-V // _COLUMNS))
    _penalise[grid](logits, slots, penalty, frames, seen, kept, out, least, V, BLOCK=_COLUMNS)
    return out


def _fake_penalise(logits: Tensor, *_rest: object) -> Tensor:
    return logits.new_empty(logits.shape, dtype=torch.float32)


@fused(_launch_penalise, _fake_penalise, changes=("kept",))
def penalise_logits(
    logits: Tensor, slots: Tensor, penalty: Tensor, frames: Tensor, seen: Tensor, kept: Tensor,
    least: int,
) -> Tensor:  # fmt: skip
    """Apply repetition penalty and minimum length to codebook 0: float32 [B, V].

    logits: float [B, V], the last choice is end of speech, excluded before frame `least`
    frames: int64 [B], of each row; penalty float [S], seen bool [S, V]: of the slots
    kept: float32 [S, V], where the unchanged logits are left
    """
    logits = logits.float()
    kept.index_put_((slots,), logits)
    factor = penalty[slots].float()[:, None]
    lowered = torch.where(logits < 0, logits * factor, logits / factor)
    out = torch.where(seen[slots], lowered, logits)
    out[:, -1] = out[:, -1].masked_fill(frames < least, float("-inf"))
    return out
