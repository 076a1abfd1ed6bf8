"""ASGI routes beside the BentoML APIs: documentation, /health, /metrics, OpenAI, WebSocket."""

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from qwen_tts_service import __version__
from qwen_tts_service.telemetry import metrics

from . import batch, docs, openai, playground
from .runtime import Runtime
from .websocket import session


def make_app(runtime: Runtime, openapi: Callable[[], dict[str, Any]]) -> Starlette:
    """The ASGI app that is mounted beside the BentoML APIs; `openapi` describes those."""

    async def show_docs(_: Request) -> Response:
        return HTMLResponse(docs.PAGE)

    async def show_openapi(_: Request) -> Response:
        return JSONResponse(docs.complete(openapi()))

    async def show_health(_: Request) -> Response:
        state = describe(runtime)
        return JSONResponse(state, status_code=200 if state["ready"] else 503, headers=_OWN)

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)

    return Starlette(
        routes=[
            Route("/", show_docs),
            Route("/docs.json", show_openapi),
            Route("/health", show_health),
            Route("/metrics", show_metrics),
            *openai.ROUTES,
            *batch.ROUTES,
            *session.ROUTES,
            *playground.routes(),
        ]
    )


_OWN = {"X-Error-Code": "none"}
"""Header that keeps `Front` from replacing the body of a 503 from here."""


def describe(runtime: Runtime) -> dict[str, object]:
    """Body of /health: state of the service, loaded voice, load."""
    stage = runtime.stage
    admission = runtime.admission
    state: dict[str, object] = {
        "status": stage.status,
        "ready": stage.takes_requests,
        "version": __version__,
        "model": runtime.settings.model_name,
        "sampling_rate": runtime.settings.sampling_rate,
        "voice_cloning": runtime.settings.voice_cloning,
        "slots": {
            "total": admission.slots,
            "active": admission.active,
            "queued": admission.queued,
            "queue_limit": admission.queue_limit,
        },
    }
    if stage.status != "ready":
        state |= {"step": stage.step, "progress": round(stage.progress, 3)}
    return state | (runtime.facts if stage.takes_requests else {})
