"""The scheduler's plans as tables: no tensors, no threads, no clock."""

from dataclasses import replace

import pytest

from qwen_tts_service.engine.options import EngineOptions
from qwen_tts_service.engine.scheduler import (
    DecodeGroup,
    SequenceState,
    chunk_frames,
    end_of,
    may_join,
    plan_decode,
    plan_step,
    prompts_per_step,
)

OPTIONS = EngineOptions(
    slots=4, max_positions=100, prefill_piece_rows=8, prefill_rows_per_step=16, margin_s=0.05
)


def stream(**state):
    return SequenceState(
        **{"slot": 0, "prompt_rows": 5, "max_frames": 50, "runaway_frames": 60, **state}
    )


def speaking(**state):
    return stream(prefilled=5, **state)


@pytest.mark.parametrize(
    ("state", "advances"),
    [
        pytest.param({"prefilled": 5}, True, id="prompt read"),
        pytest.param({"prefilled": 0}, True, id="prompt short enough to be read now"),
        pytest.param({"prefilled": 5, "has_room": False}, False, id="reader does not keep up"),
        pytest.param({"prefilled": 5, "end": "stop"}, False, id="has ended"),
        pytest.param({"prefilled": 5, "started": 49}, True, id="last frame to come"),
        pytest.param({"prefilled": 5, "started": 50, "frames": 49}, False, id="last under way"),
        pytest.param({"prefilled": 5, "started": 7, "runaway_frames": 7}, False, id="runaway"),
        pytest.param({"prompt_rows": 40}, False, id="prompt too long for one step"),
    ],
)
def test_which_sequences_advance(state, advances):
    candidate = stream(**state)
    assert plan_step([candidate], 0, OPTIONS).advance == [candidate] * advances


def test_a_prompt_is_read_in_equal_pieces_and_no_more_of_it_than_a_step_may():
    long = stream(prompt_rows=20)
    plan = plan_step([long], 0, OPTIONS)
    assert (plan.prefill, plan.advance) == ([(long, 0, 8), (long, 8, 8)], [])
    long.prefilled = 16
    plan = plan_step([long], 0, OPTIONS)
    assert (plan.prefill, plan.advance) == ([(long, 16, 4)], [long])


def test_prompts_are_read_side_by_side_in_order_of_arrival():
    streams = [stream(prompt_rows=20 - n) for n in range(4)]
    first, second, *_ = streams
    plan = plan_step(streams, 0, OPTIONS)
    assert plan.prefill == [(first, 0, 8), (first, 8, 8), (second, 0, 8), (second, 8, 8)]
    assert plan.advance == []


@pytest.mark.parametrize(
    ("rows", "read"),
    [
        pytest.param([5, 5, 6, 1], 3, id="as many as a step may read"),
        pytest.param([5, 5, 7, 1], 2, id="not one row more, and nobody overtakes"),
        pytest.param([17, 1], 1, id="none beside a long one"),
    ],
)
def test_short_prompts_share_a_step(rows, read):
    streams = [stream(prompt_rows=n) for n in rows]
    options = replace(OPTIONS, start_steps=9)
    plan = plan_step(streams, 0, options)
    assert list(dict.fromkeys(s for s, _, _ in plan.prefill)) == streams[:read]


def test_a_prefix_is_read_by_itself():
    shared = stream(prompt_rows=20, prefix_rows=3)
    plan = plan_step([shared], 0, OPTIONS)
    assert plan.prefill == [(shared, 0, 3), (shared, 3, 8), (shared, 11, 8)]
    long = stream(prompt_rows=20, prefix_rows=10)
    assert plan_step([long], 0, OPTIONS).prefill == [(long, 0, 8), (long, 8, 2), (long, 10, 8)]
    known = stream(prompt_rows=20, prefix_rows=10, prefilled=10)
    assert plan_step([known], 0, OPTIONS).prefill == [(known, 10, 8), (known, 18, 2)]


