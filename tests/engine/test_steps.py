"""Calls from the loop to its runner, and what it hands out, step by step, with scripted runners."""

import threading
from collections import deque
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qwen_tts_service.engine import loop as module
from qwen_tts_service.engine.job import Job, TextFeed
from qwen_tts_service.engine.loop import PAUSE_POLL_S, TEXT_IDS_PER_STEP, EngineLoop, silent_at_end
from qwen_tts_service.engine.options import EngineOptions
from qwen_tts_service.engine.slots import NOT_FINITE
from qwen_tts_service.errors import InvalidRequest, NotReady, SynthesisFailed
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.sampling import MAX_TOP_K
from qwen_tts_service.types import SamplingOptions

FRAME = 4  # samples of a frame: enough to be loud or not
LOUD, SILENT = 0.5, 0.0


class Reader:
    """A channel that keeps what it gets, and notes what comes after the end."""

    def __init__(self):
        self.is_cancelled, self.has_room = False, True
        self.chunks, self.finish_reason, self.error = [], None, None

    def put(self, samples):
        assert self.finish_reason in {None, "cancelled"}
        self.chunks.append(samples.tolist())

    def close(self, reason):
        self.finish_reason = self.finish_reason or reason

    def fail(self, error):
        if self.finish_reason is None:
            self.finish_reason, self.error = "error", error

    @property
    def samples(self):
        return [sample for chunk in self.chunks for sample in chunk]


class Outcome:
    def __init__(self, runner, note, value):
        self._runner, self._note, self._value = runner, note, value
        self._born = runner.looks

    def is_ready(self, *, within_s=0.0):
        self._runner.looks += within_s > 0
        late = self._runner.late if self._note[0] == "heard" else 2 * (self._runner.late > 0)
        return self._runner.looks - self._born >= late

    def wait(self):
        self._runner._try(self._note[0])
        self._runner.calls.append(self._note)
        return self._value


class Script:
    """A runner that notes its calls; frame f of every speech sounds as `level(f)` does.

    late: how often somebody must look, for a while, before audio is there; frames are
        there after two looks at most
    lasts: the frame at which each job, by its seed, draws its end
    failing: calls of which each takes one failure out of its list: True fails
    """

    def __init__(self, *, run_ahead=0, rows=3, text_rows=0, known=0, lasts=None, level=None):
        self.run_ahead, self.late, self.looks = run_ahead, 0, 0
        self.rows, self.text_rows, self.known = rows, text_rows, known
        self.lasts = lasts or {}
        self.level = level or (lambda _: LOUD)
        self.failing = {}
        self.calls, self.firsts, self._seeds, self._made = [], [], {}, {}

    def _try(self, name):
        left = self.failing.get(name)
        if left and left.pop(0):
            raise RuntimeError("out of luck")

    def called(self, name):
        return [call[1:] for call in self.calls if call[0] == name]

    def begin(self, slot, job):
        self._try("begin")
        if job.speaker == "nobody":
            raise InvalidRequest("no such speaker", param="speaker")
        self.calls.append(("begin", slot, job.seed))
        self._seeds[slot], self._made[slot] = job.seed, 0
        rows, text = torch.zeros(self.rows, 1), torch.zeros(self.text_rows, 1)
        return PromptEmbeddings(rows, text, min(2, self.rows), ()), self.known

    def prefill(self, pieces):
        self._try("prefill")
        self.calls.append(("prefill", *[(piece.slot, piece.start, piece.rows) for piece in pieces]))

    def append_text(self, slot, ids, *, start, is_end):
        self._try("append_text")
        self.calls.append(("append_text", slot, len(ids), start, is_end))

    def frame(self, slots, *, full_sort, positions):
        self._try("frame")
        self.calls.append(("frame", slots, full_sort, positions))
        ends = [self._made[slot] >= self.lasts.get(self._seeds[slot], 10**9) for slot in slots]
        for slot in slots:
            self._made[slot] += 1
        return Outcome(self, ("ends", slots), ends)

    def decode(self, slots, first, frames, *, is_first):
        self._try("sound")
        self.calls.append(("sound", slots, first, frames))
        self.firsts.append(is_first)
        rows = [[self.level(begin + n) for n in range(frames)] for begin in first]
        samples = np.repeat(np.array(rows, np.float32), FRAME, axis=1)
        return Outcome(self, ("heard", slots, first, frames), samples)

    def clear(self, slots):
        self.calls.append(("clear", slots))
        self._try("clear")


