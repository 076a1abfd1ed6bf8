"""Latent vectors to waveform: causal convolutions, each with its last inputs as state.

Every layer is causal and stride 1, so a chunk needs only the inputs just before it. A transposed
convolution with kernel 2s and stride s, trimmed at its right, is y[t·s + j] = b + W[:, :, j]ᵀ x[t]
+ W[:, :, s + j]ᵀ x[t-1]: an ordinary convolution over two frames with s times the channels.
Sources: ConvNeXt ("A ConvNet for the 2020s"), SnakeBeta ("BigVGAN"), layer order from the
Qwen3-TTS reference implementation, qwen-tts 0.1.1. It does not know codes or attention.

Letters: B rows, C channels, N steps at the layer's own rate.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, gelu, layer_norm, linear

from qwen_tts_service.model.config import CodecConfig
from qwen_tts_service.model.weights import Weights

from .state import Chunk

_DILATIONS = (1, 3, 9)

# oneDNN's convolution of few steps is slow on the CPU: 1024 to 1536 channels, kernel 7, 4 steps
# took 10.8 ms against 3.9 as a matmul; at 32 steps they are even, beyond it is the faster one.
_FEW_STEPS = 32


def _fixed(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.to(dtype), requires_grad=False)


class CausalConv(nn.Module):
    """A stride 1 convolution that sees its input and what came before."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        dtype: torch.dtype,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.weight = _fixed(weight, dtype)
        self.bias = _fixed(bias, dtype)
        self.dilation = dilation
        self.groups = groups
        self.in_channels = weight.shape[1] * groups
        self.reach = (weight.shape[2] - 1) * dilation
        """How many inputs before the first new one are needed."""

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
        weight = weights.take(f"{name}.weight", *shape)
        bias = weights.take(f"{name}.bias", shape[0])
        return cls(weight, bias, dtype=dtype, dilation=dilation, groups=groups)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, C, N] -> [B, C out, N]."""
        steps = x.shape[2]
        if self.reach:
            x = chunk.extend(x)
        if steps < _FEW_STEPS and self.groups == 1 and x.device.type == "cpu":
            return self._as_matmul(x)
        return conv1d(x, self.weight, self.bias, dilation=self.dilation, groups=self.groups)

    def _as_matmul(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, self.reach + 1, 1)[..., :: self.dilation]  # [B, C, N, kernel]
        flat = windows.transpose(1, 2).flatten(2)
        return linear(flat, self.weight.flatten(1), self.bias).transpose(1, 2)


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
        # [in, out, taps, s] -> [out, s, in, taps], the oldest input's tap first
        folded = taps.reshape(into, out, kernel // stride, stride).permute(1, 3, 0, 2).flip(3)
        bias = weights.take(f"{name}.bias", out).repeat_interleave(stride)
        self.stride = stride
        weight = folded.reshape(out * stride, into, -1).contiguous()
        self.conv = CausalConv(weight, bias, dtype=dtype)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, C in, N] -> [B, C out, N * s]."""
        B, _, N = x.shape
        y: Tensor = self.conv(x, chunk)
        return y.view(B, -1, self.stride, N).transpose(2, 3).reshape(B, -1, N * self.stride)


class SnakeBeta(nn.Module):
    """x + sin²(x·e^α) / (e^β + 1e-9), α and β per channel; the exponentials are taken at load."""

    def __init__(self, weights: Weights, name: str, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        alpha = weights.take(f"{name}.alpha", channels).exp()
        beta = weights.take(f"{name}.beta", channels).exp()
        self.frequency = _fixed(alpha[:, None], dtype)
        self.height = _fixed((1.0 / (beta + 1e-9))[:, None], dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        return x + self.height * (x * self.frequency).sin().square()


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm, and a two-layer MLP, scaled and added to the input."""

    def __init__(self, weights: Weights, name: str, C: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.depthwise = CausalConv.load(weights, f"{name}.dwconv.conv", (C, 1, 7), dtype, groups=C)

        def take(suffix: str, *shape: int) -> nn.Parameter:
            return _fixed(weights.take(f"{name}.{suffix}", *shape), dtype)

        self.norm_weight, self.norm_bias = take("norm.weight", C), take("norm.bias", C)
        self.widen, self.widen_bias = take("pwconv1.weight", 4 * C, C), take("pwconv1.bias", 4 * C)
        self.narrow, self.narrow_bias = take("pwconv2.weight", C, 4 * C), take("pwconv2.bias", C)
        self.gamma = take("gamma", C)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        y = self.depthwise(x, chunk).transpose(1, 2)
        y = layer_norm(y, (y.shape[-1],), self.norm_weight, self.norm_bias, eps=1e-6)
        y = gelu(linear(y, self.widen, self.widen_bias))
        y = self.gamma * linear(y, self.narrow, self.narrow_bias)
        mixed: Tensor = x + y.transpose(1, 2)
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
        """[B, C, N] -> [B, C, N]."""
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
        """[B, C, N] -> [B, C / 2, N * s]."""
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
        """[B, C, T] -> [B, T * samples per frame], not yet clamped."""
        for layer in self.lift:
            x = layer(x, chunk)
        x = self.enter(x, chunk)
        for stage in self.stages:
            x = stage(x, chunk)
        samples: Tensor = self.leave(self.act(x), chunk)
        return samples.squeeze(1)
