"""Options of an engine."""

from dataclasses import dataclass

from qwen_tts_service.types import FRAME_S


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What is fixed for the life of an engine.

    slots:          utterances that speak at once
    max_positions:  prompt rows and frames that one utterance may have together
    max_text_rows:  text rows of one utterance in the streaming-text layout
    chunk_frames:   frames of an utterance's 1st, 2nd, ... call of the codec; the last one repeats
    prefill_piece_rows: rows that a prompt is cut into; fixed, so that it is always cut alike
    prefill_rows_per_step: rows of one prompt read between two frames, in whole pieces
    start_steps:    frame steps in which all who arrive at once have begun; see `prompts_per_step`
    prefix_cache_rows: prompt rows that are kept read for other prompts that begin alike
    heard_voices:   cloned voices whose recordings the codec need not hear again; 5 MB each
    max_lead_s:     audio that may wait for a slow reader; then its slot pauses
    margin_s:       audio that a reader should have left when the next chunk arrives
    silence_s:      a run of silence this long has lost its end
    silence_rms:    below this a frame is silent (0.001 is -60 dBFS)
    max_failures:   steps that may fail in a row before the engine gives up
    stall_s:        a step that takes longer makes the engine unhealthy
    threads:        of torch on the CPU; None leaves torch's own choice
    deterministic:  bit-equal audio: chunks by `chunk_frames` alone; on the CPU row by row what
                    depends on the batch, on CUDA everything in one batch size
    """

    slots: int
    max_positions: int
    max_text_rows: int = 1024
    chunk_frames: tuple[int, ...] = (1, 1, 2, 4, 8)
    prefill_piece_rows: int = 64
    prefill_rows_per_step: int = 128
    start_steps: int = 3
    prefix_cache_rows: int = 1024
    heard_voices: int = 16
    max_lead_s: float = 8.0
    margin_s: float = 0.05
    silence_s: float = 10.0
    silence_rms: float = 1e-3
    max_failures: int = 3
    stall_s: float = 120.0
    threads: int | None = None
    deterministic: bool = False

    @property
    def silence_frames(self) -> int:
        """Silent frames in a row that end an utterance."""
        return max(1, int(self.silence_s / FRAME_S))
