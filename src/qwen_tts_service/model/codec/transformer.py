"""Codec transformer: causal sliding-window attention over frames, between quantiser and vocoder.

The frame i sees the frames i-W+1 to i (Qwen3-TTS reference implementation, qwen-tts 0.1.1).

Letters: B rows, T frames, C width, H heads, D head size, W window.
"""

from functools import partial

import torch
from torch import Tensor, nn

from qwen_tts_service.model.config import CodecConfig
from qwen_tts_service.model.layers import DecoderStack
from qwen_tts_service.model.weights import Weights, read_linear

from .state import Chunk


class WindowedTransformer(nn.Module):
    """All blocks, between two projections."""

    def __init__(self, config: CodecConfig, weights: Weights) -> None:
        super().__init__()
        name = "decoder.pre_transformer"
        width, latent = config.transformer.width, config.latent_width
        self.config = config
        self.enter = read_linear(weights, [(f"{name}.input_proj", width)], latent, bias=True)
        self.stack = DecoderStack(config.transformer, weights, name)
        self.leave = read_linear(weights, [(f"{name}.output_proj", latent)], width, bias=True)

    @property
    def window_shape(self) -> tuple[int, int, int]:
        """Shape of one layer's remembered keys in a slot: [H, W - 1, D]."""
        sizes = self.config.transformer
        return sizes.heads, self.config.window_frames - 1, sizes.head_size

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        T = x.shape[1]
        positions = chunk.frames[:, None] + torch.arange(T, device=x.device)
        if chunk.is_fused:
            cos, sin = (table.squeeze(2) for table in self.stack.rotary(positions))
            run = partial(chunk.attend, cos=cos, sin=sin)
            fused: Tensor = self.leave(self.stack.run_fused(self.enter(x), run))
            return fused
        hidden = ~window_mask(chunk.frames, T, self.config.window_frames)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = chunk.extend_layer(layer, k.transpose(1, 2), v.transpose(1, 2))
            # On the CPU scaled_dot_product_attention with a mask depends on the number of rows.
            scores = torch.matmul(q.transpose(1, 2), keys.transpose(2, 3)) * q.shape[-1] ** -0.5
            scores = scores.masked_fill(hidden, float("-inf"))
            shares = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
            return torch.matmul(shares, values).transpose(1, 2)

        out: Tensor = self.leave(self.stack(self.enter(x), positions, attend))
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
