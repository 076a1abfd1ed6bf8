"""The folder of a book being read: spoken parts, the manifest, whole files only.

Every file is written under another name and renamed, so that what is there is whole whenever the
program ends. A part's name is the hash of its text and options: a part that is there need not be
spoken again, and one whose text or options have changed is another part.
"""

import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import soundfile

from qwen_tts_service.types import Timestamp

from .book import BookError

PARTS = "parts"
MANIFEST = "manifest.json"
_CHAPTER = {"key", "file", "duration_s", "sample_rate_hz", "parts"}
_PART = {"key", "is_cut", "warning"}
"""What is needed of an entry in the manifest."""
_UNFINISHED = ".unfinished"
_NAME = re.compile(r"[0-9a-f]{24}\.(flac|json)")
"""Of a part's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPart:
    """What was made of a part: FLAC, and what is known of it.

    seed: another than was asked for after a runaway
    is_cut: whether its end is missing
    timestamps: of its sentences, if they were asked for
    """

    audio: bytes
    speaker: str
    seed: int
    is_cut: bool = False
    warning: str | None = None
    timestamps: tuple[Timestamp, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """All but the audio."""
        return {name: value for name, value in asdict(self).items() if name != "audio"}


class BookFolder:
    """A folder that one process at a time writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = path / PARTS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out. Raises BookError."""
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            with (self._parts / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for folder in (self.path, self._parts):
                    for left in folder.glob(f".*{_UNFINISHED}"):
                        left.unlink()
                yield
        except BlockingIOError:
            raise BookError(f"{self.path}: another process reads into this folder") from None
        except OSError as error:
            raise BookError(f"{error.filename or self.path}: {error.strerror}") from None

    def audio(self, key: str) -> Path:
        """Where a part's audio is."""
        return self._parts / f"{key}.flac"

    def has(self, key: str) -> bool:
        """Whether a part has been spoken and can be read."""
        try:
            return soundfile.info(self.audio(key)).frames > 0 and bool(self.facts(key))
        except (soundfile.LibsndfileError, OSError, ValueError):
            return False

    def facts(self, key: str) -> dict[str, Any]:
        """What is known of a part that is there."""
        return _dict_of(self._parts / f"{key}.json")

    def keep(self, key: str, part: KeptPart) -> None:
        """Keep a part; its audio comes last, so that with it everything is there."""
        with self.new_file(self._parts / f"{key}.json") as file:
            file.write(json.dumps(part.facts, ensure_ascii=False).encode())
        with self.new_file(self.audio(key)) as file:
            file.write(part.audio)

    def forget_parts_but(self, keys: Collection[str]) -> None:
        """Delete the parts that the book no longer has."""
        for path in self._parts.iterdir():
            if _NAME.fullmatch(path.name) and path.stem not in keys:
                path.unlink()

    def manifest(self) -> dict[str, Any]:
        """The manifest of the last run; empty if there is none, or not one of ours."""
        try:
            manifest = _dict_of(self.path / MANIFEST)
            is_ours = all(
                chapter.keys() >= _CHAPTER
                and all(part.keys() >= _PART for part in chapter["parts"])
                for chapter in manifest["chapters"]
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return manifest if is_ours else {}

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest."""
        self.write(MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a text file in the folder."""
        with self.new_file(self.path / name) as file:
            file.write(text.encode())

    @contextmanager
    def new_file(self, path: Path) -> Iterator[BinaryIO]:
        """Write a file that takes its place once it is whole and on the disk."""
        unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
        try:
            with unfinished.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _dict_of(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")  # noqa: TRY004 - as for other wrong JSON
    return value
