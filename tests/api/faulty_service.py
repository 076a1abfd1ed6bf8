"""The real service with faults that a test switches on: `tests.api.faulty_service:QwenTTS`.

The file FAULT holds a place of PLACES, how many calls there fail from now on, and a number that is
new each time. The encoder is that of wav alone, so that a neighbour may have another.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import service

from qwen_tts_service.audio.encoders import WavFileEncoder, WavStreamEncoder
from qwen_tts_service.engine.runner import PlainRunner
from qwen_tts_service.model.tokenizer import Tokenizer

PLACES: list[tuple[str, type, str]] = [
    ("prefill", PlainRunner, "prefill"),
    ("step", PlainRunner, "frame"),
    ("codec", PlainRunner, "decode"),
    ("encoder", WavStreamEncoder, "encode"),
    ("encoder", WavFileEncoder, "encode"),
    ("tokenizer", Tokenizer, "plain_ids"),
]

_calls: dict[str, int] = {}


def _check(place: str) -> None:
    try:
        fault = Path(os.environ["FAULT"]).read_text()
    except FileNotFoundError:
        return
    if not fault.startswith(f"{place} "):
        return
    _calls[fault] = calls = _calls.get(fault, 0) + 1
    if calls <= int(fault.split()[1]):
        raise RuntimeError(f"fault injected in {place}")


def _failing(place: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*given: Any, **named: Any) -> Any:
        _check(place)
        return call(*given, **named)

    return checked


for _place, _owner, _name in PLACES:
    setattr(_owner, _name, _failing(_place, getattr(_owner, _name)))

QwenTTS = service.QwenTTS
