"""The codec's transformer: a causal window over frames, between quantiser and vocoder.

Pre-norm blocks without query/key norms, with a learned scale per channel on each branch
("LayerScale", "Going deeper with Image Transformers") and rotary positions; frame i sees the
frames i-W+1 to i (Qwen3-TTS reference implementation, qwen-tts 0.1.1). It does not know codes or
sound.

Letters: B rows, T frames, C width, H heads, D head size, W window.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from qwen_tts_service.model.config import CodecConfig
from qwen_tts_service.model.layers import RMSNorm, rotary_tables, rotate
from qwen_tts_service.model.linear import make_linear
from qwen_tts_service.model.weights import Weights, stack_rows

from .state import Chunk

_NAME = "decoder.pre_transformer"


class _Block(nn.Module):
    def __init__(
        self, config: CodecConfig, weights: Weights, layer: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        sizes, name = config.transformer, f"{_NAME}.layers.{layer}"
        width, ffn = sizes.width, sizes.feed_forward
        inner = sizes.heads * sizes.head_size
        self.heads = sizes.heads
        self.head_size = sizes.head_size

        def vector(suffix: str) -> nn.Parameter:
            values = weights.take(f"{name}.{suffix}", width).to(dtype)
            return nn.Parameter(values, requires_grad=False)

        def matrix(rows: int, columns: int, *suffixes: str) -> nn.Module:
            named = [(f"{name}.{suffix}.weight", rows) for suffix in suffixes]
            weight = stack_rows(weights, named, columns).to(dtype)
            return make_linear(weight, arithmetic=weights.arithmetic)

        self.attention_norm = RMSNorm(vector("input_layernorm.weight"), sizes.norm_eps)
        self.mlp_norm = RMSNorm(vector("post_attention_layernorm.weight"), sizes.norm_eps)
        self.attention_scale = vector("self_attn_layer_scale.scale")
        self.mlp_scale = vector("mlp_layer_scale.scale")
        self.qkv = matrix(inner, width, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = matrix(width, inner, "self_attn.o_proj")
        self.gate_up = matrix(ffn, width, "mlp.gate_proj", "mlp.up_proj")
        self.down = matrix(width, ffn, "mlp.down_proj")

    def forward(
        self, x: Tensor, layer: int, rotary: tuple[Tensor, Tensor], hidden: Tensor, chunk: Chunk
    ) -> Tensor:
        B, T, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(B, T, 3, self.heads, self.head_size)
        q, k, v = qkv.unbind(2)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        keys, values = chunk.extend_layer(layer, k.transpose(1, 2), v.transpose(1, 2))
        # On the CPU scaled_dot_product_attention with a mask would depend on the number of rows.
        scores = torch.matmul(q.transpose(1, 2), keys.transpose(2, 3)) * self.head_size**-0.5
        scores = scores.masked_fill(hidden, float("-inf"))
        heard = torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(x.dtype), values)
        x = x + self.attention_scale * self.out(heard.transpose(1, 2).reshape(B, T, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        mixed: Tensor = x + self.mlp_scale * self.down(silu(gate) * up)
        return mixed


class WindowedTransformer(nn.Module):
    """All blocks, between two projections."""

    def __init__(self, config: CodecConfig, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        sizes, latent = config.transformer, config.latent_width
        self.config = config
        self.dtype = dtype

        def projection(name: str, rows: int, columns: int) -> nn.Module:
            weight = weights.take(f"{_NAME}.{name}.weight", rows, columns).to(dtype)
            bias = weights.take(f"{_NAME}.{name}.bias", rows).to(dtype)
            return make_linear(weight, bias, arithmetic=weights.arithmetic)

        self.enter = projection("input_proj", sizes.width, latent)
        self.blocks = nn.ModuleList(
            _Block(config, weights, layer, dtype) for layer in range(sizes.layers)
        )
        norm = weights.take(f"{_NAME}.norm.weight", sizes.width).to(dtype)
        self.norm = RMSNorm(norm, sizes.norm_eps)
        self.leave = projection("output_proj", latent, sizes.width)

    def state_shape(self, slots: int) -> tuple[int, int, int, int]:
        """Shape of one layer's remembered keys: [S, H, W - 1, D]."""
        sizes = self.config.transformer
        return slots, sizes.heads, self.config.window_frames - 1, sizes.head_size

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        sizes, T = self.config.transformer, x.shape[1]
        positions = chunk.frames[:, None] + torch.arange(T, device=x.device)
        tables = rotary_tables(positions, sizes.head_size, sizes.rope_theta, self.dtype)
        rotary = (tables[0].unsqueeze(2), tables[1].unsqueeze(2))
        hidden = ~window_mask(chunk.frames, T, self.config.window_frames)
        x = self.enter(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, rotary, hidden, chunk)
        out: Tensor = self.leave(self.norm(x))
        return out


def window_mask(frames: Tensor, T: int, window: int) -> Tensor:
    """Say which of W - 1 remembered and T new frames each new frame sees: bool [B, 1, T, W-1+T].

    frames: int64 [B], frames before this chunk. Column j is frame `frames - (W - 1) + j`, so
    "key ≤ query", "key > query - W" and "key ≥ 0" become bounds on j.
    """
    column = torch.arange(window - 1 + T, device=frames.device)
    query = torch.arange(T, device=frames.device)[:, None]
    in_window = (column >= query) & (column <= query + window - 1)
    has_been = column >= (window - 1 - frames)[:, None]
    return in_window & has_been[:, None, None, :]
