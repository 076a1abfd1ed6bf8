"""Frames of many slots at once: each row is what it would be alone."""

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.kernels.attention import CachePositions, MaskedAttention, RowwiseAttention
from qwen_tts_service.kernels.device import zeros
from qwen_tts_service.model.qwen3_tts import Qwen3TTS, sum_embeddings
from qwen_tts_service.model.state import allocate_slots
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


@pytest.fixture(scope="module")
def fused(data):
    """With the plain definitions of the fused kernels, which is what they are on a CPU."""
    return Qwen3TTS.load(data / "tiny_1b7", linear="float", fused_kernels=True)


@pytest.fixture(params=["model", "fused"])
def either(request):
    """Torch's own kernels, or the fused ones."""
    return request.getfixturevalue(request.param)


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


def test_a_slot_remembers_nothing_of_its_last_job(model, state, solo):
    for wish in (WISHES[2], WISHES[3], WISHES[1]):
        join(model, state, 2, wish)
        speak(model, state, [2], 6)
    join(model, state, 2, WISHES[0])
    assert torch.equal(speak(model, state, [2], 12)[0], solo[0])


def test_idle_slots_keep_their_state(either, state):
    for slot in (0, 1):
        join(either, state, slot, WISHES[slot])
    speak(either, state, [0, 1], 2)
    tensors = [state.length, state.frame, state.next_input, state.seen, state.logits]
    caches = [state.keys, state.values]
    before = [x[1].clone() for x in tensors] + [x[:, 1].clone() for x in caches]
    speak(either, state, [0], 3)
    after = [x[1] for x in tensors] + [x[:, 1] for x in caches]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_state_is_filled_in_place(either, state):
    tensors = [state.keys, state.values, state.length, state.seen, state.next_input]
    addresses = [x.data_ptr() for x in tensors]
    join(either, state, 0, WISHES[0])
    speak(either, state, [0], 2)
    fresh = [state.keys, state.values, state.length, state.seen, state.next_input]
    assert [x.data_ptr() for x in fresh] == addresses


def test_several_rows_may_share_the_padding_slot(model, state, solo):
    join(model, state, 0, WISHES[0])
    padding = len(WISHES)
    codes = speak(model, state, [padding, 0, padding, padding], 6)
    assert torch.equal(codes[1], solo[0][:6])


def test_the_cheap_filter_makes_the_same_codes(model, solo):
    assert torch.equal(alone(model, WISHES[0], 12, full_sort=False), solo[0])


@pytest.mark.parametrize("wish", [WISHES[1], WISHES[3]])
def test_fused_kernels_speak_on_when_the_text_is_over_as_plain_ones_do(model, fused, wish, solo):
    assert len(prompt_of(model, wish).text_rows) < 12
    assert torch.equal(alone(fused, wish, 12), solo[WISHES.index(wish)])


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


@pytest.mark.parametrize("is_fused", [False, True])
def test_the_end_is_flagged_and_its_codes_are_in_range(data, is_fused):
    """Case 4 of the 0.6B's recorded outputs ends after four frames."""
    small_model = Qwen3TTS.load(data / "tiny_0b6", fused_kernels=is_fused)
    state = small_model.new_state(slots=1, max_positions=POSITIONS)
    join(small_model, state, 0, ("dialect", "Dylan", "Chinese", "streaming_text", GREEDY, 0))
    slots, ends = torch.tensor([0]), []
    for _ in range(6):
        codes, is_end = small_model.frame_step(state, slots)
        assert ((codes >= 0) & (codes < small_model.config.codes)).all()
        ends.append(bool(is_end))
    assert ends[:5] == [False, False, False, False, True]


def test_a_row_that_runs_on_stays_inside_its_slot(either):
    prompt = prompt_of(either, WISHES[0])
    state = either.new_state(slots=2, max_positions=len(prompt.rows) + 2)
    join(either, state, 0, WISHES[0])
    join(either, state, 1, WISHES[0])
    before = state.keys[:, 1].clone()
    speak(either, state, [0], 6)
    assert state.length.tolist() == [len(prompt.rows) + 2, len(prompt.rows) - 1]
    assert torch.equal(state.keys[:, 1], before)


def cached(state, slot, length):
    return torch.stack((state.keys[:, slot, :length], state.values[:, slot, :length]))


