"""Starting, failing, falling ill and stopping; and what /health says of it."""

import asyncio
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.testclient import TestClient
from tests.unit.waiting import WAIT_S, until

from qwen_tts_service import __version__
from qwen_tts_service.api import runtime as runtime_module
from qwen_tts_service.api.app import make_app
from qwen_tts_service.api.runtime import Runtime
from qwen_tts_service.api.tickets import RUNTIME_KEY
from qwen_tts_service.errors import InvalidRequest, NotReady
from qwen_tts_service.settings import load_settings
from qwen_tts_service.voice.catalogue import SPEAKERS, Speaker


class FakeSynthesizer:
    def __init__(self) -> None:
        self.voice = SimpleNamespace(
            model_name="fake",
            device="cpu",
            speakers=("zoya", "anna"),
            slots=None,
            facts={"attention": "plain"},
            is_healthy=True,
        )
        self.said: list[str] = []

    def warm_up(self) -> None:
        self.said.append("warm-up")

    def close(self) -> None:
        self.said.append("close")


class Started:
    """A runtime whose voice loads for as long as the test lets it."""

    def __init__(
        self, error: Exception | None = None, released: list[str] | None = None, **settings: str
    ) -> None:
        released = [] if released is None else released
        self.synthesizer: Any = FakeSynthesizer()
        self.error = error
        self.loading, self.may_end = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self.failures: list[str] = []
        self.runtime = Runtime()
        given = {name.upper(): value for name, value in settings.items()}
        self.settings = load_settings({"MODEL_NAME": "fake", **given})
        self.runtime._log_ready = self._log_ready
        self.runtime.open(
            self.settings, self.build, self.give_up, lambda: released.append("release")
        )
        assert self.loading.wait(WAIT_S)

    def build(self, settings: Any, report: Any) -> Any:
        assert settings is self.settings
        report("pretending", 0.12345)
        self.loading.set()
        assert self.may_end.wait(WAIT_S)
        if self.error:
            raise self.error
        return self.synthesizer

    def give_up(self) -> None:
        self.failures.append(self.runtime.stage.status)
        self.ended.set()

    def _log_ready(self, synthesizer: Any) -> None:
        Runtime._log_ready(self.runtime, synthesizer)
        self.ended.set()

    def end_loading(self) -> "Started":
        self.may_end.set()
        assert self.ended.wait(WAIT_S)
        until(lambda: self.runtime.stage.status != "starting")
        return self

    def get(self, path: str) -> Any:
        app = make_app(self.runtime, dict)

        async def with_runtime(scope: Any, receive: Any, send: Any) -> None:
            scope[RUNTIME_KEY] = self.runtime
            await app(scope, receive, send)

        return TestClient(with_runtime).get(path, follow_redirects=False)


@pytest.fixture(autouse=True)
def stops(monkeypatch: pytest.MonkeyPatch) -> list[threading.Event]:
    """The events that would stop the sampling of resources, which is not begun."""
    begun: list[threading.Event] = []
    monkeypatch.setattr(runtime_module.resources, "start_sampling", begun.append)
    return begun


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    logger = logging.getLogger("qwen_tts_service")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(
        runtime_module.logs, "configure", lambda level: logger.setLevel(level.upper())
    )
    return caplog


def gauge(name: str) -> float | None:
    return REGISTRY.get_sample_value(name)


def test_while_the_voice_loads_health_names_the_step_and_nobody_speaks(log: Any) -> None:
    started = Started()
    health = started.get("/health")
    assert health.status_code == 503
    assert health.headers["x-error-code"] == "none"
    assert health.json() == {
        "status": "starting",
        "ready": False,
        "version": __version__,
        "model": "fake",
        "sampling_rate": 24000,
        "voice_cloning": False,
        "slots": {"total": 10, "active": 0, "queued": 0, "queue_limit": 20},
        "step": "pretending",
        "progress": 0.123,
    }
    with pytest.raises(NotReady, match="the service is starting: pretending"):
        _ = started.runtime.synthesizer
    voices = started.get("/v1/audio/voices")
    assert (voices.status_code, voices.headers["retry-after"]) == (503, "5")
    started.end_loading()
    assert [m for m in log.messages if m.startswith("starting: ")] == [
        "starting: pretending",
        "starting: warm-up",
    ]


