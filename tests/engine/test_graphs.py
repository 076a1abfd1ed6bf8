"""Graphs give the results of plain calls, however late the device is."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.engine.harness import (
    LateDriver,
    OnDevice,
    RecordingDriver,
    endless,
    graphs,
    late,
    make_job,
    plain,
    read,
    until,
)

from qwen_tts_service.engine.graphs import (
    CODEC_LAG_STEPS,
    MIN_BOUND,
    MIN_PROMPT_ROWS,
    GraphRunner,
    doubling,
    smallest,
)
from qwen_tts_service.engine.options import EngineOptions
from qwen_tts_service.engine.slots import RING_FRAMES, PromptPiece
from qwen_tts_service.kernels.attention import MaskedAttention
from qwen_tts_service.model.qwen3_tts import Qwen3TTS

FRAME = 1920
DEVICES = [
    pytest.param((), id="all late"),
    pytest.param(("frames",), id="codec late"),
    pytest.param(("first",), id="first chunks early"),
    pytest.param(("bulk",), id="first chunks late"),
    pytest.param(("first", "bulk"), id="frames late"),
    pytest.param(("frames", "first", "bulk"), id="nothing late"),
]
# Few graphs, which are made anew for every test.
SMALL = {"slots": 3, "max_positions": 256, "prefill_piece_rows": 32, "chunk_frames": (1, 4)}


@pytest.fixture(scope="module")
def masked(quick_checkpoint):
    """The model with the attention that reads up to a bound, as on CUDA without flash-attn."""
    model = Qwen3TTS.load(quick_checkpoint)
    for part in model.talker.modules():
        if hasattr(part, "attention"):
            part.attention = MaskedAttention("for a test")
    assert isinstance(model.attention, MaskedAttention)
    return model


@pytest.fixture(scope="module")
def jobs(model):
    return [make_job(model, n, max_frames=frames) for n, frames in enumerate((45, 20, 12, 6))]


@pytest.fixture(scope="module")
async def expected(model, jobs):
    with endless(model, plain, **SMALL) as (engine, _):
        return await asyncio.gather(*[read(engine.submit(job)) for job in jobs])


@pytest.mark.parametrize("prompt", DEVICES)
async def test_however_late_the_device_is_the_speech_is_that_of_plain_calls(
    model, jobs, expected, prompt
):
    assert len(expected[0]) > (RING_FRAMES + 8) * FRAME, "longer than the ring"
    with endless(model, late(*prompt), **SMALL) as (engine, _):

        async def leave():
            channel = engine.submit(make_job(model, 9, max_frames=150))
            await anext(aiter(channel))
            await until(lambda: engine.statistics.frames > 20)
            await channel.aclose()

        spoken = [read(engine.submit(job)) for job in jobs]
        got = (await asyncio.gather(leave(), *spoken))[1:]
    assert [len(samples) for samples in got] == [len(samples) for samples in expected]
    errors = [np.abs(a - b).max() for a, b in zip(got, expected, strict=True)]
    assert max(errors) <= 1e-5


@pytest.mark.parametrize("prompt", [(), ("frames",)], ids=["all late", "codec late"])
async def test_the_host_never_waits_for_the_codec(model, jobs, prompt):
    with endless(model, late(*prompt), **SMALL) as (engine, made):
        await asyncio.gather(*[read(engine.submit(job)) for job in jobs])
    driver = made._inner.driver
    assert set(driver.waits) <= {"frames"}
    assert len(driver.waits) > 10 or prompt, "frames are waited for"


# One call after another -----------------------------------------------------------------


class Bench:
    """A runner on a late device with one speech begun in each of its slots."""

    def __init__(self, model, *prompt, **changes):
        options = {"slots": 2, "max_positions": 256, "prefill_piece_rows": 16}
        options = {**options, "chunk_frames": (1, 2), **changes}
        self.options = EngineOptions(**options)
        self.model = model
        self.driver = LateDriver(prompt)
        self.inner = GraphRunner(model, self.options, self.driver)
        self.runner = OnDevice(self.inner, self.driver)
        self.slots = self.inner._slots
        self.lengths = [self.begin(slot, slot + 1) for slot in range(2)]

    def begin(self, slot, number):
        prompt, read = self.runner.begin(slot, make_job(self.model, number, max_frames=99))
        assert read == 0
        rows = len(prompt.rows) - 1
        for start in range(0, rows, 16):
            self.runner.prefill([PromptPiece(slot, prompt, start, min(16, rows - start))])
        return rows

    def frame(self, *slots):
        return self.runner.frame(slots, full_sort=True, positions=200)


@pytest.fixture
def bench(model):
    with torch.inference_mode():
        yield Bench(model)


def test_a_frame_is_only_begun_and_its_outcome_waits_for_it(bench):
    ends = bench.frame(0, 1)
    assert bench.slots.state.frame[:2].tolist() == [0, 0]
    # Host memory that nobody has written would say that every row has ended.
    assert bench.inner._to_host[0].tolist() == [77, 77]
    assert ends.wait().tolist() == [False, False]
    assert bench.slots.state.frame[:2].tolist() == [1, 1]


def test_decoding_only_starts_and_marks_when_its_samples_are_there(bench):
    bench.frame(0, 1).wait()
    sound = bench.runner.decode([0, 1], [0, 0], 1, is_first=False)
    assert not sound.is_ready()
    samples = sound.wait()
    assert sound.is_ready()
    assert samples.shape == (2, FRAME)
    assert np.abs(samples).max() < 10


def test_the_outcome_of_a_frame_outlives_the_next(model):
    with torch.inference_mode():
        bench = Bench(model, "frames", "first", "bulk")
        first = bench.frame(0, 1)
        bench.inner._to_host[0].fill_(True)  # as if both rows had ended there
        bench.frame(0, 1)
    assert first.wait().tolist() == [True, True]


def test_samples_outlive_the_memory_they_came_in(bench):
    bench.frame(0, 1).wait()
    samples = bench.runner.decode([0, 1], [0, 0], 1, is_first=False).wait()
    copy = samples.copy()
    bench.frame(0, 1).wait()
    other = bench.runner.decode([0, 1], [1, 1], 1, is_first=False).wait()
    assert not np.array_equal(other, copy)
    assert np.array_equal(samples, copy)


def test_decoding_holds_for_the_frames_that_it_reads(bench):
    bench.frame(0, 1)
    bench.frame(0, 1)
    bench.runner.decode([0, 1], [0, 0], 1, is_first=False)
    assert bench.driver.holds == [("bulk", "frames")]


def test_nothing_holds_for_what_has_been_reached(bench):
    for _ in range(2):
        bench.frame(0, 1).wait()
    bench.runner.decode([0], [0], 1, is_first=True).wait()
    bench.runner.decode([0], [1], 1, is_first=False).wait()
    bench.runner.begin(0, make_job(bench.model, 3))
    bench.frame(0, 1)
    assert bench.driver.holds == []


def test_a_slot_that_changes_hands_holds_for_its_own_last_chunk_and_no_other(bench):
    for _ in range(2):
        bench.frame(0, 1).wait()
    bench.runner.decode([0], [0], 2, is_first=False)
    bench.runner.begin(1, make_job(bench.model, 3))
    bench.frame(1)
    assert bench.driver.holds == [], "nobody decodes for slot 1"
    bench.runner.begin(0, make_job(bench.model, 4))
    assert bench.driver.holds == [("frames", "bulk")]
    bench.frame(0, 1)
    assert bench.driver.holds == [("frames", "bulk")], "once is enough"


def test_a_first_chunk_goes_past_the_chunks_of_others(bench):
    for _ in range(2):
        bench.frame(0, 1).wait()
    bulk = bench.runner.decode([0], [0], 2, is_first=False)
    first = bench.runner.decode([1], [0], 1, is_first=True)
    assert first.wait().shape == (1, FRAME)
    assert not bulk.is_ready()
    assert bench.driver.holds == []


def test_a_second_chunk_holds_for_the_first_of_its_own_slot(bench):
    for _ in range(2):
        bench.frame(0, 1).wait()
    first = bench.runner.decode([0], [0], 1, is_first=True)
    bench.runner.decode([1], [0], 1, is_first=False)
    assert bench.driver.holds == []
    bench.runner.decode([0], [1], 1, is_first=False).wait()
    assert bench.driver.holds == [("bulk", "first")]
    assert first.is_ready()


def test_the_beginning_of_an_utterance_is_three_copies_and_one_graph(bench):
    bench.driver.work_off("frames")
    given = len(bench.driver._queues["frames"])
    bench.runner.begin(0, make_job(bench.model, 2, instruct_ids=(7, 8)))
    assert len(bench.driver._queues["frames"]) - given == 4
    assert all(not queue for name, queue in bench.driver._queues.items() if name != "frames")


def test_frames_hold_for_a_codec_that_lags_far_behind(bench):
    bench.frame(0, 1).wait()
    bench.runner.decode([0, 1], [0, 0], 1, is_first=False)
    bench.driver.holds.clear()
    held = []
    for _ in range(CODEC_LAG_STEPS + 3):
        bench.frame(0, 1)
        held.append(len(bench.driver.holds))
    # The first frame was begun before any sound, and so holds for nothing.
    assert held == [0] * (CODEC_LAG_STEPS - 1) + [0, 1, 2, 3]
    assert set(bench.driver.holds) == {("frames", "bulk")}


def test_a_codec_reset_waits_for_what_the_codec_still_does(bench):
    bench.frame(0, 1).wait()
    sound = bench.runner.decode([0, 1], [0, 0], 1, is_first=False)
    bench.runner.begin(0, make_job(bench.model, 3))
    assert not sound.is_ready(), "nothing is done yet"
    bench.driver.work_off("frames")
    assert sound.is_ready()
    assert bench.slots.codec_state.frames[:2].tolist() == [0, 1]


def test_clearing_holds_for_the_codec_and_leaves_zeros(bench):
    bench.frame(0, 1).wait()
    bench.runner.decode([0, 1], [0, 0], 1, is_first=False)
    bench.driver.holds.clear()
    bench.runner.clear([0])
    assert bench.driver.holds == [("frames", "bulk")]
    bench.driver.work_off("frames")
    bench.driver.work_off("bulk")
    state = bench.slots.state
    for cache in (state.keys, state.values):
        assert not cache[:, 0].any()
        assert cache[:, 1].any()
    assert state.length[:2].tolist() == [0, bench.lengths[1] + 1]
    assert bench.slots.codec_state.frames[:2].tolist() == [0, 1]


def test_clearing_before_any_decoding_holds_for_nothing(bench):
    bench.runner.clear([1])
    bench.driver.work_off("frames")
    assert bench.driver.holds == []
    assert not bench.slots.state.keys[:, 1].any()


def test_numbers_for_a_graph_are_not_overwritten_before_it_has_read_them(bench):
    # Two frames under way at once, of other slots.
    bench.frame(0)
    bench.frame(1)
    bench.frame(1).wait()
    assert bench.slots.state.frame[:2].tolist() == [1, 2]


def test_rows_too_many_go_to_the_spare_slot(model):
    with torch.inference_mode():
        bench = Bench(model, deterministic=True)
        bench.frame(1).wait()
        bench.frame(1).wait()
        state = bench.slots.state
    assert state.frame[:2].tolist() == [0, 2]
    first, second = bench.lengths
    assert state.length.tolist() == [first, second + 2, 1], "the spare one does not grow"


def test_padding_rows_of_a_chunk_change_no_other_row(model):
    with torch.inference_mode():
        bench = Bench(model, deterministic=True)
        for _ in range(2):
            bench.frame(0, 1).wait()
        alone = [bench.runner.decode([slot], [0], 2, is_first=False).wait() for slot in (0, 1)]
        assert bench.slots.codec_state.frames.tolist() == [2, 2, 0]
        other = Bench(model, deterministic=True)
        for _ in range(2):
            other.frame(0, 1).wait()
        together = other.runner.decode([0, 1], [0, 0], 2, is_first=False).wait()
    assert np.array_equal(np.concatenate(alone), together)


# Prompts side by side -------------------------------------------------------------------


@pytest.fixture(scope="module")
def fused(quick_checkpoint):
    """The model with the plain definitions of the fused kernels."""
    return Qwen3TTS.load(quick_checkpoint, linear="float", fused_kernels=True)


def read_prompts(runner, jobs, *, together):
    """Begin jobs in slots 0, 1, ..., read their prompts and return keys and values of each."""
    pieces = []
    for slot, job in enumerate(jobs):
        prompt, read = runner.begin(slot, job)
        cuts = sorted({read, prompt.prefix_rows, len(prompt.rows) - 1})
        pieces += [PromptPiece(slot, prompt, a, b - a) for a, b in pairwise(cuts)]
    for part in [pieces] if together else [[piece] for piece in pieces]:
        runner.prefill(part)
    state = runner._slots.state
    lengths = state.length[: len(jobs)].tolist()
    return [
        torch.stack((state.keys[:, slot, :length], state.values[:, slot, :length]))
        for slot, length in enumerate(lengths)
    ]


def test_several_prompts_are_read_by_one_graph(fused):
    options = EngineOptions(slots=3, max_positions=200)
    jobs = [make_job(fused, n) for n in range(3)]
    with torch.inference_mode():
        alone = read_prompts(plain(fused, options), jobs, together=False)
        runner, runs = graphs(fused, options), []
        for (rows, _), call in runner._prefills.items():
            object.__setattr__(
                call, "run", lambda run=call.run, rows=rows: (runs.append(rows), run())
            )
        side_by_side = read_prompts(runner, jobs, together=True)
    assert runs == [128]
    assert sum(keys.shape[2] for keys in alone) > 64
    for got, expected in zip(side_by_side, alone, strict=True):
        torch.testing.assert_close(got, expected)


def test_more_rows_than_a_graph_has_are_read_by_several(fused):
    options = EngineOptions(slots=2, max_positions=600)
    jobs = [long_job(fused, 300), make_job(fused, 1)]
    with torch.inference_mode():
        alone = read_prompts(plain(fused, options), jobs, together=False)
        side_by_side = read_prompts(graphs(fused, options), jobs, together=True)
    for got, expected in zip(side_by_side, alone, strict=True):
        torch.testing.assert_close(got, expected)


async def test_speech_is_the_same_whoever_begins_with_it(fused):
    jobs = [make_job(fused, n, max_frames=6) for n in range(5)]
    options = {"slots": 5, "max_positions": 200, "chunk_frames": (1, 2)}
    with endless(fused, plain, **options) as (engine, _):
        alone = [await read(engine.submit(job)) for job in jobs]
    with endless(fused, late(), **options) as (engine, _):
        together = await asyncio.gather(*[read(engine.submit(job)) for job in jobs])
    for got, expected in zip(together, alone, strict=True):
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-5


# Before the first utterance -------------------------------------------------------------


def test_host_memory_for_all_transfers_is_there_before_anything_is_captured(fused):
    driver = RecordingDriver()
    options = EngineOptions(slots=3, max_positions=200, chunk_frames=(1, 4))
    with torch.inference_mode():
        runner = GraphRunner(fused, options, driver)
        ready = {(shape, dtype) for shape, dtype, captured in driver.asked if captured == 0}
        assert len(driver.captured) > 10
        read_prompts(runner, [make_job(fused, n) for n in range(3)], together=True)
        for frames in (1, 4):
            for _ in range(frames):
                runner.frame([0, 2], full_sort=False, positions=100).wait()
            runner.decode([0, 2], [0, 0], frames, is_first=frames == 1).wait()
    later = {(shape, dtype) for shape, dtype, captured in driver.asked if captured}
    assert len(later) >= 6
    assert later <= ready


def test_the_rows_of_every_voice_and_language_are_there_before_the_first_utterance(
    quick_checkpoint,
):
    model = Qwen3TTS.load(quick_checkpoint)
    runner = graphs(model, EngineOptions(slots=1, max_positions=200))
    made = model.prompts._constant_rows.cache_info().misses
    assert made > 1
    with torch.inference_mode():
        for speaker in model.config.speakers:
            for language in ("auto", *model.config.languages):
                runner.begin(0, make_job(model, 0, speaker=speaker, language=language))
    assert model.prompts._constant_rows.cache_info().misses == made


# Bounds ---------------------------------------------------------------------------------


def state_after(runner, model, job, frames, max_positions):
    """Keys, values and the last logits once a job's prompt is read and frames are made."""
    options = EngineOptions(
        slots=1, max_positions=max_positions, prefix_cache_rows=0, chunk_frames=(1,)
    )
    made = runner(model, options)
    prompt, _ = made.begin(0, job)
    rows = len(prompt.rows) - 1
    for start in range(0, rows, 64):
        made.prefill([PromptPiece(0, prompt, start, min(64, rows - start))])
    for number in range(frames):
        made.frame([0], full_sort=True, positions=rows + number + 1).wait()
    state = made._slots.state
    return [x[:, 0, : rows + frames] for x in (state.keys, state.values)] + [state.logits[0]]


