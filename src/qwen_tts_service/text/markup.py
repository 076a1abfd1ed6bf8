"""Markup in plain text, whole or while it is being written: tags, entities, pauses, voices.

    "Tom &amp; <b>Jerry</b>[pause:1s] [voice:ryan] Hi" -> "Tom & Jerry", Pause(1.0), " ",
    VoiceChange("ryan"), " Hi"

What is not certainly markup stays: `a < b`, `<3`, `List<String>`, `<user@example.com>`. SSML is
read by ssml.py; a text that begins with `<speak` and is not well-formed is read here.
"""

import html
import re
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from html.entities import html5
from importlib.resources import files
from typing import Any

from qwen_tts_service.types import InputType, Places, Stretch

from .normalise import is_within_markdown
from .places import cut
from .segments import (
    BREAK_S,
    OnVoice,
    ParsedText,
    Pause,
    Segment,
    SegmentBuilder,
    VoiceChange,
    any_voice,
)
from .split import SentenceSplitter, is_speakable
from .ssml import MalformedSsml, is_ssml, parse_ssml

Event = str | Pause | VoiceChange


def parse(
    text: str,
    input_type: InputType = "text",
    *,
    has_markup: bool = True,
    keeps_places: bool = False,
    on_voice: OnVoice = any_voice,
) -> ParsedText:
    """Read a text's markup: SSML where it is that, else tags, entities, pauses and voices.

    has_markup: False reads `[pause:1s]` only, and SSML if `input_type` asks for it
    keeps_places: whether segments know where they stand in the text
    raises: InvalidRequest that says line and column for malformed SSML, if it was asked for
    """
    if input_type == "ssml":
        return parse_ssml(text, on_voice, keeps_places=keeps_places)
    plain_reader = MarkupReader(has_markup=has_markup, keeps_places=keeps_places, on_voice=on_voice)
    if not (has_markup and is_ssml(text)):
        return _parse_plain(text, plain_reader)
    try:
        return parse_ssml(text, on_voice, keeps_places=keeps_places)
    except MalformedSsml as error:
        plain = _parse_plain(text, plain_reader)
        warning = f"{error.message}; it was read without its tags"
        return replace(plain, warnings=(warning,))


def _parse_plain(text: str, reader: "MarkupReader") -> ParsedText:
    builder, manner, read_chars = SegmentBuilder(), Segment(), 0
    for event in (*reader.feed(text), *reader.finish()):
        if isinstance(event, VoiceChange):
            manner = replace(manner, speaker=event.speaker)
        elif isinstance(event, Pause):
            builder.add_pause(event.duration_s)
            read_chars += 1
        else:
            places = cut(reader.places, read_chars, read_chars + len(event))
            builder.add(event, manner, places)
            read_chars += len(event)
    return ParsedText(builder.build(), sent=text)


# What is markup -------------------------------------------------------------------------

_TABLE: Mapping[str, Any] = tomllib.loads(
    files(__package__).joinpath("markup.toml").read_text("utf-8")
)
_TAGS: Mapping[str, frozenset[str]] = {
    kind: frozenset(names.split()) for kind, names in _TABLE["tags"].items()
}
_GAP_OF_TAG: Mapping[str, str] = {
    name: gap
    for kind, gap in (("line", "\n"), ("paragraph", "\n\n"), ("word", " "))
    for name in _TAGS[kind]
}
_UNITS_S: Mapping[str, float] = {
    unit: float(seconds)
    for seconds, units in _TABLE["pause"]["units_s"].items()
    for unit in units.split()
} | {"": 1.0}
_PAUSES = frozenset(_TABLE["pause"]["names"].split())
_VOICES = frozenset(_TABLE["voice"]["names"].split())


def _prefixes(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name[:end] for name in names for end in range(len(name) + 1))


_TAG_PREFIXES = _prefixes(_TAGS["known"])
_BRACKET_PREFIXES = _prefixes(_PAUSES | _VOICES)

