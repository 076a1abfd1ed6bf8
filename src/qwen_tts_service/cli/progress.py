"""How far it is, on one line of the terminal that is drawn over and leaves no trace.

Written by hand: a bar from a package would be the only thing it is needed for. It does not
know what is being made.
"""

import asyncio
import sys

from qwen_tts_service.speech.synthesizer import Speech

BAR_CHARS = 24
SHORT_S = 10.0
"""A speech that is expected to be shorter shows no bar."""
DRAW_EVERY_S = 0.1
_CLEAR = "\r\033[K"


class Progress:
    """Draws where standard error is a terminal, and nowhere else."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_shown = sys.stderr.isatty() and not is_quiet
        self._watching: asyncio.Task[None] | None = None

    def loading(self, step: str, fraction: float) -> None:
        """Draw how far a step of loading is, 0 to 1."""
        self._draw(f"{_bar(fraction)} {step}")

    def watch(self, speech: Speech) -> None:
        """Draw how far a speech is, until `end`."""
        self.end()
        if self._is_shown and speech.info.expected_s >= SHORT_S:
            self._watching = asyncio.create_task(self._follow(speech))

    def end(self) -> None:
        """Remove the line."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._draw("")

    async def _follow(self, speech: Speech) -> None:
        while True:
            made_s = speech.audio_s
            expected_s = max(made_s, speech.info.expected_s)
            self._draw(f"{_bar(made_s / expected_s)} {made_s:.0f} s of about {expected_s:.0f} s")
            await asyncio.sleep(DRAW_EVERY_S)

    def _draw(self, line: str) -> None:
        if self._is_shown:
            sys.stderr.write(_CLEAR + line)
            sys.stderr.flush()


def _bar(fraction: float) -> str:
    done = round(BAR_CHARS * min(max(fraction, 0.0), 1.0))
    return f"[{'#' * done}{'.' * (BAR_CHARS - done)}]"
