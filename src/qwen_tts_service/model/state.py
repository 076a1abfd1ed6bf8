"""State of the slots from frame to frame: KV cache, sampling parameters, text rows.

All tensors are allocated once and filled in place, never rebound, so that a CUDA graph that has
seen them stays right.

Letters: S slots, L positions, K key/value heads, D head size, C width, V = codes + 1 (the last is
end of speech), R text rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qwen_tts_service.kernels.device import zeros
from qwen_tts_service.types import SamplingOptions

from .config import ModelConfig


@dataclass(frozen=True, slots=True)
class SamplingState:
    """How slots draw: temperature float32 [S], top_k int64 [S] (0 = off), top_p float64 [S]."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor

    @classmethod
    def allocate(cls, slots: int, device: torch.device) -> "SamplingState":
        return cls(
            torch.zeros(slots, device=device),
            torch.zeros(slots, dtype=torch.int64, device=device),
            torch.ones(slots, dtype=torch.float64, device=device),
        )

    def put(self, slot: int, options: SamplingOptions) -> None:
        """Fill one slot; temperature 0 is greedy."""
        self.temperature[slot].fill_(options.temperature)
        self.top_k[slot].fill_(options.top_k)
        self.top_p[slot].fill_(options.top_p)

    def rows(self, slots: Tensor) -> "SamplingState":
        """Return the values of the slots [B], each [B]."""
        return SamplingState(*(x[slots] for x in (self.temperature, self.top_k, self.top_p)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """Everything the talker and the code predictor remember.

    keys, values: [layers, S, L, K, D]; positions from `length` on are rubbish
    length:       int64 [S], positions in the cache = the position of `next_input`
    frame:        int64 [S], frames made
    next_input:   [S, C], what the next frame step feeds the talker
    logits:       float32 [S, V], codebook 0 of the last frame before any processing
    text_rows:    [S, R, C], added to the inputs of frames 0, 1, ...; tts_pad after `text_length`
    text_length:  int64 [S]
    seen:         bool [S, V], tokens of codebook 0 drawn so far
    seed:         int64 [S]
    repetition_penalty: float32 [S]
    """

    keys: Tensor
    values: Tensor
    length: Tensor
    frame: Tensor
    next_input: Tensor
    logits: Tensor
    text_rows: Tensor
    text_length: Tensor
    seen: Tensor
    seed: Tensor
    repetition_penalty: Tensor
    talker_sampling: SamplingState
    predictor_sampling: SamplingState

    @property
    def max_positions(self) -> int:
        return self.keys.shape[2]


def allocate_slots(
    config: ModelConfig,
    *,
    slots: int,
    max_positions: int,
    max_text_rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> SlotState:
    """Return zeroed state; the key/value cache is nearly all of its memory."""
    talker, width, choices = config.talker, config.width, config.codes + 1
    cache = (talker.layers, slots, max_positions, talker.kv_heads, talker.head_size)

    def numbers(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return zeros(*shape, dtype=of, device=device)

    return SlotState(
        keys=numbers(*cache),
        values=numbers(*cache),
        length=numbers(slots, of=torch.int64),
        frame=numbers(slots, of=torch.int64),
        next_input=numbers(slots, width),
        logits=numbers(slots, choices, of=torch.float32),
        text_rows=numbers(slots, max_text_rows, width),
        text_length=numbers(slots, of=torch.int64),
        seen=numbers(slots, choices, of=torch.bool),
        seed=numbers(slots, of=torch.int64),
        repetition_penalty=torch.ones(slots, device=device),
        talker_sampling=SamplingState.allocate(slots, device),
        predictor_sampling=SamplingState.allocate(slots, device),
    )