def test_a_prompt_may_be_read_in_pieces(model, state, solo):
    prompt = prompt_of(model, WISHES[2])
    model.begin(state, 3, prompt, seed=3, sampling=GREEDY)
    rows, at = prompt.rows[:-1], torch.tensor([3])
    for start, end in ((0, 1), (1, 8), (8, 30), (30, len(rows))):
        model.prefill(state, rows[start:end], [model.piece(at, start, end - start)])
    join(model, state, 0, WISHES[2])
    length = len(rows)
    torch.testing.assert_close(cached(state, 3, length), cached(state, 0, length))
    assert torch.equal(speak(model, state, [3], 12)[0], solo[2])


def test_pieces_of_several_prompts_read_at_once_have_the_bits_of_each_alone(model, state, solo):
    wishes = (WISHES[0], WISHES[2], WISHES[0])
    prompts = [prompt_of(model, wish) for wish in wishes]
    pieces, rows = [], []
    for slot, (prompt, wish) in enumerate(zip(prompts, wishes, strict=True)):
        model.begin(state, slot, prompt, seed=wish[5], sampling=wish[4])
        for start, end in ((0, 8), (8, len(prompt.rows) - 1)):
            pieces.append(model.piece(torch.tensor([slot]), start, end - start))
            rows.append(prompt.rows[start:end])
    model.prefill(state, torch.cat(rows), pieces)
    for slot, prompt in enumerate(prompts):
        at, end = torch.tensor([3]), len(prompt.rows) - 1
        model.prefill(state, prompt.rows[:8], [model.piece(at, 0, 8)])
        model.prefill(state, prompt.rows[8:end], [model.piece(at, 8, end - 8)])
        assert torch.equal(cached(state, slot, end), cached(state, 3, end))
    codes = speak(model, state, [0, 1, 2], 12)
    assert torch.equal(codes, torch.stack((solo[0], solo[2], solo[0])))


@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 30])
def test_padding_behind_a_prompt_that_nearly_fills_its_slot_does_no_harm(model, solo, spare, start):
    prompt = prompt_of(model, WISHES[2])
    rows = prompt.rows[:-1]
    state = model.new_state(slots=2, max_positions=len(prompt.rows) + spare)
    model.begin(state, 0, prompt, seed=3, sampling=GREEDY)
    at, bound = torch.tensor([0]), state.max_positions
    if start:
        model.prefill(state, rows[:start], [model.piece(at, 0, start)])
    padded = torch.cat((rows[start:], torch.ones(7, rows.shape[1])))
    positions = torch.tensor([*range(start, len(rows)), *[bound - 1] * 7])
    model.prefill(state, padded, [CachePositions(at, positions, bound)])
    assert torch.equal(speak(model, state, [0], 1 + spare)[0], solo[2][: 1 + spare])
    assert not state.keys[:, 1].any()


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


def test_a_prompt_may_fill_its_slot(model, solo):
    prompt = prompt_of(model, WISHES[0])
    state = model.new_state(slots=1, max_positions=len(prompt.rows))
    join(model, state, 0, WISHES[0])
    assert torch.equal(speak(model, state, [0], 1)[0], solo[0][:1])


def test_state_has_the_dtypes_of_its_model(cuda_like):
    state = cuda_like.new_state(slots=2, max_positions=9, max_text_rows=5)
    rough = (state.keys, state.values, state.next_input, state.text_rows)
    assert {x.dtype for x in rough} == {torch.bfloat16}
    assert (state.logits.dtype, state.repetition_penalty.dtype) == (torch.float32, torch.float64)
    assert {x.dtype for x in (state.length, state.frame, state.seed)} == {torch.int64}
    assert state.keys.shape == state.values.shape == (2, 2, 9, *state.keys.shape[3:])
    assert state.text_rows.shape[:2] == (2, 5)
    assert cuda_like.new_state(slots=1, max_positions=1).text_rows.shape[1] == 1024


def test_state_lies_on_the_device_it_is_asked_for(model):
    sizes = {"slots": 1, "max_positions": 2, "max_text_rows": 3}
    device = torch.device("meta")
    state = allocate_slots(model.config, **sizes, dtype=torch.float32, device=device)
    assert {getattr(state, field.name).device.type for field in fields(state)} == {"meta"}


def test_a_slot_has_at_most_the_positions_that_the_model_has(model):
    most = model.config.max_positions
    assert model.new_state(slots=1, max_positions=most).max_positions == most
    with pytest.raises(AssertionError):
        model.new_state(slots=1, max_positions=most + 1)


