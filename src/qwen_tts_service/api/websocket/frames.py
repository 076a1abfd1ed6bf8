"""Binary frames of one length, as telephone lines take them."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Self

from qwen_tts_service.audio.formats import silent_sample
from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import AudioFormat


@dataclass(frozen=True, slots=True)
class FixedFrames:
    """Cuts audio into frames of `frame_bytes`; the last one is filled up with `silence`."""

    frame_bytes: int
    silence: bytes

    @classmethod
    def lasting(cls, frame_ms: int, format: AudioFormat, sample_rate_hz: int) -> Self:
        """Frames of `frame_ms`; raises InvalidRequest where they are not a number of samples."""
        silence = silent_sample(format)
        if silence is None:
            raise InvalidRequest(
                f"frame_ms: {format} cannot be cut; set format to pcm, mulaw or alaw",
                param="frame_ms",
            )
        samples, rest = divmod(frame_ms * sample_rate_hz, 1000)
        if rest:
            raise InvalidRequest(
                f"frame_ms: {frame_ms} ms at {sample_rate_hz} Hz are not a whole number of samples",
                param="frame_ms",
            )
        return cls(samples * len(silence), silence)

    async def cut(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the audio of `chunks` in frames."""
        rest = b""
        async for chunk in chunks:
            rest += chunk
            while len(rest) >= self.frame_bytes:
                yield rest[: self.frame_bytes]
                rest = rest[self.frame_bytes :]
        if rest:
            yield rest + self.silence * ((self.frame_bytes - len(rest)) // len(self.silence))
