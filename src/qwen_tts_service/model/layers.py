"""Transformer decoder block shared by talker, code predictor and codec: RMS norm, RoPE, SwiGLU.

Formulas: "Qwen3 Technical Report" (pre-norm blocks, RMS norm on each query and key head), "Root
Mean Square Layer Normalization", "GLU Variants Improve Transformer" (SwiGLU) and "RoFormer"
(rotary positions, in the rotate-half form), as in the Qwen3-TTS reference implementation, qwen-tts
0.1.1. Its three M-RoPE planes always hold the same position, which makes it plain RoPE. The codec
has no head norms, and scales each branch ("LayerScale", "Going deeper with Image Transformers").

Letters: B rows, T positions, C width, H heads, K key/value heads, D head size. Attention itself
comes in as a function, so that a block knows neither caches nor masks.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_tts_service.kernels.fuse import Compiler, fused
from qwen_tts_service.kernels.fused.norm import add_rms_norm, rms_norm
from qwen_tts_service.kernels.fused.silu import silu_mul
from qwen_tts_service.kernels.linear import fixed

from .config import TransformerConfig
from .weights import Weights, read_linear

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [B, T, H, D], k [B, T, K, D], v [B, T, K, D]) -> [B, T, H, D]; keeps k and v."""


class RMSNorm(nn.Module):
    """x · rsqrt(mean(x²) + eps) in float32, rounded to the model's dtype, then times the weight."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = fixed(weight)
        self.eps = eps
        C = weight.shape[-1]
        self.scaled = fixed(weight * C**0.5)
        self.floor = fixed(weight.new_tensor((C * eps) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]; a weight of several rows goes with the axes before C."""
        if x.dtype == torch.float32 and x.device.type == "cpu":
            # w·√C·x / √(|x|² + C·eps): the same in four passes over x; torch's own takes eight.
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self.floor)
            return (x * self.scaled).div_(length)
        return self.weight * functional.rms_norm(x, x.shape[-1:], eps=self.eps)


