"""Vocoder: latent vectors to waveform by causal convolutions with their past inputs as state.

Every layer is causal and stride 1, so a chunk needs only the inputs just before it. A transposed
convolution with kernel 2s and stride s, trimmed at its right, is y[t·s + j] = b + W[:, :, j]ᵀ x[t]
+ W[:, :, s + j]ᵀ x[t-1]: an ordinary convolution over two frames with s times the channels.
Channels are the last axis everywhere, so that a convolution's windows are rows of a matrix.
Sources: ConvNeXt ("A ConvNet for the 2020s"), SnakeBeta ("BigVGAN"), layer order from the
Qwen3-TTS reference implementation, qwen-tts 0.1.1.

Letters: B rows, C channels, N steps at the layer's own rate.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm

from qwen_tts_service.kernels.linear import Arithmetic, fixed, make_linear
from qwen_tts_service.model.config import CodecConfig
from qwen_tts_service.model.weights import Weights, read_linear

from .snake import SnakeBeta
from .state import Chunk

_DILATIONS = (1, 3, 9)

_WIDE = 384
"""From so many channels on, weights are larger than windows, and packing them pays on the CPU."""


class CausalConv(nn.Module):
    """A stride 1 convolution that sees its input and what came before.

    weight: [out, in, kernel], or [out, 1, kernel] for groups of one channel; bias: [out]
    activation: what its new inputs go through first
    In packed arithmetic, on the CPU, wide layers are computed as windows times a packed matrix;
    what a row comes to then does not depend on how many rows there are.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        arithmetic: Arithmetic,
        *,
        dilation: int = 1,
        activation: SnakeBeta | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        out, inner, self.kernel = weight.shape
        self.dilation = dilation
        self.groups = out if inner == 1 else 1
        self.in_channels = inner * self.groups
        self.reach = (self.kernel - 1) * dilation
        """How many inputs before the first new one are needed."""
        self.tail: int
        """Number of its state; `CodecDecoder` gives them out."""
        self.matrix: nn.Module | None = None
        is_wide = self.in_channels >= _WIDE or self.kernel == 1
        if arithmetic != "float" and self.groups == 1 and is_wide:
            rows = weight.transpose(1, 2).reshape(out, -1)
            self.matrix = make_linear(rows, bias, arithmetic=arithmetic)
        else:
            image = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            self.weight, self.bias = fixed(image), fixed(bias)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C] -> [B, N, C out]."""
        if self.reach:
            x = chunk.extend(self.tail, x, self.activation)
        elif self.activation is not None:
            x = chunk.activate(x, self.activation)
        if self.matrix is not None:
            y: Tensor = self.matrix(self._windows(x))
            return y
        image = x.transpose(1, 2).unsqueeze(2)  # [B, C, 1, N], in memory still [B, N, C]
        y = conv2d(image, self.weight, self.bias, dilation=(1, self.dilation), groups=self.groups)
        return y.squeeze(2).transpose(1, 2)

    def _windows(self, x: Tensor) -> Tensor:
        """[B, reach + N, C] -> [B, N, kernel * C]."""
        if self.kernel == 1:
            return x
        B, length, C = x.shape
        row, step, _ = x.stride()
        shape = (B, length - self.reach, self.kernel, C)
        return x.as_strided(shape, (row, step, step * self.dilation, 1)).flatten(2)


def read_conv(
    weights: Weights,
    name: str,
    shape: tuple[int, int, int],
    *,
    dilation: int = 1,
    activation: SnakeBeta | None = None,
) -> CausalConv:
    """Read `name`.weight of a shape [out, in, kernel] or [out, 1, kernel] and `name`.bias [out]."""
    weight, bias = weights.take(f"{name}.weight", *shape), weights.take(f"{name}.bias", shape[0])
    return CausalConv(weight, bias, weights.arithmetic, dilation=dilation, activation=activation)


class Upsample(nn.Module):
    """A transposed convolution with stride s and kernel s or 2s, as the module's text says."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        shape: tuple[int, int, int],
        *,
        stride: int,
        activation: SnakeBeta | None = None,
    ) -> None:
        """Read `name`.weight of a shape [in, out, kernel] and `name`.bias [out]."""
        super().__init__()
        into, self.out, kernel = shape
        taps = weights.take(f"{name}.weight", *shape)
        # [in, out, taps, s] -> [s, out, in, taps], the oldest input's tap first
        taps = taps.reshape(into, self.out, kernel // stride, stride).permute(3, 1, 0, 2).flip(3)
        weight = taps.reshape(stride * self.out, into, -1).contiguous()
        bias = weights.take(f"{name}.bias", self.out).repeat(stride)
        self.conv = CausalConv(weight, bias, weights.arithmetic, activation=activation)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C in] -> [B, N * s, C out]."""
        y: Tensor = self.conv(x, chunk)
        return y.reshape(len(x), -1, self.out)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm, and a two-layer MLP, scaled and added to the input."""

    def __init__(self, weights: Weights, name: str, C: int) -> None:
        super().__init__()
        self.depthwise = read_conv(weights, f"{name}.dwconv.conv", (C, 1, 7))
        self.norm_weight = fixed(weights.take(f"{name}.norm.weight", C))
        self.norm_bias = fixed(weights.take(f"{name}.norm.bias", C))
        self.widen = read_linear(weights, [(f"{name}.pwconv1", 4 * C)], C, bias=True)
        self.narrow = read_linear(weights, [(f"{name}.pwconv2", C)], 4 * C, bias=True)
        self.gamma = fixed(weights.take(f"{name}.gamma", C))

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        y = self.depthwise(x, chunk)
        y = layer_norm(y, (y.shape[-1],), self.norm_weight, self.norm_bias, eps=1e-6)
        mixed: Tensor = x + self.gamma * self.narrow(gelu(self.widen(y)))
        return mixed


