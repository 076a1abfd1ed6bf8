"""Metadata that says of a file that its speech was made by a machine.

No watermark: converting or cutting the audio can lose it.
"""

import struct
from collections.abc import Mapping

from qwen_tts_service.types import AudioFormat

_SKIPPED: tuple[AudioFormat, ...] = ("mp3", "ogg", "opus", "flac")
LABELLED: Mapping[str, tuple[AudioFormat, ...]] = {
    "0": (),
    "1": _SKIPPED,
    "all": (*_SKIPPED, "wav"),
}
"""Formats that get a comment, by AI_LABEL. Some readers of wav take its header for 44 bytes."""


def label_of(model_name: str) -> str:
    """What is said of speech by this model; in ASCII if the name is."""
    return f"Machine-made (AI-generated) speech by {model_name}, not a recording of a person"


def id3_tag(comment: str) -> bytes:
    """An ID3v2.3 tag with a comment, to stand before the frames of an mp3."""
    text = b"\0eng\0" + comment.encode("latin-1", "replace")  # encoding, language, no description
    frame = struct.pack(">4sIH", b"COMM", len(text), 0) + text
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frame


def info_chunk(comment: str) -> bytes:
    """A LIST chunk with a comment, to stand before the samples of a wav."""
    text = comment.encode("latin-1", "replace") + b"\0"
    text += b"\0" * (len(text) % 2)
    return struct.pack("<4sI4s4sI", b"LIST", 12 + len(text), b"INFO", b"ICMT", len(text)) + text
