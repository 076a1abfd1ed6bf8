"""Shared value types and protocols: requests, voices, utterances, audio streams."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Gender = Literal["male", "female", "neutral"]
AudioFormat = Literal["wav", "pcm", "mp3", "ogg", "opus", "flac", "aac", "mulaw", "alaw"]
NormalizeLevel = Literal["auto", "none", "light", "full"]
"""How much of a text is rewritten before it is spoken; see text/normalise.py."""
InputType = Literal["text", "ssml"]
"""What a text is: words, possibly with some markup, or an SSML document; see text/markup.py."""
OnUnspeakable = Literal["error", "silence"]
"""How text without a reading is handled: an error, or a short silence and a warning."""
TimestampUnit = Literal["sentence", "word"]
"""What is timed: whole sentences, or every word."""
Layout = Literal["full_text", "streaming_text"]
"""Where a model's text stands: all of it before the first frame, or along with the frames."""
ModelKind = Literal["custom_voice", "voice_design", "base"]
"""Where a Qwen3-TTS checkpoint has its voices from: its own, a description, a recording."""
MODEL_KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
FinishReason = Literal["stop", "length", "runaway", "cancelled", "error"]
Samples = NDArray[np.float32]
"""Mono audio, float32 [N] in [-1, 1]."""

ReportProgress = Callable[[str, float], None]
"""Called with a step of starting up and the fraction of it that is done, 0 to 1."""

MAX_SEED = 2**32 - 1
"""Largest value of `SpeechRequest.seed`."""

FRAME_S = 0.08
"""Seconds of audio in one codec frame; the unit of `SpeechRequest.max_frames` for every voice."""

Language = Literal[
    "chinese",
    "english",
    "japanese",
    "korean",
    "german",
    "french",
    "russian",
    "portuguese",
    "spanish",
    "italian",
]
"""The ten languages, named as Qwen3-TTS checkpoints name them."""


class Stretch(NamedTuple):
    """A stretch of a text, and the stretch of another text, the source, that it was made of.

    All four are positions in Unicode code points. If both are of equal length, they correspond
    character by character.
    """

    start: int
    end: int
    source_start: int
    source_end: int


Places = tuple[Stretch, ...]
"""Where a text comes from, in its order; what is in no stretch stands nowhere in the source."""


@dataclass(frozen=True, slots=True)
class Timestamp:
    """When a sentence or a word of a text is heard.

    text: as it was sent: `sent[start_char:end_char]`
    start_s, end_s: in the audio that is sent, without the silence around it
    start_char, end_char: in the text as it was sent, in Unicode code points
    """

    text: str
    start_s: float
    end_s: float
    start_char: int
    end_char: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceAttributes:
    """Requested attributes of the voice; every field is optional."""

    gender: Gender | None = None
    age: int | None = None
    emotion: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How codes are drawn; the same values serve the talker and the code predictor."""

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VoiceReference:
    """A recording to clone a voice from.

    samples: mono, at the rate of the model's codec (24 kHz), as it was recorded: float32 [N]
    transcript: exactly what is said in it, all of it; without one, how the speaker sounds is cloned
        and not how this recording was spoken
    """

    samples: Samples
    transcript: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVoice:
    """A cloned voice: all that speaking with it needs, to be stored and used again.

    What a Base model made of a `VoiceReference` (`CloningVoice.clone`); the encoders need not run
    again. Plain numbers, so that it goes into JSON and back as it is, and equal values are the
    same voice. It fits models of the same width only: 1.7B-Base 2048, 0.6B-Base 1024.

    embedding: how the speaker sounds; each number is a float32
    codes: the recording itself, frames of 80 ms of one code per codebook; () without a transcript
    transcript: what is said in the recording; "" without its codes
    """

    embedding: tuple[float, ...]
    codes: tuple[tuple[int, ...], ...] = ()
    transcript: str = ""

    def without_recording(self) -> "KeptVoice":
        """Return the same speaker without the recording."""
        return KeptVoice(embedding=self.embedding)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """One validated request. Exactly one of `text` and `tokens` is set.

    speaker: a name: of the checkpoint's own speakers, or of a kept voice
    voice: a cloned voice that has no name, or not yet: it speaks where `speaker` names nobody, so
        that names in the markup of a text still mean kept voices
    is_seed_drawn: the caller gave no seed, so another one may be tried after a runaway
    rate, pitch: how fast and how high, as factors; 1 is as usual. A voice without a rate of its
        own is stretched, one without a pitch says so in its utterance's warning
    phonemes: how the text is pronounced, in the alphabet of espeak-ng; or a warning
    pronunciations: pairs of a word and how it is spoken, checked
    timestamps: what to time, if anything
    places: where `text` stands in the text as it was sent; of parts that are to be timed
    sample_rate_hz: of the audio that is sent; None is as usual for the server and the format
    lead_in_ms, tail_ms: of silence before and behind the speech; max_frames does not count them
    is_uncut: spoken in one breath, however long it is
    """

    request_id: str
    seed: int
    is_seed_drawn: bool = False
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    attributes: VoiceAttributes = field(default_factory=VoiceAttributes)
    speaker: str | None = None
    voice: KeptVoice | None = None
    language: Language | None = None
    instruct: str | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    normalize: NormalizeLevel = "auto"
    input_type: InputType = "text"
    rate: float = 1.0
    pitch: float = 1.0
    phonemes: str | None = None
    pronunciations: tuple[tuple[str, str], ...] = ()
    on_unspeakable: OnUnspeakable = "error"
    max_frames: int = 1000
    timestamps: TimestampUnit | None = None
    places: Places = field(default=(), compare=False)
    sample_rate_hz: int | None = None
    lead_in_ms: int = 0
    tail_ms: int = 0
    is_uncut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceChoice:
    """Resolved voice of a request, and which attributes were applied.

    applied: attributes that took effect, for example ``("gender", "emotion")``
    not_applied: attribute -> reason, for example ``{"age": "speaker was given"}``
    """

    speaker: str
    language: Language
    instruct: str | None = None
    applied: tuple[str, ...] = ()
    not_applied: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """The engine after its last step; counters run from its start.

    steps, frames, failures: frame steps, frames made and steps failed so far
    rows:     utterances that advanced in the last step
    step_s:   how long the last step took
    active, paused, waiting: utterances that hold a slot, that wait in it for their reader or
        the rest of their text, and that wait for a slot
    """

    steps: int = 0
    frames: int = 0
    failures: int = 0
    rows: int = 0
    step_s: float = 0.0
    active: int = 0
    paused: int = 0
    waiting: int = 0


class PcmStream(Protocol):
    """Audio while it is being made, read by one consumer on the event loop.

    Iterating yields non-empty float32 [N] arrays. Iteration ends normally once the
    speech has ended (`finish_reason` then says how) and raises `TTSError` if it failed.
    """

    @property
    def finish_reason(self) -> FinishReason | None: ...

    def __aiter__(self) -> AsyncIterator[Samples]: ...

    async def aclose(self) -> None:
        """Stop making audio and free what it holds; harmless when called again or late."""


class Utterance(Protocol):
    """A part of a text made ready to speak: all that can be refused has been refused."""

    @property
    def choice(self) -> VoiceChoice: ...

    @property
    def warning(self) -> str | None:
        """Warning for the caller before the first byte, in ASCII."""

    @property
    def expected_s(self) -> float:
        """Estimated seconds of audio."""

    def speak(self) -> PcmStream:
        """Start speaking; returns at once. Called on the event loop that reads the stream."""


class Voice(Protocol):
    """Something that speaks: the Qwen model or the embedded espeak-ng."""

    model_name: str
    sample_rate_hz: int
    device: str
    longest_part_chars: int | None
    """Longer texts are spoken in parts; None for a voice that takes a text of any length."""
    has_own_rate: bool
    """Whether it speaks at a request's rate by itself; the speech of others is time-stretched."""
    slots: int | None
    """How many utterances it has memory to speak at once; None for any number."""
    facts: Mapping[str, str]
    """Facts for /health: attention, number formats."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names that a request's `speaker` may have; kept voices come and go."""

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        """Choose speaker, language and instruct; needs no text, raises `TTSError` on refusal.

        A request without a language and without tokens is in the default language, or English.
        """

    def prepare(self, request: SpeechRequest) -> Utterance:
        """Choose the voice and read the text; pure, on any thread. Raises `TTSError` on refusal."""

    def warm_up(self) -> None:
        """Make one real utterance on the calling thread; raises if that fails."""

    @property
    def is_healthy(self) -> bool:
        """Whether it can still speak; once False it stays so."""

    def close(self) -> None:
        """Stop for good and free the model."""


