"""Decode and prefill attention over the KV cache of all slots, and the choice of implementation.

Each slot of the cache holds the keys and values of one utterance. A decode step brings one new
position for each of B rows, a prefill brings pieces of prompts. All functions first write
the new keys and values into the cache in place and then attend. "Attention Is All You Need",
scale 1/√D; grouped heads as in "GQA".

On the CPU each row attends alone over exactly its own positions: no row is padded, so a row's
bits cannot depend on its neighbours. (One scaled_dot_product_attention over padded rows would
also cost a copy of the cache for every step.)

Letters: S slots, L positions, B rows, T new positions, H heads, K key/value heads, D head size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .device import replay_seconds
from .fused.decode import decode_attention


@dataclass(frozen=True)
class CachePositions:
    """Where the rows of one call lie.

    slots:        int64 [B]
    positions:    int64, the cache positions that new keys take: [B] for one of each row; a piece
                  of a prompt has one slot and [T] positions
    bound:        static; every position is below it
    """

    slots: Tensor
    positions: Tensor
    bound: int

    @cached_property  # the same for all layers
    def visible(self) -> Tensor:
        """Which positions each new one sees, bool [B or T, bound]: itself and those before it."""
        return torch.arange(self.bound, device=self.slots.device) <= self.positions[:, None]

    @cached_property
    def lengths(self) -> tuple[Tensor, Tensor]:
        """How many positions each row has then, and its slot, int32 [B] as flash-attn has it."""
        return (self.positions + 1).to(torch.int32), self.slots.to(torch.int32)

    @classmethod
    def for_each_row(cls, pieces: Sequence["CachePositions"]) -> "CachePositions":
        """Return the slot and position of each row of some pieces of prompts.

        A piece may have a slot for each of its positions already.
        """
        # Kernels read them one after another, and `expand` alone would leave a view of one number.
        slots = [piece.slots.expand(len(piece.positions)).contiguous() for piece in pieces]
        positions = [piece.positions for piece in pieces]
        bound = max(piece.bound for piece in pieces)
        if len(pieces) == 1:
            return cls(slots[0], positions[0], bound)
        return cls(torch.cat(slots), torch.cat(positions), bound)


_FLASH_TOLERANCE = 0.02
"""Results are averages of 1,024 values around 1, so about 0.03 large, in bfloat16."""
_FLASH_GAIN = 0.9
"""Less than a tenth is not worth that the choice may change from start to start."""


class Attention(Protocol):
    """An implementation; `name` and `reason` are for people."""

    name: str
    reason: str

    def read(
        self, q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor
    ) -> Tensor:
        """Attend where a fused kernel has written the new keys and values already.

        q [R, H, D], keys and values [S, L, K, D], slots and positions int64 [R] -> [R, H * D]
        """

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], at: CachePositions
    ) -> Tensor:
        """Add one position to each row: q [B, 1, H, D], k and v [B, 1, K, D] -> [B, 1, H, D].

        cache: keys and values [S, L, K, D], written at (slot, position) of each row
        """


def prefill(
    q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], pieces: Sequence[CachePositions]
) -> Tensor:
    """Add pieces of prompts one after the other, each by itself: no other changes its bits.

    q [1, R, H, D], k and v [1, R, K, D] -> [1, R, H, D]; cache: keys, values [S, L, K, D]
    """
    outs, row = [], 0
    for piece in pieces:
        rows = slice(row, row + len(piece.positions))
        outs.append(_prefill_piece(q[:, rows], k[:, rows], v[:, rows], cache, piece))
        row = rows.stop
    return torch.cat(outs, dim=1)


def _prefill_piece(
    q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], at: CachePositions
) -> Tensor:
    """Add T positions to each row; each sees itself and what lies before it.

    q [B, T, H, D], k and v [B, T, K, D] -> [B, T, H, D]; cache: keys, values [S, L, K, D]
    """
    group = q.shape[2] // k.shape[2]
    for stored, new in zip(cache, (k, v), strict=True):
        stored.index_put_((at.slots[:, None], at.positions), new)
    keys, values = (
        stored[:, : at.bound].index_select(0, at.slots).repeat_interleave(group, dim=2)
        for stored in cache
    )
    q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))
    out = scaled_dot_product_attention(q, keys, values, attn_mask=at.visible)
    return out.transpose(1, 2)


def _write(k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], at: CachePositions) -> None:
    for stored, new in zip(cache, (k, v), strict=True):
        stored.index_put_((at.slots, at.positions), new.squeeze(1))


class _ReadsByKernel:
    def read(
        self, q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor
    ) -> Tensor:
        return decode_attention(q, keys, values, slots, positions)


@dataclass
class RowwiseAttention(_ReadsByKernel):
    """For the CPU: row by row, reading the cache where it lies."""

    reason: str
    name: str = "sdpa"

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], at: CachePositions
    ) -> Tensor:
        _write(k, v, cache, at)
        B, _, H, D = q.shape
        K = k.shape[2]
        # The query heads of a group are the "positions" that look at their one key head.
        queries = q.view(B, K, H // K, D)
        out = torch.empty_like(queries)
        where = zip(at.slots.tolist(), at.positions.tolist(), strict=True)
        for row, (slot, position) in enumerate(where):
            keys, values = (x[slot, : position + 1].transpose(0, 1)[None] for x in cache)
            out[row] = scaled_dot_product_attention(queries[row : row + 1], keys, values)[0]
        return out.view(B, 1, H, D)


@dataclass
class MaskedAttention(_ReadsByKernel):
    """For CUDA without flash-attn: all rows at once over the first `bound` positions."""

    reason: str
    name: str = "sdpa"

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], at: CachePositions
    ) -> Tensor:
        _write(k, v, cache, at)
        B, _, H, D = q.shape
        K = k.shape[2]
        keys, values = (x[:, : at.bound].index_select(0, at.slots).transpose(1, 2) for x in cache)
        mask = at.visible[:, None, None]
        queries = q.view(B, K, H // K, D)
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        # Some backends lay heads out otherwise, which `view` refuses.
        return out.reshape(B, 1, H, D)


@dataclass
class FlashAttention:
    """For CUDA with flash-attn: reads only each row's own positions, in the cache itself."""

    reason: str
    attend: Callable[..., Tensor]
    name: str = "flash-attn"

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], at: CachePositions
    ) -> Tensor:
        _write(k, v, cache, at)
        return self._attend(q, cache, *at.lengths)

    def read(
        self, q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor
    ) -> Tensor:
        lengths = (positions + 1).to(torch.int32)
        return self._attend(q[:, None], (keys, values), lengths, slots.to(torch.int32)).flatten(1)

    def _attend(
        self, q: Tensor, cache: tuple[Tensor, Tensor], lengths: Tensor, slots: Tensor
    ) -> Tensor:
        return self.attend(
            q,
            *cache,
            cache_seqlens=lengths,
            cache_batch_idx=slots,
            causal=True,
            num_splits=1,  # a split count chosen from the batch would change a row's bits
        )


