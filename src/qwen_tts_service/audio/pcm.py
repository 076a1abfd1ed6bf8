"""Convert float samples to 16-bit samples, and those to bytes: PCM or G.711."""

import io
from functools import cache
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from qwen_tts_service.types import Samples

Pcm16 = NDArray[np.int16]
"""Mono audio, int16 [N], full scale at 32767."""

BYTES_PER_SAMPLE = 2

Companding = Literal["ULAW", "ALAW"]
"""The two laws of G.711, as libsndfile names them."""


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


def to_g711(samples: Pcm16, law: Companding) -> bytes:
    """Give the samples as G.711, a byte for each."""
    return _g711_codes(law)[samples.view(np.uint16)].tobytes()


@cache
def _g711_codes(law: Companding) -> NDArray[np.uint8]:
    """Tabulate the code of every 16-bit sample, the negative ones behind the others."""
    file = io.BytesIO()
    soundfile.write(file, np.arange(2**15, dtype=np.int16), 8000, format="RAW", subtype=law)
    codes = np.frombuffer(file.getvalue(), np.uint8)
    # In ITU-T G.191 a negative sample has the code of its complement, -1 that of 0, but for the
    # sign; libsndfile negates instead, which is another code for 127 samples at the borders.
    return np.concatenate([codes, codes[::-1] ^ 0x80])
