"""Frames of many slots at once: each row is what it would be alone."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.kernels.attention import MaskedAttention, RowwiseAttention
from qwen_tts_service.kernels.device import zeros
from qwen_tts_service.model.qwen3_tts import Qwen3TTS, sum_embeddings
from qwen_tts_service.model.sampling import Sampler
from qwen_tts_service.types import SamplingOptions

POSITIONS = 120
DRAWN = SamplingOptions(temperature=0.9, top_k=10, top_p=1.0, repetition_penalty=1.05)
GREEDY = SamplingOptions(temperature=0.0)
WISHES = [
    # text, speaker, language, layout, sampling, seed
    ("hello the world", "vivian", "english", "full_text", DRAWN, 1),
    ("x", "sohee", "korean", "streaming_text", replace(DRAWN, top_k=5, temperature=1.3), 2),
    ("a much longer text, isn't it?", "eric", "auto", "full_text", GREEDY, 3),
    ("dialect", "dylan", "chinese", "streaming_text", replace(DRAWN, top_p=0.8, top_k=0), 4),
    ("hello the world", "vivian", "english", "full_text", DRAWN, 5),
]


def prompt_of(model, wish):
    text, speaker, language, layout, _, _ = wish
    ids = model.tokenizer.encode(text)
    return model.prompts.build(ids, speaker=speaker, language=language, layout=layout)


def join(model, state, slot, wish):
    prompt = prompt_of(model, wish)
    model.begin(state, slot, prompt, seed=wish[5], sampling=wish[4])
    model.read_prompt(state, slot, prompt)


def speak(model, state, slots, frames, **options):
    """Make frames of some slots: codes int64 [B, frames, Q]; what comes after an end is kept."""
    at = torch.tensor(slots)
    return torch.stack([model.frame_step(state, at, **options)[0] for _ in range(frames)], dim=1)


def alone(model, wish, frames, **options):
    state = model.new_state(slots=1, max_positions=POSITIONS)
    join(model, state, 0, wish)
    return speak(model, state, [0], frames, **options)[0]


@pytest.fixture(scope="module")
def solo(model):
    return [alone(model, wish, 12) for wish in WISHES]


@pytest.fixture
def state(model):
    return model.new_state(slots=len(WISHES) + 1, max_positions=POSITIONS)


def test_a_row_in_a_batch_is_the_row_alone(model, state, solo):
    for slot, wish in enumerate(WISHES):
        join(model, state, slot, wish)
    together = speak(model, state, list(range(len(WISHES))), 12)
    assert torch.equal(together, torch.stack(solo))


def test_rows_may_join_late_leave_early_and_lie_anywhere(model, state, solo):
    join(model, state, 4, WISHES[0])
    join(model, state, 1, WISHES[1])
    first = speak(model, state, [4, 1], 3)
    join(model, state, 0, WISHES[2])
    second = speak(model, state, [0, 1, 4], 5)  # slot 1 leaves after this
    third = speak(model, state, [4, 0], 4)
    assert torch.equal(torch.cat((first[0], second[2], third[0])), solo[0])
    assert torch.equal(torch.cat((first[1], second[1])), solo[1][:8])
    assert torch.equal(torch.cat((second[0], third[1])), solo[2][:9])


def test_a_slot_remembers_nothing_of_who_used_it_before(model, state, solo):
    for wish in (WISHES[2], WISHES[3], WISHES[1]):
        join(model, state, 2, wish)
        speak(model, state, [2], 6)
    join(model, state, 2, WISHES[0])
    assert torch.equal(speak(model, state, [2], 12)[0], solo[0])


def test_idle_slots_keep_their_state(model, state):
    for slot in (0, 1):
        join(model, state, slot, WISHES[slot])
    speak(model, state, [0, 1], 2)
    tensors = [state.length, state.frame, state.next_input, state.seen, state.logits]
    caches = [state.keys, state.values]
    before = [x[1].clone() for x in tensors] + [x[:, 1].clone() for x in caches]
    speak(model, state, [0], 3)
    after = [x[1] for x in tensors] + [x[:, 1] for x in caches]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_state_is_filled_in_place(model, state):
    tensors = [state.keys, state.values, state.length, state.seen, state.next_input]
    places = [x.data_ptr() for x in tensors]
    join(model, state, 0, WISHES[0])
    speak(model, state, [0], 2)
    fresh = [state.keys, state.values, state.length, state.seen, state.next_input]
    assert [x.data_ptr() for x in fresh] == places


def test_several_rows_may_share_the_padding_slot(model, state, solo):
    join(model, state, 0, WISHES[0])
    padding = len(WISHES)
    codes = speak(model, state, [padding, 0, padding, padding], 6)
    assert torch.equal(codes[1], solo[0][:6])


def test_the_cheap_filter_makes_the_same_codes(model, solo):
    assert torch.equal(alone(model, WISHES[0], 12, full_sort=False), solo[0])


def test_the_same_seed_is_the_same_speech_and_another_is_not(solo):
    assert not torch.equal(solo[0], solo[4])  # they differ in nothing but the seed


def test_the_predictor_may_draw_by_its_own_settings(model, solo):
    state = model.new_state(slots=1, max_positions=POSITIONS)
    prompt, seed = prompt_of(model, WISHES[0]), WISHES[0][5]
    model.begin(state, 0, prompt, seed=seed, sampling=DRAWN, predictor_sampling=GREEDY)
    model.read_prompt(state, 0, prompt)
    codes = speak(model, state, [0], 1)[0]
    assert codes[0, 0] == solo[0][0, 0]
    assert not torch.equal(codes[0, 1:], solo[0][0, 1:])


def test_the_end_is_flagged_and_its_codes_are_in_range(small_model):
    """Case 4 of the 0.6B's recorded outputs ends after four frames."""
    state = small_model.new_state(slots=1, max_positions=POSITIONS)
    join(small_model, state, 0, ("dialect", "Dylan", "Chinese", "streaming_text", GREEDY, 0))
    slots, ends = torch.tensor([0]), []
    for _ in range(6):
        codes, is_end = small_model.frame_step(state, slots)
        assert ((codes >= 0) & (codes < small_model.config.codes)).all()
        ends.append(bool(is_end))
    assert ends[:5] == [False, False, False, False, True]


