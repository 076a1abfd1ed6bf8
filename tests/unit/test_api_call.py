"""`Call`: log line, metrics, clean-up."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from qwen_tts_service.api import call as call_module
from qwen_tts_service.api.call import SCOPE_KEY, Call

ROUTE = "/tests-of-calls"


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still; its only entry is the time in seconds."""
    now_s = [1000.0]
    monkeypatch.setattr(call_module, "monotonic", lambda: now_s[0])
    return now_s


def call_on(route: str | None = ROUTE) -> Call:
    call = Call("call-1")
    call.route = route
    return call


def test_a_call_is_found_again_in_its_scope() -> None:
    call = call_on()
    assert Call.of({SCOPE_KEY: call}) is call


def test_only_the_first_audio_is_timed(clock: list[float]) -> None:
    labels = {"route": ROUTE, "format": "mp3"}
    before = counted("tts_first_audio_seconds_count", **labels)
    before_s = counted("tts_first_audio_seconds_sum", **labels)
    call = call_on()
    clock[0] += 0.25
    call.first_audio("mp3")
    clock[0] += 1
    call.first_audio("mp3")
    assert call.facts == {"first_audio_ms": 250}
    assert counted("tts_first_audio_seconds_count", **labels) == before + 1
    assert counted("tts_first_audio_seconds_sum", **labels) == pytest.approx(before_s + 0.25)


def test_speech_is_added_up_and_set_against_the_time_it_took(clock: list[float]) -> None:
    labels = {"route": ROUTE}
    audio_s = counted("tts_audio_seconds_total", **labels)
    count = counted("tts_real_time_factor_count", **labels)
    factors = counted("tts_real_time_factor_sum", **labels)
    call = call_on()
    clock[0] += 1
    call.spoke(4.0004)
    assert call.facts == {"audio_s": 4.0, "real_time_factor": 0.25}
    assert counted("tts_audio_seconds_total", **labels) == pytest.approx(audio_s + 4.0004)
    assert counted("tts_real_time_factor_count", **labels) == count + 1
    assert counted("tts_real_time_factor_sum", **labels) == pytest.approx(factors + 0.25, abs=1e-3)


@pytest.mark.parametrize(("route", "audio_s"), [(None, 1.0), (ROUTE, 0.0)])
def test_what_was_not_spoken_for_a_route_is_not_counted(route: str | None, audio_s: float) -> None:
    before = counted("tts_real_time_factor_count", route=ROUTE)
    call = call_on(route)
    call.spoke(audio_s)
    if route is None:
        call.first_audio("wav")
    assert call.facts == {}
    assert counted("tts_real_time_factor_count", route=ROUTE) == before


@pytest.mark.parametrize(
    ("status", "given", "outcome"),
    [
        (200, None, "ok"),
        (399, None, "ok"),
        (400, None, "internal_error"),
        (None, None, "internal_error"),
        (429, "busy", "busy"),
        (200, "cancelled", "cancelled"),
    ],
)
def test_an_ended_call_is_counted_once_and_has_one_line(
    clock: list[float], status: int | None, given: str | None, outcome: str, log: Any
) -> None:
    left = counted("tts_cancellations_total", reason="client_left")
    before = counted("tts_requests_total", route=ROUTE, outcome=outcome)
    before_s = counted("tts_request_seconds_sum", route=ROUTE)
    call = call_on()
    call.status, call.outcome = status, given
    call.note(seed=7)
    clock[0] += 1.5
    call.end()
    assert counted("tts_requests_total", route=ROUTE, outcome=outcome) == before + 1
    assert counted("tts_request_seconds_sum", route=ROUTE) == pytest.approx(before_s + 1.5)
    assert counted("tts_cancellations_total", reason="client_left") == left + (
        outcome == "cancelled"
    )
    (line,) = log.messages
    facts = f"seed=7 total_ms=1500 status={status} outcome={outcome}"
    assert line == f"{ROUTE} id=call-1 {facts}"


def test_what_is_no_route_of_ours_is_freed_without_a_line(log: Any) -> None:
    freed: list[str] = []
    call = call_on(None)
    call.at_end(lambda: freed.append("first"))
    call.at_end(lambda: freed.append("second"))
    assert freed == []
    call.end()
    assert freed == ["second", "first"]
    assert log.messages == []
