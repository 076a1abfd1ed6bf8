"""`qwen-tts read`, run as people run it, with the embedded voice and with a real server."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pysubs2
import pytest
import soundfile
from tests.conftest import KEY, Server, clean_environment
from tests.unit.waiting import until

from qwen_tts_service.books.folder import KeptPart
from qwen_tts_service.cli import commands
from qwen_tts_service.cli import read as read_command

ROOT = Path(__file__).parents[2]
BOOK = "Chapter 1\n\nOnce there was a fox. He ate honey.\n\nChapter 2\n\nThe end.\n"
RUN = (
    # A runner in the background may have had SIGINT ignored for all its children.
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from qwen_tts_service.cli.commands import run; sys.exit(run())"
)


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Run `read` in this process, in a folder of its own: (code, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_NAME", "espeak-ng")
    Path("book.txt").write_text(BOOK)

    def run(*arguments: str) -> tuple[int, str]:
        code = commands.run(["read", *arguments])
        return code, capsys.readouterr().err

    return run


def test_a_book_becomes_a_file_for_each_chapter(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, err = read("book.txt", "--out", "book", "--gender", "female", "--seed", "5")
    assert code == 0, err
    assert err.startswith("book: 2 chapters, 0:0")
    assert "of speech, english, seed 5; parts spoken: 4, already there: 0\n" in err
    for name in ("01 Chapter 1.mp3", "02 Chapter 2.mp3"):
        audio, rate_hz = soundfile.read(Path("book") / name)
        assert (rate_hz, abs(audio).max() > 0.05) == (24000, True)
    manifest = json.loads(Path("book/manifest.json").read_text())
    assert [chapter["title"] for chapter in manifest["chapters"]] == ["Chapter 1", "Chapter 2"]
    assert manifest["options"]["model"] == "espeak-ng"
    monkeypatch.setattr("qwen_tts_service.cli.read.load", None)  # nothing is left to speak
    code, err = read("book.txt", "--out", "book", "--gender", "FEMALE", "--format", "wav")
    assert (code, "parts spoken: 0, already there: 4" in err) == (0, True)


def test_changed_options_are_said_and_spoken(read: Any) -> None:
    assert read("book.txt", "--out", "book", "--quiet") == (0, "")
    code, err = read("book.txt", "--out", "book", "--age", "70")
    assert code == 0
    assert err.startswith("options have changed (voice_attributes): 4 of 4 parts are spoken again")


def test_a_changed_lexicon_is_another_option(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXICON", "words")
    for reading in ("wolf", "bear"):
        Path("words").write_text(f"fox\t{reading}\n")
        code, err = read("book.txt", "--out", "book")
        assert code == 0, err
    assert err.startswith("options have changed (lexicon): 4 of 4 parts are spoken again")


def test_a_part_without_its_end_is_exit_code_3(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    speak = read_command.LocalSynthesizer.speak

    async def cut(self: Any, text: str, seed: int) -> KeptPart:
        return replace(await speak(self, text, seed), is_cut=text == "The end.", warning=text)

    monkeypatch.setattr(read_command.LocalSynthesizer, "speak", cut)
    code, err = read("book.txt", "--out", "book")
    assert code == commands.CUT
    assert "1 parts lack their end: book/manifest.json\n" in err
    assert "4 warnings in all: book/manifest.json\n" in err


@pytest.mark.parametrize("subtitles", [[], ["--subtitles", "srt"]], ids=["plain", "timed"])
def test_a_server_speaks_the_same_samples(read: Any, server: Server, subtitles: list[str]) -> None:
    options = ["--format", "wav", "--seed", "5", "--gender", "female", *subtitles]
    for out, where in (("here", []), ("there", ["--url", server.base_url])):
        code, err = read("book.txt", "--out", out, *options, *where)
        assert code == 0, err
    for path in Path("here").glob("0*"):
        assert path.read_bytes() == (Path("there") / path.name).read_bytes()
    manifests = [json.loads(Path(out, "manifest.json").read_text()) for out in ("here", "there")]
    assert manifests[0] == manifests[1]


def test_subtitles_have_the_times_of_sentences(read: Any) -> None:
    assert read("book.txt", "--out", "book", "--subtitles", "vtt")[0] == 0
    shown = pysubs2.load("book/01 Chapter 1.vtt")
    assert [each.text for each in shown] == ["Chapter 1", "Once there was a fox.", "He ate honey."]
    times = [time for each in shown for time in (each.start, each.end)]
    assert times == sorted(times)
    assert shown[1].start > 1000  # behind the title and the pause after it
    assert times[-1] <= 1000 * soundfile.info("book/01 Chapter 1.mp3").duration


def test_a_server_asks_for_its_key(
    read: Any, locked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["book.txt", "--out", "book", "--url", locked.base_url]
    monkeypatch.delenv("API_KEY", raising=False)
    code, err = read(*asked)
    assert (code, err.count("error: "), "401" in err, "API_KEY" in err) == (1, 1, True, True)
    monkeypatch.setenv("API_KEY", KEY)
    assert read(*asked)[0] == 0


def test_ctrl_c_keeps_what_was_spoken_and_the_same_command_goes_on(tmp_path: Path) -> None:
    lines = "\n".join(f"Number {n}. {'One, two, three, four. ' * 18}" for n in range(3))
    (tmp_path / "book.txt").write_text(f"Chapter 1\n{lines}\n")
    environment = clean_environment(tmp_path, MODEL_NAME="espeak-ng", PYTHONPATH=str(ROOT / "src"))
    command = [sys.executable, "-c", RUN, "read", "book.txt", "--out", "book", "--parallel", "1"]
    started = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **started)
    parts = tmp_path / "book" / "parts"
    until(lambda: bool(list(parts.glob("*.flac"))))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stopped; the same command goes on from here\n")
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.flac")}
    assert 0 < len(kept) < 4
    ended = subprocess.run(command, **started, check=True)
    assert f"already there: {len(kept)}\n" in ended.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert soundfile.info(tmp_path / "book" / "01 Chapter 1.mp3").duration > 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["book.txt"], "--out"),
        (["none.txt", "--out", "book"], "none.txt: No such file"),
        (["book.pdf", "--out", "book"], "must end with .txt"),
        (["book.txt", "--out", "book.txt"], "book.txt/parts: Not a directory"),
        (["book.txt", "--out", "book", "--format", "doc"], "--format: must be wav, pcm, mp3"),
        (["book.txt", "--out", "book", "--speaker", "x"], "speaker"),
        (["book.txt", "--out", "book", "--language", "x"], "language"),
        (
            ["book.txt", "--out", "book", "--parallel", "0"],
            '--parallel: must be 1 to 1024; got "0"',
        ),
        (["book.txt", "--out", "book", "--device", "cuda"], "DEVICE=cuda is set"),
        (["book.txt", "--out", "book", "--sex", "f"], "--sex. Did you mean --gender? See qwen-tts"),
        (["book.txt", "--out", "book", "--url", "x", "--model", "y"], "where --url is"),
        (["book.txt", "--out", "book", "--url", "http://127.0.0.1:9"], "does not answer"),
        (["book.txt", "--out", "book", "--url", "localhost:8188"], "--url: "),
    ],
)
def test_what_cannot_be_done_is_one_message_and_code_1(
    read: Any, arguments: list[str], words: str
) -> None:
    code, err = read(*arguments)
    assert (code, err.count("error: "), err.count("\n")) == (1, 1, 1), err
    assert words in err
    assert not list(Path().glob("book/0*"))


def test_what_cannot_be_spoken_costs_its_chapter_and_is_named(read: Any) -> None:
    Path("book.txt").write_text(f"{BOOK}\nChapter 3\n\nᚠᚢᚦ ᚨᚱᚲ.\n", "utf-8")
    code, err = read("book.txt", "--out", "book")
    assert code == 1
    assert "error: 1 chapters are missing; Chapter 3: " in err
    assert "--on-unspeakable silence" in err
    assert Path("book/02 Chapter 2.mp3").exists()
    code, err = read("book.txt", "--out", "book", "--on-unspeakable", "silence")
    assert code == 0, err
    assert Path("book/03 Chapter 3.mp3").exists()