@runtime_checkable
class CloningVoice(Protocol):
    """What a voice also is if it may clone voices; whether it can, its model decides."""

    def clone(self, reference: VoiceReference) -> KeptVoice:
        """Make a voice of a recording; takes seconds, on any thread but the event loop's.

        Raises CannotClone if the loaded model cannot, and InvalidRequest for a recording that is
        too short or no sound at all.
        """


@dataclass(frozen=True, slots=True)
class WordMark:
    """A word that is heard: samples of its utterance's audio, code points of its text."""

    start_sample: int
    end_sample: int
    start_char: int
    end_char: int


@runtime_checkable
class WordTimedStream(Protocol):
    """What a `PcmStream` also is if it finds out by itself when each word is heard."""

    def take_words(self) -> list[WordMark]:
        """Take the words of the samples that have been given out, those not taken yet."""


def words_of(stream: object) -> list[WordMark]:
    """Take the words of a stream that may know some, as `WordTimedStream.take_words`."""
    return stream.take_words() if isinstance(stream, WordTimedStream) else []


@runtime_checkable
class WordTimingVoice(Protocol):
    """What a voice also is if its streams are `WordTimedStream` for a request that wants words."""

    times_words: Literal[True]


class WordAligner(Protocol):
    """Finds the words of a text in its audio, for voices that are no `WordTimingVoice`."""

    def align(
        self, samples: Samples, sample_rate_hz: int, text: str, language: Language
    ) -> list[WordMark]:
        """Find every word of a sentence, float32 [N]; takes long, on any thread."""


class OpenUtterance(PcmStream, Protocol):
    """An utterance whose text is still being written, on one event loop.

    Iterating starts it, and waits whenever the text so far has been spoken. What it sounds like
    does not depend on the pieces in which the text came.
    """

    @property
    def choice(self) -> VoiceChoice: ...

    @property
    def waits_for_text(self) -> bool:
        """Whether it is read, not finished, and all the text so far has been spoken."""

    def feed(self, text: str) -> None:
        """Add text; raises InvalidRequest when it has become too long."""

    def finish(self) -> None:
        """Say that the text is complete."""


@runtime_checkable
class OpenVoice(Protocol):
    """What a voice also is if it can begin to speak before the text is complete."""

    def open(self, request: SpeechRequest) -> OpenUtterance:
        """Prepare to speak a request with a language and without a text; raises `TTSError`."""
