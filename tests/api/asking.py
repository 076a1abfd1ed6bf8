"""Asking a server for a short speech, and the samples of its answer."""

from typing import Any

import httpx
import numpy as np
from tests.conftest import Server

TEXT = "hello the world"


def speak(
    server: Server,
    route: str = "/tts",
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 60,
    **fields: Any,
) -> httpx.Response:
    """Ask for a second of speech at most, the same each time unless the fields say otherwise."""
    body = {"text": TEXT, "seed": 5, "format": "pcm", "max_length": 12, **fields}
    return httpx.post(server.base_url + route, json=body, headers=headers, timeout=timeout_s)


def samples(response: httpx.Response) -> Any:
    """The samples of a `pcm` answer, as integers that can be subtracted."""
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content, "<i2").astype(int)
