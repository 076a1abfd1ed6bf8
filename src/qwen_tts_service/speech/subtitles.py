"""Subtitles, SRT and WebVTT, of the sentences or words that a speech has timed; by pysubs2."""

import html
import textwrap
from collections.abc import Iterable
from typing import Literal

from pysubs2 import SSAEvent, SSAFile

from qwen_tts_service.text.markup import parse
from qwen_tts_service.text.normalise import normalise
from qwen_tts_service.types import Timestamp

SubtitleFormat = Literal["srt", "vtt"]
LINE_CHARS = 42
"""As in the guides of broadcasters."""


def subtitles(timestamps: Iterable[Timestamp], format: SubtitleFormat) -> str:
    """Write a subtitle file: one subtitle for each timestamp, as it was written, without markup."""
    file = SSAFile()
    for timestamp in timestamps:
        lines = textwrap.wrap(_shown(timestamp.text), LINE_CHARS, break_on_hyphens=False)
        if format == "vtt":  # `<`, `>` and `&` are markup there
            lines = [html.escape(line, quote=False) for line in lines]
        file.append(
            SSAEvent(
                start=round(timestamp.start_s * 1000),
                end=round(timestamp.end_s * 1000),
                text="\n".join(lines),
            )
        )
    # What looks like a tag of its own format is text here, such as "{1}".
    return file.to_string(format, keep_ssa_tags=True)


def _shown(text: str) -> str:
    """A text without tags, markdown, emoji and line ends."""
    return " ".join(normalise(parse(text).text, "light", "english").split())
