"""Which format supports which sample rate, and the error for others."""

import sys

import numpy as np
import pytest

from qwen_tts_service.audio.formats import (
    FORMATS,
    available_formats,
    check_format,
    content_type,
    file_extension,
    make_encoder,
    rate_of,
)
from qwen_tts_service.errors import InvalidRequest

EVERYTHING = ("wav", "pcm", "mp3", "ogg", "opus", "flac", "aac", "mulaw", "alaw")
WITHOUT_OPUS = ("wav", "pcm", "mp3", "flac", "aac", "mulaw", "alaw")
ANY_RATE = ("wav", "pcm", "flac", "mulaw", "alaw")


@pytest.mark.parametrize(
    ("sample_rate_hz", "formats"),
    [
        pytest.param(24000, EVERYTHING, id="24 kHz"),
        pytest.param(48000, EVERYTHING, id="48 kHz"),
        pytest.param(8000, EVERYTHING, id="8 kHz"),
        pytest.param(22050, WITHOUT_OPUS, id="22.05 kHz"),
        pytest.param(44100, WITHOUT_OPUS, id="44.1 kHz"),
        pytest.param(11025, WITHOUT_OPUS, id="11.025 kHz"),
        pytest.param(12000, EVERYTHING, id="12 kHz"),
        pytest.param(16000, EVERYTHING, id="16 kHz"),
        pytest.param(32000, WITHOUT_OPUS, id="32 kHz"),
        pytest.param(12345, ANY_RATE, id="an odd rate"),
        pytest.param(96000, ANY_RATE, id="96 kHz"),
    ],
)
def test_table_lists_which_formats_take_a_rate(sample_rate_hz, formats):
    assert available_formats(sample_rate_hz) == formats
    for name in formats:
        check_format(name, sample_rate_hz)
    for name in set(FORMATS) - set(formats):
        with pytest.raises(InvalidRequest):
            check_format(name, sample_rate_hz)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_rate_on_offer_can_be_written(name, is_stream):
    rates_hz = FORMATS[name].rates_hz or (8000, 12345, 96000)
    for sample_rate_hz in rates_hz:
        encoder = make_encoder(name, sample_rate_hz, is_stream=is_stream)
        assert encoder.encode(np.zeros(sample_rate_hz // 4, np.int16)) + encoder.finish()


def test_refused_rate_names_the_rates_and_the_other_formats():
    with pytest.raises(InvalidRequest) as caught:
        check_format("opus", 22050)
    assert (caught.value.param, caught.value.code) == ("format", "unsupported_format")
    assert caught.value.message == (
        "format: opus does not support 22050 Hz, only 8000, 12000, 16000, 24000, 48000 Hz; "
        "available at 22050 Hz: wav, pcm, mp3, flac, aac, mulaw, alaw"
    )


@pytest.mark.parametrize(
    ("format", "asked_hz", "sent_hz"),
    [
        pytest.param("wav", None, 24000, id="the server's"),
        pytest.param("wav", 12345, 12345, id="any in wav"),
        pytest.param("opus", 8000, 8000, id="one that the format carries"),
        pytest.param("mulaw", None, 8000, id="the telephone's"),
        pytest.param("alaw", 16000, 16000, id="another of the telephone"),
    ],
)
def test_a_rate_is_the_one_asked_for_or_the_formats_or_the_servers(format, asked_hz, sent_hz):
    assert rate_of(format, asked_hz, 24000) == sent_hz


def test_a_rate_that_was_asked_for_and_is_not_carried_names_those_that_are():
    with pytest.raises(InvalidRequest) as caught:
        rate_of("opus", 22050, 24000)
    assert (caught.value.param, caught.value.code) == ("sample_rate", "unsupported_format")
    assert caught.value.message == (
        "sample_rate: opus carries 8000, 12000, 16000, 24000, 48000 Hz; got 22050"
    )
    with pytest.raises(InvalidRequest) as caught:
        rate_of("opus", None, 22050)
    assert caught.value.param == "format"


def test_unknown_format_is_refused_without_repeating_it():
    with pytest.raises(InvalidRequest) as caught:
        check_format("marker", 24000)
    assert caught.value.param == "format"
    assert "marker" not in caught.value.message
    assert "wav, pcm, mp3" in caught.value.message


def test_aac_without_pyav_is_refused_and_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidRequest, match="scripts/setup aac") as caught:
        check_format("aac", 24000)
    assert (caught.value.param, caught.value.code) == ("format", "unsupported_format")
    assert "aac" not in available_formats(24000)
    for other in available_formats(24000):
        check_format(other, 24000)  # needs nothing more


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
        ("mulaw", ("audio/PCMU; rate=16000; channels=1", "mulaw")),
        ("alaw", ("audio/PCMA; rate=16000; channels=1", "alaw")),
    ],
)
def test_format_has_its_content_type_and_file_ending(name, expected):
    assert (content_type(name, 16000), file_extension(name)) == expected
