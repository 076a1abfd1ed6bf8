"""The espeak-ng library behind checked names, spoken by a process of its own (server.py)."""

import re
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from qwen_tts_service.errors import StartupError, SynthesisFailed
from qwen_tts_service.types import Samples

from . import import_extra, server

SAMPLE_RATE_HZ = server.SAMPLE_RATE_HZ
LIMIT_S = 60
"""What a call may take; a piece of text takes about 20 ms."""
_CLOSE_S = 5
# Files beside the voices that are not voices: `fast` is a test of the rate limit.
_NOT_VOICES = frozenset({"fast"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Everything that shapes the sound of a text.

    language_code: what espeak-ng calls a language, such as ``"en-us"``
    variant: one of `EspeakLibrary.variants`, such as ``"f2"``
    rate_wpm: words per minute, 80 to 450; pitch, pitch_range: 0 to 99; volume: 0 to 200
    has_phonemes: read ``[[...]]`` in the text as espeak-ng phoneme names
    """

    language_code: str
    variant: str
    rate_wpm: int = 175
    pitch: int = 50
    pitch_range: int = 50
    volume: int = 100
    has_phonemes: bool = False


class EspeakLibrary:
    """Speaks texts and shows their phonemes, on any thread; a call depends only on its arguments.

    Raises StartupError when the package with the library is missing or broken.
    """

    def __init__(self) -> None:
        loader = import_extra("espeakng_loader")
        paths = (loader.get_library_path(), loader.get_data_path())
        self._files_by_code = dict(_languages(Path(paths[1]) / "lang"))
        variants = {path.name for path in (Path(paths[1]) / "voices" / "!v").iterdir()}
        self.variants: tuple[str, ...] = tuple(sorted(variants - _NOT_VOICES, key=str.casefold))
        self._control, theirs = socket.socketpair()
        with theirs:
            # It needs nothing but the standard library.
            python = [sys.executable, "-I", "-S"]
            self._process = subprocess.Popen(  # noqa: S603 - our own file
                [*python, server.__file__, str(theirs.fileno()), str(LIMIT_S), *paths],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the service, which then closes it
            )
        self._end = weakref.finalize(self, _end, self._control, self._process)
        try:
            self.phonemes([], "en-us")
        except SynthesisFailed as error:
            raise StartupError(f"espeak-ng could not start: {error}") from error

    @property
    def is_running(self) -> bool:
        """Whether its process is there; once False it stays so."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process; harmless when repeated."""
        self._end()

    def synthesise(
        self,
        delivery: Delivery,
        text: str,
        on_word: Callable[[int, int], object] = lambda _sample, _char: None,
    ) -> Generator[Samples, None, None]:
        """Speak, yielding float32 [N] chunks of at most `server.CHUNK_MS` as they are made.

        on_word: called with the sample and the character of the text at which a word begins,
            before the chunk with that sample
        Closing it stops the speech. Raises SynthesisFailed for a voice that does not exist, and for
        a failure inside.
        """
        voice = self._voice(delivery.language_code, delivery.variant)
        parameters = (delivery.rate_wpm, delivery.volume, delivery.pitch, delivery.pitch_range)
        call = self._call("synthesise", voice, text, parameters, delivery.has_phonemes)
        with closing(call) as chunks:
            for chunk, words in chunks:
                for word in words:
                    on_word(*word)
                yield np.frombuffer(chunk, np.int16).astype(np.float32) / np.float32(32768)

    def phonemes(self, texts: Sequence[str], language_code: str) -> list[str]:
        """Show how each text would be read, in phoneme names; "(en)" begins an English word."""
        voice = self._voice(language_code, self.variants[0])
        (phonemes,) = self._call("phonemes", voice, texts)
        return list(phonemes)

    def _voice(self, language_code: str, variant: str) -> str:
        """Name a voice by its file, or espeak-ng would list all voices first, for 5 ms.

        It ignores an unknown variant and keeps the voice it had for an unknown language: hence
        the checks.
        """
        if language_code not in self._files_by_code:
            raise SynthesisFailed(f"espeak-ng has no language {language_code!r}")
        if variant not in self.variants:
            raise SynthesisFailed(f"espeak-ng has no variant {variant!r}")
        return f"{self._files_by_code[language_code]}+{variant}"

    def _call(self, name: str, *arguments: object) -> Generator[Any, None, None]:
        """Call a function of the server; yield its chunks, then its result if any."""
        try:
            ours, theirs = Pipe()
            with ours:
                with theirs:
                    socket.send_fds(self._control, [b"+"], [theirs.fileno()])
                ours.send((name, *arguments))
                while isinstance(result := _receive(ours), tuple):
                    yield result
        except (OSError, EOFError) as error:
            what = "a process" if self.is_running else "the process"
            raise SynthesisFailed(f"{what} of espeak-ng has ended") from error
        if isinstance(result, str):
            raise SynthesisFailed(result)
        if result is not None:
            yield result


def _receive(connection: "Connection[Any, Any]") -> Any:
    """Receive a message; a fork ends by itself at the limit, a server that hangs does not."""
    if not connection.poll(LIMIT_S + 1):
        raise SynthesisFailed(f"espeak-ng gave no answer within {LIMIT_S} s")
    return connection.recv()


def _languages(folder: Path) -> Iterator[tuple[str, str]]:
    """List each language code with the file of its voice, such as en-us with gmw/en-US."""
    for path in filter(Path.is_file, folder.rglob("*")):
        for code in re.findall(r"^language\s+(\S+)", path.read_text("utf-8"), re.MULTILINE):
            yield code, path.relative_to(folder).as_posix()


def _end(control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    control.close()
    try:
        process.wait(_CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
