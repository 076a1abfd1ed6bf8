"""The CPU's matmuls: a row's bits depend on that row alone, and the rounding is bounded."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.linear import (
    HalfLinear,
    Int8Linear,
    Linear,
    PackedLinear,
    can_pack,
    choose_arithmetic,
    make_linear,
)
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.weights import CheckpointError, read_linear

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")

ROWS = 16
KINDS = [
    pytest.param(PackedLinear, id="packed"),
    pytest.param(HalfLinear, id="half"),
    pytest.param(Int8Linear, id="int8"),
]
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


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no AVX-512")
def test_row_of_packed_bfloat16_keeps_its_bits_in_a_batch_of_any_size():
    linear, x = PackedLinear(_weight((96, 1024)).bfloat16()), _inputs(1024).bfloat16()
    together = linear(x)
    for rows in range(1, ROWS):
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


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_float32_is_as_exact_as_float32(shape):
    weight, x = _weight(shape), _inputs(shape[1])
    assert _relative_error(PackedLinear(weight)(x), weight, x) < 3e-6


def test_half_keeps_bfloat16_weights_once_and_float32_weights_in_two_parts():
    weight = _weight((48, 37))
    assert HalfLinear(weight.bfloat16())._remainder is None
    assert HalfLinear(weight)._remainder is not None


@pytest.mark.parametrize("weight", [1e5, -1e5, 65505.0, -65505.0])
def test_half_refuses_a_weight_it_cannot_hold(weight):
    weights = torch.zeros(8, 8)
    weights[3, 5] = weight
    with pytest.raises(ValueError, match="float16"):
        HalfLinear(weights)


@pytest.mark.parametrize("weight", [65504.0, -65504.0])
def test_half_holds_the_largest_float16(weight):
    y = HalfLinear(torch.tensor([[weight, 0.0]]))(torch.tensor([[1.0, 1.0]]))
    assert y.tolist() == [[weight]]


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_int8_error_is_a_few_percent(shape):
    weight, x = _weight(shape), _inputs(shape[1])
    linear = Int8Linear(weight)
    # Measured 0.02 to 0.04 on these large columns with inputs of 8 bits; 7 bits double it.
    error = _relative_error(linear(x), weight, x) * linear._levels / 127
    assert 0.015 < error < 0.045


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
    if kind is not PackedLinear:  # whose inputs have the dtype of its weights
        assert linear(x.bfloat16()).dtype is torch.bfloat16
    assert linear(x[:0]).shape == (0, 48)


class Tensors:
    """A dictionary as `Weights`."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, arithmetic, **tensors):
        self.arithmetic = arithmetic
        self.tensors = {name.replace("_", "."): tensor for name, tensor in tensors.items()}

    def take(self, name, *shape):
        assert self.tensors[name].shape == shape
        return self.tensors[name]

    take_raw = take


@pytest.mark.parametrize(
    ("arithmetic", "kind"),
    [("float", Linear), ("packed", PackedLinear), ("half", HalfLinear), ("int8", Int8Linear)],
)
def test_matrices_are_read_as_one_layer_in_the_arithmetic_of_the_weights(arithmetic, kind):
    q, k, x = _weight((48, 37)), _weight((16, 37)) * 3, _inputs(37)
    linear = read_linear(Tensors(arithmetic, q_weight=q, k_weight=k), [("q", 48), ("k", 16)], 37)
    assert type(linear) is kind
    assert torch.equal(linear(x), make_linear(torch.cat((q, k)), arithmetic=arithmetic)(x))


def test_bias_is_read_and_arithmetic_may_be_overruled():
    weights = Tensors("int8", fc_weight=_weight((48, 37)), fc_bias=torch.ones(48))
    linear = read_linear(weights, [("fc", 48)], 37, bias=True, arithmetic="half")
    assert type(linear) is HalfLinear
    assert torch.equal(linear(torch.zeros(1, 37)), torch.ones(1, 48))


def test_weight_too_large_for_half_is_named():
    weights = Tensors("half", big_weight=torch.full((8, 8), 1e5))
    with pytest.raises(CheckpointError, match=r"big: .*float16.*must be float"):
        read_linear(weights, [("big", 8)], 8)


def _kinds(model):
    parts = (model.talker, model.code_predictor, model.prompts)
    linear = (Linear, PackedLinear, HalfLinear, Int8Linear)
    return {type(x) for part in parts for x in part.modules() if isinstance(x, linear)}


def test_float32_on_the_cpu_is_half_unless_something_else_is_asked(model, data):
    assert model.linear == "half"
    assert _kinds(model) == {HalfLinear}
    assert _kinds(Qwen3TTS.load(data / "tiny_1b7", linear="float")) == {Linear}
    assert _kinds(Qwen3TTS.load(data / "tiny_1b7", dtype=torch.bfloat16)) == {
        PackedLinear if can_pack(torch.bfloat16) else Linear
    }
    assert _kinds(Qwen3TTS.load(data / "tiny_1b7", linear="int8")) == {Int8Linear, HalfLinear}


def test_packed_layers_are_refused_where_there_are_no_kernels(data, monkeypatch):
    monkeypatch.setattr("qwen_tts_service.kernels.linear.can_pack", lambda *_: False)
    with pytest.raises(StartupError, match="'half' need an x86 CPU"):
        Qwen3TTS.load(data / "tiny_1b7", linear="half")
    assert Qwen3TTS.load(data / "tiny_1b7").linear == "float"


