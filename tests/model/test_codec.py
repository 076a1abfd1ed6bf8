"""The codec: a stream is the whole decode, on tiny and on real shapes."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv1d, conv_transpose1d, gelu, layer_norm, linear, pad, silu

from qwen_tts_service.kernels.linear import can_pack
from qwen_tts_service.model.codec.decoder import CodecDecoder
from qwen_tts_service.model.codec.quantizer import Dequantizer
from qwen_tts_service.model.codec.transformer import window_mask
from qwen_tts_service.model.codec.vocoder import ConvNeXtBlock, SnakeBeta, Vocoder
from qwen_tts_service.model.config import load_config

TOLERANCE = 1e-5  # "the same samples" in float32; measured: about 1e-7
FRAMES = 60


class TensorWeights:
    """A dictionary as `Weights`."""

    def __init__(self, tensors, arithmetic):
        self.tensors = tensors
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.arithmetic = arithmetic

    def take(self, name, *shape):
        return self.take_raw(name, *shape)

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
            gate * linear(y, get(f"{name}.mlp.up_proj.weight")),
            get(f"{name}.mlp.down_proj.weight"),
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
def codec(model):
    return model.codec


@pytest.fixture(scope="module")
def whole(codec):
    codes = random_codes(codec.config, 2, FRAMES)
    return SimpleNamespace(codes=codes, samples=codec.decode(codes, codec.new_state(slots=2)))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 25])
def test_a_stream_in_equal_chunks_is_the_whole_decode(codec, whole, step):
    streamed = stream(codec, whole.codes, split_evenly(FRAMES, step))
    assert (streamed - whole.samples).abs().max() < TOLERANCE


@settings(max_examples=20, deadline=None)
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


def test_rows_do_not_hear_one_another(codec, whole):
    alone = codec.decode(whole.codes[1:], codec.new_state(slots=1))
    assert (alone[0] - whole.samples[1]).abs().max() < TOLERANCE


@pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_rows_decoded_together_are_the_same_bits_as_alone(real, frames):
    """Packed arithmetic only: what a row comes to does not depend on how many there are."""
    codes = random_codes(real.codec.config, 4, 2 * frames)
    together = stream(real.codec, codes, frames)
    for rows in (1, 2, 3):
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
    places = [tensor.data_ptr() for tensor in state.tensors()]
    codec.decode(whole.codes[..., :4], state)
    codec.reset(state, torch.tensor([1]))
    assert places == [tensor.data_ptr() for tensor in state.tensors()]


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


# The published shapes, random weights -----------------------------------------------------

REAL_FRAMES = 84  # more than the window of 72


@pytest.fixture(scope="module")
def real(random_checkpoint, tmp_path_factory):
    """Make a decoder of the published shapes and decode 84 frames without any state."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "speech_tokenizer").mkdir()
    for name, values in (
        ("config.json", random_checkpoint.main_config("1.7b")),
        ("speech_tokenizer/config.json", random_checkpoint.codec_config("1.7b")),
    ):
        (folder / name).write_text(random_checkpoint.json.dumps(values), encoding="utf-8")
    config = load_config(folder).codec
    generator = torch.Generator().manual_seed(1)
    inventory = random_checkpoint.codec_tensors(
        random_checkpoint.codec_config("1.7b")["decoder_config"]
    )
    tensors = {
        name: torch.cat(list(random_checkpoint.random_pieces(name, shape, generator)))
        for name, shape in inventory
    }
    codes = random_codes(config, 1, REAL_FRAMES)
    with torch.inference_mode():
        samples = plain_decode(tensors, config, codes[0])
    arithmetic = "packed" if can_pack() else "float"
    codec = CodecDecoder(config, TensorWeights(tensors, arithmetic))
    return SimpleNamespace(codec=codec, codes=codes, samples=samples, tensors=tensors)


def test_real_shapes_streamed_are_a_plain_whole_forward(real):
    # Chunks of every kind, with steps on both sides of the window's edge at frame 72.
    parts = [1, 2, 3, 7, 25, 30, 1, 1, 1, 1, 1, 2, 4, 5]
    streamed = stream(real.codec, real.codes, parts)
    assert real.samples.abs().max() > 0.05
    assert (streamed[0] - real.samples).abs().max() < TOLERANCE


