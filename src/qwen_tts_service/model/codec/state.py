"""State of the codec decoder per slot: past inputs of convolutions and a window of keys and values.

A causal convolution needs its last inputs, the windowed transformer the keys and values of its
last frames, and both start as zeros, like the zero padding in front of a whole decode. Tensors
are filled in place, never rebound.

Letters: S slots, B rows, C channels, T frames, N steps at a layer's own rate, H heads, D head size,
W window of frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CodecState:
    """One entry per slot in every tensor.

    tails:  per causal convolution that has a reach, by number, its last inputs [S, reach, C]
    keys:   per transformer layer [S, H, W - 1, D], oldest first, already rotated
    values: the same
    frames: int64 [S], frames decoded so far
    """

    tails: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    frames: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, [S, ...] each."""
        return (*self.tails, *self.keys, *self.values, self.frames)


class Chunk:
    """The state of the rows of one call: layers read the past from it and leave the future in it.

    slots:  int64 [B], whose state each row continues
    active: bool [B] or None for all; the others' state will not change
    """

    def __init__(self, state: CodecState, slots: Tensor, active: Tensor | None) -> None:
        self._state = state
        self._slots = slots
        self._active = active
        self.frames = state.frames[slots]

    def extend(self, tail: int, x: Tensor) -> Tensor:
        """Put the last inputs of convolution number `tail` before x [B, N, C]."""
        return self._extend(self._state.tails[tail], x, axis=1)

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