def rotary_tables(
    positions: Tensor, head_size: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return cos and sin [..., 1, D] for integer positions [...], rounded from float32.

    The first half of sin is negated, as `rotate` wants it.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float()[..., None, None] * (1.0 / theta ** (exponents / head_size))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [B, T, heads, D] by tables [B or 1, T, 1, D] of `rotary_tables`."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class DecoderBlock(nn.Module):
    """x ← x + Wo·Attn(RMS(x)); x ← x + Wdown(silu(Wgate·RMS(x)) ⊙ Wup·RMS(x))."""

    def __init__(self, config: TransformerConfig, weights: Weights, name: str) -> None:
        super().__init__()
        width, size, ffn = config.width, config.head_size, config.feed_forward
        queries, keys = config.heads * size, config.kv_heads * size
        self.sizes = config
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        self.attention_norm = _read_norm(config, weights, f"{name}.input_layernorm")
        self.mlp_norm = _read_norm(config, weights, f"{name}.post_attention_layernorm")
        projections = (("q_proj", queries), ("k_proj", keys), ("v_proj", keys))
        parts = [(f"{attention}.{part}", rows) for part, rows in projections]
        self.qkv = read_linear(weights, parts, width)
        self.out = read_linear(weights, [(f"{attention}.o_proj", width)], queries)
        self.gate_up = read_linear(
            weights, [(f"{mlp}.gate_proj", ffn), (f"{mlp}.up_proj", ffn)], width
        )
        self.down = read_linear(weights, [(f"{mlp}.down_proj", width)], ffn)
        self.attention_scale: nn.Parameter | None = None
        self.mlp_scale: nn.Parameter | None = None
        if config.is_codec:
            self.attention_scale = fixed(weights.take(f"{attention}_layer_scale.scale", width))
            self.mlp_scale = fixed(weights.take(f"{mlp}_layer_scale.scale", width))
        else:
            self.head_norm = _read_head_norm(config, weights, attention)

    def forward(
        self, x: Tensor, layer: int, rotary: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        """[B, T, C] -> [B, T, C]; `rotary`: tables [B or 1, T, 1, D], `layer` is for `attend`.

        In two parts around attention, which has state: `DecoderStack.fuse` compiles them.
        """
        return self.after_attention(x, attend(layer, *self.queries_keys_values(x, rotary)))

    def queries_keys_values(
        self, x: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q [B, T, H, D], k and v [B, T, K, D] of x [B, T, C]; q and k are rotated."""
        H, K = self.sizes.heads, self.sizes.kv_heads
        qkv = self.qkv(self.attention_norm(x)).unflatten(2, (H + 2 * K, self.sizes.head_size))
        qk, v = qkv.tensor_split((H + K,), dim=2)
        qk = rotate(qk if self.sizes.is_codec else self.head_norm(qk), *rotary)
        q, k = qk.tensor_split((H,), dim=2)
        return q, k, v

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add what was attended to [B, T, H, D] to x [B, T, C], then the MLP: [B, T, C]."""
        y = self.out(attended.flatten(2))
        x = x + (y if self.attention_scale is None else self.attention_scale * y)
        gate, up = self.gate_up(self.mlp_norm(x)).split(self.sizes.feed_forward, dim=-1)
        y = self.down(functional.silu(gate) * up)
        mixed: Tensor = x + (y if self.mlp_scale is None else self.mlp_scale * y)
        return mixed


class DecoderStack(nn.Module):
    """All blocks and the final norm.

    positions: how many there are at most, whose rotary tables are made at load; None: no bound
    """

    def __init__(
        self, config: TransformerConfig, weights: Weights, name: str, positions: int | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DecoderBlock(config, weights, f"{name}.layers.{layer}")
            for layer in range(config.layers)
        )
        self.sizes = config
        self.norm = _read_norm(config, weights, f"{name}.norm")
        self._rotary = (config.head_size, config.rope_theta, weights.dtype)
        every = torch.arange(positions or 0, device=weights.device)
        tables = rotary_tables(every, *self._rotary) if positions else ()
        self.tables = nn.ParameterList(fixed(table) for table in tables)

    def fuse(self, compiler: Compiler = fused) -> None:
        """Have what is not attention compiled, once for all blocks, at the first call."""
        for block in self.blocks:
            for name in ("queries_keys_values", "after_attention"):
                setattr(block, name, compiler(getattr(block, name)))

    def forward(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run x [B, T, C] at integer positions [B or 1, T]; returns normed hidden states."""
        rotary = self.rotary(positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, rotary, attend)
        normed: Tensor = self.norm(x)
        return normed

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin [..., 1, D] for integer positions [...]."""
        if not len(self.tables):
            return rotary_tables(positions, *self._rotary)
        cos, sin = (table[positions] for table in self.tables)
        return cos, sin

    def head_norm(self, layer: int) -> RMSNorm:
        """The norm of a layer's query and key heads."""
        return cast("RMSNorm", self.blocks[layer].head_norm)

    def run_fused(self, x: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Run x [..., C] with fused kernels; returns normed hidden states.

        attend: (layer, projections [..., (H + 2K) * D]) -> [..., H * D]; all between the two
        """
        blocks = cast("list[DecoderBlock]", list(self.blocks))
        following = [block.attention_norm for block in blocks[1:]] + [self.norm]
        norm = blocks[0].attention_norm
        normed = rms_norm(x, norm.weight, norm.eps)
        for layer, block in enumerate(blocks):
            y = block.out(attend(layer, block.qkv(normed)))
            norm = block.mlp_norm
            x, normed = add_rms_norm(x, y, norm.weight, norm.eps, block.attention_scale)
            y = block.down(silu_mul(block.gate_up(normed)))
            norm = following[layer]
            x, normed = add_rms_norm(x, y, norm.weight, norm.eps, block.mlp_scale)
        return normed


def _read_norm(config: TransformerConfig, weights: Weights, name: str) -> RMSNorm:
    return RMSNorm(weights.take(f"{name}.weight", config.width), config.norm_eps)


def _read_head_norm(config: TransformerConfig, weights: Weights, name: str) -> RMSNorm:
    """One norm for the heads of q and k together: a row of weights for each head."""
    heads = (("q_norm", config.heads), ("k_norm", config.kv_heads))
    rows = [
        weights.take(f"{name}.{part}.weight", config.head_size).expand(count, -1)
        for part, count in heads
    ]
    return RMSNorm(torch.cat(rows), config.norm_eps)
