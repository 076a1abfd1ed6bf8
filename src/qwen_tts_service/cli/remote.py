"""A running server as the speaker of a book's parts."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import httpx

from qwen_tts_service.books.folder import KeptPart
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.settings import MAX_REQUEST_TIMEOUT_S, Settings
from qwen_tts_service.speech.cloning import CloningOrder
from qwen_tts_service.types import AudioFormat, Timestamp

from .arguments import CommandError

PART_FORMAT: AudioFormat = "flac"
MOST_LOST = 4
"""How often in a row a part's connection may be lost."""
_WAIT_S = 1.0
"""Before the second try, twice as long before each further one, if the server names no time."""


_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


class RemoteSynthesizer:
    """Has a server speak parts; waits while it is busy, and tries again if a connection is lost."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        fields: Mapping[str, Any],
        order: CloningOrder | None = None,
    ) -> None:
        self._client = client
        self._fields = dict(fields)
        if order is not None:
            self._fields["ref_audio"] = b64encode(order.data).decode()
        if order is not None and order.transcript is not None:
            self._fields["ref_text"] = order.transcript
        self._is_timed = fields.get("timestamps") is not None

    async def speak(self, text: str, seed: int) -> KeptPart:
        """Speak a part. Raises CannotSpeak, InvalidRequest and CommandError."""
        fields = {**self._fields, "text": text, "seed": seed, "format": PART_FORMAT}
        response = await self._post(fields)
        if response.is_error:
            raise _refusal(response)
        audio = response.content
        timestamps: tuple[Timestamp, ...] = ()
        if self._is_timed:
            body = response.json()
            audio = b64decode(body["audio"])
            timestamps = tuple(Timestamp(**each) for each in body["timestamps"])
        return KeptPart(
            audio=audio,
            speaker=response.headers.get("X-Voice", ""),
            seed=seed,
            is_cut=response.headers.get("X-Finish-Reason") == "length",
            warning=response.headers.get("X-Warning"),
            timestamps=timestamps,
        )

    async def _post(self, fields: Mapping[str, Any]) -> httpx.Response:
        headers = {"Accept": "application/json"} if self._is_timed else {}
        lost = 0
        while True:
            try:
                response = await self._client.post("tts", json=fields, headers=headers)
            except httpx.TransportError as error:
                lost += 1
                if lost == MOST_LOST:
                    raise _unreachable(self._client, error) from None
                await asyncio.sleep(_WAIT_S * 2 ** (lost - 1))
                continue
            if response.status_code not in _BUSY:
                return response
            lost = 0
            await asyncio.sleep(_retry_after_s(response))


def open_client(url: str, settings: Settings) -> httpx.AsyncClient:
    """Make a client of a server, with API_KEY if that is set. Raises CommandError."""
    key = settings.api_keys[0] if settings.api_keys else ""
    try:
        return httpx.AsyncClient(
            base_url=url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(10, read=MAX_REQUEST_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=None),
        )
    except httpx.InvalidURL as error:
        raise CommandError(f"--url: {error}") from None


async def health_of(client: httpx.AsyncClient) -> dict[str, Any]:
    """Ask a server what it is. Raises CommandError unless it is one of ours, and ready."""
    try:
        response = await client.get("health")
        state = response.json()
        is_ready = state["ready"] and state["slots"]["total"] > 0
    except httpx.TransportError as error:
        raise _unreachable(client, error) from None
    except (ValueError, KeyError, TypeError):
        raise CommandError(f"--url: {client.base_url} is no server of this kind") from None
    if not is_ready:
        raise CommandError(f"--url: {client.base_url} is not ready: {state.get('status')}")
    return dict(state)


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else _WAIT_S


def _unreachable(client: httpx.AsyncClient, error: Exception) -> CommandError:
    why = str(error) or type(error).__name__
    return CommandError(f"--url: {client.base_url} does not answer: {why}")


def _refusal(response: httpx.Response) -> Exception:
    try:
        error = response.json()["error"]
        code, message, param = error["code"], error["message"], error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message, param = "", response.reason_phrase, None
    if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        return CannotSpeak(message, code=code)
    if response.status_code == httpx.codes.BAD_REQUEST:
        return InvalidRequest(message, param=param, code=code)
    key = "; set API_KEY" if response.status_code == httpx.codes.UNAUTHORIZED else ""
    return CommandError(f"the server answers {response.status_code}: {message}{key}")
