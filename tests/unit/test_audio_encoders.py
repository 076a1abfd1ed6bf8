"""Streamed audio is the whole file's audio. FFmpeg judges: libsndfile would judge itself."""

import contextlib
import gc
import io
import logging
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from qwen_tts_service.audio.encoders import OPUS_PAGE_MS, _StreamSink
from qwen_tts_service.audio.formats import FORMATS, make_encoder
from qwen_tts_service.audio.wav import wav_header

RATE_HZ = 24000
FRAME = 1920
CHUNKINGS = {
    "one frame of 80 ms": (FRAME,),
    "odd sizes": (1, 777, 4001, 333),
    "all at once": (10**6,),
}
COMPRESSED = tuple(name for name in FORMATS if name not in {"wav", "pcm", "mulaw", "alaw"})


def encode_whole(samples, format, sample_rate_hz):
    encoder = make_encoder(format, sample_rate_hz, is_stream=False)
    return encoder.encode(samples) + encoder.finish()


def _speechlike(samples, sample_rate_hz=RATE_HZ):
    t = np.arange(samples) / sample_rate_hz
    tone = 0.4 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 900 * t * (1 + t))
    noise = 0.02 * np.random.default_rng(7).normal(size=samples)
    return ((tone + noise) * 32767).clip(-32767, 32767).astype(np.int16)


def _chunks(samples, sizes):
    start, turn = 0, 0
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        yield samples[start : start + size]
        start, turn = start + size, turn + 1


def _stream(samples, name, sizes=(FRAME,), sample_rate_hz=RATE_HZ):
    encoder = make_encoder(name, sample_rate_hz, is_stream=True)
    parts = [encoder.encode(chunk) for chunk in _chunks(samples, sizes)]
    return b"".join([*parts, encoder.finish()])


def _decode(data, name, sample_rate_hz=RATE_HZ):
    """Samples as FFmpeg gives them; Opus always at 48 kHz."""
    if name == "pcm":
        return np.frombuffer(data, "<i2")
    if name in {"mulaw", "alaw"}:
        return _decode_g711(data, name)
    with av.open(io.BytesIO(data)) as container:
        track = container.streams.audio[0]
        assert track.rate == (48000 if name in {"ogg", "opus"} else sample_rate_hz)
        assert track.codec_context.layout.nb_channels == 1
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(track)])


def _decode_g711(data, name):
    form = {"format": name, "options": {"sample_rate": "8000", "ch_layout": "mono"}}
    with av.open(io.BytesIO(data), **form) as container:
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


def _length(data, name):
    try:
        return len(_decode(data, name))
    except (av.error.EOFError, av.error.InvalidDataError, ValueError):
        return 0


@pytest.mark.parametrize("sizes", CHUNKINGS.values(), ids=CHUNKINGS)
@pytest.mark.parametrize("name", ["pcm", "wav", "flac", "ogg", "opus", "aac", "mulaw", "alaw"])
def test_stream_decodes_to_the_whole_files_samples(name, sizes):
    samples = _speechlike(24_777)
    whole = _decode(encode_whole(samples, name, RATE_HZ), name)
    assert np.array_equal(_decode(_stream(samples, name, sizes), name), whole)


@pytest.mark.parametrize("name", FORMATS)
def test_stream_of_single_samples_decodes_to_the_whole_files_samples(name):
    samples = _speechlike(3000)
    in_frames = _decode(_stream(samples, name), name)
    assert np.array_equal(_decode(_stream(samples, name, (1,)), name), in_frames)


@pytest.mark.parametrize("name", ["pcm", "wav", "flac"])
def test_lossless_stream_decodes_to_what_was_fed(name):
    samples = _speechlike(24_777)
    assert np.array_equal(_decode(_stream(samples, name), name), samples)


def _lame_delay(whole):
    """The encoder delay that an mp3's LAME tag declares, and the decoder's own 529 samples."""
    tag = whole.index(b"LAME3")
    return int.from_bytes(whole[tag + 21 : tag + 24], "big") >> 12, 529


