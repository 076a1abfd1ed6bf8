"""scripts/measure_device measures every part, keeps what it has, and says what is missing."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import ROOT, load_script

TABLES = {
    2: {"Kernels of a frame", "The longest kernels of a frame"},
    3: {"A frame, ms", "A piece of a prompt, ms"},
    4: {"A codec call"},
    5: {"Kernels against their definitions", "Noise against the CPU's"},
    6: {"A frame beside a codec call", "The host's time"},
    7: {"Time to ready"},
}
"""Parts 1 and 8 run scripts that test_check_scripts.py runs on the CPU."""


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "scripts"))  # as when one of them is run
    try:
        yield
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def parts(scripts: None) -> Any:
    return load_script("device_parts")


@pytest.fixture(scope="module")
def measured(parts: Any, quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the figures of the parts above, on the CPU."""
    out = tmp_path_factory.mktemp("measured")
    setup = parts.Setup(quick_checkpoint, torch.device("cpu"), parts.SCALES["tiny"])
    for number in TABLES:
        assert parts.measure(number, setup, out / f"part-{number}.json")
    return out


def figures(out: Path, number: int) -> dict[str, Any]:
    return dict(json.loads((out / f"part-{number}.json").read_text()))


def test_the_parts_take_thirty_minutes_and_each_less_than_ten(parts: Any) -> None:
    limits = [limit_s for _part, limit_s in parts.PARTS]
    assert len(limits) == 8
    assert max(limits) < 600
    assert sum(limits) <= 1800


@pytest.mark.parametrize("number", TABLES)
def test_every_part_leaves_its_tables(measured: Path, number: int) -> None:
    result = figures(measured, number)
    assert result["is_complete"]
    assert set(result["tables"]) == TABLES[number]


def test_a_frame_is_measured_with_its_parts_for_every_kind_of_kernels(measured: Path) -> None:
    rows = figures(measured, 3)["tables"]["A frame, ms"]
    assert [(row["kernels"], row["rows"]) for row in rows] == [
        (kind, rows) for kind in ("as installed", "torch, SDPA") for rows in (1, 2)
    ]
    for row in rows:
        assert min(row["talker"], row["predictor"], row["frame"]) > 0


def test_the_codecs_error_is_that_of_its_number_format(measured: Path) -> None:
    rows = figures(measured, 4)["tables"]["A codec call"]
    errors = {name: [r["rms error"] for r in rows if r["format"] == name] for name in
              ("float32", "bfloat16")}  # fmt: skip
    assert set(errors["float32"]) == {0.0}
    assert min(errors["bfloat16"]) > 1e-5


def test_a_kernel_that_differs_from_its_definition_is_counted(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(x: torch.Tensor) -> torch.Tensor:
        return x + torch.tensor([0.0, 0.5])

    off.plain = lambda x: x  # type: ignore[attr-defined]
    case = ("off", off, (torch.zeros(2),), ())
    monkeypatch.setattr(parts.fused_cases, "cases", lambda: iter([case]))
    setup = parts.Setup(Path(), torch.device("cpu"), parts.SCALES["tiny"])
    title, cells = next(parts.bits(setup))
    assert title == "Kernels against their definitions"
    assert cells == {"kernel": "off", "differing": 1, "of": 2, "largest": 0.5}


def test_a_part_that_fails_keeps_what_it_had_measured(
    parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(_setup: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Fail after a row."""
        yield "Rows", {"rows": 1}
        raise RuntimeError("out of luck")

    monkeypatch.setattr(parts, "PARTS", [(failing, 1)])
    assert not parts.measure(1, parts.Setup(Path(), torch.device("cpu"), None), tmp_path / "p.json")
    result = json.loads((tmp_path / "p.json").read_text())
    assert result["tables"] == {"Rows": [{"rows": 1}]}
    assert not result["is_complete"]
    assert result["error"] == "RuntimeError('out of luck')"


TINY = ["--size", "tiny", "--device", "cpu"]


def test_the_command_measures_what_is_missing_and_writes_the_tables(measured: Path) -> None:
    (measured / "part-7.json").unlink()
    line = [str(ROOT / "scripts" / "measure_device"), *TINY, "--out", str(measured)]
    ran = subprocess.run([*line, "--parts", "6,7"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"is in {measured / 'part-6.json'} already" in ran.stdout
    assert figures(measured, 7)["is_complete"]
    tables = (measured / "tables.md").read_text()
    assert "### 3. Times of captured frames" in tables
    assert "| step | seconds | GiB | slots | of |" in tables


@pytest.fixture
def command(parts: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command in this process, where torch is loaded: its exit status."""
    module = load_script("measure_device")

    def run(out: Path, *given: str) -> int:
        monkeypatch.setattr(sys, "argv", ["measure_device", *TINY, "--out", str(out), *given])
        return module.main()

    return run


def test_a_part_for_which_there_is_no_time_is_left_for_the_next_command(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, "--parts", "2", "--again", "--stop-after-s", "100") == 1
    said = capsys.readouterr().out
    assert "may take 240 s, which --stop-after-s does not leave; repeat the command" in said


def test_without_a_device_the_command_says_so(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert command(tmp_path, "--device", "cuda") == 2
    assert "needs a CUDA device, and torch sees none" in capsys.readouterr().err
