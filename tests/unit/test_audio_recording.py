"""Recordings to clone from: what is read, and what is refused with a reason."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qwen_tts_service.audio.recording import REFERENCE_RATE_HZ, read_recording
from qwen_tts_service.errors import InvalidRequest

REFERENCES = Path(__file__).parent.parent / "data" / "voices" / "references"


def tone(seconds=2.0, rate_hz=24000, channels=1, peak=0.5):
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    return peak * np.stack([np.sin(2 * np.pi * 220 * times)] * channels, axis=1)


def file_of(samples, rate_hz=24000, format="WAV", subtype=None):
    file = BytesIO()
    soundfile.write(file, samples, rate_hz, format=format, subtype=subtype)
    return file.getvalue()


def refusal_of(data):
    with pytest.raises(InvalidRequest) as refused:
        read_recording(data)
    assert (refused.value.code, refused.value.param) == ("invalid_recording", "ref_audio")
    return refused.value.message


def test_a_recording_of_the_models_rate_is_left_as_it_is():
    file = REFERENCES / "ref_a.flac"
    recording = read_recording(file.read_bytes())
    samples, rate_hz = soundfile.read(file, dtype="float32")
    assert rate_hz == REFERENCE_RATE_HZ
    assert np.array_equal(recording.samples, samples)
    assert (recording.kind, recording.warning) == ("flac", None)
    assert recording.duration_s == pytest.approx(len(samples) / 24000)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_every_common_format_is_read(format):
    recording = read_recording(file_of(tone(), format=format))
    assert recording.kind == format.lower()
    assert np.abs(recording.samples).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("rate_hz", [8000, 44100, 192000])
def test_other_rates_are_resampled(rate_hz):
    recording = read_recording(file_of(tone(rate_hz=rate_hz), rate_hz))
    assert len(recording.samples) == pytest.approx(2 * REFERENCE_RATE_HZ, abs=2)
    assert recording.samples.dtype == np.float32
    middle = slice(4800, -4800)
    assert recording.samples[middle] == pytest.approx(tone()[middle, 0], abs=1e-2)


def test_channels_are_mixed_down():
    channels = tone(channels=2) * [1.0, 0.5]
    recording = read_recording(file_of(channels, subtype="FLOAT"))
    assert recording.samples == pytest.approx(channels.mean(axis=1), abs=1e-6)


def test_the_tail_is_half_a_second_of_silence():
    recording = read_recording(file_of(tone()))
    tailed = recording.with_tail()
    assert np.array_equal(tailed[: len(recording.samples)], recording.samples)
    assert not tailed[len(recording.samples) :].any()
    assert len(tailed) - len(recording.samples) == REFERENCE_RATE_HZ // 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not audio"),
        (b"<html>no</html>" * 100, "not audio"),
        (file_of(tone(0.9)), "shorter than 1 s"),
        (file_of(tone(30.1, 8000), 8000), "longer than 30 s"),
        (file_of(tone() * 0), "silent"),
        (file_of(tone() * 1e-3), "silent"),
        (file_of(tone() * 30000, subtype="FLOAT"), "scale them"),
        (file_of(np.full(48000, np.nan), subtype="FLOAT"), "no numbers"),
        (file_of(np.full(48000, np.inf), subtype="FLOAT"), "no numbers"),
        (file_of(tone(rate_hz=4000), 4000), "4000 samples a second"),
        (file_of(tone(rate_hz=384000), 384000), "384000 samples a second"),
        (file_of(tone(channels=9)), "9 channels"),
    ],
)
def test_what_cannot_be_cloned_is_refused_with_the_reason(data, why):
    assert why in refusal_of(data)


def test_the_shortest_and_the_longest_are_taken():
    for seconds in (1, 30):
        assert read_recording(file_of(tone(seconds))).duration_s == seconds


def test_a_clipped_recording_is_taken_with_a_warning():
    recording = read_recording(file_of(np.clip(tone(peak=3), -1, 1)))
    assert recording.warning == "the recording is clipped: record it less loud"


def test_a_file_cut_short_is_refused():
    whole = file_of(tone(), format="FLAC")
    for size in range(0, len(whole) // 2, 997):
        refusal_of(whole[:size])
