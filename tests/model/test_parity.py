"""The official package's recorded outputs, case by case."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def run(parity, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the script as from a shell; exit status and lines."""

    def run(checkpoint, golden, *options):
        monkeypatch.setattr("sys.argv", ["parity.py", str(checkpoint), str(golden), *options])
        status = parity.main()
        return status, capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("size", ["0b6", "1b7"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--linear", "float"], id="float"),
        # As exact, and twice as slow with weights that no bfloat16 holds.
        pytest.param(["--frames", "8"], id="default"),
        pytest.param(["--frames", "3", "--linear", "float", "--fused"], id="fused"),
    ],
)
def test_every_recorded_case_is_equal(run, data, size, options):
    checkpoint, golden = data / f"tiny_{size}", data / f"golden_{size}.json"
    status, lines = run(checkpoint, golden, *options)
    assert lines[-1] == "16/16 cases equal"
    assert len(lines) == 17
    assert status == 0


def spoil_ids(case, waveform):
    case["input_ids"][3] += 1


def spoil_codes(case, waveform):
    case["codes"][1][7] ^= 1


def spoil_length(case, waveform):
    case["codes"].append(case["codes"][0])


def spoil_waveform(case, waveform):
    waveform[1920] += 2e-5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_ids, "input_ids differ"),
        (spoil_codes, "codes differ from frame 1 on (2 frames, not 2)"),
        (spoil_length, "codes differ from frame 2 on (2 frames, not 3)"),
        (spoil_waveform, "waveform differs by 2.0e-05"),
    ],
)
def test_a_difference_is_reported_and_exits_with_1(run, data, tmp_path: Path, spoil, said):
    case = json.loads((data / "golden_1b7.json").read_text(encoding="utf-8"))[6]
    with np.load(data / "golden_1b7.npz") as waveforms:
        waveform = waveforms["case_6"]
    spoil(case, waveform)
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps([case]), encoding="utf-8")
    np.savez(tmp_path / "golden.npz", case_0=waveform)
    status, lines = run(data / "tiny_1b7", golden)
    assert lines[0].startswith(f"case 0: {said} (")
    assert lines[-1] == "0/1 cases equal"
    assert status == 1


def test_0b6_drops_the_instruction(parity, data, tmp_path: Path):
    """The 0.6B checkpoint's size alone makes instructions silent."""
    shutil.copytree(data / "tiny_0b6", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    config["tts_model_size"] = "1b7"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    obeying = parity.Qwen3TTS.load(tmp_path / "model")
    case = json.loads((data / "golden_0b6.json").read_text(encoding="utf-8"))[0]
    ids = obeying.tokenizer.encode(case["text"])
    assert parity.speak(obeying, ids, case) != case["codes"]
