"""Ceilings for what a step launches on a GPU, counted on shapes without values."""

import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import torch  # noqa: E402

import launch_counts  # noqa: E402

FRAME = 955  # four of them are for logits that are not finite, see SlotTensors.frame
PROMPT = 290
CODEC = 260
BEGIN = 10


@pytest.fixture(scope="module", params=launch_counts.SIZES)
def counts(request: pytest.FixtureRequest) -> launch_counts.Counts:
    return launch_counts.count_model(request.param)


def test_a_frame_launches_few_kernels_at_any_batch(counts: launch_counts.Counts) -> None:
    assert set(counts.frame) == {1, 16, 64}
    assert all(0 < kernels <= FRAME for kernels in counts.frame.values())


def test_prompts_codec_and_beginnings_launch_few_kernels(counts: launch_counts.Counts) -> None:
    assert 0 < counts.prompt <= PROMPT
    assert set(counts.codec) == {1, 8}
    assert all(0 < kernels <= CODEC for kernels in counts.codec.values())
    assert 0 < counts.begin <= BEGIN


def test_work_on_the_hosts_memory_cannot_be_captured() -> None:
    device = torch.zeros(4, device=launch_counts.META)
    with pytest.raises(RuntimeError, match="host's memory"):
        launch_counts.count(lambda: device.copy_(torch.zeros(4)))
    assert launch_counts.count(lambda: device.add_(1).view(2, 2)).total == 1


def test_the_script_writes_what_it_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = launch_counts.Counts({1: 9, 16: 8, 64: 7}, 6, {1: 5, 8: 4}, 3)
    monkeypatch.setattr(launch_counts, "count_model", lambda _size: given)
    monkeypatch.setattr("sys.argv", ["count_launches", "--json", str(tmp_path / "counts.json")])
    assert launch_counts.main() == 0
    table = json.loads((tmp_path / "counts.json").read_text())
    assert table["1.7b"] == table["0.6b"]
    assert table["0.6b"] == {
        "frame": {"1": 9, "16": 8, "64": 7}, "prompt": 6, "codec": {"1": 5, "8": 4}, "begin": 3
    }  # fmt: skip
    assert "| frame, B = 16 | 8 | 8 |" in capsys.readouterr().out
