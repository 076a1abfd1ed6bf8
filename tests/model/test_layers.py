"""The norm that talker, code predictor and codec share."""

import math

import pytest
import torch
from torch.nn.functional import rms_norm

from qwen_tts_service.model.layers import RMSNorm, rotary_tables

EPS = 1e-6


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(1024,), (24, 128)])
def test_norm_of_float32_is_the_formula(shape, size):
    generator = torch.Generator().manual_seed(1)
    weight, x = (torch.randn(*lead, *shape, generator=generator) for lead in ((), (3, 2)))
    got = RMSNorm(weight, EPS)(x * size).double()
    x = x.double() * size
    exact = weight.double() * x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt()
    torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-9)


def test_norm_of_bfloat16_is_rounded_before_the_weight():
    weight, x = torch.randn(64).bfloat16(), torch.randn(5, 64).bfloat16()
    rounded = rms_norm(x.float(), (64,), eps=EPS).bfloat16()
    assert torch.equal(RMSNorm(weight, EPS)(x), weight * rounded)


def test_norm_of_zeros_is_zero():
    assert not RMSNorm(torch.ones(64), EPS)(torch.zeros(2, 64)).any()


@pytest.mark.parametrize("shape", [(1024,), (24, 128)])
def test_norm_of_a_row_has_the_same_bits_in_any_batch(shape):
    norm = RMSNorm(torch.randn(shape), EPS)
    x = torch.randn(16, 1, *shape)
    together = norm(x)
    for rows in range(1, 16):
        assert torch.equal(norm(x[:rows]), together[:rows])


def test_tables_of_bfloat16_are_rounded_from_float32():
    positions = torch.tensor([[0, 1, 257, 32_767]])
    exact = rotary_tables(positions, 16, 1e6, torch.float32)
    rough = rotary_tables(positions, 16, 1e6, torch.bfloat16)
    for table, expected in zip(rough, exact, strict=True):
        assert torch.equal(table, expected.bfloat16())


def test_tables_are_the_angles_of_the_formula():
    cos, sin = rotary_tables(torch.tensor([0, 7, 900]), 8, 100.0, torch.float32)
    for row, position in enumerate((0, 7, 900)):
        for at in range(4):
            angle = position / 100.0 ** (at / 4)
            for table, value in ((cos, math.cos(angle)), (sin, -math.sin(angle))):
                assert table[row, 0, at].item() == pytest.approx(value, abs=1e-4)
    assert torch.equal(cos[..., 4:], cos[..., :4])
    assert torch.equal(sin[..., 4:], -sin[..., :4])
