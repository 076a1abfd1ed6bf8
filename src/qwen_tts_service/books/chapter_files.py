"""Files of a chapter, made of its parts: audio, and the times of what is in it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from qwen_tts_service.audio.formats import file_extension, make_encoder
from qwen_tts_service.audio.m4b import ChapterMark
from qwen_tts_service.audio.pcm import Pcm16
from qwen_tts_service.types import AudioFormat

from .book import BookError
from .folder import BookFolder
from .parts import ChapterPlan

BLOCK_SAMPLES = 65536


@dataclass(frozen=True, slots=True)
class PartTime:
    """When a part is heard in its chapter."""

    key: str
    start_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class ChapterAudio:
    """A chapter's file, and when its parts are heard in it."""

    file: str
    sample_rate_hz: int
    duration_s: float
    parts: tuple[PartTime, ...]


def write_audio(
    folder: BookFolder, chapter: ChapterPlan, format: AudioFormat, comment: str | None
) -> ChapterAudio:
    """Join the parts of a chapter, a block at a time. Raises BookError."""
    rate_hz = soundfile.info(folder.audio(chapter.parts[0].key)).samplerate
    name = f"{chapter.name}.{file_extension(format)}"
    times, end_s = [], 0.0
    for part in chapter.parts:
        duration_s = soundfile.info(folder.audio(part.key)).frames / rate_hz
        times.append(PartTime(part.key, end_s, duration_s))
        end_s += duration_s + part.pause_s
    with folder.new_file(folder.path / name) as file:
        encoder = make_encoder(format, rate_hz, is_stream=False, comment=comment, file=file)
        with closing(encoder):
            for samples in samples_of(folder, chapter, rate_hz):
                file.write(encoder.encode(samples))
            file.write(encoder.finish())
    return ChapterAudio(name, rate_hz, end_s, tuple(times))


def samples_of(folder: BookFolder, chapter: ChapterPlan, rate_hz: int) -> Iterator[Pcm16]:
    """Yield the samples of a chapter, int16 [N] at a time: its parts, and silence after each."""
    for part in chapter.parts:
        with soundfile.SoundFile(folder.audio(part.key)) as file:
            if file.samplerate != rate_hz:
                raise BookError(f"{file.name}: other parts have {rate_hz} Hz")
            yield from file.blocks(BLOCK_SAMPLES, dtype="int16")
        yield np.zeros(round(part.pause_s * rate_hz), np.int16)


def marks_of(entries: Iterable[Mapping[str, Any]]) -> list[ChapterMark]:
    """Where the chapters begin in the whole book, by their entries in the manifest."""
    marks, end_s = [], 0.0
    for entry in entries:
        start_s, end_s = end_s, end_s + entry["duration_s"]
        marks.append(ChapterMark(entry["title"], start_s, end_s))
    return marks


def ffmetadata(title: str, marks: Iterable[ChapterMark]) -> str:
    """Title and chapter marks in the format that ffmpeg reads."""
    lines = [";FFMETADATA1", f"title={_escaped(title)}"]
    for mark in marks:
        lines += ["", "[CHAPTER]", "TIMEBASE=1/1000"]
        lines += [f"START={round(1000 * mark.start_s)}", f"END={round(1000 * mark.end_s)}"]
        lines.append(f"title={_escaped(mark.title)}")
    return "\n".join([*lines, ""])


def concat_list(entries: Iterable[Mapping[str, Any]]) -> str:
    """The files of the chapters in order, for ffmpeg's demuxer `concat`."""
    return "".join(f"file '{entry['file']}'\n" for entry in entries)


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "=;#\\\n" else char for char in text)
