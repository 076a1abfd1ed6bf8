"""Rows of prompts have the same bits in a call of their own and beside those of other prompts."""

import pytest
import torch

from qwen_tts_service.kernels.linear import Arithmetic, can_pack, choose_arithmetic, make_linear

CPU = torch.device("cpu")
PROMPTS = (64, 12, 9, 64, 30, 1, 64, 64, 2)
"""Rows of the pieces of several prompts."""

packed = pytest.mark.skipif(not can_pack(), reason="this torch has no packed kernels (not x86)")


@packed
@pytest.mark.parametrize("arithmetic", [None, "half", "bfloat16", "packed", "int8"])
@pytest.mark.parametrize("shape", [(512, 1024), (256, 3072), (3072, 1024)])
def test_a_prompts_rows_do_not_depend_on_the_prompts_beside_it(
    arithmetic: Arithmetic | None, shape: tuple[int, int]
) -> None:
    kind = arithmetic or choose_arithmetic(None, CPU, torch.float32)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(*shape, generator=generator)
    exact = weight.bfloat16().float() if kind == "bfloat16" else weight
    layer = make_linear(exact, arithmetic=kind)
    rows = torch.randn(sum(PROMPTS), shape[1], generator=generator)
    together = layer(rows).split(PROMPTS)
    alone = [layer(part) for part in rows.split(PROMPTS)]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
