"""Drawing a code: temperature, exact top-k and top-p, the exponential race, and the code's
embedding, in one kernel (see model/sampling.py for the order and its source).

Letters: B rows, S slots, V choices, Q codebooks, W choices that noise was made for, C width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .jit import fused, jit, next_power_of_2, tl

_COLUMNS = 1024
_OUT = float("-inf")


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
    choices = ChoiceFilter.of(temperature[slots].float(), top_k[slots], top_p[slots])
    race = noise[:, book, : logits.shape[1]].masked_fill(choices.is_greedy, 0.0)
    race = choices.apply(logits.float()) - race
    code = race.argmax(dim=1)
    codes[:, book] = code
    return table[first_row + code.masked_fill(code == end, 0)]


@dataclass(frozen=True, slots=True)
class ChoiceFilter:
    """Temperature, top-k and top-p of B rows, made ready once per frame; [B, 1] each."""

    is_greedy: Tensor
    temperature: Tensor
    kth: Tensor
    is_top_k_off: Tensor
    dropped: Tensor
    is_top_p_on: Tensor

    @classmethod
    def of(cls, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> "ChoiceFilter":
        """Take temperature float32, top_k int64, top_p float64, [B] each; 0, 0 and 1 are off."""
        is_greedy = (temperature == 0)[:, None]
        return cls(
            is_greedy=is_greedy,
            temperature=temperature[:, None].masked_fill(is_greedy, 1.0),
            kth=(top_k - 1).clamp(min=0)[:, None],
            is_top_k_off=(top_k == 0)[:, None] | is_greedy,
            dropped=(1 - top_p).float()[:, None],
            is_top_p_on=(top_p < 1)[:, None] & ~is_greedy,
        )

    def apply(self, logits: Tensor) -> Tensor:
        """Filter float32 [B, V] by sorting; what is excluded becomes -inf.

        Rows of temperature 0 come back as they are.
        """
        logits = logits / self.temperature
        best, order = logits.sort(dim=1, descending=True, stable=True)
        worst = self._worst(best)
        # The reference sums the probabilities from the smallest up and drops those whose sum
        # stays within 1 - p; the best choice always stays.
        kept = best.masked_fill(best < worst, _OUT)
        sums = kept.softmax(dim=1).flip(1).cumsum(dim=1).flip(1)
        tail = (sums <= self.dropped) & self.is_top_p_on
        tail[:, 0] = False
        out = torch.zeros_like(tail).scatter(1, order, tail) | (logits < worst)
        return logits.masked_fill(out, _OUT)

    def apply_top_k(self, logits: Tensor, most: int) -> Tensor:
        """Do the same, cheaper, where no row has top_p < 1 or top_k > `most`; the same bits."""
        logits = logits / self.temperature
        best = logits.topk(min(most, logits.shape[1]), dim=1).values
        return logits.masked_fill(logits < self._worst(best), _OUT)

    def _worst(self, best: Tensor) -> Tensor:
        """Return the k-th best of each row [B, 1]: what equals it stays; -inf without top-k."""
        kth = self.kth.clamp(max=best.shape[1] - 1)
        return best.gather(1, kth).masked_fill(self.is_top_k_off, _OUT)


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
    return penalise(logits, seen[slots], penalty[slots].float(), frames, least)


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor, frames: Tensor, least: int) -> Tensor:
    """Apply repetition penalty and minimum length to the logits of codebook 0.

    logits float32 [B, V], seen bool [B, V], penalty float32 [B], frames int64 [B] -> float32 [B, V]
    The penalty counts a token once, however often it was drawn ("CTRL", section 4.1).
    """
    factor = penalty[:, None]
    logits = torch.where(seen, torch.where(logits < 0, logits * factor, logits / factor), logits)
    is_end = torch.arange(logits.shape[1], device=logits.device) == logits.shape[1] - 1
    return logits.masked_fill(is_end & (frames < least)[:, None], _OUT)
