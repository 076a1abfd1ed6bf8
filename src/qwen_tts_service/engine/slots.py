"""The tensors behind the engine's slots, and the steps that all runners take with them.

Letters: S slots, B rows of one call, R prompt rows, C width, Q codebooks, F ring of frames, T
frames, N samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache

import torch
from torch import Tensor

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import KeptVoice

from .job import Job
from .options import EngineOptions
from .prefix import PrefixCache

NOT_FINITE = 2
"""What `SlotTensors.frame` has for a row with NaN or infinity, where others have 0 or 1."""
RING_FRAMES = 32
"""Frames of codes kept per slot: more than the largest chunk and what runs ahead of it."""


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """Rows of a prompt, from `start` on, that are read at once into a slot."""

    slot: int
    prompt: PromptEmbeddings
    start: int
    rows: int


class SlotTensors:
    """KV caches, codec state and recent codes of all slots, allocated once.

    ring: int64 [S, F, Q], the latest codes of each slot; frame f lies at f % F
    """

    def __init__(self, model: Qwen3TTS, options: EngineOptions, *, spare: int = 0) -> None:
        """Allocate, once, for options.slots utterances and `spare` slots that no job gets."""
        self.model = model
        self.options = options
        self.count = options.slots + spare
        self.state = model.new_state(
            slots=self.count,
            max_positions=options.max_positions,
            max_text_rows=options.max_text_rows,
        )
        self.codec_state = model.codec.new_state(slots=self.count)
        shape = (self.count, RING_FRAMES, model.config.codebooks)
        self.ring = torch.zeros(*shape, dtype=torch.int64, device=model.device)
        self.prefixes = PrefixCache(options.prefix_cache_rows)
        self._heard = lru_cache(options.heard_voices)(model.hear)
        self._numbers = torch.arange(self.count, device=model.device)

    def index(self, slot: int) -> Tensor:
        """Return a slot's number as int64 [1], without a copy to the device."""
        return self._numbers[slot : slot + 1]

    def build_prompt(self, job: Job) -> PromptEmbeddings:
        """Build a job's prompt; raises InvalidRequest if a slot cannot hold it."""
        prompt = self.model.prompts.build(
            job.ids,
            speaker=job.speaker,
            voice=job.voice,
            reference_ids=job.reference_ids,
            language=job.language,
            instruct_ids=job.instruct_ids,
            layout=job.layout,
            is_open=job.feed is not None,
        )
        frames = min(job.max_frames, job.runaway_frames)
        if len(prompt.rows) + frames > self.options.max_positions:
            raise InvalidRequest(
                f"text and speech need {len(prompt.rows) + frames} positions, but a slot has "
                f"{self.options.max_positions} (MAX_POSITIONS)",
                param="text",
            )
        if len(prompt.text_rows) > self.options.max_text_rows:
            raise InvalidRequest(
                f"text has more than {self.options.max_text_rows} tokens", param="text"
            )
        return prompt

    def begin(self, slot: int, job: Job, prompt: PromptEmbeddings) -> None:
        """Reset a slot for a job."""
        self.model.begin(self.state, slot, prompt, seed=job.seed, sampling=job.sampling)
        self.model.codec.reset(self.codec_state, self.index(slot))

    def restart(self, integers: Tensor, reals: Tensor, next_input: Tensor) -> None:
        """Do what `begin` does, by the numbers of `StartNumbers`: for a graph."""
        self.state.begin(integers, reals, next_input)
        self.model.codec.reset(self.codec_state, integers[:1])

    def take_prefix(self, slot: int, prompt: PromptEmbeddings) -> int:
        """Give a slot what is kept of a prompt's prefix; returns how many rows it has then."""
        cached = self.prefixes.get(prompt.prefix)
        if cached is None:
            return 0
        for stored, kept in zip((self.state.keys, self.state.values), cached, strict=True):
            stored[:, slot, : prompt.prefix_rows] = kept
        return prompt.prefix_rows

    def hear(self, slot: int, voice: KeptVoice | None) -> None:
        """Make the codec's part of a new slot as if a voice's recording had been its speech."""
        if voice is None or not voice.codes:
            return
        heard = self._heard(voice)
        for stored, kept in zip(self.codec_state.tensors(), heard.tensors(), strict=True):
            stored[slot] = kept[0]

    def prefill(self, pieces: Sequence[PromptPiece]) -> None:
        """Read pieces of prompts, side by side."""
        positions = [self.model.piece(self.index(p.slot), p.start, p.rows) for p in pieces]
        self.model.prefill(self.state, rows_of(pieces), positions)
        self.keep_prefixes(pieces)

    def keep_prefixes(self, pieces: Sequence[PromptPiece]) -> None:
        """Keep the prefixes that end with one of the pieces that have been read."""
        for piece in pieces:
            prompt, read = piece.prompt, piece.start + piece.rows
            if read == prompt.prefix_rows and self.prefixes.wants(prompt.prefix, read):
                caches = (self.state.keys, self.state.values)
                keys, values = (x[:, piece.slot, :read].clone() for x in caches)
                self.prefixes.put(prompt.prefix, (keys, values))

    def append_text(self, slot: int, ids: Sequence[int], *, start: int, is_end: bool) -> None:
        """Add text rows, of which none depends on what came with it."""
        rows = self.model.prompts.text_rows(ids, one_by_one=True)
        if is_end:
            rows = torch.cat((rows, self.model.prompts.end_row))
        self.model.append_text(self.state, slot, rows, start=start)

    def frame(self, slots: Tensor, *, full_sort: bool, bound: int | None = None) -> Tensor:
        """Make a frame of the slots int64 [B], keep its codes; int64 [B].

        It is 1 where the row drew end of speech, and NOT_FINITE where its logits are no numbers, so
        that its codes mean nothing. That goes to the host with the ends, without a wait of its own.
        """
        ring_index = self.state.frame[slots] % RING_FRAMES
        codes, is_end = self.model.frame_step(self.state, slots, full_sort=full_sort, bound=bound)
        self.ring[slots, ring_index] = codes
        largest = self.state.logits[slots].amax(1)
        return torch.where(largest < torch.inf, is_end, NOT_FINITE)

    def decode(
        self, slots: Tensor, first: Tensor, frames: int, active: Tensor | None = None
    ) -> Tensor:
        """Decode frames `first` [B] and after of the slots [B]: float32 [B, N]."""
        steps = torch.arange(frames, device=slots.device)
        codes = self.ring[slots[:, None], (first[:, None] + steps) % RING_FRAMES]
        return self.model.codec.decode(codes.mT, self.codec_state, slots, active)

    def clear(self, slots: Sequence[int]) -> None:
        """Zero what a failure may have left: NaN must not reach the next user of a slot."""
        index = torch.tensor(list(slots), device=self.model.device)
        for cache in (self.state.keys, self.state.values):
            cache.index_fill_(1, index, 0)
        self.state.length.index_fill_(0, index, 0)
        self.model.codec.reset(self.codec_state, index)
        self.prefixes.clear()
        self._heard.cache_clear()

    @property
    def memory(self) -> str:
        """Weights and state in words."""
        state = tensor_bytes((self.state, self.codec_state.tensors(), self.ring))
        state += self.options.prefix_cache_rows * 2 * self.state.keys[:, 0, 0].nbytes
        if self.model.config.kind == "base":
            state += self.options.heard_voices * self.codec_state.memory[0].nbytes
        return (
            f"weights {self.model.weight_bytes / 2**20:.0f} MiB, "
            f"state up to {state / 2**20:.0f} MiB "
            f"({self.count} slots of {self.options.max_positions} positions)"
        )


def rows_of(pieces: Sequence[PromptPiece]) -> Tensor:
    """Return the rows of pieces, one after the other: [R, C]."""
    return torch.cat([p.prompt.rows[p.start : p.start + p.rows] for p in pieces])


def tensor_bytes(value: object) -> int:
    """Sum the bytes of all tensors in nested dataclasses and tuples."""
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value):
        return tensor_bytes(tuple(getattr(value, item.name) for item in fields(value)))
    return sum(tensor_bytes(item) for item in value) if isinstance(value, Iterable) else 0
