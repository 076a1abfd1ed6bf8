"""Codec encoder: a whole recording to codes.

Strided causal convolutions, a causal transformer over 25 frames a second, a last convolution to
12.5, and the split residual quantiser ("Moshi": Mimi's encoder) as the Qwen3-TTS reference
implementation runs them (qwen-tts 0.1.1 with transformers 4.57.3): attention sees all that came
before, although the configuration names a window. Run it in float32 without TF32: a code that is
wrong changes all later ones of its frame.

Letters: N steps at the layer's own rate, C channels, T frames, Q codebooks, V codes per codebook,
H heads, D head size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import elu

from qwen_tts_service.kernels.linear import fixed
from qwen_tts_service.model.config import CodecEncoderConfig
from qwen_tts_service.model.layers import rotary_tables, rotate
from qwen_tts_service.model.weights import Weights

from .quantizer import codebook

_QUANTIZER = "encoder.quantizer.{}_residual_vector_quantizer"


class StridedConv(nn.Module):
    """A causal convolution: N steps become ceil(N / stride), the last of them a whole window."""

    def __init__(
        self, weights: Weights, name: str, shape: tuple[int, int, int], stride: int = 1
    ) -> None:
        """Read `name`.weight of a shape [out, in, kernel] and `name`.bias [out]."""
        super().__init__()
        self.weight = fixed(weights.take(f"{name}.weight", *shape))
        self.bias = fixed(weights.take(f"{name}.bias", shape[0]))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[C, N] -> [C out, N / stride]."""
        return _strided(x, self.weight, self.bias, self.stride)


def _strided(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, edges: str = "constant"
) -> Tensor:
    edge = (weight.shape[2] - stride, -x.shape[1] % stride)
    return functional.conv1d(functional.pad(x, edge, mode=edges), weight, bias, stride)


