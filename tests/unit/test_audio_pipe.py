"""The pipe of one response: float samples in, bytes out."""

import io
import threading

import av
import numpy as np
import pytest

from qwen_tts_service.audio.formats import FORMATS, make_encoder
from qwen_tts_service.audio.pcm import to_int16
from qwen_tts_service.audio.pipe import AudioPipe

SAMPLES = (0.5 * np.sin(np.arange(22_050) / 20)).astype(np.float32)
SAMPLES[-1] = 0  # so that its end is not faded


def _pipe(name, *, is_stream=True, source_rate_hz=22050, sample_rate_hz=24000, **silence):
    return AudioPipe(
        name,
        source_rate_hz=source_rate_hz,
        sample_rate_hz=sample_rate_hz,
        is_stream=is_stream,
        **silence,
    )


def _run(pipe, size):
    parts = [pipe.feed(SAMPLES[start : start + size]) for start in range(0, len(SAMPLES), size)]
    return b"".join([*parts, pipe.finish()])


@pytest.mark.parametrize("size", [333, 1920, 22_050])
def test_resampled_stream_is_the_whole_answer_in_any_chunking(size):
    whole = _run(_pipe("wav", is_stream=False), 22_050)
    assert _run(_pipe("wav"), size)[44:] == whole[44:]
    assert len(whole) == 44 + 2 * 24_000


@pytest.mark.parametrize("sample_rate_hz", [8000, 22050, 48000])
def test_edges_are_near_zero_at_the_rate_that_is_sent(sample_rate_hz):
    pipe = _pipe("pcm", sample_rate_hz=sample_rate_hz, lead_in_s=0.1, tail_s=0.1)
    heard = np.frombuffer(pipe.feed(np.full(4000, 0.9, np.float32)) + pipe.finish(), "<i2")
    speech = heard[sample_rate_hz // 10 : -sample_rate_hz // 10]
    assert speech[0] == speech[-1] == 0
    assert speech.max() > 29_000


def test_equal_rates_encode_the_very_samples():
    pipe = _pipe("flac", is_stream=False, sample_rate_hz=22050)
    encoder = make_encoder("flac", 22050, is_stream=False)
    assert _run(pipe, 1920) == encoder.encode(to_int16(SAMPLES)) + encoder.finish()


@pytest.mark.parametrize("name", FORMATS)
def test_seconds_are_counted_at_the_rate_that_is_sent(name):
    pipe = _pipe(name)
    assert pipe.audio_s == 0.0
    pipe.feed(SAMPLES[:11_025])
    assert 0.4 < pipe.audio_s <= 0.5
    pipe.feed(SAMPLES[11_025:])
    pipe.finish()
    assert pipe.audio_s == 1.0


@pytest.mark.parametrize("size", [333, 22_050])
@pytest.mark.parametrize("sample_rate_hz", [22050, 8000])
def test_silence_is_put_around_the_speech_at_the_rate_that_is_sent(size, sample_rate_hz):
    rate = {"sample_rate_hz": sample_rate_hz}
    bare = _run(_pipe("pcm", **rate), size)
    pipe = _pipe("pcm", lead_in_s=0.25, tail_s=0.5, **rate)
    lead_in, tail = (bytes(2 * round(s * sample_rate_hz)) for s in (0.25, 0.5))
    assert _run(pipe, size) == lead_in + bare + tail
    assert pipe.audio_s == pytest.approx(1.75, abs=1e-3)
    assert pipe.spoken_s == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "mulaw"])
def test_there_is_no_silence_around_nothing(name):
    pipe = _pipe(name, lead_in_s=0.25, tail_s=0.5)
    assert pipe.finish() == _pipe(name).finish() or name == "opus"
    assert pipe.audio_s == 0


