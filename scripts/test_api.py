"""Check a running server the way a new user would, and print what came out.

    .venv/bin/python scripts/test_api.py [URL] [--key KEY] [--save DIR]

URL is http://127.0.0.1:8188 unless given. Exits with 1 if anything is wrong. The audio is opened
with pydub, which needs ffmpeg (scripts/setup dev; Debian's package ffmpeg); where one of them is
missing it says so and opens with soundfile what that can open.
"""

import argparse
import importlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import soundfile

TEXT = "Привет, мир! Это проверка службы. Первое предложение, второе и третье."
VOICE = {"gender": "female", "age": 25, "emotion": "happy"}
FORMATS = ("wav", "mp3", "ogg", "opus", "flac", "pcm", "aac", "mulaw", "alaw")
DOORS = ("/tts", "/stream-tts")
G711 = {"mulaw": "ULAW", "alaw": "ALAW"}
"""Formats of the telephone, as soundfile names them; 8 kHz unless asked otherwise."""
CONTAINERS = {"opus": "ogg"}
"""What ffmpeg calls a format that it calls something else."""
SILENCE_DBFS = -40.0
TIMEOUT_S = 600


class Wrong(Exception):
    """What the server did is not what its documentation says."""


@dataclass(frozen=True, slots=True)
class Checker:
    """Asks one server."""

    client: httpx.Client
    save: Path | None

    def alive(self) -> str:
        """GET /health."""
        state = _ok(self.client.get("/health")).json()
        return f"{state['model']} on {state['device']}, {state['slots']['total']} slots"

    def shows_metrics(self) -> str:
        """GET /metrics."""
        text = _ok(self.client.get("/metrics")).text
        _require("tts_requests_total" in text, "tts_requests_total is missing")
        return f"{len(text.splitlines())} lines"

    def documents_itself(self) -> str:
        """GET / and /docs.json."""
        _ok(self.client.get("/"))
        paths = _ok(self.client.get("/docs.json")).json()["paths"]
        _require(set(DOORS) <= set(paths), "a route is not documented")
        return f"{len(paths)} routes"

    def speaks(self, door: str, format: str) -> str:
        """POST a text and open what comes back."""
        body = {"text": TEXT, "format": format, "voice_attributes": VOICE, "max_length": 200}
        response = self.client.post(door, json=body)
        if format == "aac" and response.status_code == 400:
            return "not installed, and it says so: " + _message(response)[:60]
        _ok(response)
        if self.save:
            (self.save / f"{door.strip('/')}.{format}").write_bytes(response.content)
        length = opened(response.content, format)
        return f"{length}, {len(response.content) / 1000:.0f} kB, voice {_voice(response)}"

    def streams(self) -> str:
        """The first audio must come well before the last."""
        body = {"text": TEXT * 6, "format": "pcm", "max_length": 400}
        began_s = time.monotonic()
        with self.client.stream("POST", "/stream-tts", json=body) as response:
            _require(response.status_code == 200, f"status {response.status_code}")
            arrivals_s = [time.monotonic() - began_s for _ in response.iter_raw()]
        _require(len(arrivals_s) > 2, "it came in one piece")
        _require(arrivals_s[0] < arrivals_s[-1], "the first audio came with the last")
        return f"first audio after {arrivals_s[0] * 1000:.0f} ms, all after {arrivals_s[-1]:.2f} s"

    def repeats(self) -> str:
        """The seed of an answer gives the same audio again, streamed or whole."""
        body = {"text": "Раз, два, три.", "format": "pcm", "max_length": 60}
        first = _ok(self.client.post("/tts", json=body))
        again = {**body, "seed": int(first.headers["x-seed"])}
        second = _ok(self.client.post("/stream-tts", json=again))
        _require(len(first.content) == len(second.content), "another length")
        return f"seed {first.headers['x-seed']}, {len(first.content)} bytes both times"

    def times(self) -> str:
        """Every sentence has its place in the text, and a time within the audio."""
        body = {"text": TEXT, "timestamps": "sentence"}
        response = _ok(self.client.post("/tts", json=body, headers={"Accept": "application/json"}))
        stamps = response.json()["timestamps"]
        said = [TEXT[stamp["start_char"] : stamp["end_char"]] for stamp in stamps]
        _require(" ".join(said) == TEXT, "the sentences are not the text")
        last_s, audio_s = stamps[-1]["end_s"], float(response.headers["x-audio-seconds"])
        _require(last_s <= audio_s, "the last sentence ends behind the audio")
        return f"{len(stamps)} sentences, the last ends at {last_s:.2f} of {audio_s:.2f} s"

    def speaks_batch(self) -> str:
        """POST /v1/audio/speech/batch: a status each."""
        items = [{"input": "Раз."}, {"input": "Два.", "voice": "no such voice"}]
        batch = _ok(self.client.post("/v1/audio/speech/batch", json={"items": items})).json()
        states = [result["status"] for result in batch["results"]]
        _require(states == ["success", "error"], f"statuses {states}")
        return f"{batch['succeeded']} of {batch['total']} items, and an error for the other"

    def refuses(self, body: dict[str, Any], status: int, param: str | None) -> str:
        """A wrong request gets its status and names the field."""
        response = self.client.post("/tts", json=body)
        _require(response.status_code == status, f"status {response.status_code}, not {status}")
        error = response.json()["error"]
        _require(error["param"] == param, f"param is {error['param']}, not {param}")
        return str(error["message"])[:70]

    def refuses_forms(self) -> str:
        """A body that is not JSON is a 415 that shows the header."""
        response = self.client.post("/tts", data={"text": "x"})
        _require(response.status_code == 415, f"status {response.status_code}, not 415")
        return _message(response)[:70]