def assert_graphs_are_plain_calls(model, job, max_positions=512):
    with torch.inference_mode():
        results = [
            state_after(runner, model, job, job.max_frames, max_positions)
            for runner in (plain, graphs)
        ]
    for expected, got in zip(*results, strict=True):
        # What is left out of an attention is larger by far.
        assert torch.allclose(got, expected, atol=1e-4)


def long_job(model, rows, **changes):
    """A job with a prompt of `rows` rows."""
    job = make_job(model, 4)
    have = len(whole_prompt(model, job).rows)
    ids = (
        *job.ids[:3],
        *[5 + n % 90 for n in range(rows - have + len(job.ids) - 8)],
        *job.ids[-5:],
    )
    job = make_job(model, 4, ids=ids, **changes)
    assert len(whole_prompt(model, job).rows) == rows
    return job


def whole_prompt(model, job):
    return model.prompts.build(
        job.ids, speaker=job.speaker, language=job.language, instruct_ids=job.instruct_ids
    )


@pytest.mark.parametrize("rows", [257, 400])
def test_a_long_prompt_is_read_by_graphs_as_by_plain_calls(model, rows):
    assert_graphs_are_plain_calls(model, long_job(model, rows, max_frames=1))


@pytest.mark.parametrize("rows", [253])
def test_frames_that_cross_a_bound_see_all_positions(masked, rows):
    assert_graphs_are_plain_calls(masked, long_job(masked, rows, max_frames=6))


