"""The CPU's matmuls: a row's bits depend on that row alone, and the rounding is bounded."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.linear import (
    Arithmetic,
    HalfLinear,
    Int8Linear,
    Linear,
    OrderedLinear,
    PackedLinear,
    can_pack,
    choose_arithmetic,
    describe_arithmetic,
    fastest_arithmetic,
    make_linear,
)
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.weights import CheckpointError, read_linear

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")

ROWS = 16


def _bfloat16_linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    return make_linear(weight.bfloat16().float(), bias, arithmetic="bfloat16")


KINDS = [
    pytest.param(PackedLinear, id="packed"),
    pytest.param(HalfLinear, id="half"),
    pytest.param(_bfloat16_linear, id="bfloat16"),
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


ALONE_AND_TOGETHER = """
import torch
from qwen_tts_service.kernels.linear import HalfLinear
linear = HalfLinear(torch.randn(96, 1024, generator=torch.Generator().manual_seed(1)))
x = torch.randn(16, 1024, generator=torch.Generator().manual_seed(2))
print(all(torch.equal(linear(x[:rows]), linear(x)[:rows]) for rows in range(1, 16)))
"""


def test_row_keeps_its_bits_where_torch_may_use_no_vector_instructions() -> None:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}  # FBGEMM does not heed it
    command = [sys.executable, "-c", ALONE_AND_TOGETHER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("kind", KINDS)
def test_row_keeps_its_bits_in_a_prompt_of_any_length(kind):
    linear, x = kind(_weight((96, 1024))), _inputs(1024, rows=200)
    together = linear(x)
    for rows in (1, 2, 13, 16, 63, 100, 199):
        assert torch.equal(linear(x[:rows].clone()), together[:rows])


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


# Projections, both matrices of the MLP and a head of the published models.
@pytest.mark.parametrize("shape", [(4096, 2048), (1024, 3072), (6144, 1024), (2048, 1024)])
@pytest.mark.parametrize("kind", [_bfloat16_linear, Int8Linear])
def test_row_keeps_its_bits_at_true_sizes_on_one_thread_and_on_two(kind, shape):
    linear, x = kind(_weight(shape)), _inputs(shape[1])
    threads = torch.get_num_threads()
    together = linear(x)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows in range(1, ROWS + 1):
                assert torch.equal(linear(x[:rows]), together[:rows])
    finally:
        torch.set_num_threads(threads)


def test_bfloat16_rounds_inputs_and_results_and_nothing_between():
    weight, x = _weight((96, 1024)).bfloat16(), _inputs(1024)
    exact = x.bfloat16().double() @ weight.double().T
    got = make_linear(weight, arithmetic="bfloat16")(x)
    assert got.dtype == torch.float32
    # Half a step of bfloat16, and float32 sums of 1,024 products.
    assert ((got - exact).abs() <= exact.abs() * 2**-9 * 1.01 + 1e-4 * x.norm(dim=1)[:, None]).all()


def test_weights_that_bfloat16_does_not_hold_are_not_rounded():
    assert isinstance(make_linear(_weight((48, 37)), arithmetic="bfloat16"), HalfLinear)
    assert isinstance(_bfloat16_linear(_weight((48, 37))), PackedLinear)


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
def test_half_refuses_a_weight_it_cannot_hold(weight: float) -> None:
    weights = torch.ones(8, 8)
    weights[5, 3] = weight
    with pytest.raises(ValueError, match="float16"):
        HalfLinear(weights)


# 65488 lies between two float16 that are 32 apart: the largest remainder there is.
@pytest.mark.parametrize("weight", [65504.0, -65504.0, 65488.0, -65488.0])
def test_half_keeps_the_largest_weights_exactly(weight: float) -> None:
    x = torch.eye(8)
    assert torch.equal(HalfLinear(torch.full((3, 8), weight))(x), torch.full((8, 3), weight))


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_int8_error_is_five_steps_of_the_inputs(shape):
    weight, x = _weight(shape), _inputs(shape[1])
    # Measured on these large columns, in steps of 1/levels: 4.8 to 5.6; cut off, not rounded: 10.
    error = _relative_error(Int8Linear(weight)(x), weight, x)
    assert 4.5 < error * _levels() < 6


def _levels() -> int:
    return 127 if torch.cpu._is_vnni_supported() else 63


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_rounding_to_levels_and_a_sum_of_whole_numbers(shape):
    weight, x = _weight(shape), _inputs(shape[1])
    scale = weight.double().abs().amax(1) / 127
    step = x.double().abs().amax(1, keepdim=True) / _levels()
    sums = (x / step).round() @ (weight / scale[:, None]).round().T
    # One input at the edge between two levels may fall to the other side: 7e-5.
    off = Int8Linear(weight)(x) / step / scale - sums
    assert (off.norm(dim=1) / sums.norm(dim=1)).max() < 2e-4


@pytest.mark.parametrize(("has_vnni", "levels"), [(True, 127), (False, 63)])
def test_int8_inputs_are_rounded_to_the_nearest_of_as_many_levels_as_fit(
    monkeypatch: pytest.MonkeyPatch, has_vnni: bool, levels: int
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: has_vnni)
    # One weight a row: sums of one product overflow nowhere and show the rounded inputs.
    x = torch.linspace(-1, 1, 1000).unsqueeze(0)
    error = (Int8Linear(torch.eye(1000))(x) - x) * levels
    assert abs(float(error.mean())) < 0.01
    assert 0.49 < float(error.abs().max()) < 0.501


def test_int8_is_exact_where_weights_and_inputs_are_whole_steps():
    linear = Int8Linear(torch.tensor([[127.0, -127.0, 0.0, 1.0]]))
    linear_input = torch.tensor([[1.0, -1.0, 1.0, 0.0]])
    torch.testing.assert_close(linear(linear_input), torch.tensor([[254.0]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_row_of_zeros_gives_the_bias(kind):
    bias = torch.randn(48).bfloat16().float()
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
    assert _kinds(Qwen3TTS.load(data / "tiny_1b7", dtype=torch.bfloat16)) == {PackedLinear}
    assert _kinds(Qwen3TTS.load(data / "tiny_1b7", linear="int8")) == {Int8Linear, HalfLinear}
    fused = Qwen3TTS.load(data / "tiny_1b7", linear="float", fused_kernels=True)
    assert _kinds(fused) == {OrderedLinear}
    assert fused.linear_layers.startswith("float: ")


def test_packed_layers_are_refused_where_there_are_no_kernels(data, monkeypatch):
    monkeypatch.setattr("qwen_tts_service.kernels.linear.can_pack", lambda: False)
    with pytest.raises(StartupError, match="half weights need an x86 CPU"):
        Qwen3TTS.load(data / "tiny_1b7", linear="half")
    assert Qwen3TTS.load(data / "tiny_1b7").linear == "float"


def test_memory_of_the_weights_counts_packed_ones(data, model):
    # The tiny checkpoint is float32: "half" keeps value and remainder, as many bytes.
    plain = Qwen3TTS.load(data / "tiny_1b7", linear="float").weight_bytes
    assert model.weight_bytes == plain
    assert plain * 0.3 < Qwen3TTS.load(data / "tiny_1b7", linear="int8").weight_bytes < plain


# Half a step of the smallest float16 is all that a bfloat16 weight can lose.
@pytest.mark.parametrize(("weight", "parts"), [(2.0**-25, 1), (2.0**-13 + 2.0**-24, 2)])
def test_half_takes_a_second_part_for_more_than_bfloat16_can_lose(
    weight: float, parts: int
) -> None:
    assert HalfLinear(torch.full((4, 6), weight)).packed_bytes == parts * 2 * 24


@pytest.mark.parametrize(("arithmetic", "size"), [("packed", 4), ("half", 4), ("int8", 1)])
def test_packed_bytes_are_those_of_the_weights(arithmetic: Arithmetic, size: int) -> None:
    layer = make_linear(_weight((48, 37)), arithmetic=arithmetic)
    assert layer.packed_bytes == size * 48 * 37


@pytest.mark.parametrize("has_fbgemm", [True, False])
@pytest.mark.parametrize("has_onednn", [True, False])
def test_packing_needs_both_libraries(
    monkeypatch: pytest.MonkeyPatch, has_fbgemm: bool, has_onednn: bool
) -> None:
    engines = ["none", "fbgemm"] if has_fbgemm else ["none"]
    monkeypatch.setattr(
        "qwen_tts_service.kernels.linear.torch.backends.quantized", SimpleNamespace()
    )
    monkeypatch.setattr(torch.backends.quantized, "supported_engines", engines, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    assert can_pack() is (has_fbgemm and has_onednn)


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "chosen"),
    [
        (None, "cpu", torch.float32, "half"),
        (None, "cpu", torch.bfloat16, "packed"),
        (None, "cuda", torch.float32, "float"),
        ("bfloat16", "cpu", torch.float32, "bfloat16"),
        ("int8", "cpu", torch.float32, "int8"),
        ("float", "cpu", torch.float32, "float"),
        ("float", "cuda", torch.float32, "float"),
    ],
)
def test_arithmetic_is_what_is_asked_or_suits_the_device(
    asked: Arithmetic | None, device: str, dtype: torch.dtype, chosen: Arithmetic
) -> None:
    assert choose_arithmetic(asked, torch.device(device), dtype) == chosen


@pytest.mark.parametrize(
    ("amx", "device", "fastest"),
    [(True, "cpu", "bfloat16"), (False, "cpu", None), (True, "cuda", None)],
)
def test_bfloat16_is_the_fastest_on_a_cpu_with_amx(
    monkeypatch: pytest.MonkeyPatch, amx: bool, device: str, fastest: Arithmetic | None
) -> None:
    monkeypatch.setattr("qwen_tts_service.kernels.linear.has_amx", lambda: amx)
    assert fastest_arithmetic(torch.device(device)) == fastest


def test_packed_layers_are_refused_on_cuda() -> None:
    with pytest.raises(StartupError, match="packed weights need an x86 CPU"):
        choose_arithmetic("packed", torch.device("cuda"), torch.float32)


@pytest.mark.parametrize(
    ("rows", "dtype", "ordered"),
    [
        (1, torch.bfloat16, True),
        (32, torch.float16, True),
        (33, torch.bfloat16, False),
        (1, torch.float32, False),
    ],
)
def test_few_rows_of_a_short_format_are_summed_in_one_order(
    monkeypatch: pytest.MonkeyPatch, rows: int, dtype: torch.dtype, ordered: bool
) -> None:
    calls = []

    def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(x.shape)
        return nn.functional.linear(x, weight, bias)

    monkeypatch.setattr("qwen_tts_service.kernels.linear.linear_rows", linear_rows)
    weight, x = _weight((48, 37)).to(dtype), _inputs(37, rows).to(dtype)
    linear = make_linear(weight, arithmetic="ordered")
    assert isinstance(linear, OrderedLinear)
    assert torch.equal(linear(x[:, None])[:, 0], Linear(weight)(x))
    assert calls == [(rows, 1, 37)] * ordered


@pytest.mark.parametrize("arithmetic", get_args(Arithmetic))
def test_every_arithmetic_is_described(arithmetic: Arithmetic) -> None:
    assert describe_arithmetic(arithmetic).startswith(f"{arithmetic}: ")


@pytest.mark.parametrize("arithmetic", ["float", "packed", "half", "int8"])
def test_memory_is_given_back_after_packing(
    monkeypatch: pytest.MonkeyPatch, arithmetic: Arithmetic
) -> None:
    calls: list[int] = []
    monkeypatch.setattr("qwen_tts_service.kernels.linear._trim", calls.append)
    make_linear(_weight((48, 37)), arithmetic=arithmetic)
    assert calls == [0] * (arithmetic != "float")
