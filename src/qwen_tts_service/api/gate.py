"""The checks before a request reaches its route: host, origin, API key, rate limit."""

from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from qwen_tts_service.errors import Unauthorized
from qwen_tts_service.settings import Settings

from .call import Call
from .keys import MAY_CLONE, Keys, key_in
from .rate import COUNT_REQUEST, KeylessSockets, RequestRate, address_of
from .voices import PATH as VOICES_PATH
from .websocket.connection import PATH as SOCKET_PATH
from .websocket.session import ON_KEY

PROBES = frozenset({"/healthz", "/livez", "/readyz"})
"""They need no key, whatever PUBLIC_PATHS says."""
UNCOUNTED = PROBES | {"/health", "/metrics"}
"""They answer whatever host is named and however often they are asked."""
CHANGING_METHODS = frozenset({"POST", "DELETE"})
_LOCAL_DOMAINS = frozenset({"localhost", "local", "internal", "lan", "test"})
"""Last labels of names that no public name server answers for."""


class Gate:
    """Decides whether a request may come in; raises the error that it is refused with."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys
        self._rate = RequestRate(settings.rate_limit)
        self._keyless = KeylessSockets()

    async def check(self, scope: Scope, call: Call) -> None:
        """Raise Unauthorized or RateLimited; else tell the route in the scope what it may do."""
        headers, path = Headers(scope=scope), scope["path"]
        if path not in UNCOUNTED:
            self._check_host(scope, headers)
        self._check_origin(scope, headers)
        key = key_in(headers)
        address = address_of(scope)
        client = f"key {key}" if self._keys.knows(key) else f"address {address}"
        scope[COUNT_REQUEST] = partial(self._rate.count, client)
        if path not in UNCOUNTED and not self._is_public(scope):
            await self._rate.count(client)
        if not self._has_key(scope, key):
            if not self._may_bring_it_later(scope, headers):
                raise Unauthorized(
                    "the API key is missing or wrong; send it as `Authorization: Bearer <key>`"
                )
            scope[ON_KEY] = leave = self._keyless.enter(address)
            call.at_end(leave)

    def _has_key(self, scope: Scope, key: str) -> bool:
        scope[MAY_CLONE] = self._keys.may_clone(key)
        if _changes_voices(scope):
            return bool(scope[MAY_CLONE])
        return self._is_public(scope) or self._keys.may_speak(key)

    def _is_public(self, scope: Scope) -> bool:
        if _changes_voices(scope) or scope["type"] == "websocket":
            return False
        path = scope["path"]
        return path in PROBES or any(_covers(one, path) for one in self._settings.public_paths)

    @staticmethod
    def _may_bring_it_later(scope: Scope, headers: Headers) -> bool:
        """Browsers cannot send a key with a WebSocket; it comes in the first message."""
        is_socket = scope["type"] == "websocket" and scope["path"] == SOCKET_PATH
        return is_socket and "authorization" not in headers

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse foreign pages where browsers send no preflight request: WebSockets and forms."""
        origin, allowed = headers.get("origin"), self._settings.cors_origins
        if origin is None or origin in allowed or "*" in allowed:
            return
        is_foreign = origin.partition("://")[2] != headers.get("host")
        is_form = _changes_voices(scope) and headers.get("sec-fetch-site") == "cross-site"
        if is_foreign and (scope["type"] == "websocket" or is_form):
            raise Unauthorized(
                "the origin of this page is not allowed; add it to CORS_ORIGINS",
                code="origin_not_allowed",
            )

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        """Refuse names that a foreign page may have pointed at this server (DNS rebinding)."""
        host, allowed = _host_of(headers), self._settings.allowed_hosts
        if _is_local(host, by_name=not allowed) or any(_matches(one, host) for one in allowed):
            return
        if allowed or (self._keys.is_open and _is_page_on_this_machine(scope, headers)):
            raise Unauthorized(
                "the host that the request names is not allowed; add it to ALLOWED_HOSTS",
                code="host_not_allowed",
            )


def _changes_voices(scope: Scope) -> bool:
    is_change = scope.get("method") in CHANGING_METHODS
    return is_change and bool(scope["path"].startswith(VOICES_PATH))


def _covers(public: str, path: str) -> bool:
    return path.startswith(public[:-1]) if public.endswith("*") else path == public


def _host_of(headers: Headers) -> str:
    """The name in the header Host, without its port; "" if there is none."""
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return "invalid"
    return (name or "").rstrip(".")


def _is_local(host: str, *, by_name: bool) -> bool:
    """Whether it is an address or localhost or, `by_name`, a name that only a local network has."""
    try:
        ip_address(host)
    except ValueError:
        is_name_here = "." not in host or host.rpartition(".")[2] in _LOCAL_DOMAINS
        return host == "localhost" or (by_name and is_name_here)
    return True


def _matches(allowed: str, host: str) -> bool:
    return allowed in ("*", host) or (allowed.startswith("*.") and host.endswith(allowed[1:]))


def _is_page_on_this_machine(scope: Scope, headers: Headers) -> bool:
    """Whether a browser here asks for a page that came over plain HTTP, as a rebound one must."""
    is_page = headers.get("origin", "").startswith("http://")
    try:
        return is_page and ip_address((scope.get("client") or ("",))[0]).is_loopback
    except ValueError:
        return False
