"""What a runner keeps in its slots, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from tests.engine.harness import OPTIONS, RUNNERS, make_job

from qwen_tts_service.engine.job import TextFeed
from qwen_tts_service.engine.runner import PlainRunner
from qwen_tts_service.engine.slots import NOT_FINITE, RING_FRAMES, PromptPiece, tensor_bytes
from qwen_tts_service.errors import InvalidRequest

SMALL = replace(OPTIONS, slots=2, max_positions=64)
both = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(autouse=True)
def _as_in_the_engine():
    with torch.inference_mode():
        yield


@pytest.fixture
def runner(model):
    return PlainRunner(model, SMALL)


def rows_of(model, job):
    prompt = model.prompts.build(
        job.ids,
        speaker=job.speaker,
        language=job.language,
        instruct_ids=job.instruct_ids,
        layout=job.layout,
        is_open=job.feed is not None,
    )
    return len(prompt.rows), len(prompt.text_rows)


def begin(runner, slot, job):
    """Begin a job and read its prompt, its prefix by itself; returns the prompt and what it had."""
    prompt, known = runner.begin(slot, job)
    for start, end in ((known, prompt.prefix_rows), (prompt.prefix_rows, len(prompt.rows) - 1)):
        if start < end:
            runner.prefill([PromptPiece(slot, prompt, start, end - start)])
    return prompt, known


@both
def test_logits_that_are_not_finite_are_told_of_their_own_row(model, runner):
    made = runner(model, SMALL)
    for slot in (0, 1):
        begin(made, slot, make_job(model, slot))
    made._slots.state.values[:, 1] = float("nan")
    outcome = made.frame([0, 1], full_sort=False, positions=SMALL.max_positions)
    assert outcome.wait().tolist() == [0, NOT_FINITE]


@pytest.mark.parametrize("limit", ["max_frames", "runaway_frames"])
@pytest.mark.parametrize("too_many", [0, 1])
def test_what_just_fits_is_spoken_and_one_frame_more_is_refused(model, runner, limit, too_many):
    job = make_job(model, 0)
    room = SMALL.max_positions - rows_of(model, job)[0] + too_many
    job = replace(job, **{"max_frames": 10**6, "runaway_frames": 10**6, limit: room})
    if not too_many:
        assert runner.begin(0, job)[1] == 0
        return
    with pytest.raises(InvalidRequest, match="65 positions, but a slot has 64") as refused:
        runner.begin(0, job)
    assert refused.value.param == "text"


@pytest.mark.parametrize("too_many", [0, 1])
def test_as_many_text_rows_as_there_are_positions_are_spoken(model, too_many):
    job = make_job(model, 1, layout="streaming_text")
    rows = rows_of(model, job)[1]
    assert rows > 2
    runner = PlainRunner(model, replace(SMALL, max_text_rows=rows - too_many))
    if not too_many:
        runner.begin(0, job)
        return
    with pytest.raises(InvalidRequest, match="text has more than") as refused:
        runner.begin(0, job)
    assert refused.value.param == "text"


def test_an_open_text_has_no_end_row_yet(model, runner):
    closed = make_job(model, 1, layout="streaming_text")
    prompt, _ = runner.begin(0, replace(closed, feed=TextFeed()))
    assert len(prompt.text_rows) == rows_of(model, closed)[1] - 1


def test_added_text_and_its_end_come_to_the_whole(model, runner):
    whole = make_job(model, 1, layout="streaming_text")
    runner.begin(0, whole)
    first = replace(whole, ids=(*whole.ids[:4], *whole.ids[-5:]), feed=TextFeed())
    rest = whole.ids[4:-5]
    runner.begin(1, first)
    runner.append_text(1, rest[:2], start=0, is_end=False)
    assert runner._slots.state.text_length[1] == 2
    runner.append_text(1, rest[2:], start=2, is_end=True)
    state = runner._slots.state
    count = len(rest) + 1
    assert state.text_length.tolist() == [count, count]
    assert torch.allclose(state.text_rows[0, :count], state.text_rows[1, :count], atol=1e-6)


@both
def test_a_slot_is_begun_as_if_new(model, runner):
    runner = runner(model, SMALL)
    slots = runner._slots
    job = make_job(model, 0)
    begin(runner, 1, job)
    for _ in range(3):
        runner.frame([1], full_sort=True, positions=60).wait()
    runner.decode([1], [0], 2, is_first=False).wait()
    assert slots.codec_state.frames.tolist()[:2] == [0, 2]
    prompt, _ = runner.begin(1, make_job(model, 2))
    assert slots.codec_state.frames.tolist()[:2] == [0, 0]
    assert all(not tensor[1].any() for tensor in slots.codec_state.tensors())
    assert slots.state.frame[1] == 0
    assert slots.state.length[1] == len(prompt.rows) - 1


@both
def test_after_clearing_nothing_is_left_in_the_slots_and_the_rest_stays(model, runner):
    runner = runner(model, SMALL)
    slots = runner._slots
    for slot in (0, 1):
        begin(runner, slot, make_job(model, slot))
    runner.frame([0, 1], full_sort=True, positions=60).wait()
    runner.decode([0, 1], [0, 0], 1, is_first=False).wait()
    slots.state.keys[:, 1, 50:].fill_(torch.nan)
    slots.codec_state.tails[0][1].fill_(torch.nan)
    kept = slots.state.length[0].item()
    runner.clear([1])
    for cache in (slots.state.keys, slots.state.values):
        assert not cache[:, 1].any()
        assert cache[:, 0].any()
    assert slots.state.length.tolist()[:2] == [kept, 0]
    assert all(not tensor[1].any() for tensor in slots.codec_state.tensors())
    assert slots.codec_state.frames[0] == 1
    assert begin(runner, 1, make_job(model, 0))[1] == 0, "no prefix is known"


def test_several_slots_are_cleared_at_once(model, runner):
    for slot in (0, 1):
        begin(runner, slot, make_job(model, slot))
    runner.clear((0, 1))
    assert not runner._slots.state.keys.any()


@both
def test_a_known_prefix_brings_its_keys_and_values(model, runner):
    runner = runner(model, SMALL)
    state = runner._slots.state
    job = make_job(model, 0)
    prompt, known = begin(runner, 0, job)
    assert known == 0
    _, known = runner.begin(1, job)
    assert known == prompt.prefix_rows > 0
    for cache in (state.keys, state.values):
        assert torch.equal(cache[:, 1, :known], cache[:, 0, :known])
        assert not cache[:, 1, known:].any()
        assert cache[:, 1, :known].any()


def test_a_prefix_is_kept_only_when_just_that_has_been_read(model, runner):
    job = make_job(model, 0)
    prompt, _ = runner.begin(0, job)
    runner.prefill([PromptPiece(0, prompt, 0, prompt.prefix_rows + 1)])
    assert runner.begin(1, job)[1] == 0
    runner.prefill([PromptPiece(1, prompt, 0, prompt.prefix_rows - 1)])
    assert runner.begin(0, job)[1] == 0
    runner.prefill([PromptPiece(1, prompt, prompt.prefix_rows - 1, 1)])
    assert runner.begin(0, job)[1] == prompt.prefix_rows


def test_what_is_kept_of_a_prefix_is_a_copy(model, runner):
    job = make_job(model, 0)
    prompt, _ = begin(runner, 0, job)
    kept = runner._slots.state.keys[:, 0, : prompt.prefix_rows].clone()
    runner._slots.state.keys.zero_()
    runner.begin(1, job)
    assert torch.equal(runner._slots.state.keys[:, 1, : prompt.prefix_rows], kept)


def test_codes_lie_in_the_ring_at_their_frame(model, runner):
    begin(runner, 0, make_job(model, 4, max_frames=36))
    codes = []
    for frame in range(RING_FRAMES + 2):
        runner.frame([0], full_sort=True, positions=60).wait()
        codes.append(runner._slots.ring[0, frame % RING_FRAMES].clone())
    ring = runner._slots.ring
    assert not ring[1].any()
    for frame in range(2, RING_FRAMES + 2):
        assert torch.equal(ring[0, frame % RING_FRAMES], codes[frame])
    assert len({tuple(code.tolist()) for code in codes[-8:]}) > 1


def test_frames_are_decoded_across_the_end_of_the_ring(model, runner):
    first = RING_FRAMES - 2
    decode, seen = model.codec.decode, []
    ring = runner._slots.ring
    ring.copy_(torch.arange(ring.numel()).view(ring.shape) % 60)

    class Codec:
        def decode(self, codes, *rest):
            seen.append(codes)
            return decode(codes, *rest)

    runner._slots.model = replace(model, codec=Codec())
    runner.decode([1], [first], 4, is_first=False).wait()
    indices = [first, first + 1, 0, 1]
    assert torch.equal(seen[0], ring[1, indices].T[None])


@both
def test_a_row_that_ends_is_marked_at_its_own_index(model, runner):
    runner = runner(model, SMALL)
    for slot in (0, 1):
        begin(runner, slot, make_job(model, slot))
    step = runner._slots.frame
    runner._slots.frame = lambda slots, **how: step(slots, **how) & False | (slots == 1)
    if hasattr(runner, "_frames"):
        runner._capture_all(lambda _step, _fraction: None)
    assert runner.frame([0, 1], full_sort=True, positions=60).wait().tolist() == [False, True]
    assert runner.frame([1], full_sort=False, positions=60).wait().tolist() == [True]
    assert runner.frame([0], full_sort=False, positions=60).wait().tolist() == [False]


@pytest.mark.parametrize("full_sort", [True, False])
def test_the_kind_of_sorting_is_passed_on(model, runner, full_sort):
    seen, step = [], runner._slots.frame
    runner._slots.frame = lambda slots, **how: seen.append(how) or step(slots, **how)
    begin(runner, 0, make_job(model, 0))
    runner.frame([0], full_sort=full_sort, positions=60)
    assert seen == [{"full_sort": full_sort}]


@pytest.mark.parametrize(("deterministic", "calls"), [(False, [2]), (True, [1, 1])])
def test_frames_are_decoded_row_by_row_where_bits_must_not_change(model, deterministic, calls):
    runner = PlainRunner(model, replace(SMALL, deterministic=deterministic))
    seen, sound = [], runner._slots.decode
    runner._slots.decode = lambda slots, *rest: seen.append(len(slots)) or sound(slots, *rest)
    assert runner.decode([1, 0], [0, 0], 1, is_first=False).wait().shape == (2, 1920)
    assert seen == calls


def test_outcomes_of_plain_calls_are_there_at_once(model, runner):
    begin(runner, 0, make_job(model, 0))
    runner.frame([0], full_sort=True, positions=60)
    assert runner.decode([0], [0], 1, is_first=False).is_ready()
    assert runner.run_ahead == 0


def test_the_memory_of_weights_and_state_is_reported(model, runner):
    slots = runner._slots
    assert "(2 slots of 64 positions)" in slots.memory
    parts = (*vars_of(slots.state), *slots.codec_state.tensors(), slots.ring)
    assert tensor_bytes((slots.state, slots.codec_state.tensors(), slots.ring)) == sum(
        tensor.nbytes for tensor in parts
    )
    assert f"weights {model.weight_bytes / 2**20:.0f} MiB" in slots.memory


def vars_of(state):
    """All tensors of the slots' state."""
    return [getattr(state, name) for name in state.__slots__]


def test_bytes_are_those_of_tensors_wherever_they_are():
    assert tensor_bytes([torch.zeros(3), (torch.zeros(2, dtype=torch.int64), 5, None)]) == 28