def test_a_voice_that_has_loaded_is_warmed_up_and_ready(log: Any) -> None:
    runtime_module.metrics.READY.set(0)
    started = Started(max_concurrent_requests="3", max_queue="4", sampling_rate="16000")
    assert gauge("tts_ready") == 0
    started.end_loading()
    assert started.synthesizer.said == ["warm-up"]
    assert started.runtime.synthesizer is started.synthesizer
    assert (gauge("tts_ready"), gauge("tts_slots")) == (1, 3)
    health = started.get("/health")
    assert health.status_code == 200
    assert health.json() == {
        "status": "ready",
        "ready": True,
        "version": __version__,
        "model": "fake",
        "sampling_rate": 16000,
        "voice_cloning": False,
        "slots": {"total": 3, "active": 0, "queued": 0, "queue_limit": 4},
        "device": "cpu",
        "attention": "plain",
        "speakers": ["zoya", "anna"],
    }
    assert started.runtime.stage.progress == 1
    started.synthesizer.voice.speakers = ("zoya",)
    assert started.get("/health").json()["speakers"] == ["zoya"]
    assert (
        f"ready: version={__version__} model=fake device=cpu sampling_rate=16000 slots=3 queue=4 "
        "key=none: open to everyone"
    ) in log.messages
    assert "embedded" not in log.text


@pytest.mark.parametrize(("given", "queue"), [({}, 8), ({"max_queue": "3"}, 3)])
def test_a_voice_with_memory_for_fewer_slots_gets_no_more(
    given: dict[str, str], queue: int, log: Any
) -> None:
    started = Started(**given)
    started.synthesizer.voice.slots = 4
    slots = started.end_loading().get("/health").json()["slots"]
    assert (slots["total"], slots["queue_limit"], gauge("tts_slots")) == (4, queue, 4)
    assert f"slots=4 queue={queue}" in log.text


def test_the_log_says_that_a_key_is_set_and_not_which(log: Any) -> None:
    Started(api_key="sesame", model_name="espeak-ng").end_loading()
    assert "key=set" in log.text
    assert "sesame" not in log.text
    assert "MODEL_NAME=espeak-ng: using the embedded voice" in log.messages


def test_a_voice_that_cannot_be_loaded_has_failed_at_its_step(log: Any) -> None:
    runtime_module.metrics.READY.set(0)
    started = Started(error=RuntimeError("no weights")).end_loading()
    assert started.failures == ["failed"]
    assert started.get("/health").json()["status"] == "failed"
    assert started.get("/health").json()["step"] == "pretending"
    assert gauge("tts_ready") == 0
    assert "no weights" in log.text
    with pytest.raises(NotReady, match="failed"):
        _ = started.runtime.synthesizer


def test_a_voice_that_cannot_be_warmed_up_has_failed(log: Any) -> None:
    started = Started()
    started.synthesizer.warm_up = lambda: 1 / 0
    started.end_loading()
    assert started.failures == ["failed"]
    assert started.runtime.stage.step == "warm-up"
    assert "ZeroDivisionError" in log.text


@pytest.mark.usefixtures("log")
def test_an_unhealthy_voice_has_failed_for_good() -> None:
    started = Started().end_loading()
    started.synthesizer.voice.is_healthy = False
    assert started.runtime.stage.status == "failed"
    assert started.get("/health").status_code == 503
    with pytest.raises(NotReady, match="restart the service"):
        _ = started.runtime.synthesizer


@pytest.mark.usefixtures("log", "modules_stay_frozen")
async def test_health_of_an_unloaded_voice_is_good_and_says_so() -> None:
    released: list[str] = []
    started = Started(released=released, keep_alive_s="0.01").end_loading()
    until(lambda: bool(released))
    assert started.synthesizer.said == ["warm-up", "close"]
    health = started.get("/health")
    assert health.status_code == 200
    described = health.json()
    assert (described["status"], described["ready"]) == ("unloaded", True)
    assert (described["device"], described["step"]) == ("cpu", "the next request loads the voice")
    started.synthesizer.voice.choose = lambda _request: SimpleNamespace(speaker="anna")
    voices = await asyncio.to_thread(started.get, "/v1/audio/voices")
    assert voices.status_code == 200
    assert started.synthesizer.said.count("warm-up") == 2


@pytest.mark.usefixtures("log")
def test_closing_stops_the_voice_the_sampling_and_new_requests(
    stops: list[threading.Event],
) -> None:
    started = Started().end_loading()
    (stop,) = stops
    assert not stop.is_set()
    started.runtime.close()
    assert stop.is_set()
    assert started.synthesizer.said == ["warm-up", "close"]
    assert gauge("tts_ready") == 0
    assert started.runtime.stage.status == "stopping"
    with pytest.raises(NotReady, match="stopping"):
        _ = started.runtime.synthesizer


@pytest.mark.usefixtures("log")
def test_closing_before_the_voice_is_there_is_harmless() -> None:
    started = Started()
    started.runtime.close()
    assert started.runtime.stage.status == "stopping"
    started.may_end.set()
    until(lambda: started.synthesizer.said == ["warm-up", "close"])
    assert started.runtime.stage.status == "stopping"