def test_a_prompt_and_speech_that_fill_their_slot_are_spoken(masked):
    job = long_job(masked, 312, max_frames=8)
    assert_graphs_are_plain_calls(masked, job, max_positions=320)


def captured(model, **changes):
    """The graphs that a runner has: sizes of frames, of prompts and of chunks."""
    options = EngineOptions(**{"slots": 3, "max_positions": 600, **changes})
    runner = GraphRunner(model, options, RecordingDriver())
    return runner._frames.keys(), runner._prefills.keys(), runner._audio.keys()


def pairs(first, second):
    return {(a, b) for a in first for b in second}


def test_there_is_a_graph_for_every_size_that_is_asked_for(model):
    frames, prefills, sounds = captured(model)
    assert frames == {(size, 600, sort) for size in (1, 2, 3) for sort in (True, False)}
    assert prefills == pairs((16, 32, 64), (256, 512, 600))
    bulk = {("bulk", *pair) for pair in pairs((1, 2, 3), (1, 2, 4, 8))}
    assert sounds == bulk | {("first", size, 1) for size in (1, 2, 3)}


def test_only_attention_that_reads_everything_has_bounds(masked):
    frames, _, _ = captured(masked, slots=1)
    assert {bound for _, bound, _ in frames} == {256, 512, 600}


