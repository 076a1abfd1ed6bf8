"""The server's lexicon file: read at the start, again when it changes, and when it is broken."""

import logging
import os
from pathlib import Path

import pytest

from qwen_tts_service.errors import StartupError
from qwen_tts_service.speech.lexicon_file import LexiconFile


def say(lexicon: LexiconFile, text: str = "GPU") -> str:
    return lexicon.current().of("english").apply(text)


def write(path: Path, data: bytes, changed_s: int) -> None:
    """Write a file with a time of change of its own, whatever the file system's clock is."""
    path.write_bytes(data)
    os.utime(path, (changed_s, changed_s))


@pytest.mark.parametrize(
    ("data", "why"), [(b"a\tb\nGPU", "line 2: a word"), (None, "No such file or directory")]
)
def test_a_file_that_cannot_be_read_stops_the_start(
    tmp_path: Path, data: bytes | None, why: str
) -> None:
    path = tmp_path / "lexicon.tsv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(StartupError, match=f"LEXICON={path}: {why}"):
        LexiconFile(path)


def test_a_changed_file_is_read_again_and_a_broken_one_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "lexicon.tsv"
    write(path, b"GPU\tone", 1)
    lexicon = LexiconFile(path)
    assert say(lexicon) == "one"
    write(path, b"GPU\ttwo", 2)
    assert [say(lexicon), say(lexicon)] == ["two", "two"]
    assert len(caplog.records) == 1
    for broken in (b"GPU\tthree\nsecret", None):
        caplog.clear()
        write(path, broken, 3) if broken else path.unlink()
        assert [say(lexicon), say(lexicon)] == ["two", "two"]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert ("line 2" in record.getMessage()) == (broken is not None)
        assert "secret" not in record.getMessage()
    write(path, b"GPU\tfour", 4)
    assert say(lexicon) == "four"


def test_a_file_of_the_same_time_and_another_size_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.tsv"
    write(path, b"GPU\tone", 1)
    lexicon = LexiconFile(path)
    write(path, b"GPU\tthree", 1)
    assert say(lexicon) == "three"
