"""The documentation page at / and the OpenAPI document behind it.

BentoML describes its own APIs; this adds the routes beside them and every status with our error
body, and shows it with the Swagger UI that BentoML brings, without the tracker on its own page.
It does not know how routes work.
"""

from typing import Any

from qwen_tts_service import __version__

from .errors import PLAIN

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Qwen TTS service</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
<link rel="icon" type="image/png" href="./static_content/favicon-light-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "./docs.json", dom_id: "#swagger-ui", deepLinking: true})</script>
</body>
</html>
"""

_DESCRIPTION = """Text and, if you like, a voice described as gender, age and emotion go in;
an audio file, or audio that starts to play while it is still being made, comes out.

Every answer carries X-Request-Id. Speech carries X-Seed, X-Model, X-Voice, X-Language,
X-Voice-Applied and X-Voice-Not-Applied; files also X-Audio-Seconds and X-Finish-Reason."""

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "type", "param"],
            "properties": {
                "code": {"type": "string", "description": "Stable, for programs."},
                "message": {"type": "string", "description": "For people."},
                "type": {"type": "string", "enum": ["invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"], "description": "The field at fault."},
            },
        }
    },
}
_REASONS = {status: message for status, (_, message) in PLAIN.items() if status not in (404, 405)}
_REASONS |= {
    400: "a field breaks a rule; param names it",
    401: "the API key is missing or wrong",
    422: "the request is valid, but this voice cannot say it",
    429: "all slots and the queue are full; see Retry-After",
}


def complete(spec: dict[str, Any]) -> dict[str, Any]:
    """BentoML's OpenAPI document with our title, errors and routes."""
    schemas = {
        name: schema
        for name, schema in spec["components"]["schemas"].items()
        if name.endswith(("Input", "Body"))
    }
    schemas["Error"] = _ERROR_SCHEMA
    paths = dict(spec["paths"])
    for path in paths.values():
        operation = path.get("post")
        if operation is not None:
            operation["responses"] = {"200": operation["responses"][200], **_error_responses()}
    paths["/health"] = {"get": _json_operation("How far the service is and how busy.", ("503",))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qwen TTS service", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "."}],
        "components": {"schemas": schemas},
        "paths": paths,
    }


def _error_responses() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        str(status): {"description": reason, "content": content}
        for status, reason in sorted(_REASONS.items())
    }


def _json_operation(description: str, more_statuses: tuple[str, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    statuses = ("200", *more_statuses)
    responses = {status: {"description": description, "content": content} for status in statuses}
    return {"description": description, "tags": ["Infrastructure"], "responses": responses}
