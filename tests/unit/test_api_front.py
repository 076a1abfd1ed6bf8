"""The middleware: API key, origins, ids, headers, one error body, one end per request."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.responses import JSONResponse, Response

from qwen_tts_service.api.call import Call
from qwen_tts_service.api.front import Front
from qwen_tts_service.api.keys import MAY_CLONE, Keys
from qwen_tts_service.api.tickets import RUNTIME_KEY
from qwen_tts_service.api.websocket.session import ON_KEY
from qwen_tts_service.settings import load_settings

App = Callable[[Any, Any, Any], Awaitable[None]]
PATH = "/tts"
SAYS: App = Response(b"said")
SOCKET = "/v1/audio/speech/stream"
KEY = {"API_KEY": "sesame"}
RIGHT = {"authorization": "Bearer sesame"}


@dataclass
class Answer:
    """What the client was sent, and the scope that the app saw, if it was asked at all."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    scope: dict[str, Any] | None = None

    @property
    def start(self) -> dict[str, Any]:
        return self.messages[0]

    @property
    def status(self) -> int:
        return int(self.start["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode().lower(): v.decode() for k, v in self.start["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])

    @property
    def call(self) -> Call:
        assert self.scope is not None
        return Call.of(self.scope)


async def ask(
    app: App = SAYS,
    path: str = PATH,
    *,
    kind: str = "http",
    settings: dict[str, str] | None = None,
    method: str = "POST",
    **headers: str,
) -> Answer:
    """Send one request through a `Front` of its own."""
    answer = Answer()
    given = load_settings(settings or {})
    runtime: Any = SimpleNamespace(settings=given, keys=Keys(given))
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": kind, "path": path, "headers": raw, "method": method}

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        answer.scope = scope
        await app(scope, receive, send)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        answer.messages.append(message)

    await Front(inner, runtime)(scope, receive, send)
    return answer


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "sesame",
        "Bearer",
        "Bearer ",
        "Basic sesame",
        "Bearer sesam",
        "Bearer sesame2",
        "Bearer SESAME",
        "Token Bearer sesame",
        "Bearer ключ",
    ],
)
async def test_without_the_key_as_a_bearer_nothing_speaks(authorization: str | None) -> None:
    given = {} if authorization is None else {"authorization": authorization}
    answer = await ask(settings=KEY, **given)
    assert answer.scope is None
    assert (answer.status, answer.error["code"]) == (401, "unauthorized")
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("authorization", ["Bearer sesame", "bearer  sesame ", "BEARER sesame"])
async def test_with_the_key_every_route_answers(authorization: str) -> None:
    assert (await ask(settings=KEY, authorization=authorization)).status == 200


async def test_without_an_api_key_all_requests_are_allowed() -> None:
    assert (await ask()).status == 200
    assert (await ask(authorization="Basic any")).status == 200


@pytest.mark.parametrize(
    ("path", "is_open"),
    [
        ("/", True),
        ("/docs.json", True),
        ("/schema.json", True),
        ("/favicon.ico", True),
        ("/health", True),
        ("/healthz", True),
        ("/livez", True),
        ("/readyz", True),
        ("/metrics", True),
        ("/v1/audio/voices", True),
        ("/v1/audio/models", True),
        ("/static_content/x.css", True),
        ("/playground", True),
        ("/playground/main.js", True),
        ("/tts", False),
        ("/stream-tts", False),
        ("/v1/audio/speech", False),
        ("/v1/models", False),
        ("/v1/audio/voices/x", False),
        (SOCKET, False),
        ("/a/playground", False),
    ],
)
async def test_the_key_guards_what_speaks_and_leaves_the_rest_open(
    path: str, is_open: bool
) -> None:
    answer = await ask(path=path, settings=KEY, method="GET")
    assert answer.status == (200 if is_open else 401)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/audio/voices", "/v1/audio/voices/anna"])
@pytest.mark.parametrize(
    ("settings", "right"),
    [(KEY, "sesame"), (KEY | {"VOICES_API_KEY": "own"}, "own"), ({"VOICES_API_KEY": "own"}, "own")],
)
async def test_keeping_and_deleting_voices_asks_for_the_key_for_that(
    method: str, path: str, settings: dict[str, str], right: str
) -> None:
    for key in ("sesame", "own", ""):
        given = {"authorization": f"Bearer {key}"} if key else {}
        answer = await ask(path=path, settings=settings, method=method, **given)
        assert answer.status == (200 if key == right else 401)


async def test_a_key_for_voices_alone_leaves_speech_open() -> None:
    assert (await ask(settings={"VOICES_API_KEY": "own"})).status == 200


