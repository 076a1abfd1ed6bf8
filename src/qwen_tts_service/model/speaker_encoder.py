"""Speaker encoder: a recording to one vector that stands for how its speaker sounds.

A mel spectrogram and ECAPA-TDNN ("ECAPA-TDNN: Emphasized Channel Attention, Propagation and
Aggregation in TDNN Based Speaker Verification") as in the Qwen3-TTS reference implementation,
qwen-tts 0.1.1: no batch norm, reflected edges, and the vector is neither scaled nor normalised.

Letters: N samples, F mel frames, C channels.
"""

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_tts_service.kernels.linear import fixed

from .config import SpeakerEncoderConfig
from .weights import Weights

SAMPLE_RATE_HZ = 24000
FFT, HOP, BANDS = 1024, 256, 128
SHORTEST_SAMPLES = 5 * HOP
"""The widest layer reflects four mel frames at each edge, which takes five."""
_LINEAR_MEL_HZ = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27
"""The mel scale of Slaney: 3 mel for 200 Hz, from 1000 Hz on 27 mel for a factor of 6.4."""


def mel_spectrogram(samples: Tensor) -> Tensor:
    """Natural logarithm of the mel magnitudes of float32 [N] at 24 kHz: [BANDS, F]."""
    edge = (FFT - HOP) // 2
    padded = functional.pad(samples[None], (edge, edge), mode="reflect")
    window = torch.hann_window(FFT, device=samples.device)
    spectrum = torch.stft(padded, FFT, HOP, window=window, center=False, return_complex=True)[0]
    magnitude = (spectrum.real**2 + spectrum.imag**2 + 1e-9).sqrt()
    return (_mel_bank().to(samples.device) @ magnitude).clamp(min=1e-5).log()


@cache
def _mel_bank() -> Tensor:
    """Triangles of equal area, equally far apart in mel: float32 [BANDS, FFT / 2 + 1]."""
    edges = _hz(torch.linspace(0, _mel(SAMPLE_RATE_HZ / 2), BANDS + 2, dtype=torch.float64))
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / FFT
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    triangles = torch.minimum(rising, falling).clamp(min=0).float()
    return (triangles * (2 / (high - low))).float()


def _mel(hz: float) -> float:
    """Of a frequency above 1000 Hz."""
    return _LOG_FROM_HZ / _LINEAR_MEL_HZ + math.log(hz / _LOG_FROM_HZ) / _LOG_STEP


def _hz(mel: Tensor) -> Tensor:
    first = _LOG_FROM_HZ / _LINEAR_MEL_HZ
    log = _LOG_FROM_HZ * (_LOG_STEP * (mel - first)).exp()
    return torch.where(mel < first, _LINEAR_MEL_HZ * mel, log)


class ReflectConv(nn.Module):
    """A convolution that keeps the length; what is beyond an edge mirrors what is before it."""

    def __init__(
        self, weights: Weights, name: str, shape: tuple[int, int, int], dilation: int = 1
    ) -> None:
        """Read `name`.weight of a shape [out, in, kernel] and `name`.bias [out]."""
        super().__init__()
        self.weight = fixed(weights.take(f"{name}.weight", *shape))
        self.bias = fixed(weights.take(f"{name}.bias", shape[0]))
        self.dilation = dilation
        self.edge = dilation * (shape[2] - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[C, F] -> [C out, F]."""
        if self.edge:
            x = functional.pad(x, (self.edge, self.edge), mode="reflect")
        return functional.conv1d(x, self.weight, self.bias, dilation=self.dilation)


class Res2NetBlock(nn.Module):
    """Channels in parts, of which each hears the one before it, and a gate per channel."""

    def __init__(
        self, config: SpeakerEncoderConfig, weights: Weights, name: str, layer: int
    ) -> None:
        super().__init__()
        into, C = config.channels[layer - 1], config.channels[layer]
        part, gate = C // config.parts, config.gate_channels
        self.parts = config.parts
        self.enter = ReflectConv(weights, f"{name}.tdnn1.conv", (C, into, 1))
        shape = (part, part, config.kernels[layer])
        self.steps = nn.ModuleList(
            ReflectConv(
                weights, f"{name}.res2net_block.blocks.{step}.conv", shape, config.dilations[layer]
            )
            for step in range(config.parts - 1)
        )
        self.leave = ReflectConv(weights, f"{name}.tdnn2.conv", (C, C, 1))
        self.squeeze = ReflectConv(weights, f"{name}.se_block.conv1", (gate, C, 1))
        self.excite = ReflectConv(weights, f"{name}.se_block.conv2", (C, gate, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[C, F] -> [C, F]."""
        first, *others = self.enter(x).relu().chunk(self.parts)
        heard = [first]
        for number, (step, part) in enumerate(zip(self.steps, others, strict=True)):
            heard.append(step(part + heard[-1] if number else part).relu())
        y = self.leave(torch.cat(heard)).relu()
        gate = self.excite(self.squeeze(y.mean(dim=1, keepdim=True)).relu()).sigmoid()
        gated: Tensor = y * gate + x
        return gated


class SpeakerEncoder(nn.Module):
    """The network; `forward` hears a whole recording."""

    PREFIXES = ("speaker_encoder.",)
    """What the names of its tensors begin with."""

    def __init__(self, config: SpeakerEncoderConfig, weights: Weights) -> None:
        super().__init__()
        name, C = "speaker_encoder", config.channels
        shape = (C[0], BANDS, config.kernels[0])
        self.enter = ReflectConv(weights, f"{name}.blocks.0.conv", shape, config.dilations[0])
        self.blocks = nn.ModuleList(
            Res2NetBlock(config, weights, f"{name}.blocks.{layer}", layer)
            for layer in range(1, len(C) - 1)
        )
        wide, narrow = C[-1], config.attention_channels
        self.mix = ReflectConv(weights, f"{name}.mfa.conv", (wide, sum(C[1:-1]), 1))
        self.attend = ReflectConv(weights, f"{name}.asp.tdnn.conv", (narrow, 3 * wide, 1))
        self.weigh = ReflectConv(weights, f"{name}.asp.conv", (wide, narrow, 1))
        self.leave = ReflectConv(weights, f"{name}.fc", (config.width, 2 * wide, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """float32 [N] at 24 kHz, N at least SHORTEST_SAMPLES -> [width]."""
        x = self.enter(mel_spectrogram(samples)).relu()
        heard = []
        for block in self.blocks:
            x = block(x)
            heard.append(x)
        h = self.mix(torch.cat(heard)).relu()
        even = torch.full_like(h, 1 / h.shape[1])
        whole = torch.cat((h, *(part.expand_as(h) for part in _statistics(h, even))))
        shares = self.weigh(self.attend(whole).relu().tanh()).softmax(dim=1)
        pooled: Tensor = self.leave(torch.cat(_statistics(h, shares)))
        return pooled.squeeze(1)


def _statistics(h: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and deviation over time: [C, 1] each."""
    mean = (shares * h).sum(dim=1, keepdim=True)
    variance = (shares * (h - mean) ** 2).sum(dim=1, keepdim=True)
    return mean, variance.clamp(min=1e-12).sqrt()
