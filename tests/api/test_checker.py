"""scripts/test_api.py, run as a new user would."""

import importlib.util
import os
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.conftest import ROOT, Server, free_port

from qwen_tts_service.audio.formats import make_encoder

COMMAND = [sys.executable, "scripts/test_api.py"]
NO_FFMPEG = "note  ffmpeg is not installed: audio is opened with soundfile"
pytestmark = [  # what pydub is warned of when it is imported
    pytest.mark.filterwarnings("ignore:'audioop' is deprecated"),
    pytest.mark.filterwarnings("ignore:.*invalid escape sequence"),
]
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffmpeg here")


def check(url: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        [*COMMAND, url], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "has_ffmpeg",
    [
        pytest.param(True, marks=needs_ffmpeg, id="opened with pydub"),
        pytest.param(False, id="opened with soundfile"),
    ],
)
def test_a_good_server_passes_every_check(server: Server, has_ffmpeg: bool) -> None:
    done = check(server.base_url, os.environ["PATH"] if has_ffmpeg else "/nowhere")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") == 33
    assert "FAIL" not in done.stdout
    assert done.stdout.startswith(NO_FFMPEG) == (not has_ffmpeg)


def test_a_server_that_is_not_there_is_one_line_and_what_to_do() -> None:
    done = check(f"http://127.0.0.1:{free_port()}", os.environ["PATH"])
    assert done.returncode == 1
    assert "MODEL_NAME=espeak-ng ./scripts/serve" in done.stdout


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("checker", ROOT / "scripts" / "test_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["checker"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def encoded(format: Any, level: float, *, is_stream: bool = True) -> bytes:
    samples = (level * np.sin(np.arange(24_000) / 9)).astype(np.int16)
    encoder = make_encoder(format, 24_000, is_stream=is_stream)
    return encoder.encode(samples) + encoder.finish()


@needs_ffmpeg
@pytest.mark.parametrize("is_stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize("format", ["wav", "mp3", "ogg", "opus", "flac", "aac", "pcm"])
def test_pydub_opens_every_format(script: Any, format: str, is_stream: bool) -> None:
    length = script.opened(encoded(format, 10_000, is_stream=is_stream), format)
    assert length == "24000 samples" or 0.99 < float(length.removesuffix(" s")) < 1.1


@pytest.mark.parametrize("format", ["mulaw", "alaw"])
def test_soundfile_opens_the_formats_of_the_telephone(script: Any, format: str) -> None:
    assert script.opened(encoded(format, 10_000), format) == "3.00 s"
    with pytest.raises(script.Wrong, match="nothing but silence"):
        script.opened(encoded(format, 0), format)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"no audio at all" * 100, "cannot open it as mp3", id="no audio"),
        pytest.param(encoded("mp3", 0), "nothing but silence", id="silence"),
        pytest.param(encoded("mp3", 10_000)[:900], "hardly any audio", id="a fraction"),
    ],
)
def test_what_does_not_sound_is_wrong(script: Any, data: bytes, reason: str) -> None:
    with pytest.raises(script.Wrong, match=reason):
        script.opened(data, "mp3")