@pytest.mark.usefixtures("log")
async def test_the_load_is_shown_as_it_changes() -> None:
    started = Started(max_concurrent_requests="1", max_queue="1").end_loading()

    admission = started.runtime.admission
    first, second = admission.enter(), admission.enter()
    assert (gauge("tts_active_requests"), gauge("tts_queued_requests")) == (1, 1)
    slots = started.get("/health").json()["slots"]
    assert slots == {"total": 1, "active": 1, "queued": 1, "queue_limit": 1}
    second.release()
    first.release()
    assert (gauge("tts_active_requests"), gauge("tts_queued_requests")) == (0, 0)


@pytest.mark.usefixtures("log")
def test_the_metrics_are_text_for_prometheus() -> None:
    metrics = Started().end_loading().get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert "\ntts_slots 10.0\n" in metrics.text


def test_the_level_is_set_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(runtime_module.logs, "configure", done.append)
    Started(log_level="warning").end_loading()
    assert done == ["warning"]


# The lists of OpenAI -----------------------------------------------------------------


@pytest.mark.usefixtures("log")
def test_the_loaded_model_is_listed_first_and_openais_names_after_it() -> None:
    started = Started()
    names = ["fake", "tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"]
    models = started.get("/v1/models").json()
    assert models["object"] == "list"
    assert [m["id"] for m in models["data"]] == names
    assert models["data"][0] == {
        "id": "fake",
        "object": "model",
        "created": 0,
        "owned_by": "qwen-tts-service",
    }
    assert started.get("/v1/audio/models").json() == {
        "models": [{"id": n, "name": n} for n in names]
    }
    assert started.get("/v1/models/tts-1").json()["id"] == "tts-1"
    missing = started.get("/v1/models/a/b")
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "model")
    started.end_loading()


@pytest.mark.usefixtures("log")
def test_voices_are_the_speakers_and_openais_names_with_who_speaks() -> None:
    started = Started().end_loading()
    voice = started.synthesizer.voice
    voice.speakers = ("uncle_fu", "vera", "nobody")
    vera = Speaker(
        id="vera", name="Vera", gender="female", ages=(), description="", native_language=None
    )
    voice.known = {**SPEAKERS, "vera": vera}
    asked: list[Any] = []

    def choose(request: Any) -> Any:
        asked.append(request)
        return SimpleNamespace(speaker="uncle_fu")

    voice.choose = choose
    voices = {v["id"]: v for v in started.get("/v1/audio/voices").json()["voices"]}
    assert list(voices)[:3] == ["uncle_fu", "vera", "nobody"]
    assert (voices["vera"]["name"], voices["vera"]["gender"]) == ("Vera", "female")
    assert (voices["vera"]["language"], voices["vera"]["description"]) == (None, None)
    assert (
        voices["uncle_fu"].items()
        >= {
            "name": "Uncle Fu",
            "gender": "male",
            "language": "chinese",
            "speaker": "uncle_fu",
        }.items()
    )
    assert voices["uncle_fu"]["description"]
    assert (
        voices["nobody"].items()
        >= {"name": "nobody", "language": None, "description": None, "speaker": "nobody"}.items()
    )
    assert voices["nova"]["speaker"] == "uncle_fu"
    assert (voices["nova"]["name"], voices["nova"]["gender"]) == ("nova", "male")
    assert [r.speaker for r in asked] == list(voices)[3:]
    assert len(asked) > 5
    assert {(r.text, r.language) for r in asked} == {(None, None)}
    legacy = started.get("/v1/audio/voices?legacy=true").json()["voices"]
    assert legacy == list(voices)
    assert started.get("/v1/audio/voices?legacy=no").json()["voices"] == list(voices.values())
    assert started.get("/v1/audio/voices/Vera").json() == voices["vera"]
    nobody = started.get("/v1/audio/voices/zoe")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "voice_not_found")


@pytest.mark.usefixtures("log")
def test_names_that_a_voice_refuses_are_not_listed() -> None:
    started = Started().end_loading()
    voice = started.synthesizer.voice
    voice.speakers = ("anna",)

    def choose(request: Any) -> Any:
        if request.speaker != "nova":
            raise InvalidRequest("unknown", param="speaker")
        return SimpleNamespace(speaker="anna")

    voice.choose = choose
    listed = started.get("/v1/audio/voices").json()["voices"]
    assert [voice["id"] for voice in listed] == ["anna", "nova"]


# The page to listen ------------------------------------------------------------------


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("path", "status"),
    [("/playground", 307), ("/playground/", 200), ("/playground/index.html", 200)],
)
def test_the_page_to_listen_is_guarded_and_never_stale(path: str, status: int) -> None:
    answer = Started().end_loading().get(path)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers.get("location", "playground/") == "playground/"
