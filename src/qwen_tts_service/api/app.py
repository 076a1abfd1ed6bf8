"""The routes that are not BentoML APIs: /health and /metrics.

It does not know how speech is made.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen_tts_service import __version__

from .runtime import Runtime


def make_app(runtime: Runtime) -> Starlette:
    """The ASGI app that is mounted beside the BentoML APIs."""

    async def health(_: Request) -> Response:
        state = describe(runtime)
        return JSONResponse(state, status_code=200 if state["ready"] else 503)

    async def show_metrics(_: Request) -> Response:
        from qwen_tts_service.telemetry import metrics  # noqa: PLC0415 - only after the server has set up its directory

        return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)

    return Starlette(routes=[Route("/health", health), Route("/metrics", show_metrics)])


def describe(runtime: Runtime) -> dict[str, object]:
    """What /health says: how far the service is, what speaks, and how busy it is."""
    stage = runtime.stage
    admission = runtime.admission
    state: dict[str, object] = {
        "status": stage.status,
        "ready": stage.status == "ready",
        "version": __version__,
        "model": runtime.settings.model_name,
        "sampling_rate": runtime.settings.sampling_rate,
        "slots": {
            "total": admission.slots,
            "active": admission.active,
            "queued": admission.queued,
            "queue_limit": admission.queue_limit,
        },
    }
    if stage.status != "ready":
        return state | {"step": stage.step, "progress": round(stage.progress, 3)}
    voice = runtime.synthesizer.voice
    return state | {"device": voice.device, "speakers": list(voice.speakers)}