def job(seed=0, **changes):
    usual = {
        "ids": (1,),
        "speaker": "serena",
        "language": "auto",
        "seed": seed,
        "sampling": SamplingOptions(),
        "max_frames": 5,
        "runaway_frames": 1000,
    }
    return Job(**{**usual, **changes})


def make_loop(runner, on_step=lambda _: None, **changes):
    usual = {"slots": 4, "max_positions": 100, "deterministic": True, "silence_rms": 0.1}
    return EngineLoop(runner, EngineOptions(**{**usual, **changes}), on_step)


def work(runner, jobs, after=lambda _loop, _step: None, *, steps=200, until_end=True, **changes):
    """Run a loop until every reader has an end; returns loop, readers and statistics by step.

    after: called after each step with the loop and the step's number, from 1
    """
    seen, readers, trouble = [], [Reader() for _ in jobs], []

    def on_step(statistics):
        seen.append(statistics)
        after(loop, len(seen))
        if until_end and all(reader.finish_reason for reader in readers):
            loop.stop()
        assert len(seen) < steps, "the loop comes to no end"

    def run():
        try:
            loop.run()
        except BaseException as error:  # noqa: BLE001 - for the test below
            trouble.append(error)

    loop = make_loop(runner, on_step, **changes)
    for order in zip(jobs, readers, strict=True):
        loop.put(*order)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the loop waits for ever"
    if trouble:
        raise trouble[0]
    return loop, readers, seen


# Silence --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "silent"),
    [
        pytest.param([0.0, 0.0, 0.0], 3, id="nothing but silence"),
        pytest.param([0.5, 0.0, 0.0], 2, id="speech first"),
        pytest.param([0.0, 0.5, 0.0], 1, id="speech between"),
        pytest.param([0.0, 0.0, 0.5], 0, id="speech last"),
        pytest.param([0.0, 0.0, 0.25], 0, id="just loud enough"),
        pytest.param([0.5, 0.0, 0.2499], 2, id="just not loud enough"),
        pytest.param([0.5, -0.5, -0.1], 1, id="below zero is as loud"),
    ],
)
def test_silence_is_counted_from_the_end_of_each_row(levels, silent):
    samples = np.repeat(np.array([levels, [0.5] * 3], np.float32), FRAME, axis=1)
    assert silent_at_end(samples, 3, 0.25) == [silent, 0]


def test_a_frame_is_as_loud_as_its_samples_together():
    click = np.array([[0.5, 0, 0, 0]], np.float32)  # rms 0.25
    assert silent_at_end(click, 1, 0.25) == [0]
    assert silent_at_end(click, 1, 0.26) == [1]


@pytest.mark.parametrize("run_ahead", [0, 1])
def test_pauses_between_speech_are_not_summed(run_ahead):
    runner = Script(run_ahead=run_ahead, level=lambda f: SILENT if f % 4 else LOUD)
    options = {"silence_s": 0.32, "chunk_frames": (1, 2, 4)}
    _, [reader], _ = work(runner, [job(max_frames=40)], **options)
    assert (len(reader.samples), reader.finish_reason) == (40 * FRAME, "length")


@pytest.mark.parametrize("run_ahead", [0, 1])
@pytest.mark.parametrize("chunk", [1, 2])
def test_silence_over_several_chunks_ends_the_speech_at_its_frame(run_ahead, chunk):
    runner = Script(run_ahead=run_ahead, level=lambda f: LOUD if f < 4 else SILENT)
    options = {"silence_s": 0.48, "chunk_frames": (chunk,)}
    _, [reader], seen = work(runner, [job(max_frames=90)], **options)
    assert reader.finish_reason == "runaway"
    # What has been made by then is handed out; that is a step and what runs ahead.
    assert 10 <= len(reader.samples) // FRAME <= 10 + run_ahead
    assert seen[-1].frames <= 10 + run_ahead + 1


def test_silence_does_not_change_an_end_that_is_known():
    runner = Script(lasts={0: 6}, level=lambda _: SILENT)
    _, [reader], _ = work(runner, [job(max_frames=90)], silence_s=0.48, chunk_frames=(8,))
    assert (len(reader.samples), reader.finish_reason) == (6 * FRAME, "stop")


# Steps ----------------------------------------------------------------------------------