class EncoderStage(nn.Module):
    """A residual unit, then a convolution that halves the rate `ratio / 2` times."""

    def __init__(self, weights: Weights, layer: int, C: int, ratio: int) -> None:
        super().__init__()
        name = "encoder.encoder.layers"
        unit, C_in = f"{name}.{layer}.block", C // 2
        self.narrow = StridedConv(weights, f"{unit}.1.conv", (C_in, C, 3))
        self.widen = StridedConv(weights, f"{unit}.3.conv", (C, C_in, 1))
        shape = (2 * C, C, 2 * ratio)
        self.leave = StridedConv(weights, f"{name}.{layer + 2}.conv", shape, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[C, N] -> [2 C, N / ratio]."""
        y: Tensor = self.leave(elu(x + self.widen(elu(self.narrow(elu(x))))))
        return y


class EncoderBlock(nn.Module):
    """x ← x + s₁·Attn(LN(x)); x ← x + s₂·W₂ gelu(W₁ LN(x)); no biases but the norms'."""

    def __init__(self, config: CodecEncoderConfig, weights: Weights, name: str) -> None:
        super().__init__()
        C, inner = config.width, config.heads * config.head_size
        self.config = config

        def matrix(part: str, rows: int, columns: int) -> nn.Parameter:
            return fixed(weights.take(f"{name}.{part}.weight", rows, columns))

        self.qkv = nn.ParameterList(matrix(f"self_attn.{x}_proj", inner, C) for x in "qkv")
        self.out = matrix("self_attn.o_proj", C, inner)
        self.fc1 = matrix("mlp.fc1", config.feed_forward, C)
        self.fc2 = matrix("mlp.fc2", C, config.feed_forward)
        self.norms = nn.ParameterList(
            fixed(weights.take(f"{name}.{norm}_layernorm.{part}", C))
            for norm in ("input", "post_attention")
            for part in ("weight", "bias")
        )
        self.attention_scale = fixed(weights.take(f"{name}.self_attn_layer_scale.scale", C))
        self.mlp_scale = fixed(weights.take(f"{name}.mlp_layer_scale.scale", C))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, C] -> [N, C]; `cos`, `sin`: tables [N, 1, D]."""
        y = functional.layer_norm(
            x, x.shape[1:], self.norms[0], self.norms[1], self.config.norm_eps
        )
        heads = (len(x), self.config.heads, self.config.head_size)
        q, k, v = (functional.linear(y, matrix).view(heads) for matrix in self.qkv)
        q, k, v = (part.transpose(0, 1) for part in (rotate(q, cos, sin), rotate(k, cos, sin), v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = functional.linear(y.transpose(0, 1).flatten(1), self.out)
        x = x + self.attention_scale * y
        y = functional.layer_norm(
            x, x.shape[1:], self.norms[2], self.norms[3], self.config.norm_eps
        )
        y = functional.linear(functional.gelu(functional.linear(y, self.fc1)), self.fc2)
        return x + self.mlp_scale * y


class ResidualQuantizer(nn.Module):
    """Codebook after codebook, each for what the ones before it have left over."""

    def __init__(
        self, config: CodecEncoderConfig, weights: Weights, group: str, books: int
    ) -> None:
        super().__init__()
        name, inner = _QUANTIZER.format(group), config.codebook_width
        projection = weights.take(f"{name}.input_proj.weight", inner, config.width, 1)
        self.projection = fixed(projection.squeeze(2))
        tables = [
            codebook(weights, f"{name}.layers.{book}.codebook", "embed_sum", config.codes, inner)
            for book in range(books)
        ]
        self.tables = nn.ParameterList(fixed(table) for table in tables)

    def forward(self, x: Tensor) -> Tensor:
        """[T, C] -> codes int64 [T, books]."""
        left = functional.linear(x, self.projection)
        codes = []
        for table in self.tables:
            codes.append(torch.cdist(left, table).argmin(dim=1))
            left = left - table[codes[-1]]
        return torch.stack(codes, dim=1)


class CodecEncoder(nn.Module):
    """The encoder half of the codec; `forward` hears a whole recording."""

    PREFIXES = ("encoder.",)
    """What the names of its tensors begin with."""

    def __init__(self, config: CodecEncoderConfig, books: int, weights: Weights) -> None:
        """Build; books: how many codebooks the decoder has."""
        super().__init__()
        self.config = config
        C, name = config.filters, "encoder.encoder.layers"
        self.enter = StridedConv(weights, f"{name}.0.conv", (C, 1, 7))
        self.stages = nn.ModuleList()
        for number, ratio in enumerate(reversed(config.ratios)):
            self.stages.append(EncoderStage(weights, 1 + 3 * number, C, ratio))
            C *= 2
        last = f"{name}.{3 * len(config.ratios) + 2}.conv"
        self.leave = StridedConv(weights, last, (config.width, C, 3))
        self.blocks = nn.ModuleList(
            EncoderBlock(config, weights, f"encoder.encoder_transformer.layers.{layer}")
            for layer in range(config.layers)
        )
        shape = (config.width, config.width, 4)
        self.downsample = fixed(weights.take("encoder.downsample.conv.weight", *shape))
        self.semantic = ResidualQuantizer(config, weights, "semantic", 1)
        self.acoustic = ResidualQuantizer(config, weights, "acoustic", books - 1)

    @classmethod
    def unused(cls, books: int) -> tuple[str, ...]:
        """What the names of tensors begin with that are of no use for so many codebooks."""
        semantic, acoustic = (_QUANTIZER.format(group) for group in ("semantic", "acoustic"))
        flags = [f"{acoustic}.layers.{book}.codebook.initialized" for book in range(books - 1)]
        rest = [f"{acoustic}.layers.{book}." for book in range(books - 1, 64)]
        flags.append(f"{semantic}.layers.0.codebook.initialized")
        return (*flags, *rest, f"{semantic}.output_proj.", f"{acoustic}.output_proj.")

    def forward(self, samples: Tensor) -> Tensor:
        """float32 [N] -> codes int64 [T, Q], T = ceil(N / samples per frame)."""
        x = self.enter(samples[None])
        for stage in self.stages:
            x = stage(x)
        x = self.leave(elu(x)).T
        positions = torch.arange(len(x), device=x.device)
        cos, sin = rotary_tables(positions, self.config.head_size, self.config.rope_theta, x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        latent = _strided(x.T, self.downsample, None, 2, edges="replicate").T
        return torch.cat((self.semantic(latent), self.acoustic(latent)), dim=1)