def test_last_tenth_of_a_second_is_sent():
    """The resampler holds back about 40 ms, which must come out at the end."""
    data = _run(_pipe("ogg"), 1920)
    with av.open(io.BytesIO(data)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 48_000


@pytest.mark.parametrize("size", [333, 22_050])
def test_a_limited_response_stays_below_minus_1_dbtp_and_as_long_as_it_is(size):
    loud = (
        np.random.default_rng(3).normal(0, 0.7, 22_050).astype(np.float32)
    )  # up to the last hertz
    pipe = AudioPipe(
        "pcm", source_rate_hz=22050, sample_rate_hz=16000, is_stream=True, is_limited=True
    )
    parts = [pipe.feed(loud[start : start + size]) for start in range(0, len(loud), size)]
    samples = np.frombuffer(b"".join([*parts, pipe.finish()]), "<i2") / np.float32(32767)
    assert len(samples) == 16000
    assert pipe.audio_s == 1.0
    assert np.abs(samples).max() <= 10 ** (-1 / 20)
    assert np.abs(samples).max() > 10 ** (-2 / 20)


def test_empty_chunks_change_nothing():
    pipe = _pipe("pcm")
    empty = np.zeros(0, np.float32)
    data = pipe.feed(empty) + pipe.feed(SAMPLES) + pipe.feed(empty) + pipe.finish()
    assert data == _run(_pipe("pcm"), 22_050)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_sent_before_there_is_sound(name):
    assert _pipe(name).feed(np.zeros(0, np.float32)) == b""


@pytest.mark.parametrize("name", FORMATS)
def test_late_calls_on_a_closed_pipe_give_no_bytes(name):
    pipe = _pipe(name)
    pipe.feed(SAMPLES)
    pipe.close()
    pipe.close()
    assert pipe.feed(SAMPLES) == b""
    assert pipe.finish() == b""


@pytest.mark.parametrize("name", FORMATS)
def test_finished_pipe_gives_no_more_bytes(name):
    pipe = _pipe(name)
    pipe.feed(SAMPLES)
    assert pipe.finish() or name == "pcm"
    assert pipe.finish() == b""
    assert pipe.feed(SAMPLES) == b""
    assert pipe.audio_s == 1.0
    pipe.close()


def test_pipe_says_its_format_and_the_rate_that_is_sent():
    pipe = _pipe("flac")
    assert (pipe.format, pipe.sample_rate_hz) == ("flac", 24000)
    pipe.close()


def test_closing_closes_the_encoder_and_what_it_held_is_never_encoded():
    pipe = _pipe("flac")
    pipe.feed(SAMPLES)
    spoken_s = pipe.audio_s
    pipe.close()
    assert pipe._encoder._file.closed
    assert pipe.finish() == b""
    assert pipe.audio_s == spoken_s


def test_closing_waits_for_the_ending():
    pipe = _pipe("flac")
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()
    finish = pipe._encoder.finish

    def slow_finish():
        entered.set()
        assert release.wait(10)
        return finish()

    pipe._encoder.finish = slow_finish
    pipe.feed(SAMPLES)
    finisher = threading.Thread(target=pipe.finish)
    closer = threading.Thread(target=lambda: (pipe.close(), closed.set()))
    finisher.start()
    assert entered.wait(10)
    closer.start()
    was_closed_early = closed.wait(0.05)
    release.set()
    finisher.join(10)
    closer.join(10)
    assert not was_closed_early
    assert closed.is_set()


@pytest.mark.parametrize("name", ["mp3", "ogg", "flac", "aac"])
def test_closing_waits_for_the_chunk_being_encoded(name):
    """Closing an encoder under a running call would free memory in use."""
    pipe = _pipe(name)
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()
    encode = pipe._encoder.encode

    def slow_encode(samples):
        entered.set()
        assert release.wait(10)
        return encode(samples)

    pipe._encoder.encode = slow_encode
    feeder = threading.Thread(target=pipe.feed, args=(SAMPLES,))
    closer = threading.Thread(target=lambda: (pipe.close(), closed.set()))
    feeder.start()
    assert entered.wait(10)
    closer.start()
    was_closed_early = closed.wait(0.05)
    release.set()
    feeder.join(10)
    closer.join(10)
    assert not was_closed_early
    assert closed.is_set()
