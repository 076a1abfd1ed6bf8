"""Downloads with huggingface_hub, from a local stand-in for the hub."""

import errno
import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

from qwen_tts_service.errors import StartupError
from qwen_tts_service.hub import download as weights
from qwen_tts_service.hub.download import Hub, find, find_or_download, require_available
from qwen_tts_service.hub.published import RELEASES, PublishedFile, Release

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "download_model.py"
NAME = "Qwen3-TTS-12Hz-1.7B-CustomVoice"
SMALL = "Qwen3-TTS-12Hz-0.6B-CustomVoice"
BIG_FILE = "model.safetensors"
CHUNK_BYTES = 10_000
DEADLINE_S = 20.0
sleep = time.sleep


def config(size: str = "1b7", kind: str = "custom_voice") -> bytes:
    values = {"model_type": "qwen3_tts", "tts_model_size": size, "tts_model_type": kind}
    return json.dumps(values).encode()


def contents(size: str = "1b7") -> dict[str, bytes]:
    """A tiny checkpoint's files: only config.json means anything."""
    return {
        "config.json": config(size),
        "generation_config.json": b"{}",
        "vocab.json": b'{"a": 0}' * 50,
        "merges.txt": b"a b\n" * 50,
        "speech_tokenizer/config.json": b'{"rate": 24000}',
        "speech_tokenizer/model.safetensors": os.urandom(5_000),
        BIG_FILE: os.urandom(400_000),
    }


def release_of(name: str, size: str, files: dict[str, bytes]) -> Release:
    listed = [PublishedFile(k, len(v), hashlib.sha256(v).hexdigest()) for k, v in files.items()]
    return Release(
        repository=f"Qwen/{name}",
        revision=("a" if size == "1b7" else "b") * 40,
        size=size,
        kind="custom_voice",
        files=tuple(listed),
    )


