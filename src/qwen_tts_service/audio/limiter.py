"""Look-ahead limiter: no true peak above -1 dBTP, while audio is being made.

It knows nothing of how loud the audio is as a whole.
"""

import numpy as np
from numpy.typing import NDArray

from qwen_tts_service.types import Samples

CEILING_DB = -1.0
"""True peak in dBTP, by a signal of four times the rate, as BS.1770 measures it."""
_CEILING = 10 ** ((CEILING_DB - 0.2) / 20)  # 0.2 dB for what lies between quarters of a sample
_AHEAD = 64
"""Samples in which the gain falls before a peak: 2.7 ms at 24 kHz."""
_HOLD = 128
_RELEASE = 2.0**-14
"""How much the gain, as a factor, rises with each sample: 6 dB take a third of a second. A power
of two, so that a gain of exactly 1 stays exactly 1."""
_REACH = 8
"""Samples on each side from which a value between two samples is interpolated."""
_DELAY = _REACH + _AHEAD - 1


def _interpolation() -> Samples:
    """Coefficients of a windowed sinc a quarter, a half and three quarters behind a sample."""
    behind = np.array([[0.25], [0.5], [0.75]])
    distance = np.arange(-_REACH + 1, _REACH + 1) - behind
    window = np.cos(np.pi * distance / (2 * _REACH)) ** 2
    coefficients: Samples = (np.sinc(distance) * window).astype(np.float32)
    return coefficients


_COEFFICIENTS = _interpolation()


class Limiter:
    """Turns one response down for a moment wherever it would be too loud.

    What it gives is as long as what it takes, and does not depend on how that was cut into chunks:
    every value is computed in the same order.
    """

    def __init__(self) -> None:
        self._samples = np.zeros(_DELAY + _REACH - 1, np.float32)
        self._released = np.ones(_HOLD - 1)  # gains, as factors, for the last samples
        self._held = np.ones(_AHEAD - 1)
        self._lowest = np.inf
        self._fed = 0
        self._early = _DELAY

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N], give the float32 [M] that are ready; 71 samples stay inside."""
        limited = self._limited(samples)
        ready = limited[self._early :]
        self._early -= len(limited) - len(ready)
        return ready

    def finish(self) -> Samples:
        """Give what stayed inside; nothing may be fed afterwards."""
        return self.feed(np.zeros(_DELAY, np.float32))

    def _limited(self, samples: Samples) -> Samples:
        """As many samples as are given, from `_DELAY` samples before."""
        count = len(samples)
        known = np.concatenate([self._samples, samples])
        self._samples = known[count:]
        gains = np.minimum(1.0, _CEILING / np.maximum(_peaks(known[_AHEAD - 1 :], count), 1e-9))
        released = np.concatenate([self._released, self._release(gains)])
        self._released = released[count:]
        held = np.concatenate([self._held, _over_last(np.minimum, released, _HOLD)])
        self._held = held[count:]
        smooth = _over_last(np.add, held, _AHEAD) / _AHEAD
        return known[_REACH - 1 :][:count] * smooth.astype(np.float32)

    def _release(self, gains: NDArray[np.float64]) -> NDArray[np.float64]:
        """Let gains fall at once and rise by `_RELEASE` a sample at most."""
        rise = (self._fed + np.arange(len(gains))) * _RELEASE
        self._fed += len(gains)
        gains = np.concatenate([[self._lowest], gains - rise])
        lowest: NDArray[np.float64] = np.minimum.accumulate(gains)
        self._lowest = float(lowest[-1])
        return lowest[1:] + rise


def _peaks(samples: Samples, count: int) -> Samples:
    """The largest of a sample and the three values behind it, float32 [count]."""
    between = np.zeros((3, count), np.float32)
    for at in range(2 * _REACH):
        between += _COEFFICIENTS[:, at : at + 1] * samples[at : at + count]
    own = samples[None, _REACH - 1 : _REACH - 1 + count]
    peaks: Samples = np.abs(np.concatenate([own, between])).max(axis=0)
    return peaks


def _over_last(combine: np.ufunc, values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Combine every `length` neighbours, a power of two, in one order whatever the chunks."""
    step = 1
    while step < length:
        values = combine(values[step:], values[:-step])
        step *= 2
    return values
