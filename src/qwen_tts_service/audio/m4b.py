"""An audiobook as one file: AAC in MP4 with chapter marks, by FFmpeg (extra `aac`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from .encoders import AAC_BITS_PER_S
from .pcm import Pcm16

_MS = Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class ChapterMark:
    """Where a chapter is in the whole."""

    title: str
    start_s: float
    end_s: float


def write_m4b(
    file: BinaryIO,
    blocks: Iterable[Pcm16],
    *,
    sample_rate_hz: int,
    metadata: Mapping[str, str],
    marks: Iterable[ChapterMark],
) -> None:
    """Encode samples, int16 [N] at a time, into an empty file that can be sought in."""
    import av  # noqa: PLC0415 - an extra, and 100 MB

    with av.open(file, "w", format="ipod") as container:
        container.metadata.update(metadata)
        container.set_chapters([_chapter(number, mark) for number, mark in enumerate(marks)])
        track: Any = container.add_stream("aac", rate=sample_rate_hz, layout="mono")
        track.bit_rate = AAC_BITS_PER_S
        written = 0
        for samples in blocks:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples)[None], format="s16", layout="mono"
            )
            frame.sample_rate = sample_rate_hz
            frame.pts = written
            written += len(samples)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def _chapter(number: int, mark: ChapterMark) -> Any:
    return {
        "id": number,
        "start": round(mark.start_s / _MS),
        "end": round(mark.end_s / _MS),
        "time_base": _MS,
        "metadata": {"title": mark.title},
    }
