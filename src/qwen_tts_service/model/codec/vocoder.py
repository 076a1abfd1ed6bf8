"""Latent vectors to waveform: causal convolutions, each with its last inputs as state.

Every layer is causal and stride 1, so a chunk needs only the inputs just before it. A transposed
convolution with kernel 2s and stride s, trimmed at its right, is y[t·s + j] = b + W[:, :, j]ᵀ x[t]
+ W[:, :, s + j]ᵀ x[t-1]: an ordinary convolution over two frames with s times the channels.
Channels are the last axis everywhere, so that a convolution's windows are rows of a matrix.
Sources: ConvNeXt ("A ConvNet for the 2020s"), SnakeBeta ("BigVGAN"), layer order from the
Qwen3-TTS reference implementation, qwen-tts 0.1.1. It does not know codes or attention.

Letters: B rows, C channels, N steps at the layer's own rate.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm

from qwen_tts_service.model.config import CodecConfig
from qwen_tts_service.model.linear import make_linear
from qwen_tts_service.model.weights import Arithmetic, Weights

from .state import Chunk

_DILATIONS = (1, 3, 9)

_WIDE = 384
"""From so many channels on, weights are larger than windows, and packing them pays on the CPU."""


def _fixed(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.to(dtype), requires_grad=False)


class CausalConv(nn.Module):
    """A stride 1 convolution that sees its input and what came before.

    arithmetic: "packed" computes wide layers, on the CPU, as windows times a packed matrix; what
    a row comes to then does not depend on how many rows there are
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        dtype: torch.dtype,
        arithmetic: Arithmetic,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        out, inner, self.kernel = weight.shape
        self.dilation = dilation
        self.groups = groups
        self.in_channels = inner * groups
        self.reach = (self.kernel - 1) * dilation
        """How many inputs before the first new one are needed."""
        self.matrix: nn.Module | None = None
        is_wide = self.in_channels >= _WIDE or self.kernel == 1
        if arithmetic != "float" and groups == 1 and is_wide:
            rows = weight.to(dtype).transpose(1, 2).reshape(out, -1)
            self.matrix = make_linear(rows, bias.to(dtype), arithmetic=arithmetic)
        else:
            image = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            self.weight, self.bias = _fixed(image, dtype), _fixed(bias, dtype)

    @classmethod
    def load(
        cls,
        weights: Weights,
        name: str,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        *,
        dilation: int = 1,
        groups: int = 1,
    ) -> "CausalConv":
        """Read `name`.weight [out, in / groups, kernel] and `name`.bias [out]."""
        return cls(
            weights.take(f"{name}.weight", *shape),
            weights.take(f"{name}.bias", shape[0]),
            dtype=dtype,
            arithmetic=weights.arithmetic,
            dilation=dilation,
            groups=groups,
        )

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C] -> [B, N, C out]."""
        if self.reach:
            x = chunk.extend(x)
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


class Upsample(nn.Module):
    """A transposed convolution with stride s and kernel s or 2s, as the module's text says."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        *,
        stride: int,
    ) -> None:
        """Read `name`.weight [in, out, kernel] and `name`.bias [out]."""
        super().__init__()
        into, out, kernel = shape
        taps = weights.take(f"{name}.weight", *shape)
        # [in, out, taps, s] -> [s, out, in, taps], the oldest input's tap first
        folded = taps.reshape(into, out, kernel // stride, stride).permute(3, 1, 0, 2).flip(3)
        weight = folded.reshape(stride * out, into, -1).contiguous()
        bias = weights.take(f"{name}.bias", out).repeat(stride)
        self.out = out
        self.conv = CausalConv(weight, bias, dtype=dtype, arithmetic=weights.arithmetic)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C in] -> [B, N * s, C out]."""
        y: Tensor = self.conv(x, chunk)
        return y.reshape(len(x), -1, self.out)


class SnakeBeta(nn.Module):
    """x + sin²(x·e^α) / (e^β + 1e-9), α and β per channel; the exponentials are taken at load."""

    def __init__(self, weights: Weights, name: str, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        alpha = weights.take(f"{name}.alpha", channels).exp()
        beta = weights.take(f"{name}.beta", channels).exp()
        self.frequency = _fixed(alpha, dtype)
        self.height = _fixed(1.0 / (beta + 1e-9), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        wave = (x * self.frequency).sin_().square_()
        return torch.addcmul(x, wave, self.height, out=wave)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm, and a two-layer MLP, scaled and added to the input."""

    def __init__(self, weights: Weights, name: str, C: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.depthwise = CausalConv.load(weights, f"{name}.dwconv.conv", (C, 1, 7), dtype, groups=C)

        def take(suffix: str, *shape: int) -> nn.Parameter:
            return _fixed(weights.take(f"{name}.{suffix}", *shape), dtype)

        def matrix(suffix: str, rows: int, columns: int) -> nn.Module:
            weight, bias = take(f"{suffix}.weight", rows, columns), take(f"{suffix}.bias", rows)
            return make_linear(weight, bias, arithmetic=weights.arithmetic)

        self.norm_weight, self.norm_bias = take("norm.weight", C), take("norm.bias", C)
        self.widen = matrix("pwconv1", 4 * C, C)
        self.narrow = matrix("pwconv2", C, 4 * C)
        self.gamma = take("gamma", C)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        y = self.depthwise(x, chunk)
        y = layer_norm(y, (y.shape[-1],), self.norm_weight, self.norm_bias, eps=1e-6)
        mixed: Tensor = x + self.gamma * self.narrow(gelu(self.widen(y)))
        return mixed


class ResidualUnit(nn.Module):
    """Snake, dilated convolution, snake, pointwise convolution, added to the input."""

    def __init__(
        self, weights: Weights, name: str, C: int, dilation: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.act1 = SnakeBeta(weights, f"{name}.act1", C, dtype)
        self.conv1 = CausalConv.load(
            weights, f"{name}.conv1.conv", (C, C, 7), dtype, dilation=dilation
        )
        self.act2 = SnakeBeta(weights, f"{name}.act2", C, dtype)
        self.conv2 = CausalConv.load(weights, f"{name}.conv2.conv", (C, C, 1), dtype)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        y = self.conv1(self.act1(x), chunk)
        mixed: Tensor = x + self.conv2(self.act2(y), chunk)
        return mixed


class VocoderStage(nn.Module):
    """Snake, upsampling by s to half the channels, three residual units."""

    def __init__(
        self, weights: Weights, name: str, into: int, stride: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        out = into // 2
        self.act = SnakeBeta(weights, f"{name}.block.0", into, dtype)
        self.up = Upsample(
            weights, f"{name}.block.1.conv", (into, out, 2 * stride), dtype, stride=stride
        )
        self.units = nn.ModuleList(
            ResidualUnit(weights, f"{name}.block.{2 + unit}", out, dilation, dtype)
            for unit, dilation in enumerate(_DILATIONS)
        )

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, N, C] -> [B, N * s, C / 2]."""
        x = self.up(self.act(x), chunk)
        for unit in self.units:
            x = unit(x, chunk)
        return x


class Vocoder(nn.Module):
    """From latent frames to samples."""

    def __init__(self, config: CodecConfig, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        latent, C = config.latent_width, config.decoder_width
        lift: list[nn.Module] = []
        for index, ratio in enumerate(config.upsampling_ratios):
            name = f"decoder.upsample.{index}"
            lift.append(
                Upsample(weights, f"{name}.0.conv", (latent, latent, ratio), dtype, stride=ratio)
            )
            lift.append(ConvNeXtBlock(weights, f"{name}.1", latent, dtype))
        self.lift = nn.ModuleList(lift)
        name = "decoder.decoder"
        self.enter = CausalConv.load(weights, f"{name}.0.conv", (C, latent, 7), dtype)
        stages = []
        for index, stride in enumerate(config.upsample_rates):
            stages.append(VocoderStage(weights, f"{name}.{1 + index}", C, stride, dtype))
            C //= 2
        self.stages = nn.ModuleList(stages)
        last = 1 + len(stages)
        self.act = SnakeBeta(weights, f"{name}.{last}", C, dtype)
        self.leave = CausalConv.load(weights, f"{name}.{last + 1}.conv", (1, C, 7), dtype)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, T, C] -> [B, T * samples per frame], not yet clamped."""
        for layer in self.lift:
            x = layer(x, chunk)
        x = self.enter(x, chunk)
        for stage in self.stages:
            x = stage(x, chunk)
        samples: Tensor = self.leave(self.act(x), chunk)
        return samples.squeeze(2)
