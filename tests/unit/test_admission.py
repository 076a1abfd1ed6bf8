"""Admission: slots, a bounded queue, first come first served."""

import asyncio

import pytest

from qwen_tts_service.api.admission import Admission
from qwen_tts_service.errors import Busy


def test_a_free_slot_is_granted_at_once() -> None:
    async def run() -> None:
        admission = Admission(slots=1, queue_limit=0)
        await asyncio.wait_for(admission.enter().granted(), 1)
        assert (admission.active, admission.queued) == (1, 0)

    asyncio.run(run())


def test_beyond_slots_and_queue_it_is_busy_and_says_when_to_come_back() -> None:
    async def run() -> None:
        admission = Admission(slots=1, queue_limit=1)
        admission.enter()
        admission.enter()
        with pytest.raises(Busy) as caught:
            admission.enter()
        assert 1 <= caught.value.retry_after_s <= 60
        assert (admission.active, admission.queued) == (1, 1)

    asyncio.run(run())


def test_slots_are_granted_in_the_order_of_arrival() -> None:
    async def run() -> None:
        admission = Admission(slots=1, queue_limit=2)
        first, second, third = (admission.enter() for _ in range(3))
        first.release()
        assert (second.is_granted, third.is_granted) == (True, False)

    asyncio.run(run())


def test_one_who_leaves_the_queue_is_never_granted() -> None:
    async def run() -> None:
        admission = Admission(slots=1, queue_limit=2)
        first, second, third = (admission.enter() for _ in range(3))
        second.release()
        first.release()
        assert third.is_granted
        assert not second.is_granted
        assert (admission.active, admission.queued) == (1, 0)

    asyncio.run(run())


def test_releasing_twice_frees_one_slot_only() -> None:
    async def run() -> None:
        admission = Admission(slots=2, queue_limit=0)
        first, _second = admission.enter(), admission.enter()
        first.release()
        first.release()
        assert admission.active == 1

    asyncio.run(run())


def test_cancelling_the_wait_does_not_lose_the_place_for_others() -> None:
    async def run() -> None:
        admission = Admission(slots=1, queue_limit=1)
        first, second = admission.enter(), admission.enter()
        waiting = asyncio.create_task(second.granted())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second.release()
        first.release()
        assert (admission.active, admission.queued) == (0, 0)

    asyncio.run(run())
