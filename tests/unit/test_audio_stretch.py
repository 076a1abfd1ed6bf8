"""Time stretch: length, pitch, and the same samples however the input is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tts_service.audio.stretch import TimeStretch

RATE_HZ = 24000
SECONDS = np.arange(3 * RATE_HZ) / RATE_HZ
SPEEDS = [0.5, 0.75, 0.97, 1.2, 1.5, 2.0, 4.0]
NOISE = np.random.default_rng(1).normal(0, 0.1, RATE_HZ)


def stretched(samples, speed, sizes=(10**9,)):
    """Stretch samples, cut into chunks of these sizes in turn."""
    stretch, parts = TimeStretch(speed, RATE_HZ), []
    sizes = list(sizes)
    while len(samples):
        sizes.append(size := sizes.pop(0))
        parts.append(stretch.feed(samples[:size]))
        samples = samples[size:]
    return np.concatenate([*parts, stretch.finish()])


def tone(pitch_hz):
    return (0.5 * np.sin(2 * np.pi * pitch_hz * SECONDS)).astype(np.float32)


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("length", [0, 1, 100, 5000, 3 * RATE_HZ])
def test_the_length_is_divided_by_the_speed(speed, length):
    assert len(stretched(tone(200)[:length], speed)) == round(length / speed)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SPEEDS), st.lists(st.integers(1, 4000), min_size=1, max_size=5))
def test_the_samples_do_not_depend_on_the_chunks(speed, sizes):
    samples = (NOISE + tone(130)[: len(NOISE)]).astype(np.float32)
    assert np.array_equal(stretched(samples, speed, sizes), stretched(samples, speed))


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("pitch_hz", [60, 110, 220.5, 440])
def test_the_pitch_of_a_tone_stays(speed, pitch_hz):
    samples = stretched(tone(pitch_hz), speed)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 19))
    assert np.argmax(spectrum) * RATE_HZ / (1 << 19) == pytest.approx(pitch_hz, rel=0.002)


@pytest.mark.parametrize("speed", [0.5, 1.5, 2.0])
def test_a_tone_stays_a_tone(speed):
    """Hops that met out of phase would be heard as holes."""
    samples = stretched(tone(220), speed)[1000:-2000]
    periods = samples[: len(samples) // 200 * 200].reshape(-1, 200)
    assert np.abs(periods).max(axis=1).min() > 0.48
    assert np.abs(np.diff(samples)).max() < 1.1 * np.abs(np.diff(tone(220))).max()


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_first_frame_of_a_model_gives_sound_and_little_waits(speed):
    stretch, samples = TimeStretch(speed, RATE_HZ), tone(200)[:57600]
    made = stretch.feed(samples[:1920])
    assert len(made)
    for start in range(1920, len(samples), 1920):
        made = np.concatenate([made, stretch.feed(samples[start : start + 1920])])
        waiting_s = (start + 1920 - len(made) * speed) / RATE_HZ
        assert waiting_s <= max(0.04, 0.02 * speed) + 0.001


def test_silence_stays_silence():
    assert not stretched(np.zeros(RATE_HZ, np.float32), 1.5).any()