_DIGITS = "0123456789"
_RAISED = str.maketrans(_DIGITS, "⁰¹²³⁴⁵⁶⁷⁸⁹")
_MAX_CHARS = 1000
"""Longest tag, and most that is held for the end of a link, code or table row: what is longer is
text, so that no text is held for long."""
_CONTEXT_CHARS = 16  # kept of the text before, for _is_type and _END_OF_DROPPED
# Where markup may begin; with what must come next, so that other text is passed on at once.
_SPECIAL = re.compile(r"<(?=[/!?A-Za-z]|\Z)|&(?=[#A-Za-z]|\Z)|[\[【](?=\s{0,3}+/?+(?:[^\W\d_]|\Z))")
_NAME = r"(?P<name>[A-Za-z][A-Za-z0-9]*+(?:[:-][A-Za-z0-9]++)*+)"
_KEY = r"[A-Za-z_:@][\w:.@-]*+"
_ATTRIBUTE = (
    rf"(?:{_KEY}\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'|[^\s\"'<>`]++)"
    rf"|(?:{'|'.join(sorted(_TAGS['alone']))})(?![\w:.@-]))"
)
_TAG = re.compile(rf"<(?P<close>/?){_NAME}(?P<attributes>(?:\s++{_ATTRIBUTE})*+)\s*+(?P<empty>/?)>")
_ATTRIBUTES = re.compile(rf"\s({_KEY})\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s\"'<>`]++))")
# What may still become a tag. Every beginning of a tag must match, or streams would differ.
_OPEN_TAG = re.compile(
    rf"</?(?:(?P<start>(?:[A-Za-z][A-Za-z0-9]*+(?:[:-][A-Za-z0-9]*+)*+)?)"
    rf"|{_NAME}(?:\s++{_ATTRIBUTE})*+\s*+"
    rf"(?:(?<=\s){_KEY}\s*+(?:=\s*+(?:\"[^\"]*+|'[^']*+|[^\s\"'<>`]*+))?)?/?)\Z"
)
_DECLARATION = re.compile(r"<(?:!doctype|\?xml)\b[^<>]*+>", re.IGNORECASE)
_OPEN_DECLARATION = re.compile(
    r"<(?:!(?:-|[a-z]{0,7}|doctype\b[^<>]*+)|\?(?:[a-z]{0,3}|xml\b[^<>]*+))\Z", re.IGNORECASE
)
_COMMENT = "<!--"
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{0,31});")
_OPEN_ENTITY = re.compile(r"&(?:#\d{0,7}|#[xX][0-9a-fA-F]{0,6}|[A-Za-z][A-Za-z0-9]{0,31})?\Z")
_BRACKET = re.compile(
    r"[\[【]\s{0,3}+(?P<close>/?)(?P<name>[^\W\d_]{1,20}+)(?P<rest>[^\[\]【】\n]{0,80}+)[\]】]"
)
_OPEN_BRACKET = re.compile(
    r"[\[【]\s{0,3}+(?P<close>/?)(?P<name>[^\W\d_]{0,20}+)(?P<rest>[^\[\]【】\n]{0,80}+)\Z"
)
_LENGTH = re.compile(
    r"(?P<colon>\s*+[:：=]|\s)?\s*+(?P<length>[0-9]{1,6}(?:[.,][0-9]{1,6})?)\s*+"
    r"(?P<unit>[^\W\d_]*+)\.?\s*+"
)
_EXACT_PAUSE = re.compile(
    r"\[pause:\s*[0-9]{1,6}(?:[.,][0-9]{1,6})?\s*(?:ms|s)?\s*\]", re.IGNORECASE
)
_WHO = re.compile(r"\s*+[:：=]\s*+(?P<who>\S(?:.{0,62}\S)?)\s*+")
_TIME = re.compile(r"\W*([0-9]{0,6}(?:\.[0-9]{0,6})?)\s*(ms|s)\W*", re.IGNORECASE)


