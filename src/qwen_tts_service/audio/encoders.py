"""Audio encoders: 16-bit samples to WAV, raw, MP3, FLAC, Opus and AAC, whole or streamed.

Two verbs: `encode` while samples come, `finish` once they have ended. A streaming encoder gives
bytes as early as its format allows and never changes what it gave. A whole-file encoder gives
everything at `finish`, with sizes and tags filled in, or writes it into a file on disk. The samples
that a decoder gets are the same.
"""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import soundfile

from .label import id3_tag
from .pcm import BYTES_PER_SAMPLE, Pcm16, to_bytes
from .wav import wav_header

logger = logging.getLogger(__name__)

# libsndfile ends an Opus page once a second; so heard speech would start a second late. With
# 80 ms the first page leaves with the second codec frame, for 6 % more bytes.
OPUS_PAGE_MS = 80.0
_SET_OGG_PAGE_LATENCY_MS = 0x1302  # SFC_SET_OGG_PAGE_LATENCY_MS in sndfile.h

AAC_BITS_PER_S = 64_000


class Encoder(Protocol):
    """One file being written. Not safe to use from two threads at the same time."""

    def encode(self, samples: Pcm16) -> bytes:
        """Take int16 [N] and give the bytes that are ready, often none."""

    def finish(self) -> bytes:
        """Give the remaining bytes; the encoder is closed then.

        An mp3, flac or aac that was fed no sample has no bytes at all.
        """

    def close(self) -> None:
        """Free what it holds; harmless when repeated or after `finish`."""


class RawEncoder:
    """Samples without a header, as `convert` gives them; stream and file are the same bytes."""

    def __init__(self, convert: Callable[[Pcm16], bytes]) -> None:
        self.encode = convert

    def finish(self) -> bytes:
        return b""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How a file is written.

    comment: goes into the metadata of formats that have any
    file: an empty one that can be sought in, for a whole file that is not to be kept in memory;
        bytes that the encoder gives besides are the caller's to write into it
    """

    is_stream: bool
    comment: str | None = None
    file: BinaryIO | None = None


class WavStreamEncoder:
    """A WAV file of unknown length: the header, then samples as they come."""

    def __init__(self, sample_rate_hz: int, comment: str | None) -> None:
        self._header = wav_header(sample_rate_hz, None, comment)

    def encode(self, samples: Pcm16) -> bytes:
        return self._take_header() + to_bytes(samples)

    def finish(self) -> bytes:
        return self._take_header()

    def close(self) -> None:
        """Nothing is held."""

    def _take_header(self) -> bytes:
        header, self._header = self._header, b""
        return header


class WavFileEncoder:
    """A whole WAV file with its exact sizes; over 4 GiB, which it cannot say, with none."""

    def __init__(
        self, sample_rate_hz: int, comment: str | None, file: BinaryIO | None = None
    ) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._comment = comment
        self._file = file
        self._sink = _FileSink()
        self._pcm_bytes = 0
        self._write(wav_header(sample_rate_hz, 0, comment))

    def encode(self, samples: Pcm16) -> bytes:
        self._pcm_bytes += self._write(to_bytes(samples))
        return b""

    def finish(self) -> bytes:
        assert self._pcm_bytes % BYTES_PER_SAMPLE == 0
        target = self._file or self._sink
        target.seek(0)
        target.write(wav_header(self._sample_rate_hz, self._pcm_bytes, self._comment))
        target.seek(0, io.SEEK_END)
        data = b"" if self._file else self._sink.take_all()
        self.close()
        return data

    def close(self) -> None:
        self._sink, self._pcm_bytes = _FileSink(), 0

    def _write(self, data: bytes) -> int:
        return (self._file or self._sink).write(data)


class _FileSink(io.BytesIO):
    """Where a whole file is written in memory: one may go back and fill in what was learnt late."""

    def take(self) -> bytes:
        """Nothing is ready before the end."""
        return b""

    def take_all(self) -> bytes:
        """Give the file."""
        return self.getvalue()


class _DiskSink:
    """Where libsndfile writes a file on disk, behind a tag.

    Its errors are raised after the samples at which they came: libsndfile would print them.
    """

    def __init__(self, file: BinaryIO, tag: bytes) -> None:
        self._file = file
        self._error: OSError | None = None
        self._start = len(tag)
        self._try(file.write, tag)

    def write(self, data: bytes) -> int:
        self._try(self._file.write, data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = self._start if whence == io.SEEK_SET else 0
        self._try(self._file.seek, start + offset, whence)
        return self.tell()

    def tell(self) -> int:
        return self._file.tell() - self._start

    def _try(self, work: Callable[..., int], *args: object) -> None:
        try:
            work(*args)
        except OSError as error:
            self._error = error

    def take(self) -> bytes:
        """Give nothing: it is on the disk."""
        if self._error is not None:
            raise self._error
        return b""

    take_all = take


class _StreamSink:
    """Where libsndfile writes a stream: it seeks as in a file, but what is written has gone.

    A write anywhere but at the end is a header corrected too late; it is dropped. A sink that
    refuses to seek instead makes libsndfile append a second header, and print to stderr.
    """

    def __init__(self) -> None:
        self._ready = bytearray()
        self._position = 0
        self._end = 0

    def write(self, data: bytes) -> int:
        if self._position == self._end:
            if not self._is_placeholder(data):
                self._ready += data
            self._end += len(data)
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """Give what was written since the last call."""
        data = bytes(self._ready)
        self._ready.clear()
        return data

    def take_all(self) -> bytes:
        """Give the rest."""
        return self.take()

    def _is_placeholder(self, data: bytes) -> bool:
        """LAME's first mp3 frame is empty, kept for a tag; unfilled it is 24 ms of silence."""
        return self._end == 0 and data[:1] == b"\xff" and not any(data[4:])


