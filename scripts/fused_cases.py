"""Run every fused kernel and its plain definition on the same inputs and print how they differ.

    TRITON_INTERPRET=1 python scripts/fused_cases.py

runs the kernels in Triton's interpreter on the CPU and prints one line of JSON per case: its name,
differing values, all values, largest difference. scripts/measure_device runs them on a device.
"""

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.kernels.fused import jit
from qwen_tts_service.kernels.fused.choose import choose_code, penalise_logits
from qwen_tts_service.kernels.fused.decode import decode_attention
from qwen_tts_service.kernels.fused.extend import extend, snake
from qwen_tts_service.kernels.fused.finish import finish_frame
from qwen_tts_service.kernels.fused.heads import store_heads
from qwen_tts_service.kernels.fused.noise import race_noise
from qwen_tts_service.kernels.fused.norm import add_rms_norm, rms_norm
from qwen_tts_service.kernels.fused.predictor import predictor_attention
from qwen_tts_service.kernels.fused.rows import linear_rows
from qwen_tts_service.kernels.fused.silu import silu_mul
from qwen_tts_service.kernels.fused.window import window_attention
from qwen_tts_service.model.layers import rotary_tables

Case = tuple[str, Any, tuple[Any, ...], tuple[int, ...]]
"""Name, operation, arguments, and the numbers of the arguments that it writes to."""

H, K, D = 16, 8, 128


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape).to(dtype)