@pytest.mark.parametrize(
    ("settings", "key", "speaks", "clones"),
    [
        ({}, "", True, True),
        (KEY, "sesame", True, True),
        (KEY, "own", False, False),
        (KEY | {"VOICES_API_KEY": "own"}, "sesame", True, False),
        (KEY | {"VOICES_API_KEY": "own"}, "own", True, True),
        (KEY | {"VOICES_API_KEY": "own"}, "", False, False),
        ({"VOICES_API_KEY": "own"}, "", True, False),
        ({"VOICES_API_KEY": "own"}, "own", True, True),
    ],
)
async def test_recordings_need_the_key_for_voices_where_there_is_one(
    settings: dict[str, str], key: str, speaks: bool, clones: bool
) -> None:
    given = {"authorization": f"Bearer {key}"} if key else {}
    answer = await ask(settings=settings, **given)
    assert answer.status == (200 if speaks else 401)
    if answer.scope is not None:
        assert answer.scope[MAY_CLONE] is clones


async def accept(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
    await send({"type": "websocket.send", "text": "said"})
    await send({"type": "websocket.close", "code": 1000})


async def test_a_socket_without_a_key_is_accepted_and_its_key_is_deferred() -> None:
    answer = await ask(accept, SOCKET, kind="websocket", settings=KEY)
    assert answer.start["type"] == "websocket.accept"
    assert answer.scope is not None
    assert callable(answer.scope[ON_KEY])


@pytest.mark.parametrize(("settings", "headers"), [(KEY, RIGHT), ({}, {})])
async def test_a_socket_with_its_key_or_where_none_is_set_has_none_deferred(
    settings: dict[str, str], headers: dict[str, str]
) -> None:
    answer = await ask(accept, SOCKET, kind="websocket", settings=settings, **headers)
    assert answer.scope is not None
    assert ON_KEY not in answer.scope


@pytest.mark.parametrize(
    ("path", "headers"), [(SOCKET, {"authorization": "Bearer wrong"}), ("/other", {})]
)
async def test_a_socket_with_a_wrong_key_or_elsewhere_is_refused(
    path: str, headers: dict[str, str]
) -> None:
    answer = await ask(accept, path, kind="websocket", settings=KEY, **headers)
    assert answer.scope is None
    assert answer.start["type"] == "websocket.http.response.start"
    assert (answer.status, answer.error["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("origins", "origin", "is_welcome"),
    [
        ("", None, True),
        ("", "https://a.example", False),
        ("", "https://here.example", True),
        ("", "https://here.example:8", False),
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "https://b.example", False),
        ("*", "https://b.example", True),
    ],
)
async def test_a_page_opens_a_socket_from_here_or_from_an_allowed_origin(
    origins: str, origin: str | None, is_welcome: bool
) -> None:
    given = {} if origin is None else {"origin": origin}
    settings = {"CORS_ORIGINS": origins}
    answer = await ask(
        accept, SOCKET, kind="websocket", settings=settings, host="here.example", **given
    )
    if is_welcome:
        assert answer.start["type"] == "websocket.accept"
    else:
        assert (answer.status, answer.error["code"]) == (401, "origin_not_allowed")
        assert "CORS_ORIGINS" in answer.error["message"]


async def test_http_requests_of_other_origins_are_left_to_the_browsers_cors_check() -> None:
    assert (await ask(origin="https://a.example")).status == 200


async def test_only_allowed_origins_get_cors_headers() -> None:
    settings = {"CORS_ORIGINS": "https://a.example"}
    allowed = (await ask(settings=settings, origin="https://a.example")).headers
    assert allowed["access-control-allow-origin"] == "https://a.example"
    assert allowed["access-control-expose-headers"] == "*"
    foreign = (await ask(settings=settings, origin="https://b.example")).headers
    assert "access-control-allow-origin" not in foreign
    assert "access-control-allow-origin" not in (await ask(origin="https://a.example")).headers


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 200), ("PUT", 400)])
async def test_a_preflight_lists_the_allowed_methods(method: str, status: int) -> None:
    answer = await ask(
        settings={"CORS_ORIGINS": "https://a.example"},
        method="OPTIONS",
        origin="https://a.example",
        access_control_request_method=method,
        access_control_request_headers="x-anything",
    )
    assert answer.scope is None
    assert answer.status == status


@pytest.mark.parametrize("given", ["a", "call-7", "A.b_C-9", "x" * 64])
async def test_a_clients_request_id_is_kept(given: str) -> None:
    answer = await ask(x_request_id=given)
    assert answer.headers["x-request-id"] == answer.call.request_id == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\n", "ключ", "<a>"])
async def test_a_strange_request_id_is_replaced_by_one_of_our_own(given: str) -> None:
    first, second = [(await ask(x_request_id=given)).headers["x-request-id"] for _ in range(2)]
    assert len(first) == 32
    assert first != second


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ask, id="speech"),
        pytest.param(lambda: ask(path="/"), id="page"),
        pytest.param(lambda: ask(settings=KEY), id="refused"),
        pytest.param(lambda: ask(Response(status_code=404)), id="not-found"),
        pytest.param(lambda: ask(accept, SOCKET, kind="websocket", origin="http://a"), id="socket"),
    ],
)
async def test_no_answer_may_be_taken_for_another_type_and_each_has_its_id(
    answer: Callable[[], Awaitable[Answer]],
) -> None:
    headers = (await answer()).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]