def write_checkpoint(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def write_cache(cache_dir: Path, release: Release, files: dict[str, bytes], *, ref: bool) -> Path:
    """The hub's own cache layout, as `from_pretrained` leaves it."""
    repository = cache_dir / f"models--{release.repository.replace('/', '--')}"
    commit = "c" * 40 if ref else release.revision
    if ref:
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
    return write_checkpoint(repository / "snapshots" / commit, files)


# The stand-in -----------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    start: int
    authorization: str | None
    is_redirected: bool

    @property
    def name(self) -> str:
        return self.path.split("/resolve/")[1].split("/", 1)[1]


class StandInHub(ThreadingHTTPServer):
    """Serves files by /{repository}/resolve/{revision}/{name}, and misbehaves on request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.statuses: list[int] = []
        """Answered first, one per request."""
        self.download_statuses: list[int] = []
        """The same, for requests for the content of BIG_FILE."""
        self.cuts: list[int] = []
        """Bytes of BIG_FILE sent before the line is cut, one per request for it."""
        self.resets = False
        self.honours_range = True
        self.tells_length = True
        self.redirect_to: str | None = None
        self.go_on = threading.Event()
        """Clear it and an answer stays open where it would be cut."""
        self.go_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, release: Release, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            self.files[f"/{release.repository}/resolve/{release.revision}/{name}"] = data

    def downloads(self) -> list[Asked]:
        """The requests for a file's content; the others ask for its size alone."""
        return [asked for asked in self.asked if asked.method == "GET"]

    def starts(self) -> list[int]:
        """From which byte each request for BIG_FILE asked."""
        return [asked.start for asked in self.downloads() if asked.name == BIG_FILE]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StandInHub

    def do_GET(self) -> None:
        asked_range = self.headers.get("Range")
        start = int(asked_range.removeprefix("bytes=").removesuffix("-")) if asked_range else 0
        is_redirected = self.headers["Host"].startswith("localhost")
        token = self.headers.get("Authorization")
        asked = Asked(self.command, self.path, start, token, is_redirected)
        self.server.asked.append(asked)
        statuses = self.server.statuses
        if self.command == "GET" and asked.name == BIG_FILE:
            statuses = statuses or self.server.download_statuses
        if self.server.redirect_to and not is_redirected:
            self._head(302, 0, Location=self.server.redirect_to + self.path)
        elif statuses:
            self._head(statuses.pop(0), 0)
        elif (data := self.server.files.get(self.path)) is None:
            self._head(404, 0)
        else:
            self._send(asked, data)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _send(self, asked: Asked, data: bytes) -> None:
        start = asked.start if self.server.honours_range else 0
        rest = data[start:]
        if start:
            self._head(206, len(rest), Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self._head(200, len(rest))
        if asked.method == "HEAD":
            return
        if asked.name == BIG_FILE and self.server.cuts:
            self.wfile.write(rest[: self.server.cuts.pop(0)])
            self.server.go_on.wait(DEADLINE_S)
            self._cut()
        else:
            self.wfile.write(rest)

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        if self.server.tells_length or not length:
            self.send_header("Content-Length", str(length))
        else:
            self.close_connection = True
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _cut(self) -> None:
        if self.server.resets:
            linger = struct.pack("ii", 1, 0)  # close with RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@dataclass
class World:
    """A stand-in that offers both checkpoints, and an empty disk."""

    server: StandInHub
    files: dict[str, bytes]
    hub: Hub
    models: Path

    @property
    def release(self) -> Release:
        return self.hub.releases[NAME]

    @property
    def target(self) -> Path:
        return self.models / NAME

    def get(self, name: str = NAME, **changes: object) -> Path:
        return find_or_download(name, self.models, hub=replace(self.hub, **changes))

    def refusal(self, name: str = NAME, **changes: object) -> str:
        with pytest.raises(StartupError) as caught:
            self.get(name, **changes)
        return str(caught.value)

    def on_disk(self) -> set[str]:
        """Every file below the models' directory but the lock, whole or not."""
        paths = self.models.rglob("*")
        names = {str(path.relative_to(self.target)) for path in paths if path.is_file()}
        return names - {".download.lock"}


@pytest.fixture
def pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, in order; none is waited for."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses_s: list[float]
) -> Iterator[World]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    # It writes 10 MB at a time.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
    files, small = contents(), contents("0b6")
    releases = {NAME: release_of(NAME, "1b7", files), SMALL: release_of(SMALL, "0b6", small)}
    server = StandInHub()
    server.publish(releases[NAME], files)
    server.publish(releases[SMALL], small)
    hub = Hub(endpoint=server.url, cache_dir=tmp_path / "cache", releases=releases)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield World(server, files, hub, tmp_path / "models")
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


# Finding ----------------------------------------------------------------------------


def test_directories_are_searched_in_order_and_without_a_request(
    world: World, tmp_path: Path
) -> None:
    cached = write_cache(tmp_path / "cache", world.release, world.files, ref=False)
    assert world.get() == cached
    assert write_checkpoint(world.models, world.files) == world.get()
    assert write_checkpoint(world.models / "another-name", world.files) == world.get()
    assert write_checkpoint(world.target, world.files) == world.get()
    assert world.server.asked == []


def test_cache_filled_from_main_counts(world: World, tmp_path: Path) -> None:
    cached = write_cache(tmp_path / "cache", world.release, world.files, ref=True)
    assert world.get() == cached


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({BIG_FILE: None}, id="lacks the weights"),
        pytest.param({"merges.txt": b"a b"}, id="a file of another size"),
    ],
)
def test_cache_that_is_not_whole_does_not_count(
    world: World, tmp_path: Path, change: dict[str, bytes | None]
) -> None:
    files = {name: data for name, data in (world.files | change).items() if data is not None}
    write_cache(tmp_path / "cache", world.release, files, ref=False)
    assert find(NAME, world.models, hub=world.hub).directory is None


@pytest.mark.parametrize("place", ["", "elsewhere", NAME])
def test_another_model_is_never_taken(world: World, place: str) -> None:
    write_checkpoint(world.models / place, contents("0b6"))
    search = find(NAME, world.models, hub=world.hub)
    assert search.directory is None


def test_two_directories_with_the_model_are_not_guessed_between(world: World) -> None:
    write_checkpoint(world.models / "one", world.files)
    write_checkpoint(world.models / "two", world.files)
    with pytest.raises(StartupError, match=f"one, two. Rename the one you mean to {NAME}"):
        find(NAME, world.models, hub=world.hub)


