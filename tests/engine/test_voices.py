"""Cloned voices in the engine: with their recordings and without, alone and in company."""

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.checkpoints import write_quick_checkpoint
from tests.engine.harness import (
    RUNNERS,
    graphs,
    late,
    make_job,
    plain,
    read,
    reported_mib,
    running,
    whole,
)
from tests.engine.test_prefix import rows_read

from qwen_tts_service.engine.runner import PlainRunner
from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.model.codec.decoder import CodecDecoder
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import KeptVoice, VoiceReference

both = pytest.mark.parametrize("runner", RUNNERS)
SAID = "the user"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints") / "quick_base"
    write_quick_checkpoint(directory, "tiny_base_1b7")
    return Qwen3TTS.load(directory)


@pytest.fixture(scope="module")
def voices(model):
    """Recordings of 9, 14 and 40 frames, and one without its words."""
    noise = np.random.default_rng(7)

    def keep(frames, transcript):
        samples = noise.normal(0, 0.1, frames * 1920).astype(np.float32)
        return model.encoder.keep(VoiceReference(samples=samples, transcript=transcript))

    return [keep(9, "hello"), keep(14, SAID), keep(40, "the assistant says"), keep(9, None)]


def job_of(model, number, voice, **changes):
    reference_ids = model.tokenizer.encode_reference(voice.transcript) if voice.codes else ()
    who = {"speaker": None, "voice": voice, "reference_ids": tuple(reference_ids)}
    return replace(make_job(model, number), **who | changes)


