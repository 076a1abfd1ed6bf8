"""Progress bars of the command line, drawn by tqdm: loading a voice, speaking a text, a book."""

import asyncio
import sys
from typing import Any, Self

from tqdm import tqdm

from qwen_tts_service.speech.synthesizer import Speech

SHORT_S = 10.0
"""Shorter speeches show no bar."""
DRAW_EVERY_S = 0.1
LAYOUT: Any = {"bar_format": "[{bar:24}] {desc}", "ncols": 79, "nrows": 24}
"""Of a fixed size: a terminal of unknown width would show nothing."""


class SpeechProgressBar:
    """A bar on standard error that is erased in the end; nothing where that is no terminal."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_shown = sys.stderr.isatty() and not is_quiet
        self._bar: tqdm | None = None
        self._watching: asyncio.Task[None] | None = None

    def show(self, step: str, fraction: float) -> None:
        """Draw the name of a step and how much of it is done, 0 to 1."""
        if self._is_shown:
            self._bar = self._bar or tqdm(total=1.0, leave=False, ascii=".#", **LAYOUT)
            self._bar.n = min(max(fraction, 0.0), 1.0)
            self._bar.set_description_str(step)

    def watch(self, speech: Speech) -> None:
        """Draw how far a speech is, until `end`."""
        self.end()
        if self._is_shown and speech.info.expected_s >= SHORT_S:
            self._watching = asyncio.create_task(self._follow(speech))

    def end(self) -> None:
        """Erase the bar."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    async def _follow(self, speech: Speech) -> None:
        while True:
            made_s = speech.audio_s
            expected_s = max(made_s, speech.info.expected_s)
            self.show(f"{made_s:.0f} s of about {expected_s:.0f} s", made_s / expected_s)
            await asyncio.sleep(DRAW_EVERY_S)


class BookProgressBar:
    """A bar over the characters of a book, with the time left; as `SpeechProgressBar` shown."""

    def __init__(self, chars_before: int, chars: int, *, is_quiet: bool) -> None:
        self._bar = tqdm(
            total=chars,
            initial=chars_before,
            disable=is_quiet or not sys.stderr.isatty(),
            leave=False,
            mininterval=0,  # parts are few
            smoothing=0,  # the mean of the whole run: parts end many at once
            ascii=".#",
            **LAYOUT
            | {
                "bar_format": "[{bar:24}] {percentage:.0f} % of {total} characters, "
                "{remaining} left"
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, chars: int) -> None:
        """Say that so many characters more have been spoken."""
        self._bar.update(chars)
