"""The request schema: range and default of each field, and that each one is passed on."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qwen_tts_service.api.openai import CreateSpeechBody
from qwen_tts_service.api.tickets import parse_body
from qwen_tts_service.api.websocket.connection import SessionConfig
from qwen_tts_service.api.wire import StreamTTSBody, TTSBody
from qwen_tts_service.audio.formats import FORMATS
from qwen_tts_service.errors import InvalidRequest, UnknownModel
from qwen_tts_service.fields import MAX_SEED, SpeechBody, VoiceAttributesBody
from qwen_tts_service.settings import Settings, load_settings
from qwen_tts_service.types import SamplingOptions, SpeechRequest, VoiceAttributes
from qwen_tts_service.voice import genders

SETTINGS = load_settings({"MAX_TEXT_CHARS": "10", "MODEL_NAME": "fake"})


def request_of(body: SpeechBody, settings: Settings = SETTINGS) -> SpeechRequest:
    return body.to_request("request-1", settings)


@pytest.mark.parametrize("schema", [TTSBody, StreamTTSBody, CreateSpeechBody, VoiceAttributesBody])
def test_every_field_has_a_description(schema: Any) -> None:
    assert [name for name, field in schema.model_fields.items() if not field.description] == []


def test_every_field_is_passed_on() -> None:
    attributes = {"gender": "female", "age": 70, "emotion": "sad"}
    body = SpeechBody(
        text="one",
        temperature=0.5,
        voice_attributes=attributes,
        speaker="zoya",
        language="RU",
        instruct="whisper",
        seed=0,
        top_k=7,
        top_p=0.25,
        repetition_penalty=1.5,
        normalize="full",
        pronunciations={"GPU": "gee", "a b": "c"},
        on_unspeakable="silence",
        format="mp3",
        max_length=9,
    )
    assert request_of(body) == SpeechRequest(
        request_id="request-1",
        seed=0,
        text="one",
        tokens=None,
        attributes=VoiceAttributes(**attributes),
        speaker="zoya",
        language="russian",
        instruct="whisper",
        sampling=SamplingOptions(temperature=0.5, top_k=7, top_p=0.25, repetition_penalty=1.5),
        normalize="full",
        pronunciations=(("GPU", "gee"), ("a b", "c")),
        on_unspeakable="silence",
        max_frames=9,
    )


@pytest.mark.parametrize(
    ("schema", "format", "max_frames"),
    [(SpeechBody, "wav", 4096), (TTSBody, "wav", 4096), (StreamTTSBody, "wav", 1000)],
)
def test_what_is_not_given_has_its_default(
    schema: type[SpeechBody], format: str, max_frames: int
) -> None:
    body = schema(tokens=[1, 0])
    assert body.format == format
    assert request_of(body.model_copy(update={"seed": 3})) == SpeechRequest(
        request_id="request-1", seed=3, tokens=(1, 0), max_frames=max_frames
    )


def test_the_defaults_of_a_request_are_those_of_its_fields() -> None:
    sampling = SamplingOptions()
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 50, 1.0)
    assert sampling.repetition_penalty == 1.05
    body = SpeechBody()
    assert (body.temperature, body.top_k, body.top_p, body.repetition_penalty) == (0.7, 50, 1, 1.05)
    assert (body.normalize, body.seed) == ("auto", None)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_runaway_may_be_spoken_again_only_if_no_seed_was_given(seed: int) -> None:
    settings = load_settings({})
    assert SpeechBody(text="a").to_request("r", settings).is_seed_drawn
    assert not SpeechBody(text="a", seed=seed).to_request("r", settings).is_seed_drawn


def test_a_seed_that_is_absent_is_drawn_from_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("qwen_tts_service.fields.secrets.randbelow", lambda n: asked.append(n) or 5)
    assert request_of(SpeechBody(text="a")).seed == 5
    assert asked == [2**32]
    assert MAX_SEED == 2**32 - 1


@pytest.mark.parametrize("value", ["", "a" * 65])
def test_an_emotion_has_1_to_64_characters(value: str) -> None:
    assert VoiceAttributesBody(emotion="a" * 64).emotion == "a" * 64
    with pytest.raises(ValidationError):
        VoiceAttributesBody(emotion=value)


@pytest.mark.parametrize(
    ("gender", "words"),
    [
        (
            "female",
            "Female| female |FEMALE|F|woman|girl|lady|женский|Жен.|ЖЕНЩИНА|девушка|ж|女|女性",
        ),
        (
            "female",
            "여성|여자|weiblich|Frau|Mädchen|féminin|femme|feminino|mulher|mujer|Femenino|donna",
        ),
        ("male", "MALE|m|man|boy|guy|мужской|муж|мужчина|м|男|男声|男性|남성|männlich|Mann|homme"),
        ("male", "masculin|masculino|hombre|homem|uomo|maschile|Ｍａｌｅ"),
        ("neutral", "Neutral|any|нейтральный|любой|中性|중성|neutre|neutro"),
    ],
)
def test_a_gender_is_taken_by_its_words_in_ten_languages(gender: str, words: str) -> None:
    for word in words.split("|"):
        assert VoiceAttributesBody(gender=word).gender == gender, word


@pytest.mark.parametrize("word", ["", "?", "femalemale", "cat", "женщины и мужчины"])
def test_a_word_for_no_gender_is_refused(word: str) -> None:
    with pytest.raises(ValidationError):
        VoiceAttributesBody(gender=word)


def test_no_word_means_two_genders() -> None:
    table = Path(genders.__file__).with_suffix(".toml").read_text("utf-8")
    words = [w.strip() for row in tomllib.loads(table).values() for w in row.split(",")]
    assert len(words) > 150
    assert [w for w in words if words.count(w) > 1] == []


def test_the_schema_lists_the_values_themselves() -> None:
    schema = TTSBody.model_json_schema()
    assert schema["properties"]["format"]["enum"][0] == "wav"
    gender = schema["$defs"]["VoiceAttributesBody"]["properties"]["gender"]
    assert gender["anyOf"][0]["enum"] == ["male", "female", "neutral"]


@pytest.mark.parametrize(("age", "is_valid"), [(0, False), (1, True), (120, True), (121, False)])
def test_an_age_is_1_to_120(age: int, is_valid: bool) -> None:
    check(VoiceAttributesBody, "age", age, is_valid)


def check(schema: Any, field: str, value: Any, is_valid: bool) -> None:
    if is_valid:
        assert getattr(schema(**{field: value}), field) == value
        return
    with pytest.raises(ValidationError) as caught:
        schema(**{field: value})
    assert caught.value.errors()[0]["loc"][0] == field
    assert "Zwetschge" not in str(caught.value)


@pytest.mark.parametrize("schema", [TTSBody, StreamTTSBody])
@pytest.mark.parametrize(
    ("field", "valid", "broken"),
    [
        ("temperature", [0, 2], [-0.001, 2.001, float("nan"), "1"]),
        ("top_k", [0, 2048], [-1, 2049, 1.5]),
        ("top_p", [0.001, 1], [0, 1.001]),
        ("repetition_penalty", [1, 2], [0.999, 2.001]),
        ("seed", [0, 2**32 - 1], [-1, 2**32, "1"]),
        ("max_length", [1, 4096], [0, 4097]),
        ("speaker", ["a", "a" * 64], ["", "a" * 65]),
        ("language", ["a", "a" * 32], ["", "a" * 33]),
        ("instruct", ["a", "a" * 500], ["", "a" * 501]),
        ("tokens", [[0]], [[], [-1]]),
        ("normalize", ["auto", "none", "light", "full"], ["Zwetschge"]),
        ("format", list(FORMATS), ["Zwetschge"]),
        ("split", ["auto", "never"], ["Zwetschge", "sentence"]),
        ("lead_in_ms", [0, 2000], [-1, 2001, 0.5]),
        ("tail_ms", [0, 2000], [-1, 2001, 0.5]),
        ("sample_rate", [8000, 48000, None], [7999, 48001, 8000.0, "8000"]),
    ],
)
def test_a_field_takes_its_whole_range_and_nothing_beside_it(
    schema: type[SpeechBody], field: str, valid: list[Any], broken: list[Any]
) -> None:
    for value in valid:
        check(schema, field, value, True)
    for value in broken:
        check(schema, field, value, False)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "text", "exactly one of text and tokens"),
        ({"text": "a", "tokens": [1]}, "text", "exactly one of text and tokens"),
        ({"text": ""}, "text", "text is empty"),
        ({"text": " \n\u3000"}, "text", "text is empty"),
        (
            {"text": "a" * 11},
            "text",
            r"text has 11 characters; at most 10 are allowed \(MAX_TEXT_CHARS\)",
        ),
        (
            {"tokens": [1] * 11},
            "tokens",
            r"tokens has 11 ids; at most 10 are allowed \(MAX_TEXT_CHARS\)",
        ),
        ({"text": "a", "language": "Zwetschge"}, "language", 'language "Zwetschge" is not one of'),
    ],
)
def test_what_cannot_be_spoken_names_its_field(
    fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        request_of(SpeechBody(**fields))
    assert caught.value.param == param


def test_as_much_as_the_setting_allows_is_taken() -> None:
    assert request_of(SpeechBody(text="a" * 10)).text == "a" * 10
    assert request_of(SpeechBody(tokens=[2] * 10)).tokens == (2,) * 10


# OpenAI's body -----------------------------------------------------------------------


def openai_body(**fields: Any) -> CreateSpeechBody:
    return CreateSpeechBody.model_validate({"input": "one", **fields})


def test_openais_names_mean_our_fields() -> None:
    body = openai_body(
        voice="zoya", instructions="i" * 4096, response_format="opus", stream_format="sse", x=1
    )
    request = request_of(body)
    assert (request.text, request.speaker, request.instruct) == ("one", "zoya", "i" * 4096)
    assert (body.format, body.stream_format) == ("opus", "sse")
    assert request.max_frames == 4096


def test_openais_defaults_are_mp3_as_it_is_made() -> None:
    body = openai_body(voice=None, speed=None, response_format=None, model=None)
    assert (body.format, body.stream_format, body.speed) == ("mp3", "audio", 1.0)
    assert request_of(body).speaker is None


@pytest.mark.parametrize(
    ("voice", "speaker"),
    [("auto", None), ({"id": "auto"}, None), ({"id": "zoya"}, "zoya"), ("a" * 64, "a" * 64)],
)
def test_a_voice_is_a_name_or_an_object_and_auto_leaves_the_choice(
    voice: Any, speaker: str | None
) -> None:
    assert request_of(openai_body(voice=voice)).speaker == speaker


@pytest.mark.parametrize(
    "fields",
    [
        {"voice": ""},
        {"voice": "a" * 65},
        {"voice": {"name": "zoya"}},
        {"instructions": "i" * 4097},
        {"stream_format": "Zwetschge"},
    ],
)
def test_what_openais_fields_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        openai_body(**fields)
    assert caught.value.errors()[0]["loc"][0] == next(iter(fields))


@pytest.mark.parametrize(
    ("speed", "rate"), [(0.25, 0.5), (0.49, 0.5), (0.5, 0.5), (1, 1), (1.7, 1.7), (2.5, 2), (4, 2)]
)
def test_openais_speeds_are_bounded_with_a_warning(speed: float, rate: float) -> None:
    body = openai_body(speed=speed)
    assert request_of(body).rate == rate
    assert body.warning == (None if rate == speed else f"speed is {rate:g}, its bound")


@pytest.mark.parametrize("speed", [0.24, 4.01])
def test_speeds_that_openai_does_not_have_are_refused(speed: float) -> None:
    with pytest.raises(ValidationError):
        openai_body(speed=speed)


@pytest.mark.parametrize(
    "model", ["fake", "tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"]
)
def test_the_loaded_model_answers_to_openais_names(model: str) -> None:
    assert request_of(openai_body(model=model)).text == "one"


@pytest.mark.parametrize("model", [" FAKE", "TTS-1 "])
def test_a_model_is_named_in_any_case(model: str) -> None:
    assert request_of(openai_body(model=model)).text == "one"


def test_another_model_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownModel, match=r"must be fake, .* tts-1, tts-1-hd") as caught:
        request_of(openai_body(model="tts-2"))
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"": "x"}, 'the word is empty (entry "")'),
        ({"ok": "x", " \n": "x"}, 'the word is empty (entry " \ufffd")'),
        ({"w" * 65: "x"}, f'the word has 65 characters; at most 64 (entry "{"w" * 39}…")'),
        ({"GPU": " "}, 'the reading is empty (entry "GPU")'),
        ({"GPU": "r" * 201}, 'the reading has 201 characters; at most 200 (entry "GPU")'),
        ({"GPU": 5}, 'word and reading must be strings (entry "GPU")'),
    ],
)
def test_a_wrong_pronunciation_is_named(entries: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(json.dumps({"text": "a", "pronunciations": entries}).encode(), SpeechBody)
    assert caught.value.param == "pronunciations"
    assert caught.value.message == f"pronunciations: {why}"


def test_100_pronunciations_are_the_most() -> None:
    entries = {f"w{number}": "x" for number in range(101)}
    with pytest.raises(ValidationError):
        SpeechBody(text="a", pronunciations=entries)
    entries.pop("w0")
    assert len(request_of(SpeechBody(text="a", pronunciations=entries)).pronunciations) == 100


def test_openai_and_the_websocket_are_silent_about_what_cannot_be_spoken() -> None:
    bodies = (TTSBody, StreamTTSBody, CreateSpeechBody, SessionConfig)
    assert [schema.model_fields["on_unspeakable"].default for schema in bodies] == [
        *("error", "error", "silence", "silence")
    ]
