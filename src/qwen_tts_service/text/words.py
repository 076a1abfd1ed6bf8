"""Incremental text normalisation, word by word while the text is being written.

What `normalise` does to a whole text at level "light", as far as a single word shows it: marks of
emphasis fall at a word's edges, marks of a line where a line begins. Tags and pauses are taken out
before, by markup.py.
"""

import re

from qwen_tts_service.types import Language

from .normalise import normalise

_WIDE_END = "。！？、，；：…）」』】"
# A word and the space behind it; without space only where wide punctuation ends it.
_WORD = re.compile(rf"(?P<word>[^\s{_WIDE_END}]*[{_WIDE_END}]|[^\s{_WIDE_END}]*(?=\s))(?P<gap>\s?)")
_OPENING = re.compile(r"(?:\*{1,3}|_{1,3}|~~|`)(?=[\w\"'«»„“‘(])")
_CLOSING = re.compile(
    rf"(?<=[\w.,!?…\"'«»“”’)])(?:\*{{1,3}}|_{{1,3}}|~~|`)(?=[.,!?:;…){_WIDE_END}]*\Z)"
)
_LINE_MARK = re.compile(r"#{1,6}|[*•>]|-{3,}|\*{3,}|(?:```|~~~)\w*")


class WordNormaliser:
    """Give out words as soon as they are complete.

    However a text is cut into pieces, what comes out, joined, is the same.
    """

    def __init__(self, language: Language) -> None:
        self._language: Language = language
        self._text = ""
        self._is_line_start = True
        self._has_gap = True

    def feed(self, piece: str) -> str:
        """Take the next piece of text; return the words that are now complete."""
        self._text += piece
        out = []
        at = 0
        while found := _WORD.match(self._text, at):
            out.append(self._take(found["word"], found["gap"]))
            at = found.end()
        self._text = self._text[at:]
        return "".join(out)

    def finish(self) -> str:
        """Return what is left."""
        rest, self._text = self._text, ""
        return self._take(rest, "")

    def _take(self, word: str, gap: str) -> str:
        """One word without its marks, and one space for all that stands behind it."""
        said = self._clean(word)
        if word:
            self._is_line_start = False
        if gap == "\n":
            self._is_line_start = True
        if said:
            self._has_gap = False
        if not gap or self._has_gap:
            return said
        self._has_gap = True
        return said + ("\n" if gap == "\n" else " ")

    def _clean(self, word: str) -> str:
        if not word or (self._is_line_start and _LINE_MARK.fullmatch(word)):
            return ""
        opened = _OPENING.sub("", word, count=1) if _OPENING.match(word) else word
        return normalise(_CLOSING.sub("", opened), "light", self._language)
