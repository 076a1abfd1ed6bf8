"""Float to 16 bits, the WAV header, and other rates."""

import io
import struct
import wave

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tts_service.audio.formats import make_encoder
from qwen_tts_service.audio.pcm import to_bytes, to_g711, to_int16
from qwen_tts_service.audio.resample import Resampler
from qwen_tts_service.audio.wav import wav_header

RATE_HZ = 24000
SAMPLES = (np.random.default_rng(0).normal(size=10_001) * 4000).astype(np.int16)


def test_too_loud_samples_are_clipped_and_not_wrapped():
    samples = np.array([-3.0, -1.0, 0.0, 1.0, 1.0001, 9.0], np.float32)
    assert to_int16(samples).tolist() == [-32767, -32767, 0, 32767, 32767, 32767]


def test_samples_go_to_the_nearest_step():
    steps = np.array([-2.6, -2.4, -0.6, -0.4, 0.4, 0.6, 2.4, 2.6], np.float32)
    assert to_int16(steps / np.float32(32767)).tolist() == [-3, -2, -1, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("samples", [np.zeros(3), np.zeros((1, 3), np.float32)])
def test_what_is_not_mono_float32_is_a_mistake_of_the_caller(samples):
    with pytest.raises(AssertionError):
        to_int16(samples)


def test_clipping_leaves_the_callers_samples_alone():
    samples = np.array([-3.0, 0.25, 3.0], np.float32)
    to_int16(samples)
    assert samples.tolist() == [-3.0, 0.25, 3.0]


def test_16_bit_samples_survive_the_way_through_float():
    samples = np.arange(-32767, 32768, dtype=np.int16)
    assert np.array_equal(to_int16(samples.astype(np.float32) / 32767), samples)


def test_bytes_are_little_endian():
    assert to_bytes(np.array([1, -2], ">i2")) == b"\x01\x00\xfe\xff"


def _mu_law(sample):
    """The code of a sample as the reference software of ITU-T G.191 (ulaw_compress) has it."""
    magnitude = min(((~sample if sample < 0 else sample) >> 2) + 33, 0x1FFF)
    segment = (magnitude >> 6).bit_length() + 1
    return (8 - segment) << 4 | (0xF - (magnitude >> segment & 0xF)) | (sample >= 0) << 7


def _a_law(sample):
    """The code of a sample as alaw_compress of ITU-T G.191 has it."""
    magnitude, segment = (~sample if sample < 0 else sample) >> 4, 0
    if magnitude > 15:
        segment = 1
        while magnitude > 31:
            magnitude, segment = magnitude >> 1, segment + 1
        magnitude -= 16
    return (magnitude | segment << 4 | (sample >= 0) << 7) ^ 0x55


@pytest.mark.parametrize(("law", "code_of"), [("ULAW", _mu_law), ("ALAW", _a_law)])
def test_every_sample_has_the_code_that_g711_gives_it(law, code_of):
    samples = np.arange(-32768, 32768)
    codes = to_g711(samples.astype(np.int16), law)
    assert codes == bytes(code_of(int(sample)) for sample in samples)


def test_header_of_unknown_length_has_large_sizes_that_strict_readers_take():
    """Signed 32-bit readers take them for positive, and the chunks lie within each other."""
    header = wav_header(RATE_HZ, None)
    assert len(header) == 44
    (riff_bytes,) = struct.unpack_from("<i", header, 4)
    (data_bytes,) = struct.unpack_from("<i", header, 40)
    assert riff_bytes - 2 < 36 + data_bytes <= riff_bytes
    assert data_bytes > 12 * 3600 * 2 * RATE_HZ
    assert data_bytes % 2 == 0


@pytest.mark.parametrize("sample_rate_hz", [8000, 22050, 24000, 48000])
def test_whole_wav_is_byte_for_byte_what_the_standard_library_writes(sample_rate_hz):
    expected = io.BytesIO()
    with wave.open(expected, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(SAMPLES.tobytes())
    encoder = make_encoder("wav", sample_rate_hz, is_stream=False)
    assert encoder.encode(SAMPLES) + encoder.finish() == expected.getvalue()


class _Pipe:
    """What a reader of a pipe sees: bytes, no seeking."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


def _read_with_av(source):
    with av.open(source) as container:
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


def _read_with_wave(source):
    with wave.open(source) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda data: _read_with_av(io.BytesIO(data)), id="ffmpeg"),
        pytest.param(lambda data: _read_with_av(_Pipe(data)), id="ffmpeg from a pipe"),
        pytest.param(lambda data: _read_with_wave(io.BytesIO(data)), id="wave"),
        pytest.param(
            lambda data: soundfile.read(io.BytesIO(data), dtype="int16")[0], id="soundfile"
        ),
    ],
)
def test_wav_stream_of_unknown_length_opens(read):
    encoder = make_encoder("wav", RATE_HZ, is_stream=True)
    data = encoder.encode(SAMPLES[:1920]) + encoder.encode(SAMPLES[1920:]) + encoder.finish()
    assert data[40:44] == b"\xda\xff\xff\x7f"
    assert np.array_equal(read(data), SAMPLES)


def _sine(sample_rate_hz, seconds=1.0):
    t = np.arange(int(sample_rate_hz * seconds)) / sample_rate_hz
    return (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def _resample(samples, source_rate_hz, target_rate_hz, sizes):
    resampler = Resampler(source_rate_hz, target_rate_hz)
    parts, start = [], 0
    while start < len(samples):
        size = sizes[len(parts) % len(sizes)]
        parts.append(resampler.feed(samples[start : start + size]))
        start += size
    return np.concatenate([*parts, resampler.finish()])


@pytest.mark.parametrize("rates", [(24000, 48000), (24000, 8000)])
def test_resampler_holds_back_at_most_60_ms_and_gives_float32(rates):
    resampler = Resampler(*rates)
    given_s = 0.0
    for count in range(1, 6):
        given = resampler.feed(_sine(rates[0], seconds=0.08))
        assert given.dtype == np.float32
        given_s += len(given) / rates[1]
        assert 0.08 * count - given_s <= 0.06
    rest = resampler.finish()
    assert rest.dtype == np.float32
    assert given_s + len(rest) / rates[1] == pytest.approx(0.4, abs=1e-4)


def test_equal_rates_pass_samples_untouched():
    samples = _sine(RATE_HZ)
    resampler = Resampler(RATE_HZ, RATE_HZ)
    assert resampler.feed(samples) is samples
    assert len(resampler.finish()) == 0


@settings(max_examples=15, deadline=None)
@given(
    rates=st.sampled_from([(24000, 48000), (22050, 24000), (24000, 8000), (24000, 44100)]),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
)
def test_resampled_audio_does_not_depend_on_chunking(rates, sizes):
    samples = _sine(rates[0], seconds=0.3)
    whole = soxr.resample(samples, *rates)
    assert np.array_equal(_resample(samples, *rates, sizes), whole)


@pytest.mark.parametrize("target_rate_hz", [8000, 22050, 44100, 48000])
def test_resampled_tone_keeps_its_length_and_shape(target_rate_hz):
    resampled = _resample(_sine(RATE_HZ), RATE_HZ, target_rate_hz, [1920])
    assert len(resampled) == target_rate_hz
    inner = slice(target_rate_hz // 10, -target_rate_hz // 10)  # a filter rings at the edges
    assert np.abs(resampled - _sine(target_rate_hz))[inner].max() < 1e-3