def test_a_slot_begins_as_its_prompt_says_and_leaves_the_others(model):
    state = model.new_state(slots=3, max_positions=POSITIONS)
    fresh = model.new_state(slots=3, max_positions=POSITIONS)
    prompt = prompt_of(model, WISHES[1])
    for tensor in (state.frame, state.seen, state.logits):
        tensor[:2].fill_(1)
    sampling = SamplingOptions(temperature=0.5, top_k=3, top_p=0.25, repetition_penalty=1.25)
    model.begin(state, 1, prompt, seed=-5, sampling=sampling, predictor_sampling=GREEDY)
    assert state.length.tolist() == [0, len(prompt.rows) - 1, 0]
    assert (state.frame.tolist(), state.seed.tolist()) == ([1, 0, 0], [0, -5, 0])
    assert torch.equal(state.next_input[1], prompt.rows[-1])
    assert state.seen.any(dim=1).tolist() == [True, False, False]
    assert state.repetition_penalty.tolist() == [1.0, 1.25, 1.0]
    assert state.text_length.tolist() == [0, len(prompt.text_rows), 0]
    assert torch.equal(state.text_rows[1, : len(prompt.text_rows)], prompt.text_rows)
    assert state.talker_sampling.top_p.tolist() == [1.0, 0.25, 1.0]
    assert state.predictor_sampling.top_p.tolist() == [1.0, GREEDY.top_p, 1.0]
    for slot in (0, 2):
        assert torch.equal(state.next_input[slot], fresh.next_input[slot])
        assert torch.equal(state.text_rows[slot], fresh.text_rows[slot])


@pytest.mark.parametrize("spare", [0, 1])
def test_speech_goes_on_when_the_text_that_fills_its_slot_is_spoken(model, solo, spare):
    prompt = prompt_of(model, WISHES[3])
    count = len(prompt.text_rows)
    assert count < 11
    rows = count + spare
    state = model.new_state(slots=1, max_positions=POSITIONS, max_text_rows=rows)
    join(model, state, 0, WISHES[3])
    assert torch.equal(speak(model, state, [0], 12)[0], solo[3])


class NotingDraw:
    """Notes the dtype of every codebook's logits and takes the best."""

    def __init__(self):
        self.noted = []

    def frame(self, seed, frame, codebooks, choices):
        self.noted.append((seed.tolist(), frame.tolist(), codebooks, choices))

        def draw(logits, codebook):
            self.noted.append((codebook, logits.dtype, logits.shape[1]))
            return logits.argmax(dim=1)

        return draw


def test_every_codebook_is_drawn_in_turn_from_float32(cuda_like):
    state = cuda_like.new_state(slots=2, max_positions=POSITIONS)
    join(cuda_like, state, 1, WISHES[0])
    draw, codes = NotingDraw(), cuda_like.config.codes
    for frame in range(2):
        cuda_like.frame_step(state, torch.tensor([1]), draw=draw, bound=64)
        first, *books = draw.noted[frame * 17 : frame * 17 + 17]
        assert first == ([1], [frame], 16, codes + 1)
        assert books == [(0, torch.float32, codes + 1)] + [
            (book, torch.float32, codes) for book in range(1, 16)
        ]


def test_bfloat16_is_the_talkers_and_the_prompts_but_not_the_codecs(cuda_like):
    assert cuda_like.dtype == cuda_like.prompts.text_rows([5]).dtype == torch.bfloat16
    assert cuda_like.codec.dtype == torch.float32
    for part in (cuda_like.talker, cuda_like.code_predictor, cuda_like.prompts):
        assert {x.dtype for x in part.parameters()} == {torch.bfloat16}


class NotingAttention(RowwiseAttention):
    """Notes the bound of every call."""

    def decode(self, q, k, v, cache, at):
        self.reason = str(at.bound)
        return super().decode(q, k, v, cache, at)


@pytest.mark.parametrize(("bound", "said"), [(64, "64"), (None, str(POSITIONS))])
def test_attention_gets_the_bound(model, monkeypatch, bound, said):
    attention = NotingAttention("")
    monkeypatch.setattr(model.talker, "attention", attention)
    state = model.new_state(slots=1, max_positions=POSITIONS)
    join(model, state, 0, WISHES[0])
    model.frame_step(state, torch.tensor([0]), bound=bound)
    assert attention.reason == said


def test_the_logits_of_the_last_frame_are_kept(either):
    state = either.new_state(slots=2, max_positions=POSITIONS)
    join(either, state, 1, WISHES[2])
    codes, _ = either.frame_step(state, torch.tensor([1]))
    assert int(state.logits[1, :-1].argmax()) == int(codes[0, 0])
    assert state.seen[1].nonzero().flatten().tolist() == [int(codes[0, 0])]
    assert not state.logits[0].any()


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
    model = Qwen3TTS.load(data / "tiny_1b7", dtype=torch.bfloat16, linear="float")
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


def test_a_wait_for_the_device_would_be_noticed(cuda_like, monkeypatch: pytest.MonkeyPatch):
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
