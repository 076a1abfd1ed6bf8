"""The talker: the large Qwen3 decoder that reads the prompt and draws codebook 0 of each frame.

Embeddings, decoder stack and head of the Qwen3-TTS reference implementation, qwen-tts 0.1.1. Of
the head only the rows that can be drawn are kept: the audio codes and, last, end of speech.

Letters: B rows, R prompt rows, C width, V = codes + 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qwen_tts_service.kernels.attention import Attention, CachePositions, prefill
from qwen_tts_service.kernels.fused.decode import decode_attention
from qwen_tts_service.kernels.fused.heads import store_heads
from qwen_tts_service.kernels.linear import fixed

from .config import ModelConfig
from .layers import DecoderStack
from .state import SlotState
from .weights import Weights, pack_linear


class Talker(nn.Module):
    """The network; keys and values live in the `SlotState` that comes with every call."""

    def __init__(
        self, config: ModelConfig, weights: Weights, attention: Attention, *, is_fused: bool = False
    ) -> None:
        """Build; is_fused: whether fused kernels run."""
        super().__init__()
        self.is_fused = is_fused
        vocabulary, width, codes = config.vocabulary, config.width, config.codes
        self.attention = attention
        self.embedding = fixed(
            weights.take("talker.model.codec_embedding.weight", vocabulary, width)
        )
        self.stack = DecoderStack(config.talker, weights, "talker.model", config.max_positions)
        head = weights.take_raw("talker.codec_head.weight", vocabulary, width)
        rows = torch.cat((head[:codes], head[config.eos_id : config.eos_id + 1]))
        rows = rows.to(weights.device, weights.dtype)
        self.head = pack_linear("talker.codec_head", rows, None, weights.arithmetic)

    def prefill(self, x: Tensor, state: SlotState, pieces: Sequence[CachePositions]) -> Tensor:
        """Read prompt rows [R, C], piece after piece; normed hidden states [R, C]."""
        at = CachePositions.for_each_row(pieces)
        if self.is_fused:
            return self._run_fused(x, state, at, decode_attention)
        hidden: Tensor = self.stack(
            x[None],
            at.positions[None],
            lambda layer, q, k, v: prefill(
                q, k, v, (state.keys[layer], state.values[layer]), pieces
            ),
        )
        return hidden[0]

    def step(self, x: Tensor, state: SlotState, at: CachePositions) -> tuple[Tensor, Tensor]:
        """Feed one input [B, C] per row; normed hidden state [B, C] and logits [B, V].

        The logits are float32, or, with fused kernels, as the head leaves them.
        """
        if self.is_fused:
            hidden = self._run_fused(x, state, at, self.attention.read)
            return hidden, self.head(hidden)
        hidden = self.stack(
            x[:, None],
            at.positions[:, None],
            lambda layer, q, k, v: self.attention.decode(
                q, k, v, (state.keys[layer], state.values[layer]), at
            ),
        )[:, 0]
        return hidden, self.head(hidden).float()

    def _run_fused(
        self, x: Tensor, state: SlotState, at: CachePositions, read: Callable[..., Tensor]
    ) -> Tensor:
        """Run [..., C] with fused kernels; `at` has a slot and a position for every row."""
        cos, sin = (table.squeeze(1) for table in self.stack.tables)

        def attend(layer: int, qkv: Tensor) -> Tensor:
            norm = self.stack.head_norm(layer)
            cache = (state.keys[layer], state.values[layer])
            queries = store_heads(
                qkv.flatten(0, -2), norm.weight, cos, sin, at.slots, at.positions,
                *cache, norm.eps,
            )  # fmt: skip
            return read(queries, *cache, at.slots, at.positions).view(*qkv.shape[:-1], -1)

        return self.stack.run_fused(x, attend)