class MarkupReader:
    """Read the markup of a text that is being written.

    However a text is cut into pieces, the events are the same but for the cuts in their text.

    has_markup: False reads nothing but `[pause:1s]`
    keeps_places: whether `places` is filled
    """

    def __init__(
        self, *, has_markup: bool, keeps_places: bool = False, on_voice: OnVoice = any_voice
    ) -> None:
        self._has_markup = has_markup
        self._keeps_places = keeps_places
        self._on_voice = on_voice
        self._text = ""
        self._at = 0  # what is before has been read
        self._dropped_chars = 0  # of what was before `_text`
        self._said_chars = 0
        self.places: list[Stretch] = []
        """Where the texts of all events come from; a pause between them counts as one character."""
        self._dropped_until: re.Pattern[str] | None = None
        self._is_raised = False  # a `<sup>` has begun, and only digits have come since

    def feed(self, piece: str) -> list[Event]:
        """Take the next piece of text; return what it certainly says."""
        self._text += piece
        return _joined(self._events(is_all=False))

    def finish(self) -> list[Event]:
        """Say that the text is complete; return what is left."""
        events = _joined(self._events(is_all=True))
        self._text, self._at, self._dropped_until, self._is_raised = "", 0, None, False
        return events

    def _events(self, *, is_all: bool) -> Iterator[Event]:
        while self._at < len(self._text):
            if self._dropped_until is not None:
                if not self._skip(self._dropped_until):
                    break
                continue
            special = _SPECIAL.search(self._text, self._at)
            end = special.start() if special else len(self._text)
            start, self._at = self._at, end
            yield self._placed(self._raised(self._text[start:end]), start)
            if special is None:
                break
            if not is_all and self._is_open():
                break
            start = self._at
            yield self._placed(self._take(), start)
        known = max(0, self._at - _CONTEXT_CHARS)
        self._text, self._at = self._text[known:], self._at - known
        self._dropped_chars += known

    def _placed(self, event: Event, start: int) -> Event:
        """Note that an event was made of the text from `start` on."""
        if isinstance(event, VoiceChange) or not self._keeps_places:
            return event
        length = len(event) if isinstance(event, str) else 1
        if isinstance(event, str) and event.strip():
            source = (start + self._dropped_chars, self._at + self._dropped_chars)
            self.places.append(Stretch(self._said_chars, self._said_chars + length, *source))
        self._said_chars += length
        return event

    def _raised(self, text: str) -> str:
        """Raise the digits that a `<sup>` begins with: "10<sup>2</sup>" is not 102."""
        if not self._is_raised:
            return text
        digits = len(text) - len(text.lstrip(_DIGITS))
        self._is_raised = digits == len(text)
        return text[:digits].translate(_RAISED) + text[digits:]

    def _skip(self, until: re.Pattern[str]) -> bool:
        """Skip what is not for speaking; False if its end has not come yet."""
        end = until.search(self._text, self._at)
        if end is None:
            self._at = max(self._at, len(self._text) - _CONTEXT_CHARS)
            return False
        self._at, self._dropped_until = end.end(), None
        return True

    def _is_open(self) -> bool:
        """Whether what begins here may become markup when more text has come."""
        text, at = self._text, self._at
        if len(text) - at >= _MAX_CHARS or not (self._has_markup or text[at] == "["):
            return False
        if text[at] == "&":
            return _OPEN_ENTITY.match(text, at) is not None
        if text[at] != "<":
            found = _OPEN_BRACKET.match(text, at)
            if found is None:
                return False
            names = _PAUSES | _VOICES if found["rest"] else _BRACKET_PREFIXES
            return found["name"].casefold() in names
        if found := _OPEN_TAG.match(text, at):
            if (start := found["start"]) is not None:
                return start.lower() in _TAG_PREFIXES
            return found["name"].lower() in _TAGS["known"]
        return _OPEN_DECLARATION.match(text, at) is not None

    def _take(self) -> Event:
        """Read what begins here: markup, or a single character of text."""
        found, event = self._markup()
        if found is None or event is None:
            self._at += 1
            return self._text[self._at - 1]
        self._at = found
        return event

    def _markup(self) -> tuple[int | None, Event | None]:
        """Where the markup that begins here ends and what it says; None if it is none."""
        text, at = self._text, self._at
        limit = at + _MAX_CHARS
        if text[at] in "[【":
            found = _BRACKET.match(text, at, limit)
            return (found.end(), self._bracket(found)) if found else (None, None)
        if not self._has_markup:
            return None, None
        if text[at] == "&":
            found = _ENTITY.match(text, at, limit)
            return (found.end(), _entity(found[0])) if found else (None, None)
        if text.startswith(_COMMENT, at):
            self._dropped_until = re.compile("-->")
            return at + len(_COMMENT), ""
        if found := _DECLARATION.match(text, at, limit):
            return found.end(), ""
        found = _TAG.match(text, at, limit)
        return (found.end(), self._tag(found)) if found else (None, None)

    def _tag(self, tag: re.Match[str]) -> Event | None:
        name = tag["name"].lower()
        if name not in _TAGS["known"] or _is_type(tag):
            return None
        self._is_raised = name == "sup" and not (tag["close"] or tag["empty"])
        if name == "break" and not tag["close"]:
            return Pause(_break_s(tag["attributes"]))
        if name in _TAGS["dropped"] and not (tag["close"] or tag["empty"]):
            self._dropped_until = re.compile(rf"</{name}\s{{0,3}}>", re.IGNORECASE)
        return _GAP_OF_TAG.get(name, "")

    def _bracket(self, found: re.Match[str]) -> Event | None:
        name, rest = found["name"].casefold(), found["rest"]
        if not self._has_markup and not _EXACT_PAUSE.fullmatch(found[0]):
            return None
        if name in _VOICES:
            if found["close"]:
                return None if rest.strip() else VoiceChange(None)
            if who := _WHO.fullmatch(rest):
                self._on_voice(who["who"])
            return VoiceChange(who["who"]) if who else None
        if name not in _PAUSES or found["close"]:
            return None
        length = _LENGTH.fullmatch(rest)
        unit_s = _UNITS_S.get(length["unit"].casefold()) if length else None
        if length is None or unit_s is None or (name.isascii() and not length["colon"]):
            return None
        return Pause(float(length["length"].replace(",", ".")) * unit_s)


