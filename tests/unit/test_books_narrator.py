"""Reading a book aloud: what is kept, what is spoken again, and the files that come of it."""

import asyncio
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from qwen_tts_service.books.book import Block, Book, BookError, Chapter
from qwen_tts_service.books.folder import BookFolder, KeptPart
from qwen_tts_service.books.narrator import (
    MOST_TRIES,
    Narration,
    NarrationOptions,
    Narrator,
    seed_before,
)
from qwen_tts_service.books.parts import MAX_PART_CHARS, PartPauses, plan_chapters
from qwen_tts_service.errors import CannotSpeak, InvalidRequest, SynthesisFailed

RATE_HZ = 8000
OPTIONS = NarrationOptions(seed=7, format="flac", speech={"speaker": "anna"})


def book_of(*chapters: str) -> Book:
    """Chapters One, Two and so on, with a paragraph that is a part for each line."""
    return Book(
        "Tales",
        tuple(
            Chapter(
                title,
                (
                    Block(title, is_title=True),
                    *(Block(line + "." * MAX_PART_CHARS) for line in text.splitlines()),
                ),
            )
            for title, text in zip(("One", "Two", "Three"), chapters, strict=False)
        ),
    )


BOOK = book_of("fox\nbee", "owl\ncat")


class FakeSpeaker:
    """Speaks 0.1 s for every letter of a text's first word; stops, refuses and rambles as told."""

    def __init__(self, **ends: str) -> None:
        self.ends = ends
        self.spoken: list[str] = []
        self.active = self.most_active = 0
        self.is_hanging = asyncio.Event()

    async def speak(self, text: str, seed: int) -> KeptPart:
        word = text.partition(".")[0]
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        await asyncio.sleep(0)
        self.active -= 1
        end = self.ends.get(word)
        if end == "refuse":
            raise CannotSpeak(f"no reading for {word}", code="no_reading")
        if end == "fail":
            raise SynthesisFailed("broken")
        if end == "invalid":
            raise InvalidRequest("text names the voice x", param="text")
        if end == "hang":
            self.is_hanging.set()
            await asyncio.Event().wait()
        if end == "ramble" and seed == OPTIONS.seed:
            raise CannotSpeak("no end", code="runaway")
        self.spoken.append(word)
        return KeptPart(
            audio=flac(len(word) * RATE_HZ // 10, level=len(self.spoken[-1]) * 1000 + seed % 100),
            speaker="anna",
            seed=seed,
            is_cut=end == "cut",
            warning="said oddly" if end == "warn" else None,
        )


def flac(samples: int, level: int, rate_hz: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, level, np.int16), rate_hz, format="FLAC")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[BookFolder]:
    folder = BookFolder(tmp_path / "out")
    with folder.locked():
        yield folder


async def read(
    folder: BookFolder,
    speaker: FakeSpeaker,
    book: Book = BOOK,
    options: NarrationOptions = OPTIONS,
    at_once: int = 3,
) -> Narration:
    narrator = Narrator(book, folder, options)
    return await narrator.read(speaker, at_once=at_once, on_spoken=lambda _: None)


