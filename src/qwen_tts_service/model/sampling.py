"""Sampling: repetition penalty, temperature, top-k, top-p and the draw, with parameters per row.

The order is the one of the Qwen3-TTS reference implementation, qwen-tts 0.1.1 (transformers'
logits processors): repetition penalty, minimum length, temperature, top-k, top-p, one draw.
Its suppression of control ids needs no step: their logits are never computed. No row looks at
another, and no value depends on how many rows there are.

Letters: B rows, V choices (for codebook 0 the audio codes and, last, end of speech).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .state import SamplingState

MIN_FRAMES = 2
"""End of speech cannot be drawn before this many frames."""

MAX_TOP_K = 64
"""Largest top_k that a `Sampler` serves without sorting everything."""

_OUT = float("-inf")


FrameDraw = Callable[[Tensor, int], Tensor]
"""Chooses one of what is left: (logits float32 [B, V], -inf = excluded; codebook) -> int64 [B]"""


class Draw(Protocol):
    """A way to draw; `frame` prepares all draws of one frame at once."""

    def frame(self, seed: Tensor, frame: Tensor, codebooks: int, choices: int) -> FrameDraw:
        """seed, frame: int64 [B]; choices: the most that any codebook has."""


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor, frame: Tensor) -> Tensor:
    """Apply repetition penalty and minimum length to the logits of codebook 0.

    logits float32 [B, V], seen bool [B, V], penalty float32 [B], frame int64 [B] -> float32 [B, V]
    The penalty counts a token once, however often it was drawn ("CTRL", section 4.1).
    """
    factor = penalty[:, None]
    logits = torch.where(seen, torch.where(logits < 0, logits * factor, logits / factor), logits)
    is_end = torch.arange(logits.shape[1], device=logits.device) == logits.shape[1] - 1
    return logits.masked_fill(is_end & (frame < MIN_FRAMES)[:, None], _OUT)


class Sampler:
    """Chooses a code per row, codebook after codebook of one frame.

    sampling:  the rows' values, [B] each
    full_sort: False is cheaper and allowed when no row has top_p < 1 or top_k > MAX_TOP_K; the
               rows' results are the same bits either way
    """

    def __init__(self, sampling: SamplingState, draw: FrameDraw, *, full_sort: bool = True) -> None:
        self._draw = draw
        self._full_sort = full_sort
        greedy = (sampling.temperature == 0)[:, None]
        self._is_greedy = greedy[:, 0]
        self._temperature = sampling.temperature[:, None].masked_fill(greedy, 1.0)
        self._kth = (sampling.top_k - 1).clamp(min=0)[:, None]
        self._is_top_k_off = (sampling.top_k == 0)[:, None] | greedy
        self._dropped = (1 - sampling.top_p).float()[:, None]
        self._is_top_p_on = (sampling.top_p < 1)[:, None] & ~greedy

    def __call__(self, logits: Tensor, codebook: int) -> Tensor:
        """Choose from logits float32 [B, V]: int64 [B].

        Temperature 0 takes the best, the first of equals; otherwise the draw decides.
        """
        drawn = self._draw(self.filter(logits), codebook)
        return torch.where(self._is_greedy, logits.argmax(dim=1), drawn)

    def filter(self, logits: Tensor) -> Tensor:
        """Apply temperature, top-k and top-p to float32 [B, V]; what is excluded becomes -inf.

        Rows of temperature 0 come back as they are.
        """
        logits = logits / self._temperature
        if not self._full_sort:
            best = logits.topk(min(MAX_TOP_K, logits.shape[1]), dim=1).values
            return logits.masked_fill(logits < self._worst(best), _OUT)
        best, order = logits.sort(dim=1, descending=True, stable=True)
        worst = self._worst(best)
        # The reference sums the probabilities from the smallest up and drops those whose sum
        # stays within 1 - p; the best choice always stays.
        kept = best.masked_fill(best < worst, _OUT)
        sums = kept.softmax(dim=1).flip(1).cumsum(dim=1).flip(1)
        tail = (sums <= self._dropped) & self._is_top_p_on
        tail[:, 0] = False
        out = torch.zeros_like(tail).scatter(1, order, tail) | (logits < worst)
        return logits.masked_fill(out, _OUT)

    def _worst(self, best: Tensor) -> Tensor:
        """Return the k-th best of each row [B, 1]: what equals it stays; -inf without top-k."""
        kth = self._kth.clamp(max=best.shape[1] - 1)
        return best.gather(1, kth).masked_fill(self._is_top_k_off, _OUT)


_WORD = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64, in place (two rounds of multiply and xor-shift).

    The multipliers are below 2^31, so that no product leaves int64: the same on CPU and CUDA.
    """
    x.bitwise_xor_(x >> 15).mul_(0x2C1B3C6D).bitwise_and_(_WORD)
    x.bitwise_xor_(x >> 12).mul_(0x297A2D39).bitwise_and_(_WORD)
    return x.bitwise_xor_(x >> 15)


class CounterDraw:
    """Draws by a hash of (seed, frame, codebook, choice), an exponential race.

    The smallest of Eᵢ/pᵢ with Eᵢ ~ Exp(1) falls on i with probability pᵢ ("Gumbel-max"), so a
    draw needs no order among draws and no state: it depends on its own row alone.
    """

    def frame(self, seed: Tensor, frame: Tensor, codebooks: int, choices: int) -> FrameDraw:
        noise = self.noise(seed, frame, codebooks, choices)

        def draw(logits: Tensor, codebook: int) -> Tensor:
            return (logits - noise[:, codebook, : logits.shape[1]]).argmax(dim=1)

        return draw

    @staticmethod
    def noise(seed: Tensor, frame: Tensor, codebooks: int, choices: int) -> Tensor:
        """Return log Eᵢ, float32 [B, codebooks, choices]."""
        key = _mix((seed & _WORD) + 0x3C6EF372)
        key = _mix(key ^ ((seed >> 32) & _WORD))
        book = torch.arange(codebooks, device=seed.device)
        key = _mix(((key + frame * 64)[:, None] + book) & _WORD)[:, :, None]
        choice = torch.arange(choices, device=seed.device)
        words = _mix(_mix((key + choice * 0x1E3779B1).bitwise_and_(_WORD)).bitwise_xor_(key))
        # In float64 and then rounded: a vectorised and a scalar log may differ in the last
        # bit, and which one a value gets depends on how many rows there are.
        uniform = words.double().add_(0.5).mul_(-(2.0**-32))
        return uniform.log1p_().neg_().log_().float()
