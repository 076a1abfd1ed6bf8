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
from .prompt_embeddings import PromptEmbeddings


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

    def begin(self, integers: Tensor, reals: Tensor, next_input: Tensor) -> None:
        """Set a slot for a new utterance: what `StartNumbers` has, and the first input [C].

        No number is read by the host, so that a CUDA graph can do it.
        """
        slot = integers[:1]
        self.integers.index_copy_(1, slot, integers[1:, None])
        self.reals.index_copy_(1, slot, reals[:, None])
        self.seen.index_fill_(0, slot, False)
        self.next_input.index_copy_(0, slot, next_input[None])


@dataclass(frozen=True, slots=True)
class StartNumbers:
    """The numbers that an utterance starts with.

    integers: the slot, then a column of `SlotState.integers`; reals: a column of `SlotState.reals`
    """

    integers: tuple[int, ...]
    reals: tuple[float, ...]

    @classmethod
    def of(
        cls,
        slot: int,
        prompt: PromptEmbeddings,
        *,
        seed: int,
        talker: SamplingOptions,
        predictor: SamplingOptions,
    ) -> "StartNumbers":
        """Collect what a prompt and a way of drawing say."""
        lengths = (len(prompt.rows) - 1, 0, seed, len(prompt.text_rows))
        drawing = (talker.temperature, talker.top_p, predictor.temperature, predictor.top_p)
        return cls(
            (slot, *lengths, talker.top_k, predictor.top_k), (talker.repetition_penalty, *drawing)
        )

    def tensors(self) -> tuple[Tensor, Tensor]:
        """int64 [7] and float64 [5], on the host."""
        return torch.tensor(self.integers), torch.tensor(self.reals, dtype=torch.float64)


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