def names(folder: BookFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {"parts"}


def samples(folder: BookFolder, name: str) -> Any:
    return soundfile.read(folder.path / name, dtype="int16")[0]


# What there is to read ------------------------------------------------------------------


def test_short_paragraphs_are_one_part_and_long_ones_several() -> None:
    sentence = "A sentence of about fifty characters, and no more. "
    blocks = [Block("One", is_title=True), Block("Short."), Block("Too."), Block(sentence * 40)]
    blocks += [Block("* * *"), Block("After.")]
    [chapter] = plan_chapters(Book("a", (Chapter("One", tuple(blocks)),)), {}, PartPauses())
    texts = [part.text for part in chapter.parts]
    assert texts[:2] == ["One", "Short.\n\nToo."]
    assert texts[-1] == "After."
    assert " ".join(texts[2:-1]) == (sentence * 40).strip()
    assert max(map(len, texts)) <= MAX_PART_CHARS
    assert [part.pause_s for part in chapter.parts] == [1.0, 0.6, 0.3, 0.3, 1.5, 0.6]


def test_files_are_named_by_number_and_title() -> None:
    titles = ["A/B: c?", "Глава 1. Лис", "", "." * 9, "x" * 99]
    chapters = tuple(Chapter(title, (Block("text"),)) for title in titles)
    planned = [chapter.name for chapter in plan_chapters(Book("a", chapters), {}, PartPauses())]
    assert planned == ["01 A B c", "02 Глава 1. Лис", "03", "04", "05 " + "x" * 60]


# What comes of it -----------------------------------------------------------------------


async def test_each_chapter_is_a_file_of_its_parts_and_pauses(folder: BookFolder) -> None:
    result = await read(folder, FakeSpeaker(owl="warn", cat="cut"))
    assert names(folder) == {
        "01 One.flac", "02 Two.flac", "manifest.json", "chapters.txt", "files.txt"
    }  # fmt: skip
    level = 3007
    parts = [(3, 10), (3, 6), (3, 6)]  # tenths of a second: "One", "fox", "bee" and silence
    expected = np.concatenate(
        [np.repeat([level, 0], [a * RATE_HZ // 10, b * RATE_HZ // 10]) for a, b in parts]
    )
    assert np.array_equal(samples(folder, "01 One.flac"), expected)
    manifest = folder.manifest()
    assert (manifest["title"], manifest["seed"], manifest["is_complete"]) == ("Tales", 7, True)
    assert manifest["options"] == {"speaker": "anna", "seed": 7}
    two = manifest["chapters"][1]
    assert (two["title"], two["file"], two["duration_s"]) == ("Two", "02 Two.flac", 3.1)
    assert [(p["start_s"], p["duration_s"], p["is_cut"], p["warning"]) for p in two["parts"]] == [
        (0.0, 0.3, False, None),
        (1.3, 0.3, False, "said oddly"),
        (2.2, 0.3, True, None),
    ]
    facts = (result.chapters, result.duration_s, result.spoken, result.kept, result.cut)
    assert facts == (2, 6.2, 6, 0, 1)
    assert result.notes == ["said oddly"]


async def test_ffmpeg_reads_the_chapter_marks(folder: BookFolder, tmp_path: Path) -> None:
    title = "A=B; #1\\2"
    await read(folder, FakeSpeaker(), replace(BOOK, title=title))
    with av.open(folder.path / "chapters.txt", format="ffmetadata") as marks:
        assert marks.metadata["title"] == title
        found = [
            (mark["metadata"]["title"], float(mark["start"] * mark["time_base"]))
            for mark in marks.chapters()
        ]
    assert found == [("One", 0.0), ("Two", 3.1)]
    assert (folder.path / "files.txt").read_text() == "file '01 One.flac'\nfile '02 Two.flac'\n"


async def test_an_audiobook_is_the_whole_book_with_its_marks(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker(), options=replace(OPTIONS, has_m4b=True))
    with av.open(folder.path / "book.m4b") as whole:
        assert whole.metadata["title"] == "Tales"
        marks = [(mark["metadata"]["title"], mark["start"]) for mark in whole.chapters()]
        assert marks == [("One", 0), ("Two", 3100)]
        heard = np.concatenate([f.to_ndarray()[0] for f in whole.decode(audio=0)])
    written = (folder.path / "book.m4b").stat().st_mtime_ns
    await read(folder, FakeSpeaker(), options=replace(OPTIONS, has_m4b=True))
    assert (folder.path / "book.m4b").stat().st_mtime_ns == written
    await read(folder, FakeSpeaker(), book_of("fox"))
    assert "book.m4b" not in names(folder)
    loud = np.flatnonzero(np.abs(heard) > 0.05) / RATE_HZ
    assert (loud[0], loud[-1]) == pytest.approx((0, 5.6), abs=0.2)


async def test_at_most_so_many_parts_are_spoken_at_once(folder: BookFolder) -> None:
    speaker = FakeSpeaker()
    await read(folder, speaker)
    assert speaker.most_active == 3


@pytest.mark.parametrize("at_once", [1, 2, 6, 50])
async def test_how_many_are_spoken_at_once_changes_no_sample(tmp_path: Path, at_once: int) -> None:
    read_by = []
    for count in (3, at_once):
        folder = BookFolder(tmp_path / str(count))
        with folder.locked():
            await read(folder, FakeSpeaker(), at_once=count)
        read_by.append([samples(folder, name) for name in ("01 One.flac", "02 Two.flac")])
    assert all(map(np.array_equal, *read_by))


# Again ----------------------------------------------------------------------------------


async def test_what_has_been_spoken_is_not_spoken_again(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker())
    before = {name: (folder.path / name).stat().st_mtime_ns for name in names(folder)}
    again = FakeSpeaker()
    result = await read(folder, again)
    assert (again.spoken, result.kept, result.spoken) == ([], 6, 0)
    assert before["01 One.flac"] == (folder.path / "01 One.flac").stat().st_mtime_ns
    assert Narrator(BOOK, folder, OPTIONS).change is None


@pytest.mark.parametrize("end", ["fail", "hang"])
async def test_a_reading_that_was_stopped_goes_on_with_what_is_missing(
    folder: BookFolder, tmp_path: Path, end: str
) -> None:
    stopped = FakeSpeaker(owl=end)
    reading = asyncio.create_task(read(folder, stopped))
    if end == "hang":
        await stopped.is_hanging.wait()
        reading.cancel()
    with suppress(SynthesisFailed, asyncio.CancelledError):
        await reading
    assert folder.manifest()["is_complete"] is False
    assert not list(folder.path.rglob("*unfinished*"))
    rest = FakeSpeaker()
    await read(folder, rest)
    assert sorted(stopped.spoken + rest.spoken) == ["One", "Two", "bee", "cat", "fox", "owl"]
    whole = BookFolder(tmp_path / "whole")
    with whole.locked():
        await read(whole, FakeSpeaker())
    assert names(whole) == names(folder)
    for name in ("01 One.flac", "02 Two.flac"):
        assert np.array_equal(samples(whole, name), samples(folder, name))


async def test_a_part_that_is_not_whole_is_spoken_again(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker())
    key, other = (part["key"] for part in folder.manifest()["chapters"][0]["parts"][:2])
    folder.audio(key).write_bytes(folder.audio(key).read_bytes()[:20])
    (folder.path / "parts" / f"{other}.json").write_text("{")
    again = FakeSpeaker()
    await read(folder, again)
    assert sorted(again.spoken) == ["One", "fox"]


async def test_a_changed_text_is_spoken_again_and_said(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker())
    changed = book_of("fox\nwasp", "owl\ncat")
    assert Narrator(changed, folder, OPTIONS).change == (
        "the text has changed: 1 of 6 parts are spoken again"
    )
    again = FakeSpeaker()
    await read(folder, again, changed)
    assert again.spoken == ["wasp"]
    assert len(list(folder.path.glob("parts/*.flac"))) == 6
    assert len(samples(folder, "01 One.flac")) == RATE_HZ * 32 // 10


async def test_changed_options_are_named(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker())
    changed = replace(OPTIONS, seed=8, speech={"speaker": "anna", "language": "russian"})
    assert Narrator(BOOK, folder, changed).change == (
        "options have changed (seed, language): 6 of 6 parts are spoken again"
    )
    again = FakeSpeaker()
    await read(folder, again, options=changed)
    assert len(again.spoken) == 6
    assert seed_before(folder) == 8


async def test_another_format_needs_no_speech_and_leaves_no_old_file(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker())
    again = FakeSpeaker()
    await read(folder, again, options=replace(OPTIONS, format="wav"))
    assert again.spoken == []
    assert names(folder) >= {"01 One.wav", "02 Two.wav"}
    assert not names(folder) & {"01 One.flac", "02 Two.flac"}


async def test_old_files_go_even_if_the_new_reading_was_stopped(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker())
    renamed = Book("Tales", (replace(BOOK.chapters[0], title="Uno"), BOOK.chapters[1]))
    changed = replace(OPTIONS, seed=8)
    with suppress(SynthesisFailed):
        await read(folder, FakeSpeaker(owl="fail"), renamed, changed)
    assert "01 One.flac" in names(folder)
    await read(folder, FakeSpeaker(), renamed, changed)
    assert {name for name in names(folder) if name.endswith("flac")} == {
        "01 Uno.flac", "02 Two.flac"
    }  # fmt: skip


async def test_a_drawn_seed_is_kept_from_the_beginning(folder: BookFolder) -> None:
    assert seed_before(folder) is None
    with suppress(SynthesisFailed):
        await read(folder, FakeSpeaker(One="fail"))
    assert seed_before(folder) == OPTIONS.seed


# What goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "why"), [("refuse", "no reading for fox"), ("invalid", "text names the voice x")]
)
async def test_a_part_that_cannot_be_spoken_costs_its_chapter_alone(
    folder: BookFolder, end: str, why: str
) -> None:
    result = await read(folder, FakeSpeaker(fox=end))
    assert result.refused == {"One": why}
    assert "02 Two.flac" in names(folder)
    assert "01 One.flac" not in names(folder)
    assert folder.manifest()["is_complete"] is False


async def test_a_part_without_an_end_is_tried_with_the_same_other_seeds(folder: BookFolder) -> None:
    await read(folder, FakeSpeaker(fox="ramble"))
    parts = [part for each in folder.manifest()["chapters"] for part in each["parts"]]
    assert [part["seed"] for part in parts] == [7, 7 + 0x9E3779B1, 7, 7, 7, 7]


async def test_a_part_that_never_ends_is_refused_after_a_few_tries(folder: BookFolder) -> None:
    tries = []

    class Rambler(FakeSpeaker):
        async def speak(self, text: str, seed: int) -> KeptPart:
            tries.append(seed)
            raise CannotSpeak("no end", code="runaway")

    result = await read(folder, Rambler(), book_of(""))
    assert result.refused == {"One": "no end"}
    assert len(set(tries)) == len(tries) == MOST_TRIES


async def test_parts_of_another_rate_are_not_joined(folder: BookFolder) -> None:
    speaker = FakeSpeaker()
    await read(folder, speaker)
    key = folder.manifest()["chapters"][0]["parts"][1]["key"]
    folder.audio(key).write_bytes(flac(800, 1, rate_hz=16000))
    with pytest.raises(BookError, match="other parts have 8000 Hz"):
        await read(folder, speaker, options=replace(OPTIONS, format="wav"))


async def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    others = [tmp_path / "notes.txt", tmp_path / ".a.part", parts / "a.flac"]
    for path in others:
        path.write_text("mine")
    left = parts / ".x.flac.unfinished"
    left.write_text("of a process that was killed")
    folder = BookFolder(tmp_path)
    with folder.locked():
        await read(folder, FakeSpeaker())
    assert [path.read_text() for path in others] == ["mine"] * 3
    assert not left.exists()


def test_a_folder_is_written_by_one_process_at_a_time(folder: BookFolder) -> None:
    with pytest.raises(BookError, match="another process"), BookFolder(folder.path).locked():
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BookError, match="file/parts: Not a directory"),
        BookFolder(tmp_path / "file").locked(),
    ):
        pass


@pytest.mark.parametrize("content", ["", "[]", "{", '{"chapters": [{}]}', '{"seed": "x"}'])
async def test_a_manifest_that_is_none_of_ours_is_replaced(
    folder: BookFolder, content: str
) -> None:
    (folder.path / "manifest.json").write_text(content)
    assert seed_before(folder) is None
    await read(folder, FakeSpeaker())
    assert json.loads((folder.path / "manifest.json").read_text())["is_complete"]


async def test_memory_does_not_grow_with_the_book(folder: BookFolder) -> None:
    """Parts of a minute each: ten of them are 9.6 million bytes of samples."""
    book = book_of("\n".join(f"part{number}" for number in range(10)))

    class Minute(FakeSpeaker):
        async def speak(self, text: str, seed: int) -> KeptPart:
            return KeptPart(audio=minute, speaker="anna", seed=seed)

    minute = flac(60 * RATE_HZ, 1000)
    await read(folder, Minute(), book_of("warm"))
    tracemalloc.start()
    await read(folder, Minute(), book, replace(OPTIONS, format="wav"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert soundfile.info(folder.path / "01 One.wav").duration > 600
    assert peak < 1_500_000
