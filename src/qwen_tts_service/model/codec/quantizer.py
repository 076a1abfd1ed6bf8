"""Residual vector quantiser: codes to latent vectors, and its codebooks for the encoder.

Codebook rows are embedding_sum / cluster_usage ("SoundStream", "Moshi": Mimi's split quantiser).
Codebook 0 has an output projection of its own, the others share one; division and projection are
folded into one table per codebook at load.

Letters: B rows, Q codebooks, T frames, C latent channels.
"""

import torch
from torch import Tensor, nn

from qwen_tts_service.model.config import CodecConfig
from qwen_tts_service.model.weights import Weights, placed

_MIN_USAGE = 1e-5


class Dequantizer(nn.Module):
    """One table [Q * codes, C] of ready vectors."""

    def __init__(self, config: CodecConfig, weights: Weights) -> None:
        super().__init__()
        self.codes = config.codes
        self.books = config.codebooks
        tables = _tables(config, weights, "first", 1)
        tables += _tables(config, weights, "rest", config.codebooks - 1)
        self.table = placed(torch.cat(tables), weights)

    def forward(self, codes: Tensor) -> Tensor:
        """int64 [B, Q, T] -> [B, T, C]."""
        first = torch.arange(self.books, device=codes.device) * self.codes
        rows: Tensor = self.table[codes.transpose(1, 2) + first]
        return rows.sum(dim=2)


def _tables(config: CodecConfig, weights: Weights, group: str, books: int) -> list[Tensor]:
    name = f"decoder.quantizer.rvq_{group}"
    inner, outer = config.codebook_width // 2, config.codebook_width
    projection = weights.take_raw(f"{name}.output_proj.weight", outer, inner, 1).squeeze(-1)
    tables = []
    for book in range(books):
        layer = f"{name}.vq.layers.{book}._codebook"
        table = codebook(weights, layer, "embedding_sum", config.codes, inner)
        tables.append(table @ projection.T)
    return tables


def codebook(weights: Weights, name: str, sums: str, codes: int, width: int) -> Tensor:
    """Read the rows [codes, width] of one codebook, whose file has their sums and their numbers."""
    total = weights.take_raw(f"{name}.{sums}", codes, width)
    usage = weights.take_raw(f"{name}.cluster_usage", codes)
    return total / usage.clamp(min=_MIN_USAGE)[:, None]