def _joined(events: Iterator[Event]) -> list[Event]:
    """Join texts that follow each other."""
    joined: list[Event] = []
    texts: list[str] = []
    for event in events:
        if isinstance(event, str):
            texts.append(event)
            continue
        if text := "".join(texts):
            joined.append(text)
        texts.clear()
        joined.append(event)
    if text := "".join(texts):
        joined.append(text)
    return joined


def _entity(entity: str) -> str | None:
    """Decode a character reference of HTML; None for a name that is not one."""
    if entity[1] != "#" and entity[1:] not in html5:
        return None
    return html.unescape(entity)


def _is_type(tag: re.Match[str]) -> bool:
    """Whether this is code that looks like a tag: `List<Object>`, `#include <map>`."""
    if tag.string.endswith("#include ", 0, tag.start()):
        return True
    if tag["close"] or tag["attributes"] or tag["empty"]:
        return False
    name, before = tag["name"], tag.string[max(0, tag.start() - 1) : tag.start()]
    has_capital = name[0].isupper() and (len(name) == 1 or not name.isupper())
    is_type = has_capital or name.lower() in _TAGS["type"]
    is_after_word = before.isascii() and (before.isalnum() or before == "_")
    return is_type and is_after_word and name.lower() not in _TAGS["never_a_type"]


def _break_s(attributes: str) -> float:
    """Length of a `<break>`; what is not understood counts as its default, medium."""
    given = {
        key.lower(): double or single or plain
        for key, double, single, plain in _ATTRIBUTES.findall(attributes)
    }
    time = _TIME.fullmatch(given.get("time", ""))
    if time and time[1].strip("."):
        return float(time[1]) * _UNITS_S[time[2].lower()]
    return BREAK_S.get(given.get("strength", "").lower(), BREAK_S["medium"])


# Sentences ------------------------------------------------------------------------------

_LINE_END = re.compile(r"\n\s*\Z")


def _is_speakable(sentence: ParsedText) -> bool:
    return is_speakable(sentence.text)


