"""No BentoML timer: it is never cancelled, and keeps 4.7 kB of every request for over an hour.

Our own time limit (REQUEST_TIMEOUT_S) covers the whole of a request. BentoML's cannot be switched
off: its configuration allows no None, so the middleware behind it is replaced. Private names of
bentoml 1.4.39; tests/api/test_memory.py fails where they have changed.
"""

from bentoml._internal.server.http import traffic
from starlette.types import ASGIApp, Receive, Scope, Send


class NoTimeout:
    """ASGI middleware in place of BentoML's `TimeoutMiddleware`; passes everything on."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:  # noqa: ARG002 - BentoML's call
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def switch_off_bentomls_timer() -> None:
    """Replace the middleware; before the server makes its app."""
    traffic.TimeoutMiddleware = NoTimeout  # type: ignore[misc,assignment]
