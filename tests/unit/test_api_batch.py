"""Batches without a server: slots, turns with other requests, clients that leave, refusals."""

import asyncio
import json
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.requests import Request
from tests.api.socket_harness import FakeRuntime, at_once, make_runtime, settle

from qwen_tts_service.api.admission import Admission
from qwen_tts_service.api.batch import PATH, BatchItemBody, SpeechBatchBody, create_batch
from qwen_tts_service.api.call import SCOPE_KEY, Call
from qwen_tts_service.api.tickets import RUNTIME_KEY
from qwen_tts_service.validation import from_validation


class BatchClient:
    """One batch of texts, and what it has been sent; `hold` is spoken until it is let go."""

    def __init__(self, runtime: FakeRuntime, *texts: str) -> None:
        self.runtime = runtime
        self.call = Call("batch")
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        body = json.dumps({"seed": 1, "items": [{"input": text} for text in texts]}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await self.left.wait()
            return {"type": "http.disconnect"}

        scope = {
            "type": "http",
            "headers": [(b"content-type", b"application/json")],
            SCOPE_KEY: self.call,
            RUNTIME_KEY: runtime,
        }
        self.receive = receive
        self.task = asyncio.create_task(self._run(Request(scope, receive)))

    async def _run(self, http: Request) -> None:
        try:
            response = await create_batch(http)
            await response(http.scope, self.receive, self._send)
        finally:
            self.call.end()

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> Any:
        return json.loads(b"".join(m.get("body", b"") for m in self.sent))

    @property
    def results(self) -> list[str]:
        """What became of each item: its status, or the code of its error."""
        return [r.get("error", {}).get("code", r["status"]) for r in self.body["results"]]

    async def let_go(self, index: int) -> None:
        """End the speech that came as this one."""
        self.runtime.voice.utterances[index].channel.close()
        await settle()


def with_slots(slots: int, queue: int) -> FakeRuntime:
    return make_runtime(MAX_CONCURRENT_REQUESTS=str(slots), MAX_QUEUE=str(queue))


@at_once
async def test_one_item_at_a_time_waits_in_the_queue_so_that_others_take_turns() -> None:
    runtime = with_slots(1, 2)
    admission = runtime.admission
    batch = BatchClient(runtime, "hold a", "hold b", "hold c")
    await settle()
    assert (admission.active, admission.queued) == (1, 1)
    other = admission.enter()
    await batch.let_go(0)
    assert (admission.active, admission.queued) == (1, 2)
    await batch.let_go(1)
    assert other.is_granted
    assert len(runtime.voice.utterances) == 2
    other.release()
    await settle()
    await batch.let_go(2)
    await batch.task
    assert batch.results == ["success"] * 3
    assert runtime.is_idle


@at_once
async def test_results_are_sent_in_their_order_as_they_come() -> None:
    batch = BatchClient(with_slots(3, 0), "hold a", "b", "c")
    await settle()
    assert len(batch.sent) == 1  # the headers
    await batch.let_go(0)
    await batch.task
    assert [result["index"] for result in batch.body["results"]] == [0, 1, 2]
    assert {k: v for k, v in batch.body.items() if k != "results"} == {
        "id": "batch",
        "total": 3,
        "succeeded": 3,
        "failed": 0,
    }


@at_once
async def test_an_item_that_finds_the_queue_full_waits_for_one_of_its_batch() -> None:
    batch = BatchClient(with_slots(1, 0), "hold a", "b")
    await settle()
    assert len(batch.runtime.voice.utterances) == 1
    await batch.let_go(0)
    await batch.task
    assert batch.results == ["success", "success"]


@at_once
async def test_an_item_is_busy_when_no_item_of_its_batch_is_left_to_wait_for() -> None:
    runtime = with_slots(1, 0)
    taken: list[Any] = []

    def take_free_slot() -> None:
        if admission.active == 0 and not taken:
            taken.append(admission.enter())

    admission = Admission(slots=1, queue_limit=0, on_change=take_free_slot)
    runtime = FakeRuntime(runtime.settings, runtime.synthesizer, admission)
    batch = BatchClient(runtime, "a", "b")
    await batch.task
    assert batch.results == ["success", "busy"]
    assert batch.body["failed"] == 1


@at_once
async def test_a_batch_of_which_no_item_can_begin_is_refused_as_a_whole() -> None:
    runtime = with_slots(1, 0)
    slot = runtime.admission.enter()
    batch = BatchClient(runtime, "a", "b")
    await batch.task
    assert batch.sent[0]["status"] == 429
    assert dict(batch.sent[0]["headers"])[b"retry-after"]
    assert batch.body["error"]["code"] == "busy"
    slot.release()
    assert runtime.is_idle


@at_once
async def test_a_client_that_leaves_frees_everything(log: pytest.LogCaptureFixture) -> None:
    runtime = with_slots(2, 2)
    batch = BatchClient(runtime, "hold a", "hold b", "hold c", "hold d")
    await settle()
    assert not runtime.is_idle
    batch.left.set()
    await batch.task
    assert runtime.is_idle
    assert [u.finish_reason for u in runtime.voice.utterances] == ["cancelled"] * 2
    lines = [record.getMessage() for record in log.records if record.levelno == logging.INFO]
    assert sum("outcome=cancelled" in line for line in lines) == 4


def test_a_recording_for_all_items_is_kept_once() -> None:
    body = SpeechBatchBody.model_validate({"items": [{"input": "a"}] * 2, "ref_audio": "x" * 99})
    bodies = [BatchItemBody.model_validate(fields) for fields in body.with_defaults()]
    assert bodies[0].ref_audio is bodies[1].ref_audio


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", math.nan),
        ("temperature", "1"),
        ("voice_attributes", {"age": 0}),
        ("voice_attributes", {"gender": "FEMALE"}),
        ("speed", 1),
        ("tokens", [1.5]),
    ],
)
def test_an_item_is_checked_as_it_would_be_by_itself(field: str, value: Any) -> None:
    def refusal(check: Callable[[], object]) -> str | None:
        try:
            check()
        except ValidationError as error:
            return from_validation(error, BatchItemBody).message
        return None

    fields = {"input": "a", field: value}
    alone = refusal(lambda: BatchItemBody.model_validate_json(json.dumps(fields)))
    assert refusal(lambda: BatchItemBody.model_validate(fields)) == alone


@at_once
async def test_every_item_has_its_own_status_and_line_in_the_log(
    log: pytest.LogCaptureFixture,
) -> None:
    batch = BatchClient(make_runtime(), "fine", "fail", " ", "break", "runaway")
    await batch.task
    assert batch.results == [
        "success",
        "internal_error",
        "invalid_request",
        "internal_error",
        "runaway",
    ]
    lines = {
        record.getMessage().split()[1]: record.getMessage()
        for record in log.records
        if record.getMessage().startswith(PATH)
    }
    outcomes = [lines[f"id=batch.{n}"].rpartition("outcome=")[2] for n in range(5)]
    assert outcomes == ["ok", *batch.results[1:]]
    statuses = [lines[f"id=batch.{n}"].rpartition("status=")[2].split()[0] for n in range(5)]
    assert statuses == ["200", "500", "400", "500", "422"]
