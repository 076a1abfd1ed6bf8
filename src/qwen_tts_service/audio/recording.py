"""Recordings that voices are cloned from: any file libsndfile reads, to mono 24 kHz, checked."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import soundfile

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import Samples

from .resample import resampled

REFERENCE_RATE_HZ = 24000
"""What the model's encoders hear."""
SHORTEST_S, LONGEST_S = 1.0, 30.0
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8000, 192_000
MOST_CHANNELS = 8
TAIL_S = 0.5
"""Silence that keeps the last words of a recording out of the speech that continues it."""
_QUIETEST_PEAK = 0.003
_LOUDEST_PEAK = 8.0
_CLIPPED_PEAK, _CLIPPED_SHARE = 0.999, 0.001


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """A recording that can be cloned.

    samples: mono, at REFERENCE_RATE_HZ
    duration_s: of the file; kind: its format, such as "wav"
    warning: what may make the clone worse, in ASCII
    """

    samples: Samples
    duration_s: float
    kind: str
    warning: str | None = None

    def with_tail(self) -> Samples:
        """The samples and TAIL_S of silence."""
        return np.pad(self.samples, (0, int(TAIL_S * REFERENCE_RATE_HZ)))


def read_recording(data: bytes) -> Recording:
    """Decode a file, mix its channels down and resample it.

    raises: InvalidRequest with code `invalid_recording` for what cannot be cloned
    """
    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            rate_hz, kind = file.samplerate, file.format.lower()
            _check_header(rate_hz, file.channels)
            # No more than may be: a short file can hold hours of silence.
            channels = file.read(int(LONGEST_S * rate_hz) + 1, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        raise _refusal(
            "the recording is not audio that can be read; send wav, flac, ogg, mp3 or what else "
            "libsndfile reads"
        ) from None
    samples = channels.mean(axis=1, dtype=np.float32)
    _check_sound(samples, rate_hz)
    is_clipped = np.mean(np.abs(channels) >= _CLIPPED_PEAK) > _CLIPPED_SHARE
    return Recording(
        samples=resampled(samples, rate_hz, REFERENCE_RATE_HZ),
        duration_s=len(samples) / rate_hz,
        kind=kind,
        warning="the recording is clipped: record it less loud" if is_clipped else None,
    )


def _check_header(rate_hz: int, channels: int) -> None:
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise _refusal(
            f"the recording has {rate_hz} samples a second; {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} "
            "are allowed"
        )
    if channels > MOST_CHANNELS:
        raise _refusal(
            f"the recording has {channels} channels; at most {MOST_CHANNELS} are allowed"
        )


def _check_sound(samples: Samples, rate_hz: int) -> None:
    if len(samples) < SHORTEST_S * rate_hz:
        raise _refusal(f"the recording is shorter than {SHORTEST_S:g} s; 5 to 15 s are best")
    if len(samples) > LONGEST_S * rate_hz:
        raise _refusal(f"the recording is longer than {LONGEST_S:g} s; 5 to 15 s are best")
    if not np.isfinite(samples).all():
        raise _refusal("the recording has samples that are no numbers (NaN or infinite)")
    peak = np.abs(samples).max()
    if peak < _QUIETEST_PEAK:
        raise _refusal("the recording is silent")
    if peak > _LOUDEST_PEAK:
        raise _refusal(
            f"the recording has samples up to {peak:.0f}; scale them to between -1 and 1"
        )


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="ref_audio", code="invalid_recording")