def test_a_row_that_runs_on_stays_inside_its_slot(model):
    prompt = prompt_of(model, WISHES[0])
    state = model.new_state(slots=2, max_positions=len(prompt.rows) + 2)
    join(model, state, 0, WISHES[0])
    join(model, state, 1, WISHES[0])
    before = state.keys[:, 1].clone()
    speak(model, state, [0], 6)
    assert state.length.tolist() == [len(prompt.rows) + 2, len(prompt.rows) - 1]
    assert torch.equal(state.keys[:, 1], before)


def cached(state, slot, length):
    return torch.stack((state.keys[:, slot, :length], state.values[:, slot, :length]))


def test_a_prompt_may_be_read_in_pieces(model, state, solo):
    prompt = prompt_of(model, WISHES[2])
    model.begin(state, 3, prompt, seed=3, sampling=GREEDY)
    rows, at = prompt.rows[None, :-1], torch.tensor([3])
    for start, end in ((0, 1), (1, 8), (8, 30), (30, rows.shape[1])):
        model.prefill(state, at, rows[:, start:end], start=start)
    join(model, state, 0, WISHES[2])
    length = rows.shape[1]
    torch.testing.assert_close(cached(state, 3, length), cached(state, 0, length))
    assert torch.equal(speak(model, state, [3], 12)[0], solo[2])


def test_prompts_of_several_lengths_may_be_read_at_once(model, state, solo):
    prompts = [prompt_of(model, WISHES[n]) for n in (0, 2)]
    longest = max(len(prompt.rows) for prompt in prompts) - 1
    rows = torch.zeros(2, longest, model.config.width)
    for row, (prompt, wish) in enumerate(zip(prompts, (WISHES[0], WISHES[2]), strict=True)):
        model.begin(state, 1 + row, prompt, seed=wish[5], sampling=wish[4])
        rows[row, : len(prompt.rows) - 1] = prompt.rows[:-1]
    model.prefill(state, torch.tensor([1, 2]), rows)
    codes = speak(model, state, [1, 2], 12)
    assert torch.equal(codes, torch.stack((solo[0], solo[2])))


