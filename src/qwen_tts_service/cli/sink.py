"""Sinks for encoded audio: a file, standard output, a player program."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

from .arguments import STANDARD_IO, CommandError

PLAYERS = {
    "ffplay": ("-nodisp", "-autoexit", "-loglevel", "error", "-i", "-"),
    "aplay": ("--quiet", "-"),
}
"""Programs that play a WAV stream from their standard input, the first that is there."""


Sink = Callable[[], AbstractContextManager[IO[bytes]]]
"""Opens a pipe that takes bytes as they are made; leaving it with an exception stops it."""


def sink_of(arguments: argparse.Namespace) -> Sink | None:
    """Choose and check the sink before anything is spoken; None is a file. Raises CommandError."""
    if (arguments.out is None) != arguments.play:
        raise CommandError("say where to: --out FILE, --out - or --play, one of them")
    if arguments.play:
        return partial(_player, _find_player())
    if arguments.out == STANDARD_IO:
        if sys.stdout.isatty():
            raise CommandError(
                "--out -: this is a terminal; send it to a file or a player with > or |"
            )
        return _standard_output
    check_file(Path(arguments.out))
    return None


def check_file(path: Path, option: str = "--out") -> None:
    """Raise CommandError unless the folder of a file that will be written is there."""
    if path.is_dir():
        raise CommandError(f"{option}: this is a folder: {path}")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"{option}: there is no folder {path.absolute().parent}")


@contextmanager
def new_file(path: Path, option: str = "--out") -> Iterator[BinaryIO]:
    """Write a file that takes its place once it is whole. Raises CommandError."""
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():  # /dev/null, a pipe: nothing to rename over
            with TemporaryFile() as file:
                yield file
                file.seek(0)
                with path.open("wb") as target:
                    shutil.copyfileobj(file, target)
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("w+b") as file:
                yield file
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"{option}: {error.strerror}: {path}") from None


def write_file(path: Path, data: bytes, option: str = "--out") -> None:
    """Write a file at once, as `new_file` does. Raises CommandError."""
    with new_file(path, option) as file:
        file.write(data)


@contextmanager
def _standard_output() -> Iterator[IO[bytes]]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError as error:
        # Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CommandError(f"--out -: {error.strerror}") from None


def _find_player() -> list[str]:
    for name, options in PLAYERS.items():
        if path := shutil.which(name):
            return [path, *options]
    raise CommandError(
        f"--play needs one of {', '.join(PLAYERS)} (packages ffmpeg, alsa-utils); or use --out"
    )


@contextmanager
def _player(command: list[str]) -> Iterator[IO[bytes]]:
    """Pipe into a player that is waited for in the end, and killed on an exception."""
    name = Path(command[0]).name
    # In a group of its own, so that Ctrl-C reaches us first and the player is stopped in order.
    try:
        with subprocess.Popen(  # noqa: S603 - one of PLAYERS
            command, stdin=subprocess.PIPE, process_group=0
        ) as process:
            assert process.stdin is not None
            try:
                yield process.stdin
            except BaseException:
                process.kill()
                raise
    except OSError:
        raise CommandError(f"--play: {name} ended before the end of the speech") from None
    if process.returncode:
        raise CommandError(f"--play: {name} ended with code {process.returncode}")
