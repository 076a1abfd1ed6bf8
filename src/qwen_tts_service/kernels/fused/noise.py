"""Noise for drawing codes: a hash of seed, frame, codebook and choice (see model/sampling.py).

Letters: B rows, Q codebooks, V choices.
"""

import torch
from torch import Tensor

from .jit import fused, jit, tl

WORD = 0xFFFFFFFF
_BLOCK = 1024


def mix(x: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64, in place (two rounds of multiply and xor-shift).

    The multipliers are below 2^31, so that no product leaves int64: the same on CPU and CUDA.
    """
    x.bitwise_xor_(x >> 15).mul_(0x2C1B3C6D).bitwise_and_(WORD)
    x.bitwise_xor_(x >> 12).mul_(0x297A2D39).bitwise_and_(WORD)
    return x.bitwise_xor_(x >> 15)


@jit
def _mix(x):
    """`mix` of int64."""
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    x = ((x ^ (x >> 12)) * 0x297A2D39) & 0xFFFFFFFF
    return x ^ (x >> 15)


@jit
def _kernel(seeds, frames, out, Q, V, BLOCK: tl.constexpr):
    """One program per row, codebook and block of choices."""
    row, book = tl.program_id(0).to(tl.int64), tl.program_id(1)
    choice = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    seed, frame = tl.load(seeds + row), tl.load(frames + row)
    key = _mix((seed & 0xFFFFFFFF) + 0x3C6EF372)
    key = _mix(key ^ ((seed >> 32) & 0xFFFFFFFF))
    key = _mix((key + frame * 64 + book) & 0xFFFFFFFF)
    word = _mix(_mix((key + choice.to(tl.int64) * 0x1E3779B1) & 0xFFFFFFFF) ^ key)
    # 1 - u is exact in float64, so log needs no log1p.
    rest = 1.0 - (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    noise = tl.log(-tl.log(rest)).to(tl.float32)
    tl.store(out + (row * Q + book) * V + choice, noise, mask=choice < V)


def _launch(seed: Tensor, frame: Tensor, codebooks: int, choices: int) -> Tensor:
    out = _fake(seed, frame, codebooks, choices)
    grid = (len(seed), codebooks, -(-choices // _BLOCK))
    _kernel[grid](seed, frame, out, codebooks, choices, BLOCK=_BLOCK)
    return out


def _fake(seed: Tensor, _frame: Tensor, codebooks: int, choices: int) -> Tensor:
    return torch.empty(len(seed), codebooks, choices, dtype=torch.float32, device=seed.device)


@fused(_launch, _fake)
def race_noise(seed: Tensor, frame: Tensor, codebooks: int, choices: int) -> Tensor:
    """Return log Eᵢ with Eᵢ ~ Exp(1), float32 [B, codebooks, choices]; seed, frame: int64 [B]."""
    key = mix((seed & WORD) + 0x3C6EF372)
    key = mix(key ^ ((seed >> 32) & WORD))
    book = torch.arange(codebooks, device=seed.device)
    key = mix(((key + frame * 64)[:, None] + book) & WORD)[:, :, None]
    choice = torch.arange(choices, device=seed.device)
    words = mix(mix((key + choice * 0x1E3779B1).bitwise_and_(WORD)).bitwise_xor_(key))
    # In float64 and then rounded: a vectorised and a scalar log may differ in the last bit, and
    # which one a value gets depends on how many rows there are.
    uniform = words.double().add_(0.5).mul_(-(2.0**-32))
    return uniform.log1p_().neg_().log_().float()
