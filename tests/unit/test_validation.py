"""Error messages for invalid requests: the field as sent, what may be meant, what is allowed."""

import json
from typing import Any

import pytest

from qwen_tts_service.api.openai import CreateSpeechBody
from qwen_tts_service.api.tickets import parse_body
from qwen_tts_service.api.websocket.connection import SessionConfig
from qwen_tts_service.api.wire import StreamTTSBody, TTSBody
from qwen_tts_service.errors import InvalidRequest, printable, shown
from qwen_tts_service.fields import SpeechBody

MARKER = "Zwetschge"


def refusal(schema: type[SpeechBody] = TTSBody, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(json.dumps(fields).encode(), schema)
    return caught.value


# Unknown fields ------------------------------------------------------------------------

MEANT = {
    "text": "input Input prompt content message messages sentence string script txt tetx Text TEXT "
    "texts ssml текст gen_text",
    "speaker": "voice voice_id voiceId VOICE-ID speaker_id speakerId spk narrator spaeker Speaker",
    "format": "response_format responseFormat output_format audio_format codec fromat formats",
    "language": "lang lang_code language_code locale lenguage languge язык",
    "instruct": "instructions instruction style_prompt system_prompt voice_description instuct",
    "ref_audio": "speaker_wav reference_audio audio_sample refaudio",
    "ref_text": "reference_text",
    "max_length": "max_tokens max_new_tokens maxTokens max_frames maxLength max-length max_lenght",
    "seed": "random_seed sede SEED",
    "speed": "rate speaking_rate tempo speeds sped",
    "temperature": "temp temprature temperatur",
    "top_p": "topP tpo_p",
    "top_k": "topk",
    "sample_rate": "sampling_rate sr sampleRate",
    "repetition_penalty": "rep_penalty repetition_penality",
    "normalize": "normalise text_normalization normalization normalisze",
    "tokens": "token token_ids input_ids",
    "voice_attributes": "attributes voice_settings voice_atributes",
    "voice_attributes.gender": "gender sex Gender gendre пол voice_attributes.gender",
    "voice_attributes.age": "age voice_age возраст",
    "voice_attributes.emotion": "emotion emotions mood style emotoin эмоция",
}
NOTED = {
    "2 takes half as long": "length_scale duration_factor wpm",
    "frames of 80 ms": "max_duration duration",
    "SSML": "pitch",
    "volume control": "volume",
    "One model": "model model_id",
    "/stream-tts streams": "stream streaming",
    "Server-sent events": "stream_format",
    "mono": "channels",
    "format decides": "bitrate quality",
    "Voices are cloned": "speaker_embedding x_vector_only_mode",
    "Authorization": "api_key",
}
UNLIKE = [
    "zzz",
    "test",
    "send",
    "need",
    "page",
    "x",
    "foo",
    "user",
    "n",
    "metadata",
    "temporal",
    "stage",
    "名",
    "_",
    "0",
]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(
            (name, f"Did you mean {path}?")
            for path, names in MEANT.items()
            for name in names.split()
        ),
        *((name, words) for words, names in NOTED.items() for name in names.split()),
    ],
)
def test_an_unknown_field_is_named_with_what_is_meant(name: str, words: str) -> None:
    error = refusal(StreamTTSBody, **{name: MARKER})
    assert (error.code, error.param) == ("unknown_field", name)
    assert error.message.startswith(f'unknown field "{name}". ')
    assert words in error.message
    assert MARKER not in error.message


@pytest.mark.parametrize("name", UNLIKE)
def test_a_name_like_no_other_gets_no_hint_but_the_names_there_are(name: str) -> None:
    error = refusal(**{name: 1})
    assert error.param == name
    known = "Known: format, input_type, instruct, "
    assert error.message.startswith(f'unknown field "{name}". {known}')


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gendre", "Did you mean voice_attributes.gender?"),
        ("sex", "Did you mean voice_attributes.gender?"),
        ("emotions", "Did you mean voice_attributes.emotion?"),
        ("AGE", "Did you mean voice_attributes.age?"),
        ("speaker", "Did you mean speaker, outside voice_attributes?"),
        ("lang", "Did you mean language, outside voice_attributes?"),
        ("pitch", "Only SSML has a pitch"),
        ("zzz", "voice_attributes. Known in voice_attributes: age, emotion, gender"),
    ],
)
def test_a_field_of_a_field_is_named_with_its_path(name: str, words: str) -> None:
    error = refusal(text="a", voice_attributes={name: MARKER})
    assert error.param == f"voice_attributes.{name}"
    assert words in error.message