def test_a_speech_is_read_made_and_decoded_in_this_order():
    runner = Script(lasts={7: 3}, known=1, rows=5)
    _, [reader], _ = work(runner, [job(7, max_frames=9)], prefill_piece_rows=2)
    assert runner.calls == [
        ("begin", 0, 7),
        ("prefill", (0, 1, 1), (0, 2, 2)),
        ("frame", [0], False, 5),
        ("ends", [0]),
        ("sound", [0], [0], 1),
        ("heard", [0], [0], 1),
        ("frame", [0], False, 6),
        ("ends", [0]),
        ("sound", [0], [1], 1),
        ("heard", [0], [1], 1),
        ("frame", [0], False, 7),
        ("ends", [0]),
        ("frame", [0], False, 8),
        ("ends", [0]),
        ("sound", [0], [2], 1),
        ("heard", [0], [2], 1),
    ]
    assert (len(reader.samples), reader.finish_reason) == (3 * FRAME, "stop")


def test_the_outcome_of_a_frame_is_looked_at_once_the_next_is_begun():
    runner = Script(run_ahead=1, lasts={0: 2})
    _, [reader], _ = work(runner, [job()], chunk_frames=(8,))
    names = [call[0] for call in runner.calls if call[0] in {"frame", "ends"}]
    assert names == ["frame", "frame", "ends", "frame", "ends", "frame", "ends"]
    assert (len(reader.samples), reader.finish_reason) == (2 * FRAME, "stop")


def test_frames_that_ran_on_behind_the_end_are_not_spoken():
    runner = Script(run_ahead=1, lasts={0: 2})
    runner.level = lambda f: 0.5 + f
    _, [reader], _ = work(runner, [job()], chunk_frames=(1,))
    assert reader.samples == [0.5] * FRAME + [1.5] * FRAME


def test_the_last_frame_under_way_is_collected_when_nothing_advances():
    runner = Script(run_ahead=1)
    _, [reader], _ = work(runner, [job(max_frames=3)])
    assert (len(reader.samples), reader.finish_reason) == (3 * FRAME, "length")
    assert len(runner.called("frame")) == 3


@pytest.mark.parametrize(
    ("sampling", "sorts"),
    [
        pytest.param([{}], False, id="usual"),
        pytest.param([{"top_p": 0.99}], True, id="top_p"),
        pytest.param([{"top_k": MAX_TOP_K}], False, id="largest short top_k"),
        pytest.param([{"top_k": MAX_TOP_K + 1}], True, id="top_k above it"),
        pytest.param([{}, {"top_p": 0.5}, {}], True, id="one of several"),
    ],
)
def test_everything_is_sorted_only_if_a_row_needs_it(sampling, sorts):
    runner = Script()
    jobs = [job(n, sampling=SamplingOptions(**given)) for n, given in enumerate(sampling)]
    work(runner, jobs)
    assert {full_sort for _, full_sort, _ in runner.called("frame")} == {sorts}


def test_positions_are_those_of_the_longest_row():
    runner = Script()
    rows = iter([9, 3])
    begin = runner.begin

    def of_two_lengths(slot, given):
        runner.rows = next(rows)
        return begin(slot, given)

    runner.begin = of_two_lengths
    work(runner, [job(0, max_frames=2), job(1, max_frames=4)])
    # Prompts of 9 and 3 rows, the last of which is the first frame's input.
    assert [call[2] for call in runner.called("frame")] == [9, 10, 5, 6]


def test_the_samples_of_each_row_go_to_its_reader():
    runner = Script()
    sound = runner.decode

    def by_slot(slots, first, frames, **how):
        outcome = sound(slots, first, frames, **how)
        outcome._value = np.array([[slot + 1.0] * frames * FRAME for slot in slots], np.float32)
        return outcome

    runner.decode = by_slot
    _, readers, _ = work(runner, [job(n, max_frames=2 + n) for n in range(3)])
    assert [reader.samples for reader in readers] == [[n + 1.0] * FRAME * (2 + n) for n in range(3)]


# Audio that is late ------------------------------------------------------------------


def test_frames_are_made_while_audio_is_late():
    runner = Script(run_ahead=1)
    runner.late = 20
    frames_at = []

    def after(_loop, _step):
        frames_at.append((len(runner.called("frame")), len(runner.called("heard"))))

    _, [reader], _ = work(runner, [job(max_frames=9)], after, chunk_frames=(1, 2))
    assert (9, 0) in frames_at, "not even for the first chunk does anybody wait"
    assert runner.called("heard") == runner.called("sound"), "all, and in their order"
    assert (len(reader.samples), reader.finish_reason) == (9 * FRAME, "length")


def test_audio_that_gets_ready_during_a_frame_is_handed_out_before_the_frame_is_there():
    runner = Script(run_ahead=1)
    runner.late = 1
    work(runner, [job(max_frames=4)], chunk_frames=(1,))
    names = [call[0] for call in runner.calls if call[0] in {"frame", "ends", "sound", "heard"}]
    # A chunk is decoded as soon as its frame is known; the next frame is under way by then.
    assert names[:8] == ["frame", "frame", "ends", "sound", "frame", "heard", "ends", "sound"]


