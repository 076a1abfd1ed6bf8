"""The library of kept voices: files that several workers share."""

import json
import logging
import os
import time
from dataclasses import replace

import pytest

from qwen_tts_service.errors import InvalidRequest, UnknownVoice
from qwen_tts_service.types import KeptVoice
from qwen_tts_service.voice.library import LibraryEntry, VoiceLibrary, check_name

VOICE = KeptVoice(embedding=(0.1, -2.5e-30), codes=((1, 2), (3, 4)), transcript="Привет.")
ENTRY = LibraryEntry(
    name="Anna",
    model="base",
    voice=VOICE,
    duration_s=2.5,
    recording="recording.wav",
    language="russian",
    consent="I am Anna and agree.",
)


@pytest.fixture
def library(tmp_path):
    return VoiceLibrary(tmp_path / "voices", most=3)


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


def another(library):
    """The library as another worker, or this one after a restart, sees it."""
    return VoiceLibrary(library._path, most=3)


def test_a_kept_voice_is_there_after_a_restart(library):
    library.add(ENTRY, b"audio")
    assert another(library).entry("Anna") == ENTRY
    assert another(library)["anna"] == VOICE
    folder = library._path / "anna"
    assert names_in(folder) == ["recording.wav", "voice.json"]
    assert (folder / "recording.wav").read_bytes() == b"audio"


def test_without_its_recording_only_the_numbers_are_kept(library):
    library.add(replace(ENTRY, recording=None), b"audio")
    assert names_in(library._path / "anna") == ["voice.json"]


def test_workers_see_at_once_what_another_does(library):
    other = another(library)
    assert list(other) == []
    library.add(ENTRY)
    assert list(other) == ["Anna"]
    library.remove("anna")
    assert list(other) == []
    assert other.get("Anna") is None
    library.add(replace(ENTRY, model="new"))
    assert other.entry("Anna").model == "new"


def test_the_same_voice_is_the_same_object_each_time(library):
    library.add(ENTRY)
    assert library["Anna"] is library[" ANNA "]


def test_a_library_without_a_folder_is_empty(library):
    assert (len(library), list(library), library.get("Anna")) == (0, [], None)
    with pytest.raises(UnknownVoice):
        library.remove("Anna")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        ".",
        "../anna",
        "a/b",
        "a\\b",
        ".hidden",
        "-a",
        "a b",
        "Анна",
        "a\0",
        "a" * 65,
        "a\nb",
    ],
)
def test_no_name_leaves_the_library(library, name):
    with pytest.raises(InvalidRequest, match="name"):
        library.add(replace(ENTRY, name=name))
    assert not library._path.exists()
    assert library.get(name) is None
    with pytest.raises(UnknownVoice):
        library.remove(name)


def test_blanks_around_a_name_do_not_count():
    assert check_name(" a\n") == "a"


@pytest.mark.parametrize("name", ["vivian", "Ryan", "alloy", "CORAL", "cloned", "designed", "auto"])
def test_names_of_built_in_voices_are_taken(name):
    with pytest.raises(InvalidRequest, match="built-in"):
        check_name(name)


def test_a_name_is_kept_once_in_any_case(library):
    library.add(ENTRY)
    with pytest.raises(InvalidRequest) as refused:
        library.add(replace(ENTRY, name="ANNA"))
    assert refused.value.code == "voice_exists"


def test_of_two_workers_that_keep_one_name_one_is_refused(library, monkeypatch):
    library.add(ENTRY)
    late = another(library)
    monkeypatch.setattr(late, "place_for", lambda name: library._path / name.lower())
    with pytest.raises(InvalidRequest) as refused:
        late.add(replace(ENTRY, model="late"))
    assert refused.value.code == "voice_exists"
    assert library.entry("Anna") == ENTRY
    assert names_in(library._path) == ["anna"]


def test_no_more_are_kept_than_allowed(library):
    for name in ("a", "b", "c"):
        library.add(replace(ENTRY, name=name))
    with pytest.raises(InvalidRequest, match="MAX_VOICES") as refused:
        library.add(ENTRY)
    assert refused.value.code == "library_full"
    library.remove("b")
    library.add(ENTRY)
    assert list(library) == ["a", "Anna", "c"]