def test_own_name_may_name_a_directory(world: World) -> None:
    own = write_checkpoint(world.models / "our-voice", contents("0b6"))
    assert world.get("our-voice") == own


@pytest.mark.parametrize("kind", ["custom_voice", "voice_design", "base"])
def test_own_name_may_be_of_any_kind_and_a_published_name_only_of_its_own(
    world: World, kind: str
) -> None:
    own = write_checkpoint(world.models / "mine", world.files | {"config.json": config(kind=kind)})
    assert find("mine", world.models, hub=world.hub).directory == own
    named = find(NAME, world.models, hub=world.hub).directory
    assert named == (own if kind == "custom_voice" else None)


def test_a_kind_that_nobody_knows_is_refused(world: World) -> None:
    write_checkpoint(world.models / "mine", world.files | {"config.json": config(kind="song")})
    (reason,) = find("mine", world.models, hub=world.hub).rejected
    assert "tts_model_type song" in reason


@pytest.mark.parametrize("name", ["../outside", "..", ".", "", "a/b"])
def test_own_name_never_leaves_the_models_directory(world: World, name: str) -> None:
    write_checkpoint(world.models / name, world.files)
    assert find(name, world.models, hub=world.hub).directory is None


def test_error_for_an_unknown_name_lists_the_known_ones(world: World) -> None:
    message = world.refusal("Qwen3-TTS-12Hz-9B-CustomVoice")
    assert f"known: {NAME}, {SMALL}" in message
    assert "no such directory" in message
    assert world.server.asked == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({BIG_FILE: None}, f"lacks {BIG_FILE}", id="incomplete"),
        pytest.param(
            {BIG_FILE: b"version https://git-lfs.github.com/spec/v1\noid sha256:0"},
            "holds Git LFS pointers instead of model.safetensors",
            id="pointer",
        ),
        pytest.param({"config.json": config(kind="base")}, "tts_model_type base", id="base"),
        pytest.param({"config.json": config("0b6")}, "tts_model_size 0b6", id="other size"),
        pytest.param({"config.json": b"{"}, "is not that of a Qwen3-TTS model", id="not JSON"),
        pytest.param({"config.json": b"[]"}, "is not that of a Qwen3-TTS model", id="a list"),
        pytest.param({"config.json": None}, "has no config.json", id="no config"),
    ],
)
def test_error_names_why_a_directory_does_not_count(
    world: World, change: dict[str, bytes | None], reason: str
) -> None:
    files = {name: data for name, data in (world.files | change).items() if data is not None}
    write_checkpoint(world.target, files)
    assert reason in world.refusal(is_offline=True)


def test_error_names_where_it_looked_and_what_to_do(world: World, tmp_path: Path) -> None:
    message = world.refusal(is_offline=True)
    assert f"{world.target}: no such directory" in message
    assert f"other directories under {world.models}: none" in message
    assert f"{world.models}: no such directory" in message
    assert f"Hugging Face cache {tmp_path / 'cache'}" in message
    assert "HF_HUB_OFFLINE" in message
    assert f"python scripts/download_model.py {NAME} --path {world.models}" in message
    assert f"hf download Qwen/{NAME} config.json" in message
    assert f"--revision {world.release.revision} --local-dir {world.target}" in message
    assert "MODEL_NAME=espeak-ng" in message
    assert world.server.asked == []
    assert not world.models.exists()


# Downloading ------------------------------------------------------------------------


def assert_whole(world: World) -> None:
    assert world.on_disk() == set(world.files)
    assert all((world.target / name).read_bytes() == data for name, data in world.files.items())


def test_download_is_whole_and_asks_for_each_file_once(world: World) -> None:
    assert world.get() == world.target
    assert_whole(world)
    prefix = f"/Qwen/{NAME}/resolve/{world.release.revision}/"
    assert [asked.path for asked in world.server.downloads()] == [prefix + n for n in world.files]
    world.server.asked.clear()
    assert world.get() == world.target
    assert world.server.asked == [], "the second start asked again"


