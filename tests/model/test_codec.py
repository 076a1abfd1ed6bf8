"""The codec: a stream is the whole decode, on tiny and on real shapes."""

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv1d, conv_transpose1d, gelu, layer_norm, linear, pad, silu

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.linear import can_pack
from qwen_tts_service.model import qwen3_tts
from qwen_tts_service.model.codec.decoder import CodecDecoder
from qwen_tts_service.model.codec.quantizer import Dequantizer
from qwen_tts_service.model.codec.state import Chunk, CodecState
from qwen_tts_service.model.codec.transformer import WindowedTransformer, window_mask
from qwen_tts_service.model.codec.vocoder import CausalConv, ConvNeXtBlock, SnakeBeta, Upsample
from qwen_tts_service.model.config import load_config
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import SamplingOptions

TOLERANCE = 1e-5  # "the same samples" in float32; measured: about 1e-7
FRAMES = 60


class TensorWeights:
    """A dictionary as `Weights`."""

    def __init__(self, tensors, arithmetic="float", dtype=torch.float32):
        self.tensors = tensors
        self.device = torch.device("cpu")
        self.dtype = dtype
        self.arithmetic = arithmetic

    def take(self, name, *shape):
        return self.take_raw(name, *shape).to(self.dtype)

    def take_raw(self, name, *shape):
        assert self.tensors[name].shape == shape
        return self.tensors[name]


def plain_decode(tensors, config, codes):
    """Decode codes [Q, T] whole with the reference's own operations, no state and no folding."""

    def get(name):
        return tensors[f"decoder.{name}"]

    def conv(name, x, dilation=1, groups=1):
        weight = get(f"{name}.weight")
        x = pad(x, ((weight.shape[2] - 1) * dilation, 0))
        return conv1d(x, weight, get(f"{name}.bias"), dilation=dilation, groups=groups)

    def transposed(name, x, stride):
        y = conv_transpose1d(x, get(f"{name}.weight"), get(f"{name}.bias"), stride=stride)
        return y[..., : x.shape[-1] * stride]

    def snake(name, x):
        alpha, beta = get(f"{name}.alpha").exp(), get(f"{name}.beta").exp()
        return x + (x * alpha[:, None]).sin() ** 2 / (beta[:, None] + 1e-9)

    latent = 0
    for group, first, books in (("first", 0, 1), ("rest", 1, config.codebooks - 1)):
        rows = 0
        for book in range(books):
            name = f"quantizer.rvq_{group}.vq.layers.{book}._codebook"
            usage = get(f"{name}.cluster_usage").clamp(min=1e-5)
            rows = rows + (get(f"{name}.embedding_sum") / usage[:, None])[codes[first + book]]
        latent = latent + conv1d(rows.T[None], get(f"quantizer.rvq_{group}.output_proj.weight"))
    x = conv("pre_conv.conv", latent)
    x = plain_transformer(get, config, x[0].T).T[None]
    for index, ratio in enumerate(config.upsampling_ratios):
        x = transposed(f"upsample.{index}.0.conv", x, ratio)
        name, C = f"upsample.{index}.1", x.shape[1]
        y = conv(f"{name}.dwconv.conv", x, groups=C).transpose(1, 2)
        y = layer_norm(y, (C,), get(f"{name}.norm.weight"), get(f"{name}.norm.bias"), 1e-6)
        y = gelu(linear(y, get(f"{name}.pwconv1.weight"), get(f"{name}.pwconv1.bias")))
        y = linear(y, get(f"{name}.pwconv2.weight"), get(f"{name}.pwconv2.bias"))
        x = x + (get(f"{name}.gamma") * y).transpose(1, 2)
    x = conv("decoder.0.conv", x)
    for stage, rate in enumerate(config.upsample_rates, 1):
        name = f"decoder.{stage}.block"
        x = transposed(f"{name}.1.conv", snake(f"{name}.0", x), rate)
        for unit, dilation in ((2, 1), (3, 3), (4, 9)):
            y = conv(f"{name}.{unit}.conv1.conv", snake(f"{name}.{unit}.act1", x), dilation)
            x = x + conv(f"{name}.{unit}.conv2.conv", snake(f"{name}.{unit}.act2", y))
    last = 1 + len(config.upsample_rates)
    x = conv(f"decoder.{last + 1}.conv", snake(f"decoder.{last}", x))
    return x[0, 0].clamp(-1, 1)


