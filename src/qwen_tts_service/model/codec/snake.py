"""The vocoder's activation, SnakeBeta ("BigVGAN").

Letters: B rows, N steps, C channels.
"""

from torch import Tensor, nn

from qwen_tts_service.kernels.fused.extend import snake
from qwen_tts_service.model.weights import Weights, placed


class SnakeBeta(nn.Module):
    """x + sin²(x·e^α) / (e^β + 1e-9), α and β per channel; the exponentials are taken at load."""

    def __init__(self, weights: Weights, name: str, channels: int) -> None:
        super().__init__()
        alpha = weights.take_raw(f"{name}.alpha", channels)
        beta = weights.take_raw(f"{name}.beta", channels)
        self.frequency = placed(alpha.exp(), weights)
        self.height = placed(1.0 / (beta.exp() + 1e-9), weights)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return snake.plain(x, self.frequency, self.height)