def test_a_prompt_that_is_all_prefix_and_known_speaks_at_once():
    known = stream(prefix_rows=5, prefilled=5)
    plan = plan_step([known], 0, OPTIONS)
    assert (plan.prefill, plan.advance) == ([], [known])


def test_a_piece_larger_than_the_budget_is_still_read():
    waiting = stream(prompt_rows=20)
    small = replace(OPTIONS, prefill_rows_per_step=1)
    assert plan_step([waiting], 0, small).prefill == [(waiting, 0, 8)]


def test_long_prompts_do_not_stop_running_sequences():
    running = speaking()
    plan = plan_step([stream(prompt_rows=10_000), running], 0, OPTIONS)
    assert plan.advance == [running]
    assert sum(rows for _, _, rows in plan.prefill) <= OPTIONS.prefill_rows_per_step


def test_planning_changes_nothing():
    state = {"prompt_rows": 20, "frames": 3, "started": 3}
    one, twin = stream(**state), stream(**state)
    assert plan_step([one], 0, OPTIONS).prefill == [(one, 0, 8), (one, 8, 8)]
    plan_decode([one], OPTIONS, now_s=1.0, step_s=0.01)
    slots = SequenceState.__slots__
    assert [getattr(one, name) for name in slots] == [getattr(twin, name) for name in slots]


@pytest.mark.parametrize(
    ("there", "waiting", "prompts"),
    [
        pytest.param(0, 0, 0, id="nobody"),
        pytest.param(1, 0, 1, id="one"),
        pytest.param(0, 1, 1, id="one without a slot yet"),
        pytest.param(3, 0, 1, id="a step for each"),
        pytest.param(2, 2, 2, id="all who are there count"),
        pytest.param(16, 0, 6, id="a third"),
        pytest.param(16, 100, 22, id="no more than there are slots"),
    ],
)
def test_a_step_reads_a_third_of_the_prompts(there, waiting, prompts):
    options = replace(OPTIONS, slots=64)
    assert prompts_per_step([speaking()] * there, waiting, options) == prompts


@pytest.mark.parametrize(
    ("unread", "waiting", "may"),
    [
        pytest.param([], 1, True, id="nobody there"),
        pytest.param([0, 0], 1, True, id="all prompts read"),
        pytest.param([15], 1, True, id="rows left in the next step"),
        pytest.param([16], 1, False, id="a step has its prompt"),
        pytest.param([16], 9, True, id="a step reads another"),
        pytest.param([16, 1], 9, False, id="it has two"),
        pytest.param([8, 8], 1, False, id="full of two"),
    ],
)
def test_when_a_job_may_join(unread, waiting, may):
    streams = [stream(prompt_rows=rows) for rows in unread]
    assert may_join(streams, waiting, OPTIONS) is may


# Many at once -----------------------------------------------------------------------------


def arrive(rows, options, cost):
    """Have so many utterances with prompts of these rows come at once; simulate joining and steps.

    cost: of a step, for the rows that it reads and the sequences that it advances
    returns: the steps after which each has made its first frame, and what had been spent by then
    """
    waiting = [stream(prompt_rows=n, max_frames=999, runaway_frames=999) for n in rows]
    everyone, there, spent, step = list(waiting), [], 0.0, 0
    begun = {}
    while len(begun) < len(everyone):
        while waiting and len(there) < options.slots and may_join(there, len(waiting), options):
            there.append(waiting.pop(0))
        plan = plan_step(there, len(waiting), options)
        assert plan.prefill or plan.advance
        step += 1
        spent += cost(sum(rows for _, _, rows in plan.prefill), len(plan.advance))
        for sequence, start, count in plan.prefill:
            assert start == sequence.prefilled
            sequence.prefilled += count
        for sequence in plan.advance:
            sequence.started += 1
            begun.setdefault(sequence, (step, spent))
    return [begun[sequence] for sequence in everyone]


MANY = EngineOptions(slots=64, max_positions=4096)