def plain_transformer(get, config, x):
    """Run the windowed transformer over all frames x [T, C] with one explicit mask."""
    sizes, T = config.transformer, x.shape[0]
    D = sizes.head_size
    angles = torch.arange(T)[:, None] / sizes.rope_theta ** (torch.arange(0, D, 2) / D)
    cos, sin = angles.cos().repeat(1, 2)[:, None], angles.sin().repeat(1, 2)[:, None]
    age = torch.arange(T)[:, None] - torch.arange(T)
    hidden = torch.zeros(T, T).masked_fill((age < 0) | (age >= config.window_frames), -math.inf)

    def norm(name, x):
        return x * (x.pow(2).mean(-1, keepdim=True) + sizes.norm_eps).rsqrt() * get(name)

    def rotate(x):
        return x * cos + torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1) * sin

    x = linear(x, get("pre_transformer.input_proj.weight"), get("pre_transformer.input_proj.bias"))
    for layer in range(sizes.layers):
        name = f"pre_transformer.layers.{layer}"
        y = norm(f"{name}.input_layernorm.weight", x)
        q, k, v = (
            linear(y, get(f"{name}.self_attn.{part}_proj.weight")).view(T, sizes.heads, D)
            for part in "qkv"
        )
        scores = torch.einsum("ihd,jhd->hij", rotate(q), rotate(k)) / D**0.5 + hidden
        y = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(T, -1)
        y = linear(y, get(f"{name}.self_attn.o_proj.weight"))
        x = x + get(f"{name}.self_attn_layer_scale.scale") * y
        y = norm(f"{name}.post_attention_layernorm.weight", x)
        gate = silu(linear(y, get(f"{name}.mlp.gate_proj.weight")))
        y = linear(
            gate * linear(y, get(f"{name}.mlp.up_proj.weight")), get(f"{name}.mlp.down_proj.weight")
        )
        x = x + get(f"{name}.mlp_layer_scale.scale") * y
    x = norm("pre_transformer.norm.weight", x)
    return linear(
        x, get("pre_transformer.output_proj.weight"), get("pre_transformer.output_proj.bias")
    )


def random_codes(config, rows, frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, config.codebooks, frames)
    return torch.randint(0, config.codes, shape, generator=generator)


def stream(codec, codes, parts):
    state = codec.new_state(slots=len(codes))
    return torch.cat([codec.decode(part, state) for part in codes.split(parts, dim=2)], dim=1)


def split_evenly(frames, step):
    return [step] * (frames // step) + ([frames % step] if frames % step else [])


@pytest.fixture(scope="module")
def codec(model) -> CodecDecoder:
    return model.codec


@pytest.fixture(scope="module")
def whole(codec) -> SimpleNamespace:
    codes = random_codes(codec.config, 2, FRAMES)
    return SimpleNamespace(codes=codes, samples=codec.decode(codes, codec.new_state(slots=2)))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 25])
def test_a_stream_in_equal_chunks_is_the_whole_decode(codec, whole, step):
    streamed = stream(codec, whole.codes, split_evenly(FRAMES, step))
    assert (streamed - whole.samples).abs().max() < TOLERANCE


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, FRAMES - 1), max_size=8))
def test_a_stream_in_any_chunks_is_the_whole_decode(codec, whole, cuts):
    edges = [0, *sorted(cuts), FRAMES]
    parts = [b - a for a, b in pairwise(edges)]
    assert (stream(codec, whole.codes, parts) - whole.samples).abs().max() < TOLERANCE


def test_the_same_chunks_give_the_same_bits(codec, whole):
    assert torch.equal(stream(codec, whole.codes, [3] * 20), stream(codec, whole.codes, [3] * 20))


def test_a_frame_is_1920_samples_in_range(codec, whole):
    assert whole.samples.shape == (2, FRAMES * 1920)
    assert whole.samples.dtype == torch.float32
    assert 0.05 < whole.samples.abs().max() <= 1.0


def test_rows_do_not_influence_one_another(codec, whole):
    alone = codec.decode(whole.codes[1:], codec.new_state(slots=1))
    assert (alone[0] - whole.samples[1]).abs().max() < TOLERANCE


@pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")
@pytest.mark.parametrize("frames", [1, 4])
def test_rows_decoded_together_are_the_same_bits_as_alone(real, frames):
    """Packed arithmetic only: what a row comes to does not depend on how many there are."""
    codes = random_codes(real.codec.config, 4, 2 * frames)
    together = stream(real.codec, codes, frames)
    for rows in (1, 3):
        assert torch.equal(stream(real.codec, codes[:rows], frames), together[:rows])


def test_plain_arithmetic_gives_the_same_samples(data, model, whole):
    plain = type(model).load(data / "tiny_1b7", linear="float").codec
    assert (stream(plain, whole.codes, [7] * 8 + [4]) - whole.samples).abs().max() < TOLERANCE


def test_idle_row_keeps_its_state(codec, whole):
    state = codec.new_state(slots=2)
    head, tail = whole.codes[..., :20], whole.codes[..., 20:]
    codec.decode(head, state)
    only_first = torch.tensor([True, False])
    continued = codec.decode(tail, state, active=only_first)
    assert not continued[1].any()
    assert (continued[0] - whole.samples[0, 20 * 1920 :]).abs().max() < TOLERANCE
    late = codec.decode(tail, state, active=~only_first)
    assert not late[0].any()
    assert (late[1] - whole.samples[1, 20 * 1920 :]).abs().max() < TOLERANCE


def test_an_idle_row_changes_no_state_tensor(codec, whole):
    state = codec.new_state(slots=2)
    codec.decode(whole.codes[..., :20], state)
    before = [tensor.clone() for tensor in state.tensors()]
    codec.decode(whole.codes[..., 20:], state, active=torch.tensor([False, False]))
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors(), strict=True))


def test_rows_continue_the_slots_they_name(codec, whole):
    state = codec.new_state(slots=5)
    slots = torch.tensor([3, 1])
    head = codec.decode(whole.codes[..., :9], state, slots)
    tail = codec.decode(whole.codes[..., 9:].flip(0), state, slots.flip(0)).flip(0)
    streamed = torch.cat((head, tail), dim=1)
    assert (streamed - whole.samples).abs().max() < TOLERANCE
    assert state.frames.tolist() == [0, FRAMES, 0, FRAMES, 0]


def test_fused_kernels_continue_slots_and_leave_idle_ones(data, model, whole):
    codec = type(model).load(data / "tiny_1b7", linear="float", fused_kernels=True).codec
    state, slots = codec.new_state(slots=5), torch.tensor([3, 1])
    codes, samples = whole.codes[..., :16], whole.samples[:, : 16 * 1920]
    head = codec.decode(codes[..., :9], state, slots)
    before = [tensor.clone() for tensor in state.tensors()]
    assert not codec.decode(codes[..., :2], state, slots, torch.zeros(2).bool()).any()
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors(), strict=True))
    tail = codec.decode(codes[..., 9:].flip(0), state, slots.flip(0)).flip(0)
    assert (torch.cat((head, tail), dim=1) - samples).abs().max() < TOLERANCE
    assert state.frames.tolist() == [0, 16, 0, 16, 0]


def test_reset_makes_one_slot_new_and_leaves_the_others(codec, whole):
    state = codec.new_state(slots=2)
    codec.decode(whole.codes[..., :20], state)
    codec.reset(state, torch.tensor([0]))
    again = codec.decode(whole.codes[:1], state, torch.tensor([0]))
    assert (again[0] - whole.samples[0]).abs().max() < TOLERANCE
    other = codec.decode(whole.codes[1:, :, 20:], state, torch.tensor([1]))
    assert (other[0] - whole.samples[1, 20 * 1920 :]).abs().max() < TOLERANCE


def test_state_is_filled_in_place(codec, whole):
    state = codec.new_state(slots=2)
    addresses = [tensor.data_ptr() for tensor in state.tensors()]
    codec.decode(whole.codes[..., :4], state)
    codec.reset(state, torch.tensor([1]))
    assert addresses == [tensor.data_ptr() for tensor in state.tensors()]


def test_state_of_the_published_shapes_is_5_megabytes_per_stream(real):
    state = real.codec.new_state(slots=1)
    # 141,472 would hold the transposed convolutions' tails of outputs (9,120 values); we keep
    # their last input column instead: 1536 + 768 + 384 + 192.
    tails = sum(tail.numel() for tail in state.tails)
    assert tails == 141_472 - 9_120 + 2_880
    assert sum(t.numel() for t in (*state.keys, *state.values)) == 1_163_264