def test_the_window_of_72_frames_is_heard(real):
    """Without the window the plain forward departs, so the test above can see a wrong one."""
    wide = SimpleNamespace(**{name: getattr(real.codec.config, name) for name in _FIELDS})
    wide.window_frames = 73
    with torch.inference_mode():
        samples = plain_decode(real.tensors, wide, real.codes[0])
    assert (samples - real.samples)[72 * 1920 :].abs().max() > 10 * TOLERANCE
    assert (samples - real.samples)[: 72 * 1920].abs().max() < TOLERANCE


_FIELDS = ("transformer", "codebooks", "upsampling_ratios", "upsample_rates", "window_frames")


# Single layers ----------------------------------------------------------------------------


def test_a_codebook_row_of_usage_0_is_divided_by_the_least_usage():
    config = SimpleNamespace(codes=4, codebooks=3, codebook_width=4)
    sums = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    tensors = {}
    for group, books in (("first", 1), ("rest", 2)):
        name = f"decoder.quantizer.rvq_{group}"
        projection = torch.zeros(4, 2, 1)
        projection[:2, :, 0] = torch.eye(2)
        tensors[f"{name}.output_proj.weight"] = projection
        for book in range(books):
            codebook = f"{name}.vq.layers.{book}._codebook"
            tensors[f"{codebook}.embedding_sum"] = sums * 1e-5
            usage = torch.tensor([0.0, 1e-6, 2e-5, 1e-5])
            tensors[f"{codebook}.cluster_usage"] = usage if book == 0 else torch.ones(4)
    quantizer = Dequantizer(config, TensorWeights(tensors, "float"))
    rows = quantizer(torch.tensor([[[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 0, 0]]]))[0, :, :2]
    expected = 2 * torch.tensor([[1.0, 2.0], [3.0, 4.0], [2.5, 3.0], [7.0, 8.0]])
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


def test_sound_louder_than_full_is_clamped(codec, whole, monkeypatch):
    forward = Vocoder.forward
    monkeypatch.setattr(Vocoder, "forward", lambda *given: 100 * forward(*given))
    samples = codec.decode(whole.codes[..., :2], codec.new_state(slots=2))
    assert samples.max() == 1.0
    assert samples.min() == -1.0


@pytest.mark.parametrize("beta", [0.0, -25.0])
def test_snake_is_the_formula(beta):
    tensors = {"s.alpha": torch.tensor([0.3, -0.2]), "s.beta": torch.full((2,), beta)}
    x = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0))
    got = SnakeBeta(TensorWeights(tensors, "float"), "s", 2)(x.clone(), None)
    wave = (x * tensors["s.alpha"].exp()).sin() ** 2
    torch.testing.assert_close(got, x + wave / (tensors["s.beta"].exp() + 1e-9))


def test_quiet_frames_are_normed_with_their_epsilon():
    C, generator = 8, torch.Generator().manual_seed(0)
    shapes = {
        "dwconv.conv.weight": (C, 1, 7), "dwconv.conv.bias": (C,), "norm.weight": (C,),
        "norm.bias": (C,), "pwconv1.weight": (4 * C, C), "pwconv1.bias": (4 * C,),
        "pwconv2.weight": (C, 4 * C), "pwconv2.bias": (C,), "gamma": (C,),
    }  # fmt: skip
    tensors = {f"b.{n}": torch.randn(s, generator=generator) for n, s in shapes.items()}
    tensors["b.dwconv.conv.bias"] *= 1e-3
    block = ConvNeXtBlock(TensorWeights(tensors, "float"), "b", C)
    y = tensors["b.dwconv.conv.bias"]
    normed = (y - y.mean()) / (y.var(unbiased=False) + 1e-6).sqrt()
    y = linear(
        normed * tensors["b.norm.weight"] + tensors["b.norm.bias"],
        tensors["b.pwconv1.weight"],
        tensors["b.pwconv1.bias"],
    )
    y = linear(gelu(y), tensors["b.pwconv2.weight"], tensors["b.pwconv2.bias"])
    silent = SimpleNamespace(extend=lambda tail, x: pad(x, (0, 0, 6, 0)))
    block.depthwise.tail = 0
    got = block(torch.zeros(1, 1, C), silent)[0, 0]
    torch.testing.assert_close(got, tensors["b.gamma"] * y, rtol=1e-4, atol=1e-5)
