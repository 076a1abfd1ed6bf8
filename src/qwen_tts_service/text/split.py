"""Sentence splitting, whole or incremental.

One set of rules serves all ten languages; where it must guess it prefers to leave two
sentences together, because a part too long costs time and a part cut wrongly is heard.
"""

import re
from collections.abc import Iterator

from qwen_tts_service.errors import CannotSpeak

DEFAULT_MAX_CHARS = 400
"""About half a minute of speech: long enough for one intonation, short enough to stay stable."""


def split_sentences(
    text: str, *, max_chars: int = DEFAULT_MAX_CHARS, min_chars: int = 0
) -> list[str]:
    """Split a whole text as `SentenceSplitter` does; the parts joined are the text."""
    splitter = SentenceSplitter(max_chars=max_chars, min_chars=min_chars)
    return splitter.feed(text) + splitter.finish()


def is_speakable(part: str) -> bool:
    """Say whether there is a letter or a digit in it; a part of mere punctuation has no sound."""
    return any(char.isalnum() for char in part)


def nothing_to_speak() -> CannotSpeak:
    """Make the error for a text in which nothing is speakable."""
    return CannotSpeak("text has no letter or digit to speak", param="text", code="no_reading")


class SentenceSplitter:
    """Give out sentences as soon as the text so far proves that they have ended.

    However a text is cut into pieces, the parts are the same, and joined they are the text.
    A sentence is given out once the first character of the next one is there.

    max_chars: no part is longer; a longer sentence is cut after a clause, else at a space
    min_chars: shorter sentences are joined to the next one
    """

    def __init__(self, *, max_chars: int = DEFAULT_MAX_CHARS, min_chars: int = 0) -> None:
        if not 0 <= min_chars <= max_chars or max_chars < 1:
            raise ValueError("0 <= min_chars <= max_chars and 1 <= max_chars must hold")
        self._max_chars = max_chars
        self._min_chars = min_chars
        self._text = ""  # what has not been given out
        self._judged_to = 0  # every sentence end before this index has been judged
        self._last_end = 0  # the last sentence end that came before min_chars

    def feed(self, piece: str) -> list[str]:
        """Take the next piece of text; return the parts that are now complete."""
        self._text += piece
        return list(self._take_parts())

    def finish(self) -> list[str]:
        """Return what is left, at most one part; the splitter is then as new."""
        rest = [self._text] if self._text else []
        self._text, self._judged_to, self._last_end = "", 0, 0
        return rest

    def _take_parts(self) -> Iterator[str]:
        start = 0
        while (end := self._find_end(start)) is not None:
            yield self._text[start:end]
            start = self._judged_to = self._last_end = end
        self._text = self._text[start:]
        self._judged_to -= start
        self._last_end -= start

    def _find_end(self, start: int) -> int | None:
        """Find where the part that begins at `start` ends; None while that is open.

        Looks at nothing beyond the longest possible part, so that no cut depends on how
        much more text happens to be here already.
        """
        limit = start + self._max_chars
        horizon = min(limit, len(self._text))
        for end in _END.finditer(self._text, self._judged_to, horizon):
            follower_at = _end_of(_BEFORE_SENTENCE, self._text, end.end(), horizon)
            if follower_at == len(self._text):
                self._judged_to = end.start()
                return None
            self._judged_to = end.end()
            follower = self._text[follower_at] if follower_at < horizon else ""
            if is_speakable(self._text[start : end.start()]) and _ends_sentence(
                self._text, start, end, follower_at, follower
            ):
                if end.end() - start >= self._min_chars:
                    return end.end()
                self._last_end = end.end()
        self._judged_to = max(self._judged_to, horizon)
        return self._forced_end(start, limit) if len(self._text) > limit else None

    def _forced_end(self, start: int, limit: int) -> int:
        """Cut an overlong part: after a sentence, a clause, a word, or simply at the limit."""
        if self._last_end > start:
            return self._last_end
        ends = [
            max((cut.end() for cut in pattern.finditer(self._text, start, limit)), default=start)
            for pattern in (_CLAUSE, _SPACE)
        ]
        for end in ends:
            if end > start + self._max_chars // 2:
                return end
        if ends[-1] > start:
            return ends[-1]
        end = limit
        while end > start + 1 and _COMBINING.match(self._text, end):
            end -= 1
        return end


# Where a sentence may end ---------------------------------------------------------------

_WIDE = "。！？｡"
# A point, the quotes and brackets it closes, and the space up to the next sentence. “ and «
# close in German; after a wide point they can only open. " »" is how French closes.
_END = re.compile(
    rf"(?P<point>[.!?…{_WIDE}]++)"
    rf"(?P<close>(?:(?<=[{_WIDE}])[”’」』】）》〉\"']*+|(?<![{_WIDE}])[\"'”’»“‘«)\]}}›]*+)"
    r"(?:[ \u00a0\u202f]»(?!\w))?)"
    r"(?P<space>\s*+)"
    r"|(?P<line>\n\s*+)"
)
# What may stand between two sentences and belongs to the second: dashes and opening marks,
# among them the German ».
_BEFORE_SENTENCE = re.compile(r"(?:[\s\"'«„“‘(—–‒‐\-]|»(?=\w|\Z))*+")
_CLAUSE = re.compile(r"[,;:]\s+|[—–]\s+|[，、；：]\s*")
_SPACE = re.compile(r"\s+")
_COMBINING = re.compile(r"[\u0300-\u036f\u200d\ufe0f\u3099\u309a\U0001f3fb-\U0001f3ff]")
_DASHES = set("—–‒‐-")
_CLAUSE_MARKS = set(",;:，、；：—–-")