def test_memory_of_the_weights_counts_packed_ones(data, model):
    # The tiny checkpoint is float32: "half" keeps value and remainder, as many bytes.
    plain = Qwen3TTS.load(data / "tiny_1b7", linear="float").weight_bytes
    assert model.weight_bytes == plain
    assert plain * 0.3 < Qwen3TTS.load(data / "tiny_1b7", linear="int8").weight_bytes < plain


@pytest.mark.parametrize(("has_vnni", "levels"), [(True, 127), (False, 63)])
def test_int8_inputs_are_rounded_to_the_nearest_step(monkeypatch, has_vnni, levels):
    """A matrix that changes nothing shows each input as it was rounded; no way is preferred."""
    monkeypatch.setattr("qwen_tts_service.kernels.linear._has_vnni", lambda: has_vnni)
    x = torch.rand(64, 96, generator=torch.Generator().manual_seed(3)) * 2 - 1
    step = x.abs().amax(dim=1, keepdim=True) / levels
    error = (Int8Linear(torch.eye(96))(x) - x) / step
    assert 0.49 < error.abs().max() < 0.501
    assert abs(error.mean()) < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_the_exact_product_of_rounded_weights_and_inputs(shape):
    weight, x = _weight(shape), _inputs(shape[1])
    linear = Int8Linear(weight)
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    step = x.abs().amax(dim=1, keepdim=True) / linear._levels
    weight, x = (weight / scale).round() * scale, (x / step).round() * step
    assert _relative_error(linear(x), weight, x) < 1e-5


def test_int8_row_of_zero_weights_gives_zero():
    y = Int8Linear(torch.stack((torch.zeros(8), torch.ones(8))))(torch.ones(1, 8))
    torch.testing.assert_close(y, torch.tensor([[0.0, 8.0]]))


@pytest.mark.parametrize(
    ("kind", "dtype", "size"),
    [
        (PackedLinear, torch.float32, 4),
        (HalfLinear, torch.bfloat16, 2),
        (HalfLinear, torch.float32, 4),
        (Int8Linear, torch.float32, 1),
    ],
)
def test_a_packed_layer_says_what_its_weights_take(kind, dtype, size):
    assert kind(_weight((48, 37)).to(dtype)).packed_bytes == 48 * 37 * size


def test_packing_gives_freed_memory_back(monkeypatch):
    trimmed = []
    monkeypatch.setattr("qwen_tts_service.kernels.linear._trim", trimmed.append)
    make_linear(_weight((8, 8)))
    assert trimmed == []
    make_linear(_weight((8, 8)), arithmetic="half")
    assert trimmed == [0]


CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
EVERYTHING = {torch.float32, torch.bfloat16}


CHOICES = [
    (None, CPU, torch.float32, EVERYTHING, "half"),
    (None, CPU, torch.bfloat16, EVERYTHING, "packed"),
    (None, CPU, torch.bfloat16, {torch.float32}, "float"),
    (None, CPU, torch.float32, (), "float"),
    (None, CUDA, torch.float32, EVERYTHING, "float"),
    (None, CUDA, torch.bfloat16, EVERYTHING, "float"),
    ("float", CUDA, torch.bfloat16, EVERYTHING, "float"),
    ("float", CPU, torch.float32, (), "float"),
    ("half", CPU, torch.bfloat16, {torch.float32}, "half"),
    ("int8", CPU, torch.bfloat16, {torch.float32}, "int8"),
    ("packed", CPU, torch.float32, {torch.float32}, "packed"),
    ("packed", CPU, torch.bfloat16, {torch.float32}, "for bfloat16, a CPU with AVX-512"),
    ("half", CPU, torch.float32, (), "'half' need an x86 CPU"),
    ("int8", CUDA, torch.float32, EVERYTHING, "'int8' need an x86 CPU"),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_arithmetic_is_what_is_asked_or_what_the_device_can(monkeypatch, choice):
    asked, device, dtype, able, chosen = choice

    def can(dtype=torch.float32):
        return dtype in able

    monkeypatch.setattr("qwen_tts_service.kernels.linear.can_pack", can)
    if " " in chosen:
        with pytest.raises(StartupError, match=chosen):
            choose_arithmetic(asked, device, dtype)
    else:
        assert choose_arithmetic(asked, device, dtype) == chosen


def test_bfloat16_loads_where_it_cannot_be_packed(data, monkeypatch):
    monkeypatch.setattr("qwen_tts_service.kernels.linear._has_packed_bfloat16", lambda: False)
    assert not can_pack(torch.bfloat16)
    model = Qwen3TTS.load(data / "tiny_1b7", dtype=torch.bfloat16, codec_dtype=torch.bfloat16)
    assert _kinds(model) == {Linear}
    mixed = Qwen3TTS.load(data / "tiny_1b7", codec_dtype=torch.bfloat16)
    assert _kinds(mixed) == {HalfLinear}
    assert mixed.codec.dtype is torch.bfloat16


@pytest.mark.parametrize("part", ["talker", "code_predictor", "prompts", "codec"])
def test_every_network_counts_in_the_memory_of_the_weights(model, part):
    without = replace(model, **{part: torch.nn.Module()})
    assert 0 < without.weight_bytes < model.weight_bytes
