"""A worker's HTTP server: signs of life for its supervisor."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.config import Config

from qwen_tts_service.api import server as server_module
from qwen_tts_service.api.keeper import Stage
from qwen_tts_service.api.roster import Roster
from qwen_tts_service.api.server import WorkerServer


async def test_a_worker_shows_that_it_works_until_its_voice_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "BEAT_S", 0.0)
    roster, runtime = Roster.make(1), SimpleNamespace(stage=Stage("ready"))
    worker: Any = WorkerServer(Config("x:y"), runtime=runtime)  # type: ignore[arg-type]
    beating = asyncio.create_task(worker._beat(roster))
    async with asyncio.timeout(10):
        while roster.beats(1) < 3:  # noqa: ASYNC110 - the beats are what is tested
            await asyncio.sleep(0)
    runtime.stage = Stage("failed")
    before = roster.beats(1)
    for _ in range(10):
        await asyncio.sleep(0)
    beating.cancel()
    assert roster.beats(1) == before
    assert roster.is_ready(1)
