"""The loudness meter: the same as FFmpeg's at every rate; silence and quiet parts are left out."""

import math

import numpy as np
import pytest
from tests.meter import loudness_and_peak

from qwen_tts_service.audio.loudness import integrated_lufs

RNG = np.random.default_rng(1)


def noise(rate_hz, kind):
    """Four seconds that swell and fade: white, or with most of it in the low tones."""
    white = RNG.normal(0, 0.1, 4 * rate_hz) * (1 + np.sin(np.arange(4 * rate_hz) / rate_hz * 2))
    if kind == "low":
        white = np.convolve(white, np.hanning(rate_hz // 300), "same") / 20
    return white.astype(np.float32)


@pytest.mark.parametrize("rate_hz", [8000, 22050, 24000, 48000])
@pytest.mark.parametrize("kind", ["white", "low"])
def test_it_measures_as_ffmpeg_does(rate_hz, kind):
    samples = noise(rate_hz, kind)
    expected, _ = loudness_and_peak(samples, rate_hz)
    assert integrated_lufs(samples, rate_hz) == pytest.approx(expected, abs=0.05)


def test_a_tone_of_997_hz_at_full_scale_has_the_loudness_of_the_standard():
    tone = np.sin(2 * np.pi * 997 * np.arange(5 * 48000) / 48000).astype(np.float32)
    assert integrated_lufs(tone, 48000) == pytest.approx(-3.01, abs=0.01)


def test_pauses_and_what_is_far_quieter_do_not_count():
    speech = noise(24000, "white")
    pause = np.zeros(10 * 24000, np.float32)
    louder = integrated_lufs(speech, 24000)
    assert integrated_lufs(np.concatenate([speech, pause]), 24000) == pytest.approx(louder, abs=0.3)
    hum = np.concatenate([speech, 0.02 * noise(24000, "white"), pause])
    assert integrated_lufs(hum, 24000) == pytest.approx(loudness_and_peak(hum, 24000)[0], abs=0.05)


@pytest.mark.parametrize("length", [0, 1, 9599, 48000])
def test_silence_and_what_is_too_short_have_no_loudness(length):
    samples = np.zeros(length, np.float32) if length == 48000 else np.ones(length, np.float32)
    assert integrated_lufs(samples, 24000) == -math.inf
