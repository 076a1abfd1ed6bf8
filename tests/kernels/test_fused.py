"""The fused kernels equal their plain definitions, run by Triton's interpreter on the CPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parents[2] / "scripts" / "fused_cases.py"
EXACT = {
    "rms_norm",
    "add_rms_norm",
    "add_rms_norm with a scale",
    "silu_mul",
    "linear_rows of 16 and of each alone",
    "store_heads",
    "predictor_attention of 2",
    "predictor_attention of 1",
    "race_noise",
    *(f"choose_code of {V} {p} top_p" for V in (2048, 2049) for p in ("with", "without")),
    "penalise_logits",
    "finish_frame",
    "snake in bfloat16",
    *(f"extend of {n} {s} snake in bfloat16" for n in (40, 2) for s in ("with", "without")),
    *(f"extend of {n} without snake in float32" for n in (40, 2)),
}
WITHIN = {
    # bfloat16 after sums in another order: one rounding, seldom
    "decode_attention": 2**-8,
    **{f"window_attention of {T} in bfloat16": 2**-8 for T in (1, 2, 9)},
    "linear_rows of 1": 2**-6,  # values up to 4
    "linear_rows of 19 with a bias": 2**-5,
    "snake in float32": 1e-6,
    **{f"extend of {n} with snake in float32": 1e-6 for n in (40, 2)},
    **{f"window_attention of {T} in float32": 2e-6 for T in (1, 2, 9)},
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton has no wheel for this machine"
)


@pytest.fixture(scope="module")
def differences() -> dict[str, tuple[int, int, float]]:
    """Name of a case -> differing values, all values, largest difference."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = map(json.loads, run.stdout.splitlines())
    return {name: (differing, values, largest) for name, differing, values, largest in lines}


def test_every_kernel_has_a_case(differences: dict[str, tuple[int, int, float]]) -> None:
    assert set(differences) == EXACT | set(WITHIN)


@pytest.mark.parametrize("name", sorted(EXACT))
def test_a_kernel_equals_its_definition_to_the_bit(
    differences: dict[str, tuple[int, int, float]], name: str
) -> None:
    differing, values, _ = differences[name]
    assert values > 0
    assert differing == 0


@pytest.mark.parametrize("name", sorted(WITHIN))
def test_a_kernel_whose_sums_are_split_is_within_its_bound(
    differences: dict[str, tuple[int, int, float]], name: str
) -> None:
    differing, values, largest = differences[name]
    assert largest <= WITHIN[name]
    if "float32" not in name:
        assert differing < values / 100