def test_progress_only_grows_and_ends_at_everything(world: World) -> None:
    seen: list[tuple[str, float]] = []
    world.server.cuts = [100_000]
    find_or_download(NAME, world.models, hub=world.hub, on_progress=lambda *step: seen.append(step))
    done = [fraction for _, fraction in seen]
    assert done == sorted(done)
    assert len(set(done)) > len(world.files)
    assert seen[0] == ("looking for weights", 0.0)
    assert done[-1] == 1.0


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
def test_cut_download_goes_on(world: World, resets: bool) -> None:
    world.server.cuts, world.server.resets = [150_000, 100_000, CHUNK_BYTES + 1], resets
    world.get()
    assert_whole(world)
    starts = world.server.starts()
    assert len(starts) == 4
    assert starts == sorted(starts)
    if not resets:  # a reset may take with it what the client had not read yet
        assert starts == [0, 150_000, 250_000, 260_000], "the byte that made no chunk is lost"


@pytest.mark.parametrize(
    ("cuts", "tells_length", "reason"),
    [
        pytest.param([150_000] + [0] * 10, True, "without sending complete", id="cut"),
        pytest.param(
            [150_000] + [0] * 5, False, "should be of size 400000", id="of unknown length"
        ),
    ],
)
def test_download_given_up_goes_on_at_the_next_start(
    world: World, cuts: list[int], tells_length: bool, reason: str
) -> None:
    world.server.cuts, world.server.tells_length = cuts, tells_length
    message = world.refusal()
    assert "broke off after 150,000 of 400,000 bytes" in message
    assert reason in message
    assert BIG_FILE not in world.on_disk()
    world.server.asked.clear()
    world.get()
    assert_whole(world)
    assert world.server.starts() == [150_000]


def test_server_that_ignores_range_sends_the_file_anew(world: World) -> None:
    world.server.cuts, world.server.honours_range = [150_000], False
    world.get()
    assert_whole(world)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_hub_is_asked_again(world: World, status: int) -> None:
    world.server.statuses = [status, status]
    world.get()
    assert_whole(world)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_busy_store_is_asked_again(world: World, status: int) -> None:
    world.server.download_statuses = [status] * 5
    world.get()
    assert_whole(world)
    assert world.server.starts() == [0] * 6


def test_store_that_stays_busy_is_asked_six_times_after_growing_pauses(
    world: World, pauses_s: list[float]
) -> None:
    world.server.download_statuses = [503] * 6
    message = world.refusal()
    assert "broke off after 0 of 400,000 bytes" in message
    assert "503" in message
    assert pauses_s == [0, 1, 2, 4, 8]
    assert len(world.server.starts()) == 6
    world.get()
    assert_whole(world)


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
def test_connection_lost_before_a_new_byte_is_tried_six_times(
    world: World, pauses_s: list[float], resets: bool
) -> None:
    world.server.cuts, world.server.resets = [0] * 6, resets
    assert "broke off after 0 of 400,000 bytes" in world.refusal()
    assert pauses_s == [0, 1, 2, 4, 8]
    assert world.server.starts() == [0] * 6


def test_attempts_are_counted_anew_when_bytes_arrive(world: World, pauses_s: list[float]) -> None:
    by_the_library = 5  # it goes on by itself after bytes, and gives up after as many attempts
    world.server.download_statuses = [503] * 4
    world.server.cuts = [2 * CHUNK_BYTES, *[0] * by_the_library, *[0] * 3]
    world.get()
    assert_whole(world)
    assert pauses_s == [0, 1, 2, 4, *[1] * by_the_library, 0, 1, 2, 4]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_store_that_refuses_is_asked_once(world: World, status: int) -> None:
    world.server.download_statuses = [status]
    assert str(status) in world.refusal()
    assert len(world.server.starts()) == 1


def test_full_disk_while_downloading_ends_it_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, pauses_s: list[float]
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(huggingface_hub.file_download, "http_get", Mock(side_effect=full))
    assert "No space left on device" in world.refusal()
    assert pauses_s == []


@pytest.mark.parametrize(
    ("status", "times"), [(401, 1), (403, 1), (404, 1), (410, 1), (429, 6), (503, 6)]
)
def test_hub_that_refuses_is_asked_once_and_a_busy_one_six_times(
    world: World, status: int, times: int
) -> None:
    world.server.statuses = [status] * 6
    assert str(status) in world.refusal()
    assert len(world.server.asked) == times