def test_somebody_may_begin_while_the_last_audio_of_another_is_late():
    runner, readers = Script(), [Reader(), Reader()]
    runner.late = 50

    def on_step(_statistics):
        steps.append(len(runner.called("heard")))
        if len(steps) == 5:
            loop.put(job(1, max_frames=1), readers[1])
        if all(reader.finish_reason for reader in readers):
            loop.stop()

    steps = []
    loop = make_loop(runner, on_step)
    loop.put(job(0, max_frames=1), readers[0])
    loop.run()
    names = [call[0] for call in runner.calls]
    assert names.index("heard") > names.index("begin", 1), "nothing had been heard by then"


def test_first_chunks_are_decoded_and_handed_out_before_others():
    runner, late = Script(), Reader()
    readers = [Reader(), late]

    def on_step(_statistics):
        if len(runner.called("sound")) == 3:
            loop.put(job(1, max_frames=2), late)
        if all(reader.finish_reason for reader in readers):
            loop.stop()

    loop = make_loop(runner, on_step, chunk_frames=(1,))
    loop.put(job(0, max_frames=9), readers[0])
    loop.run()
    names = [call for call in runner.calls if call[0] in {"sound", "heard"}]
    first = names.index(("sound", [1], [0], 1))
    assert [call[0] for call in names[first : first + 4]] == ["sound", "heard"] * 2
    assert names[first + 2] == ("sound", [0], [3], 1), "in the same step, and after it"
    assert runner.firsts.count(True) == 2


def test_samples_that_are_there_are_handed_out_at_once():
    runner, heard = Script(), []
    work(runner, [job(max_frames=6)], lambda *_: heard.append(len(runner.called("heard"))))
    assert heard[:4] == [1, 2, 2, 3]


def test_an_end_waits_for_the_last_samples_on_their_way():
    # One speech ends while the other goes on, so nobody waits for the last chunk of the first.
    runner, ends = Script(lasts={0: 2}), []
    runner.late = 1000

    def after(_loop, step):
        ends.append(readers[0].finish_reason)
        runner.late = 0 if step > 6 else 1000

    readers = [Reader(), Reader()]
    loop = make_loop(runner, lambda _: after(loop, len(ends) + 1), chunk_frames=(1,))
    for seed, reader in enumerate(readers):
        loop.put(job(seed, max_frames=20), reader)
    loop._receive()
    for _ in range(9):
        loop._attempt()
    assert ends == [None] * 7 + ["stop"] * 2
    assert len(readers[0].samples) == 2 * FRAME
    assert loop.statistics.active == 1


# Joining and leaving --------------------------------------------------------------------


def test_slots_are_given_again_and_never_two_at_a_time():
    runner = Script()
    _, readers, seen = work(runner, [job(n, max_frames=2 + n) for n in range(7)], slots=2)
    assert [len(reader.samples) for reader in readers] == [(2 + n) * FRAME for n in range(7)]
    assert [seed for _, seed in runner.called("begin")] == list(range(7)), "in order of arrival"
    assert {slot for slot, _ in runner.called("begin")} == {0, 1}
    assert all(len(set(slots)) == len(slots) for slots, *_ in runner.called("frame"))
    assert max(statistics.active for statistics in seen) == 2


def test_a_prompt_that_fills_the_next_step_keeps_others_waiting():
    runner, begun = Script(rows=17), []
    jobs = [job(0), job(1)]
    options = {"prefill_rows_per_step": 8, "prefill_piece_rows": 8}
    work(runner, jobs, lambda *_: begun.append(len(runner.called("begin"))), **options)
    assert begun[:4] == [1, 2, 2, 2]
    assert runner.called("prefill")[:3] == [
        ((0, 0, 2), (0, 2, 8)),
        ((0, 10, 6),),
        ((1, 0, 2), (1, 2, 8)),
    ]


def test_the_slot_that_has_been_free_for_longest_is_taken_first():
    runner, readers = Script(), [Reader() for _ in range(6)]

    def on_step(_statistics):
        ended = [reader for reader in readers if reader.finish_reason]
        if len(ended) == len(readers):
            loop.stop()
        elif len(ended) == len(runner.called("begin")):
            loop.put(job(len(ended), max_frames=1), readers[len(ended)])

    loop = make_loop(runner, on_step, slots=4)
    loop.put(job(0, max_frames=1), readers[0])
    loop.run()
    assert [slot for slot, _ in runner.called("begin")] == [0, 1, 2, 3, 0, 1]


