"""Voice encoder of a Base checkpoint: a recording to the voice that is kept of it.

Both networks run in float32 on the CPU, whatever the device of the rest: they run once per voice,
and TF32 or bfloat16 would change their codes.
"""

from pathlib import Path

import numpy as np
import torch

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import KeptVoice, Samples, VoiceReference

from .codec.encoder import CodecEncoder
from .config import ModelConfig
from .speaker_encoder import SHORTEST_SAMPLES, SpeakerEncoder
from .weights import CheckpointFile

_CPU = torch.device("cpu")


class VoiceEncoder:
    """The speaker encoder and the codec's encoder."""

    def __init__(self, speaker: SpeakerEncoder, codec: CodecEncoder) -> None:
        self.speaker = speaker
        self.codec = codec

    @classmethod
    def load(cls, path: Path, config: ModelConfig) -> "VoiceEncoder":
        """Read both from a checkpoint's directory; raises StartupError that names what is amiss."""
        assert config.speaker_encoder is not None
        assert config.codec_encoder is not None
        main, speech = path / "model.safetensors", path / "speech_tokenizer" / "model.safetensors"
        with CheckpointFile(
            main, device=_CPU, dtype=torch.float32, ignored=("talker.",)
        ) as weights:
            speaker = SpeakerEncoder(config.speaker_encoder, weights)
        ignored = ("decoder.", *CodecEncoder.unused(config.codebooks))
        with CheckpointFile(speech, device=_CPU, dtype=torch.float32, ignored=ignored) as weights:
            codec = CodecEncoder(config.codec_encoder, config.codebooks, weights)
        return cls(speaker, codec)

    def keep(self, reference: VoiceReference) -> KeptVoice:
        """Hear a recording; raises InvalidRequest if it is too short or not of finite numbers."""
        samples = reference.samples
        if len(samples) < SHORTEST_SAMPLES or not np.isfinite(samples).all():
            raise InvalidRequest(
                f"the recording must be sound of at least {SHORTEST_SAMPLES} samples",
                param="ref_audio",
            )
        embedding = tuple(self.embed(samples))
        if not reference.transcript:
            return KeptVoice(embedding=embedding)
        codes = tuple(map(tuple, self.encode(samples)))
        return KeptVoice(embedding=embedding, codes=codes, transcript=reference.transcript)

    @torch.inference_mode()
    def embed(self, samples: Samples) -> list[float]:
        """Return how the speaker sounds, as the talker's row: float32 [C]."""
        embedding: list[float] = self.speaker(torch.from_numpy(samples)).tolist()
        return embedding

    @torch.inference_mode()
    def encode(self, samples: Samples) -> list[list[int]]:
        """Return the recording's codes [T][Q]."""
        codes: list[list[int]] = self.codec(torch.from_numpy(samples)).tolist()
        return codes
