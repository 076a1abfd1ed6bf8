"""What talker, code predictor and codec share: norm, rotary positions, blocks."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import rms_norm

from qwen_tts_service.model.code_predictor import _FrameCache
from qwen_tts_service.model.layers import RMSNorm, rotary_tables, rotate

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_the_eps_of_a_norm_counts_for_small_inputs(dtype, size):
    generator = torch.Generator().manual_seed(2)
    weight, x = (torch.randn(n, generator=generator).to(dtype) for n in (64, (5, 64)))
    x = x * size
    exact = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-4).sqrt() * weight
    got = RMSNorm(weight, 1e-4)(x)
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", [range(6), range(7900, 7906)])
def test_rotary_tables_are_computed_in_float32_and_rounded_once(dtype, positions):
    positions = torch.tensor(list(positions))
    cos, sin = rotary_tables(positions[None], 8, 1e6, dtype)
    assert cos.shape == sin.shape == (1, 6, 1, 8)
    assert cos.dtype == sin.dtype == dtype
    speeds = torch.tensor([1e6 ** (-2 * n / 8) for n in range(4)], dtype=torch.float64)
    angles = positions.double()[:, None] * speeds
    for table, exact in (
        (cos, torch.cat((angles.cos(), angles.cos()), 1)),
        (sin, torch.cat((-angles.sin(), angles.sin()), 1)),
    ):
        # 7906 radians in float32 are right to 0.0005.
        tolerance = 1e-3 if dtype == torch.float32 else 4.5e-3
        torch.testing.assert_close(table[0, :, 0].double(), exact, rtol=0, atol=tolerance)


def test_a_pair_is_turned_by_the_angle_of_its_position():
    x = torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(4))
    turned = rotate(x, *rotary_tables(torch.arange(3)[None], 4, 100.0, torch.float32))
    angles = torch.arange(3)[:, None] * torch.tensor([1.0, 0.1])
    pairs = torch.complex(x[..., :2], x[..., 2:]) * torch.polar(torch.ones(3, 2), angles)[:, None]
    torch.testing.assert_close(turned, torch.cat((pairs.real, pairs.imag), -1))


# The code predictor's cache --------------------------------------------------------------


def frame_attention(passes):
    """Attend the passes (q, k, v), [B, T, heads, D] each, of one layer, one after another."""
    cache = _FrameCache(1)
    made = []

    def stack(given, positions, attend):
        made.append((positions.tolist(), attend(0, *given.parts)))
        return made[-1][1]

    for q, k, v in passes:
        cache.run(stack, SimpleNamespace(parts=(q, k, v), shape=q.shape, device=q.device))
    return made, cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frame_attends_to_what_came_before_with_shares_in_float32(dtype):
    B, H, K, D, N = 2, 4, 2, 8, 5
    generator = torch.Generator().manual_seed(5)
    q, k, v = ((torch.randn(B, N, n, D, generator=generator) * 2).to(dtype) for n in (H, K, K))
    cuts = [slice(0, 2), *(slice(n, n + 1) for n in range(2, N))]
    made, cache = frame_attention([(q[:, cut], k[:, cut], v[:, cut]) for cut in cuts])
    assert [positions for positions, _ in made] == [[[0, 1]], [[2]], [[3]], [[4]]]
    got = torch.cat([out for _, out in made], dim=1)
    keys, values = (x.repeat_interleave(H // K, dim=2).transpose(1, 2) for x in (k, v))
    scores = q.transpose(1, 2) @ keys.transpose(2, 3) * D**-0.5
    scores = scores.masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf)
    expected = (scores.float().softmax(-1).to(dtype) @ values).transpose(1, 2)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    # As views, rows would get other kernels alone than together.
    assert all(x.is_contiguous() for x in cache._layers[0])
