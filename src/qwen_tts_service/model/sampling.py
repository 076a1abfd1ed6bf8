"""From logits to codes: penalties, filters and the draw, every row by its own parameters.

The order is the one of the Qwen3-TTS reference implementation, qwen-tts 0.1.1 (transformers'
logits processors): repetition penalty, minimum length, temperature, top-k, top-p, one draw.
Its suppression of control ids needs no step: their logits are never computed. No row looks at
another, and no value depends on how many rows there are. It does not know the networks.

Letters: B rows, V choices (for codebook 0 the audio codes and, last, end of speech).
"""

from typing import Protocol

import torch
from torch import Tensor

from .state import SamplingState

MIN_FRAMES = 2
"""End of speech cannot be drawn before this many frames."""

MAX_TOP_K = 64
"""Largest top_k that `filter_logits` serves without sorting everything."""

_OUT = float("-inf")


class Draw(Protocol):
    """Chooses one of the choices that are left."""

    def __call__(self, logits: Tensor, seed: Tensor, frame: Tensor, codebook: int) -> Tensor:
        """Choose from logits float32 [B, V], where -inf is excluded: int64 [B].

        seed, frame: int64 [B]
        """


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor, frame: Tensor) -> Tensor:
    """Apply repetition penalty and minimum length to the logits of codebook 0.

    logits float32 [B, V], seen bool [B, V], penalty float32 [B], frame int64 [B] -> float32 [B, V]
    The penalty counts a token once, however often it was drawn ("CTRL", section 4.1).
    """
    factor = penalty[:, None]
    logits = torch.where(seen, torch.where(logits < 0, logits * factor, logits / factor), logits)
    is_end = torch.arange(logits.shape[1], device=logits.device) == logits.shape[1] - 1
    return logits.masked_fill(is_end & (frame < MIN_FRAMES)[:, None], _OUT)


def filter_logits(logits: Tensor, sampling: SamplingState, *, full_sort: bool = True) -> Tensor:
    """Apply temperature, top-k and top-p; excluded choices become -inf.

    logits float32 [B, V] -> float32 [B, V]; rows of temperature 0 come back as they are
    full_sort: False is cheaper and allowed when no row has top_p < 1 or top_k > MAX_TOP_K; the
    rows' results are the same bits either way
    """
    choices = logits.shape[1]
    greedy = (sampling.temperature == 0)[:, None]
    logits = logits / sampling.temperature.masked_fill(greedy[:, 0], 1.0)[:, None]
    top_k = sampling.top_k.clamp(0, choices)
    if not full_sort:
        best = logits.topk(min(MAX_TOP_K, choices), dim=1).values
        return logits.masked_fill(_below_kth(logits, best, top_k) & ~greedy, _OUT)
    order = logits.argsort(dim=1, descending=True, stable=True)
    best = logits.gather(1, order)
    out = _below_kth(logits, best, top_k)
    # The reference sums the probabilities from the smallest up and drops those whose sum
    # stays within 1 - p; the best choice always stays.
    kept = best.masked_fill(out.gather(1, order), _OUT)
    sums = kept.softmax(dim=1).flip(1).cumsum(dim=1).flip(1)
    tail = (sums <= (1 - sampling.top_p).float()[:, None]) & (sampling.top_p < 1)[:, None]
    tail[:, 0] = False
    out = out | torch.zeros_like(out).scatter(1, order, tail)
    return logits.masked_fill(out & ~greedy, _OUT)


def _below_kth(logits: Tensor, best: Tensor, top_k: Tensor) -> Tensor:
    """Mark what lies below the k-th best of each row; ties with it stay, k = 0 marks nothing."""
    place = (top_k - 1).clamp(0, best.shape[1] - 1)[:, None]
    return (logits < best.gather(1, place)) & (top_k > 0)[:, None]


def sample(
    logits: Tensor,
    sampling: SamplingState,
    *,
    draw: Draw,
    seed: Tensor,
    frame: Tensor,
    codebook: int,
    full_sort: bool,
) -> Tensor:
    """Choose a token per row: the best for temperature 0 (the first of equals), else drawn.

    logits float32 [B, V] -> int64 [B]
    """
    filtered = filter_logits(logits, sampling, full_sort=full_sort)
    drawn = draw(filtered, seed, frame, codebook)
    return torch.where(sampling.temperature == 0, logits.argmax(dim=1), drawn)


_WORD = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64 (two rounds of multiply and xor-shift).

    The multipliers are below 2^31, so that no product leaves int64: the same on CPU and CUDA.
    """
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & _WORD
    x = ((x ^ (x >> 12)) * 0x297A2D39) & _WORD
    return x ^ (x >> 15)


class CounterDraw:
    """Draws by a hash of (seed, frame, codebook, choice), an exponential race.

    The smallest of Eᵢ/pᵢ with Eᵢ ~ Exp(1) falls on i with probability pᵢ ("Gumbel-max"), so a
    draw needs no order among draws and no state: it depends on its own row alone.
    """

    def __call__(self, logits: Tensor, seed: Tensor, frame: Tensor, codebook: int) -> Tensor:
        return (logits - self.noise(seed, frame, codebook, logits.shape[1])).argmax(dim=1)

    @staticmethod
    def noise(seed: Tensor, frame: Tensor, codebook: int, choices: int) -> Tensor:
        """Return log Eᵢ, float32 [B, choices]."""
        key = _mix((seed & _WORD) + 0x3C6EF372)
        key = _mix(key ^ ((seed >> 32) & _WORD))
        key = _mix((key + frame * 64 + codebook) & _WORD)
        choice = torch.arange(choices, device=seed.device)
        words = _mix(_mix((key[:, None] + choice * 0x1E3779B1) & _WORD) ^ key[:, None])
        # In float64 and then rounded: a vectorised and a scalar log may differ in the last
        # bit, and which one a value gets depends on how many rows there are.
        uniform = (words.double() + 0.5) / 2.0**32
        return (-torch.log1p(-uniform)).log().float()


class TorchDraw:
    """Draws with torch.multinomial from the global generator, as the reference implementation does.

    For comparing with it: one row at a time, since the order of draws matters. torch.multinomial
    uses up one random number per column, so codebook 0 is spread over the reference's columns.
    """

    def __init__(self, vocabulary: int, eos_id: int) -> None:
        self._vocabulary = vocabulary
        self._eos_id = eos_id

    def __call__(
        self,
        logits: Tensor,
        seed: Tensor,  # noqa: ARG002 - the generator is a global one
        frame: Tensor,  # noqa: ARG002 - and counts by itself
        codebook: int,
    ) -> Tensor:
        if codebook:
            return torch.multinomial(logits.softmax(dim=1), 1).squeeze(1)
        last = logits.shape[1] - 1
        wide = logits.new_full((logits.shape[0], self._vocabulary), _OUT)
        wide[:, :last] = logits[:, :last]
        wide[:, self._eos_id] = logits[:, last]
        drawn = torch.multinomial(wide.softmax(dim=1), 1).squeeze(1)
        return torch.where(drawn == self._eos_id, last, drawn)