class HeadSizes(Protocol):
    """Heads, key/value heads and the size of each, of a network that attends."""

    @property
    def heads(self) -> int: ...

    @property
    def kv_heads(self) -> int: ...

    @property
    def head_size(self) -> int: ...


def choose_attention(
    device: torch.device, dtype: torch.dtype, sizes: HeadSizes, *, use_flash: bool, is_fused: bool
) -> Attention:
    """Choose the implementation and say why; flash-attn is tried out on the device.

    is_fused: whether fused kernels run, which attend by a kernel of their own
    """
    if device.type != "cuda":
        return RowwiseAttention("flash-attn needs a CUDA device" if use_flash else "on the CPU")
    reason = _obstacle(device, dtype, use_flash=use_flash)
    if reason is not None:
        return MaskedAttention(reason)
    try:
        attend = import_module("flash_attn").flash_attn_with_kvcache
    except (ImportError, AttributeError) as error:  # version 4 alone has no such function
        return MaskedAttention(f"flash-attn cannot be imported: {error}")
    return try_flash(attend, FlashTrial(device, dtype, sizes, is_fused=is_fused))


def _obstacle(device: torch.device, dtype: torch.dtype, *, use_flash: bool) -> str | None:
    if not use_flash:
        return "USE_FLASH_ATTENTION is 0"
    if dtype not in {torch.bfloat16, torch.float16}:
        return f"flash-attn needs bfloat16 or float16, not {dtype}"
    if torch.version.hip is not None:
        return "flash-attn was never tried on ROCm"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "flash-attn needs compute capability 8.0 or higher"
    return None


@dataclass(frozen=True)
class FlashTrial:
    """A decode step of 16 rows of 1,024 positions, to try attentions out with.

    seconds: how long the device takes for one call
    """

    device: torch.device
    dtype: torch.dtype
    sizes: HeadSizes
    is_fused: bool
    seconds: Callable[[Callable[[], object]], float] = replay_seconds

    def steps(self, *attentions: Attention) -> list[Callable[[], Tensor]]:
        """Return a step by each attention over the same values: [R, H * D]."""
        H, K, D = self.sizes.heads, self.sizes.kv_heads, self.sizes.head_size
        R, L = 16, 1024
        generator = torch.Generator(self.device).manual_seed(0)
        shapes = ((R, 1, H, D), (R, 1, K, D), (R, 1, K, D), (R, L, K, D), (R, L, K, D))
        q, k, v, keys, values = (
            torch.randn(shape, generator=generator, dtype=self.dtype, device=self.device)
            for shape in shapes
        )
        slots = torch.arange(R, device=self.device)
        at = CachePositions(slots, torch.full_like(slots, L - 1), L)

        def step(attention: Attention) -> Tensor:
            if self.is_fused:
                return attention.read(q[:, 0], keys, values, slots, at.positions)
            return attention.decode(q, k, v, (keys, values), at).flatten(1)

        return [partial(step, attention) for attention in attentions]


def try_flash(attend: Callable[..., Tensor], trial: FlashTrial) -> Attention:
    """Return flash-attn if it runs on this device, is right, and clearly faster than without."""
    flash, own = FlashAttention("", attend), MaskedAttention("")
    try:
        with torch.inference_mode():
            steps = trial.steps(flash, own)
            result, expected = (step().float() for step in steps)
            difference = (result - expected).abs().max().item()
            flash_s, own_s = map(trial.seconds, steps)
    except Exception as error:  # noqa: BLE001 - whatever a wheel for other devices raises
        first = next(iter(str(error).splitlines()), "")
        return MaskedAttention(f"flash-attn fails on this device: {first[:200]}")
    if not difference < _FLASH_TOLERANCE:
        return MaskedAttention(f"flash-attn is wrong by {difference:.2g} on this device")
    measured = f"{flash_s * 1e6:.0f} µs a step, {own_s * 1e6:.0f} without it"
    if flash_s > _FLASH_GAIN * own_s:
        return MaskedAttention(f"flash-attn does not help: {measured}")
    return FlashAttention(f"flash-attn helps: {measured}", attend)