async def test_only_the_page_has_a_policy_and_it_loads_nothing_from_elsewhere() -> None:
    policy = (await ask(path="/")).headers["content-security-policy"]
    assert policy == "default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'none'"
    assert "content-security-policy" not in (await ask()).headers


async def test_a_socket_is_accepted_with_its_own_headers_and_the_id() -> None:
    answer = await ask(accept, SOCKET, kind="websocket", x_request_id="socket-1")
    assert answer.headers == {"x-own": "1", "x-request-id": "socket-1"}
    assert [m["type"] for m in answer.messages[1:]] == ["websocket.send", "websocket.close"]


async def test_a_socket_on_an_unknown_route_is_a_404_with_our_body() -> None:
    async def close(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 1000})

    answer = await ask(close, "/nowhere", kind="websocket")
    assert [m["type"].removeprefix("websocket.http.response.") for m in answer.messages] == [
        "start",
        "body",
    ]
    assert (answer.status, answer.error["code"]) == (404, "not_found")


@pytest.mark.parametrize(("status", "code"), [(400, "invalid_request"), (503, "not_ready")])
async def test_a_bare_error_gets_our_body_once_and_its_length(status: int, code: str) -> None:
    async def say_it_in_parts(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html"), (b"content-length", b"6")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"the", "more_body": True})
        await send({"type": "http.response.body", "body": b"irs"})

    answer = await ask(say_it_in_parts)
    assert answer.error["code"] == code
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert len(answer.messages) == 2
    assert not answer.messages[1].get("more_body")


@pytest.mark.parametrize(
    "own",
    [
        Response(b"as it is", 399),
        Response(b"as it is", 422, headers={"X-Error-Code": "cannot_speak"}),
    ],
)
async def test_an_answer_that_is_no_bare_error_is_left_as_it_is(own: Response) -> None:
    answer = await ask(own)
    assert answer.body == b"as it is"
    assert answer.call.status == answer.status == own.status_code


async def test_what_fails_before_it_has_answered_is_a_500_without_its_words(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)

    async def fail(scope: Any, _receive: Any, _send: Any) -> None:
        call = Call.of(scope)
        call.route, call.outcome = PATH, "timeout"  # what it had failed of before does not count
        raise RuntimeError("secret")

    labels = {"route": PATH, "outcome": "internal_error"}
    before = counted("tts_requests_total", **labels)
    answer = await ask(fail, x_request_id="bad-1")
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert b"secret" not in answer.body
    assert answer.headers["x-request-id"] == "bad-1"
    assert counted("tts_requests_total", **labels) == before + 1
    assert "id=bad-1 failed outside its route" in caplog.text


async def test_what_fails_within_its_answer_is_left_to_the_server_and_still_ends() -> None:
    freed: list[int] = []

    async def fail(scope: Any, _receive: Any, send: Any) -> None:
        Call.of(scope).at_end(lambda: freed.append(1))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("late")

    with pytest.raises(RuntimeError, match="late"):
        await ask(fail)
    assert freed == [1]


async def test_a_call_ends_when_its_answer_is_complete_and_not_before() -> None:
    freed: list[int] = []

    async def speak(scope: Any, receive: Any, send: Any) -> None:
        Call.of(scope).at_end(lambda: freed.append(1))
        await JSONResponse({})(scope, receive, send)
        assert freed == []

    await ask(speak)
    assert freed == [1]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/tts", "/tts"),
        ("/stream-tts", "/stream-tts"),
        ("/v1/audio/speech", "/v1/audio/speech"),
        ("/made-up", "other"),
    ],
)
async def test_refused_requests_are_counted_by_route_and_made_up_routes_together(
    path: str, route: str
) -> None:
    labels = {"route": route, "outcome": "unauthorized"}
    before = counted("tts_requests_total", **labels)
    await ask(path=path, settings=KEY)
    assert counted("tts_requests_total", **labels) == before + 1


async def test_an_app_sees_the_runtime_and_what_is_no_request_passes_by() -> None:
    answer = await ask()
    assert answer.scope is not None
    assert answer.scope[RUNTIME_KEY].settings == load_settings({})
    seen = await ask(lambda *_: asyncio.sleep(0), kind="lifespan", settings=KEY)
    assert seen.scope is not None
    assert RUNTIME_KEY not in seen.scope


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"transfer-encoding": "chunked", "content-length": "5"}, 400, "invalid_request"),
        ({"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"content-encoding": "identity, br"}, 415, "unsupported_media_type"),
    ],
)
async def test_a_body_of_two_lengths_or_compressed_is_refused_unread(
    headers: dict[str, str], status: int, code: str
) -> None:
    answer = await ask(**headers)
    assert answer.scope is None
    assert (answer.status, answer.error["code"]) == (status, code)


@pytest.mark.parametrize("coding", ["", "identity"])
async def test_a_body_as_it_is_may_say_so(coding: str) -> None:
    assert (await ask(content_encoding=coding)).status == 200
