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

from qwen_tts_service.kernels.fused.choose import ChoiceFilter
from qwen_tts_service.kernels.fused.choose import penalise as penalise_before
from qwen_tts_service.kernels.fused.noise import race_noise

from .state import SamplingState

MIN_FRAMES = 2
"""End of speech cannot be drawn before this many frames."""

MAX_TOP_K = 64
"""Largest top_k that a `Sampler` serves without sorting everything."""


FrameDraw = Callable[[Tensor, int], Tensor]
"""Chooses one of what is left: (logits float32 [B, V], -inf = excluded; codebook) -> int64 [B]"""


class Draw(Protocol):
    """A way to draw; `frame` prepares all draws of one frame at once."""

    def frame(self, seed: Tensor, frame: Tensor, codebooks: int, choices: int) -> FrameDraw:
        """seed, frame: int64 [B]; choices: the most that any codebook has."""


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor, frame: Tensor) -> Tensor:
    """Apply repetition penalty and minimum length to the logits of codebook 0.

    logits float32 [B, V], seen bool [B, V], penalty float32 [B], frame int64 [B] -> float32 [B, V]
    """
    return penalise_before(logits, seen, penalty, frame, MIN_FRAMES)


class Sampler:
    """Chooses a code per row, codebook after codebook of one frame.

    sampling:  the rows' values, [B] each
    full_sort: False is cheaper and allowed when no row has top_p < 1 or top_k > MAX_TOP_K; the
               rows' results are the same bits either way
    """

    def __init__(self, sampling: SamplingState, draw: FrameDraw, *, full_sort: bool = True) -> None:
        self._draw = draw
        self._full_sort = full_sort
        self._filter = ChoiceFilter.of(sampling.temperature, sampling.top_k, sampling.top_p)

    def __call__(self, logits: Tensor, codebook: int) -> Tensor:
        """Choose from logits float32 [B, V]: int64 [B].

        Temperature 0 takes the best, the first of equals; otherwise the draw decides.
        """
        drawn = self._draw(self.filter(logits), codebook)
        return torch.where(self._filter.is_greedy[:, 0], logits.argmax(dim=1), drawn)

    def filter(self, logits: Tensor) -> Tensor:
        """Apply temperature, top-k and top-p to float32 [B, V]; what is excluded becomes -inf.

        Rows of temperature 0 come back as they are.
        """
        if self._full_sort:
            return self._filter.apply(logits)
        return self._filter.apply_top_k(logits, MAX_TOP_K)


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
        return race_noise.plain(seed, frame, codebooks, choices)
