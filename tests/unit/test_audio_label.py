"""The label of machine-made speech: read by FFmpeg, heard by nobody."""

import io
import struct
import wave

import av
import numpy as np
import pytest
import soundfile

from qwen_tts_service.audio.formats import FORMATS, make_encoder
from qwen_tts_service.audio.label import LABELLED, info_chunk, label_of

RATE_HZ = 24000
SAMPLES = (9000 * np.sin(np.arange(12_000) / 9)).astype(np.int16)
LABEL = label_of("Qwen3-TTS-12Hz-1.7B-CustomVoice")
each_way = pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])


def encoded(name, *, is_stream, comment):
    encoder = make_encoder(name, RATE_HZ, is_stream=is_stream, comment=comment)
    return [encoder.encode(SAMPLES[:1920]), encoder.encode(SAMPLES[1920:]), encoder.finish()]


def opened(data):
    """The metadata and the samples, as FFmpeg reads them from a pipe."""
    with av.open(io.BytesIO(data)) as container:
        said = {**container.metadata, **container.streams.audio[0].metadata}
        samples = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    return {name.lower(): value for name, value in said.items()}, samples


@each_way
@pytest.mark.parametrize("name", LABELLED["all"])
def test_a_labelled_file_says_so_and_sounds_the_same(name, is_stream):
    said, samples = opened(b"".join(encoded(name, is_stream=is_stream, comment=LABEL)))
    unsaid, unlabelled = opened(b"".join(encoded(name, is_stream=is_stream, comment=None)))
    assert said["comment"] == LABEL
    assert "comment" not in unsaid
    assert np.array_equal(samples, unlabelled)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(LABELLED["all"])))
def test_other_formats_have_nowhere_to_say_it(name):
    labelled, plain = (encoded(name, is_stream=True, comment=c) for c in (LABEL, None))
    assert labelled == plain


@pytest.mark.parametrize("name", ["mp3", "flac"])
def test_libsndfile_reads_a_labelled_file(name):
    data = b"".join(encoded(name, is_stream=False, comment=LABEL))
    assert len(soundfile.read(io.BytesIO(data))[0]) == len(SAMPLES)


@each_way
def test_an_mp3s_tag_leaves_with_the_first_audio(is_stream):
    first, second, last = encoded("mp3", is_stream=is_stream, comment=LABEL)
    sent = first or second or last
    assert sent.startswith(b"ID3")
    assert len(sent) > 300
    encoder = make_encoder("mp3", RATE_HZ, is_stream=is_stream, comment=LABEL)
    assert encoder.finish() == b""


@pytest.mark.parametrize("comment", ["odd", "even", LABEL])
def test_python_reads_a_labelled_wav(comment):
    assert len(info_chunk(comment)) % 2 == 0
    data = b"".join(encoded("wav", is_stream=False, comment=comment))
    assert struct.unpack_from("<I", data, 4) == (len(data) - 8,)
    with wave.open(io.BytesIO(data)) as file:
        assert file.readframes(file.getnframes()) == SAMPLES.tobytes()


@pytest.mark.parametrize("comment", ["x" * 200, "модель"])
def test_a_comment_of_any_length_and_letters_leaves_an_mp3_whole(comment):
    said, samples = opened(b"".join(encoded("mp3", is_stream=True, comment=comment)))
    assert said["comment"] == comment.encode("latin-1", "replace").decode()
    assert len(samples) > 0
