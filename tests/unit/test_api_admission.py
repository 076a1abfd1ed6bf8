"""Admission: slots, a bounded queue, first come first served."""

import asyncio
from collections.abc import Callable

import pytest

from qwen_tts_service.api import admission as admission_module
from qwen_tts_service.api.admission import Admission, RateLimit
from qwen_tts_service.errors import Busy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still; call it to let seconds pass."""
    now_s = [1000.0]
    monkeypatch.setattr(admission_module, "monotonic", lambda: now_s[0])

    def wait(seconds: float) -> None:
        now_s[0] += seconds

    return wait


@pytest.fixture(autouse=True)
def _no_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "uniform", lambda _low, _high: 1.0)


def retry_after_s(admission: Admission) -> int:
    """What a refused request is told; takes everything that is left."""
    while admission.active < admission.slots or admission.queued < admission.queue_limit:
        admission.enter()
    with pytest.raises(Busy) as caught:
        admission.enter()
    return caught.value.retry_after_s


async def test_a_free_slot_is_granted_at_once() -> None:
    admission = Admission(slots=1, queue_limit=0)
    await asyncio.wait_for(admission.enter().granted(), 1)
    assert (admission.active, admission.queued) == (1, 0)


@pytest.mark.parametrize(
    ("slots", "queue_limit", "retry_after_s"),
    [
        (1, 0, 2),
        (3, 1, 2),
        (1, 1, 4),
        (2, 2, 4),
        (3, 0, 2),
        (10, 20, 6),
        (1, 149, 300),
        (1, 150, 300),
    ],
)
@pytest.mark.usefixtures("clock")
async def test_beyond_slots_and_queue_busy_is_raised_with_a_retry_time(
    slots: int, queue_limit: int, retry_after_s: int
) -> None:
    admission = Admission(slots=slots, queue_limit=queue_limit)
    for _ in range(slots + queue_limit):
        admission.enter()
    with pytest.raises(Busy) as caught:
        admission.enter()
    assert caught.value.retry_after_s == retry_after_s
    assert str(caught.value) == (
        f"all {slots} slots are speaking and {queue_limit} requests wait; "
        f"try again in {retry_after_s} s"
    )
    assert (admission.active, admission.queued) == (slots, queue_limit)


@pytest.mark.parametrize(
    ("held_s", "expected_s"),
    [([102.0], 102), ([0.0], 1), ([10.0, 20.0], 15), ([1.0] * 10 + [21.0], 3), ([1e4], 300)],
)
async def test_the_time_to_come_back_follows_the_mean_and_then_a_tenth_of_each_hold(
    clock: Callable[[float], None], held_s: list[float], expected_s: int
) -> None:
    admission = Admission(slots=1, queue_limit=0)
    for seconds in held_s:
        place = admission.enter()
        clock(seconds)
        assert place.held_s == seconds
        place.release()
    assert retry_after_s(admission) == expected_s


async def test_a_hold_is_counted_from_the_grant_and_not_from_the_arrival(
    clock: Callable[[float], None],
) -> None:
    admission = Admission(slots=1, queue_limit=1)
    first, second = admission.enter(), admission.enter()
    clock(2.0)
    first.release()
    clock(22.0)
    second.release()
    admission.queue_limit = 0
    assert retry_after_s(admission) == 12  # the mean of 2 and 22


@pytest.mark.parametrize(
    ("held_s", "expected_s"),
    [
        pytest.param(4.0, 6, id="as long as usual: the rest"),
        pytest.param(10.0, 1, id="about to end"),
        pytest.param(75.0, 65, id="overdue: as long again as it is"),
    ],
)
async def test_those_that_have_a_slot_now_count(
    clock: Callable[[float], None], held_s: float, expected_s: int
) -> None:
    admission = Admission(slots=2, queue_limit=0)
    first = admission.enter()
    clock(10.0)
    first.release()
    for _ in range(2):
        admission.enter()
    clock(held_s)
    assert retry_after_s(admission) == expected_s


async def test_in_overload_the_time_to_come_back_is_when_the_queue_has_been_spoken(
    clock: Callable[[float], None],
) -> None:
    admission = Admission(slots=10, queue_limit=20)
    first = admission.enter()
    clock(3.0)
    first.release()
    for _ in range(30):
        admission.enter()
    clock(1.0)
    assert retry_after_s(admission) == 8  # ends at 2, 5 and 8 s


async def test_refused_clients_come_back_at_different_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    admission = Admission(slots=1, queue_limit=19)
    told = {retry_after_s(admission) for _ in range(100)}
    assert len(told) > 5
    assert min(told) >= 32
    assert max(told) <= 48


async def test_somebody_waits_while_there_is_a_queue_and_a_moment_after_a_refusal(
    clock: Callable[[float], None],
) -> None:
    admission = Admission(slots=1, queue_limit=1)
    admission.enter()
    assert not admission.is_contended
    waiting = admission.enter()
    assert admission.is_contended
    waiting.release()
    assert not admission.is_contended
    admission.queue_limit = 0
    retry_after_s(admission)
    clock(4.9)
    assert admission.is_contended
    clock(0.1)
    assert not admission.is_contended


async def test_leaving_the_queue_does_not_change_the_retry_time(
    clock: Callable[[float], None],
) -> None:
    admission = Admission(slots=1, queue_limit=1)
    admission.enter()
    waiting = admission.enter()
    clock(2.0)
    waiting.release()
    clock(-2.0)
    admission.queue_limit = 0
    assert retry_after_s(admission) == 2


async def test_on_change_is_called_after_each_change() -> None:
    changes: list[tuple[int, int]] = []
    admission = Admission(
        slots=1,
        queue_limit=2,
        on_change=lambda: changes.append((admission.active, admission.queued)),
    )
    first, second, third = (admission.enter() for _ in range(3))
    second.release()
    first.release()
    third.release()
    assert changes == [(1, 0), (1, 1), (1, 2), (1, 1), (1, 0), (0, 0)]


async def test_a_queued_request_waits_until_a_slot_is_free() -> None:
    admission = Admission(slots=1, queue_limit=1)
    first, second = admission.enter(), admission.enter()
    waiting = asyncio.create_task(second.granted())
    await asyncio.sleep(0)
    assert not waiting.done()
    first.release()
    await asyncio.wait_for(waiting, 1)


async def test_slots_are_granted_in_the_order_of_arrival() -> None:
    admission = Admission(slots=1, queue_limit=2)
    first, second, third = (admission.enter() for _ in range(3))
    first.release()
    assert (second.is_granted, third.is_granted) == (True, False)


async def test_a_request_that_leaves_the_queue_is_never_granted() -> None:
    admission = Admission(slots=1, queue_limit=2)
    first, second, third = (admission.enter() for _ in range(3))
    second.release()
    first.release()
    assert third.is_granted
    assert not second.is_granted
    assert (admission.active, admission.queued) == (1, 0)


async def test_releasing_twice_frees_one_slot_only() -> None:
    admission = Admission(slots=2, queue_limit=0)
    first, _second = admission.enter(), admission.enter()
    first.release()
    first.release()
    assert admission.active == 1


async def test_cancelling_the_wait_does_not_lose_the_slot_for_others() -> None:
    admission = Admission(slots=1, queue_limit=1)
    first, second = admission.enter(), admission.enter()
    waiting = asyncio.create_task(second.granted())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    second.release()
    first.release()
    assert (admission.active, admission.queued) == (0, 0)


def test_so_many_in_any_minute_and_the_next_is_told_when(clock: Callable[[float], None]) -> None:
    limit = RateLimit(2)
    limit.take()
    clock(50)
    limit.take()
    with pytest.raises(Busy, match="VOICES_PER_MINUTE") as busy:
        limit.take()
    assert busy.value.retry_after_s == 10
    clock(10)
    limit.take()
    with pytest.raises(Busy):
        limit.take()