@pytest.mark.parametrize("sizes", CHUNKINGS.values(), ids=CHUNKINGS)
@pytest.mark.parametrize("sample_rate_hz", [8000, 22050, 24000, 48000])
def test_mp3_stream_has_the_whole_files_frames_after_the_declared_delay(sizes, sample_rate_hz):
    samples = _speechlike(24_777, sample_rate_hz)
    whole = encode_whole(samples, "mp3", sample_rate_hz)
    streamed = _stream(samples, "mp3", sizes, sample_rate_hz)
    assert whole.endswith(streamed)  # the same frames; the whole file has its tag before them
    assert b"LAME3" not in streamed[:200]
    expected = _decode(whole, "mp3", sample_rate_hz)
    start = sum(_lame_delay(whole))
    decoded = _decode(streamed, "mp3", sample_rate_hz)
    assert np.array_equal(decoded[start : start + len(samples)], expected)


@pytest.mark.parametrize("sample_rate_hz", [8000, 24000, 48000])
@pytest.mark.parametrize("name", COMPRESSED)
def test_full_duration_arrives_and_no_junk(name, sample_rate_hz):
    """At most the codec's own delay and filling of a last block may be added."""
    samples = _speechlike(sample_rate_hz + 777, sample_rate_hz)
    for data in (
        encode_whole(samples, name, sample_rate_hz),
        _stream(samples, name, sample_rate_hz=sample_rate_hz),
    ):
        decoded = _decode(data, name, sample_rate_hz)
        if name in {"ogg", "opus"}:
            decoded = decoded[:: 48000 // sample_rate_hz]
        added = len(decoded) - len(samples)
        assert added == 0 if name in {"flac", "ogg", "opus"} else 0 <= added <= 3 * 1152


def _best_match(decoded, samples):
    """How well the samples fit into what was decoded, at the best shift."""
    shifts = range(len(decoded) - len(samples) + 1)
    return max(np.corrcoef(decoded[s : s + len(samples)], samples)[0, 1] for s in shifts)


@pytest.mark.parametrize("name", ["mp3", "aac"])
def test_last_samples_before_the_end_are_heard(name):
    samples = np.concatenate([np.zeros(6000, np.int16), _speechlike(1900)])
    assert _best_match(_decode(_stream(samples, name), name), samples) > 0.9


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_ogg_streams_differ_by_serial_number_alone(name):
    samples = _speechlike(12_000)
    first, second = (_stream(samples, name) for _ in range(2))
    assert first[14:18] != second[14:18]
    assert np.array_equal(_decode(first, name), _decode(second, name))


@pytest.mark.parametrize("name", ["mp3", "flac", "aac"])
def test_stream_bytes_are_the_same_every_time(name):
    samples = _speechlike(12_000)
    assert _stream(samples, name) == _stream(samples, name)


@pytest.mark.parametrize(
    ("name", "feeds"),
    [
        ("wav", 1),
        ("mp3", 1),
        ("flac", 1),
        ("ogg", 2),
        ("opus", 2),
        ("aac", 2),
        ("mulaw", 1),
        ("alaw", 1),
    ],
)
def test_audio_is_decodable_after_few_frames(name, feeds):
    encoder = make_encoder(name, RATE_HZ, is_stream=True)
    chunks = _chunks(_speechlike(feeds * FRAME), (FRAME,))
    data = b"".join([encoder.encode(chunk) for chunk in chunks])
    encoder.close()
    assert _length(data, name) > 0


@pytest.mark.parametrize("name", COMPRESSED)
def test_stream_never_falls_far_behind(name):
    """At most 100 ms, or one Opus page and one frame, are inside the encoder."""
    encoder = make_encoder(name, RATE_HZ, is_stream=True)
    data = bytearray()
    for count, chunk in enumerate(_chunks(_speechlike(12 * FRAME), (FRAME,)), start=1):
        data += encoder.encode(chunk)
        rate_hz = 48000 if name in {"ogg", "opus"} else RATE_HZ
        lag_s = count * FRAME / RATE_HZ - _length(bytes(data), name) / rate_hz
        assert lag_s <= (OPUS_PAGE_MS / 1000 + 0.08 if name in {"ogg", "opus"} else 0.1)
    encoder.close()


@pytest.mark.parametrize("name", FORMATS)
def test_whole_file_comes_at_the_end_unless_it_is_a_plain_stream(name):
    encoder = make_encoder(name, RATE_HZ, is_stream=False)
    early = encoder.encode(_speechlike(FRAME))
    data = early + encoder.finish()
    assert early == b"" or name in {"pcm", "aac", "mulaw", "alaw"}
    assert data == encode_whole(_speechlike(FRAME), name, RATE_HZ) or name in {"ogg", "opus"}


def test_whole_flac_declares_its_length_and_checksum():
    data = encode_whole(_speechlike(24_777), "flac", RATE_HZ)
    assert int.from_bytes(data[21:26], "big") & 0xFFFFFFFFF == 24_777
    assert any(data[26:42])


@pytest.mark.parametrize("name", FORMATS)
def test_closing_is_harmless_at_any_time(name):
    for feeds in (0, 1, 3):
        encoder = make_encoder(name, RATE_HZ, is_stream=True)
        for chunk in _chunks(_speechlike(feeds * FRAME), (FRAME,)):
            encoder.encode(chunk)
        encoder.close()
        encoder.close()
    encoder = make_encoder(name, RATE_HZ, is_stream=True)
    encoder.encode(_speechlike(FRAME))
    encoder.finish()
    encoder.close()


@pytest.mark.parametrize("name", COMPRESSED)
def test_abandoned_encoder_leaves_nothing_behind(name):
    encoder = make_encoder(name, RATE_HZ, is_stream=True)
    encoder.encode(_speechlike(FRAME))
    sink = weakref.ref(encoder._sink)
    encoder.close()
    del encoder
    gc.collect()
    assert sink() is None


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", FORMATS)
def test_encoding_prints_nothing(name, is_stream, capfd):
    """libsndfile's callbacks report their exceptions to stderr and nowhere else."""
    finished = make_encoder(name, RATE_HZ, is_stream=is_stream)
    finished.encode(_speechlike(3 * FRAME))
    finished.finish()
    abandoned = make_encoder(name, RATE_HZ, is_stream=is_stream)
    abandoned.encode(_speechlike(FRAME))
    abandoned.close()
    del finished, abandoned
    gc.collect()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", COMPRESSED)
def test_fifty_streams_at_once_do_not_mix(name):
    inputs = [np.roll(_speechlike(4 * FRAME), 50 * turn) for turn in range(50)]
    encoders = [make_encoder(name, RATE_HZ, is_stream=True) for _ in inputs]
    outputs = [bytearray() for _ in inputs]

    def feed(turn, start):
        outputs[turn] += encoders[turn].encode(inputs[turn][start : start + FRAME])

    with ThreadPoolExecutor(8) as pool:
        for start in range(0, 4 * FRAME, FRAME):
            list(pool.map(feed, range(50), [start] * 50))
    for samples, encoder, data in zip(inputs, encoders, outputs, strict=True):
        alone = _decode(_stream(samples, name), name)
        assert np.array_equal(_decode(bytes(data + encoder.finish()), name), alone)


def test_stream_sink_ignores_writes_to_bytes_that_were_sent():
    sink = _StreamSink()
    sink.write(b"head")
    assert sink.take() == b"head"
    sink.seek(0)
    sink.write(b"HEAD")
    sink.seek(0, io.SEEK_END)
    sink.write(b"more")
    assert sink.tell() == 8
    assert sink.take() == b"more"
    assert sink.take() == b""


PLACEHOLDER = b"\xff\xfb\x54\xc4" + bytes(8)


@pytest.mark.parametrize(
    ("data", "is_kept"),
    [
        pytest.param(PLACEHOLDER, False, id="an empty mp3 frame"),
        pytest.param(PLACEHOLDER[:4] + b"\x01" + bytes(7), True, id="a frame with sound"),
        pytest.param(b"\x00" + PLACEHOLDER[1:], True, id="not an mp3 frame"),
    ],
)
def test_sink_drops_an_empty_frame_at_the_start_alone(data, is_kept):
    sink = _StreamSink()
    assert sink.write(data) == len(data)
    assert sink.tell() == len(data)
    assert sink.take() == (data if is_kept else b"")
    sink.write(PLACEHOLDER)
    assert sink.take_all() == PLACEHOLDER


def test_sink_seeks_as_a_file_does():
    sink, file = _StreamSink(), io.BytesIO()
    for it in (sink, file):
        it.write(b"0123456789")
    for step in [(3,), (2, io.SEEK_CUR), (-1, io.SEEK_CUR), (-4, io.SEEK_END), (7, io.SEEK_SET)]:
        assert sink.seek(*step) == file.seek(*step)
        assert sink.tell() == file.tell()
    assert sink.write(b"ab") == file.write(b"ab") == 2
    assert sink.tell() == file.tell() == 9


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", ["wav", *COMPRESSED])
@pytest.mark.parametrize("sample_rate_hz", [8000, 48000])
def test_every_file_declares_its_rate_and_one_channel(name, is_stream, sample_rate_hz):
    encoder = make_encoder(name, sample_rate_hz, is_stream=is_stream)
    data = encoder.encode(_speechlike(FRAME * 4, sample_rate_hz)) + encoder.finish()
    assert len(_decode(data, name, sample_rate_hz)) > 0
    if name in {"ogg", "opus"}:
        head = data.index(b"OpusHead")
        assert data[head + 9] == 1
        assert int.from_bytes(data[head + 12 : head + 16], "little") == sample_rate_hz


@pytest.mark.parametrize("name", FORMATS)
def test_chunks_without_samples_change_nothing(name):
    samples = _speechlike(3 * FRAME)
    encoder = make_encoder(name, RATE_HZ, is_stream=True)
    parts = [encoder.encode(samples[:0])]
    for chunk in _chunks(samples, (FRAME,)):
        parts += [encoder.encode(chunk), encoder.encode(samples[:0])]
    data = b"".join([*parts, encoder.finish()])
    assert np.array_equal(_decode(data, name), _decode(_stream(samples, name), name))


@pytest.mark.parametrize("name", FORMATS)
def test_samples_that_do_not_lie_side_by_side_are_encoded_in_order(name):
    twice = np.repeat(_speechlike(3 * FRAME), 2)
    apart, tight = twice[::2], np.ascontiguousarray(twice[::2])
    decoded = [_decode(_stream(s, name), name) for s in (apart, tight)]
    assert np.array_equal(*decoded)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("name", "expected"), [("wav", 44), ("pcm", 0), ("mp3", 0), ("flac", 0), ("aac", 0)]
)
def test_file_without_samples_has_at_most_a_header(name, expected, is_stream):
    assert len(make_encoder(name, RATE_HZ, is_stream=is_stream).finish()) == expected