def test_all_of_64_who_arrive_at_once_have_begun_by_the_third_frame():
    runner = Script(rows=86)
    work(runner, [job(n, max_frames=5) for n in range(64)], slots=64)
    assert [len(slots) for slots, *_ in runner.called("frame")][:3] == [22, 44, 64]
    assert [seed for _, seed in runner.called("begin")] == list(range(64))


def test_many_who_arrive_at_once_begin_within_three_frames_and_in_order():
    runner, prompt = Script(rows=86), 85
    jobs = [job(n, max_frames=6) for n in range(16)]
    work(runner, jobs, slots=16)
    calls = [call for call in runner.calls if call[0] in {"frame", "prefill"}]
    assert [call[0] for call in calls[:6]] == ["prefill", "frame"] * 3
    assert [call[1] for call in calls[1:6:2]] == [[*range(6)], [*range(12)], [*range(16)]]
    read = [sum(rows for _, _, rows in call[1:]) for call in calls[0:6:2]]
    assert read == [6 * prompt, 6 * prompt, 4 * prompt], "shared out between the frames"
    # A wait is what the rows read and the rows of frames made cost by then; a row of a prompt is
    # taken to cost as much as one of a frame, and then a tenth and nothing of it.
    for cost in (1.0, 0.1, 0.0):
        spent = [cost * rows + frames for rows, frames in zip(read, (6, 12, 16), strict=True)]
        waits = np.repeat(np.cumsum(spent), (6, 6, 4))
        assert waits.max() <= 2 * waits.mean()


def test_a_job_cancelled_before_its_start_gets_no_slot():
    runner = Script()
    gone, heard = Reader(), Reader()
    gone.is_cancelled = True
    loop = make_loop(runner, lambda s: loop.stop() if heard.finish_reason else None)
    loop.put(job(1), gone)
    loop.put(job(2), heard)
    loop.run()
    assert (gone.finish_reason, heard.finish_reason) == ("cancelled", "length")
    assert [seed for _, seed in runner.called("begin")] == [2]


def test_a_cancelled_job_makes_no_more_frames_and_frees_its_slot():
    runner = Script(run_ahead=1)
    readers = []

    def after(_loop, step):
        if step == 3:
            leaver.is_cancelled = True

    leaver, other = readers = [Reader(), Reader()]
    seen = []
    loop = make_loop(runner, lambda s: (seen.append(s), after(loop, len(seen))), slots=1)
    loop.put(job(0, max_frames=50), leaver)
    loop.put(job(1, max_frames=50), other)
    loop._receive()
    for _ in range(5):
        loop._attempt()
    assert leaver.finish_reason == "cancelled"
    assert runner.called("begin") == [(0, 0), (0, 1)]
    assert [statistics.frames for statistics in seen] == [1, 2, 3, 4, 5]
    assert readers[1].finish_reason is None
    assert loop.statistics.failures == 0


def test_a_job_that_is_refused_costs_no_slot_and_is_no_failure():
    runner = Script()
    jobs = [job(0, speaker="nobody"), job(1)]
    _, [refused, spoken], seen = work(runner, jobs, slots=1)
    assert isinstance(refused.error, InvalidRequest)
    assert refused.error.param == "speaker"
    assert spoken.finish_reason == "length"
    assert seen[-1].failures == 0
    assert runner.called("clear") == []


def test_a_full_reader_is_paused_and_goes_on_when_there_is_room():
    runner = Script()
    slow, quick = Reader(), Reader()
    slow.has_room = False
    paused = []

    def on_step(statistics):
        paused.append(statistics.paused)
        if quick.finish_reason:
            slow.has_room = True
        if slow.finish_reason:
            loop.stop()

    loop = make_loop(runner, on_step)
    loop.put(job(0), slow)
    loop.put(job(1), quick)
    loop.run()
    # Readers are first looked at one step after the start.
    expected = [[0, 1]] + [[1]] * 4 + [[0]] * 4
    assert [slots for slots, *_ in runner.called("frame")] == expected
    assert paused[:4] == [0, 1, 1, 1]
    assert paused[-1] == 0
    assert slow.finish_reason == "length"


# Waiting --------------------------------------------------------------------------------


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch):
    """The time limits with which the loop waits for jobs, one for each time it does."""
    noted = []

    class Inbox(SimpleQueue):
        def get(self, block=True, timeout=None):
            noted.append(timeout)
            assert len(noted) < 50, "it polls"
            return super().get(timeout=2 if timeout is None else timeout)

    class Noting(Inbox):
        def get_nowait(self):
            return SimpleQueue.get(self, block=False)

    monkeypatch.setattr(module, "SimpleQueue", Noting)
    return noted