class SentenceReader:
    """Give out the sentences of a text that is being written, with their pauses and voices.

    However a text is cut into pieces, the sentences are the same. A change of voice ends a
    sentence. What has no words is left out, but its pauses come before what follows.
    """

    def __init__(
        self,
        *,
        has_markup: bool,
        keeps_places: bool = False,
        has_words: Callable[[ParsedText], bool] = _is_speakable,
        on_voice: OnVoice = any_voice,
    ) -> None:
        self._has_words = has_words
        self._reader = MarkupReader(
            has_markup=has_markup, keeps_places=keeps_places, on_voice=on_voice
        )
        self._splitter = SentenceSplitter()
        self._has_markup = has_markup
        self._manner = Segment()
        self._held = ""  # sentences that are read together with the next one
        self._is_mid_line = False
        self._pauses: deque[tuple[int, Pause]] = deque()  # by their position in the text
        self._read_chars = 0
        self._given_chars = 0
        self._waiting: list[Pause] = []  # pauses of what has been left out
        self.left_out: ParsedText | None = None
        """The last sentence that has been left out."""

    def feed(self, piece: str) -> list[ParsedText]:
        """Take the next piece of text; return the sentences that are now complete."""
        return list(self._sentences(self._reader.feed(piece)))

    def finish(self) -> list[ParsedText]:
        """Return what is left."""
        return [*self._sentences(self._reader.finish()), *self._end_stretch()]

    def _sentences(self, events: list[Event]) -> Iterator[ParsedText]:
        for event in events:
            if isinstance(event, VoiceChange):
                if event.speaker != self._manner.speaker:
                    yield from self._end_stretch()
                    self._manner = Segment(speaker=event.speaker)
                continue
            if isinstance(event, Pause):
                self._pauses.append((self._read_chars, event))
            # The space keeps the words before and behind a pause apart.
            text = " " if isinstance(event, Pause) else event
            self._read_chars += len(text)
            for sentence in self._splitter.feed(text):
                self._held += sentence
                if not self._is_within_markdown():
                    yield from self._parsed()

    def _end_stretch(self) -> Iterator[ParsedText]:
        """What follows is by another speaker, or nothing."""
        self._held += "".join(self._splitter.finish())
        yield from self._parsed()
        self._is_mid_line = False

    def _is_within_markdown(self) -> bool:
        """Whether what is held ends where only the whole line says how it is read."""
        end = self._given_chars + len(self._held)
        positions = [position for position, _ in self._pauses if position < end]
        text = self._held[positions[-1] - self._given_chars :] if positions else self._held
        is_mid_line = self._is_mid_line and not positions
        may_be = self._has_markup and len(self._held) < _MAX_CHARS
        return may_be and is_within_markdown(text, is_mid_line=is_mid_line)

    def _parsed(self) -> Iterator[ParsedText]:
        sentence, self._held = self._held, ""
        if not sentence:
            return
        parsed = self._with_pauses(sentence)
        if self._has_words(parsed):
            yield parsed
        else:
            self.left_out = parsed
            self._waiting += [p for p in parsed.segments if isinstance(p, Pause)]

    def _with_pauses(self, sentence: str) -> ParsedText:
        builder = SegmentBuilder()
        for pause in self._waiting:
            builder.add_pause(pause.duration_s)
        self._waiting = []
        start, self._given_chars = self._given_chars, self._given_chars + len(sentence)
        at = start
        while self._pauses and self._pauses[0][0] < self._given_chars:
            position, pause = self._pauses.popleft()
            builder.add(sentence[at - start : position - start], *self._manner_at(at, position))
            builder.add_pause(pause.duration_s)
            at = position
        builder.add(sentence[at - start :], *self._manner_at(at, self._given_chars))
        parts = list(builder.build())
        if parts and self._is_mid_line and isinstance(first := parts[0], Segment):
            parts[0] = replace(first, is_mid_line=True)
        last = parts[-1] if parts else None
        self._is_mid_line = isinstance(last, Segment) and not _LINE_END.search(last.text)
        return ParsedText(tuple(parts))

    def _manner_at(self, start: int, end: int) -> tuple[Segment, Places]:
        return self._manner, cut(self._reader.places, start, end)