@pytest.fixture(scope="module")
def jobs(model, voices):
    """Every voice in both layouts and several ways of drawing."""
    return [job_of(model, number, voices[number // 2 % 4]) for number in range(12)]


@pytest.fixture(scope="module")
async def alone(model, jobs):
    with running(model) as engine:
        return [await whole(engine, job) for job in jobs]


def assert_same(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5


async def test_different_voices_differ(alone):
    assert len({samples.tobytes() for samples in alone}) == len(alone)


@pytest.mark.parametrize(
    ("runner", "slots"), [(plain, 16), (plain, 3), (graphs, 3), (late(), 3), (late("codec"), 3)]
)
async def test_a_cloned_voice_in_company_is_what_it_is_alone(model, jobs, alone, runner, slots):
    """With three slots each is used by voices with recordings and without, one after another."""
    order = random.Random(slots).sample(range(len(jobs)), len(jobs))
    with running(model, runner=runner, slots=slots) as engine:
        spoken = await asyncio.gather(*[whole(engine, jobs[number]) for number in order])
    for got, number in zip(spoken, order, strict=True):
        assert_same(got, alone[number])


@both
async def test_the_deterministic_mode_repeats_every_bit(model, jobs, runner):
    few = [jobs[number] for number in (0, 3, 5, 6)]
    with running(model, runner=runner, deterministic=True, slots=4) as engine:
        solo = [await whole(engine, job) for job in few]
        together = await asyncio.gather(*[whole(engine, job) for job in few])
    assert all(np.array_equal(*pair) for pair in zip(solo, together, strict=True))


async def test_speech_goes_on_where_the_recording_ends(model, voices):
    """What the stream gives is the end of recording and speech decoded as one."""
    voice, frames = voices[1], 12
    job = job_of(model, 3, voice, max_frames=frames)
    made = []

    class Noting(PlainRunner):
        def frame(self, slots, **how):
            outcome = super().frame(slots, **how)
            made.append(self._slots.ring[slots[0], len(made)].tolist())
            return outcome

    with running(model, runner=Noting) as engine:
        streamed = await whole(engine, job)
    spoken = made[: len(streamed) // 1920]
    codes = torch.tensor([*voice.codes, *spoken]).T[None]
    decoded = model.codec.decode(codes, model.codec.new_state(slots=1))[0].numpy()
    assert len(spoken) > 2
    assert np.abs(streamed - decoded[len(voice.codes) * 1920 :]).max() <= 1e-5
    bare = model.codec.decode(codes[:, :, len(voice.codes) :], model.codec.new_state(slots=1))
    assert np.abs(streamed - bare[0].numpy()).max() > 1e-3, "the recording is heard"


@pytest.mark.parametrize(
    ("number", "kept"),
    [(0, "hello"), (1, "hello"), (2, SAID), (4, "the assistant says"), (5, "the assistant says")],
)
async def test_a_voice_is_read_once_and_then_only_what_depends_on_the_text(
    model, jobs, number, kept
):
    """Kept: what is said in the recording, as far as it lies before the text and its frames."""
    job = jobs[number]
    said, frames = len(job.reference_ids) - 5, len(job.voice.codes)
    assert job.voice.transcript == kept
    first, again = await rows_read(model, plain, [job, job])
    tags = 3 + (3 if job.language == "auto" else 4) + 1 + 1
    prefix = tags + (said if job.layout == "full_text" else min(said, frames))
    text = len(job.ids) - 8
    rows = said + text + 2 + frames if job.layout == "full_text" else frames + 1
    assert sum(count for _, count in first) == tags + rows - 1
    assert first[0] == (0, min(64, prefix))
    assert sum(count for _, count in again) == tags + rows - 1 - prefix


async def test_a_voice_without_recording_has_the_rows_of_a_speaker(model, voices):
    job = job_of(model, 1, voices[3])
    first, again = await rows_read(model, plain, [job, job])
    assert (sum(count for _, count in first), again) == (
        3 + 3 + 1 + 1 + (job.language != "auto"),
        [],
    )


@both
async def test_a_recording_is_decoded_once(model, jobs, runner, monkeypatch):
    heard, hear = [], Qwen3TTS.hear
    monkeypatch.setattr(
        Qwen3TTS, "hear", lambda self, voice: heard.append(voice) or hear(self, voice)
    )
    with running(model, runner=runner) as engine:
        for job in (jobs[0], jobs[2], jobs[0], jobs[6]):
            await whole(engine, job)
    assert heard == [jobs[0].voice, jobs[2].voice]


async def test_voices_that_are_heard_too_rarely_are_heard_anew(model, jobs, alone, monkeypatch):
    heard, hear = [], Qwen3TTS.hear
    monkeypatch.setattr(
        Qwen3TTS, "hear", lambda self, voice: heard.append(voice) or hear(self, voice)
    )
    with running(model, heard_voices=1) as engine:
        for number in (0, 2, 0):
            assert_same(await whole(engine, jobs[number]), alone[number])
    assert heard == [jobs[0].voice, jobs[2].voice, jobs[0].voice]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
async def test_the_speech_of_a_voice_that_was_read_before_is_the_same_to_the_bit(
    model, jobs, number
):
    job = jobs[number]
    with running(model, deterministic=True, slots=1) as engine:
        first, again = await whole(engine, job), await whole(engine, job)
    with running(model, deterministic=True, slots=1, prefix_cache_rows=0) as engine:
        without = await whole(engine, job)
    assert np.array_equal(first, again)
    assert np.array_equal(first, without)


async def test_voices_with_other_recordings_are_not_mistaken_for_each_other(model, voices):
    """They differ in one code, which is in no row of the prompt's beginning."""
    voice = voices[2]
    last = (*voice.codes[-1][:-1], voice.codes[-1][-1] ^ 1)
    other = replace(voice, codes=(*voice.codes[:-1], last))
    with running(model) as engine:
        got = [await whole(engine, job_of(model, 3, each)) for each in (voice, other, voice)]
    assert not np.array_equal(got[0], got[1])
    assert_same(got[2], got[0])


async def test_a_prompt_counts_its_recording(model, voices):
    job = job_of(model, 1, voices[2], max_frames=20)
    with running(model, max_positions=len(voices[2].codes) + 20) as engine:
        with pytest.raises(InvalidRequest, match="MAX_POSITIONS"):
            await read(engine.submit(job))
        assert len(await whole(engine, replace(job, voice=voices[3], reference_ids=())))


@pytest.mark.parametrize(
    "who", [{"voice": None}, {"speaker": "vivian", "voice": None}], ids=["nobody", "a speaker"]
)
async def test_a_model_that_clones_speaks_with_cloned_voices_alone(model, jobs, who):
    with running(model) as engine, pytest.raises(InvalidRequest, match="needs a cloned voice"):
        await whole(engine, replace(jobs[0], **who))


def test_the_memory_of_heard_voices_is_reported(model):
    sizes = [reported_mib(model, heard_voices=voices) for voices in (0, 1000)]
    slot = model.codec.new_state(slots=1).memory.nbytes
    assert sizes[1] - sizes[0] == pytest.approx(1000 * slot / 2**20, abs=1)


def test_a_kept_voice_is_its_numbers():
    voice = KeptVoice(embedding=(0.5, 0.25), codes=((1, 2), (3, 4)), transcript="x")
    assert voice.without_recording() == KeptVoice(embedding=(0.5, 0.25))
    assert hash(voice) == hash(replace(voice))


def test_what_a_recording_needs_is_compiled_before_the_first_one(tmp_path, monkeypatch):
    directory = tmp_path / "quick_base"
    write_quick_checkpoint(directory, "tiny_base_1b7")
    frames = []
    monkeypatch.setattr(CodecDecoder, "hear", lambda _codec, codes: frames.append(codes.shape[2]))
    for fused in (True, False):
        Qwen3TTS.load(directory, linear="float", fused_kernels=fused).prepare()
    # A whole piece and what follows it; torch's own kernels are compiled already.
    assert frames == [42]
