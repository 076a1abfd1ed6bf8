"""The self-check for those who have the published weights, exercised on a tiny checkpoint."""

import hashlib
from dataclasses import replace

import pytest
import torch

from qwen_tts_service.hub.download import NEEDED_FILES
from qwen_tts_service.hub.published import PublishedFile, Release
from qwen_tts_service.model.qwen3_tts import Qwen3TTS


@pytest.fixture(scope="module")
def observed(verify_weights, model):
    return verify_weights.observe(model, "hello the world")


def test_a_checkpoint_is_equal_to_itself(verify_weights, model, observed):
    again = verify_weights.observe(model, "hello the world")
    assert list(verify_weights.differences(observed, again, is_exact=True)) == []


def test_observed_codes_are_the_official_ones(observed, data, parity):
    """Case 1 of the recorded outputs is this sentence, greedy; two frames know no penalty."""
    case = parity.json.loads((data / "golden_1b7.json").read_text(encoding="utf-8"))[1]
    assert [list(codes) for codes in observed.frames] == case["codes"][:2]
    assert list(observed.first_ids) == case["input_ids"][:4]
    assert observed.id_count == len(case["input_ids"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("first_ids", (1, 2, 3, 4)),
        ("id_count", 99),
        ("prompt_rows", 99),
        ("first_row", (9.0, 9.0, 9.0, 9.0)),
        ("pad_row", (float("nan"),) * 4),
        ("hidden", (9.0, 9.0, 9.0, 9.0)),
        ("logits", (9.0, 9.0, 9.0, 9.0)),
    ],
)
def test_a_departure_is_named_alone(verify_weights, observed, field, value):
    golden = replace(observed, **{field: value})
    lines = list(verify_weights.differences(golden, observed, is_exact=True))
    assert len(lines) == 1
    assert lines[0].startswith(f"{field}: ")


def test_another_code_in_frame_1_is_named(verify_weights, observed):
    frames = (observed.frames[0], (*observed.frames[1][:15], 63))
    lines = list(
        verify_weights.differences(replace(observed, frames=frames), observed, is_exact=True)
    )
    assert len(lines) == 1
    assert lines[0].startswith("frame 1: ")


def test_bfloat16_is_asked_for_codebook_0_only(verify_weights, observed):
    frames = (observed.frames[0], (observed.frames[1][0], *[63] * 15))
    golden = replace(observed, frames=frames, hidden=(9.0, 9.0, 9.0, 9.0))
    assert list(verify_weights.differences(golden, observed, is_exact=False)) == []
    wrong = replace(golden, frames=(frames[0], (63, *frames[1][1:])))
    assert len(list(verify_weights.differences(wrong, observed, is_exact=False))) == 1


def test_it_runs_in_bfloat16(verify_weights, data):
    rough = Qwen3TTS.load(data / "tiny_1b7", dtype=torch.bfloat16)
    assert len(verify_weights.observe(rough, "hello").frames) == 2


def test_other_weights_exit_with_1_and_name_the_tensor(
    verify_weights, data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["verify_weights.py", str(data / "tiny_1b7")])
    assert verify_weights.main() == 1
    out = capsys.readouterr().out
    assert "first_ids: " in out
    assert "vocab.json has 2,839 bytes, published are 2,776,833" in out
    assert "generation_config.json" not in out, "it is the published one"
    assert out.endswith("differs from the published values\n")


@pytest.mark.parametrize(
    ("name", "published"),
    [("base_0b6", 1_829_344_272), ("base_1b7", 3_857_413_744), ("design_1b7", 3_833_402_552)],
)
def test_of_other_kinds_the_files_are_compared_alone(
    verify_weights, tiny_voices, monkeypatch: pytest.MonkeyPatch, capsys, *, name, published
):
    monkeypatch.setattr("sys.argv", ["verify_weights.py", str(tiny_voices / f"tiny_{name}")])
    assert verify_weights.main() == 1
    out = capsys.readouterr().out
    assert out.startswith("no values of a sentence are published for this model")
    assert f"bytes, published are {published:,}" in out
    assert "first_ids" not in out


def test_files_that_are_the_published_ones_are_equal(
    verify_weights, tiny_voices, monkeypatch: pytest.MonkeyPatch, capsys
):
    folder = tiny_voices / "tiny_base_0b6"
    written = tuple(
        PublishedFile(name, len(data), hashlib.sha256(data).hexdigest())
        for name in NEEDED_FILES
        for data in [(folder / name).read_bytes()]
    )
    release = Release(repository="", revision="", size="0b6", kind="base", files=written)
    monkeypatch.setattr(verify_weights, "RELEASES", {"tiny": release})
    monkeypatch.setattr("sys.argv", ["verify_weights.py", str(folder)])
    assert verify_weights.main() == 0
    assert capsys.readouterr().out.endswith("equal\n")


def test_a_model_that_is_not_published_is_not_equal(
    verify_weights, tiny_voices, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(verify_weights, "RELEASES", {})
    monkeypatch.setattr("sys.argv", ["verify_weights.py", str(tiny_voices / "tiny_base_0b6")])
    assert verify_weights.main() == 1
    assert "is published: ('0b6', 'base')" in capsys.readouterr().out


def test_a_missing_checkpoint_ends_with_1_and_a_message(
    verify_weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["verify_weights.py", "/nowhere"])
    assert verify_weights.main() == 1
    assert "/nowhere/config.json cannot be read" in capsys.readouterr().err