@pytest.mark.parametrize(
    ("name", "kbit_per_s"), [("mp3", (76, 84)), ("aac", (64, 68))], ids=["mp3", "aac"]
)
@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
def test_bit_rate_is_the_one_chosen(name, kbit_per_s, is_stream):
    noise = np.random.default_rng(3).integers(-9000, 9000, 4 * RATE_HZ).astype(np.int16)
    data = _stream(noise, name) if is_stream else encode_whole(noise, name, RATE_HZ)
    least, most = kbit_per_s
    assert least <= len(data) * 8 / 1000 / 4 <= most


def test_flac_has_16_bits_and_blocks_of_48_ms():
    data = encode_whole(_speechlike(24_777), "flac", RATE_HZ)
    assert int.from_bytes(data[8:10], "big") == int.from_bytes(data[10:12], "big") == 1152
    assert (int.from_bytes(data[20:22], "big") >> 4 & 0x1F) + 1 == 16


def _ogg_pages(data):
    return data.count(b"OggS") - 2  # two pages of headers


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_opus_pages_are_80_ms_in_a_stream_and_a_second_in_a_file(name):
    samples = _speechlike(4 * RATE_HZ)
    assert 48 <= _ogg_pages(_stream(samples, name)) <= 52
    assert 4 <= _ogg_pages(encode_whole(samples, name, RATE_HZ)) <= 6


