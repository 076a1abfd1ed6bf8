"""The BentoML service: two APIs, and the ASGI routes beside them. No logic lives here."""

import os
import sys
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # uvicorn would believe everybody on this machine
sys.path.insert(0, str(Path(__file__).parent / "src"))

import bentoml
import uvicorn

from qwen_tts_service.settings import inherited_roster, load_settings, shares_metrics, worker_count
from qwen_tts_service.telemetry import shared

PLACE = bentoml.server_context.worker_index or 1
"""Of this worker among the workers, from 1."""
if shares_metrics():  # before any metric is declared
    shared.write_as(PLACE)

from qwen_tts_service.api.app import make_app
from qwen_tts_service.api.front import Front
from qwen_tts_service.api.keys import Keys
from qwen_tts_service.api.responses import PendingFile, speak_stream
from qwen_tts_service.api.roster import Roster
from qwen_tts_service.api.runtime import Runtime
from qwen_tts_service.api.server import WorkerServer
from qwen_tts_service.api.sockets import bound_connections
from qwen_tts_service.api.supervisor import CANNOT_LIVE, die_with, replace_bentomls_supervisor
from qwen_tts_service.api.tickets import Ticket
from qwen_tts_service.api.timeouts import switch_off_bentomls_timer
from qwen_tts_service.api.wire import AudioFile, AudioStream, StreamTTSInput, TTSInput
from qwen_tts_service.build import build, check, release
from qwen_tts_service.errors import StartupError
from qwen_tts_service.telemetry.metrics import WORKER_DEATHS

runtime = Runtime()
roster = Roster(*inherited) if (inherited := inherited_roster()) else None
switch_off_bentomls_timer()
replace_bentomls_supervisor()
# BentoML's worker makes a server of this name, once it has loaded this file.
uvicorn.Server = partial(  # type: ignore[assignment,misc]
    WorkerServer, runtime=runtime, roster=roster, worker=PLACE
)


def _give_up() -> None:
    """A voice that cannot be loaded now cannot be loaded by the next worker either."""
    os._exit(CANNOT_LIVE)


@bentoml.service(
    name="qwen_tts",
    resources={"gpu": worker_count()},
    workers=worker_count(),
    http={"port": 8188},
    # BentoML labels metrics and logs with every path a client sends; ours replace them.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class QwenTTS:
    """Text to speech: a whole file, or a stream that plays while it is generated."""

    def __init__(self) -> None:
        settings = load_settings()
        bound_connections(settings.stall_timeout_s)
        if roster is not None:
            die_with(roster.supervisor)
            WORKER_DEATHS.set(roster.deaths(PLACE))
        runtime.open(
            settings, partial(build, worker=PLACE - 1), _give_up, partial(release, settings)
        )

    @bentoml.on_deployment
    @staticmethod
    def check_settings() -> None:
        """End the process with one message if these settings cannot be served."""
        try:  # runs in the supervisor
            settings = load_settings()
            check(settings)
            Keys(settings)
        except StartupError as error:
            sys.exit(f"error: {error}")

    @bentoml.on_shutdown
    def close(self) -> None:
        runtime.close()

    @bentoml.api(
        route="/tts",
        batchable=True,
        max_batch_size=64,
        max_latency_ms=24 * 3600 * 1000,
        input_spec=TTSInput,
        output_spec=AudioFile,
    )
    async def tts(self, requests: list[Ticket]) -> list[Any]:
        """Speak a text; the response is one audio file."""
        return [PendingFile(ticket) for ticket in requests]

    @bentoml.api(route="/stream-tts", input_spec=StreamTTSInput, output_spec=AudioStream)
    async def stream_tts(self, request: Ticket) -> AsyncGenerator[bytes, None]:
        """Speak a text; the response streams audio while it is generated."""
        async for part in speak_stream(request):
            yield part

    async def __is_ready__(self) -> bool:
        return runtime.stage.takes_requests

    async def __is_alive__(self) -> bool:
        return runtime.stage.status != "failed"


_service = cast("Any", QwenTTS)  # the decorator has made it a bentoml Service


def _describe() -> dict[str, Any]:
    return dict(_service.openapi_spec.asdict())


_service.mount_asgi_app(make_app(runtime, _describe))
_service.add_asgi_middleware(Front, runtime=runtime)
