"""The command line, run as people run it, with the embedded voice for real."""

import importlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from tests.checkpoints import VOICES, write_quick_checkpoint, write_tiny_checkpoint
from tests.conftest import Server, clean_environment

from qwen_tts_service import __version__
from qwen_tts_service.api.wire import TTSBody
from qwen_tts_service.cli import commands
from qwen_tts_service.fields import VoiceAttributesBody
from qwen_tts_service.settings import Settings
from qwen_tts_service.types import KeptVoice, SpeechRequest
from qwen_tts_service.voice.cloned import choose_clone
from qwen_tts_service.voice.library import LibraryEntry, VoiceLibrary

ROOT = Path(__file__).parents[2]
TEXT = "Привет, мир!"
REFERENCE = VOICES / "references" / "ref_a.flac"
LONG = "Раз, два, три, четыре, пять. " * 50


class Cli:
    """Runs `python -m qwen_tts_service` in a folder of its own."""

    command = (sys.executable, "-m", "qwen_tts_service")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = clean_environment(
            folder, MODEL_NAME="espeak-ng", PYTHONPATH=str(ROOT / "src")
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [*self.command, *arguments], cwd=self.folder, env=self.environment, **pipes | options
        )

    def __call__(self, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        process = self.start(*arguments, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=120)
        return process.returncode, out, err.decode()

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `say` in this process, which saves a second: (code, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_NAME", "espeak-ng")

    def run(capsys: Any, *arguments: str) -> tuple[int, str]:
        code = commands.run(["say", *arguments])
        return code, capsys.readouterr().err

    return run


def test_the_example_makes_a_file_and_names_its_seed(cli: Cli, say: Any, capsys: Any) -> None:
    code, out, err = cli("say", TEXT, "--out", "hello.wav")
    assert (code, out) == (0, b"")
    audio, rate_hz = soundfile.read(cli.folder / "hello.wav")
    assert rate_hz == 24000
    assert abs(audio).max() > 0.05
    assert cli.files() == {"hello.wav"}
    seed = err.strip().rpartition(" ")[2]
    assert say(capsys, TEXT, "--out", "again.wav", "--seed", seed)[0] == 0
    assert (cli.folder / "again.wav").read_bytes() == (cli.folder / "hello.wav").read_bytes()


def test_it_makes_what_the_service_makes(
    say: Any, capsys: Any, tmp_path: Path, server: Server
) -> None:
    options = ["--gender", "female", "--age", "70", "--emotion", "happy", "--language", "ru"]
    options += ["--seed", "7", "--max-length", "20", "--normalize", "none", "--temperature", "0.5"]
    code, err = say(capsys, TEXT, "--out", "hello.flac", *options)
    assert (code, "max-length" in err) == (0, False)
    body = {
        "text": TEXT,
        "format": "flac",
        "voice_attributes": {"gender": "female", "age": 70, "emotion": "happy"},
        "language": "ru",
        "seed": 7,
        "max_length": 20,
        "normalize": "none",
        "temperature": 0.5,
    }
    answer = httpx.post(server.base_url + "/tts", json=body, timeout=60)
    assert (tmp_path / "hello.flac").read_bytes() == answer.content


def test_standard_output_carries_a_stream_of_the_same_samples(
    cli: Cli, say: Any, capsys: Any
) -> None:
    code, streamed, _ = cli("say", "-", "--out", "-", stdin=f"\ufeff{TEXT}".encode())
    assert code == 0
    assert streamed[4:8] == b"\xff\xff\xff\x7f"
    assert say(capsys, TEXT, "--out", "raw", "--format", "pcm")[0] == 0
    raw = (cli.folder / "raw").read_bytes()
    assert streamed[44:] == raw
    assert np.abs(np.frombuffer(raw, "<i2")).max() > 1000


def test_a_reader_that_goes_away_is_an_error_and_no_traceback(cli: Cli) -> None:
    process = cli.start("say", LONG, "--out", "-")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(44)
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert err.count("\n") == 1
    assert err.startswith("error: --out -: ")
    process.stderr.close()


def test_ctrl_c_ends_with_130_and_leaves_nothing_behind(cli: Cli) -> None:
    cli.command = (
        sys.executable,
        "-c",
        # A runner in the background may have had SIGINT ignored for all its children.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from qwen_tts_service.cli.commands import run; sys.exit(run())",
    )
    process = cli.start("say", LONG, "--out", "-", "--format", "mp3")
    assert process.stdout is not None
    assert process.stdout.read(1)  # it speaks by now
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b""


def test_ctrl_c_while_a_file_is_made_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    old = tmp_path / "a.wav"
    old.write_bytes(b"old")
    monkeypatch.setenv("MODEL_NAME", "espeak-ng")
    monkeypatch.setattr(Path, "replace", interrupted)
    assert commands.run(["say", TEXT, "--out", str(old)]) == 130
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


PLAYER = """#!/bin/sh
echo "$@" >options
exec /bin/cat >played
"""


@pytest.fixture
def add_player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a script the only player there is."""

    def add(name: str, script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return add


@pytest.mark.parametrize("name", ["ffplay", "aplay"])
def test_a_player_that_is_installed_gets_the_stream(
    say: Any, add_player: Any, capsys: Any, tmp_path: Path, name: str
) -> None:
    add_player(name, PLAYER)
    code, err = say(capsys, TEXT, "--play", "--seed", "1")
    assert code == 0, err
    say(capsys, TEXT, "--out", "a.wav", "--seed", "1")
    played = (tmp_path / "played").read_bytes()
    assert played[:4] == b"RIFF"
    assert played[44:] == (tmp_path / "a.wav").read_bytes()[44:]
    assert (tmp_path / "options").read_text().split()[-1] == "-"


def test_a_player_that_fails_is_an_error(say: Any, add_player: Any, capsys: Any) -> None:
    add_player("ffplay", "#!/bin/sh\n/bin/cat >/dev/null; exit 3\n")
    expected = "error: --play: ffplay ended with code 3\n"
    assert say(capsys, TEXT, "--play") == (1, expected)


def test_a_player_that_ends_early_is_an_error(say: Any, add_player: Any, capsys: Any) -> None:
    add_player("ffplay", "#!/bin/sh\nexit 0\n")
    code, err = say(capsys, LONG, "--play")
    assert code == 1
    assert err.startswith("error: --play: ffplay ended before")


def test_without_a_player_the_error_lists_players(
    say: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, err = say(capsys, TEXT, "--play")
    assert code == 1
    assert "ffplay" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "a.wav"], "say what"),
        ([TEXT], "say where to"),
        ([TEXT, "--out", "a.wav", "--play"], "one of them"),
        ([TEXT, "--file", "b.txt", "--out", "a.wav"], "say what"),
        (["--file", "b.txt", "--out", "a.wav"], "--file: "),
        ([TEXT, "--out", "a"], ".wav"),
        ([TEXT, "--out", "a.doc"], ".wav"),
        ([TEXT, "--out", "a.wav", "--format", "doc"], "--format: "),
        ([TEXT, "--out", "."], "folder"),
        ([TEXT, "--out", "nowhere/a.wav"], "no folder"),
        (["", "--out", "a.wav"], "text is empty"),
        (["…", "--out", "a.wav"], "no letter"),
        ([TEXT, "--out", "a.wav", "--temperature", "2.1"], "--temperature: "),
        ([TEXT, "--out", "a.wav", "--temperature", "warm"], "--temperature"),
        ([TEXT, "--out", "a.wav", "--max-length", "4097"], "--max-length: "),
        ([TEXT, "--out", "a.wav", "--age", "0"], "--age: "),
        ([TEXT, "--out", "a.wav", "--gender", "x"], "--gender: "),
        ([TEXT, "--out", "a.wav", "--seed", "-1"], "--seed: "),
        ([TEXT, "--out", "a.wav", "--normalize", "x"], "--normalize: "),
        ([TEXT, "--out", "a.wav", "--language", "x"], "language"),
        ([TEXT, "--out", "a.wav", "--speaker", "x"], "speaker"),
        ([TEXT, "--out", "a.wav", "--device", "cuda"], "DEVICE"),
        ([TEXT, "--out", "a.wav", "--device", "x"], "DEVICE"),
        ([TEXT, "--out", "a.wav", "--model", "nobody"], "nobody"),
        ([TEXT, "--out", "a.wav", "--louder"], "unknown option --louder. See"),
        ([TEXT, "--out", "a.wav", "--voice", "x"], "--voice. Did you mean --speaker?"),
        ([TEXT, "--out", "a.wav", "--sex=f"], "--sex. Did you mean --gender?"),
        ([TEXT, "--out", "a.wav", "--speed", "3"], "--speed: must be at most 2; got 3"),
        ([TEXT, "--out", "a.wav", "--format", "doc"], "--format: must be wav, pcm, mp3"),
        ([TEXT, "--out", "a.wav", "--gender", "x"], 'must be male, female or neutral; got "x"'),
        ([TEXT, "--out", "a.wav", "--voice-from", "none.wav"], "--voice-from: No such file"),
        ([TEXT, "--out", "a.wav", "--transcript", "x"], "--transcript goes with --voice-from"),
        ([TEXT, "--out", "a.wav", "--timestamps", "word"], "--timestamps goes with --srt"),
        ([TEXT, "--out", "a.wav", "--srt", "none/a.srt"], "--srt: there is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_code_1(
    say: Any, capsys: Any, tmp_path: Path, arguments: list[str], words: str
) -> None:
    code, err = say(capsys, *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert words in err
    assert not list(tmp_path.iterdir())


def test_a_text_that_is_not_utf8_is_refused(say: Any, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(TEXT.encode("cp1251"))
    said = "error: the text is not UTF-8; save it as UTF-8\n"
    assert say(capsys, "--file", "b.txt", "--out", "a.wav") == (1, said)


def test_listed_words_are_taken_in_any_case(say: Any, capsys: Any) -> None:
    options = ["--format", "WAV", "--gender", "Женский", "--normalize", "LIGHT", "--language", "RU"]
    assert say(capsys, TEXT, "--out", "a.bin", *options)[0] == 0


def test_a_file_is_read_and_words_need_no_quotes(say: Any, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Раз два три.\n")
    assert say(capsys, "--file", "b.txt", "--out", "a.wav", "--seed", "1")[0] == 0
    assert say(capsys, "Раз", "два", "три.", "--out", "b.wav", "--seed", "1")[0] == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_a_device_that_is_no_file_is_written_to(say: Any, capsys: Any) -> None:
    assert say(capsys, TEXT, "--out", "/dev/null", "--format", "wav")[0] == 0
    assert not Path("/dev/null").is_file()


def test_a_pipe_is_written_to(say: Any, capsys: Any) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)  # of 64 KiB: 0.4 s of speech fit
    options = ["--format", "wav", "--max-length", "5", "--seed", "1"]
    for out in ("pipe", "file"):
        assert say(capsys, TEXT, "--out", out, *options)[0] == commands.CUT
    assert os.read(reader, 65536) == Path("file").read_bytes()
    os.close(reader)


def test_format_is_refused_before_a_voice_is_loaded(
    say: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLING_RATE", "22050")
    code, err = say(capsys, TEXT, "--out", "a.opus", "--model", "nobody")
    assert (code, "24000" in err, "nobody" in err) == (1, True, False)


def test_what_was_not_applied_is_reported(say: Any, capsys: Any) -> None:
    options = ["--instruct", "Sing.", "--max-length", "5"]
    code, err = say(capsys, TEXT, "--out", "a.wav", *options)
    assert code == commands.CUT == 3
    assert "instruct was not applied: " in err
    assert "max_length" in err
    assert "cut at --max-length" in err


def test_a_text_longer_than_any_request_is_spoken_to_its_end(say: Any, capsys: Any) -> None:
    pauses = 34  # of 10 s: a request over HTTP ends after 328
    text = " ".join(["Раз.", *["[pause:10s]" + " " * 110 + "Раз."] * pauses])
    assert len(text) > Settings().max_text_chars
    code, err = say(capsys, text, "--out", "a.wav")
    assert (code, "max" in err) == (0, False)
    assert 10 * pauses < soundfile.info("a.wav").duration < 11 * pauses + 5


def test_silence_for_unspeakable_text_and_pronunciations_are_options(say: Any, capsys: Any) -> None:
    assert "letter or digit" in say(capsys, "...", "--out", "a.wav")[1]
    code, err = say(capsys, "...", "--out", "a.wav", "--on-unspeakable", "silence")
    assert (code, "0.2 s of silence" in err) == (0, True)
    assert say(capsys, "My GPU.", "--out", "b.wav", "--pronounce", "GPU=card")[0] == 0
    assert say(capsys, "My card.", "--out", "c.wav")[0] == 0
    assert Path("b.wav").read_bytes() == Path("c.wav").read_bytes()


def test_a_voice_is_cloned_from_a_file(
    say: Any, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_quick_checkpoint(tmp_path / "models" / "base", "tiny_base_1b7")
    monkeypatch.setenv("MODEL_NAME", "base")
    monkeypatch.setenv("DEVICE", "cpu")
    fixed = ["--seed", "5", "--max-length", "12", "--format", "pcm", "--voice-from", str(REFERENCE)]
    words = ["--transcript", "hello the wide world"]
    code, err = say(capsys, "hello the world", "--out", "in-words", *fixed, *words)
    assert code == 0, err
    assert ", base, cloned, english, seed 5\n" in err
    assert "voice cloned from 2.0 s, with 0.5 s of silence after it\n" in err
    say(capsys, "hello the world", "--out", "by-sound", *fixed, "--speaker", "x")
    sounds = [(tmp_path / name).read_bytes() for name in ("in-words", "by-sound")]
    assert sounds[0] != sounds[1]
    assert min(map(len, sounds)) > 0


def test_a_kept_voice_of_another_size_speaks_as_its_recording_does(
    say: Any, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_quick_checkpoint(tmp_path / "models" / "base", "tiny_base_0b6")
    for name, value in {"MODEL_NAME": "base", "DEVICE": "cpu", "VOICES_PATH": "kept"}.items():
        monkeypatch.setenv(name, value)
    words = "hello the wide world"
    of_another = KeptVoice(embedding=(0.5,) * 7, codes=((1,) * 4,), transcript=words)
    library = VoiceLibrary(tmp_path / "kept", most=9)
    entry = LibraryEntry(name="anna", model="wide", voice=of_another, duration_s=2, tail_s=0.5)
    library.add(replace(entry, recording="recording.flac"), REFERENCE.read_bytes())
    fixed = ["--seed", "5", "--max-length", "12", "--format", "pcm"]
    code, err = say(capsys, "hello", "--out", "by-name", *fixed, "--speaker", "Anna")
    assert code == 0, err
    own = ["--voice-from", str(REFERENCE), "--transcript", words]
    assert say(capsys, "hello", "--out", "by-file", *fixed, *own)[0] == 0
    assert (tmp_path / "by-name").read_bytes() == (tmp_path / "by-file").read_bytes() != b""
    library.add(replace(entry, name="bob"))
    code, err = say(capsys, "hello", "--out", "none", *fixed, "--speaker", "bob")
    assert (code, "keep it again" in err) == (1, True)


def test_a_model_that_cannot_clone_says_so(say: Any, capsys: Any) -> None:
    code, err = say(capsys, TEXT, "--out", "a.wav", "--voice-from", str(REFERENCE))
    assert code == 1
    assert err.startswith("error: this model cannot clone voices; MODEL_NAME=Qwen3-TTS")


def test_a_model_without_a_voice_names_the_options_that_give_one(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        choose_clone(SpeechRequest(request_id="r", seed=0), "english", {})

    monkeypatch.setattr(commands, "list_voices", refuse)
    assert commands.run(["voices"]) == 1
    assert "--speaker names a kept one, --voice-from clones one" in capsys.readouterr().err


def test_quiet_prints_nothing(say: Any, capsys: Any) -> None:
    assert say(capsys, TEXT, "--out", "a.wav", "--instruct", "Sing.", "--quiet") == (0, "")


def test_a_full_disk_is_one_message(cli: Cli) -> None:
    limit = 'ulimit -f 20; exec "$0" -m qwen_tts_service "$@"'
    cli.command = ("bash", "-c", limit, sys.executable)
    code, _, err = cli("say", LONG, "--out", "a.flac")
    assert (code, err) == (1, f"error: --out: File too large: {cli.folder / 'a.flac'}\n")
    assert cli.files() == set()


def test_subtitles_are_of_sentences_or_words_without_markup(
    say: Any, capsys: Any, tmp_path: Path
) -> None:
    text = "**Раз** &lt;два&gt;. [pause:1s] Три {4}!"
    files = ["--out", "a.wav", "--srt", "a.srt", "--vtt", "a.vtt"]
    assert say(capsys, text, *files)[0] == 0
    srt = (tmp_path / "a.srt").read_text().split("\n\n")
    assert [cue.split("\n")[2] for cue in srt if cue.strip()] == ["Раз <два>.", "Три {4}!"]
    assert srt[1].startswith("2\n00:00:0")
    vtt = (tmp_path / "a.vtt").read_text()
    assert vtt.startswith("WEBVTT\n")
    assert "\nРаз &lt;два&gt;.\n" in vtt
    assert say(capsys, text, *files, "--timestamps", "word")[0] == 0
    assert (tmp_path / "a.srt").read_text().count(" --> ") == 4


def test_every_field_of_the_service_is_an_option(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.run(["say", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    fields = {*TTSBody.model_fields, *VoiceAttributesBody.model_fields}
    fields |= {"voice_from", "transcript"}  # for ref_audio and ref_text
    for field in fields - {"text", "tokens", "voice_attributes", "ref_audio", "ref_text"}:
        assert f"--{field.replace('_', '-')} " in shown
    assert "examples:" in shown
    lines = pairwise(shown.splitlines())
    options = [(line.split("  "), below) for line, below in lines if line.startswith("  -")]
    assert [o for o, below in options if len(o) == 2 and not below.startswith(" " * 10)] == []
    with pytest.raises(SystemExit):
        commands.run(["--help"])
    assert "examples:" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        commands.run(["--version"])
    assert capsys.readouterr().out == f"qwen-tts {__version__}\n"


def test_the_script_that_is_installed_runs_the_command_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["qwen-tts"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.fixture
def voices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., list[str]]:
    """Run `voices` where nothing is set or downloaded; the lines of standard output."""
    for name in ("MODEL_NAME", "MODEL_PATH", "VOICES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> list[str]:
        assert commands.run(["voices", *options]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_voices_lists_the_speakers_without_weights(voices: Callable[..., list[str]]) -> None:
    lines = voices()
    assert len(lines) == 9
    assert lines[0].split()[:2] == ["vivian", "female"]
    assert voices("--model", "Qwen3-TTS-12Hz-0.6B-CustomVoice") == lines
    assert "m6" in voices("--model", "espeak-ng")


def test_voices_of_a_checkpoint_on_disk_are_its_own(
    voices: Callable[..., list[str]], tmp_path: Path
) -> None:
    own = tmp_path / "models" / "own"
    write_tiny_checkpoint(own, "tiny_finetuned_0b6")
    assert voices("--model", "own") == ["speaker_test"]
    about = {"gender": "male", "age": 30, "description": "Low."}
    (own / "speakers.json").write_text(json.dumps({"Speaker_Test": about}))
    assert [line.split() for line in voices("--model", "own")] == [
        ["speaker_test", "male", "young", "Low."]
    ]
    shutil.copytree(own, tmp_path / "models" / "Qwen3-TTS-12Hz-0.6B-CustomVoice")
    assert len(voices("--model", "Qwen3-TTS-12Hz-0.6B-CustomVoice")) == 1


def test_voices_of_a_model_without_speakers_says_where_they_are_from(
    voices: Callable[..., list[str]], capsys: Any, tmp_path: Path
) -> None:
    for model, words in (("1.7B-VoiceDesign", "--instruct"), ("0.6B-Base", "--voice-from")):
        assert commands.run(["voices", "--model", f"Qwen3-TTS-12Hz-{model}"]) == 0
        out, err = capsys.readouterr()
        assert (out, words in err) == ("", True)
    voice = KeptVoice(embedding=(0.5,))
    entry = LibraryEntry(name="Anna", model="m", voice=voice, duration_s=2, description="calm")
    VoiceLibrary(tmp_path / "voices", most=9).add(entry)
    assert voices("--model", "Qwen3-TTS-12Hz-0.6B-Base") == ["Anna      kept    calm"]
    assert commands.run(["voices", "--model", "nobody"]) == 1
    assert "none of this name is published" in capsys.readouterr().err


def test_voices_of_a_server_are_those_that_it_lists(
    voices: Callable[..., list[str]], server: Server, capsys: Any
) -> None:
    listed = httpx.get(f"{server.base_url}/v1/audio/voices").json()["voices"]
    lines = voices("--url", f"{server.base_url}/")
    assert len(lines) == len(listed) > 9
    assert all(line.startswith(v["id"]) for line, v in zip(lines, listed, strict=True))
    for url, said in (("ftp://x", "http"), (f"{server.base_url}/nowhere", "404"), ("x", "http")):
        assert commands.run(["voices", "--url", url]) == 1
        assert said in capsys.readouterr().err


def read_all(terminal: int) -> str:
    shown = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side has closed
            return shown.decode()
        if not data:
            return shown.decode()
        shown += data


def test_a_terminal_shows_how_far_a_long_text_is_and_then_the_result(cli: Cli) -> None:
    terminal, side = pty.openpty()
    process = cli.start("say", LONG, "--out", "a.wav", stderr=side)
    os.close(side)
    shown = read_all(terminal)
    os.close(terminal)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert "] " in shown
    assert " s of about " in shown
    assert "\r\n" not in shown.partition("a.wav: ")[0]
    assert shown.rstrip().rpartition("\r")[2].startswith("a.wav: ")


def test_bytes_are_not_written_to_a_terminal(cli: Cli) -> None:
    terminal, side = pty.openpty()
    process = cli.start("say", TEXT, "--out", "-", stdout=side)
    os.close(side)
    shown = read_all(terminal)
    os.close(terminal)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, shown) == (1, "")
    assert b"terminal" in err
