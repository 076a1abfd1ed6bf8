"""Read a book aloud: speak the parts that are missing, many at once, and write its files."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qwen_tts_service import __version__
from qwen_tts_service.audio.m4b import write_m4b
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.types import MAX_SEED, AudioFormat, Timestamp

from .book import Book
from .chapter_files import concat_list, ffmetadata, marks_of, samples_of, write_audio
from .folder import BookFolder, KeptPart
from .parts import BookPart, ChapterPlan, PartPauses, digest, plan_chapters

Result = TypeVar("Result")

MOST_TRIES = 3
"""How often a part is spoken that does not find its end, each time with another seed."""
_NEXT_SEED = 0x9E3779B1
CHAPTERS, FILES, WHOLE = "chapters.txt", "files.txt", "book.m4b"


class PartSynthesizer(Protocol):
    """Speaks many parts at once, each as if there were no other."""

    async def speak(self, text: str, seed: int) -> KeptPart:
        """Speak a part into FLAC. Raises TTSError; one about the text costs its chapter alone."""


@dataclass(frozen=True, slots=True)
class SubtitleWriter:
    """Writes the text of a subtitle file whose name ends with `ending`."""

    ending: str
    write: Callable[[Iterable[Timestamp]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrationOptions:
    """How a book is read.

    speech: all that decides how a text is spoken, without the seed, as JSON has it
    comment: said in the metadata of the files
    subtitles: how they are written, if they are; `speech` asks for the times of sentences then
    has_m4b: whether the whole book is written as one file too
    """

    seed: int
    format: AudioFormat
    speech: Mapping[str, Any]
    pauses: PartPauses = field(default_factory=PartPauses)
    comment: str | None = None
    subtitles: SubtitleWriter | None = None
    has_m4b: bool = False


@dataclass(slots=True)
class Narration:
    """What came of a reading: seconds of speech, and parts.

    kept, spoken: parts that were there before, and those spoken now
    refused: chapters with a part that cannot be spoken, and why
    notes: what else there is to say
    """

    kept: int
    spoken: int = 0
    cut: int = 0
    chapters: int = 0
    duration_s: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Narrator:
    """Reads one book into a folder that is locked; what is there is not spoken again."""

    def __init__(self, book: Book, folder: BookFolder, options: NarrationOptions) -> None:
        self._book = book
        self._folder = folder
        self._options = options
        self._speech = {**options.speech, "seed": options.seed}
        self._chapters = plan_chapters(book, self._speech, options.pauses)
        self._parts = {part.key: part for chapter in self._chapters for part in chapter.parts}
        self._missing = {key: part for key, part in self._parts.items() if not folder.has(key)}
        self._before = folder.manifest()
        self._is_there = {key: asyncio.Event() for key in self._missing}
        self._refusals: dict[str, str] = {}
        self._result = Narration(kept=len(self._parts) - len(self._missing))

    @property
    def chars(self) -> tuple[int, int]:
        """Characters of the parts that are there, and of all."""
        missing, whole = (
            sum(len(part.text) for part in parts.values()) for parts in (self._missing, self._parts)
        )
        return whole - missing, whole

    @property
    def change(self) -> str | None:
        """What differs from the last time, for which parts are spoken again."""
        before = {part["key"] for each in self._entries_before() for part in each["parts"]}
        if not before - self._parts.keys():
            return None
        then, now = self._before.get("options", {}), self._speech
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        what = f"options have changed ({', '.join(names)})" if names else "the text has changed"
        return f"{what}: {len(self._missing)} of {len(self._parts)} parts are spoken again"

    @property
    def has_all(self) -> bool:
        """Whether all parts have been spoken."""
        return not self._missing

    async def read(
        self, synthesizer: PartSynthesizer, *, at_once: int, on_spoken: Callable[[BookPart], object]
    ) -> Narration:
        """Speak what is missing and write the book.

        Raises TTSError and BookError; whatever has been spoken then stays.
        """
        waiting = iter(self._missing.values())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.write())
                for _ in range(at_once):
                    group.create_task(self._speak_parts(waiting, synthesizer, on_spoken))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return self._result

    async def _speak_parts(
        self,
        waiting: Iterator[BookPart],
        synthesizer: PartSynthesizer,
        on_spoken: Callable[[BookPart], object],
    ) -> None:
        for part in waiting:
            try:
                spoken = await self._speak(synthesizer, part.text)
            except (CannotSpeak, InvalidRequest) as error:
                if isinstance(error, InvalidRequest) and error.param != "text":
                    raise
                self._refusals[part.key] = error.message
            else:
                await _to_its_end(self._folder.keep, part.key, spoken)
                self._result.spoken += 1
            self._is_there[part.key].set()
            on_spoken(part)

    async def _speak(self, synthesizer: PartSynthesizer, text: str) -> KeptPart:
        """Speak a part; after a runaway with another seed, which is always the same."""
        seed = self._options.seed
        for _ in range(MOST_TRIES - 1):
            try:
                return await synthesizer.speak(text, seed)
            except CannotSpeak as error:
                if error.code != "runaway":
                    raise
            seed = (seed + _NEXT_SEED) % (MAX_SEED + 1)
        return await synthesizer.speak(text, seed)

    async def write(self) -> Narration:
        """Write every chapter once its parts are there, and in the end the whole book."""
        valid = self._valid_entries()
        entries: list[dict[str, Any]] = []
        self._write_manifest(list(valid.values()), is_complete=False)
        for chapter in self._chapters:
            for part in chapter.parts:
                if part.key in self._is_there:
                    await self._is_there[part.key].wait()
            why = [self._refusals[part.key] for part in chapter.parts if part.key in self._refusals]
            if why:
                self._result.refused[chapter.title] = why[0]
                continue
            entry = valid.get(self._key_of(chapter))
            if entry is None:
                entry = await _to_its_end(self._write, chapter)
            entries.append(entry)
            self._count(entry)
            later = [each for key, each in valid.items() if each not in entries]
            self._write_manifest([*entries, *later], is_complete=False)
        if not self._result.refused:
            await _to_its_end(self._finish, entries)
        return self._result

    def _write(self, chapter: ChapterPlan) -> dict[str, Any]:
        """Write the files of a chapter; gives its entry in the manifest."""
        options = self._options
        audio = write_audio(self._folder, chapter, options.format, options.comment)
        times: list[Timestamp] = []
        parts = []
        for part in audio.parts:
            facts = self._folder.facts(part.key)
            times += [_later(each, part.start_s) for each in facts.pop("timestamps", ())]
            parts.append({**asdict(part), **facts})
        entry = {"title": chapter.title, "key": self._key_of(chapter), **asdict(audio)}
        return entry | {"subtitles": self._write_subtitles(chapter, times), "parts": parts}

    def _write_subtitles(self, chapter: ChapterPlan, times: list[Timestamp]) -> str | None:
        writer = self._options.subtitles
        if writer is None:
            return None
        name = f"{chapter.name}.{writer.ending}"
        self._folder.write(name, writer.write(times))
        return name

    def _count(self, entry: Mapping[str, Any]) -> None:
        result = self._result
        result.chapters += 1
        result.duration_s += entry["duration_s"]
        result.cut += sum(part["is_cut"] for part in entry["parts"])
        warnings = filter(None, (part["warning"] for part in entry["parts"]))
        result.notes = list(dict.fromkeys([*result.notes, *warnings]))

    def _finish(self, entries: list[dict[str, Any]]) -> None:
        """Write what belongs to the whole book, and delete what no longer does."""
        for name in self._stale_files(_files_of(entries)):
            (self._folder.path / Path(name).name).unlink(missing_ok=True)
        self._folder.forget_parts_but(self._parts.keys())
        self._folder.write(CHAPTERS, ffmetadata(self._book.title, marks_of(entries)))
        self._folder.write(FILES, concat_list(entries))
        self._update_m4b(entries)
        self._write_manifest(entries, is_complete=True)

    def _update_m4b(self, entries: list[dict[str, Any]]) -> None:
        is_same = self._before.get("is_complete") and entries == self._entries_before()
        whole = self._folder.path / WHOLE
        if not is_same:
            whole.unlink(missing_ok=True)
        if self._options.has_m4b and not whole.is_file():
            self._write_m4b(entries)

    def _write_m4b(self, entries: list[dict[str, Any]]) -> None:
        rate_hz = entries[0]["sample_rate_hz"]
        chapters = (samples_of(self._folder, chapter, rate_hz) for chapter in self._chapters)
        with self._folder.new_file(self._folder.path / WHOLE) as file:
            write_m4b(
                file,
                chain.from_iterable(chapters),
                sample_rate_hz=rate_hz,
                metadata={"title": self._book.title, "comment": self._options.comment or ""},
                marks=marks_of(entries),
            )

    def _stale_files(self, files: set[str]) -> list[str]:
        """The files of chapters that the book had before."""
        before = _files_of(self._entries_before())
        return sorted((before | set(self._before.get("stale_files", []))) - files)

    def _write_manifest(self, entries: list[dict[str, Any]], *, is_complete: bool) -> None:
        manifest = {
            "version": __version__,
            "title": self._book.title,
            "seed": self._options.seed,
            "options": self._speech,
            "format": self._options.format,
            "is_complete": is_complete,
            "stale_files": [] if is_complete else self._stale_files(_files_of(entries)),
            "chapters": entries,
        }
        self._folder.write_manifest(manifest)

    def _entries_before(self) -> list[dict[str, Any]]:
        return list(self._before.get("chapters", []))

    def _valid_entries(self) -> dict[str, dict[str, Any]]:
        """The chapters of the last time that need not be written again, by their keys."""
        keys = {self._key_of(chapter) for chapter in self._chapters}
        return {
            entry["key"]: entry
            for entry in self._entries_before()
            if entry["key"] in keys
            and all((self._folder.path / name).is_file() for name in _files_of([entry]))
            and all(part["key"] not in self._missing for part in entry["parts"])
        }

    def _key_of(self, chapter: ChapterPlan) -> str:
        options = self._options
        ending = options.subtitles and options.subtitles.ending
        parts = [asdict(part) for part in chapter.parts]
        return digest([chapter.name, options.format, options.comment, ending, parts])


def _files_of(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """The files of chapters, by their entries in the manifest."""
    names = (entry.get(kind) for entry in entries for kind in ("file", "subtitles"))
    return {name for name in names if name}


def _later(timestamp: Mapping[str, Any], start_s: float) -> Timestamp:
    """A timestamp of a part, as one of its chapter; to the millisecond, as servers send it."""
    times = {name: start_s + round(timestamp[name], 3) for name in ("start_s", "end_s")}
    return Timestamp(**{**timestamp, **times})


async def _to_its_end(work: Callable[..., Result], *args: object) -> Result:
    """Work on a thread; who is cancelled meanwhile waits, so that nothing is written later."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    finally:
        await asyncio.wait([running])


def seed_before(folder: BookFolder) -> int | None:
    """The seed of the last time, to go on with if none is asked for."""
    seed = folder.manifest().get("seed")
    return seed if isinstance(seed, int) else None