def test_an_unreachable_hub_is_named(world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert endpoint in world.refusal(endpoint=endpoint)


def test_other_bytes_of_the_same_size_are_deleted_and_refused(world: World) -> None:
    wrong = {BIG_FILE: bytes(len(world.files[BIG_FILE]))}
    world.server.publish(world.release, wrong)
    message = world.refusal()
    assert "SHA-256" in message
    assert "deleted" in message
    assert not {BIG_FILE, f"{BIG_FILE}.part"} & world.on_disk()
    world.server.publish(world.release, world.files)
    world.get()
    assert_whole(world)


@pytest.mark.parametrize(("change", "tells_length"), [(-1, True), (1, True), (1, False)])
def test_other_size_is_refused_and_nothing_of_it_stays(
    world: World, change: int, tells_length: bool
) -> None:
    world.server.tells_length, data = tells_length, world.files[BIG_FILE]
    world.server.publish(world.release, {BIG_FILE: (data + b"x")[: len(data) + change]})
    assert f"{len(data) + change:,} bytes, published are {len(data):,}" in world.refusal()
    assert not {BIG_FILE, f"{BIG_FILE}.part"} & world.on_disk()
    assert len(world.server.starts()) == (not tells_length), "refused before it is fetched"


def test_foreign_file_in_the_way_is_never_overwritten(world: World) -> None:
    mine = write_checkpoint(world.target, {"merges.txt": b"mine"}) / "merges.txt"
    assert f"{world.target} is in the way: merges.txt has 4 bytes" in world.refusal()
    assert mine.read_text() == "mine"


def test_whole_files_of_an_earlier_start_are_kept(world: World) -> None:
    kept = {name: data for name, data in world.files.items() if name != "vocab.json"}
    write_checkpoint(world.target, kept)
    world.get()
    assert_whole(world)
    assert {asked.name for asked in world.server.asked} == {"vocab.json"}


def test_a_full_disk_is_reported_before_the_first_request(world: World) -> None:
    huge = replace(world.release, files=(PublishedFile(BIG_FILE, 10**18, "0" * 64),))
    message = world.refusal(releases={NAME: huge})
    assert "1000000000.00 GB must still be downloaded" in message
    assert world.server.asked == []


@pytest.mark.parametrize("missing", [0, 1], ids=["what just fits", "a byte too little"])
@pytest.mark.parametrize("part_bytes", [0, 150_000])
def test_room_is_asked_only_for_what_is_not_there_yet(
    world: World, monkeypatch: pytest.MonkeyPatch, part_bytes: int, missing: int
) -> None:
    if part_bytes:
        world.server.cuts = [part_bytes] + [0] * 10
        world.refusal()
    write_checkpoint(world.target, {"vocab.json": world.files["vocab.json"]})
    held = {path: path.stat().st_size for path in world.target.rglob("*") if path.is_file()}
    rest = sum(map(len, world.files.values())) - sum(held.values())
    world.server.asked.clear()
    looked: list[Path] = []

    def disk_usage(path: object) -> SimpleNamespace:
        looked.append(Path(str(path)))
        return SimpleNamespace(total=10**9, used=0, free=rest - missing)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    if missing:
        assert "must still be downloaded" in world.refusal()
        assert world.server.asked == []
    else:
        world.get()
        assert_whole(world)
    assert looked
    assert all(path in (world.target, *world.target.parents) for path in looked)


def test_a_directory_that_cannot_be_written_is_reported(world: World) -> None:
    world.models.write_text("a file, not a directory")
    assert "cannot be written" in world.refusal()


def test_interrupted_download_leaves_nothing_that_looks_whole(world: World) -> None:
    def interrupt(_step: str, fraction: float) -> None:
        if fraction * world.release.total_bytes > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_or_download(NAME, world.models, hub=world.hub, on_progress=interrupt)
    assert BIG_FILE not in world.on_disk()
    assert f"{BIG_FILE}.part" in world.on_disk()
    assert find(NAME, world.models, hub=world.hub).directory is None
    world.get()
    assert_whole(world)
    assert world.server.starts()[-1] > 0


GET_FROM = """
import pickle, sys
import huggingface_hub.constants
from qwen_tts_service.hub.download import find_or_download
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 10_000
name, models, hub = pickle.load(sys.stdin.buffer)
find_or_download(name, models, hub=hub)
"""


def test_killed_process_is_continued_by_the_next(world: World) -> None:
    world.server.cuts = [150_000]
    world.server.go_on.clear()
    process = subprocess.Popen(
        [sys.executable, "-c", GET_FROM], env=environment(), stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        pickle.dump((NAME, world.models, world.hub), pipe)
    part = world.target / f"{BIG_FILE}.part"
    deadline_s = time.monotonic() + DEADLINE_S
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline_s:
        assert process.poll() is None
        sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    held = part.stat().st_size
    assert find(NAME, world.models, hub=world.hub).directory is None
    world.get()
    assert_whole(world)
    assert world.server.starts() == [0, held]
    assert held > 0


def test_two_starts_at_once_download_once(world: World) -> None:
    world.server.cuts = [150_000]
    world.server.go_on.clear()
    threads = [threading.Thread(target=world.get) for _ in range(2)]
    for thread in threads:
        thread.start()
    world.server.go_on.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert_whole(world)
    assert len(world.server.downloads()) == len(world.files) + 1


# Before the start -------------------------------------------------------------------


def test_check_before_the_start_downloads_nothing(world: World) -> None:
    require_available(NAME, world.models, hub=world.hub)
    assert [asked.name for asked in world.server.asked] == ["generation_config.json"]
    assert not world.models.exists()


def test_check_before_the_start_asks_nothing_when_the_model_is_there(world: World) -> None:
    write_checkpoint(world.target, world.files)
    require_available(NAME, world.models, hub=world.hub)
    assert world.server.asked == []


@pytest.mark.parametrize("status", [404, 503])
def test_check_before_the_start_refuses_what_the_download_would(world: World, status: int) -> None:
    world.server.statuses = [status]
    with pytest.raises(StartupError, match=str(status)):
        require_available(NAME, world.models, hub=world.hub)


# The command ------------------------------------------------------------------------


def environment(**variables: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "MODEL_", "TRANSFORMERS_", "HUGGING"))
    }
    fixed = {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **fixed, **variables}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("MODEL_NAME", "MODEL_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("download_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_announces_downloads_and_says_what_comes_next(world: World, script, capsys) -> None:
    assert script.main([NAME, "--path", str(world.models)], world.hub) == 0
    assert_whole(world)
    out, err = capsys.readouterr()
    assert "400,000 bytes  model.safetensors" in out
    assert "every known size and SHA-256 as published" in out
    assert f"Next: MODEL_NAME={NAME} MODEL_PATH={world.models} ./scripts/serve" in out
    assert "100%" in err


def test_command_verifies_what_is_there(world: World, script, capsys) -> None:
    write_checkpoint(world.target, world.files)
    arguments = [NAME, "--path", str(world.models)]
    assert script.main(arguments, world.hub) == 0
    damaged = bytearray(world.files[BIG_FILE])
    damaged[1000] ^= 1
    (world.target / BIG_FILE).write_bytes(damaged)
    assert script.main(arguments, world.hub) == 1
    assert f"{BIG_FILE} has SHA-256" in capsys.readouterr().err
    assert world.server.asked == []


def test_command_takes_the_published_table_the_endpoint_and_the_token_of_the_environment(
    world: World, tmp_path: Path
) -> None:
    release = RELEASES[NAME]
    world.server.publish(release, world.files)
    variables = {"HF_ENDPOINT": world.server.url, "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [sys.executable, SCRIPT, NAME, "--path", world.models],
        env=environment(HF_TOKEN="hf_secret", **variables),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "3,833,402,552 bytes  model.safetensors" in result.stdout
    assert "published are 4,908" in result.stderr
    first, *_ = world.server.asked
    assert first.path == f"/Qwen/{NAME}/resolve/{release.revision}/config.json"
    assert first.authorization == "Bearer hf_secret"


def test_token_is_not_sent_to_another_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    world.server.redirect_to = f"http://localhost:{world.server.server_port}"
    world.get()
    assert_whole(world)
    sent = {asked.is_redirected: asked.authorization for asked in world.server.asked}
    assert sent == {False: "Bearer hf_secret", True: None}


@pytest.mark.parametrize("is_variable", [False, True])
def test_command_that_is_offline_says_so(
    world: World, script, monkeypatch: pytest.MonkeyPatch, capsys, is_variable: bool
) -> None:
    if is_variable:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [NAME, "--path", str(world.models), *(["--offline"] * (not is_variable))]
    assert script.main(arguments, world.hub) == 1
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    assert world.server.asked == []


def test_command_names_the_models_it_knows(world: World, script, capsys) -> None:
    assert script.main(["Qwen3-TTS"], world.hub) == 1
    assert f"Known: {NAME}, {SMALL}; espeak-ng" in capsys.readouterr().err


# A file whose size and digest are not known to us ---------------------------------------


def without_size(world: World) -> Hub:
    files = tuple(
        replace(file, size_bytes=None, sha256=None) if file.name == "config.json" else file
        for file in world.release.files
    )
    return replace(world.hub, releases={NAME: replace(world.release, files=files)})


def test_a_file_of_unknown_size_is_as_long_as_the_hub_says(world: World) -> None:
    hub, seen = without_size(world), []
    find_or_download(
        NAME, world.models, hub=hub, on_progress=lambda _, fraction: seen.append(fraction)
    )
    assert_whole(world)
    assert max(seen) == 1
    config = next(file for file in hub.releases[NAME].files if file.name == "config.json")
    assert config.difference(world.target / "config.json") is None
    assert config.difference(world.target / "nothing") == "config.json is missing"


def test_a_file_of_a_length_that_nobody_says_is_refused(world: World) -> None:
    world.server.tells_length = False
    with pytest.raises(StartupError, match=r"the hub does not say how long .*config\.json is"):
        find_or_download(NAME, world.models, hub=without_size(world))


def test_a_cache_without_the_file_of_unknown_size_is_not_whole(
    world: World, tmp_path: Path
) -> None:
    part = {name: data for name, data in world.files.items() if name != "config.json"}
    write_cache(tmp_path / "cache", world.release, part, ref=False)
    hub = without_size(world)
    assert "has not every file" in find(NAME, world.models, hub=hub).rejected[-1]
    from_main = write_cache(tmp_path / "cache", world.release, world.files, ref=True)
    assert find(NAME, world.models, hub=hub).directory == from_main


# The table --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gigabytes", "identity"),
    [
        (NAME, "4.52 GB", ("1b7", "custom_voice")),
        (SMALL, "2.50 GB", ("0b6", "custom_voice")),
        ("Qwen3-TTS-12Hz-1.7B-VoiceDesign", "4.52 GB", ("1b7", "voice_design")),
        ("Qwen3-TTS-12Hz-1.7B-Base", "4.54 GB", ("1b7", "base")),
        ("Qwen3-TTS-12Hz-0.6B-Base", "2.52 GB", ("0b6", "base")),
    ],
)
def test_table_names_each_needed_file_once(
    name: str, gigabytes: str, identity: tuple[str, str]
) -> None:
    release = RELEASES[name]
    assert (release.size, release.kind) == identity
    assert len(bytes.fromhex(release.revision)) == 20
    names = [file.name for file in release.files]
    assert release.repository == f"Qwen/{name}"
    assert set(weights.NEEDED_FILES) | {"generation_config.json"} == set(names)
    assert len(names) == len(set(names))
    unknown = [file.name for file in release.files if file.sha256 is None]
    assert unknown == (["config.json"] if release.kind == "voice_design" else [])
    known = [file for file in release.files if file.sha256 is not None]
    assert all(len(bytes.fromhex(file.sha256 or "")) == 32 and file.size_bytes for file in known)
    assert weights.in_gb(release.total_bytes) == gigabytes


def test_table_has_no_two_names_for_the_same_weights() -> None:
    weights_of = {
        name: next(f.sha256 for f in release.files if f.name == BIG_FILE)
        for name, release in RELEASES.items()
    }
    assert len(set(weights_of.values())) == len(RELEASES) == 5


def test_table_agrees_with_the_generation_config_in_the_repository() -> None:
    file = next(f for f in RELEASES[NAME].files if f.name == "generation_config.json")
    assert file.difference(ROOT / "tests" / "data" / "tiny_1b7" / file.name) is None
