"""The OpenAPI document: our routes, every status with its description, only our schemas."""

from typing import Any

import pytest

from qwen_tts_service import __version__
from qwen_tts_service.api.docs import PAGE, complete
from qwen_tts_service.fields import LANGUAGE_NAMES
from qwen_tts_service.text.language import parse_language

ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
SPEAKING = {"200", "400", "408", "401", "413", "415", "422", "429", "500", "503", "504"}


OK = {"description": "ok", "content": {"audio/*": {}}}
TIMED_FILE = {"schema": {"$ref": "#/components/schemas/TimedFile"}}


@pytest.fixture
def document() -> dict[str, Any]:
    """What becomes of a document of BentoML's with one speaking route and one that is read."""
    return complete(
        {
            "components": {"schemas": {"TTSInput": {"a": 1}, "OneBody": {}, "InfoCard": {}}},
            "paths": {
                "/tts": {"post": {"responses": {200: OK, 400: {}}}},
                "/readyz": {"get": {"responses": {"200": {}}}},
            },
        }
    )


def test_it_has_our_title_version_and_address(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert (document["info"]["title"], document["info"]["version"]) == (
        "Qwen TTS service",
        __version__,
    )
    assert "X-Voice-Not-Applied" in document["info"]["description"]
    assert document["servers"] == [{"url": "."}]


def test_only_schemas_of_bodies_and_errors_are_shown(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas) == {
        "TTSInput",
        "OneBody",
        "Error",
        "TimedFile",
        "CreateSpeechBody",
        "SpeechBatchBody",
        "VoiceAttributesBody",
    }
    error = schemas["Error"]["properties"]["error"]
    assert schemas["Error"]["required"] == ["error"]
    assert error["required"] == list(error["properties"]) == ["code", "message", "type", "param"]
    assert error["properties"]["type"]["enum"] == ["invalid_request_error", "server_error"]
    assert error["properties"]["param"]["type"] == ["string", "null"]
    assert "$defs" not in schemas["CreateSpeechBody"]
    assert set(schemas["CreateSpeechBody"]["properties"]) >= {"input", "voice", "stream_format"}


@pytest.mark.parametrize(
    ("path", "more"),
    [("/tts", set()), ("/v1/audio/speech", {"404"}), ("/v1/audio/speech/batch", {"404"})],
)
def test_a_route_that_speaks_names_every_status_with_our_error(
    path: str, more: set[str], document: dict[str, Any]
) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert set(responses) == SPEAKING | more
    assert list(responses) == ["200", *sorted(set(responses) - {"200"})]
    errors = [answer for status, answer in responses.items() if status != "200"]
    assert all(answer["content"] == ERROR for answer in errors)
    assert all(answer["description"] for answer in errors)
    assert responses["400"]["description"] == "a field has an invalid value; param names it"
    assert "Retry-After" in responses["429"]["description"]


def test_bentomls_documentation_of_its_routes_is_kept(document: dict[str, Any]) -> None:
    answer = document["paths"]["/tts"]["post"]["responses"]["200"]
    assert answer["description"] == "ok"
    assert answer["content"] == {"audio/*": {}, "application/json": TIMED_FILE}
    assert document["paths"]["/readyz"] == {"get": {"responses": {"200": {}}}}
    assert document["components"]["schemas"]["TTSInput"] == {"a": 1}


def test_the_speech_route_of_openai_takes_its_body_and_answers_audio_or_events(
    document: dict[str, Any],
) -> None:
    operation = document["paths"]["/v1/audio/speech"]["post"]
    body = {"schema": {"$ref": "#/components/schemas/CreateSpeechBody"}}
    assert operation["requestBody"] == {"required": True, "content": {"application/json": body}}
    assert operation["responses"]["200"]["content"] == {
        "audio/*": {"schema": {"type": "string", "format": "binary"}},
        "application/json": TIMED_FILE,
        "text/event-stream": {"schema": {"type": "string"}},
    }
    assert operation["tags"] == ["OpenAI"]


@pytest.mark.parametrize(
    ("path", "tag"),
    [
        ("/health", "Infrastructure"),
        ("/v1/models", "OpenAI"),
        ("/v1/audio/models", "OpenAI"),
        ("/v1/audio/voices", "OpenAI"),
    ],
)
def test_what_is_only_read_may_not_be_ready(path: str, tag: str, document: dict[str, Any]) -> None:
    operation = document["paths"][path]["get"]
    assert operation["tags"] == [tag]
    assert operation["description"]
    assert list(operation["responses"]) == ["200", "503"]


def test_the_page_shows_this_document_and_loads_only_from_here() -> None:
    assert 'SwaggerUIBundle({url: "./docs.json", dom_id: "#swagger-ui"' in PAGE
    assert '<div id="swagger-ui">' in PAGE
    assert 'src="./static_content/swagger-ui-bundle.js"' in PAGE
    assert 'href="./static_content/swagger-ui.css"' in PAGE
    assert "http" not in PAGE


def test_rules_of_several_fields_are_in_the_schema(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["CreateSpeechBody"]
    assert [rule["required"] for rule in schema["oneOf"]] == [["input"], ["tokens"]]
    for rule, other in zip(schema["oneOf"], ("tokens", "input"), strict=True):
        assert rule["properties"][other] == {"type": "null"}
    assert [rule["if"]["required"] for rule in schema["allOf"]] == [["ref_text"], ["timestamps"]]
    fields = schema["properties"]
    assert {"auto", "russian", "ru"} < set(fields["language"]["anyOf"][0]["enum"])
    (tokens, _) = fields["tokens"]["anyOf"]
    assert (tokens["items"]["minimum"], tokens["items"]["maximum"]) == (0, 2**20 - 1)
    assert (fields["speed"]["minimum"], fields["speed"]["maximum"]) == (0.25, 4)


def test_every_language_that_the_document_lists_is_taken() -> None:
    for name in LANGUAGE_NAMES:
        assert parse_language(name) is not None or name == "auto"