@pytest.mark.parametrize("name", ["_ffi", "_snd"])
def test_soundfile_that_cannot_shorten_pages_still_streams(
    name, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    encoder = make_encoder("opus", RATE_HZ, is_stream=True)
    encoder.close()
    real = getattr(soundfile, name)
    hidden = {"_ffi": "new", "_snd": "sf_command"}[name]

    class Without:
        def __getattr__(self, wanted):
            if wanted == hidden:
                raise AttributeError(wanted)
            return getattr(real, wanted)

    shorten = types.SimpleNamespace(_ffi=soundfile._ffi, _snd=soundfile._snd)
    setattr(shorten, name, Without())
    shorten.SoundFile = soundfile.SoundFile
    monkeypatch.setattr("qwen_tts_service.audio.encoders.soundfile", shorten)
    with caplog.at_level(logging.WARNING):
        data = _stream(_speechlike(RATE_HZ), "opus")
    assert "cannot shorten Ogg pages" in caplog.text
    assert len(_decode(data, "opus")) == 48_000


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("ending", ["finish", "close"])
@pytest.mark.parametrize("name", COMPRESSED)
def test_ended_encoder_has_closed_its_file(name, ending, is_stream):
    encoder = make_encoder(name, RATE_HZ, is_stream=is_stream)
    encoder.encode(_speechlike(FRAME))
    if name == "aac":
        closed = []
        real = encoder._container
        encoder._container = types.SimpleNamespace(
            mux=real.mux, close=lambda: (closed.append(True), real.close())
        )
        getattr(encoder, ending)()
        assert closed
    else:
        getattr(encoder, ending)()
        assert encoder._file.closed


@pytest.mark.parametrize("comment", [None, "made by a machine"])
@pytest.mark.parametrize("name", FORMATS)
def test_whole_file_on_disk_is_the_one_made_in_memory(name, comment, tmp_path):
    with (tmp_path / "speech").open("w+b") as file:
        encoder = make_encoder(name, RATE_HZ, is_stream=False, comment=comment, file=file)
        for _ in range(3):
            file.write(encoder.encode(_speechlike(FRAME)))
        file.write(encoder.finish())
    in_memory = make_encoder(name, RATE_HZ, is_stream=False, comment=comment)
    expected = b"".join([in_memory.encode(_speechlike(FRAME)) for _ in range(3)])
    expected += in_memory.finish()
    written = (tmp_path / "speech").read_bytes()
    if name in ("ogg", "opus"):  # their serial number is drawn
        assert len(written) == len(expected)
    else:
        assert written == expected


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_error_of_the_disk_is_raised(name):
    with Path("/dev/full").open("wb") as file:
        encoder = make_encoder(name, RATE_HZ, is_stream=False, file=file)
        with pytest.raises(OSError, match="No space left"):
            encoder.encode(_speechlike(RATE_HZ))
        encoder.close()
        with contextlib.suppress(OSError):
            file.close()


def test_wav_of_more_than_its_header_can_say_has_unknown_sizes():
    assert wav_header(RATE_HZ, 2**32 - 36) == wav_header(RATE_HZ, None)
    assert wav_header(RATE_HZ, 2**32 - 38) != wav_header(RATE_HZ, None)


@pytest.mark.parametrize("ending", ["finish", "close"])
def test_ended_wav_file_holds_no_samples(ending):
    encoder = make_encoder("wav", RATE_HZ, is_stream=False)
    encoder.encode(_speechlike(FRAME))
    getattr(encoder, ending)()
    assert encoder.finish() == encode_whole(_speechlike(0), "wav", RATE_HZ)


def test_wav_stream_has_one_header_and_it_differs_by_its_sizes_alone():
    for sample_rate_hz in (8000, 22050, 48000):
        samples = _speechlike(FRAME, sample_rate_hz)
        whole = encode_whole(samples, "wav", sample_rate_hz)
        streamed = _stream(samples, "wav", (500,), sample_rate_hz)
        assert streamed[:4] + streamed[8:40] + streamed[44:] == whole[:4] + whole[8:40] + whole[44:]
        assert streamed[40:44] != whole[40:44]