def checks(checker: Checker) -> list[tuple[str, Callable[[], str]]]:
    """Everything that is asked, in order, with its name."""
    spoken = [
        (f"POST {door} {format}", lambda door=door, format=format: checker.speaks(door, format))
        for door in DOORS
        for format in FORMATS
    ]
    wrong: list[tuple[str, dict[str, Any], int, str | None]] = [
        ("no text", {}, 400, "text"),
        ("blank text", {"text": "  "}, 400, "text"),
        ("text and tokens", {"text": "x", "tokens": [1]}, 400, "text"),
        ("temperature 3", {"text": "x", "temperature": 3}, 400, "temperature"),
        ("age 0", {"text": "x", "voice_attributes": {"age": 0}}, 400, "voice_attributes.age"),
        ("unknown format", {"text": "x", "format": "midi"}, 400, "format"),
        ("misspelt field", {"text": "x", "temprature": 1}, 400, "temprature"),
    ]
    refusals = [
        (f"refuses {name}", lambda b=body, s=status, p=param: checker.refuses(b, s, p))
        for name, body, status, param in wrong
    ]
    return [
        ("GET /health", checker.alive),
        ("GET / and /docs.json", checker.documents_itself),
        *spoken,
        ("streaming", checker.streams),
        ("same seed, same audio", checker.repeats),
        ("times of sentences", checker.times),
        ("POST /v1/audio/speech/batch", checker.speaks_batch),
        *refusals,
        ("refuses a form", checker.refuses_forms),
        ("GET /metrics", checker.shows_metrics),
    ]


def _require(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise Wrong(otherwise)


def _message(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])


def _ok(response: httpx.Response) -> httpx.Response:
    _require(response.status_code == 200, f"status {response.status_code}: {response.text[:200]}")
    return response


def _voice(response: httpx.Response) -> str:
    return f"{response.headers['x-voice']} ({response.headers['x-language']})"


