"""The command line's parts: the bar, the name of the format, the settings, the file."""

import argparse
import asyncio
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_tts_service.cli.arguments import CommandError, body_of, format_of, parse, settings_of
from qwen_tts_service.cli.progress import BookProgressBar, SpeechProgressBar
from qwen_tts_service.cli.sink import new_file
from qwen_tts_service.errors import InvalidRequest


@pytest.mark.parametrize(
    ("fraction", "done"), [(-1.0, 0), (0.0, 0), (0.25, 6), (0.5, 12), (1.0, 24), (7.0, 24)]
)
def test_loading_is_drawn_in_proportion_on_one_line_and_erased(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, fraction: float, done: int
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = SpeechProgressBar(is_quiet=False)
    progress.show("reading", fraction)
    shown = capsys.readouterr().err
    assert shown.rpartition("\r")[2].strip() == "[" + "#" * done + "." * (24 - done) + "] reading"
    progress.end()
    erased = capsys.readouterr().err
    assert "\n" not in shown + erased
    assert erased.strip() == ""
    assert len(erased.strip("\r")) >= len("[] reading") + 24
    assert erased.endswith("\r")


@pytest.mark.parametrize(("is_terminal", "is_quiet"), [(False, False), (True, True)])
def test_nothing_is_drawn_when_quiet_or_without_a_terminal(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, is_quiet: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    progress = SpeechProgressBar(is_quiet=is_quiet)
    progress.show("reading", 0.5)
    progress.end()
    assert capsys.readouterr().err == ""


def test_a_book_shows_how_far_it_is_and_the_time_left(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with BookProgressBar(500, 2000, is_quiet=False) as bar:
        bar.add(500)
        drawn = capsys.readouterr().err
        assert "[############............] 50 % of 2000 characters, " in drawn
        assert re.search(r"\d\d:\d\d left", drawn)
    erased = capsys.readouterr().err
    assert (erased.strip(), erased.endswith("\r")) == ("", True)


@pytest.mark.parametrize(("is_terminal", "is_quiet"), [(False, False), (True, True)])
def test_a_book_draws_nothing_when_quiet_or_without_a_terminal(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, is_quiet: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    with BookProgressBar(0, 10, is_quiet=is_quiet) as bar:
        bar.add(10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("expected_s", "is_shown"), [(9.9, False), (10.0, True)])
async def test_bar_follows_only_a_speech_of_ten_seconds_or_more_and_ends(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, expected_s: float, is_shown: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tasks = asyncio.all_tasks()
    progress = SpeechProgressBar(is_quiet=False)
    progress.watch(SimpleNamespace(audio_s=5.0, info=SimpleNamespace(expected_s=expected_s)))
    await asyncio.sleep(0)
    progress.end()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    drawn = capsys.readouterr().err
    assert ("############............] 5 s of about 10 s" in drawn) == is_shown
    assert drawn.rpartition("]")[2].endswith("\r") or not is_shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--out", "a.MP3"], "mp3"),
        (["--out", "a.mp3", "--format", "flac"], "flac"),
        (["--out", "-"], "wav"),
        (["--out", "-", "--format", "pcm"], "pcm"),
        (["--out", "a.mp3", "--format", " FLAC"], "flac"),
        (["--out", "a.mp3", "--format", "DOC"], "DOC"),
        (["--play"], "wav"),
    ],
)
def test_format_is_the_asked_one_else_the_files_else_wav(
    arguments: list[str], expected: str
) -> None:
    assert format_of(parse(["say", "a", *arguments])) == expected


def test_player_takes_no_format() -> None:
    with pytest.raises(CommandError, match="--format goes with --out"):
        format_of(parse(["say", "a", "--play", "--format", "mp3"]))


@pytest.mark.parametrize(
    ("variable", "option", "expected"),
    [(None, None, "models"), ("there", None, "there"), ("there", "here", "here")],
)
def test_checkpoints_are_searched_by_option_else_variable_else_in_models(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, option: str | None, expected: str
) -> None:
    monkeypatch.delenv("MODEL_PATH", raising=False)
    if variable:
        monkeypatch.setenv("MODEL_PATH", variable)
    monkeypatch.setenv("MAX_CONCURRENT_REQUESTS", "7")
    monkeypatch.setenv("MODEL_NAME", "somebody")
    arguments = argparse.Namespace(model="espeak-ng", model_path=option, device="cpu")
    settings = settings_of(arguments)
    assert Path(settings.model_path) == Path(expected)
    assert settings.max_concurrent_requests == 1
    assert (settings.model_name, settings.device) == ("espeak-ng", "cpu")


def test_link_is_written_through_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.wav").write_bytes(b"old")
    (tmp_path / "link.wav").symlink_to("real.wav")
    with new_file(tmp_path / "link.wav") as file:
        file.write(b"new")
    assert (tmp_path / "link.wav").is_symlink()
    assert (tmp_path / "real.wav").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.wav", "real.wav"]


def test_file_that_cannot_be_renamed_leaves_the_old_one_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.wav").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", full)
    with (
        pytest.raises(CommandError, match="--out: No space left on device"),
        new_file(tmp_path / "a.wav") as file,
    ):
        file.write(b"new")
    assert (tmp_path / "a.wav").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_pronunciations_are_given_one_by_one() -> None:
    options = ["--pronounce", "GPU=джи пи ю", "--pronounce", "a=b=c"]
    body = body_of(parse(["say", "GPU", "--out", "a.wav", *options]))
    assert body.pronunciations == {"GPU": "джи пи ю", "a": "b=c"}
    assert body_of(parse(["say", "GPU", "--out", "a.wav"])).pronunciations is None


@pytest.mark.parametrize(
    ("entry", "error", "why"),
    [
        ("GPU", CommandError, "--pronounce: a word, = and its reading"),
        ("=x", InvalidRequest, "--pronunciations: the word is empty"),
    ],
)
def test_a_wrong_pronunciation_names_its_option(
    entry: str, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        body_of(parse(["say", "GPU", "--out", "a.wav", "--pronounce", entry]))
