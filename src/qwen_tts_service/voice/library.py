"""Library of kept voices: a folder per voice with its recording and voice.json.

Every look at it goes to the files, which several workers share: what one has kept or deleted, the
others know at once. A folder is renamed into its place when all is in it, and out of it before it
is deleted, so that nobody reads half a voice.
"""

import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qwen_tts_service.errors import InvalidRequest, UnknownVoice, shown
from qwen_tts_service.types import KeptVoice, Language

from .catalogue import OPENAI_VOICES, SPEAKERS
from .cloned import CLONED
from .description import DESIGNED

logger = logging.getLogger(__name__)

FILE = "voice.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAKEN = frozenset({*SPEAKERS, *OPENAI_VOICES, CLONED, DESIGNED, "auto"})
_ABANDONED_S = 3600
"""After so long, an unfinished folder is that of a process which has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryEntry:
    """What voice.json holds: the voice, and what is known of it.

    model: which made it
    voice: for models of the width of that one
    others: the same voice for models of other widths
    duration_s, tail_s: of the recording, and of the silence it was heard with
    recording: the name of the audio file beside it; None if only the numbers are kept
    consent: the statement of consent that came with the recording
    """

    name: str
    model: str
    voice: KeptVoice
    duration_s: float
    tail_s: float = 0.0
    recording: str | None = None
    language: Language | None = None
    description: str | None = None
    consent: str | None = None
    warning: str | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))
    others: tuple[KeptVoice, ...] = ()

    def of_width(self, width: int | None) -> KeptVoice | None:
        """The voice for models of a width, if it has been encoded for such."""
        voices = (self.voice, *self.others)
        return next((voice for voice in voices if len(voice.embedding) == width), None)


def check_name(name: str) -> str:
    """The name without blanks around it; raises InvalidRequest if no voice may have it."""
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "name must be 1 to 64 Latin letters, digits, dots, hyphens and underscores, and begin "
            f"with a letter or digit; got {shown(name)}",
            param="name",
        )
    if name.lower() in _TAKEN:
        raise InvalidRequest(f"name {shown(name)} is that of a built-in voice", param="name")
    return name


class VoiceLibrary(Mapping[str, KeptVoice]):
    """The kept voices by name, in any case; every look is at the files as they are now."""

    def __init__(self, path: Path, *, most: int, width: int | None = None) -> None:
        """Read voices from `path`, which need not exist yet, and keep at most so many.

        width: of the model that is to speak with them
        """
        self._path = path
        self._most = most
        self._width = width
        self._read: dict[str, tuple[tuple[int, int], LibraryEntry | None]] = {}

    def entry(self, name: str) -> LibraryEntry | None:
        """The voice of this name and what is known of it; None for none."""
        key = _folder_of(name)
        if not _NAME.fullmatch(key):
            return None
        try:
            state = (self._path / key / FILE).stat()
        except OSError:
            self._read.pop(key, None)
            return None
        version = (state.st_mtime_ns, state.st_ino)
        known = self._read.get(key)
        if known is None or known[0] != version:
            known = self._read[key] = (version, _read_entry(self._path / key / FILE))
        return known[1]

    def add(self, entry: LibraryEntry, audio: bytes = b"") -> None:
        """Keep a voice, with its recording if the entry names a file for it.

        raises: InvalidRequest for a wrong or taken name, or with code `library_full`
        """
        place = self.place_for(entry.name)
        self._sweep()
        new = self._path / f".new-{secrets.token_hex(8)}"
        new.mkdir(parents=True)
        try:
            if entry.recording is not None:
                _write(new / entry.recording, audio)
            _write(new / FILE, _json_of(entry))
            new.rename(place)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            if place.exists():  # another worker was faster
                raise _taken(entry.name) from None
            raise

    def fit(self, name: str, encode: Callable[[LibraryEntry, bytes], KeptVoice]) -> None:
        """Encode a voice for our width too, if it is not and its recording is there.

        encode: makes the voice of the recording, which takes seconds
        """
        entry = self.entry(name)
        if entry is None or entry.recording is None or entry.of_width(self._width):
            return
        folder = self._path / _folder_of(name)
        new = folder / f".new-{secrets.token_hex(8)}"
        try:
            voice = encode(entry, (folder / entry.recording).read_bytes())
            if self.entry(name) is not entry:  # deleted or kept anew meanwhile
                return
            _write(new, _json_of(replace(entry, others=(*entry.others, voice))))
            new.replace(folder / FILE)
        except OSError as error:
            logger.warning("voice %s cannot be encoded anew: %s", entry.name, error)
            new.unlink(missing_ok=True)

    def remove(self, name: str) -> str:
        """Delete a voice and its recording, also a spoilt one; its name. Raises UnknownVoice."""
        unknown = UnknownVoice(f"there is no kept voice {shown(name)}", param="name")
        entry, key = self.entry(name), _folder_of(name)
        # Only what is a voice: the path may be set to a folder that holds something else.
        if not _NAME.fullmatch(key) or not (self._path / key / FILE).is_file():
            raise unknown
        old = self._path / f".old-{secrets.token_hex(8)}"
        try:
            (self._path / key).rename(old)
        except FileNotFoundError:  # another worker was faster
            raise unknown from None
        shutil.rmtree(old)
        return key if entry is None else entry.name

    def __getitem__(self, name: str) -> KeptVoice:
        entry = self.entry(name)
        if entry is None:
            raise KeyError(name)
        return entry.of_width(self._width) or entry.voice

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in map(self.entry, self._folders()) if entry is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _folders(self) -> list[str]:
        try:
            return sorted(f.name for f in self._path.iterdir() if _NAME.fullmatch(f.name))
        except FileNotFoundError:
            return []

    def place_for(self, name: str) -> Path:
        """Where a new voice would be; raises InvalidRequest as `add` does."""
        place = self._path / _folder_of(check_name(name))
        if place.exists():
            raise _taken(name)
        if len(self._folders()) >= self._most:
            raise InvalidRequest(
                f"{self._most} voices are kept already, and no more may be (MAX_VOICES); "
                "delete one first",
                code="library_full",
            )
        return place

    def _sweep(self) -> None:
        for folder in self._path.glob(".[no]*-*"):
            with suppress(FileNotFoundError):  # another worker sweeps too
                if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)


def _folder_of(name: str) -> str:
    return name.strip().lower()


def _taken(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"there is a voice {shown(name)} already; delete it first",
        param="name",
        code="voice_exists",
    )


def _json_of(entry: LibraryEntry) -> bytes:
    return json.dumps(asdict(entry), ensure_ascii=False).encode()


def _write(file: Path, data: bytes) -> None:
    """Write to the disk itself: a rename may otherwise outlive what the file held."""
    with file.open("xb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _read_entry(file: Path) -> LibraryEntry | None:
    """Read voice.json; None, and a line in the log, if somebody has spoilt it."""
    try:
        values: dict[str, Any] = json.loads(file.read_text("utf-8"))
        values["voice"] = _voice_of(values["voice"])
        values["others"] = tuple(map(_voice_of, values.get("others", ())))
        entry = LibraryEntry(**values)
        if _folder_of(entry.name) != file.parent.name:
            raise ValueError("the folder must have its name, in lower case")  # noqa: TRY301
        if entry.recording not in (None, Path(entry.recording or "").name):
            raise ValueError("the recording must be in the folder")  # noqa: TRY301
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is not a kept voice: %r", file, error)
        return None
    return entry


def _voice_of(values: dict[str, Any]) -> KeptVoice:
    return KeptVoice(
        embedding=tuple(map(float, values["embedding"])),
        codes=tuple(tuple(map(int, frame)) for frame in values["codes"]),
        transcript=values["transcript"],
    )
