"""The fused kernels compile for every device they are meant for, without spilling registers."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qwen_tts_service.kernels.fused import (
    choose,
    decode,
    extend,
    finish,
    heads,
    jit,
    noise,
    norm,
    predictor,
    rows,
    silu,
    window,
)

pytestmark = pytest.mark.skipif(not jit.is_installed, reason="Triton has no wheel for this machine")

CAPABILITIES = (80, 86, 89, 90, 100, 120)
MOST_REGISTERS = 200
B16, F32, F64, I64, I1 = "*bf16", "*fp32", "*fp64", "*i64", "*i1"

# Kernel, types of its arguments in order ("" for constants), constants at the sizes of 1.7B, warps.
KERNELS: dict[str, tuple[Any, list[str], dict[str, Any], int]] = {
    "add_rms_norm": (
        norm._kernel, [B16] * 6 + ["fp32"],
        {"C": 2048, "P": 2048, "HAS_Y": True, "HAS_SCALE": False}, 4,
    ),
    "silu_mul": (silu._kernel, [B16, B16, "i32"], {"BLOCK": 1024}, 4),
    "linear_rows": (
        rows._kernel, [B16] * 4 + ["i32", "i32"],
        {"K": 2048, "ROWS": 16, "OUTPUTS": 16, "INPUTS": 256, "HAS_BIAS": False, "IS_WIDE": False},
        2,
    ),
    "store_heads": (
        heads._kernel, [B16] * 4 + [I64, I64] + [B16] * 3 + ["i32", "fp32"],
        {"H": 16, "K": 8, "D": 128}, 4,
    ),
    "attend_span": (
        decode._attend_span, [B16] * 3 + [I64, I64, F32, F32, "i32", "fp32"],
        {"H": 16, "K": 8, "D": 128, "BLOCK": 32, "SPAN": 128}, 4,
    ),
    "merge": (decode._merge, [F32, F32, I64, B16, "i32"], {"H": 16, "D": 128, "SPAN": 128}, 4),
    "predictor_attention": (
        predictor._kernel, [B16] * 7 + ["i32", "fp32", "fp32"],
        {"T": 2, "H": 16, "K": 8, "D": 128, "N": 16}, 4,
    ),
    "race_noise": (noise._kernel, [I64, I64, F32, "i32", "i32"], {"BLOCK": 1024}, 4),
    "choose_code": (
        choose._kernel,
        [B16, F32, I64, F64, I64, F64, B16, "i32", I64, B16] + ["i32"] * 6,
        {"P": 4096, "COLUMNS": 1024}, 8,
    ),
    "penalise_logits": (
        choose._penalise, [B16, I64, F64, I64, I1, F32, F32, "i32", "i32"], {"BLOCK": 1024}, 4,
    ),
    "finish_frame": (
        finish._kernel, [I64] * 3 + [B16] * 3 + [I64, B16, B16, I64, I1] + ["i32"] * 4,
        {"Q": 16, "BLOCK": 256}, 4,
    ),
    "join": (
        extend._join, [F32] * 4 + [I64, F32, "i32", "i32"],
        {"C": 96, "P": 128, "REACH": 6, "BLOCK": 16, "HAS_SNAKE": True}, 4,
    ),
    "keep": (extend._keep, [F32, F32, I64, I1] + ["i32"] * 3, {"REACH": 6, "BLOCK": 256}, 4),
    "window_attention": (
        window._kernel, [F32] * 5 + [I64, I64, I1, F32, "i32", "fp32", "i32"],
        {"H": 16, "D": 64, "W": 72, "P": 128}, 16,
    ),
}  # fmt: skip


def usage(name: str, capability: int, directory: Path) -> tuple[int, int]:
    """Compile a kernel: registers and bytes of local memory per thread."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, types, constants, warps = KERNELS[name]
    plain = [argument for argument in kernel.arg_names if argument not in constants]
    signature = dict(zip(plain, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=kernel,
        signature={argument: signature[argument] for argument in kernel.arg_names},
        constexprs=constants,
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    cubin = directory / f"{name}.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [str(tool), "-res-usage", str(cubin)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+).* LOCAL:(\d+)", report)
    assert found is not None, report
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_fits_the_registers_of_a_device(capability: int, tmp_path: Path) -> None:
    used = {name: usage(name, capability, tmp_path) for name in KERNELS}
    assert len(used) == 14
    assert {name: local for name, (_, local) in used.items() if local} == {}
    assert {name: n for name, (n, _) in used.items() if n > MOST_REGISTERS} == {}