def test_text_may_come_while_it_is_spoken(model, state, solo):
    prompt = prompt_of(model, WISHES[3])
    rows = prompt.text_rows
    early = replace(prompt, text_rows=rows[:2])
    model.begin(state, 0, early, seed=WISHES[3][5], sampling=WISHES[3][4])
    model.read_prompt(state, 0, early)
    first = speak(model, state, [0], 2)
    model.append_text(state, 0, rows[2:], start=2)
    rest = speak(model, state, [0], 10)
    assert torch.equal(torch.cat((first, rest), dim=1)[0], solo[3])


def test_a_prompt_longer_than_its_slot_is_refused(model):
    prompt = prompt_of(model, WISHES[0])
    state = model.new_state(slots=1, max_positions=len(prompt.rows) - 1)
    with pytest.raises(InvalidRequest) as caught:
        model.begin(state, 0, prompt, seed=0, sampling=GREEDY)
    assert caught.value.param == "text"


def test_more_streamed_text_than_a_slot_holds_is_refused(model):
    prompt = prompt_of(model, WISHES[3])
    count = len(prompt.text_rows)
    state = model.new_state(slots=1, max_positions=POSITIONS, max_text_rows=count)
    model.begin(state, 0, prompt, seed=0, sampling=GREEDY)
    with pytest.raises(InvalidRequest, match=f"{count} tokens at most"):
        model.append_text(state, 0, prompt.text_rows[:1], start=count)


def test_tokens_speak_like_the_text_they_came_from(model, solo):
    tokens = model.tokenizer.encode(WISHES[0][0])[3:-5]
    prompt = model.prompts.build(model.tokenizer.wrap(tokens), speaker="vivian", language="english")
    state = model.new_state(slots=1, max_positions=POSITIONS)
    model.begin(state, 0, prompt, seed=1, sampling=DRAWN)
    model.read_prompt(state, 0, prompt)
    assert torch.equal(speak(model, state, [0], 12)[0], solo[0])


def test_the_embeddings_of_a_frame_are_summed_in_one_reduction():
    embeddings = torch.randn(64, 16, 256, generator=torch.Generator().manual_seed(0))
    rough = embeddings.bfloat16()
    reference = rough.float().sum(dim=1).bfloat16()
    assert torch.equal(sum_embeddings(rough), reference)
    one_by_one = rough[:, 0]
    for book in range(1, 16):
        one_by_one = one_by_one + rough[:, book]
    assert not torch.equal(one_by_one, reference)  # so the test can tell


def test_bfloat16_speaks(data):
    rough = Qwen3TTS.load(data / "tiny_1b7", dtype=torch.bfloat16)
    assert rough.talker.embedding.dtype == torch.bfloat16
    codes = alone(rough, WISHES[2], 4)
    assert codes.shape == (4, 16)
    state = rough.new_state(slots=1, max_positions=POSITIONS)
    join(rough, state, 0, WISHES[2])
    speak(rough, state, [0], 1)
    assert state.logits.dtype == torch.float32


@pytest.fixture(scope="module")
def cuda_like(data):
    """The dtype and the attention of CUDA without flash-attn, on the CPU."""
    model = Qwen3TTS.load(data / "tiny_1b7", dtype=torch.bfloat16)
    model.talker.attention = MaskedAttention("test")
    return model


