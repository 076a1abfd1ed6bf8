"""The official package's recorded outputs, case by case and recording by recording."""

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
    prompt = parity.build_prompt(obeying, obeying.tokenizer.encode(case["text"]), case, None)
    assert parity.speak(obeying, prompt, case) != case["codes"]


@pytest.mark.parametrize(
    ("name", "cases"), [("base_1b7", 10), ("base_0b6", 5), ("design_1b7", 6), ("finetuned_0b6", 2)]
)
def test_voices_of_every_kind_are_equal(run, data, tiny_voices, name, cases):
    golden = data / "voices" / f"golden_{name}.json"
    status, lines = run(tiny_voices / f"tiny_{name}", golden, "--linear", "float")
    recordings, spoken = lines[: -cases - 1], lines[-cases - 1 : -1]
    assert len(recordings) == (13 if name.startswith("base") else 0)
    assert all(": equal (" in line for line in (*recordings, *spoken))
    assert lines[-1] == f"{cases}/{cases} cases equal"
    assert status == 0


@pytest.mark.parametrize(
    "options", [["--frames", "3"], ["--frames", "3", "--linear", "float", "--fused"]]
)
def test_cloned_voices_are_equal_in_every_arithmetic(run, data, tiny_voices, options):
    golden = data / "voices" / "golden_base_1b7.json"
    _, lines = run(tiny_voices / "tiny_base_1b7", golden, *options)
    assert lines[-1] == "10/10 cases equal"


def spoil_ref_ids(case, arrays):
    case["ref_ids"][3] += 1


def spoil_rows(case, arrays):
    arrays["prompt"] += np.float32(9e-5)


def spoil_text_rows(case, arrays):
    arrays["text_rows"] = arrays["text_rows"][1:]


def spoil_first_sample(case, arrays):
    arrays["case"][0] = 9


def spoil_last_sample(case, arrays):
    arrays["case"][-1] = 9


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_ref_ids, "ref_ids differ"),
        (spoil_rows, "prompt differs by 9"),
        (spoil_text_rows, "text_rows has shape (1, 64), official (0, 64)"),
        (spoil_first_sample, "equal"),
        (spoil_last_sample, "waveform differs by"),
    ],
)
def test_a_cloned_voice_that_differs_is_reported(parity, data, base_model, spoil, said):
    """The official waveform of this case begins one sample early."""
    folder = data / "voices"
    case = json.loads((folder / "golden_base_1b7.json").read_text(encoding="utf-8"))[3]
    with np.load(folder / "golden_base_1b7.npz") as recorded:
        arrays = {name: recorded[f"{name}_3"] for name in ("case", "prompt", "text_rows")}
    spoil(case, arrays)
    assert (parity.compare(base_model, case, arrays, folder) or "equal").startswith(said)


def test_recordings_that_differ_are_reported(parity, data, base_model):
    folder = data / "voices"
    row = json.loads((folder / "references.json").read_text(encoding="utf-8"))[1]
    samples = parity.read_recording(folder, "ref_b")
    embedding = np.array(base_model.encoder.embed(samples), np.float32)
    arrays = {"ref_b_embedding": embedding + np.float32(0.25), "ref_b_mel": np.zeros((128, 3))}
    row["codes"][2][5] ^= 1
    assert list(parity.recording_problems(base_model, samples, row, arrays)) == [
        "codes differ",
        "mel has shape (128, 119), official (128, 3)",
        "embedding differs by 2.5e-01",
    ]
