"""State of the slots from frame to frame: KV cache, sampling parameters, text rows.

All tensors are allocated once and filled in place, never rebound, so that a CUDA graph that has
seen them stays right.

Letters: S slots, L positions, K key/value heads, D head size, C width, V = codes + 1 (the last is
end of speech), R text rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qwen_tts_service.kernels.device import upload, zeros
from qwen_tts_service.types import SamplingOptions

from .config import ModelConfig


@dataclass(frozen=True, slots=True)
class SamplingState:
    """How slots draw: temperature float [S], top_k int64 [S] (0 = off), top_p float64 [S]."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor

    def rows(self, slots: Tensor) -> "SamplingState":
        """Return the values of the slots [B], each [B]; the temperatures as float32."""
        temperature = self.temperature[slots].float()
        return SamplingState(temperature, self.top_k[slots], self.top_p[slots])


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """Everything the talker and the code predictor remember.

    keys, values: [layers, S, L, K, D]; positions from `length` on are undefined
    next_input:   [S, C], what the next frame step feeds the talker
    logits:       float32 [S, V], codebook 0 of the last frame before any processing
    text_rows:    [S, R, C], added to the inputs of frames 0, 1, ...; tts_pad after `text_length`
    seen:         bool [S, V], tokens of codebook 0 drawn so far
    integers:     int64 [6, S], reals: float64 [5, S]: one column per slot, so that two copies set
                  all numbers of a slot; the properties below are the rows
    """

    keys: Tensor
    values: Tensor
    next_input: Tensor
    logits: Tensor
    text_rows: Tensor
    seen: Tensor
    integers: Tensor
    reals: Tensor

    @property
    def length(self) -> Tensor:
        """int64 [S], positions in the cache = the position of `next_input`."""
        return self.integers[0]

    @property
    def frame(self) -> Tensor:
        """int64 [S], frames made."""
        return self.integers[1]

    @property
    def seed(self) -> Tensor:
        """int64 [S]."""
        return self.integers[2]

    @property
    def text_length(self) -> Tensor:
        """int64 [S], text rows that are there."""
        return self.integers[3]

    @property
    def repetition_penalty(self) -> Tensor:
        """float64 [S]."""
        return self.reals[0]

    @property
    def talker_sampling(self) -> SamplingState:
        """How codebook 0 is drawn."""
        return SamplingState(self.reals[1], self.integers[4], self.reals[2])

    @property
    def predictor_sampling(self) -> SamplingState:
        """How the other codebooks are drawn."""
        return SamplingState(self.reals[3], self.integers[5], self.reals[4])

    @property
    def max_positions(self) -> int:
        """Positions that a slot has."""
        return self.keys.shape[2]

    def begin(
        self,
        slot: int,
        *,
        length: int,
        seed: int,
        text_rows: int,
        talker: SamplingOptions,
        predictor: SamplingOptions,
    ) -> None:
        """Set all numbers of a slot for a new utterance, without a wait for the device."""
        integers = (length, 0, seed, text_rows, talker.top_k, predictor.top_k)
        drawing = (talker.temperature, talker.top_p, predictor.temperature, predictor.top_p)
        reals = (talker.repetition_penalty, *drawing)
        for table, numbers in ((self.integers, integers), (self.reals, reals)):
            table[:, slot] = upload(torch.tensor(numbers, dtype=table.dtype), table.device)
        self.seen[slot].fill_(False)


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
        next_input=numbers(slots, width),
        logits=numbers(slots, choices, of=torch.float32),
        text_rows=numbers(slots, max_text_rows, width),
        seen=numbers(slots, choices, of=torch.bool),
        integers=numbers(6, slots, of=torch.int64),
        reals=torch.ones(5, slots, dtype=torch.float64, device=device),
    )
