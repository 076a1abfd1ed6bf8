"""Values of a text whose markup has been read: segments to speak, and pauses between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from qwen_tts_service.types import Language, Places, Stretch

from .places import shifted

MAX_PAUSE_S = 10.0
"""The longest pause; a longer one is shortened to it."""
BREAK_S: Mapping[str, float] = {
    "none": 0.0,
    "x-weak": 0.25,
    "weak": 0.5,
    "medium": 0.75,
    "strong": 1.0,
    "x-strong": 1.25,
}
"""Strength of a `<break>` -> seconds, as Azure documents them; medium is the default."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence that the caller wrote into the text.

    is_gap: it only stands between two parts, and is not heard if one of them has no sound
    """

    duration_s: float
    is_gap: bool = False


@dataclass(frozen=True, slots=True)
class VoiceChange:
    """Who speaks from here on; None is the speaker of the request."""

    speaker: str | None


OnVoice = Callable[[str], object]
"""Called with every name of a speaker in a text, as soon as its tag is read, or at the end of an
SSML document; may raise."""


def any_voice(_name: str) -> None:
    """Take any name for a speaker's: an `OnVoice` that checks nothing."""


@dataclass(frozen=True, slots=True)
class SayAs:
    """How a text is to be taken: attributes `interpret-as` and `format` of SSML's `say-as`."""

    kind: str
    format: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text that is spoken in one manner.

    speaker, language: None is that of the request
    rate, pitch: how fast and how high, as factors; 1 is as usual
    is_literal: said as it stands, not normalised
    is_mid_line: another sentence of its line comes before, so it begins with no mark of a line
    phonemes: how the text is pronounced, in the alphabet of espeak-ng
    places: where the text stands in the text as it was sent
    """

    text: str = ""
    speaker: str | None = None
    language: Language | None = None
    rate: float = 1.0
    pitch: float = 1.0
    phonemes: str | None = None
    say_as: SayAs | None = None
    is_literal: bool = False
    is_mid_line: bool = False
    places: Places = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A text whose markup has been read; `language` is what it says of itself as a whole.

    sent: the text as it was sent, in which the places of the segments are
    """

    segments: tuple[Segment | Pause, ...]
    language: Language | None = None
    warnings: tuple[str, ...] = ()
    sent: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """What there is to speak, without markup."""
        return " ".join(part.text for part in self.segments if isinstance(part, Segment))


@dataclass(slots=True)
class SegmentBuilder:
    """Collects segments and pauses.

    Text of one manner becomes one segment. Pauses with nothing but space between them are one.
    Blank text is kept only between two segments, where it keeps words apart.
    """

    _parts: list[Segment | Pause] = field(default_factory=list)
    _manner: Segment = field(default_factory=Segment)
    _texts: list[str] = field(default_factory=list)
    _chars: int = 0
    _places: list[Stretch] = field(default_factory=list)

    def add(self, text: str, manner: Segment, places: Places = ()) -> None:
        """Add text that is spoken in the manner of a segment without text."""
        if manner != self._manner:
            self.end_segment()
            self._manner = manner
        self._places += shifted(places, self._chars)
        self._add_text(text)

    def _add_text(self, text: str) -> None:
        self._texts.append(text)
        self._chars += len(text)

    def add_pause(self, duration_s: float) -> None:
        """Add silence; none at all still keeps words apart."""
        if duration_s <= 0:
            self._add_text(" ")
            return
        self.end_segment()
        self._drop_blank()
        if self._parts and isinstance(last := self._parts[-1], Pause):
            duration_s += last.duration_s
            self._parts.pop()
        self._parts.append(Pause(min(duration_s, MAX_PAUSE_S)))

    def end_segment(self) -> None:
        """Let what follows be a segment of its own, even if its manner is the same."""
        text, places = "".join(self._texts), tuple(self._places)
        self._texts.clear()
        self._places.clear()
        self._chars = 0
        is_after_text = bool(self._parts) and isinstance(self._parts[-1], Segment)
        if text.strip() or (text and is_after_text):
            self._parts.append(replace(self._manner, text=text, places=places))

    def build(self) -> tuple[Segment | Pause, ...]:
        """Return what was collected."""
        self.end_segment()
        self._drop_blank()
        return tuple(self._parts)

    def _drop_blank(self) -> None:
        while self._parts and isinstance(last := self._parts[-1], Segment) and last.text.isspace():
            self._parts.pop()
