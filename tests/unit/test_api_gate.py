"""The gate: hosts, origins, keys and their file, rate limit, WebSockets without a key."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from qwen_tts_service.api.call import Call
from qwen_tts_service.api.gate import Gate
from qwen_tts_service.api.keys import Keys
from qwen_tts_service.api.rate import MAX_KEYLESS_SOCKETS, RequestRate, address_of
from qwen_tts_service.api.websocket.session import ON_KEY
from qwen_tts_service.errors import RateLimited, StartupError, TTSError
from qwen_tts_service.settings import load_settings

SOCKET = "/v1/audio/speech/stream"
HOME, LAN, AWAY = "127.0.0.1", "192.168.1.7", "203.0.113.9"


def gate_with(**given: str) -> Gate:
    settings = load_settings(given)
    return Gate(settings, Keys(settings))


async def refusal(
    gate: Gate,
    path: str = "/tts",
    *,
    client: str = AWAY,
    kind: str = "http",
    method: str = "POST",
    call: Call | None = None,
    **headers: str,
) -> str | None:
    """The code of the error that a request is refused with; None where it may come in."""
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope: dict[str, Any] = {"type": kind, "path": path, "method": method, "headers": raw}
    scope["client"] = (client, 5000)
    try:
        await gate.check(scope, call or Call("1"))
    except TTSError as error:
        return error.code
    return None


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# Keys -----------------------------------------------------------------------------------


async def test_each_of_several_keys_is_taken_and_no_part_or_sum_of_them() -> None:
    gate = gate_with(API_KEY="one,two")
    assert [await refusal(gate, **bearer(key)) for key in ("one", "two")] == [None, None]
    for wrong in ("one,two", "on", "onetwo", "", ","):
        assert await refusal(gate, **bearer(wrong)) == "unauthorized"


async def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\n  anna  \n\nboris\n")
    gate = gate_with(API_KEY="fixed", API_KEYS_FILE=str(file))
    assert await refusal(gate) == "unauthorized"
    for key in ("fixed", "anna", "boris"):
        assert await refusal(gate, **bearer(key)) is None
    assert await refusal(gate, **bearer("# of the team")) == "unauthorized"
    changed = tmp_path / "new"
    changed.write_text("vera\n")
    changed.replace(file)
    assert await refusal(gate, **bearer("vera")) is None
    assert await refusal(gate, **bearer("anna")) == "unauthorized"


@pytest.mark.parametrize("content", [None, "", "# nobody\n", "two words\n", "ключ\n"])
async def test_a_file_that_has_become_wrong_changes_nothing_and_is_logged_once(
    tmp_path: Path,
    content: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)
    file = tmp_path / "keys"
    file.write_text("anna\n")
    gate = gate_with(API_KEYS_FILE=str(file))
    file.unlink()
    if content is not None:
        file.write_text(content)
        os.utime(file, ns=(1, 1))
    for _ in range(2):
        assert await refusal(gate, **bearer("anna")) is None
        assert await refusal(gate) == "unauthorized"
    assert caplog.text.count("the changed API_KEYS_FILE is not used") == 1
    assert not content or content.strip() not in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), ("\n", "it has no key"), ("anna\ntwo words\n", "line 2: a key is")],
)
def test_a_file_that_cannot_be_used_ends_the_start(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
    with pytest.raises(StartupError, match=f"API_KEYS_FILE=.*{reason}"):
        gate_with(API_KEYS_FILE=str(tmp_path / "keys"))


@pytest.mark.parametrize(
    ("path", "method", "is_public"),
    [
        ("/health", "GET", True),
        ("/docs/a", "GET", True),
        ("/livez", "GET", True),  # probes always
        ("/readyz", "GET", True),
        ("/metrics", "GET", False),
        ("/", "GET", False),
        ("/health/a", "GET", False),
        ("/v1/audio/voices", "GET", True),
        ("/v1/audio/voices", "POST", False),
    ],
)
async def test_paths_that_need_no_key_are_a_setting(
    path: str, method: str, is_public: bool
) -> None:
    gate = gate_with(API_KEY="k", PUBLIC_PATHS="/health, /docs*,/v1/audio/voices")
    assert (await refusal(gate, path, method=method) is None) is is_public
    assert await refusal(gate, path, method=method, **bearer("k")) is None


# Rate limit -----------------------------------------------------------------------------


async def test_each_key_and_each_address_has_a_rate_limit_of_its_own() -> None:
    gate = gate_with(API_KEY="one,two", RATE_LIMIT="2/hour")
    for key in ("one", "two"):
        codes = [await refusal(gate, client=ip, **bearer(key)) for ip in (AWAY, LAN, HOME)]
        assert codes == [None, None, "rate_limited"]
    guesses = [await refusal(gate, **bearer(f"guess {n}")) for n in range(3)]
    assert guesses == ["unauthorized", "unauthorized", "rate_limited"]
    assert await refusal(gate, client=LAN) == "unauthorized"


async def test_without_keys_a_made_up_one_does_not_escape_the_limit_of_its_address() -> None:
    gate = gate_with(RATE_LIMIT="1/hour")
    assert await refusal(gate, **bearer("a")) is None
    assert await refusal(gate, **bearer("b")) == "rate_limited"


async def test_probes_metrics_and_public_paths_are_not_counted() -> None:
    gate = gate_with(API_KEY="k", RATE_LIMIT="1/hour", PUBLIC_PATHS="/playground*")
    for _ in range(3):
        for path in ("/livez", "/readyz", "/healthz", "/playground/app.js"):
            assert await refusal(gate, path, method="GET") is None
        for path in ("/health", "/metrics"):
            assert await refusal(gate, path, method="GET", **bearer("k")) is None
    assert await refusal(gate, **bearer("k")) is None
    assert await refusal(gate, **bearer("k")) == "rate_limited"


async def test_there_is_no_rate_limit_unless_it_is_set() -> None:
    gate = gate_with()
    assert {await refusal(gate) for _ in range(500)} == {None}


async def test_a_rate_limit_says_when_the_next_request_is_allowed() -> None:
    rate = RequestRate("2/10 minutes")
    await rate.count("a")
    await rate.count("a")
    with pytest.raises(RateLimited, match=r"2/10 minutes.*RATE_LIMIT") as caught:
        await rate.count("a")
    assert 1 <= caught.value.retry_after_s <= 600
    assert f"in {caught.value.retry_after_s} s" in caught.value.message


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("203.0.113.9", 1), "203.0.113.9"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::"),
        (("::ffff:203.0.113.9", 1), "203.0.113.9"),
        (("a socket", 1), "a socket"),
        (None, ""),
    ],
)
def test_a_client_is_its_ipv4_address_or_its_ipv6_network(client: Any, address: str) -> None:
    assert address_of({"client": client}) == address


async def test_sockets_that_wait_for_their_key_are_bounded_by_address() -> None:
    gate = gate_with(API_KEY="k")
    calls = [Call(str(number)) for number in range(MAX_KEYLESS_SOCKETS)]
    for call in calls:
        assert await refusal(gate, SOCKET, kind="websocket", call=call) is None
    assert await refusal(gate, SOCKET, kind="websocket") == "rate_limited"
    assert await refusal(gate, SOCKET, kind="websocket", **bearer("k")) is None
    assert await refusal(gate, SOCKET, kind="websocket", client=LAN) is None
    calls[0].end()
    assert await refusal(gate, SOCKET, kind="websocket") is None
    assert await refusal(gate, SOCKET, kind="websocket") == "rate_limited"


async def test_a_socket_that_has_given_its_key_does_not_count_any_more() -> None:
    gate = gate_with(API_KEY="k")
    for _ in range(2 * MAX_KEYLESS_SOCKETS):
        scope: dict[str, Any] = {"type": "websocket", "path": SOCKET, "headers": []}
        call = Call("1")
        await gate.check(scope, call)
        scope[ON_KEY]()
        call.end()  # counts it once only
    for _ in range(MAX_KEYLESS_SOCKETS):
        assert await refusal(gate, SOCKET, kind="websocket") is None


# Hosts and origins ----------------------------------------------------------------------

REBOUND = {"host": "evil.example:8188", "origin": "http://evil.example:8188"}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("client", [HOME, "::1", "127.8.8.8"])
async def test_a_page_whose_name_was_rebound_to_this_machine_is_refused(
    kind: str, client: str
) -> None:
    path = SOCKET if kind == "websocket" else "/tts"
    code = await refusal(gate_with(), path, kind=kind, client=client, **REBOUND)
    assert code == "host_not_allowed"


@pytest.mark.parametrize(
    ("settings", "client", "headers"),
    [
        pytest.param({}, HOME, {"host": "localhost:8188"}, id="no page"),
        pytest.param({}, HOME, {"host": "tts.example.com"}, id="no page, behind a proxy"),
        pytest.param(
            {},
            HOME,
            {"host": "tts.example.com", "origin": "https://tts.example.com"},
            id="a page behind a proxy with TLS on this machine",
        ),
        pytest.param(
            {},
            HOME,
            {"host": "127.0.0.1:8188", "origin": "http://127.0.0.1:8188"},
            id="the page of this server",
        ),
        pytest.param(
            {}, HOME, {"host": "localhost", "origin": "http://localhost"}, id="its page by name"
        ),
        pytest.param({}, HOME, {"host": "[::1]:8188", "origin": "http://[::1]:8188"}, id="IPv6"),
        pytest.param({}, HOME, {"host": "gpu:8188", "origin": "http://gpu:8188"}, id="short name"),
        pytest.param({}, HOME, {"host": "a.local", "origin": "http://a.local"}, id="mDNS"),
        pytest.param({}, LAN, REBOUND, id="another machine, which no setting tells apart"),
        pytest.param({"API_KEY": "k"}, HOME, REBOUND | bearer("k"), id="with a key"),
        pytest.param({"ALLOWED_HOSTS": "*"}, HOME, REBOUND, id="any host allowed"),
        pytest.param({"ALLOWED_HOSTS": "evil.example"}, HOME, REBOUND, id="allowed by name"),
    ],
)
async def test_no_other_request_is_refused_for_its_host(
    settings: dict[str, str], client: str, headers: dict[str, str]
) -> None:
    assert await refusal(gate_with(**settings), client=client, **headers) is None


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("tts.example.com", True),
        ("TTS.Example.com.:443", True),
        ("a.b.example.net", True),
        ("example.net", False),
        ("badexample.net", False),
        ("tts.example.com.evil.example", False),
        ("evil.example", False),
        ("gpu", False),
        ("a.local", False),
        ("", False),
        ("[bad", False),
        ("localhost:8188", True),
        ("127.0.0.1:8188", True),
        ("10.0.0.7", True),
        ("[::1]", True),
    ],
)
async def test_a_list_of_hosts_allows_those_and_addresses_and_nothing_else(
    host: str, is_allowed: bool
) -> None:
    gate = gate_with(API_KEY="k", ALLOWED_HOSTS="tts.example.com, *.EXAMPLE.net")
    code = await refusal(gate, host=host, **bearer("k"))
    assert code == (None if is_allowed else "host_not_allowed")
    assert await refusal(gate, "/readyz", method="GET", host=host) is None


FORM = {"host": "localhost:8188", "origin": "https://bad.example"}


@pytest.mark.parametrize(
    ("settings", "path", "site", "is_allowed"),
    [
        ({}, "/v1/audio/voices", "cross-site", False),
        ({}, "/v1/audio/voices/anna", "cross-site", False),
        ({}, "/v1/audio/voices", "same-origin", True),  # a proxy that names another host
        ({}, "/tts", "cross-site", True),  # JSON: the browser asks first
        ({"CORS_ORIGINS": "https://bad.example"}, "/v1/audio/voices", "cross-site", True),
    ],
)
async def test_a_foreign_page_cannot_post_a_form_that_keeps_a_voice(
    settings: dict[str, str], path: str, site: str, is_allowed: bool
) -> None:
    code = await refusal(gate_with(**settings), path, sec_fetch_site=site, **FORM)
    assert code == (None if is_allowed else "origin_not_allowed")
