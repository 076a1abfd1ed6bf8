"""The code predictor: codebooks 1 to Q-1 of a frame, one after another.

A small Qwen3 decoder with a fresh cache for every frame: position 0 is the talker's hidden state,
position 1 the code of codebook 0, position g the code of codebook g-1; the hidden state of
position g gives codebook g (Qwen3-TTS reference implementation, qwen-tts 0.1.1). Q-1 passes, all
shapes fixed.

Letters: B rows, Q codebooks, C the talker's width, E the predictor's width, V codes per codebook,
H heads, K key/value heads, D head size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qwen_tts_service.kernels.fused.jit import next_power_of_2
from qwen_tts_service.kernels.fused.predictor import predictor_attention
from qwen_tts_service.kernels.linear import fixed

from .config import ModelConfig, TransformerConfig
from .layers import DecoderStack
from .weights import Weights, read_linear, stack_rows

Choose = Callable[[Tensor, int], Tensor]
"""(logits float32 [B, V], codebook) -> int64 [B]"""

ChooseInto = Callable[[Tensor, int, Tensor, int], Tensor]
"""(logits [B, V], codebook, table, its row of code 0) -> the code's embedding [B, E]"""

_NAME = "talker.code_predictor"


class CodePredictor(nn.Module):
    """The network; `forward` runs it for one frame."""

    def __init__(self, config: ModelConfig, weights: Weights, *, is_fused: bool = False) -> None:
        """Build; is_fused: whether fused kernels run."""
        super().__init__()
        sizes, width = config.code_predictor, config.width
        self.books = config.codebooks - 1
        self.choices = config.codes
        # The tables of all codebooks below one another: [(Q-1) * V, C], in the talker's width.
        tables = [
            (f"{_NAME}.model.codec_embedding.{book}.weight", self.choices)
            for book in range(self.books)
        ]
        self.embedding = fixed(stack_rows(weights, tables, width))
        self.projection: nn.Module | None = None
        if sizes.width != width:
            projection = [(f"{_NAME}.small_to_mtp_projection", sizes.width)]
            self.projection = read_linear(weights, projection, width, bias=True)
        self.stack = DecoderStack(sizes, weights, f"{_NAME}.model", config.codebooks)
        self.heads = nn.ModuleList(
            read_linear(weights, [(f"{_NAME}.lm_head.{book}", self.choices)], sizes.width)
            for book in range(self.books)
        )
        self.inner_embedding = fixed(self._inner_embedding()) if is_fused else self.embedding

    def embed(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, Q-1] of codebooks 1.. -> [B, Q-1, C]."""
        first = torch.arange(self.books, device=codes.device) * self.choices
        return self.embedding[codes + first]

    def forward(self, hidden: Tensor, first: Tensor, choose: Choose) -> Tensor:
        """Return the codes of codebooks 1 to Q-1, int64 [B, Q-1].

        hidden: [B, C], the talker's normed hidden state that gave codebook 0
        first:  [B, C], the talker's embedding of the code of codebook 0
        choose: picks a code from each row's logits
        """
        cache = _FrameCache(self.stack.sizes, self.books + 1, hidden)
        x = torch.stack((hidden, first), dim=1)
        codes: list[Tensor] = []
        for book, head in enumerate(self.heads):
            if book:
                x = self.embedding[codes[-1] + (book - 1) * self.choices].unsqueeze(1)
            if self.projection is not None:
                x = self.projection(x)
            x = cache.run(self.stack, x)
            codes.append(choose(head(x[:, -1]).float(), book + 1))
        return torch.stack(codes, dim=1)

    def draw_fused(self, hidden: Tensor, first: Tensor, choose: ChooseInto) -> None:
        """Draw the codes of codebooks 1 to Q-1 with fused kernels; hidden, first: as above."""
        B, (cos, sin) = len(hidden), (table.squeeze(1) for table in self.stack.tables)
        sizes, positions = self.stack.sizes, next_power_of_2(self.books + 1)
        shape = (2, sizes.layers, B, positions, sizes.kv_heads, sizes.head_size)
        keys, values = hidden.new_empty(shape)
        filled = 0

        def attend(layer: int, qkv: Tensor) -> Tensor:
            norm = self.stack.head_norm(layer)
            return predictor_attention(
                qkv, norm.weight, cos, sin, keys[layer], values[layer], filled, norm.eps
            )

        x = torch.stack((hidden, first), dim=1)
        if self.projection is not None:
            x = self.projection(x)
        for book, head in enumerate(self.heads):
            out = self.stack.run_fused(x, attend)
            filled += x.shape[1]
            # Contiguous: of the two rows that a frame begins with, only the second is read.
            logits = head(out[:, -1].contiguous())
            embedded = choose(logits, book + 1, self.inner_embedding, book * self.choices)
            x = embedded[:, None]

    @torch.no_grad()
    def _inner_embedding(self) -> Tensor:
        """Project the tables to the predictor's own width: [(Q-1) * V, E]."""
        if self.projection is None:
            return self.embedding
        parts = self.embedding.view(self.books, self.choices, -1)
        return torch.cat([self.projection(part) for part in parts])


class _FrameCache:
    """Keys and values of the at most Q positions of one frame; gone when the frame is done.

    Positions are few and the same for all rows, so attention is two plain batched matmuls.
    """

    def __init__(self, sizes: TransformerConfig, positions: int, like: Tensor) -> None:
        """Take memory for the rows of `like` [B, C], in its dtype."""
        heads = (len(like), sizes.kv_heads, positions, sizes.head_size)
        self._keys, self._values = like.new_empty(2, sizes.layers, *heads)
        self._filled = 0

    def run(self, stack: DecoderStack, x: Tensor) -> Tensor:
        """Run the next positions x [B, T, E]; T is 2 at first, then 1."""
        T = x.shape[1]
        positions = torch.arange(self._filled, self._filled + T, device=x.device)
        out: Tensor = stack(x, positions[None], self._attend)
        self._filled += T
        return out

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, T, H, D = q.shape
        K, end = k.shape[2], self._filled + T
        for stored, new in ((self._keys, k), (self._values, v)):
            stored[layer, :, :, self._filled : end] = new.transpose(1, 2)
        keys, values = self._keys[layer, :, :, :end], self._values[layer, :, :, :end]
        queries = q.transpose(1, 2).reshape(B, K, H // K * T, D)
        scores = torch.matmul(queries, keys.transpose(2, 3)) * D**-0.5
        if T > 1:  # the first pass: position 0 must not see position 1
            future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
            scores = scores.view(B, K, -1, T, T).masked_fill(future, float("-inf"))
            scores = scores.view(B, K, -1, T)
        out = torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype), values)
        return out.view(B, H, T, D).transpose(1, 2)


def sum_embeddings(embeddings: Tensor) -> Tensor:
    """Sum [B, Q, C] over Q in one reduction: float32 inside, rounded once.

    Adding bfloat16 embeddings one by one rounds Q times and departs from the reference
    implementation's codes within a few frames.
    """
    return embeddings.sum(dim=1)