def tables(positions: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    cos, sin = rotary_tables(torch.arange(positions), size, 1e6, dtype)
    return cos.reshape(positions, size), sin.reshape(positions, size)


def integers(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


class Together:
    """`linear_rows` of several rows, which must equal what it makes of each row alone."""

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return linear_rows(x, weight)

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.cat([linear_rows(row, weight) for row in x.split(1)])


def cases() -> Iterator[Case]:
    yield from decoder_cases()
    yield from sampling_cases()
    for dtype in (torch.bfloat16, torch.float32):
        yield from codec_cases(dtype, str(dtype).removeprefix("torch."))


def decoder_cases() -> Iterator[Case]:
    weight = 1 + 0.1 * randn(2048)
    x, y = randn(2, 2048), randn(2, 2048)
    yield "rms_norm", rms_norm, (x, weight, 1e-6), ()
    yield "add_rms_norm", add_rms_norm, (x, y, weight, 1e-6), ()
    scaled = (randn(3, 480), randn(3, 480), randn(480), 1e-6, randn(480))
    yield "add_rms_norm with a scale", add_rms_norm, scaled, ()
    yield "silu_mul", silu_mul, (randn(2, 1, 6000),), ()
    N, C = (40, 600) if jit.is_interpreted else (1001, 2048)  # that would take a minute
    wide = randn(N, C) / 45
    yield "linear_rows of 1", linear_rows, (randn(1, 1, C), wide), ()
    biased = (randn(19, 300) / 17, randn(330, 300), randn(330))
    yield "linear_rows of 19 with a bias", linear_rows, biased, ()
    yield "linear_rows of 16 and of each alone", Together(), (randn(16, C), wide), ()
    heads, (cos, sin) = 1 + 0.1 * randn(H + K, D), tables(64, D, torch.bfloat16)
    cache = (torch.zeros(4, 64, K, D).bfloat16(), torch.zeros(4, 64, K, D).bfloat16())
    where = (integers(2, 0), integers(5, 33))
    stored = (randn(2, (H + 2 * K) * D), heads, cos, sin, *where, *cache, 1e-6)
    yield "store_heads", store_heads, stored, (6, 7)
    cache = (randn(3, 300, K, D), randn(3, 300, K, D))
    for unwritten in cache:  # may be anything
        unwritten[2, 1:] = unwritten[0, 129:] = float("nan")
    read = (randn(3, H, D), *cache, integers(2, 0, 1), integers(0, 128, 299))
    yield "decode_attention", decode_attention, read, ()
    for T, start in ((2, 0), (1, 15)):
        cache = (randn(2, 16, K, D), randn(2, 16, K, D))
        few = (randn(2, T, (H + 2 * K) * D), heads, cos, sin, *cache, start, 1e-6)
        yield f"predictor_attention of {T}", predictor_attention, few, (4, 5)


def sampling_cases() -> Iterator[Case]:
    seeds, frames = integers(5, 2**40 + 3, -1), integers(0, 7, 4000)
    yield "race_noise", race_noise, (seeds, frames, 4, 2049), ()
    B = 8
    noise = race_noise.plain(torch.arange(B) * 977 + 5, torch.arange(B), 4, 2049)
    temperature = torch.tensor([0.7, 0, 1.3, 0.9, 0.7, 0.2, 1, 0.7], dtype=torch.float64)
    top_k = integers(50, 50, 0, 5, 1, 64, 700, 2000)
    some = torch.tensor([0.9, 0.5, 0.8, 1e-9, 0.3, 0.95, 0.7, 0.99], dtype=torch.float64)
    for name, top_p in (("without top_p", torch.ones_like(some)), ("with top_p", some)):
        for V, end in ((2048, -1), (2049, 2048)):
            logits = 4 * randn(B, V)  # many are equal
            logits[1, end] = 99  # of a greedy row
            codes = torch.zeros(B, 4, dtype=torch.int64)
            table = (randn(2 * 2049, 1100), 2048, codes, 3, end)
            drawn = (logits, noise, torch.arange(B), temperature, top_k, top_p, *table)
            yield f"choose_code of {V} {name}", choose_code, drawn, (8,)
    slots = integers(4, 8, 1)
    kept, seen = torch.zeros(9, 2049), torch.rand(9, 2049) < 0.3
    penalised = (randn(3, 2049), slots, 1 + torch.rand(9), integers(0, 1, 2), seen, kept, 2)
    yield "penalise_logits", penalise_logits, penalised, (5,)
    codes = torch.randint(0, 64, (3, 16))
    embeddings = (randn(70, 500), randn(15 * 64, 500))
    texts = (randn(9, 6, 500), torch.full((9,), 3), randn(1, 500))
    written = (torch.zeros(9, dtype=torch.int64), torch.zeros(9, 65, dtype=torch.bool))
    finished = (codes, slots, integers(0, 5, 2), *embeddings, *texts, randn(9, 500), *written)
    yield "finish_frame", finish_frame, finished, (8, 9, 10)


def codec_cases(dtype: torch.dtype, name: str) -> Iterator[Case]:
    frequency, height = (torch.rand(2, 96) + 0.5).to(dtype)
    active, slots = torch.tensor([True, False]), integers(2, 0)
    x = randn(2, 40, 96, dtype=dtype)
    yield f"snake in {name}", snake, (x, frequency, height), ()
    for steps in (40, 2):
        for curve in ((), (frequency, height)):
            memory = randn(3, 700, dtype=dtype)
            tails = memory[:, 50 : 50 + 6 * 96].unflatten(1, (6, 96))
            given = (x[:, :steps].contiguous(), tails, slots, active, *curve)
            kind = "with" if curve else "without"
            yield f"extend of {steps} {kind} snake in {name}", extend, given, (1,)
    for T in (1, 2, 9):
        cos, sin = (t.view(2, T, 64) for t in tables(2 * T, 64, dtype))
        memory = randn(3, 2 * 4 * 71 * 64, dtype=dtype)
        keys, values = (part.unflatten(1, (4, 71, 64)) for part in memory.chunk(2, dim=1))
        qkv = randn(2, T, 3 * 4 * 64, dtype=dtype)
        given = (qkv, cos, sin, keys, values, slots, integers(0, 50), active)
        yield f"window_attention of {T} in {name}", window_attention, given, (3, 4)


def copied(value: Any) -> Any:
    """Copy a tensor with its strides, which a view of a larger one has."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(value)


def results(run: Any, arguments: tuple[Any, ...], written: tuple[int, ...]) -> list[Tensor]:
    arguments = tuple(map(copied, arguments))
    result = run(*arguments)
    outputs = result if isinstance(result, tuple) else () if result is None else (result,)
    return [*outputs, *(arguments[number] for number in written)]


def compare(
    operation: Any, arguments: tuple[Any, ...], written: tuple[int, ...]
) -> tuple[int, int, float]:
    """Differing values, all values, and the largest difference: NaN where only one is."""
    kernel, plain = (results(f, arguments, written) for f in (operation, operation.plain))
    pairs = list(zip(kernel, plain, strict=True))
    off = torch.cat([(x.double() - y.double())[x != y].abs() for x, y in pairs])
    return len(off), sum(x.numel() for x, _ in pairs), float(off.max()) if len(off) else 0.0


def start_interpreter() -> None:
    """Check that kernels are interpreted, and let Triton's interpreter patch its language once.

    It does so again for every call of every function, and most of its time goes into that.
    """
    assert jit.is_installed, "pip install triton"
    assert jit.is_interpreted, "set TRITON_INTERPRET=1"
    from triton.runtime import interpreter  # noqa: PLC0415 - where it is installed

    patch = interpreter._patch_lang  # noqa: SLF001

    @functools.cache
    def patch_once(function: Any) -> Any:
        patch(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_once  # noqa: SLF001


def main() -> None:
    """Print every case."""
    start_interpreter()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, *case in cases():
        print(json.dumps([name, *compare(*case)]), flush=True)


if __name__ == "__main__":
    main()