def _end_of(pattern: re.Pattern[str], text: str, at: int, horizon: int) -> int:
    found = pattern.match(text, at, horizon)
    return found.end() if found else at


def _is_wide(char: str) -> bool:
    """Chinese characters and kana, which are written without spaces."""
    return "\u3041" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff" or char > "\U0001ffff"


def _ends_sentence(
    text: str, start: int, end: re.Match[str], follower_at: int, follower: str
) -> bool:
    """Judge one candidate by what is before it and by the next letter; "" is unknown."""
    if follower and follower in ".!?…,;:)]»₽" + _WIDE:
        return False
    before = text[end.start() - 1]
    gap = end["line"] or end["space"]
    if gap.count("\n") > 1 or (
        "\n" in gap and not follower.islower() and before not in _CLAUSE_MARKS
    ):
        return True
    point = end["point"]
    if point is None:
        return False
    if point[-1] in _WIDE:
        # 「本当？」と言った: the quotation goes on.
        return not (end["close"] and follower and follower in "とっ")
    if not gap:
        is_glued_wide = bool(follower) and _is_wide(follower) and follower_at == end.end()
        return is_glued_wide and (point[-1] in "!?" or (point == "." and _is_wide(before)))
    if point[-1] in "!?":
        is_speech = bool(end["close"]) or not _DASHES.isdisjoint(text[end.end() : follower_at])
        return not (follower.islower() and is_speech)
    if follower.islower():
        return False
    return (
        len(point) > 1 or point == "…" or not _is_abbreviation(text, start, end.start(), follower)
    )


# Abbreviations --------------------------------------------------------------------------


def _words(spaced: str) -> frozenset[str]:
    return frozenset(spaced.split())


# After these the sentence goes on, whatever follows. Single letters (initials, "г.", "т. е.",
# "z. B.", "p. m.") need no entry. Words that are also common at a sentence's end are left out.
_ALWAYS = _words(
    # Russian
    "гг вв ул пер пл просп наб им проф акад доц тов гр см ср напр англ нем лат греч рус обл "
    "пр пос респ мкр бул доц инж тел корп стр рис табл долл св оз род ред изд сост "
    # English
    "mr mrs ms dr prof st sr jr gen col capt lt sgt maj rev hon gov sen rep messrs inc ltd corp "
    "co bros vs "
    # German
    "hr fr frl bzw ggf evtl inkl exkl vgl hrsg geb gest sog "
    # French, Spanish, Italian, Portuguese
    "mm mme mlle mgr ste cf ee sra srta sres dra drs ud uds vd avda gral lic ing dña sig sigg dott "
    "avv geom srs profa exmo exma"
)
# These go on only before a number: "No. 5" and "рис. 3", but "No. I will not."
_BEFORE_NUMBER = _words(
    "пн вт чт пт сб вс каб ауд оф "
    "эт доб вн под вып илл гл ст разд прил пп кв мин сек час руб коп тыс млн млрд трлн экз "
    "no nos nr fig figs vol ch sec art pp approx ca max min tel ext jan feb mar apr jun jul aug "
    "sep sept oct nov dec "
    "str abs bd kap abb mio mrd art núm num pág págs cap env av pag pagg"
)
# German ordinals: "am 3. Oktober", "der 2. Weltkrieg".
_BEFORE_ORDINAL = _words("am der dem den des die das vom zum bis im ab seit und")
# "и т. д.", "и т. п." and "до н. э." may well be the last words.
_MAY_BE_LAST = re.compile(r"(?:т\. ?[дп]|н\. ?э|\bи (?:пр|др))\Z", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+\Z")
_MAX_ABBREVIATION_CHARS = 16
_NUMBER = re.compile(r"(?:(?P<word>[^\W\d_]+) |(?P<line>^|\n)\s*)\d{1,2}\Z")


def _is_abbreviation(text: str, start: int, point_at: int, follower: str) -> bool:
    """Say whether the point at `point_at` belongs to the word or number before it."""
    before = text[max(start, point_at - _MAX_ABBREVIATION_CHARS) : point_at]
    number = _NUMBER.search(before)
    if number:
        return number["word"] is None or number["word"].lower() in _BEFORE_ORDINAL
    found = _WORD.search(before)
    if found is None or (_MAY_BE_LAST.search(before) and not follower.isdigit()):
        return False
    word = found[0].lower()
    is_letter = len(word) == 1 and word != word.upper() and word != "я"
    return is_letter or word in _ALWAYS or (follower.isdigit() and word in _BEFORE_NUMBER)