def test_a_voice_that_could_not_be_written_leaves_nothing(library, monkeypatch):
    def full(_descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        library.add(ENTRY, b"audio")
    assert names_in(library._path) == []


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"name": "Anna"}', '{"voice": {"embedding": 1}}']
)
def test_a_spoilt_file_is_said_in_the_log_and_no_voice(library, caplog, text):
    library.add(ENTRY)
    (library._path / "anna" / "voice.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert library.get("Anna") is None
        assert list(library) == []
    assert caplog.text.count("is not a kept voice") == 1
    assert library.remove("Anna") == "anna"
    library.add(ENTRY)


def test_a_folder_that_is_no_voice_is_never_deleted(library):
    library.add(ENTRY)
    other = library._path / "documents"
    other.mkdir()
    with pytest.raises(UnknownVoice):
        library.remove("documents")
    assert other.is_dir()


def test_a_file_that_a_person_edits_is_read_again(library):
    library.add(ENTRY)
    file = library._path / "anna" / "voice.json"
    assert library["Anna"].transcript == "Привет."
    values = json.loads(file.read_text())
    values["voice"]["transcript"] = "Привет, мир."
    file.write_text(json.dumps(values))
    os.utime(file, (0, 0))
    assert library["Anna"].transcript == "Привет, мир."


def test_what_a_process_left_unfinished_is_not_listed_and_goes_after_an_hour(library):
    library.add(ENTRY)
    old, fresh = library._path / ".new-0", library._path / ".old-1"
    for folder in (old, fresh):
        folder.mkdir()
    os.utime(old, (0, time.time() - 3700))
    assert list(library) == ["Anna"]
    library.add(replace(ENTRY, name="b"))
    assert not old.exists()
    assert fresh.exists()


# Models of another size --------------------------------------------------------------

WIDE = KeptVoice(embedding=(1.0, 2.0, 3.0), codes=((5, 6),), transcript="Привет.")


def wide(library):
    """The library for a model whose voices have another width."""
    return VoiceLibrary(library._path, most=3, width=3)


def encoder(heard, voice=WIDE):
    def encode(entry, audio):
        heard.append((entry.name, audio))
        return voice

    return encode


def test_a_voice_is_encoded_once_for_another_size_and_stays_what_it_was(library):
    library.add(ENTRY, b"audio")
    other, heard = wide(library), []
    assert other["anna"] == VOICE  # the model itself says that it does not fit
    for _ in range(2):
        other.fit("ANNA", encoder(heard))
    assert heard == [("Anna", b"audio")]
    assert other["anna"] == wide(library)["anna"] == WIDE
    assert another(library)["anna"] == VOICE
    assert another(library).entry("anna") == replace(ENTRY, others=(WIDE,))
    assert names_in(library._path / "anna") == ["recording.wav", "voice.json"]


def test_without_a_recording_nothing_is_encoded(library, caplog):
    library.add(replace(ENTRY, recording=None))
    library.add(replace(ENTRY, name="lost"), b"audio")
    (library._path / "lost" / "recording.wav").unlink()
    heard = []
    for name in ("Anna", "lost", "nobody"):
        wide(library).fit(name, encoder(heard))
    assert heard == []
    assert "lost cannot be encoded anew" in caplog.text


def test_a_voice_that_is_deleted_while_it_is_encoded_stays_deleted(library):
    library.add(ENTRY, b"audio")

    def encode(entry, _audio):
        library.remove(entry.name)
        library.add(replace(ENTRY, model="new"), b"other")
        return WIDE

    wide(library).fit("Anna", encode)
    assert library.entry("Anna") == replace(ENTRY, model="new")


def test_a_recording_is_read_from_its_own_folder_alone(library, caplog):
    library.add(ENTRY, b"audio")
    file = library._path / "anna" / "voice.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"recording": "../secret.wav"}))
    assert wide(library).entry("Anna") is None
    assert "is not a kept voice" in caplog.text
