"""SSML: a document of speech -> segments and pauses, by expat with limits.

Entities, document types and deep nesting are refused. A tag that is not known passes its text on
with a warning. Which tags are known, and what voices make of them, is in docs/ssml.md.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from xml.parsers import expat

from qwen_tts_service.errors import InvalidRequest, printable
from qwen_tts_service.types import Language, Places, Stretch

from .language import parse_language
from .places import cut
from .say_as import SAY_AS_KINDS
from .segments import BREAK_S, MAX_PAUSE_S, OnVoice, ParsedText, SayAs, Segment, SegmentBuilder

MAX_DEPTH = 50
MAX_WARNINGS = 8
MIN_FACTOR, MAX_FACTOR = 0.5, 2.0
"""Of rate and pitch."""

_BLANK = "\ufeff \t\r\n"
_BEGINNING = re.compile(r"(?:<\?xml[^<>]{0,200}>\s{0,20})?<speak[\s/>]")
_OPEN_BEGINNING = re.compile(
    r"(?:<\?xml[^<>]{0,200}>\s{0,20})?(?:<|<s|<sp|<spe|<spea|<speak)?"
    r"|(?:<|<\?|<\?x|<\?xm|<\?xml[^<>]{0,200})"
)
_WORD_OR_SPACE = re.compile(r"\s+|\S+")
_TIME = re.compile(r"\+?([0-9]{1,6}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})\s*(ms|s)", re.IGNORECASE)
_PERCENT = re.compile(r"([+-]?)([0-9]{1,4}(?:\.[0-9]{1,3})?)\s*%")
_SEMITONES = re.compile(r"([+-][0-9]{1,2}(?:\.[0-9]{1,3})?)\s*st")
_HERTZ = re.compile(r"[+-]?[0-9]{1,5}(?:\.[0-9]{1,3})?\s*hz")
_FACTOR = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,3})?|\.[0-9]{1,3}")
_PHONEMES = re.compile(r"[!-Z\\^-~ ]{1,200}")  # ASCII, but for the brackets that end them
_RATES: Mapping[str, float] = {
    "x-slow": 0.5,
    "slow": 0.75,
    "medium": 1.0,
    "default": 1.0,
    "fast": 1.25,
    "x-fast": 1.5,
}
_PITCHES: Mapping[str, float] = {
    "x-low": 0.55,
    "low": 0.8,
    "medium": 1.0,
    "default": 1.0,
    "high": 1.2,
    "x-high": 1.45,
}
"""As Azure documents them."""
# Tags of vendors, which are not SSML whatever they are called.
_FOREIGN_PREFIXES = ("mstts:", "amazon:", "google:")


class MalformedSsml(InvalidRequest):
    """A text is not well-formed SSML; the message says line, column and what is wrong."""


def is_ssml(text: str) -> bool:
    """Whether a text begins with the tag `<speak>`."""
    return _BEGINNING.match(text.lstrip(_BLANK)) is not None


def could_be_ssml(beginning: str) -> bool:
    """Whether a text that begins so may turn out to be SSML when more of it has come."""
    return _OPEN_BEGINNING.fullmatch(beginning.lstrip(_BLANK)) is not None


def parse_ssml(text: str, on_voice: OnVoice, *, keeps_places: bool = False) -> ParsedText:
    """Read a document.

    keeps_places: whether its segments know where they stand in it
    raises: MalformedSsml, and InvalidRequest for a value that SSML or this service does not know.
    """
    reader = _SsmlReader(keeps_places=keeps_places)
    parsed = reader.read(text)
    for name in reader.voices:
        on_voice(name)
    return parsed


@dataclass(frozen=True, slots=True)
class _Element:
    """An open tag: how its text is spoken, if at all, and what its end says."""

    manner: Segment
    is_silent: bool = False
    ending: str = ""


class _SsmlReader:
    """Reads one document, with the open tags on a stack."""

    def __init__(self, *, keeps_places: bool) -> None:
        self._keeps_places = keeps_places
        self._builder = SegmentBuilder()
        self._open: list[_Element] = []
        self._warnings: dict[str, None] = {}
        self.voices: dict[str, None] = {}
        """The names of speakers in it."""
        self._language: Language | None = None
        self._sent = ""
        self._bytes = b""
        self._chunks: list[tuple[str, int]] = []  # of text between two tags, and where they begin
        self._lines_before = 0  # of blank text
        self._position = (0, 0)  # the last that was asked for, in bytes and in characters
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = not keeps_places  # or it would not tell where each piece begins
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._take_text
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._tags: Mapping[str, Callable[[dict[str, str], _Element], _Element]] = {
            "break": self._break,
            "p": lambda _given, around: self._line("\n\n", around),
            "s": lambda _given, around: self._line("\n", around),
            "sub": self._sub,
            "say-as": self._say_as,
            "prosody": self._prosody,
            "voice": self._voice,
            "phoneme": self._phoneme,
            "audio": self._audio,
            **dict.fromkeys(("lang", "emphasis", "w", "token", "mark", "bookmark"), _as_around),
            **dict.fromkeys(("metadata", "meta", "lexicon", "lookup", "desc"), _silent),
        }

    def read(self, text: str) -> ParsedText:
        document = text.lstrip(_BLANK)
        self._lines_before = text[: len(text) - len(document)].count("\n")
        self._sent = text
        self._bytes = document.encode("utf-8", "replace")
        self._position = (0, len(text) - len(document))
        try:
            self._parser.Parse(self._bytes, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            if not document.startswith("<"):
                reason = "the text must begin with <speak>"
            raise self._malformed(reason, error.lineno, error.offset) from None
        return ParsedText(self._builder.build(), self._language, tuple(self._warnings), text)

    # What expat calls ------------------------------------------------------------------

    def _start(self, tag: str, given: dict[str, str]) -> None:
        self._add_text()
        name = tag if tag.startswith(_FOREIGN_PREFIXES) else tag.rpartition(":")[2]
        given = {key.rpartition(":")[2]: value.strip() for key, value in given.items()}
        if not self._open:
            self._open.append(self._root(name, given))
            return
        if len(self._open) >= MAX_DEPTH:
            raise self._malformed(f"more than {MAX_DEPTH} tags inside each other")
        around = self._open[-1]
        if around.is_silent:
            self._open.append(around)
            return
        if given.get("lang"):
            manner = replace(around.manner, language=self._language_of(given["lang"]))
            around = replace(around, manner=manner)
        if name in self._tags:
            element = self._tags[name](given, replace(around, ending=""))
        else:
            self._warn(f"SSML: tag {printable(name)} is not known; its text was spoken")
            element = replace(around, ending="")
        self._open.append(element)

    def _end(self, _tag: str) -> None:
        self._add_text()
        ended = self._open.pop()
        if ended.manner.say_as is not None:
            self._builder.end_segment()
        if ended.ending and not ended.is_silent:
            self._builder.add(ended.ending, self._open[-1].manner)

    def _take_text(self, text: str) -> None:
        if self._open and not self._open[-1].is_silent:
            self._chunks.append((text, self._here()))

    def _here(self) -> int:
        """Where the parser is, in characters of the text as it was sent."""
        (known_bytes, known_chars), now = self._position, self._parser.CurrentByteIndex
        chars = known_chars + len(self._bytes[known_bytes:now].decode())
        self._position = (now, chars)
        return chars

    def _add_text(self) -> None:
        """Add the text before a tag. Line ends in XML are layout; sentences have their tags."""
        chunks, self._chunks = self._chunks, []
        text = "".join(chunk for chunk, _ in chunks)
        places = self._places_of(chunks) if self._keeps_places else []
        for word in _WORD_OR_SPACE.finditer(text):
            said = " " if word[0].isspace() else word[0]
            of_word = () if said == " " else cut(places, *word.span())
            self._builder.add(said, self._open[-1].manner, of_word)

    def _places_of(self, chunks: list[tuple[str, int]]) -> list[Stretch]:
        """Where pieces of text come from; an entity is a piece by itself."""
        places, at = [], 0
        for (chunk, start), (_, next_start) in pairwise([*chunks, ("", self._here())]):
            is_entity = chunk == "&" or not self._sent.startswith(chunk, start)
            end = next_start if is_entity else start + len(chunk)
            places.append(Stretch(at, at + len(chunk), start, end))
            at += len(chunk)
        return places

    def _refuse_doctype(self, *_declaration: object) -> None:
        raise self._malformed("a document type is not allowed")

    # Tags ------------------------------------------------------------------------------

    def _root(self, name: str, given: dict[str, str]) -> _Element:
        if name != "speak":
            raise self._malformed(f"the outermost tag is {printable(name)} instead of speak")
        if given.get("lang"):
            self._language = self._language_of(given["lang"])
        return _Element(Segment())

    def _break(self, given: dict[str, str], around: _Element) -> _Element:
        self._builder.add_pause(self._break_s(given))
        return replace(around, is_silent=True)

    def _break_s(self, given: dict[str, str]) -> float:
        if "time" in given:
            time = _TIME.fullmatch(given["time"])
            if time is None:
                raise self._invalid("break time", given["time"], "such as 500ms or 1.5s")
            duration_s = float(time[1]) / (1000 if time[2].lower() == "ms" else 1)
            if duration_s > MAX_PAUSE_S:
                self._warn(f"SSML: a break was shortened to {MAX_PAUSE_S:g} s")
            return duration_s
        strength = given.get("strength", "medium").lower()
        if strength not in BREAK_S:
            raise self._invalid("break strength", strength, f"one of {', '.join(BREAK_S)}")
        return BREAK_S[strength]

    def _line(self, ending: str, around: _Element) -> _Element:
        self._builder.add(ending, around.manner)
        return replace(around, ending=ending)

    def _sub(self, given: dict[str, str], around: _Element) -> _Element:
        if not given.get("alias"):
            self._warn("SSML: sub without alias; its text was spoken")
            return around
        alias, manner = given["alias"], replace(around.manner, is_literal=True)
        self._builder.add(alias, manner, self._places_within(len(alias)))
        return replace(around, is_silent=True)

    def _places_within(self, length: int) -> Places:
        """The place of what is said instead of the text within the tag that begins here."""
        start = self._sent.find(">", self._here()) + 1
        return (Stretch(0, length, start, self._sent.find("<", start)),)

    def _say_as(self, given: dict[str, str], around: _Element) -> _Element:
        kind = given.get("interpret-as", "").lower()
        if kind not in SAY_AS_KINDS:
            which = (
                f"say-as {printable(kind)} is not known" if kind else "say-as without interpret-as"
            )
            self._warn(f"SSML: {which}; its text was spoken")
            return around
        self._builder.end_segment()
        say_as = SayAs(kind, given.get("format", "").lower())
        return replace(around, manner=replace(around.manner, say_as=say_as))

    def _prosody(self, given: dict[str, str], around: _Element) -> _Element:
        for name in sorted(given.keys() - {"rate", "pitch", "lang"}):
            self._warn(f"SSML: prosody {printable(name)} was not applied")
        manner = around.manner
        if "rate" in given:
            rate = self._limited("rate", manner.rate, self._rate(given["rate"].lower()))
            manner = replace(manner, rate=rate)
        if "pitch" in given:
            pitch = self._limited("pitch", manner.pitch, self._pitch(given["pitch"].lower()))
            manner = replace(manner, pitch=pitch)
        return replace(around, manner=manner)

    def _limited(self, name: str, around: float, factor: float) -> float:
        wanted = around * factor
        limited = min(max(wanted, MIN_FACTOR), MAX_FACTOR)
        if limited != wanted:
            self._warn(f"SSML: the {name} was limited to {MIN_FACTOR:g} to {MAX_FACTOR:g}")
        return limited

    def _rate(self, rate: str) -> float:
        if rate in _RATES:
            return _RATES[rate]
        if percent := _PERCENT.fullmatch(rate):
            part = float(percent[2]) / 100
            return {"": part, "+": 1 + part, "-": 1 - part}[percent[1]]
        if _FACTOR.fullmatch(rate):
            return float(rate)
        raise self._invalid("prosody rate", rate, f"one of {', '.join(_RATES)}, 80%, +10% or 1.2")

    def _pitch(self, pitch: str) -> float:
        if pitch in _PITCHES:
            return _PITCHES[pitch]
        if (percent := _PERCENT.fullmatch(pitch)) and percent[1]:
            return 1 + float(percent[1] + percent[2]) / 100
        if semitones := _SEMITONES.fullmatch(pitch):
            return float(2 ** (float(semitones[1]) / 12))
        if _HERTZ.fullmatch(pitch):
            self._warn("SSML: prosody pitch in Hz was not applied; +10% and +2st can be")
            return 1.0
        raise self._invalid("prosody pitch", pitch, f"one of {', '.join(_PITCHES)}, +10% or -2st")

    def _voice(self, given: dict[str, str], around: _Element) -> _Element:
        for name in sorted(given.keys() - {"name", "lang", "languages"}):
            self._warn(f"SSML: voice {printable(name)} was not applied")
        manner = around.manner
        if given.get("languages"):
            manner = replace(manner, language=self._language_of(given["languages"]))
        if speaker := given.get("name"):
            self.voices[speaker] = None
            manner = replace(manner, speaker=speaker)
        return replace(around, manner=manner)

    def _phoneme(self, given: dict[str, str], around: _Element) -> _Element:
        phonemes = given.get("ph", "")
        if given.get("alphabet") != "x-espeak" or not _PHONEMES.fullmatch(phonemes):
            self._warn("SSML: phoneme was not applied, only alphabet x-espeak can be")
            return around
        return replace(around, manner=replace(around.manner, phonemes=phonemes))

    def _audio(self, _given: dict[str, str], around: _Element) -> _Element:
        self._warn("SSML: audio is not played; its text was spoken")
        return around

    # Values and errors -----------------------------------------------------------------

    def _language_of(self, value: str) -> Language | None:
        try:
            return parse_language(value)
        except InvalidRequest as error:
            allowed = error.message.partition(" is not ")[2]
            raise self._invalid("xml:lang", value, allowed) from None

    def _warn(self, warning: str) -> None:
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings[warning] = None
        else:
            self._warnings["SSML: and more"] = None

    def _invalid(self, what: str, value: str, allowed: str) -> InvalidRequest:
        return InvalidRequest(
            f"text is not valid SSML: {self._place()}: {what} is {printable(value)!r}; "
            f"it must be {allowed}",
            param="text",
            code="invalid_ssml",
        )

    def _malformed(
        self, reason: str, line: int | None = None, column: int | None = None
    ) -> MalformedSsml:
        return MalformedSsml(
            f"text is not well-formed SSML: {self._place(line, column)}: {reason}",
            param="text",
            code="invalid_ssml",
        )

    def _place(self, line: int | None = None, column: int | None = None) -> str:
        line = self._parser.CurrentLineNumber if line is None else line
        column = self._parser.CurrentColumnNumber if column is None else column
        return f"line {line + self._lines_before}, column {column + 1}"


def _as_around(_given: dict[str, str], around: _Element) -> _Element:
    return around


def _silent(_given: dict[str, str], around: _Element) -> _Element:
    return replace(around, is_silent=True)
