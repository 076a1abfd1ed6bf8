"""Swagger page at / and the OpenAPI document behind it.

BentoML describes its own APIs; this adds the routes beside them and every status with our error
body, and shows it with the Swagger UI that BentoML brings, without the tracker on its own page.
"""

from collections.abc import Mapping
from typing import Any

from qwen_tts_service import __version__

from .errors import PLAIN
from .openai import CreateSpeechBody

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

_DESCRIPTION = """Text to speech: a text and optionally a voice described by gender, age and
emotion; the response is an audio file, or a stream that plays while it is generated.

Every response has the header X-Request-Id. Speech also has X-Seed, X-Model, X-Voice, X-Language,
X-Voice-Applied and X-Voice-Not-Applied; files also X-Audio-Seconds and X-Finish-Reason."""

_REF = "#/components/schemas/"
_OPENAI_LISTS = {
    "/v1/models": "The loaded model and its aliases.",
    "/v1/audio/models": "The same under `models`, as Open WebUI reads it.",
    "/v1/audio/voices": "Speakers and OpenAI's voice names; `?legacy=true` lists bare ids.",
}
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
    400: "a field has an invalid value; param names it",
    401: "the API key is missing or wrong",
    422: "the request is valid, but this voice cannot speak it",
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
    schemas |= _create_speech_schemas()
    paths["/v1/audio/speech"] = {"post": _create_speech_operation()}
    for path, description in _OPENAI_LISTS.items():
        paths[path] = {"get": _json_operation(description, ("503",)) | {"tags": ["OpenAI"]}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qwen TTS service", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "."}],
        "components": {"schemas": schemas},
        "paths": paths,
    }


def _create_speech_schemas() -> dict[str, Any]:
    schema = CreateSpeechBody.model_json_schema(ref_template=_REF + "{model}")
    return {**schema.pop("$defs", {}), CreateSpeechBody.__name__: schema}


def _create_speech_operation() -> dict[str, Any]:
    reference = {"schema": {"$ref": _REF + CreateSpeechBody.__name__}}
    answer = {"description": "Audio while it is being made, or events that carry it."}
    kinds = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
    kinds |= {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        "description": "OpenAI's speech route: say a text, answered while speech is made.",
        "tags": ["OpenAI"],
        "requestBody": {"required": True, "content": {"application/json": reference}},
        "responses": {
            "200": answer | {"content": kinds},
            **_error_responses({404: "model names another model than the loaded one"}),
        },
    }


def _error_responses(more: Mapping[int, str] = {}) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF + "Error"}}}
    return {
        str(status): {"description": reason, "content": content}
        for status, reason in sorted({**_REASONS, **more}.items())
    }


def _json_operation(description: str, more_statuses: tuple[str, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    statuses = ("200", *more_statuses)
    responses = {status: {"description": description, "content": content} for status in statuses}
    return {"description": description, "tags": ["Infrastructure"], "responses": responses}