def test_an_idle_engine_waits_without_a_limit(gets):
    runner, first, second = Script(), Reader(), Reader()
    loop = make_loop(runner, lambda _: loop.stop() if second.finish_reason else None)

    def submit_later():
        # Once the loop waits; it has nothing to do then but to take this.
        while len(gets) < 2:
            if first.finish_reason:
                release.wait(0.001)
        loop.put(job(1), second)

    release = threading.Event()
    loop.put(job(0), first)
    writer = threading.Thread(target=submit_later, daemon=True)
    writer.start()
    loop.run()
    writer.join(5)
    assert gets == [None, None]
    assert second.finish_reason == "length"


def test_a_paused_stream_is_looked_at_again_soon(gets):
    runner, reader = Script(), Reader()
    reader.has_room = False

    def on_step(_statistics):
        if len(gets) == 4:
            loop.stop()

    loop = make_loop(runner, on_step)
    loop.put(job(0), reader)
    loop.run()
    assert gets == [None] + [PAUSE_POLL_S] * 3
    assert PAUSE_POLL_S <= 0.02


def test_the_loop_does_not_wait_while_there_is_work(gets):
    runner = Script(run_ahead=1)
    runner.late = 3
    work(runner, [job(n, max_frames=7) for n in range(5)], slots=2)
    assert gets == [None]


# Text that is still being written -------------------------------------------------------


def test_text_is_brought_in_by_steps_and_its_end_once():
    runner = Script(text_rows=1)
    feed = TextFeed()
    feed.put(range(TEXT_IDS_PER_STEP + 3))
    feed.finish(12)
    speech = job(feed=feed, layout="streaming_text", max_frames=50)
    _, [reader], _ = work(runner, [speech])
    assert runner.called("append_text") == [
        (0, TEXT_IDS_PER_STEP, 1, False),
        (0, 3, 1 + TEXT_IDS_PER_STEP, True),
    ]
    assert (len(reader.samples), reader.finish_reason) == (12 * FRAME, "runaway")


def test_an_end_without_text_is_still_an_end():
    runner = Script(text_rows=2)
    feed = TextFeed()
    speech = job(feed=feed, layout="streaming_text", max_frames=6)

    def after(_loop, step):
        if step == 4:
            # Two rows are there: the frames that end with them have been made.
            assert len(runner.called("frame")) == 2
            feed.finish(30)

    _, [reader], seen = work(runner, [speech], after)
    assert runner.called("append_text") == [(0, 0, 2, True)]
    assert reader.finish_reason == "length"
    assert 1 in {statistics.paused for statistics in seen}


def test_text_that_cannot_be_read_fails_its_own_stream():
    runner = Script(text_rows=1)
    runner.failing["append_text"] = [True]
    feed = TextFeed()
    feed.put([1])
    jobs = [job(0, feed=feed, layout="streaming_text"), job(1)]
    _, [failed, other], _ = work(runner, jobs)
    assert (failed.finish_reason, other.finish_reason) == ("error", "length")
    assert runner.called("clear") == [([0],)]


# Failing --------------------------------------------------------------------------------


def test_failures_between_successes_never_end_the_engine():
    runner = Script()
    runner.failing["frame"] = [True, False] * 8
    jobs = [job(n, max_frames=1) for n in range(16)]
    loop, readers, seen = work(runner, jobs, slots=1, max_failures=2)
    assert [reader.finish_reason for reader in readers] == ["error", "length"] * 8
    assert seen[-1].failures == 8
    assert isinstance(loop.end, NotReady), "it ended because it was stopped"


@pytest.mark.parametrize("most", [1, 2, 3])
def test_so_many_failures_in_a_row_end_the_engine(most):
    runner = Script()
    runner.failing["frame"] = [True] * 100
    loop, readers, seen = work(runner, [job(n) for n in range(6)], slots=1, max_failures=most)
    assert [statistics.failures for statistics in seen] == list(range(1, most + 1))
    assert {reader.finish_reason for reader in readers} == {"error"}
    assert isinstance(loop.end, SynthesisFailed)
    assert "restarted" in str(loop.end)
    late = Reader()
    loop.put(job(9), late)
    assert late.error is loop.end


