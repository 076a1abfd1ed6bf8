"""Loudness meter: integrated loudness of speech in LUFS, as ITU-R BS.1770-4 defines it.

Filters are applied to the spectrum, which needs numpy alone; a test compares it with FFmpeg's.
"""

import math

import numpy as np
from numpy.typing import NDArray

from qwen_tts_service.types import Samples

_BLOCK_S, _STEP_S = 0.4, 0.1
_SILENCE_LUFS = -70.0
_RELATIVE_GATE_LU = 10.0
_Filter = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Coefficients of a second-order filter: of its input, of its output."""


def integrated_lufs(samples: Samples, sample_rate_hz: int) -> float:
    """Measure a whole utterance, float32 [N]; minus infinity for silence and less than 0.4 s."""
    weighted = _k_weighted(samples, sample_rate_hz)
    sums = np.concatenate([[0.0], np.cumsum(weighted**2)])
    length, step = round(_BLOCK_S * sample_rate_hz), round(_STEP_S * sample_rate_hz)
    powers = (sums[length:] - sums[:-length])[::step] / length
    loud = powers[_lufs(powers) > _SILENCE_LUFS]
    if not len(loud):
        return -math.inf
    gate = _lufs(loud.mean()) - _RELATIVE_GATE_LU
    return float(_lufs(loud[_lufs(loud) > gate].mean()))


def _lufs(power: NDArray[np.float64] | np.floating) -> NDArray[np.float64]:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-12))


def _k_weighted(samples: Samples, sample_rate_hz: int) -> NDArray[np.float64]:
    """Filter by what a head does to sound and by how little low tones are heard."""
    size = len(samples) + sample_rate_hz  # the filters have rung out after a second
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    spectrum = np.fft.rfft(samples.astype(np.float64), size)
    for ahead, back in (_high_shelf(sample_rate_hz), _high_pass(sample_rate_hz)):
        spectrum *= np.polyval(ahead[::-1], z) / np.polyval(back[::-1], z)
    return np.fft.irfft(spectrum, size)[: len(samples)]


# The filters that BS.1770 gives for 48 kHz, at any rate: numbers of the analogue filters behind
# them, as libebur128 has them.
def _high_shelf(sample_rate_hz: int) -> _Filter:
    k = math.tan(math.pi * 1681.974450955533 / sample_rate_hz)
    q, high = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    middle = high**0.4996667741545416
    ahead = (high + middle * k / q + k * k, 2 * (k * k - high), high - middle * k / q + k * k)
    return ahead, (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k)


def _high_pass(sample_rate_hz: int) -> _Filter:
    k = math.tan(math.pi * 38.13547087602444 / sample_rate_hz)
    q = 0.5003270373238773
    scale = 1 + k / q + k * k
    return (scale, -2 * scale, scale), (scale, 2 * (k * k - 1), 1 - k / q + k * k)
