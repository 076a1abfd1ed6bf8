"""State of the codec decoder per slot: past inputs of convolutions and a window of keys and values.

A causal convolution needs its last inputs, the windowed transformer the keys and values of its
last frames, and both start as zeros, like the zero padding in front of a whole decode. Tensors
are filled in place, never rebound.

Letters: S slots, B rows, C channels, T frames, N steps at a layer's own rate, H heads, D head size,
W window of frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qwen_tts_service.kernels.fused.extend import extend as fused_extend
from qwen_tts_service.kernels.fused.extend import snake as fused_snake
from qwen_tts_service.kernels.fused.window import window_attention

from .snake import SnakeBeta


@dataclass(frozen=True, slots=True)
class CodecState:
    """One entry per slot in every tensor.

    tails:  per causal convolution that has a reach, by number, its last inputs [S, reach, C]
    keys:   per transformer layer [S, H, W - 1, D], oldest first, already rotated
    values: the same
    frames: int64 [S], frames decoded so far
    memory: [S, values of a slot], which all of the above but `frames` are views of
    """

    tails: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    frames: Tensor
    memory: Tensor

    @classmethod
    def allocate(
        cls,
        slots: int,
        tails: Sequence[tuple[int, ...]],
        window: tuple[int, ...],
        layers: int,
        like: Tensor,
    ) -> "CodecState":
        """Return zeroed state in the dtype and on the device of `like`.

        tails: shapes of a slot's tail per convolution; window: shape of a layer's keys
        """
        shapes = [*tails, *[window] * (2 * layers)]
        sizes = [math.prod(shape) for shape in shapes]
        memory = torch.zeros(slots, sum(sizes), dtype=like.dtype, device=like.device)
        views = [
            part.view(slots, *shape)
            for part, shape in zip(torch.split(memory, sizes, dim=1), shapes, strict=True)
        ]
        count = len(tails)
        return cls(
            tails=tuple(views[:count]),
            keys=tuple(views[count : count + layers]),
            values=tuple(views[count + layers :]),
            frames=torch.zeros(slots, dtype=torch.int64, device=like.device),
            memory=memory,
        )

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All that it takes, [S, ...] each."""
        return self.memory, self.frames


class Chunk:
    """The state of the rows of one call: layers read the past from it and leave the future in it.

    slots:    int64 [B], whose state each row continues
    active:   bool [B] or None for all; the others' state will not change
    is_fused: whether fused kernels run
    """

    def __init__(
        self, state: CodecState, slots: Tensor, active: Tensor | None, *, is_fused: bool = False
    ) -> None:
        self._state = state
        self._slots = slots
        self._active = active
        self.is_fused = is_fused
        self.frames = state.frames[slots]

    @cached_property
    def _is_active(self) -> Tensor:
        if self._active is None:
            return torch.ones_like(self._slots, dtype=torch.bool)
        return self._active

    def activate(self, x: Tensor, snake: SnakeBeta) -> Tensor:
        """Apply an activation to x [B, N, C]."""
        if self.is_fused:
            return fused_snake(x, snake.frequency, snake.height)
        activated: Tensor = snake(x)
        return activated

    def extend(self, tail: int, x: Tensor, snake: SnakeBeta | None = None) -> Tensor:
        """Put the last inputs of convolution number `tail` before x [B, N, C], once activated."""
        stored = self._state.tails[tail]
        if self.is_fused:
            curve = (None, None) if snake is None else (snake.frequency, snake.height)
            return fused_extend(x, stored, self._slots, self._is_active, *curve)
        return self._extend(stored, x if snake is None else snake(x), axis=1)

    def attend(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend with a layer's window, by the fused kernel: see `window_attention`."""
        keys, values = self._state.keys[layer], self._state.values[layer]
        where = (self._slots, self.frames, self._is_active)
        return window_attention(qkv, cos, sin, keys, values, *where)

    def extend_layer(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put a layer's remembered keys and values before new ones [B, H, T, D]."""
        keys, values = self._state.keys[layer], self._state.values[layer]
        return self._extend(keys, k, axis=2), self._extend(values, v, axis=2)

    def finish(self, T: int) -> None:
        """Count T frames more for the active rows."""
        self._store(self._state.frames, self.frames, self.frames + T)

    def _extend(self, stored: Tensor, x: Tensor, *, axis: int) -> Tensor:
        old = stored.index_select(0, self._slots)
        joined = torch.cat((old, x), dim=axis)
        reach = old.shape[axis]
        self._store(stored, old, joined.narrow(axis, joined.shape[axis] - reach, reach))
        return joined

    def _store(self, stored: Tensor, old: Tensor, new: Tensor) -> None:
        if self._active is not None:
            active = self._active.view(-1, *(1,) * (new.dim() - 1))
            new = torch.where(active, new, old)
        stored.index_copy_(0, self._slots, new)
