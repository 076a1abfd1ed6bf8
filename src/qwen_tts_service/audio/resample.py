"""Sample rate conversion by soxr, of streams and of whole recordings.

soxr keeps its filter's state between chunks, so the output does not depend on how the input
was cut.
"""

import numpy as np
import soxr

from qwen_tts_service.types import Samples


class Resampler:
    """Change one utterance's sample rate; equal rates pass through untouched."""

    def __init__(self, source_rate_hz: int, target_rate_hz: int) -> None:
        self._stream = (
            None
            if source_rate_hz == target_rate_hz
            else soxr.ResampleStream(source_rate_hz, target_rate_hz, 1, dtype="float32")
        )

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N], give the float32 [M] that are ready; about 40 ms stay inside."""
        return samples if self._stream is None else self._resample(samples, is_last=False)

    def finish(self) -> Samples:
        """Give what stayed inside; nothing may be fed afterwards."""
        rest = np.zeros(0, np.float32)
        return rest if self._stream is None else self._resample(rest, is_last=True)

    def _resample(self, samples: Samples, *, is_last: bool) -> Samples:
        assert self._stream is not None
        return np.asarray(self._stream.resample_chunk(samples, last=is_last), np.float32)


def resampled(samples: Samples, source_rate_hz: int, target_rate_hz: int) -> Samples:
    """Change the sample rate of a whole recording, float32 [N]: soxr's quality HQ.

    The filter is the official package's: behind another one the encoder makes other codes.
    """
    if source_rate_hz == target_rate_hz:
        return samples
    return np.asarray(soxr.resample(samples, source_rate_hz, target_rate_hz, quality="HQ"))