class ResidualUnit(nn.Module):
    """Snake, dilated convolution, snake, pointwise convolution, added to the input."""

    def __init__(self, weights: Weights, name: str, C: int, dilation: int) -> None:
        super().__init__()
        act1, act2 = (SnakeBeta(weights, f"{name}.act{number}", C) for number in (1, 2))
        self.conv1 = read_conv(
            weights, f"{name}.conv1.conv", (C, C, 7), dilation=dilation, activation=act1
        )
        self.conv2 = read_conv(weights, f"{name}.conv2.conv", (C, C, 1), activation=act2)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        mixed: Tensor = x + self.conv2(self.conv1(x, chunk), chunk)
        return mixed


class Vocoder(nn.Module):
    """From latent frames to samples."""

    def __init__(self, config: CodecConfig, weights: Weights) -> None:
        super().__init__()
        latent, C = config.latent_width, config.decoder_width
        layers: list[nn.Module] = []
        for index, ratio in enumerate(config.upsampling_ratios):
            name, shape = f"decoder.upsample.{index}", (latent, latent, ratio)
            layers.append(Upsample(weights, f"{name}.0.conv", shape, stride=ratio))
            layers.append(ConvNeXtBlock(weights, f"{name}.1", latent))
        name = "decoder.decoder"
        layers.append(read_conv(weights, f"{name}.0.conv", (C, latent, 7)))
        for stage, stride in enumerate(config.upsample_rates, 1):
            block, shape = f"{name}.{stage}.block", (C, C // 2, 2 * stride)
            act = SnakeBeta(weights, f"{block}.0", C)
            name_of_conv = f"{block}.1.conv"
            layers.append(Upsample(weights, name_of_conv, shape, stride=stride, activation=act))
            C //= 2
            for unit, dilation in enumerate(_DILATIONS, 2):
                layers.append(ResidualUnit(weights, f"{block}.{unit}", C, dilation))
        last = 1 + len(config.upsample_rates)
        act = SnakeBeta(weights, f"{name}.{last}", C)
        layers.append(read_conv(weights, f"{name}.{last + 1}.conv", (1, C, 7), activation=act))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, T, C] -> [B, T * samples per frame], not yet clamped."""
        for layer in self.layers:
            x = layer(x, chunk)
        return x.squeeze(2)
