"""Recordings inside a request: data URLs and base64 that are read, and what is refused."""

import base64

import pytest

from qwen_tts_service.api.inline_voice import decoded
from qwen_tts_service.errors import BodyTooLarge, InvalidRequest

DATA = bytes(range(256))
BARE = base64.b64encode(DATA).decode()
WRAPPED = base64.encodebytes(DATA).decode()


@pytest.mark.parametrize(
    "recording",
    [
        BARE,
        f"  {WRAPPED}",
        f"data:audio/wav;base64,{BARE}",
        f"data:audio/wav;base64,\r\n{WRAPPED}",
        f"DATA:audio/wav;charset=utf-8;BASE64,{BARE}",
        f"data:;base64,{BARE}",
    ],
)
def test_a_data_url_or_base64_is_read(recording: str) -> None:
    assert decoded(recording, len(DATA)) == DATA


@pytest.mark.parametrize(
    ("recording", "said"),
    [
        ("данные", "not valid base64"),
        ("data:audio/wav;base64,данные", "not valid base64"),
        (BARE[:-3], "not valid base64"),
        (BARE.replace("+", "-"), "not valid base64"),
        (f"data:audio/wav;base64,{BARE.replace('+', '%2B')}", "not valid base64"),
        ("data:audio/wav,RIFF", "never fetched"),
        (f"data:audio/wav;{'x' * 300};base64,{BARE}", "never fetched"),
        ("javascript:alert(1)", "never fetched"),
        ("file:///etc/passwd", "never fetched"),
        ("/etc/passwd", "not valid base64"),
    ],
)
def test_anything_else_is_refused(recording: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        decoded(recording, len(DATA))
    assert refused.value.param == "ref_audio"


def test_a_recording_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(BodyTooLarge, match="MAX_VOICE_BYTES"):
        decoded(BARE, len(DATA) - 1)
