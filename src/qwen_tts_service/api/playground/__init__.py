"""Static files of the web page under /playground, with security headers.

The files load nothing from elsewhere and hold no inline script, so the policy below can be
strict.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PREFIX = "/playground"

_FILES = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Revalidated by ETag each time: after an upgrade no browser keeps half of the old page.
    "Cache-Control": "no-cache",
}


class _GuardedFiles(StaticFiles):
    """Static files with the headers above on every response."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def _add_slash(_: Request) -> Response:
    # A relative address is right behind any proxy; Starlette's own redirect names the host.
    return RedirectResponse(PREFIX.removeprefix("/") + "/", headers=_HEADERS)


def routes() -> list[BaseRoute]:
    """Return the routes that serve the page; a missing file raises HTTPException 404."""
    return [Route(PREFIX, _add_slash), Mount(PREFIX, _GuardedFiles(directory=_FILES, html=True))]