@pytest.mark.timeout(20)  # for a name that is compared with every field's, letter by letter
@pytest.mark.parametrize(
    ("sent", "named"),
    [
        pytest.param("a" * 5_000_000, "a" * 39 + "…", id="long"),
        ("a\n\u202e\u0000b", "a\ufffd\ufffd\ufffdb"),
        ("", ""),
        ("имя", "имя"),
    ],
)
def test_a_strange_name_is_shown_short_and_printable(sent: str, named: str) -> None:
    error = refusal(**{sent: 1})
    assert error.param == named
    assert error.message.startswith(f'unknown field "{named}"')


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("text", "input"),
        ("speaker", "voice"),
        ("format", "response_format"),
        ("instruct", "instructions"),
    ],
)
def test_our_names_are_answered_with_openais_on_its_route(name: str, meant: str) -> None:
    text = {} if name == "text" else {"input": "a"}
    error = refusal(CreateSpeechBody, **{name: MARKER}, **text)
    assert (error.code, error.param) == ("unknown_field", name)
    assert f"Did you mean {meant}?" in error.message
    body = parse_body(json.dumps({name: "wav", "type": "x"}).encode(), SessionConfig)
    assert body.model_fields_set == {name, "type"}


@pytest.mark.parametrize("name", ["prompt", "message", "inptu", "Input"])
def test_a_text_under_another_name_is_not_ignored_on_openais_route(name: str) -> None:
    assert "Did you mean input?" in refusal(CreateSpeechBody, **{name: "a"}).message
    assert parse_body(json.dumps({name: "a", "input": "b"}).encode(), CreateSpeechBody)


@pytest.mark.timeout(20)  # each name compared with every field's would take minutes
def test_a_body_of_many_unknown_fields_is_judged() -> None:
    many = dict.fromkeys(map("prompx{}".format, range(200_000)))
    assert refusal(**many).param == "prompx0"
    assert parse_body(json.dumps(many).encode(), CreateSpeechBody).model_fields_set == set()


# Values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"format": MARKER},
            f'format: must be wav, pcm, mp3, ogg, opus, flac, aac, mulaw or alaw; got "{MARKER}"',
        ),
        (
            {"format": 5},
            "format: must be wav, pcm, mp3, ogg, opus, flac, aac, mulaw or alaw; got 5",
        ),
        ({"normalize": "x" * 99}, '; got "' + "x" * 39 + '…"'),
        ({"voice_attributes": {"gender": "?"}}, 'gender: must be male, female or neutral; got "?"'),
        ({"voice_attributes": {"gender": [MARKER]}}, "male, female or neutral; got a list"),
        ({"voice_attributes": MARKER}, "voice_attributes: must be an object; got a string"),
        ({"voice_attributes": {"age": "30"}}, "age: must be a whole number; got a string"),
        ({"voice_attributes": {"age": 0}}, "voice_attributes.age: must be at least 1; got 0"),
        ({"voice_attributes": {"age": 121}}, "voice_attributes.age: must be at most 120; got 121"),
        ({"voice_attributes": {"emotion": True}}, "emotion: must be a string; got true"),
        ({"voice_attributes": {"emotion": ""}}, "emotion: must have at least 1 characters; got 0"),
        ({"temperature": "hot"}, "temperature: must be a number; got a string"),
        ({"temperature": 2.5}, "temperature: must be at most 2; got 2.5"),
        ({"temperature": False}, "temperature: must be a number; got false"),
        ({"top_p": 0}, "top_p: must be more than 0; got 0"),
        ({"top_k": 1.5}, "top_k: must be a whole number; got 1.5"),
        ({"seed": 10**60}, "seed: must be at most 4294967295; got a number"),
        ({"seed": -1}, "seed: must be at least 0; got -1"),
        ({"text": 5}, "text: must be a string; got 5"),
        ({"text": [MARKER]}, "text: must be a string; got a list"),
        ({"text": {"a": MARKER}}, "text: must be a string; got an object"),
        ({"tokens": []}, "tokens: must have at least 1 entries; got 0"),
        ({"tokens": [MARKER]}, "tokens: must be a whole number; got a string"),
        ({"speaker": MARKER * 9}, "speaker: must have at most 64 characters; got 81"),
        ({"language": 7}, "language: must be a string; got 7"),
    ],
)
def test_an_invalid_value_is_an_error_with_what_is_allowed_and_what_was_sent(
    fields: dict[str, Any], message: str
) -> None:
    error = refusal(**{"text": "a", **fields})
    assert message in error.message
    assert error.message.startswith(f"{error.param}: ")
    if fields.get("format") != MARKER:
        assert MARKER not in error.message


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="must be a finite number; got a number"):
        parse_body(b'{"temperature": NaN}', TTSBody)