def test_a_step_without_a_frame_is_no_success():
    runner, full = Script(), Reader()
    full.has_room = False
    runner.failing["begin"] = [False, True, True]
    failing = [Reader(), Reader()]

    def on_step(_statistics):
        steps.append(len(steps))
        if len(steps) in {2, 6}:
            loop.put(job(1), failing[len(steps) // 6])
        assert len(steps) < 20, "it goes on"

    steps = []
    loop = make_loop(runner, on_step, max_failures=2)
    loop.put(job(0), full)
    loop.run()
    assert isinstance(full.error, SynthesisFailed)
    assert [reader.finish_reason for reader in failing] == ["error"] * 2
    assert 7 <= len(steps) <= 8


@pytest.mark.parametrize(
    ("call", "failed"),
    [
        pytest.param("begin", {2}, id="who could not begin"),
        pytest.param("prefill", {0, 1, 2}, id="all whose prompts were read"),
        pytest.param("frame", {0, 1, 2}, id="all of a frame"),
        pytest.param("sound", {0, 1, 2}, id="all of a chunk"),
    ],
)
def test_a_failing_call_fails_those_it_worked_for(call, failed):
    runner = Script()
    runner.failing[call] = [False] * 2 + [True] if call == "begin" else [True]
    jobs = [job(n, max_frames=4) for n in range(3)]
    _, readers, seen = work(runner, jobs, prefill_piece_rows=2)
    ended = {n for n, reader in enumerate(readers) if reader.finish_reason == "error"}
    assert ended == failed
    assert all(isinstance(readers[n].error, SynthesisFailed) for n in failed)
    assert all(len(readers[n].samples) == 4 * FRAME for n in {0, 1, 2} - failed)
    cleared = [] if call == "begin" else [(sorted(failed),)]
    assert runner.called("clear") == cleared
    assert seen[-1].failures == 1
    assert seen[-1].active == 0


@pytest.mark.parametrize(
    ("call", "fails", "run_ahead"),
    [
        # Its frame was begun before the other speech had any.
        pytest.param("ends", [True], 1, id="of a frame"),
        # In the fourth step each has a chunk of its own size, and the first one's comes first.
        pytest.param("heard", [False, False, False, True], 0, id="of a chunk"),
    ],
)
def test_an_outcome_that_fails_is_that_of_its_own_streams(call, fails, run_ahead):
    runner = Script(run_ahead=run_ahead)
    runner.failing[call] = fails
    first, second = Reader(), Reader()

    def on_step(_statistics):
        steps.append(len(steps))
        if len(steps) == 1:
            loop.put(job(1, max_frames=9), second)
        if second.finish_reason:
            loop.stop()

    steps = []
    loop = make_loop(runner, on_step, chunk_frames=(1, 2, 1))
    loop.put(job(0, max_frames=9), first)
    loop.run()
    assert (first.finish_reason, second.finish_reason) == ("error", "length")
    assert runner.called("clear") == [([0],)]


def test_a_slow_reader_is_not_failed_by_the_frames_of_others():
    runner, slow, quick = Script(), Reader(), Reader()
    slow.has_room = False
    runner.failing["frame"] = [False, True]

    def on_step(_statistics):
        slow.has_room = quick.finish_reason is not None
        if slow.finish_reason and quick.finish_reason:
            loop.stop()

    loop = make_loop(runner, on_step)
    loop.put(job(0), slow)
    loop.put(job(1), quick)
    loop.run()
    assert (slow.finish_reason, quick.finish_reason) == ("length", "error")
    assert runner.called("clear") == [([1],)]


def test_what_comes_later_for_a_failed_stream_is_ignored():
    runner = Script(run_ahead=1)
    runner.failing["frame"] = [False, False, True]
    _, readers, _ = work(runner, [job(0), job(1)], slots=1, chunk_frames=(1,))
    assert [reader.finish_reason for reader in readers] == ["error", "length"]
    assert len(readers[1].samples) == 5 * FRAME


def test_a_failure_without_an_owner_fails_all_requests():
    class Broken(Reader):
        looks = 0

        @property
        def has_room(self):
            self.looks += 1
            if self.looks == 2:
                raise RuntimeError("out of luck")
            return True

        @has_room.setter
        def has_room(self, _):
            pass

    runner, readers = Script(), [Reader(), Broken()]
    loop = make_loop(runner, lambda _: loop.stop() if all(r.finish_reason for r in readers) else 0)
    for seed, reader in enumerate(readers):
        loop.put(job(seed, max_frames=20), reader)
    loop.run()
    assert [reader.finish_reason for reader in readers] == ["error"] * 2
    assert runner.called("clear") == [([0, 1],)]


def test_slots_that_cannot_be_cleared_end_the_engine():
    runner = Script()
    runner.failing = {"frame": [True], "clear": [True]}
    loop, readers, seen = work(runner, [job(n) for n in range(3)], slots=1, max_failures=50)
    assert "restarted" in str(loop.end)
    assert [reader.finish_reason for reader in readers] == ["error"] * 3
    assert seen[-1].failures == 1


# The end --------------------------------------------------------------------------------


def test_stopping_fails_what_speaks_waits_and_comes_later():
    runner = Script()
    loop, readers, _ = work(
        runner,
        [job(n, max_frames=90) for n in range(3)],
        lambda loop, step: loop.stop() if step == 3 else None,
        slots=1,
    )
    late = Reader()
    loop.put(job(3), late)
    assert all(isinstance(reader.error, NotReady) for reader in [*readers, late])
    assert len(runner.called("frame")) == 3


def test_a_loop_that_is_cut_off_fails_everyone_too():
    def broken(_statistics):
        raise KeyboardInterrupt

    loop = make_loop(Script(), broken, slots=1)
    readers = [Reader(), Reader()]
    for reader in readers:
        loop.put(job(), reader)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert all("unexpectedly" in str(reader.error) for reader in readers)
    assert isinstance(loop.end, SynthesisFailed)


def test_a_job_that_comes_as_the_loop_ends_fails_as_well():
    runner, late = Script(), Reader()

    def at_the_end(loop, step):
        if step == 2:
            loop.stop()
            loop.put(job(5), late)

    work(runner, [job(max_frames=90)], at_the_end)
    assert isinstance(late.error, NotReady)


# Numbers --------------------------------------------------------------------------------


def test_the_statistics_count_what_was_done():
    runner = Script(rows=3)
    jobs = [job(0, max_frames=2), job(1, max_frames=4), job(2, max_frames=1)]
    _, _, seen = work(runner, jobs, slots=2)
    counted = [(s.steps, s.frames, s.rows, s.active, s.waiting) for s in seen]
    assert counted == [(1, 2, 2, 2, 1), (2, 4, 2, 1, 1), (3, 6, 2, 1, 0), (4, 7, 1, 0, 0)]
    assert {s.failures for s in seen} == {0}


def test_a_job_that_is_not_taken_yet_counts_as_waiting():
    runner, seen = Script(), []
    loop = make_loop(runner, seen.append)
    loop.put(job(), Reader())
    loop._attempt()
    assert seen[-1].waiting == 1


def test_how_long_a_step_takes_follows_the_steps_slowly(monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    runner, planned, seen = Script(), [], []
    waits, busy = deque([0.5, 1.0, 1.0]), []
    frame, plan = runner.frame, module.plan_decode

    def slow(slots, **how):
        busy.append(loop.busy_since_s)
        clock.now_s += waits.popleft()
        return frame(slots, **how)

    def noting(streams, options, *, now_s, step_s):
        planned.append((now_s, step_s))
        return plan(streams, options, now_s=now_s, step_s=step_s)

    def on_step(statistics):
        assert loop.busy_since_s is None
        seen.append(statistics.step_s)
        clock.now_s += 7.0  # what lies between steps is no part of them

    runner.frame = slow
    monkeypatch.setattr(module, "plan_decode", noting)
    loop = make_loop(runner, on_step)
    loop.put(job(), Reader())
    loop._receive()
    for _ in range(3):
        loop._attempt()
    assert seen == [0.5, 1.0, 1.0]
    begins = [100.0, 107.5, 115.5]
    assert busy == begins
    assert [now_s for now_s, _ in planned] == begins
    assert [step_s for _, step_s in planned] == pytest.approx([0.0, 0.5, 0.6])


# Numbers that are none ----------------------------------------------------------------


def test_samples_that_are_not_finite_fail_their_stream_after_what_was_sound():
    runner = Script(level=lambda frame: float("nan") if frame == 2 else LOUD)
    _, (reader,), seen = work(runner, [job()], max_failures=1)
    assert isinstance(reader.error, SynthesisFailed)
    assert reader.samples == [LOUD] * 2 * FRAME
    assert seen[-1].failures == 1


def test_logits_that_are_not_finite_fail_their_own_stream():
    runner = Script()
    frame = runner.frame

    def spoiled(slots, **options):
        outcome = frame(slots, **options)
        values = zip(slots, outcome._value, strict=True)
        outcome._value = [NOT_FINITE if slot == 1 else end for slot, end in values]
        return outcome

    runner.frame = spoiled
    _, readers, seen = work(runner, [job(n) for n in range(3)])
    assert [reader.finish_reason for reader in readers] == ["length", "error", "length"]
    assert readers[1].samples == []
    assert runner.called("clear") == [([1],)]
    assert seen[-1].failures == 1
