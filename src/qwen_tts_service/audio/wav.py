"""WAV header of a mono 16-bit file, 44 bytes.

Written by hand, because a stream has to send them before anybody knows how long it will be.
"""

import struct

from .pcm import BYTES_PER_SAMPLE

ENDLESS_RIFF_BYTES = 0x7FFFFFFF
"""Size of a stream whose length nobody knows yet; zero would be an empty file to several readers.

It is positive as a signed 32-bit number too, and the samples are declared to fill it: Android
refuses chunks that do not fit into each other, as with 0xFFFFFFFF for both sizes, and
wyoming_openai knows unknown lengths by it. docs/log.md has what each reader does with which sizes.
"""
_HEADER_BYTES = 36
"""Of the RIFF chunk, before the samples."""


def wav_header(sample_rate_hz: int, pcm_bytes: int | None) -> bytes:
    """Write the header; `pcm_bytes` is None for a stream whose length nobody knows yet."""
    riff_bytes = ENDLESS_RIFF_BYTES if pcm_bytes is None else _HEADER_BYTES + pcm_bytes
    data_bytes = (riff_bytes - _HEADER_BYTES) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        riff_bytes,
        b"WAVE",
        b"fmt ",
        16,  # bytes of the format block
        1,  # integer PCM
        1,  # channel
        sample_rate_hz,
        sample_rate_hz * BYTES_PER_SAMPLE,
        BYTES_PER_SAMPLE,
        8 * BYTES_PER_SAMPLE,
        b"data",
        data_bytes,
    )