@pytest.mark.parametrize(
    ("sent", "kind"), [("[]", "a list"), ('"a"', "a string"), ("5", "a number"), ("null", "null")]
)
def test_a_body_that_is_no_object_is_an_error_that_names_its_type(sent: str, kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"must be a JSON object; got {kind}$"):
        parse_body(sent.encode(), TTSBody)


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (TTSBody, {"format": "WAV"}),
        (TTSBody, {"format": " Mp3\n"}),
        (TTSBody, {"normalize": "Light"}),
        (StreamTTSBody, {"normalize": "NONE "}),
        (CreateSpeechBody, {"stream_format": "SSE"}),
        (CreateSpeechBody, {"response_format": " Opus "}),
        (SessionConfig, {"format": "PCM"}),
        (SessionConfig, {"response_format": "Wav"}),
        (SessionConfig, {"split": "Sentence"}),
    ],
)
def test_a_listed_value_is_taken_in_any_case_and_with_blanks(
    schema: type[SpeechBody], fields: dict[str, str]
) -> None:
    body = parse_body(json.dumps(fields).encode(), schema)
    ((_, sent),) = fields.items()
    assert sent.strip().lower() in body.model_dump().values()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\tb", '"a\ufffdb"'),
        (5, "5"),
        (1.5, "1.5"),
        pytest.param(10**5000, "a number", id="huge"),
        (True, "true"),
        (None, "null"),
        ([1], "a list"),
        ({}, "an object"),
    ],
)
def test_a_value_is_shown_short_or_by_its_kind(value: object, text: str) -> None:
    assert shown(value) == text


def test_forty_characters_are_shown_whole() -> None:
    assert printable("é" * 40) == "é" * 40
    assert printable("é" * 41) == "é" * 39 + "…"


# Encodings -----------------------------------------------------------------------------

BODY = json.dumps({"text": f"Привет, {MARKER}, größer"}, ensure_ascii=False)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1251", "latin-1"]
)
def test_another_encoding_than_utf8_is_an_error_that_asks_for_utf8(encoding: str) -> None:
    text = BODY.replace("Привет", "Hé") if encoding == "latin-1" else BODY.replace("ößer", "oss")
    with pytest.raises(InvalidRequest, match="not UTF-8; encode it as UTF-8") as caught:
        parse_body(text.encode(encoding), TTSBody)
    assert caught.value.code == "invalid_json"
    assert MARKER not in caught.value.message


def test_the_mark_of_utf8_is_taken() -> None:
    assert parse_body(BODY.encode("utf-8-sig"), TTSBody).text == json.loads(BODY)["text"]


def test_truncated_json_is_an_error_with_the_position() -> None:
    with pytest.raises(InvalidRequest, match=r"not valid JSON: .* at line 1 column \d+") as caught:
        parse_body(BODY.encode()[:-3], TTSBody)
    assert MARKER not in caught.value.message
