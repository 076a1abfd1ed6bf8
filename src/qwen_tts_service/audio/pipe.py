"""Resample, limit and encode one response: a voice's float samples to the bytes that are sent.

float32 at the voice's rate -> resample -> limit, if wanted -> fade edges -> int16 -> silence around
-> encode -> bytes
"""

import threading
from typing import BinaryIO

import numpy as np

from qwen_tts_service.types import AudioFormat, Samples

from .edges import EdgeFader
from .formats import make_encoder
from .limiter import Limiter
from .pcm import Pcm16, to_int16
from .resample import Resampler
from .stages import StageChain


class AudioPipe:
    """Encodes one response. Close it, whatever happens.

    Encoding is not free (Opus takes 17 to 30 ms of CPU for a second of audio), so call `feed`
    off the event loop or with small chunks. Each call holds a lock: closing from another thread
    waits for the chunk being encoded, and what is fed after closing gives no bytes.

    lead_in_s, tail_s: of silence before and behind the speech, if there is any
    comment: what the metadata says, in formats that have them
    is_limited: whether no true peak may be above -1 dBTP
    """

    def __init__(
        self,
        format: AudioFormat,
        *,
        source_rate_hz: int,
        sample_rate_hz: int,
        is_stream: bool,
        lead_in_s: float = 0.0,
        tail_s: float = 0.0,
        comment: str | None = None,
        file: BinaryIO | None = None,
        is_limited: bool = False,
    ) -> None:
        """Start a response in a format that passed `check_format`; `file` as for `make_encoder`."""
        self.format = format
        self.sample_rate_hz = sample_rate_hz
        self._source_rate_hz = source_rate_hz
        resampler, fader = Resampler(source_rate_hz, sample_rate_hz), EdgeFader(sample_rate_hz)
        # Behind the resampler, which moves peaks.
        limiters = [Limiter()] if is_limited else []
        self._stages = StageChain([resampler, *limiters, fader])
        self._encoder = make_encoder(
            format, sample_rate_hz, is_stream=is_stream, comment=comment, file=file
        )
        self._lock = threading.Lock()
        self._is_closed = False
        self._lead_in = self._silence(lead_in_s)
        self._tail = self._silence(tail_s)
        self._spoken_samples = 0
        self._silent_samples = 0

    @property
    def audio_s(self) -> float:
        """Seconds of audio that went into the encoder so far, at the rate that is sent."""
        return (self._spoken_samples + self._silent_samples) / self.sample_rate_hz

    @property
    def spoken_s(self) -> float:
        """Those of them that are not lead-in or tail."""
        return self._spoken_samples / self.sample_rate_hz

    def time_s(self, source_samples: int) -> float:
        """When what comes behind so many samples at the voice's rate is heard in the audio."""
        return len(self._lead_in) / self.sample_rate_hz + source_samples / self._source_rate_hz

    def feed(self, samples: Samples) -> bytes:
        """Take float32 [N] at the voice's rate and give the bytes that are ready, often none."""
        with self._lock:
            return b"" if self._is_closed else self._encode(self._stages.feed(samples))

    def finish(self) -> bytes:
        """Give the remaining bytes and close."""
        with self._lock:
            if self._is_closed:
                return b""
            self._is_closed = True
            rest = self._encode(self._stages.finish())
            tail = self._encode_silence(self._tail) if self._spoken_samples else b""
            return rest + tail + self._encoder.finish()

    def close(self) -> None:
        """Free the encoder; harmless when repeated."""
        with self._lock:
            self._is_closed = True
            self._encoder.close()

    def _encode(self, samples: Samples) -> bytes:
        if len(samples) == 0:
            return b""
        lead_in = b"" if self._spoken_samples else self._encode_silence(self._lead_in)
        self._spoken_samples += len(samples)
        return lead_in + self._encoder.encode(to_int16(samples))

    def _encode_silence(self, silence: Pcm16) -> bytes:
        self._silent_samples += len(silence)
        return self._encoder.encode(silence) if len(silence) else b""

    def _silence(self, duration_s: float) -> Pcm16:
        return np.zeros(round(duration_s * self.sample_rate_hz), np.int16)
