"""Prompts of described and cloned voices: what stands where, and what depends on the text.

The rows themselves are compared with the official package's in test_parity.
"""

from dataclasses import replace

import pytest
import torch

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import KeptVoice

N = 9  # tokens of "hello the world"
M = 3  # tags with language auto


@pytest.fixture(scope="module")
def voice(base_model):
    codes = torch.randint(64, (12, 16), generator=torch.Generator().manual_seed(1)).tolist()
    embedding = torch.linspace(-1, 1, base_model.config.width).tolist()
    frames = tuple(map(tuple, codes))
    return KeptVoice(embedding=tuple(embedding), codes=frames, transcript="the user")


def build(model, voice=None, text="hello the world", **options):
    said = model.tokenizer.encode_reference(voice.transcript) if voice and voice.codes else ()
    ids = model.tokenizer.encode(text)
    return model.prompts.build(ids, voice=voice, reference_ids=said, **options)


def said_of(model, voice):
    return len(model.tokenizer.encode_reference(voice.transcript)) - 5


def test_a_described_voice_has_no_row_of_its_own(design_model):
    told = design_model.tokenizer.encode_instruct("A calm deep voice.")
    prompt = build(design_model, instruct_ids=told)
    assert len(prompt.rows) == len(told) + 3 + M + 1 + N + 2
    assert prompt.prefix_rows == len(told) + 3 + M + 1
    assert len(build(design_model, language="english").rows) == 3 + M + 1 + 1 + N + 2


def test_a_described_voice_follows_instructions_whatever_the_size(design_model, tiny_voices):
    config = replace(design_model.config, size="0b6")
    assert config.follows_instruct
    assert not replace(config, kind="custom_voice").follows_instruct
    assert not replace(config, kind="base", size="1b7").follows_instruct


def test_the_embedding_stands_in_the_speakers_row(base_model, voice):
    bare = voice.without_recording()
    louder = replace(bare, embedding=tuple(x + 1 for x in bare.embedding))
    rows, others = build(base_model, bare).rows, build(base_model, louder).rows
    at = 3 + M
    assert len(rows) == 3 + M + 1 + 1 + N + 2
    torch.testing.assert_close(others[at], rows[at] + 1)
    assert torch.equal(rows[:at], others[:at])
    assert torch.equal(rows[at + 1 :], others[at + 1 :])


@pytest.mark.parametrize("layout", ["full_text", "streaming_text"])
def test_the_rows_of_a_recording_are_counted(base_model, voice, layout):
    said, prompt = said_of(base_model, voice), build(base_model, voice, layout=layout)
    head = 3 + M + 1 + 1
    if layout == "full_text":
        assert len(prompt.rows) == head + said + N + 2 + 12
        assert (prompt.prefix_rows, len(prompt.text_rows)) == (head + said, 0)
    else:
        assert len(prompt.rows) == head + 1 + 12
        assert (prompt.prefix_rows, len(prompt.text_rows)) == (head + said, said + N + 1 - 13)


@pytest.mark.parametrize("frames", [1, 2, 3, 11, 12, 13, 14, 20])
def test_text_and_recording_run_side_by_side_whichever_is_longer(base_model, voice, frames):
    codes = (voice.codes * 2)[:frames]
    prompt = build(base_model, replace(voice, codes=codes), layout="streaming_text")
    text = said_of(base_model, voice) + N + 1
    assert len(prompt.rows) == 3 + M + 1 + 1 + 1 + frames
    assert len(prompt.text_rows) == max(0, text - 1 - frames)
    assert prompt.prefix_rows <= len(prompt.rows) - 1, "the last row is never read ahead"


@pytest.mark.parametrize("layout", ["full_text", "streaming_text"])
@pytest.mark.parametrize("frames", [1, 3, 12])
def test_the_prefix_does_not_depend_on_the_text_and_what_follows_does(
    base_model, voice, layout, frames
):
    voice = replace(voice, codes=voice.codes[:frames])
    one, other = (build(base_model, voice, text, layout=layout) for text in ("hello", "x"))
    shared = one.prefix_rows
    assert one.prefix == other.prefix
    assert shared == other.prefix_rows
    assert torch.equal(one.rows[:shared], other.rows[:shared])
    if frames > said_of(base_model, voice) or layout == "full_text":
        assert not torch.equal(one.rows[shared], other.rows[shared])


def test_another_voice_language_or_layout_has_another_prefix(base_model, voice):
    last = (*voice.codes[:-1], voice.codes[0])
    keys = [
        build(base_model, voice).prefix,
        build(base_model, voice, layout="streaming_text").prefix,
        build(base_model, voice, language="english").prefix,
        build(base_model, replace(voice, codes=last)).prefix,
        build(base_model, replace(voice, transcript="the")).prefix,
        build(base_model, voice.without_recording()).prefix,
    ]
    assert len(set(keys)) == len(keys)


def test_rows_of_a_voice_are_made_once(base_model, voice):
    build(base_model, voice)
    caches = (base_model.prompts._constant_rows, base_model.prompts._recording_rows)
    before = [cache.cache_info().misses for cache in caches]
    build(base_model, replace(voice), text="x")
    assert [cache.cache_info().misses for cache in caches] == before


def test_a_recording_alone_may_be_spoken_after(base_model, voice):
    """The official package speaks an empty text after a recording; without one there is none."""
    assert len(build(base_model, voice, "", layout="streaming_text").rows) == 3 + M + 1 + 1 + 13
    with pytest.raises(InvalidRequest, match="no text to start with"):
        build(base_model, voice.without_recording(), "", layout="streaming_text")


def test_every_model_speaks_with_voices_of_its_own_kind_alone(
    base_model, design_model, model, voice
):
    for other in (design_model, model):
        with pytest.raises(InvalidRequest, match="cannot speak with a cloned voice"):
            build(other, voice, speaker="vivian")
    with pytest.raises(InvalidRequest, match="needs a cloned voice"):
        build(base_model)
    with pytest.raises(InvalidRequest, match="unknown speaker"):
        build(model)


def test_a_transcript_is_framed_as_a_turn_of_the_assistant(base_model):
    tokenizer = base_model.tokenizer
    utterance = tokenizer.encode("the user")
    assert tokenizer.encode_reference("the user") == utterance[:-3]
