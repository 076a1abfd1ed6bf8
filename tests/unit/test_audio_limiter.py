"""The limiter: no true peak above -1 dBTP, the same however the input is cut."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.meter import loudness_and_peak

from qwen_tts_service.audio.limiter import Limiter

RATE_HZ = 24000
SECONDS = np.arange(2 * RATE_HZ) / RATE_HZ


def voice_like():
    """Pulses with noise up to 8 kHz, that swell and fade."""
    pulses = np.zeros(len(SECONDS))
    pulses[:: RATE_HZ // 120] = 1.0
    sound = np.convolve(pulses, np.hanning(20), "same")
    sound += np.random.default_rng(2).normal(0, 0.1, len(SECONDS))
    sound *= 0.5 + 0.5 * np.sin(7 * SECONDS)
    low = soxr.resample(soxr.resample(sound, RATE_HZ, 16000), 16000, RATE_HZ)
    return low[: len(SECONDS)].astype(np.float32)


VOICE = voice_like()


def limited(samples, gain_db=0.0, sizes=(10**9,)):
    """Limit samples that were multiplied by a gain, cut into chunks of these sizes in turn."""
    limiter, parts, sizes = Limiter(), [], list(sizes)
    samples = samples * np.float32(10 ** (gain_db / 20))
    while len(samples):
        sizes.append(size := sizes.pop(0))
        parts.append(limiter.feed(samples[:size]))
        samples = samples[size:]
    return np.concatenate([*parts, limiter.finish()])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([-20.0, 0.0, 12.0]), st.lists(st.integers(1, 4000), min_size=1, max_size=5))
def test_the_samples_do_not_depend_on_the_chunks(gain_db, sizes):
    samples = VOICE[:RATE_HZ]
    whole = limited(samples, gain_db)
    assert len(whole) == len(samples)
    assert np.array_equal(limited(samples, gain_db, sizes), whole)


@pytest.mark.parametrize("gain_db", [0.0, 6.0, 20.0])
def test_no_true_peak_is_above_minus_1_dbtp(gain_db):
    samples = limited(VOICE, gain_db)
    assert np.abs(samples).max() <= 10 ** (-1 / 20)
    assert loudness_and_peak(samples, RATE_HZ)[1] <= -1.0
    for rate_hz in (8 * RATE_HZ, 44100, 22050):  # as it is resampled for sending
        assert np.abs(soxr.resample(samples, RATE_HZ, rate_hz)).max() <= 10 ** (-1 / 20)


def test_a_peak_between_two_samples_counts():
    tone = (1.2 * np.sin(2 * np.pi * 6000 * SECONDS + np.pi / 4)).astype(np.float32)
    assert np.abs(tone).max() < 0.86  # its samples miss the peaks of 1.2
    middle = limited(tone)[1000:-1000]
    assert np.abs(soxr.resample(middle, RATE_HZ, 8 * RATE_HZ))[2000:-2000].max() < 10 ** (-1 / 20)


@pytest.mark.parametrize("gain_db", [-6.0, 0.0, 3.5])
def test_what_is_quiet_enough_stays_as_it_is(gain_db):
    samples = (0.3 * VOICE / np.abs(VOICE).max()).astype(np.float32)
    assert np.array_equal(limited(samples, gain_db), samples * np.float32(10 ** (gain_db / 20)))


def test_the_gain_falls_before_a_peak_and_comes_back():
    samples = np.full(RATE_HZ, 0.5, np.float32)
    samples[12000:12010] = 2.0
    gains = limited(samples) / samples
    assert np.all(gains[:11900] == 1)
    assert np.all(np.diff(gains[11900:12000]) <= 0)
    assert np.abs(np.diff(gains)).max() < 0.02
    assert np.all(gains[12010:12100] < 0.5)
    assert np.all(gains[22500:] == 1)


def test_the_delay_is_71_samples_and_given_back():
    limiter = Limiter()
    assert len(limiter.feed(VOICE[:1000])) == 1000 - 71
    assert len(limiter.finish()) == 71
