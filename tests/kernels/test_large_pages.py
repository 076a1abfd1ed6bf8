"""Memory is moved into large pages, and keeps its contents."""

import sys

import pytest
import torch

from qwen_tts_service.kernels import large_pages

MAPS = """\
7f0000001000-7f0000a01000 rw-p 00000000 00:00 0
7f0001000000-7f0001200000 rw-p 00000000 00:00 0                          [heap]
7f0002000000-7f0002400000 r--p 00000000 00:00 0
7f0003000000-7f0003400000 rw-p 00000000 fd:00 42                         /weights
7f0004000000-7f0004400000 rw-s 00000000 00:00 0
7f0005001000-7f0005300000 rw-p 00000000 00:00 0
7f0006000000-7f0006400000 rw-p 00000000 00:00 0                          [stack]
"""


def test_whole_large_pages_of_private_memory_are_found() -> None:
    assert list(large_pages._regions(MAPS)) == [
        (0x7F0000200000, 4 << 21),
        (0x7F0001000000, 1 << 21),
    ]


def test_memory_keeps_its_contents_and_what_was_moved_is_counted() -> None:
    numbers = torch.arange(1 << 21)
    moved = large_pages.use_large_pages()
    assert torch.equal(numbers, torch.arange(1 << 21))
    assert moved % (2 << 20) == 0


def test_other_systems_have_nothing_to_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert large_pages.use_large_pages() == 0
