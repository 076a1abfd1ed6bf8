"""Swagger page at / and the OpenAPI document behind it.

BentoML describes its own APIs; this adds the routes beside them and every status with our error
body, and shows it with the Swagger UI that BentoML brings, without the tracker on its own page.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from qwen_tts_service import __version__

from .errors import PLAIN
from .openai import CreateSpeechBody

_STATIC = resources.files(__package__) / "static"
PAGE = (_STATIC / "docs.html").read_text("utf-8")
_WORDS: dict[str, Any] = json.loads((_STATIC / "openapi.json").read_text("utf-8"))
"""description: of the whole; lists: GET routes of OpenAI's; error_schema: the one error body."""
_REF = "#/components/schemas/"
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
    schemas["Error"] = _WORDS["error_schema"]
    paths = dict(spec["paths"])
    for path in paths.values():
        operation = path.get("post")
        if operation is not None:
            operation["responses"] = {"200": operation["responses"][200], **_error_responses()}
    paths["/health"] = {"get": _json_operation("How far the service is and how busy.", ("503",))}
    schemas |= _create_speech_schemas()
    paths["/v1/audio/speech"] = {"post": _create_speech_operation()}
    for path, description in _WORDS["lists"].items():
        paths[path] = {"get": _json_operation(description, ("503",)) | {"tags": ["OpenAI"]}}
    for path, more in _WORDS["voices"].items():
        for method, operation in more.items():
            answers = _json_operation("The voice that was kept, asked for or deleted.", ())[
                "responses"
            ]
            answers |= _error_responses({404: "there is no voice of this name"})
            paths.setdefault(path, {})[method] = operation | {"responses": answers}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Qwen TTS service",
            "version": __version__,
            "description": _WORDS["description"],
        },
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
