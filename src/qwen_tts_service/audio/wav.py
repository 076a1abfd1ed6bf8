"""WAV header of a mono 16-bit file, 44 bytes.

Written by hand, because a stream has to send them before anybody knows how long it will be.
"""

import struct

from .pcm import BYTES_PER_SAMPLE

UNKNOWN_SIZE = 0xFFFFFFFF
"""What players read as "until the end". Zero would be an empty file to several of them."""


def wav_header(sample_rate_hz: int, pcm_bytes: int | None) -> bytes:
    """Write the header; `pcm_bytes` is None for a stream whose length nobody knows yet.

    More than the header can say, 4 GiB, is written as unknown too.
    """
    if pcm_bytes is not None and pcm_bytes + 36 > UNKNOWN_SIZE:
        pcm_bytes = None
    riff_bytes = UNKNOWN_SIZE if pcm_bytes is None else 36 + pcm_bytes
    data_bytes = UNKNOWN_SIZE if pcm_bytes is None else pcm_bytes
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
