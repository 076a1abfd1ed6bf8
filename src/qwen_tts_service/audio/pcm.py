"""Convert float samples to 16-bit samples, and those to bytes."""

import numpy as np
from numpy.typing import NDArray

from qwen_tts_service.types import Samples

Pcm16 = NDArray[np.int16]
"""Mono audio, int16 [N], full scale at 32767."""

BYTES_PER_SAMPLE = 2


def to_int16(samples: Samples) -> Pcm16:
    """Clip, then scale to 16 bits and round; louder than full scale is flattened, never wrapped.

    samples: float32 [N], nominally in [-1, 1]
    returns: int16 [N]
    """
    assert samples.dtype == np.float32, samples.dtype
    assert samples.ndim == 1, samples.shape
    scaled: Samples = np.clip(samples, -1.0, 1.0) * np.float32(32767)
    rounded: Pcm16 = np.rint(scaled).astype(np.int16)
    return rounded


def to_bytes(samples: Pcm16) -> bytes:
    """Give the samples as little-endian bytes, whatever the machine's own order."""
    return samples.astype("<i2", copy=False).tobytes()
