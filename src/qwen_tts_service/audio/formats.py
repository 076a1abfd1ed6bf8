"""Table of audio formats: content type, file extension, sample rates, encoder.

Adding a format is adding a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import BinaryIO

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import AudioFormat

from .encoders import (
    AacEncoder,
    Encoder,
    FileOptions,
    RawEncoder,
    SndfileEncoder,
    WavFileEncoder,
    WavStreamEncoder,
)
from .pcm import Companding, to_bytes, to_g711

MPEG_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True, slots=True)
class Format:
    """One row. `rates_hz` is None where every rate will do.

    content_type: with the rate in place of `{rate}`
    encoder: of a rate and the options of a file
    usual_rate_hz: of the format, where that is not the server's
    silence: a sample of it, in a format without a header
    """

    content_type: str
    file_extension: str
    rates_hz: tuple[int, ...] | None
    encoder: Callable[[int, FileOptions], Encoder]
    usual_rate_hz: int | None = None
    silence: bytes | None = None

    def carries(self, sample_rate_hz: int) -> bool:
        """Whether audio of this rate can be written."""
        return self.rates_hz is None or sample_rate_hz in self.rates_hz


def _pcm(_sample_rate_hz: int, _options: FileOptions) -> Encoder:
    return RawEncoder(to_bytes)


def _g711(_sample_rate_hz: int, _options: FileOptions, law: Companding) -> Encoder:
    return RawEncoder(partial(to_g711, law=law))


def _wav(sample_rate_hz: int, options: FileOptions) -> Encoder:
    if options.is_stream:
        return WavStreamEncoder(sample_rate_hz, options.comment)
    return WavFileEncoder(sample_rate_hz, options.comment, options.file)


def _sndfile(sample_rate_hz: int, options: FileOptions, **settings: object) -> Encoder:
    return SndfileEncoder(sample_rate_hz, options, **settings)


def _aac(sample_rate_hz: int, _options: FileOptions) -> Encoder:
    return AacEncoder(sample_rate_hz)


# Constant, because libsndfile's default mp3 holds back up to 184 ms and this 56 ms; 80 kbit/s
# at 24 kHz.
_mp3 = partial(
    _sndfile, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.5
)
# Level 0: blocks of 48 ms and not of 170, for 3 % more bytes.
_flac = partial(_sndfile, format="FLAC", subtype="PCM_16", compression_level=0.0)
_opus = partial(_sndfile, format="OGG", subtype="OPUS")
_mulaw, _alaw = partial(_g711, law="ULAW"), partial(_g711, law="ALAW")

_TELEPHONE_HZ = 8000
# As RFC 4856 registers audio/PCMU and audio/PCMA.
_RATE = " rate={rate}; channels=1"

FORMATS: dict[AudioFormat, Format] = {
    "wav": Format("audio/wav", "wav", None, _wav),
    "pcm": Format("audio/pcm", "pcm", None, _pcm, silence=b"\0\0"),
    "mp3": Format("audio/mpeg", "mp3", MPEG_RATES_HZ, _mp3),
    "ogg": Format("audio/ogg; codecs=opus", "ogg", OPUS_RATES_HZ, _opus),
    "opus": Format("audio/ogg; codecs=opus", "opus", OPUS_RATES_HZ, _opus),
    "flac": Format("audio/flac", "flac", None, _flac),
    "aac": Format("audio/aac", "aac", MPEG_RATES_HZ, _aac),
    "mulaw": Format("audio/PCMU;" + _RATE, "mulaw", None, _mulaw, _TELEPHONE_HZ, b"\xff"),
    "alaw": Format("audio/PCMA;" + _RATE, "alaw", None, _alaw, _TELEPHONE_HZ, b"\xd5"),
}
"""`ogg` and `opus` are one thing under two names: Opus in Ogg."""


def content_type(format: AudioFormat, sample_rate_hz: int) -> str:
    """Give the value of the Content-Type header."""
    return FORMATS[format].content_type.format(rate=sample_rate_hz)


def file_extension(format: AudioFormat) -> str:
    """Give the ending of a file's name, without the dot."""
    return FORMATS[format].file_extension


def silent_sample(format: AudioFormat) -> bytes | None:
    """Give the bytes of a sample of silence; None for a format that is more than its samples."""
    return FORMATS[format].silence


def available_formats(sample_rate_hz: int) -> tuple[AudioFormat, ...]:
    """List the formats this installation can write at this rate."""
    return tuple(
        name
        for name, row in FORMATS.items()
        if row.carries(sample_rate_hz) and (name != "aac" or _has_pyav())
    )


def check_format(format: AudioFormat, sample_rate_hz: int) -> None:
    """Refuse a format that cannot be written at this rate or with what is installed.

    Raises InvalidRequest with param `format` and code `unsupported_format`.
    """
    row = FORMATS.get(format)
    if row is None:
        raise _refusal("unknown format", sample_rate_hz)
    if not row.carries(sample_rate_hz):
        rates = ", ".join(map(str, row.rates_hz or ()))
        raise _refusal(
            f"{format} does not support {sample_rate_hz} Hz, only {rates} Hz", sample_rate_hz
        )
    if format == "aac" and not _has_pyav():
        raise _refusal("aac needs the extra aac; run ./scripts/setup aac", sample_rate_hz)


def rate_of(format: AudioFormat, asked_hz: int | None, server_rate_hz: int) -> int:
    """Give the rate to send a format at: as asked for, as usual for it, or the server's.

    Raises InvalidRequest, code `unsupported_format`, with param `sample_rate` for a rate that was
    asked for, else as `check_format`.
    """
    row = FORMATS.get(format)
    if row is not None and asked_hz is not None and not row.carries(asked_hz):
        rates = ", ".join(map(str, row.rates_hz or ()))
        raise InvalidRequest(
            f"sample_rate: {format} carries {rates} Hz; got {asked_hz}",
            param="sample_rate",
            code="unsupported_format",
        )
    rate_hz = asked_hz or (row.usual_rate_hz if row else None) or server_rate_hz
    check_format(format, rate_hz)
    return rate_hz


def make_encoder(
    format: AudioFormat,
    sample_rate_hz: int,
    *,
    is_stream: bool,
    comment: str | None = None,
    file: BinaryIO | None = None,
) -> Encoder:
    """Start a file of a format that `check_format` has let pass; see `FileOptions`."""
    options = FileOptions(is_stream=is_stream, comment=comment, file=file)
    return FORMATS[format].encoder(sample_rate_hz, options)


def _refusal(problem: str, sample_rate_hz: int) -> InvalidRequest:
    allowed = ", ".join(available_formats(sample_rate_hz))
    return InvalidRequest(
        f"format: {problem}; available at {sample_rate_hz} Hz: {allowed}",
        param="format",
        code="unsupported_format",
    )


def _has_pyav() -> bool:
    return find_spec("av") is not None
