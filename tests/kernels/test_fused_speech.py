"""A quick checkpoint speaks with Triton's kernels, run by its interpreter, as with torch's own.

What the cases of test_fused.py do not see: arguments as the networks pass them.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.checkpoints import write_quick_checkpoint

from qwen_tts_service.kernels.attention import CachePositions
from qwen_tts_service.kernels.fused.heads import store_heads
from qwen_tts_service.kernels.fused.silu import silu_mul


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton has no wheel for this machine"
)
@pytest.mark.parametrize(("size", "dtype"), [("tiny_1b7", "bfloat16"), ("tiny_0b6", "float32")])
def test_the_kernels_speak_what_torchs_own_speak(tmp_path: Path, size: str, dtype: str) -> None:
    write_quick_checkpoint(tmp_path / size, size)
    script = Path(__file__).with_name("fused_speech.py")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path / size), dtype],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    spoken = json.loads(run.stdout)
    assert spoken["equal"]
    assert spoken["apart"] <= 1e-6


def test_a_kernel_is_given_no_view_whose_elements_lie_elsewhere() -> None:
    seven = torch.tensor([7], device="meta").expand(4)
    qkv = torch.empty(4, 32, device="meta")
    tables = (torch.empty(8, 8, device="meta") for _ in range(2))
    caches = (torch.empty(8, 8, 1, 8, device="meta") for _ in range(2))
    with pytest.raises(AssertionError, match="store_heads: slots is not contiguous"):
        store_heads(qkv, torch.empty(3, 8, device="meta"), *tables, seven, seven, *caches, 1e-6)
    assert silu_mul(torch.empty(8, 4, device="meta").T).shape == (4, 4)


@pytest.mark.parametrize("slots", [[3], [3, 1]])
def test_every_prompt_row_has_a_slot_of_its_own_in_memory(slots: list[int]) -> None:
    pieces = [CachePositions(torch.tensor([slot]), torch.arange(3), 8) for slot in slots]
    rows = CachePositions.for_each_row(pieces)
    assert rows.slots.is_contiguous()
    assert rows.slots.tolist() == [slot for slot in slots for _ in range(3)]
    assert rows.positions.tolist() == [0, 1, 2] * len(slots)
