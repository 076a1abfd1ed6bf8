"""Files of a chapter, made of its parts: audio, and the times of what is in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from qwen_tts_service.audio.formats import file_extension, make_encoder
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


def write_audio(folder: BookFolder, chapter: ChapterPlan, format: AudioFormat) -> ChapterAudio:
    """Join the parts of a chapter, a block at a time. Raises BookError."""
    first = folder.audio(chapter.parts[0].key)
    sample_rate_hz = soundfile.info(first).samplerate
    name = f"{chapter.name}.{file_extension(format)}"
    times: list[PartTime] = []
    written = 0
    with folder.new_file(folder.path / name) as file:
        encoder = make_encoder(format, sample_rate_hz, is_stream=False, file=file)
        try:
            for part in chapter.parts:
                start = written
                for samples in _samples_of(folder.audio(part.key), sample_rate_hz):
                    file.write(encoder.encode(samples))
                    written += len(samples)
                duration_s = (written - start) / sample_rate_hz
                times.append(PartTime(part.key, start / sample_rate_hz, duration_s))
                silence = np.zeros(round(part.pause_s * sample_rate_hz), np.int16)
                file.write(encoder.encode(silence))
                written += len(silence)
            file.write(encoder.finish())
        finally:
            encoder.close()
    return ChapterAudio(name, sample_rate_hz, written / sample_rate_hz, tuple(times))


def _samples_of(path: Path, sample_rate_hz: int) -> Iterator[Pcm16]:
    with soundfile.SoundFile(path) as file:
        if file.samplerate != sample_rate_hz:
            raise BookError(f"{path}: other parts have {sample_rate_hz} Hz")
        yield from file.blocks(BLOCK_SAMPLES, dtype="int16")


def ffmetadata(title: str, chapters: list[dict[str, Any]]) -> str:
    """Chapter marks of the whole book, in the format that ffmpeg reads."""
    lines = [";FFMETADATA1", f"title={_escaped(title)}"]
    start_ms = 0
    for chapter in chapters:
        end_ms = start_ms + round(1000 * chapter["duration_s"])
        lines += ["", "[CHAPTER]", "TIMEBASE=1/1000", f"START={start_ms}", f"END={end_ms}"]
        lines.append(f"title={_escaped(chapter['title'])}")
        start_ms = end_ms
    return "\n".join([*lines, ""])


def concat_list(chapters: list[dict[str, Any]]) -> str:
    """The files of the whole book in order, for ffmpeg's demuxer `concat`."""
    return "".join(f"file '{chapter['file']}'\n" for chapter in chapters)


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "=;#\\\n" else char for char in text)
