"""Swagger page at / and the OpenAPI document behind it.

BentoML describes its own APIs; this adds the routes beside them and every status with our error
body, and shows it with the Swagger UI that BentoML brings, without the tracker on its own page.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from pydantic import BaseModel

from qwen_tts_service import __version__
from qwen_tts_service.fields import LANGUAGE_NAMES

from .batch import PATH as BATCH_PATH
from .batch import SpeechBatchBody
from .errors import PLAIN
from .openai import CreateSpeechBody

_STATIC = resources.files(__package__) / "static"
PAGE = (_STATIC / "docs.html").read_text("utf-8")
_WORDS: dict[str, Any] = json.loads((_STATIC / "openapi.json").read_text("utf-8"))
"""description: of the whole; lists: GET routes of OpenAI's; error_schema: the one error body."""
_REF = "#/components/schemas/"
_KINDS: dict[str, Any] = {
    "application/json": {"schema": {"$ref": _REF + "TimedFile"}},
    "text/event-stream": {"schema": {"type": "string"}},
}
"""What answers may be besides audio; see the header Accept."""
_KIND_OF = {"/tts": "application/json", "/stream-tts": "text/event-stream"}
_AUTO = {"const": "auto"}
_REASONS = {status: message for status, (_, message) in PLAIN.items() if status not in (404, 405)}
_REASONS |= {
    400: "a field has an invalid value; param names it",
    401: "the API key is missing or wrong",
    422: "the request is valid, but this voice cannot speak it",
    429: "all slots and the queue are full, or RATE_LIMIT is reached; see Retry-After",
}


def complete(spec: dict[str, Any]) -> dict[str, Any]:
    """BentoML's OpenAPI document with our title, errors and routes."""
    schemas = {
        name: schema
        for name, schema in spec["components"]["schemas"].items()
        if name.endswith(("Input", "Body"))
    }
    schemas["Error"] = _WORDS["error_schema"]
    schemas["TimedFile"] = _WORDS["timed_file_schema"]
    paths = dict(spec["paths"])
    for name, path in paths.items():
        operation = path.get("post")
        if operation is not None:
            operation["responses"] = {
                "200": _with_times(operation["responses"][200], name),
                **_error_responses(),
            }
    paths["/health"] = {"get": _json_operation("How far the service is and how busy.", ("503",))}
    schemas |= _schemas_of(CreateSpeechBody) | _schemas_of(SpeechBatchBody)
    for schema in schemas.values():
        _add_rules(schema)
    paths["/v1/audio/speech"] = {"post": _create_speech_operation()}
    paths[BATCH_PATH] = {"post": _batch_operation()}
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


def _with_times(answer: dict[str, Any], route: str) -> dict[str, Any]:
    """BentoML's description of an answer, and what it may be besides audio."""
    also = {kind: _KINDS[kind] for name, kind in _KIND_OF.items() if name == route}
    return {**answer, "content": {**answer["content"], **also}}


def _add_rules(schema: dict[str, Any]) -> None:
    """Add what a schema of speech refuses and pydantic cannot say: rules of several fields."""
    fields = schema.get("properties", {})
    text = next((name for name in ("text", "input") if name in fields), None)
    if text is None or "tokens" not in fields:
        return
    said, ids, nothing = {"type": "string", "pattern": "\\S"}, {"type": "array"}, {"type": "null"}
    schema["oneOf"] = [
        {"required": [text], "properties": {text: said, "tokens": nothing}},
        {"required": ["tokens"], "properties": {text: nothing, "tokens": ids}},
    ]
    names = {"type": "string", "enum": list(LANGUAGE_NAMES)}
    fields["language"]["anyOf"] = [names, {"type": "null"}]
    has_recording = {"required": ["ref_audio"], "properties": {"ref_audio": {"type": "string"}}}
    has_text = {"required": ["ref_text"], "properties": {"ref_text": {"type": "string"}}}
    schema["allOf"] = [
        {"if": has_text, "then": has_recording},
        {"if": _asks_for_times(), "then": {"properties": {"tokens": nothing, "split": _AUTO}}},
    ]


def _asks_for_times() -> dict[str, Any]:
    return {"required": ["timestamps"], "properties": {"timestamps": {"type": "string"}}}


def _schemas_of(body: type[BaseModel]) -> dict[str, Any]:
    schema = body.model_json_schema(ref_template=_REF + "{model}")
    return {**schema.pop("$defs", {}), body.__name__: schema}


def _create_speech_operation() -> dict[str, Any]:
    answer = {"description": "Audio while it is being made, or events that carry it."}
    kinds = {"audio/*": {"schema": {"type": "string", "format": "binary"}}, **_KINDS}
    description = "OpenAI's speech route: say a text, answered while speech is made."
    return _operation(description, CreateSpeechBody, answer | {"content": kinds})


def _batch_operation() -> dict[str, Any]:
    content = {"application/json": {"schema": _WORDS["batch_schema"]}}
    answer = {"description": "A result for each item, in their order.", "content": content}
    return _operation("Say up to 32 texts at once, in vLLM-Omni's shape.", SpeechBatchBody, answer)


def _operation(description: str, body: type[BaseModel], answer: dict[str, Any]) -> dict[str, Any]:
    """An operation of the OpenAI routes that speaks."""
    reference = {"schema": {"$ref": _REF + body.__name__}}
    return {
        "description": description,
        "tags": ["OpenAI"],
        "requestBody": {"required": True, "content": {"application/json": reference}},
        "responses": {
            "200": answer,
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
