"""WAV header of a mono 16-bit file, 44 bytes and perhaps a comment.

Written by hand, because a stream has to send them before anybody knows how long it will be.
"""

import struct

from .label import info_chunk
from .pcm import BYTES_PER_SAMPLE

ENDLESS_RIFF_BYTES = 0x7FFFFFFF
"""Size of a stream whose length nobody knows yet; zero would be an empty file to several readers.

It is positive as a signed 32-bit number too, and the samples are declared to fill it: Android
refuses chunks that do not fit into each other, as with 0xFFFFFFFF for both sizes, and
wyoming_openai knows unknown lengths by it. docs/log.md has what each reader does with which sizes.
"""
LARGEST_RIFF_BYTES = 0xFFFFFFFF


def wav_header(sample_rate_hz: int, pcm_bytes: int | None, comment: str | None = None) -> bytes:
    """Write the header; `pcm_bytes` is None for a stream whose length nobody knows yet.

    More than the header can say, 4 GiB, is written as unknown too.
    """
    info = b"" if comment is None else info_chunk(comment)
    header_bytes = 36 + len(info)  # of the RIFF chunk, before the samples
    riff_bytes = ENDLESS_RIFF_BYTES
    if pcm_bytes is not None and header_bytes + pcm_bytes <= LARGEST_RIFF_BYTES:
        riff_bytes = header_bytes + pcm_bytes
    data_bytes = (riff_bytes - header_bytes) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
    return struct.pack(
        f"<4sI4s4sIHHIIHH{len(info)}s4sI",
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
        info,
        b"data",
        data_bytes,
    )