def test_the_deterministic_mode_has_one_size_and_one_bound(masked):
    frames, prefills, sounds = captured(masked, deterministic=True, chunk_frames=(2,))
    assert frames == {(3, 600, True), (3, 600, False)}
    assert sounds == {("bulk", 3, 2), ("first", 3, 2)}
    assert len(prefills) == 9


def test_with_fused_kernels_prompts_have_a_graph_per_number_of_rows(fused):
    frames, prefills, _ = captured(fused)
    assert frames == {(size, 600, False) for size in (1, 2, 3)}
    assert prefills == pairs((16, 32, 64, 128, 256), (600,))
    _, prefills, _ = captured(fused, deterministic=True)
    assert prefills == {(256, 600)}, "rows of others do not change the size"


def test_the_largest_graph_of_each_pool_is_captured_first(model):
    order = []
    options = EngineOptions(slots=2, max_positions=300)

    class Noting(GraphRunner):
        def _frame_call(self, size, bound, full_sort):
            order.append(("frame", size))
            return super()._frame_call(size, bound, full_sort)

        def _prefill_call(self, rows, bound):
            order.append(("prefill", rows, bound))
            return super()._prefill_call(rows, bound)

        def _decode_call(self, stream, size, frames):
            order.append((stream, frames, size))
            return super()._decode_call(stream, size, frames)

    Noting(model, options, RecordingDriver())
    assert order[0] == ("frame", 2)
    for kind, count in (("prefill", 6), ("bulk", 8), ("first", 2)):
        made = [call for call in order if call[0] == kind]
        assert made == sorted(made, reverse=True)
        assert len(made) == count


@pytest.mark.parametrize(
    ("first", "most", "sizes"),
    [
        pytest.param(1, 1, (1,), id="one"),
        pytest.param(1, 4, (1, 2, 4), id="a power"),
        pytest.param(1, 5, (1, 2, 4, 5), id="between powers"),
        pytest.param(16, 10, (10,), id="less than the first"),
        pytest.param(MIN_BOUND, 2 * MIN_BOUND, (256, 512), id="bounds"),
        pytest.param(MIN_PROMPT_ROWS, 64, (16, 32, 64), id="pieces"),
    ],
)
def test_sizes_double_up_to_the_most(first, most, sizes):
    assert doubling(first, most) == sizes


@pytest.mark.parametrize(("need", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8)])
def test_the_smallest_size_that_is_enough_is_taken(need, size):
    assert smallest((1, 2, 4, 8), need) == size
