"""Fades at the edges of speech: only where there would be a click, and however it is cut."""

import numpy as np
import pytest

from qwen_tts_service.audio.edges import FADE_S, NEAR_ZERO, EdgeFader

RATE_HZ = 24000
FADE = round(FADE_S * RATE_HZ)


def faded(samples, size=10**6):
    fader = EdgeFader(RATE_HZ)
    starts = range(0, len(samples), size)
    return np.concatenate([*(fader.feed(samples[s : s + size]) for s in starts), fader.finish()])


def tone(start, end, samples=4000):
    """A tone that is at `start` and `end` in its first and its last sample."""
    sound = (0.5 * np.sin(np.arange(samples) / 7)).astype(np.float32)
    sound[0], sound[-1] = start, end
    return sound


@pytest.mark.parametrize("level", [0.0, NEAR_ZERO, -NEAR_ZERO])
def test_what_begins_and_ends_near_zero_is_left_as_it_is(level):
    samples = tone(level, level)
    assert np.array_equal(faded(samples), samples)


@pytest.mark.parametrize(("start", "end"), [(0.4, 0.0), (0.0, -0.4), (-0.002, 0.002)])
def test_an_edge_far_from_zero_is_faded_and_no_sample_besides(start, end):
    samples = tone(start, end)
    heard = faded(samples)
    assert len(heard) == len(samples)
    assert abs(heard[0]) <= NEAR_ZERO
    assert abs(heard[-1]) <= NEAR_ZERO
    is_same = heard == samples
    assert is_same[FADE:-FADE].all()
    assert is_same[:FADE].all() == (start == 0)
    assert is_same[-FADE:].all() == (end == 0)
    assert np.abs(heard).max() <= np.abs(samples).max()


def test_a_fade_has_no_step_of_its_own():
    heard = faded(np.full(4000, 1.0, np.float32))
    assert np.abs(np.diff(heard, prepend=0, append=0)).max() < np.pi / 2 / FADE * 1.01
    assert np.array_equal(heard, heard[::-1])


@pytest.mark.parametrize("size", [1, 7, FADE - 1, FADE, FADE + 1, 1920])
@pytest.mark.parametrize("length", [1, FADE // 2, FADE + 3, 5000])
def test_how_speech_is_cut_changes_no_sample(size, length):
    samples = tone(0.4, 0.4)[-length:]
    assert np.array_equal(faded(samples, size), faded(samples))


def test_all_but_the_last_5_ms_come_at_once():
    fader = EdgeFader(RATE_HZ)
    assert len(fader.feed(tone(0, 0))) == 4000 - FADE
    assert len(fader.feed(tone(0, 0))) == 4000


def test_speech_without_a_sample_stays_so():
    assert len(EdgeFader(RATE_HZ).finish()) == 0
