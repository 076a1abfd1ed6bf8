"""Which format takes which rate, and what a refusal says."""

import sys

import pytest

from qwen_tts_service.audio.formats import (
    FORMATS,
    available_formats,
    check_format,
    content_type,
    file_extension,
)
from qwen_tts_service.errors import InvalidRequest

EVERYTHING = ("wav", "pcm", "mp3", "ogg", "opus", "flac", "aac")


@pytest.mark.parametrize(
    ("sample_rate_hz", "formats"),
    [
        pytest.param(24000, EVERYTHING, id="24 kHz"),
        pytest.param(48000, EVERYTHING, id="48 kHz"),
        pytest.param(8000, EVERYTHING, id="8 kHz"),
        pytest.param(22050, ("wav", "pcm", "mp3", "flac", "aac"), id="22.05 kHz"),
        pytest.param(44100, ("wav", "pcm", "mp3", "flac", "aac"), id="44.1 kHz"),
        pytest.param(12345, ("wav", "pcm", "flac"), id="an odd rate"),
    ],
)
def test_table_says_which_formats_take_a_rate(sample_rate_hz, formats):
    assert available_formats(sample_rate_hz) == formats
    for name in formats:
        check_format(name, sample_rate_hz)
    for name in set(FORMATS) - set(formats):
        with pytest.raises(InvalidRequest):
            check_format(name, sample_rate_hz)


def test_refused_rate_names_the_rates_and_the_other_formats():
    with pytest.raises(InvalidRequest) as caught:
        check_format("opus", 22050)
    assert (caught.value.param, caught.value.code) == ("format", "unsupported_format")
    assert caught.value.message == (
        "format: opus cannot carry 22050 Hz, only 8000, 12000, 16000, 24000, 48000 Hz; "
        "allowed at 22050 Hz here: wav, pcm, mp3, flac, aac"
    )


def test_unknown_format_is_refused_without_repeating_it():
    with pytest.raises(InvalidRequest) as caught:
        check_format("marker", 24000)
    assert caught.value.param == "format"
    assert "marker" not in caught.value.message
    assert "wav, pcm, mp3" in caught.value.message


def test_aac_without_pyav_is_refused_and_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidRequest, match=r"qwen-tts-service\[aac\]") as caught:
        check_format("aac", 24000)
    assert (caught.value.param, caught.value.code) == ("format", "unsupported_format")
    assert "aac" not in available_formats(24000)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wav", ("audio/wav", "wav")),
        ("pcm", ("audio/pcm", "pcm")),
        ("mp3", ("audio/mpeg", "mp3")),
        ("ogg", ("audio/ogg; codecs=opus", "ogg")),
        ("opus", ("audio/ogg; codecs=opus", "opus")),
        ("flac", ("audio/flac", "flac")),
        ("aac", ("audio/aac", "aac")),
    ],
)
def test_format_has_its_content_type_and_file_ending(name, expected):
    assert (content_type(name), file_extension(name)) == expected