def test_bfloat16_stays_within_its_measured_tolerance(data, model, whole):
    # Measured on this checkpoint, whose loudest sample is 0.19: 0.0033 at worst, 0.0005 rms.
    rough = type(model).load(data / "tiny_1b7", codec_dtype=torch.bfloat16).codec
    samples = stream(rough, whole.codes, [7] * 8 + [4])
    error = samples - whole.samples
    assert samples.dtype == torch.float32
    assert error.abs().max() < 0.007
    assert error.pow(2).mean().sqrt() < 0.0011
    assert not torch.equal(samples, whole.samples)


def test_window_mask_shows_a_frame_itself_and_what_came_before_it():
    mask = window_mask(torch.tensor([0, 2, 9]), 3, 4)[:, 0].int().tolist()
    assert mask == [
        [[0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]],
        [[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]],
        [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]],
    ]


# The parts, one by one --------------------------------------------------------------------


def quantizer_tensors(codes, books, width):
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for group, count in (("first", 1), ("rest", books - 1)):
        name = f"decoder.quantizer.rvq_{group}"
        shape = (width, width // 2, 1)
        tensors[f"{name}.output_proj.weight"] = torch.randn(shape, generator=generator)
        for book in range(count):
            layer = f"{name}.vq.layers.{book}._codebook"
            sums = torch.randn(codes, width // 2, generator=generator)
            tensors[f"{layer}.embedding_sum"] = sums
            tensors[f"{layer}.cluster_usage"] = torch.rand(codes, generator=generator) + 0.5
    return tensors


def test_a_code_that_training_never_used_counts_as_used_a_hundred_thousandth_time():
    config = SimpleNamespace(codes=3, codebooks=3, codebook_width=4)
    tensors = quantizer_tensors(3, 3, 4)
    name = "decoder.quantizer.rvq_rest"
    book = f"{name}.vq.layers.1._codebook"
    tensors[f"{book}.cluster_usage"][:2] = torch.tensor([0.0, 1e-7])
    table = Dequantizer(config, TensorWeights(tensors, "float")).table
    scaled = tensors[f"{book}.embedding_sum"][:2] / 1e-5
    expected = scaled @ tensors[f"{name}.output_proj.weight"][..., 0].T
    torch.testing.assert_close(table[6:8], expected)


def test_a_latent_vector_is_the_sum_of_its_codes_rows():
    config = SimpleNamespace(codes=5, codebooks=4, codebook_width=6)
    tensors = quantizer_tensors(5, 4, 6)
    codes = random_codes(config, 2, 3)
    got = Dequantizer(config, TensorWeights(tensors, "float"))(codes)
    expected = torch.zeros(2, 3, 6)
    for book, (group, layer) in enumerate((("first", 0), ("rest", 0), ("rest", 1), ("rest", 2))):
        name = f"decoder.quantizer.rvq_{group}"
        of = f"{name}.vq.layers.{layer}._codebook"
        rows = tensors[f"{of}.embedding_sum"] / tensors[f"{of}.cluster_usage"][:, None]
        expected += (rows @ tensors[f"{name}.output_proj.weight"][..., 0].T)[codes[:, book]]
    torch.testing.assert_close(got, expected)


def test_tables_are_folded_in_float32_and_rounded_once():
    config = SimpleNamespace(codes=5, codebooks=3, codebook_width=6)
    tensors = quantizer_tensors(5, 3, 6)
    exact = Dequantizer(config, TensorWeights(tensors)).table
    rough = Dequantizer(config, TensorWeights(tensors, dtype=torch.bfloat16)).table
    assert torch.equal(rough, exact.bfloat16())


class NoPast:
    """A chunk at the beginning: zeros came before it."""

    def __init__(self, reach):
        self.reach = reach

    def extend(self, _tail, x, _snake=None):
        return pad(x, (0, 0, self.reach, 0))


def randoms(*shapes, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


ARITHMETICS = [
    "float",
    pytest.param("packed", marks=pytest.mark.skipif(not can_pack(), reason="not x86")),
]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(
    ("channels", "inner", "kernel", "dilation"),
    [(5, 5, 7, 1), (5, 5, 7, 9), (5, 5, 1, 1), (6, 1, 7, 1), (400, 400, 3, 3), (400, 400, 1, 1)],
)
def test_a_convolution_depends_on_past_inputs_only(arithmetic, channels, inner, kernel, dilation):
    out = channels if inner == 1 else 4
    weight, bias, x = randoms((out, inner, kernel), (out,), (2, 40, channels))
    conv = CausalConv(weight, bias, arithmetic, dilation=dilation)
    conv.tail = 0
    reach = (kernel - 1) * dilation
    assert (conv.reach, conv.in_channels) == (reach, channels)
    groups = channels if inner == 1 else 1
    past = pad(x.transpose(1, 2), (reach, 0))
    expected = conv1d(past, weight, bias, dilation=dilation, groups=groups).transpose(1, 2)
    torch.testing.assert_close(conv(x, NoPast(reach)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 3), (6, 3), (2, 2), (10, 5)])
def test_an_upsampling_layer_is_a_trimmed_transposed_convolution(kernel, stride):
    weight, bias, x = randoms((4, 3, kernel), (3,), (2, 9, 4))
    weights = TensorWeights({"up.weight": weight, "up.bias": bias})
    layer = Upsample(weights, "up", (4, 3, kernel), stride=stride)
    layer.conv.tail = 0
    expected = conv_transpose1d(x.transpose(1, 2), weight, bias, stride=stride)[..., : 9 * stride]
    got = layer(x, NoPast(kernel // stride - 1))
    torch.testing.assert_close(got, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_snake_has_its_exponentials_taken_as_stored(dtype):
    alpha, beta = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.2, 1.0, -30.0])
    weights = TensorWeights({"act.alpha": alpha, "act.beta": beta}, dtype=dtype)
    snake = SnakeBeta(weights, "act", 3)
    assert torch.equal(snake.frequency, alpha.exp().to(dtype))
    assert torch.equal(snake.height, (1 / (beta.exp() + 1e-9)).to(dtype))
    x = randoms((2, 4, 3))[0].to(dtype)
    before = x.clone()
    expected = x + (x * snake.frequency).sin() ** 2 * snake.height
    torch.testing.assert_close(snake(x), expected, rtol=1e-2, atol=1e-2)
    assert torch.equal(x, before)


def test_the_norm_of_a_quiet_input_has_an_eps_of_a_millionth():
    C = 3
    shapes = {
        "dwconv.conv.weight": (C, 1, 7), "dwconv.conv.bias": (C,), "norm.weight": (C,),
        "norm.bias": (C,), "pwconv1.weight": (4 * C, C), "pwconv1.bias": (4 * C,),
        "pwconv2.weight": (C, 4 * C), "pwconv2.bias": (C,), "gamma": (C,),
    }  # fmt: skip
    values = dict(zip(shapes, randoms(*shapes.values()), strict=True))
    values["dwconv.conv.bias"] *= 1e-3
    block = ConvNeXtBlock(TensorWeights({f"b.{k}": v for k, v in values.items()}), "b", C)
    block.depthwise.tail = 0
    x = randoms((1, 5, C))[0] * 1e-3
    y = conv1d(
        pad(x.transpose(1, 2), (6, 0)),
        values["dwconv.conv.weight"], values["dwconv.conv.bias"], groups=C,
    ).transpose(1, 2)  # fmt: skip
    spread = (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    y = (y - y.mean(-1, keepdim=True)) / spread * values["norm.weight"] + values["norm.bias"]
    y = linear(gelu(linear(y, values["pwconv1.weight"], values["pwconv1.bias"])),
               values["pwconv2.weight"], values["pwconv2.bias"])  # fmt: skip
    torch.testing.assert_close(block(x, NoPast(6)), x + values["gamma"] * y)


def test_shares_of_attention_are_computed_in_float32():
    """In bfloat16 only the scores and the finished shares are rounded."""
    B, T, H, D, window = 1, 3, 2, 8, 4
    like = torch.zeros(0).bfloat16()
    state = CodecState.allocate(B, tails=[], window=(H, window - 1, D), layers=1, like=like)
    q, k, v = (x.bfloat16() * 3 for x in randoms(*[(B, T, H, D)] * 3))
    seen = []

    def stack(x, positions, attend):
        seen.append(positions.tolist())
        return attend(0, q, k, v)

    parts = SimpleNamespace(
        config=SimpleNamespace(window_frames=window), stack=stack, enter=lambda x: x, leave=None
    )
    parts.leave = parts.enter
    chunk = Chunk(state, torch.arange(B), None)
    got = WindowedTransformer.forward(parts, torch.zeros(B, T, 1), chunk)
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    scores = heads[0] @ heads[1].transpose(2, 3) * D**-0.5
    scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    shares = scores.float().softmax(-1).bfloat16()
    assert torch.equal(got, (shares @ heads[2]).transpose(1, 2))
    assert seen == [[[0, 1, 2]]]
    assert torch.equal(state.keys[0], heads[1])


class Loud(torch.nn.Module):
    """A vocoder out of range."""

    def forward(self, x, _chunk):
        return torch.tensor([[-3.0, 0.5, 3.0]]).bfloat16().expand(len(x), -1)


def test_samples_are_cut_at_full_scale_and_always_float32(codec, whole, monkeypatch):
    monkeypatch.setitem(codec._modules, "vocoder", Loud())
    samples = codec.decode(whole.codes[..., :1], codec.new_state(slots=2))
    assert samples.dtype == torch.float32
    assert samples.tolist() == [[-1.0, 0.5, 1.0]] * 2


def test_reset_leaves_nothing_in_a_slot(codec, whole):
    state = codec.new_state(slots=2)
    codec.decode(whole.codes[..., :4], state)
    codec.reset(state, torch.tensor([1]))
    for tensor in state.tensors():
        assert tensor[0].any()
        assert not tensor[1].any()


def test_state_has_the_dtype_of_the_codec(data, model):
    rough = type(model).load(data / "tiny_1b7", codec_dtype=torch.bfloat16, linear="float").codec
    state = rough.new_state(slots=1)
    for tensor in (*state.tails, *state.keys, *state.values):
        assert tensor.dtype == torch.bfloat16
    assert state.frames.dtype == torch.int64
    codes = random_codes(rough.config, 1, 2)
    assert rough.decode(codes, state).dtype == torch.float32


def test_state_lies_on_the_device_of_the_codec():
    like = torch.zeros(1, device="meta")
    state = CodecState.allocate(2, tails=[(2, 3)], window=(1, 2, 3), layers=1, like=like)
    tensors = (*state.tensors(), *state.tails, *state.keys, *state.values)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_codes_of_another_number_of_codebooks_are_refused(codec, whole):
    with pytest.raises(AssertionError):
        codec.decode(whole.codes[:, 1:, :1], codec.new_state(slots=2))


# The published shapes, random weights -----------------------------------------------------

WINDOW_FRAMES = 84
"""More than the window of 72."""


def make_real(random_checkpoint, folder, frames, **changes):
    """Make a decoder of the published shapes, but for changes; decode frames without any state."""
    published = random_checkpoint.codec_config("1.7b")
    published["decoder_config"].update(changes)
    (folder / "speech_tokenizer").mkdir()
    for name, values in (
        ("config.json", random_checkpoint.main_config("1.7b")),
        ("speech_tokenizer/config.json", published),
    ):
        (folder / name).write_text(random_checkpoint.json.dumps(values), encoding="utf-8")
    config = load_config(folder).codec
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.cat(list(random_checkpoint.random_pieces(name, shape, generator)))
        for name, shape in random_checkpoint.codec_tensors(published["decoder_config"])
    }
    codes = random_codes(config, 1, frames)
    with torch.inference_mode():
        samples = plain_decode(tensors, config, codes[0])
    arithmetic = "packed" if can_pack() else "float"
    codec = CodecDecoder(config, TensorWeights(tensors, arithmetic))
    return SimpleNamespace(codec=codec, codes=codes, samples=samples, tensors=tensors)


@pytest.fixture(scope="module")
def real(random_checkpoint, tmp_path_factory: pytest.TempPathFactory):
    return make_real(random_checkpoint, tmp_path_factory.mktemp("config"), 12)


@pytest.fixture(scope="module")
def windowed(random_checkpoint, tmp_path_factory: pytest.TempPathFactory):
    """The transformer has the published shapes; the vocoder, most of the work, is narrow."""
    folder = tmp_path_factory.mktemp("config")
    return make_real(random_checkpoint, folder, WINDOW_FRAMES, decoder_dim=96)


def test_real_shapes_streamed_are_a_plain_whole_forward(real):
    streamed = stream(real.codec, real.codes, [1, 2, 3, 6])
    assert real.samples.abs().max() > 0.05
    assert (streamed[0] - real.samples).abs().max() < TOLERANCE


def test_a_stream_longer_than_the_window_is_a_plain_whole_forward(windowed):
    # Chunks of every kind, with steps on both sides of the window's edge at frame 72.
    parts = [1, 2, 3, 7, 25, 30, 1, 1, 1, 1, 1, 2, 4, 5]
    streamed = stream(windowed.codec, windowed.codes, parts)
    assert windowed.samples.abs().max() > 0.05
    assert (streamed[0] - windowed.samples).abs().max() < TOLERANCE


def test_the_window_is_72_frames(windowed):
    """Without the window the plain forward departs, so the test above can see a wrong one."""
    wide = SimpleNamespace(**{name: getattr(windowed.codec.config, name) for name in _FIELDS})
    wide.window_frames = 73
    with torch.inference_mode():
        samples = plain_decode(windowed.tensors, wide, windowed.codes[0])
    assert (samples - windowed.samples)[72 * 1920 :].abs().max() > 10 * TOLERANCE
    assert (samples - windowed.samples)[: 72 * 1920].abs().max() < TOLERANCE


_FIELDS = ("transformer", "codebooks", "upsampling_ratios", "upsample_rates", "window_frames")


def test_tf32_is_allowed_while_a_codec_that_has_it_decodes_and_nowhere_else(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen3_tts, "prepare", lambda _device, **_asked: None)
    model = qwen3_tts.Qwen3TTS.load(data / "tiny_1b7", codec_tf32=True)
    assert model.codec.has_tf32
    seen: list[tuple[str, bool, bool]] = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def look(*_: object) -> None:
            switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
            seen.append((name, *(switch.allow_tf32 for switch in switches)))

        module.register_forward_pre_hook(look)

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        watch("quantizer", model.codec.quantizer)
        watch("vocoder", model.codec.vocoder)
        watch("talker", model.talker.stack)
        watch("predictor", model.code_predictor.stack)
        state = model.new_state(slots=1, max_positions=32)
        prompt = model.prompts.build(model.tokenizer.encode("hi"), speaker="ryan")
        model.begin(state, 0, prompt, seed=0, sampling=SamplingOptions())
        slots = torch.tensor([0])
        codes, _ = model.frame_step(state, slots)
        samples = model.codec.decode(codes[..., None], model.codec.new_state(slots=1))
        model.frame_step(state, slots)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert samples.shape == (1, 1920)
    allowed = {name for name, *switches in seen if all(switches)}
    refused = {name for name, *switches in seen if not any(switches)}
    assert (allowed, refused) == ({"quantizer", "vocoder"}, {"talker", "predictor"})


def test_tf32_on_a_cpu_is_refused(data: Path) -> None:
    with pytest.raises(StartupError, match="CODEC_DTYPE=tf32 needs a CUDA device"):
        qwen3_tts.Qwen3TTS.load(data / "tiny_1b7", codec_tf32=True)


@pytest.mark.parametrize(
    ("frames", "fused"),
    [(1, False), (10, False), (11, False), (49, False), (100, False), (49, True)],
)
def test_a_recording_that_is_heard_leaves_what_decoding_it_leaves(data, frames, fused):
    codec = Qwen3TTS.load(data / "tiny_1b7", linear="float", fused_kernels=fused).codec
    codes = torch.randint(64, (1, 16, frames + 6), generator=torch.Generator().manual_seed(frames))
    heard, decoded = codec.hear(codes[:, :, :frames]), codec.new_state(slots=1)
    codec.decode(codes[:, :, :frames], decoded)
    assert torch.equal(heard.frames, decoded.frames)
    torch.testing.assert_close(heard.memory, decoded.memory, atol=1e-5, rtol=1e-5)
    rest = codes[:, :, frames:]
    torch.testing.assert_close(
        codec.decode(rest, heard), codec.decode(rest, decoded), atol=1e-5, rtol=0
    )