def why_no_pydub() -> str:
    """Say what pydub lacks here to open compressed audio; empty if nothing."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        return "ffmpeg is not installed"
    try:
        importlib.import_module("pydub")
    except ImportError as error:  # itself, or audioop from Python 3.13 on
        return f"pydub cannot be imported ({error})"
    return ""


def opened(data: bytes, format: str) -> str:
    """Open audio and say how long it is; raises Wrong."""
    if format == "pcm":
        _require(len(data) > 1000 and len(data) % 2 == 0, "not 16-bit samples")
    if format in G711:
        return _open_g711(data, G711[format])
    return _open_with_soundfile(data, format) if why_no_pydub() else _open_with_pydub(data, format)


def _open_g711(data: bytes, law: str) -> str:
    raw = {"format": "RAW", "subtype": law, "samplerate": 8000, "channels": 1}
    samples, rate_hz = soundfile.read(io.BytesIO(data), **raw)
    _require(len(samples) > rate_hz // 4, "hardly any audio")
    _require(abs(samples).max() > 10 ** (SILENCE_DBFS / 20), "nothing but silence")
    return f"{len(samples) / rate_hz:.2f} s"


def _open_with_pydub(data: bytes, format: str) -> str:
    from pydub import AudioSegment  # noqa: PLC0415 - not everybody has it
    from pydub.exceptions import CouldntDecodeError  # noqa: PLC0415

    # PCM does not name its rate: any will do to count samples.
    pcm = {"sample_width": 2, "frame_rate": 24_000, "channels": 1} if format == "pcm" else {}
    try:
        audio = AudioSegment.from_file(io.BytesIO(data), CONTAINERS.get(format, format), **pcm)
    except (CouldntDecodeError, IndexError) as error:  # IndexError: no audio stream in it
        raise Wrong(f"pydub cannot open it as {format}") from error
    _require(audio.duration_seconds > 0.25, "hardly any audio")
    _require(audio.max_dBFS > SILENCE_DBFS, "nothing but silence")
    return f"{audio.frame_count():.0f} samples" if pcm else f"{audio.duration_seconds:.2f} s"


def _open_with_soundfile(data: bytes, format: str) -> str:
    if format == "aac":
        _require(data[:2] in (b"\xff\xf1", b"\xff\xf9"), "not an ADTS stream")
        return "opens"
    if format == "pcm":
        return f"{len(data) // 2} samples"
    count = 0
    with soundfile.SoundFile(io.BytesIO(data)) as audio:
        rate_hz = audio.samplerate
        # A stream does not say how long it is: read until nothing comes, or until libsndfile,
        # which seeks at the end of a FLAC stream, complains.
        with suppress(soundfile.SoundFileError):
            while read := len(audio.read(4096)):
                count += read
    _require(count > rate_hz // 4, "hardly any audio")
    return f"{count / rate_hz:.2f} s"


def main() -> int:
    """Run every check and print a line each."""
    parser = argparse.ArgumentParser(description="Check a running server.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8188")
    parser.add_argument("--key", default=os.environ.get("API_KEY", ""), help="the API key, if set")
    parser.add_argument("--save", type=Path, help="keep the audio in this folder")
    given = parser.parse_args()
    if given.save:
        given.save.mkdir(parents=True, exist_ok=True)
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    if reason := why_no_pydub():
        print(f"note  {reason}: audio is opened with soundfile, and aac by its header alone")
    failed = 0
    with httpx.Client(base_url=given.url, headers=headers, timeout=TIMEOUT_S) as client:
        for name, check in checks(Checker(client, given.save)):
            try:
                mark, result = "ok  ", check()
            except (Wrong, KeyError, ValueError, soundfile.SoundFileError) as error:
                mark, result, failed = "FAIL", str(error), failed + 1
            except httpx.TransportError as error:
                print(f"FAIL  {name}: nobody answers at {given.url}: {error}")
                print("Start a server first: MODEL_NAME=espeak-ng ./scripts/serve")
                return 1
            print(f"{mark}  {name:<27} {result}")
    print(f"\n{'all is well' if not failed else f'{failed} checks failed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
