"""Time stretch by WSOLA: speech faster or slower at the same pitch, while it is being made.

Waveform similarity overlap-add (Verhelst and Roelands, 1993). The output is made in hops. Each is
faded over from where the input goes on to a place further on, or further back, that continues it
best, so that on average the input is read `speed` times as fast as the output is written. Why it
is our own: docs/adr/0014-our-own-time-stretch.md.
"""

import math

import numpy as np
from numpy.typing import NDArray

from qwen_tts_service.types import Samples

_HOP_S = 0.02
_REACH_S = 0.01
"""How far to look for a place, each way; both together are a period of the lowest voice, 50 Hz."""


class TimeStretch:
    """Stretches one utterance to its length divided by `speed`.

    The output does not depend on how the input was cut into chunks, nor on the machine: places
    are compared by sums of whole numbers, which are exact in any order.
    """

    def __init__(self, speed: float, sample_rate_hz: int) -> None:
        self._speed = speed
        self._hop = round(_HOP_S * sample_rate_hz)
        self._reach = round(_REACH_S * sample_rate_hz)
        fade = 0.5 - 0.5 * np.cos(np.pi * np.arange(self._hop) / self._hop)
        self._fade: Samples = fade.astype(np.float32)
        self._input = np.zeros(0, np.float32)  # what is still needed of it
        self._input_start = 0  # of what is still needed, in samples of the whole input
        self._fed = 0
        self._hops = 0
        self._continuation = 0  # where the input goes on behind the last hop

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N], give the float32 [M] that are ready; 40 ms wait inside at most."""
        self._fed += len(samples)
        self._input = np.concatenate([self._input, samples])
        hops: list[Samples] = [np.zeros(0, np.float32)]
        while self._needed_end() <= self._fed:
            hops.append(self._make_hop())
        return np.concatenate(hops)

    def finish(self) -> Samples:
        """Give what waited inside; nothing may be fed afterwards."""
        left = round(self._fed / self._speed) - self._hops * self._hop
        self._input = np.pad(self._input, (0, 2 * self._hop))
        hops = [self._make_hop() for _ in range(math.ceil(left / self._hop))]
        return np.concatenate([np.zeros(0, np.float32), *hops])[:left]

    def _target(self) -> int:
        """Where the next hop would be read if the waveform did not matter."""
        return round(self._hops * self._hop * self._speed)

    def _needed_end(self) -> int:
        """How much of the input the next hop needs; also no less than it stands for."""
        place = max(self._target() + self._reach, self._continuation)
        return max(place + self._hop, round((self._hops + 1) * self._hop * self._speed))

    def _make_hop(self) -> Samples:
        # Never behind the end of the input, where only silence follows.
        last = max(min(self._target() + self._reach, self._fed - self._hop), 0)
        first = min(max(self._target() - self._reach, 0), last)
        begun = self._at(self._continuation, self._hop)
        place = first + _most_alike(self._at(first, last - first + self._hop), begun)
        hop = begun + self._fade * (self._at(place, self._hop) - begun)
        self._hops += 1
        self._continuation = place + self._hop
        self._forget(min(self._continuation, self._target() - self._reach, self._fed - self._hop))
        return hop

    def _at(self, start: int, length: int) -> Samples:
        start -= self._input_start
        return self._input[start : start + length]

    def _forget(self, end: int) -> None:
        if end > self._input_start:
            self._input = self._input[end - self._input_start :]
            self._input_start = end


def _most_alike(samples: Samples, wanted: Samples) -> int:
    """The offset at which samples resemble others most: the largest normalised correlation."""
    whole, other = _in_whole_numbers(samples), _in_whole_numbers(wanted)
    products = np.correlate(whole, other, "valid")
    sums = np.concatenate([[0.0], np.cumsum(whole * whole)])
    energies = sums[len(other) :] - sums[: -len(other)]
    return int(np.argmax(products / np.sqrt(energies + 1)))


def _in_whole_numbers(samples: Samples) -> NDArray[np.float64]:
    """Round to 2**-20: a hop's sum of products stays far below 2**53, all exact in float64."""
    return np.rint(samples.astype(np.float64) * 2**20)
