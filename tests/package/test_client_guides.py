"""The pages for clients: snippets are run, lists are complete."""

import base64
import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.api.test_formats import decode
from tests.conftest import Server
from tests.package.test_readme import README_PORT, Snippet, check_audio, run, snippets_of
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection as Connection
from websockets.sync.client import connect

from qwen_tts_service.api.openai import MODEL_ALIASES, CreateSpeechBody
from qwen_tts_service.voice.catalogue import OPENAI_VOICES

DOCS = Path(__file__).parent.parent.parent / "docs"
INDEX = DOCS / "clients.md"
TWILIO = DOCS / "clients" / "twilio.md"
PAGES = sorted((DOCS / "clients").glob("*.md"))
NOT_RUN = {"docker": 2, "package": 3, "speakers": 1, "ffmpeg": 1, "telephone": 2}
EVERY = [
    pytest.param(snippet, id=f"{page.stem}-{snippet.line}")
    for page in PAGES
    for snippet in snippets_of(page)
    if snippet.reason is None
]
WRITES = re.compile(r"--output (\S+)|(?:open|write_to_file|stream_to_file)\(\"([^\"]+)\"")


@pytest.mark.parametrize("snippet", EVERY)
def test_snippet_does_what_it_says(
    snippet: Snippet, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "any")
    code = snippet.code.replace(README_PORT, str(server.port))
    interpreter = {"bash": ["bash", "-euo", "pipefail"], "python": [sys.executable]}
    output = run([*interpreter[snippet.language], "-c", code], tmp_path)
    assert '"error"' not in output
    for names in WRITES.findall(code):
        check_audio(tmp_path / "".join(names))


# Twilio ------------------------------------------------------------------------------

CALL = {"accountSid": "AC00", "callSid": "CA00"}


class Caller:
    """Twilio's side of a call: sends and reads messages as its documentation has them."""

    def __init__(self, socket: Connection) -> None:
        self._socket = socket
        self._sequence = count(1)
        self.heard = b""

    def send(self, event: str, **fields: Any) -> None:
        message = {"event": event, "streamSid": "MZ00", "sequenceNumber": str(next(self._sequence))}
        self._socket.send(json.dumps({**message, **fields}))

    def start(self) -> None:
        self._socket.send(
            json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        )
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        about = {**CALL, "streamSid": "MZ00", "tracks": ["inbound"], "customParameters": {}}
        self.send("start", start={**about, "mediaFormat": form})

    def until(self, event: str) -> dict[str, Any]:
        """Listen until an event; also return a mark, as it would when all has been played."""
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv(timeout=30))
            assert message["streamSid"] == "MZ00"
            if message["event"] == "media":
                assert message.keys() == {"event", "streamSid", "media"}
                frame = base64.b64decode(message["media"]["payload"], validate=True)
                assert len(frame) == 160  # 20 ms
                self.heard += frame
            if message["event"] == "mark":
                self.send("mark", mark=message["mark"])
            if message["event"] == event:
                return message


@pytest.fixture
def bridge(server: Server, tmp_path: Path) -> Iterator[str]:
    """The bridge of the page for Twilio, as it stands there; gives its address."""
    (code,) = (s.code for s in snippets_of(TWILIO) if s.language == "python")
    assert len(code.splitlines()) < 60
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    code = code.replace(README_PORT, str(server.port)).replace("8080", str(port))
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=log)
        try:
            yield f"ws://localhost:{port}"
        finally:
            process.terminate()
            process.wait()
        log.seek(0)
        assert log.read() == ""


def dialled(address: str) -> Connection:
    """A connection to the bridge, once it listens."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            return connect(address)
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def test_a_caller_hears_speech_and_a_key_interrupts_it(bridge: str) -> None:
    with dialled(bridge) as line:
        caller = Caller(line)
        caller.start()
        caller.send("media", media={"track": "inbound", "chunk": "1", "payload": "/w=="})
        assert caller.until("mark")["mark"] == {"name": "spoken"}
        greeting_s = len(caller.heard) / 8000
        assert np.abs(decode(caller.heard, "mulaw")).max() > 3000
        caller.send("dtmf", dtmf={"track": "inbound_track", "digit": "7"})
        assert caller.until("clear") == {"event": "clear", "streamSid": "MZ00"}
        caller.heard = b""
        caller.until("mark")
        assert 0.5 < len(caller.heard) / 8000 < greeting_s / 2
        caller.send("stop", stop=CALL)
        with pytest.raises(ConnectionClosed):
            line.recv(timeout=30)


def test_no_snippet_is_left_out_without_a_reason() -> None:
    everything = [snippet for page in PAGES for snippet in snippets_of(page)]
    assert sum(page.read_text().count("```") for page in PAGES) == 2 * len(everything)
    assert Counter(s.reason for s in everything if s.reason) == NOT_RUN


def test_the_index_names_every_page_and_every_field() -> None:
    index = INDEX.read_text()
    assert set(re.findall(r"\(clients/([\w-]+\.md)\)", index)) == {page.name for page in PAGES}
    names = {info.alias or name for name, info in CreateSpeechBody.model_fields.items()}
    assert {name for name in names if f"`{name}`" not in index} <= {"tokens"}
    assert all(f"`{model}`" in index for model in MODEL_ALIASES)
    assert str(len(OPENAI_VOICES)) in index
