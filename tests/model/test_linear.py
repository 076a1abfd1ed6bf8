"""The CPU's matmuls: a row's bits depend on that row alone, and the rounding is bounded."""

import pytest
import torch
from torch import Tensor, nn

from qwen_tts_service.model.layers import Linear
from qwen_tts_service.model.linear import HalfLinear, Int8Linear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")

ROWS = 16
KINDS = [pytest.param(HalfLinear, id="half"), pytest.param(Int8Linear, id="int8")]
# A real layer's inner size, and sizes that fill no vector register evenly.
SHAPES = [(96, 1024), (64, 3072), (48, 37), (7, 5)]


def _weight(shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02


def _inputs(columns: int, rows: int = ROWS) -> Tensor:
    """Rows of very different size with a few large columns, as a transformer's are."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, columns, generator=generator)
    x[:, ::97] *= 8
    return x * torch.logspace(-2, 2, rows).unsqueeze(1)


def _relative_error(got: Tensor, weight: Tensor, x: Tensor) -> float:
    exact = x.double() @ weight.double().T
    return float(((got - exact).norm(dim=1) / exact.norm(dim=1)).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", range(1, ROWS + 1))
def test_row_keeps_its_bits_in_a_batch_of_any_size(kind, shape, rows):
    linear, x = kind(_weight(shape)), _inputs(shape[1])
    together = linear(x)
    for start in range(ROWS - rows + 1):
        part = slice(start, start + rows)
        assert torch.equal(linear(x[part].clone()), together[part])


@pytest.mark.parametrize("kind", KINDS)
def test_row_keeps_its_bits_in_a_prompt_of_any_length(kind):
    linear, x = kind(_weight((96, 1024))), _inputs(1024, rows=200)
    together = linear(x)
    for rows in (1, 2, 13, 16, 63, 100, 199):
        assert torch.equal(linear(x[:rows].clone()), together[:rows])


@pytest.mark.parametrize("kind", KINDS)
def test_row_does_not_see_its_neighbours(kind):
    linear, x = kind(_weight((96, 1024))), _inputs(1024)
    changed = x.clone()
    changed[1:] = 1e4 * torch.randn_like(changed[1:])
    assert torch.equal(linear(changed)[0], linear(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_number_of_threads_changes_no_bit(kind):
    linear, x = kind(_weight((96, 1024))), _inputs(1024)
    threads = torch.get_num_threads()
    together = linear(x)
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(linear(x), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_is_as_exact_as_float32(shape, dtype):
    weight, x = _weight(shape).to(dtype), _inputs(shape[1])
    # Measured 1.1e-6 for 3072 columns; a float16 rounding of the weights would give 2e-4.
    assert _relative_error(HalfLinear(weight)(x), weight, x) < 3e-6


def test_half_keeps_bfloat16_weights_once_and_float32_weights_in_two_parts():
    weight = _weight((48, 37))
    assert HalfLinear(weight.bfloat16())._remainder is None
    assert HalfLinear(weight)._remainder is not None


def test_half_refuses_a_weight_it_cannot_hold():
    with pytest.raises(ValueError, match="float16"):
        HalfLinear(torch.full((8, 8), 1e5))


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_int8_error_is_a_few_percent(shape):
    weight, x = _weight(shape), _inputs(shape[1])
    # Measured 0.02 to 0.04 on these large columns (7-bit inputs double it), 0.01 without them.
    assert 1e-4 < _relative_error(Int8Linear(weight)(x), weight, x) < 0.08


def test_int8_is_exact_where_weights_and_inputs_are_whole_steps():
    linear = Int8Linear(torch.tensor([[127.0, -127.0, 0.0, 1.0]]))
    linear_input = torch.tensor([[1.0, -1.0, 1.0, 0.0]])
    torch.testing.assert_close(linear(linear_input), torch.tensor([[254.0]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_row_of_zeros_gives_the_bias(kind):
    bias = torch.randn(48)
    assert torch.equal(kind(_weight((48, 37)), bias)(torch.zeros(1, 37))[0], bias)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_row_and_is_not_hidden(kind):
    linear, x = kind(_weight((96, 1024))), _inputs(1024)
    broken = x.clone()
    broken[3, 5] = torch.nan
    y = linear(broken)
    assert y[3].isnan().all()
    others = [row for row in range(ROWS) if row != 3]
    assert torch.equal(y[others], linear(x)[others])


@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_and_dtype_of_the_input_are_kept(kind):
    linear, x = kind(_weight((48, 37))), _inputs(37)
    y = linear(x.view(4, 2, 2, 37))
    assert torch.equal(y.view(ROWS, 48), linear(x))
    assert linear(x.bfloat16()).dtype is torch.bfloat16
    assert linear(x[:0]).shape == (0, 48)


@pytest.mark.parametrize("arithmetic", ["half", "int8"])
def test_packing_replaces_every_linear_and_nothing_else(arithmetic):
    inner = nn.ModuleList([Linear(_weight((48, 37))), nn.LayerNorm(37)])
    module = nn.ModuleDict({"head": Linear(_weight((7, 5)), torch.ones(7)), "inner": inner})
    x = _inputs(37)
    exact = inner[0](x)
    assert pack_linears(module, arithmetic) == 2
    assert not any(isinstance(child, Linear) for child in module.modules())
    assert isinstance(inner[1], nn.LayerNorm)
    torch.testing.assert_close(inner[0](x), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def test_packing_counts_nothing_on_a_module_that_is_packed():
    module = nn.ModuleList([Linear(_weight((7, 5)))])
    assert pack_linears(module, "half") == 1
    assert pack_linears(module, "half") == 0