class SndfileEncoder:
    """mp3, flac, or Opus in Ogg, by libsndfile.

    The comment goes into an mp3 by a tag of our own, since libsndfile's is taken for the frame that
    `_StreamSink` drops.
    """

    def __init__(self, sample_rate_hz: int, options: FileOptions, **settings: Any) -> None:
        comment, is_mp3 = options.comment, settings["format"] == "MP3"
        self._tag = id3_tag(comment) if comment is not None and is_mp3 else b""
        self._sink: _StreamSink | _DiskSink | _FileSink = _FileSink()
        if options.is_stream:
            self._sink = _StreamSink()
        elif options.file is not None:
            self._sink, self._tag = _DiskSink(options.file, self._tag), b""
        self._file = soundfile.SoundFile(
            cast("BinaryIO", self._sink), "w", sample_rate_hz, channels=1, **settings
        )
        if options.is_stream and settings["subtype"] == "OPUS":
            _shorten_ogg_pages(self._file)
        if comment is not None and not is_mp3:
            self._file.comment = comment

    def encode(self, samples: Pcm16) -> bytes:
        self._file.write(samples)
        return self._behind_tag(self._sink.take())

    def finish(self) -> bytes:
        self._file.close()
        return self._behind_tag(self._sink.take_all())

    def close(self) -> None:
        self._file.close()

    def _behind_tag(self, data: bytes) -> bytes:
        """The tag goes out with the first audio, not before it."""
        if not data:
            return data
        tag, self._tag = self._tag, b""
        return tag + data


def _shorten_ogg_pages(file: soundfile.SoundFile) -> None:
    """Let Opus pages leave early; soundfile has no public way to say so."""
    try:
        latency_ms = soundfile._ffi.new("double *", OPUS_PAGE_MS)  # noqa: SLF001 - see above
        soundfile._snd.sf_command(  # noqa: SLF001 - see above
            file._file,  # noqa: SLF001 - see above
            _SET_OGG_PAGE_LATENCY_MS,
            latency_ms,
            8,  # bytes of a double
        )
    except (AttributeError, TypeError):
        logger.warning(
            "this soundfile cannot shorten Ogg pages; ogg and opus streams start a second late"
        )


class _AppendSink:
    """Where PyAV writes; without `seek`, so that it never tries to go back."""

    def __init__(self) -> None:
        self._ready = bytearray()

    def write(self, data: bytes) -> int:
        self._ready += data
        return len(data)

    def take(self) -> bytes:
        """Give what was written since the last call."""
        data = bytes(self._ready)
        self._ready.clear()
        return data


class AacEncoder:
    """AAC in ADTS frames, by FFmpeg; a stream and a whole file are the same bytes."""

    def __init__(self, sample_rate_hz: int) -> None:
        # An extra, and 100 MB: imported by whoever asks for aac.
        import av  # noqa: PLC0415 - see above

        self._new_frame = av.AudioFrame.from_ndarray
        self._sample_rate_hz = sample_rate_hz
        self._sink = _AppendSink()
        self._container = av.open(self._sink, "w", format="adts", options={"flush_packets": "1"})
        self._track: Any = self._container.add_stream("aac", rate=sample_rate_hz, layout="mono")
        self._track.bit_rate = AAC_BITS_PER_S
        self._fed_samples = 0

    def encode(self, samples: Pcm16) -> bytes:
        if len(samples) == 0:
            return b""
        frame = self._new_frame(np.ascontiguousarray(samples)[None], format="s16", layout="mono")
        frame.sample_rate = self._sample_rate_hz
        frame.pts = self._fed_samples
        self._fed_samples += len(samples)
        self._container.mux(self._track.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        self._container.mux(self._track.encode(None))
        self.close()
        return self._sink.take()

    def close(self) -> None:
        self._container.close()
