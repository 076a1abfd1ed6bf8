"""The Qwen3 decoder block that the talker and the code predictor share.

Formulas: "Qwen3 Technical Report" (pre-norm blocks, RMS norm on each query and key head), "Root
Mean Square Layer Normalization", "GLU Variants Improve Transformer" (SwiGLU) and "RoFormer"
(rotary positions, in the rotate-half form), as in the Qwen3-TTS reference implementation, qwen-tts
0.1.1. Its three M-RoPE planes always hold the same position, which makes it plain RoPE.

Letters: B rows, T positions, C width, H heads, K key/value heads, D head size. Attention itself
comes in as a function, so that a block knows neither caches nor positions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import TransformerConfig
from .linear import read_linear
from .weights import Weights

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [B, T, H, D], k [B, T, K, D], v [B, T, K, D]) -> [B, T, H, D]; keeps k and v."""


class RMSNorm(nn.Module):
    """x · rsqrt(mean(x²) + eps) in float32, rounded to the model's dtype, then times the weight."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        C = weight.shape[-1]
        self.scaled = nn.Parameter(weight * C**0.5, requires_grad=False)
        self.floor = nn.Parameter(weight.new_tensor((C * eps) ** 0.5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]; a weight of several rows goes with the axes before C."""
        if x.dtype == torch.float32 and x.device.type == "cpu":
            # w·√C·x / √(|x|² + C·eps): the same in four passes over x; torch's own takes eight.
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self.floor)
            return (x * self.scaled).div_(length)
        normed = functional.rms_norm(x.float(), x.shape[-1:], eps=self.eps)
        return self.weight * normed.to(x.dtype)


def rotary_tables(
    positions: Tensor, head_size: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return cos and sin [..., D] for integer positions [...], rounded from float32.

    The first half of sin is negated, as `rotate` wants it.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float().unsqueeze(-1) * (1.0 / theta ** (exponents / head_size))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [B, T, heads, D] by tables [B or 1, T, 1, D] of `rotary_tables`."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class DecoderBlock(nn.Module):
    """x ← x + Wo·Attn(RMS(x)); x ← x + Wdown(silu(Wgate·RMS(x)) ⊙ Wup·RMS(x))."""

    def __init__(self, config: TransformerConfig, weights: Weights, name: str) -> None:
        super().__init__()
        width, size, eps = config.width, config.head_size, config.norm_eps
        queries, keys = config.heads * size, config.kv_heads * size
        self.heads = (config.heads + config.kv_heads, config.kv_heads)
        self.queries = config.heads
        self.head_size = size
        self.feed_forward = config.feed_forward
        self.attention_norm = RMSNorm(weights.take(f"{name}.input_layernorm.weight", width), eps)
        self.mlp_norm = RMSNorm(weights.take(f"{name}.post_attention_layernorm.weight", width), eps)
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        projections = (("q_proj", queries), ("k_proj", keys), ("v_proj", keys))
        parts = [(f"{attention}.{part}", rows) for part, rows in projections]
        self.qkv = read_linear(weights, parts, width)
        # One norm for the heads of q and k together: a row of weights for each head.
        head_weights = torch.cat(
            [
                weights.take(f"{attention}.{part}_norm.weight", size).expand(heads, -1)
                for part, heads in (("q", config.heads), ("k", config.kv_heads))
            ]
        )
        self.head_norm = RMSNorm(head_weights, eps)
        self.out = read_linear(weights, [(f"{attention}.o_proj", width)], queries)
        ffn = config.feed_forward
        both = [(f"{mlp}.gate_proj", ffn), (f"{mlp}.up_proj", ffn)]
        self.gate_up = read_linear(weights, both, width)
        self.down = read_linear(weights, [(f"{mlp}.down_proj", width)], ffn)

    def forward(
        self, x: Tensor, layer: int, rotary: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        """[B, T, C] -> [B, T, C]; `rotary`: tables [B or 1, T, 1, D], `layer` is for `attend`."""
        B, T, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(B, T, sum(self.heads), self.head_size)
        qk, v = qkv.split(self.heads, dim=2)
        q, k = rotate(self.head_norm(qk), *rotary).tensor_split((self.queries,), dim=2)
        x = x + self.out(attend(layer, q, k, v).reshape(B, T, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).split(self.feed_forward, dim=-1)
        mixed: Tensor = x + self.down(functional.silu(gate) * up)
        return mixed


class DecoderStack(nn.Module):
    """All blocks and the final norm.

    positions: how many positions there are at most; their rotary tables are made at load
    """

    def __init__(
        self, config: TransformerConfig, weights: Weights, name: str, *, positions: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DecoderBlock(config, weights, f"{name}.layers.{layer}")
            for layer in range(config.layers)
        )
        self.norm = RMSNorm(weights.take(f"{name}.norm.weight", config.width), config.norm_eps)
        tables = rotary_tables(
            torch.arange(positions, device=weights.device),
            config.head_size,
            config.rope_theta,
            weights.dtype,
        )
        self.rotary = nn.ParameterList(
            nn.Parameter(table[:, None], requires_grad=False) for table in tables
        )

    def forward(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run x [B, T, C] at integer positions [B or 1, T]; returns normed hidden states."""
        cos, sin = (table[positions] for table in self.rotary)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, (cos, sin), attend)
        normed: Tensor = self.norm(x)
        return normed