@pytest.mark.parametrize("count", [1, 2, 5, 16, 64])
def test_all_who_arrive_at_once_have_begun_within_three_frames(count):
    begun = arrive([85] * count, MANY, lambda _rows, _frames: 1)
    steps = [step for step, _ in begun]
    assert max(steps) <= 3
    assert steps == sorted(steps), "nobody overtakes"


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 10, 13, 16, 33, 64])
@pytest.mark.parametrize("row_of_frame", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("prompt", [1.0, 2.0, 10.0])
def test_nobody_waits_longer_than_twice_the_mean(count, row_of_frame, prompt):
    # In units of what a frame costs whatever its rows are: a row of it more, and a whole prompt.
    def cost(rows, frames):
        return rows * prompt / 85 + 1 + frames * row_of_frame

    waits = [spent for _, spent in arrive([85] * count, MANY, cost)]
    assert max(waits) <= 2 * sum(waits) / count


def test_prompts_of_several_lengths_wait_no_longer_either():
    rows = [20 + 37 * n % 100 for n in range(16)]
    begun = arrive(rows, MANY, lambda rows, frames: rows * 4.5 + 205 + 29 * frames)
    waits = [spent for _, spent in begun]
    assert max(waits) <= 2 * sum(waits) / 16


def test_with_one_prompt_a_step_the_last_would_wait_longer():
    # As it was: what the test above measures depends on how many are read at a time.
    one = replace(MANY, start_steps=64)
    waits = [
        spent for _, spent in arrive([85] * 16, one, lambda rows, n: rows * 4.5 + 205 + 29 * n)
    ]
    assert max(waits) > 2 * sum(waits) / 16


def test_a_long_prompt_lets_others_begin_beside_it():
    begun = arrive([85, 3000, 85, 85, 85, 85], MANY, lambda _rows, _frames: 1)
    steps = [step for step, _ in begun]
    assert steps[1] == -(-3000 // 128)
    assert max(steps[:1] + steps[2:]) <= 5


# The end ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "drew_end", "end"),
    [
        pytest.param({"frames": 3}, False, None, id="goes on"),
        pytest.param({"frames": 3}, True, "stop", id="end of speech"),
        pytest.param({"frames": 50}, False, "length", id="what the caller allows"),
        pytest.param({"frames": 60, "max_frames": 99}, False, "runaway", id="lost its end"),
        pytest.param(
            {"frames": 60, "max_frames": 60}, False, "length", id="the caller comes first"
        ),
        pytest.param({"frames": 49}, True, "stop", id="the end just in time"),
    ],
)
def test_how_it_ends(state, drew_end, end):
    assert end_of(speaking(**state), drew_end=drew_end) == end


@pytest.mark.parametrize(
    ("state", "lead_s", "step_s", "frames"),
    [
        pytest.param({"frames": 1}, None, 0.01, 1, id="the first frame at once"),
        pytest.param({"chunks": 1, "decoded": 1, "frames": 2}, 0.07, 0.01, 1, id="the second too"),
        pytest.param({"chunks": 2, "decoded": 2, "frames": 3}, 0.5, 0.01, 0, id="lead: wait"),
        pytest.param({"chunks": 2, "decoded": 2, "frames": 3}, 0.06, 0.01, 1, id="no lead: send"),
        pytest.param({"chunks": 2, "decoded": 2, "frames": 3}, -9.0, 0.01, 1, id="late: send"),
        pytest.param({"chunks": 2, "decoded": 2, "frames": 4}, 0.5, 0.01, 2, id="the ramp is full"),
        pytest.param(
            {"chunks": 4, "decoded": 8, "frames": 15}, 0.06, 0.01, 4, id="sizes of the ramp"
        ),
        pytest.param(
            {"chunks": 9, "decoded": 8, "frames": 16}, 9.0, 0.01, 8, id="the ramp repeats"
        ),
        pytest.param({"chunks": 9, "decoded": 8, "frames": 17}, 9.0, 0.01, 8, id="never above it"),
        pytest.param({"chunks": 9, "decoded": 8, "frames": 9}, 0.1, 0.2, 0, id="too slow: group"),
        pytest.param(
            {"chunks": 9, "decoded": 8, "frames": 11, "end": "stop"}, 9.0, 0.01, 3, id="the rest"
        ),
        pytest.param(
            {"chunks": 1, "decoded": 1, "frames": 4, "end": "stop"}, 9.0, 0.01, 1, id="rest by ramp"
        ),
    ],
)
def test_how_much_is_decoded(state, lead_s, step_s, frames):
    candidate = speaking(**state)
    now_s = 100.0
    if lead_s is not None:
        candidate.first_sent_s = now_s - (candidate.decoded * 0.08 - lead_s)
    assert chunk_frames(candidate, OPTIONS, now_s=now_s, step_s=step_s) == frames


def test_fixed_chunks_ignore_the_clock():
    late = speaking(chunks=2, decoded=2, frames=3, first_sent_s=0.0)
    fixed = replace(OPTIONS, deterministic=True)
    assert chunk_frames(late, fixed, now_s=100.0, step_s=0.01) == 0


def test_streams_that_decode_as_much_go_together():
    fresh, other, far = speaking(frames=1), speaking(frames=1), speaking(frames=8, chunks=9)
    full, idle = speaking(frames=1, has_room=False), speaking()
    groups = plan_decode([far, fresh, full, other, idle], OPTIONS, now_s=0.0, step_s=0.01)
    assert groups == [DecodeGroup(1, True, [fresh, other]), DecodeGroup(8, False, [far])]


def test_first_chunks_go_before_others_of_the_same_size():
    second, first = speaking(frames=2, decoded=1, chunks=1), speaking(frames=1)
    groups = plan_decode([second, first], OPTIONS, now_s=0.0, step_s=0.01)
    assert groups == [DecodeGroup(1, True, [first]), DecodeGroup(1, False, [second])]


@pytest.mark.parametrize("started", [0, 1, 7])
def test_a_frame_step_leaves_its_own_position_filled(started):
    # The last row of the prompt is the first frame's input: 5 rows are read, the 6th is fed.
    assert speaking(started=started).positions == 6 + started


@pytest.mark.parametrize(
    ("state", "can_move"),
    [
        pytest.param({"prefilled": 5}, True, id="all text there"),
        pytest.param({"prefilled": 5, "text_rows": 3, "started": 2}, True, id="one row left"),
        pytest.param({"prefilled": 5, "text_rows": 3, "started": 3}, False, id="no text left"),
        pytest.param({"prefilled": 4, "text_rows": 0}, True, id="prompt to be read"),
        pytest.param({"prefilled": 4, "has_room": False}, False, id="no room"),
        pytest.param({"prefilled": 5, "has_room": False}, False, id="no room, and all read"),
    ],
)
def test_what_can_move(state, can_move):
    assert stream(**state).can_move is can_move


def test_a_stream_advances_as_far_as_its_text_goes():
    candidate = speaking(text_rows=2, started=1)
    assert plan_step([candidate], 0, OPTIONS).advance == [candidate]
    candidate.started = 2
    assert plan_step([candidate], 0, OPTIONS).advance == []


@pytest.mark.parametrize(
    ("state", "is_spoken"),
    [
        pytest.param({"frames": 4, "decoded": 4}, False, id="goes on"),
        pytest.param({"frames": 4, "decoded": 3, "end": "stop"}, False, id="a frame to decode"),
        pytest.param({"frames": 4, "decoded": 4, "end": "stop"}, True, id="all decoded"),
        pytest.param({"end": "stop"}, True, id="nothing to say"),
    ],
)
def test_when_all_is_spoken(state, is_spoken):
    assert speaking(**state).is_spoken is is_spoken


@pytest.mark.parametrize(("most", "runaway"), [(3, 9), (9, 3)])
def test_the_smaller_limit_counts(most, runaway):
    assert speaking(max_frames=most, runaway_frames=runaway).frame_limit == 3


def test_an_ended_prompt_is_read_no_further():
    assert plan_step([stream(end="cancelled")], 0, OPTIONS).prefill == []


def test_a_prompt_is_read_while_its_reader_has_no_room():
    full = stream(has_room=False)
    plan = plan_step([full], 0, OPTIONS)
    assert (plan.prefill, plan.advance) == ([(full, 0, 5)], [])


def test_a_second_prompt_waits_when_a_step_reads_one():
    first, second = stream(prompt_rows=16), stream(prompt_rows=16)
    assert plan_step([first, second], 0, OPTIONS).prefill == [(first, 0, 8), (first, 8, 8)]


@pytest.mark.parametrize(("prefilled", "may"), [(0, False), (4, False), (5, True), (20, True)])
def test_only_prompts_that_are_not_read_yet_keep_others_out(prefilled, may):
    assert may_join([stream(prompt_rows=20, prefilled=prefilled)], 1, OPTIONS) is may


@pytest.mark.parametrize(
    ("lead_s", "step_s", "frames"),
    [
        pytest.param(0.0701, 0.01, 0, id="just in time"),
        pytest.param(0.0699, 0.01, 1, id="just late"),
        pytest.param(0.01, 0.0799, 1, id="a step as long as a frame, almost"),
        pytest.param(0.01, 0.08, 0, id="a step as long as a frame"),
    ],
)
def test_the_lead_that_a_reader_needs_is_a_margin_and_two_steps(lead_s, step_s, frames):
    candidate = speaking(chunks=2, decoded=2, frames=3)
    candidate.first_sent_s = 100.0 - (2 * 0.08 - lead_s)
    assert chunk_frames(candidate, OPTIONS, now_s=100.0, step_s=step_s) == frames


def test_before_the_first_chunk_was_sent_nothing_is_late():
    candidate = speaking(chunks=2, decoded=2, frames=3, first_sent_s=None)
    assert chunk_frames(candidate, OPTIONS, now_s=100.0, step_s=0.01) == 0


def test_the_time_of_a_step_is_passed_on_to_each_chunk():
    late = speaking(chunks=2, decoded=2, frames=3, first_sent_s=0.0)
    assert plan_decode([late], OPTIONS, now_s=100.0, step_s=0.01) == [DecodeGroup(1, False, [late])]
    assert plan_decode([late], OPTIONS, now_s=0.0, step_s=0.01) == []
    assert plan_decode([late], OPTIONS, now_s=100.0, step_s=1.0) == []


@pytest.mark.parametrize(("there", "frames"), [(1, 0), (2, 2), (3, 2)])
def test_a_reader_that_runs_dry_gets_no_less_than_the_smallest_chunk(there, frames):
    late = speaking(frames=there, chunks=2, first_sent_s=0.0)
    options = replace(OPTIONS, chunk_frames=(2, 2, 4))
    assert chunk_frames(late, options, now_s=100.0, step_s=0.01) == frames


@pytest.mark.parametrize(
    ("silence_s", "frames"), [(10.0, 125), (0.8, 10), (0.1, 1), (0.08, 1), (0.16, 2), (0.0, 1)]
)
def test_silence_is_counted_in_whole_frames_of_which_there_is_one(silence_s, frames):
    assert replace(OPTIONS, silence_s=silence_s).silence_frames == frames


def test_default_options_are_the_measured_ones():
    options = EngineOptions(slots=1, max_positions=2)
    assert options == EngineOptions(
        slots=1,
        max_positions=2,
        max_text_rows=1024,
        chunk_frames=(1, 1, 2, 4, 8),
        prefill_piece_rows=64,
        prefill_rows_per_step=128,
        start_steps=3,
        prefix_cache_rows=1024,
        max_lead_s=8.0,
        margin_s=0.05,
        silence_s=10.0,
        silence_rms=1e-3,
        max_failures=3,
        stall_s=120.0,
        threads=None,
        deterministic=False,
    )
