"""Streaming codec decoder: codes to samples, in chunks of any size, equal to a whole decode.

Quantiser, a convolution over three frames, windowed transformer, vocoder ("12Hz tokenizer" of the
Qwen3-TTS reference implementation, qwen-tts 0.1.1). Every layer is causal and carries its past in
the state, so there are no windows, no cross-fades and no look-ahead.

Letters: S slots, B rows, Q codebooks, T frames, N samples.
"""

import torch
from torch import Tensor, nn

from qwen_tts_service.kernels.device import tf32
from qwen_tts_service.model.config import CodecConfig
from qwen_tts_service.model.weights import Weights

from .quantizer import Dequantizer
from .state import Chunk, CodecState
from .transformer import WindowedTransformer
from .vocoder import CausalConv, Vocoder, read_conv

_REACH_FRAMES = 10
"""More frames than the vocoder reaches back: its convolutions together reach 9.3 at the published
rates, whatever their widths."""
_PIECE_FRAMES = 32
"""Frames of a recording that are heard at once: what that takes is then bounded."""


class CodecDecoder(nn.Module):
    """The decoder half of the codec, in one dtype.

    float32: a stream's samples are those of a whole decode within 1e-5, whatever the chunks; the
    same chunks give the same bits.
    """

    IGNORED = (
        "encoder.",
        "decoder.quantizer.rvq_first.input_",
        "decoder.quantizer.rvq_rest.input_",
    )
    """Tensors of the file that decoding has no use for."""

    def __init__(
        self,
        config: CodecConfig,
        weights: Weights,
        *,
        is_fused: bool = False,
        has_tf32: bool = False,
    ) -> None:
        """Build in the dtype of `weights`; tables are folded as stored and rounded once.

        is_fused: whether fused kernels run; has_tf32: whether CUDA multiplies float32 in TF32
        """
        super().__init__()
        self.config = config
        self.has_tf32 = has_tf32
        self.is_fused = is_fused
        self.dtype = weights.dtype
        self.quantizer = Dequantizer(config, weights)
        shape = (config.latent_width, config.codebook_width, 3)
        self.enter = read_conv(weights, "decoder.pre_conv.conv", shape)
        self.transformer = WindowedTransformer(config, weights)
        self.vocoder = Vocoder(config, weights)
        self._convs = [x for x in self.modules() if isinstance(x, CausalConv) and x.reach]
        for tail, conv in enumerate(self._convs):
            conv.tail = tail

    def new_state(self, *, slots: int) -> CodecState:
        """Allocate the state of S streams that have not begun."""
        return CodecState.allocate(
            slots,
            tails=[(conv.reach, conv.in_channels) for conv in self._convs],
            window=self.transformer.window_shape,
            layers=self.config.transformer.layers,
            like=self.quantizer.table,
        )

    @torch.inference_mode()
    def reset(self, state: CodecState, slots: Tensor) -> None:
        """Make the slots int64 [B] as if new."""
        for tensor in state.tensors():
            tensor.index_fill_(0, slots, 0)

    @torch.inference_mode()
    def decode(
        self,
        codes: Tensor,
        state: CodecState,
        slots: Tensor | None = None,
        active: Tensor | None = None,
    ) -> Tensor:
        """Continue each row's waveform by T frames.

        codes:   int64 [B, Q, T], oldest frame first
        slots:   int64 [B], whose state each row continues, no slot twice; None is slots 0..B-1
        active:  bool [B], rows that are False keep their state and come out as zeros; None is all
        returns: float32 [B, T * samples per frame] in [-1, 1]
        """
        B, books, T = codes.shape
        assert books == self.config.codebooks
        slots = torch.arange(B, device=codes.device) if slots is None else slots
        chunk = Chunk(state, slots, active, is_fused=self.is_fused)
        with tf32(is_allowed=self.has_tf32):
            samples: Tensor = self.vocoder(self._latents(codes, chunk), chunk)
        chunk.finish(T)
        samples = samples.float().clamp(-1.0, 1.0)
        if active is not None:
            samples = samples * active[:, None]
        return samples

    @torch.inference_mode()
    def hear(self, codes: Tensor) -> CodecState:
        """Return the state of one slot that has decoded frames int64 [1, Q, T].

        Only the last of them become sound, which is what takes time: the vocoder does not reach
        further back.
        """
        state = self.new_state(slots=1)
        slots = torch.zeros(1, dtype=torch.int64, device=codes.device)
        silent = max(0, codes.shape[2] - _REACH_FRAMES)
        for piece in torch.split(codes[:, :, :silent], _PIECE_FRAMES, dim=2) if silent else ():
            chunk = Chunk(state, slots, None, is_fused=self.is_fused)
            with tf32(is_allowed=self.has_tf32):
                self._latents(piece, chunk)
            chunk.finish(piece.shape[2])
        self.decode(codes[:, :, silent:], state)
        return state

    def warm_up(self) -> None:
        """Have what `hear` needs compiled: for a whole piece, and for the frames after it."""
        frames = _PIECE_FRAMES + _REACH_FRAMES
        self.hear(self.quantizer.table.new_zeros(1, self.config.codebooks, frames).long())

    def _latents(self, codes: Tensor, chunk: Chunk) -> Tensor:
        """What the vocoder makes sound of: [B, Q, T] -> [B, T, C]."""
        latents: Tensor = self.transformer(self.enter(self.quantizer(codes), chunk), chunk)
        return latents