@pytest.mark.parametrize("full_sort", [True, False])
def test_a_frame_step_on_cuda_never_waits_for_the_device(cuda_like, full_sort):
    """Tensors without values: reading one on the host, which a graph cannot do, would raise."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = cuda_like.new_state(slots=4, max_positions=POSITIONS)
        slots = torch.arange(3)
        codes, is_end = cuda_like.frame_step(state, slots, full_sort=full_sort, bound=64)
        codec_state = cuda_like.codec.new_state(slots=4)
        samples = cuda_like.codec.decode(codes[..., None], codec_state, slots, is_end)
    assert (codes.shape, is_end.shape, samples.shape) == ((3, 16), (3,), (3, 1920))


def test_a_wait_for_the_device_would_be_noticed(cuda_like, monkeypatch):
    """The attention for the CPU does read lengths on the host."""
    monkeypatch.setattr(cuda_like.talker, "attention", RowwiseAttention("test"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = cuda_like.new_state(slots=4, max_positions=POSITIONS)
        with pytest.raises(DataDependentOutputException):
            cuda_like.frame_step(state, torch.arange(3))


def test_a_large_state_takes_memory_only_where_it_is_written():
    def resident_bytes():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    before = resident_bytes()
    state = zeros(1 << 30, dtype=torch.float32, device=torch.device("cpu"))
    assert resident_bytes() - before < 1 << 28
    assert (state[:1000] == 0).all()


@pytest.mark.parametrize("read", [0, 8])
@pytest.mark.parametrize("padding", [1, 5])
def test_padding_of_a_prompt_that_fills_its_slot_spoils_nothing(model, solo, read, padding):
    prompt = prompt_of(model, WISHES[0])
    most = len(prompt.rows)
    state = model.new_state(slots=2, max_positions=most)
    model.begin(state, 0, prompt, seed=WISHES[0][5], sampling=WISHES[0][4])
    slots, rows = torch.tensor([0]), prompt.rows[None, :-1]
    if read:
        model.prefill(state, slots, rows[:, :read])
    rows = torch.nn.functional.pad(rows[:, read:], (0, 0, 0, padding), value=9.0)
    model.prefill(state, slots, rows, start=torch.tensor(read), bound=most)
    assert not state.keys[:, 1].any()
    roomy = model.new_state(slots=1, max_positions=POSITIONS)
    join(model, roomy, 0, WISHES[0])
    torch.testing.assert_close(cached(state, 0, most - 1), cached(roomy, 0, most - 1))
    assert torch.equal(speak(model, state, [0], 1)[0], solo[0][:1])


def test_speech_may_be_longer_than_the_text_that_a_slot_holds(model, solo):
    prompt = prompt_of(model, WISHES[3])
    count = len(prompt.text_rows)
    assert 1 < count < 12
    state = model.new_state(slots=1, max_positions=POSITIONS, max_text_rows=count)
    join(model, state, 0, WISHES[3])
    assert torch.equal(speak(model, state, [0], 12)[0], solo[3])


@pytest.mark.parametrize(("bound", "told"), [(None, POSITIONS), (48, 48)])
def test_attention_is_told_the_bound(model, monkeypatch, bound, told):
    class Recorder(RowwiseAttention):
        def decode(self, q, k, v, cache, places):
            bounds.append(places.bound)
            return super().decode(q, k, v, cache, places)

    bounds = []
    monkeypatch.setattr(model.talker, "attention", Recorder("test"))
    alone(model, WISHES[0], 1, bound=bound)
    assert set(bounds) == {told}


@pytest.mark.parametrize("full_sort", [True, False])
def test_talker_and_predictor_sort_as_they_are_told(model, monkeypatch, full_sort):
    class Recorder(Sampler):
        def __init__(self, sampling, draw, *, full_sort=True):
            sorts.append(full_sort)
            super().__init__(sampling, draw, full_sort=full_sort)

    sorts = []
    monkeypatch.setattr("qwen_tts_service.model.qwen3_tts.Sampler", Recorder)
    alone(model, WISHES[0], 1, full_sort=full_sort)
    assert sorts == [full_sort, full_sort]


def test_new_slots_have_the_sizes_asked_for_and_no_penalty(model):
    state = model.new_state(slots=3, max_positions=50, max_text_rows=7)
    width, choices = model.config.width, model.config.codes + 1
    assert state.keys.shape == state.values.shape == (2, 3, 50, 2, 16)
    assert state.max_positions == 50
    assert state.text_rows.shape == (3, 7, width)
    assert state.logits.shape == state.seen.shape == (3, choices)
    assert state.repetition_penalty.tolist() == [1.0, 1.0, 1.0]
    assert state.talker_sampling.top_p.tolist() == [1.0, 1.0, 1.0]


def test_seeds_of_64_bits_are_kept(model):
    state, prompt = model.new_state(slots=1, max_positions=POSITIONS), prompt_of(model, WISHES[0])
    for seed in (2**63 - 1, -(2**63), 2**53 + 1):
        model.begin(state, 0, prompt, seed=seed, sampling=GREEDY)
        assert state.seed.tolist() == [seed]
