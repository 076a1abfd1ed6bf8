"""The benchmark and the CUDA checks of the engine: their output, and that they can fail."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.checkpoints import write_quick_checkpoint
from tests.engine.harness import RecordingDriver
from tests.model.conftest import ROOT, load_script

from qwen_tts_service.engine.driver import EagerDriver
from qwen_tts_service.model.qwen3_tts import Qwen3TTS


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))  # as when it is run
    try:
        yield load_script("bench_engine")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_the_engine_is_measured_by_part_and_under_load(
    bench,
    quick_checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    out = tmp_path / "figures.json"
    given = ["--batch", "1,3", "--frames", "6", "--closed", "2", "--open", "50", "--requests", "4"]
    monkeypatch.setattr(
        sys, "argv", ["bench_engine", str(quick_checkpoint), *given, "--json", str(out)]
    )
    assert bench.main() == 0
    figures = json.loads(out.read_text())
    assert {"command", "commit", "device", "cpu_flags", "date"} <= set(figures["facts"])
    assert [row["batch"] for row in figures["rows"]] == [1, 3]
    for row in figures["rows"]:
        assert row["first"] <= row["mean_first"] <= row["last_first"]
        assert row["last_to_mean"] * row["mean_first"] == pytest.approx(row["last_first"])
        parts = [row[name] for name in ("talker", "predictor", "other", "codec")]
        assert min(parts) > 0
        assert sum(parts) < row["step"] * 1.01
    assert [row["load"] for row in figures["loads"]] == ["2 streams", "50 requests/s"]
    for row in figures["loads"]:
        assert (row["requests"], row["errors"]) == (4, 0)
        assert 0 < row["first_audio_p50_ms"] <= row["first_audio_p95_ms"]
    assert {row["voice"] for row in figures["rows"]} == {"speaker"}
    assert "| 2 streams | 4 | 0 |" in capsys.readouterr().out


def test_a_cloned_voice_is_measured_with_its_recording_and_without(
    bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    write_quick_checkpoint(tmp_path / "base", "tiny_base_1b7")
    out, how = tmp_path / "figures.json", ["--batch", "2", "--frames", "4", "--recording", "1.6"]
    monkeypatch.setattr(
        sys, "argv", ["bench_engine", str(tmp_path / "base"), *how, "--json", str(out)]
    )
    assert bench.main() == 0
    figures = json.loads(out.read_text())
    assert [row["voice"] for row in figures["rows"]] == ["clone", "1.6 s"]
    assert min(figures["facts"]["encode_ms"], figures["facts"]["hear_ms"]) > 0


def test_making_a_voice_is_measured_by_part(
    bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    write_quick_checkpoint(tmp_path / "base", "tiny_base_0b6")
    out = tmp_path / "figures.json"
    how = ["--seconds", "1,2", "--repeats", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["bench_voice", str(tmp_path / "base"), *how])
    assert load_script("bench_voice").main() == 0
    figures = json.loads(out.read_text())
    assert {"command", "commit", "device", "date", "load_average"} <= set(figures["facts"])
    assert [row["seconds"] for row in figures["rows"]] == [1, 2]
    assert min(row[part] for row in figures["rows"] for part in ("read", "embed", "encode")) > 0
    assert "| recording, s | read, ms |" in capsys.readouterr().out


@pytest.fixture(scope="module")
def fused_model(quick_checkpoint: Path) -> Qwen3TTS:
    """With the plain definitions of the fused kernels, which is what they are on a CPU."""
    return Qwen3TTS.load(quick_checkpoint, linear="float", fused_kernels=True)


@pytest.mark.parametrize("kind", ["model", "fused_model"])
def test_parts_of_a_captured_frame_are_timed_by_themselves(
    bench, kind: str, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(kind)
    options = bench.engine_options(model, 3, bench.argparse.Namespace(frames=6, start_steps=3))
    driver = RecordingDriver()
    seconds = bench.captured_parts(model, driver, 3, options)
    assert driver.captured == ["frames"] * 3
    assert set(seconds) == {"talker", "predictor", "frame"}
    assert min(seconds.values()) > 0


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("check_cuda")
    monkeypatch.setattr(module, "graphs_of", lambda _model: RecordingDriver())
    return module


def test_all_checks_for_cuda_pass_with_a_stand_in_for_it(
    check, quick_checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["check_cuda", str(quick_checkpoint), "--device", "cpu"])
    monkeypatch.setattr(check, "JOBS", 2)
    assert check.main() == 0
    said = capsys.readouterr().out
    assert "7/7 checks passed" in said
    assert "fused and torch's own: first logits" in said
    assert "8/8 utterances have the bits of plain calls" in said
    assert "2/2 utterances keep their bits" in said
    assert "float32 on the CPU and here: first logits 0.0e+00 off, 16/16" in said


def test_graphs_of_fused_kernels_say_what_plain_calls_and_torchs_own_kernels_say(
    check, quick_checkpoint: Path, fused_model: Qwen3TTS, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(check, "JOBS", 2)
    assert check.graphs_are_plain_calls(fused_model)[0]
    assert check.bits_in_any_company(fused_model)[0]
    own = Qwen3TTS.load(quick_checkpoint, linear="float")
    spoken = []
    for model in (fused_model, own):
        with check.engine_with(model, EagerDriver, check.OPTIONS) as engine:
            spoken.append([engine.run_whole(job) for job in check.make_jobs(model)])
    assert check.equal(*spoken, within=1e-4) == 2


def test_a_driver_that_repeats_nothing_is_found(
    check, model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Lazy(RecordingDriver):
        def capture(self, work, pool):
            super().capture(work, pool)
            return lambda: None

    monkeypatch.setattr(check, "graphs_of", lambda _model: Lazy())
    monkeypatch.setattr(check, "JOBS", 2)
    assert not check.run(check.graphs_are_plain_calls, model)
    assert "FAILED  graphs: 0/8" in capsys.readouterr().out


def test_a_check_that_raises_fails_with_the_reason(
    check, model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(_device):
        raise RuntimeError("no capture today")

    monkeypatch.setattr(check, "graphs_of", broken)
    assert not check.run(check.a_known_prefix, model)
    assert "FAILED  RuntimeError('no capture today')" in capsys.readouterr().out


def test_other_logits_are_found(check, model, quick_checkpoint):
    other = Qwen3TTS.load(quick_checkpoint)
    assert check.near(model, other, 1e-3, "twins")[0]
    with torch.inference_mode():
        other.talker.stack.norm.scaled.mul_(torch.linspace(0.9, 1.1, 64))
    assert not check.near(model, other, 1e-3, "twins")[0]


def test_without_a_device_an_error_is_printed(
    check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["check_cuda", "anywhere"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check.main() == 2
    assert "needs a CUDA device" in capsys.readouterr().err
