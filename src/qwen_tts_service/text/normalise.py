"""Text normalisation: strip markdown and emoji, read out Russian numbers on request.

Levels: "none" returns the text untouched; "light" composes Unicode (NFC), drops control
characters, markdown marks and emoji, and reads "+" as a stress mark where it is one; "full" is
light plus, for Russian only, numbers, dates and abbreviations in words; "auto" is full where that
is installed, and light elsewhere. No level applies one language's rules to another. Tags and
pauses must be taken out before (markup.py), and a result may be empty: there was nothing to say.
"""

import re
import unicodedata

from qwen_tts_service.types import Language, NormalizeLevel

from .russian import has_russian, read_out
from .stress import mark_stress

LANGUAGES_WITH_FULL: frozenset[Language] = frozenset({"russian"})
"""Where "full" does more than "light"; elsewhere a caller may want to be told that it does not."""


def normalise(
    text: str, level: NormalizeLevel, language: Language, *, is_mid_line: bool = False
) -> str:
    """Rewrite a text for speaking; a pure function of its arguments.

    is_mid_line: other text comes before on its first line, which so is no heading or table row

    Letters, digits and spoken punctuation survive "light", with two exceptions that nobody
    says: the target of a markdown link and the language name of a code fence.
    Raises `InvalidRequest` when "full" is asked for Russian and the extra `ru` is missing.
    """
    if level == "none":
        return text
    text = _tidy_spaces(_drop_controls(text))
    text = _tidy_spaces(_drop_emoji(_drop_markdown(text, is_mid_line=is_mid_line)))
    text = mark_stress(text)
    if language == "russian" and (level == "full" or (level == "auto" and has_russian())):
        return read_out(text)
    return text


# Light ----------------------------------------------------------------------------------

# Invisible characters that join emoji; they go with the emoji, not before.
_EMOJI_JOINERS = "\u200d\ufe0f"
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def _drop_controls(text: str) -> str:
    """Compose and drop what has no glyph: controls, bidi marks, surrogates, private use."""
    text = _LINE_ENDS.sub("\n", text)
    kept = (
        char
        for char in text
        if char in "\n\t"
        or char in _EMOJI_JOINERS
        or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co")
    )
    return unicodedata.normalize("NFC", "".join(kept))


_MARKDOWN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        # Whole lines: code fences, rules, the line under a table's head.
        (r"^ ?(?:```|~~~)[^\n`]*$\n?", ""),
        (r"^ ?(?:[-*_] ?){3,}$\n?", ""),
        (r"^ ?\|?(?: ?:?-+:? ?\|)+(?: ?:?-+:?)? ?$\n?", ""),
        # What a line begins with; "- 5" and "# 5" stay, they may be a number's sign.
        (r"^ ?(?:> ?)+(?=[^\d\s>])", ""),
        (r"^ ?#{1,6} (?=\D)", ""),
        (r"^ ?[-*+•] (?:\[[ xX]\] )?(?=[^\d\s])", ""),
        # Images, and links, whose target must look like one: "f[i](x)" stays.
        (r"!\[([^\[\]\n]*)\]\([^()\s]+(?:\s\"[^\"\n]*\")?\)", r"\1"),
        (r"\[([^\[\]\n]*)\]\((?:[a-z]+:|/|#|\.\.?/)[^()\s]*(?:\s\"[^\"\n]*\")?\)", r"\1"),
        (r"<((?:https?://|mailto:)[^<>\s]+)>", r"\1"),
        # Formulas: "$x^2$"; "$5 and $6" are sums.
        (r"\${1,2}(?=[^$\n]{0,200}?[\\^=])([^$\n]{1,300}+)\${1,2}", r"\1"),
        # Emphasis: "2 * 3 * 4", "2 *3* 4", "2**3**4" and "x**2 + y**n" stay.
        (r"(?<![\dA-Za-z*])(\*{2,3})(?=\S)(?=[^*\n]*?\w)([^*\n]++)(?<=\S)\1(?![\dA-Za-z*])", r"\2"),
        (r"(?<![\w*])\*(?=\S)(?=[^*\n]*?[^\W\d_])([^*\n]++)(?<=\S)\*(?![\w*])", r"\1"),
        (r"(?<![\w_])(_{1,3})(?=[^\s_])([^_\n]+)(?<=\S)\1(?![\w_])", r"\2"),
        (r"~~(?=\S)([^~\n]+)(?<=\S)~~", r"\1"),
        (r"`([^`\n]+)`", r"\1"),
    )
)


_MID_LINE = "\ufdd0"  # no character of any text, in place of what comes before on the line


def _drop_markdown(text: str, *, is_mid_line: bool) -> str:
    before = _MID_LINE if is_mid_line else ""
    text = "\n".join(map(_read_table_row, (before + text).split("\n")))
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    return text.removeprefix(before)


# The last line of a text, if it is a table row, a code fence, or has an open link or code.
_OPEN_LINE = re.compile(
    r"(?:^|\n)\s*+(?:\||```|~~~)[^\n]*+\Z"
    r"|\[[^\[\]\n]*+(?:\](?:\([^()\n]*+)?+)?+\Z"
    r"|(?:^|\n)[^`\n]*+`(?:[^`\n]*+`[^`\n]*+`)*+[^`\n]*+\Z"
)


def is_within_markdown(text: str, *, is_mid_line: bool) -> bool:
    """Whether a text ends within a table row, code or link, which is read as a whole."""
    return _OPEN_LINE.search(_MID_LINE + text if is_mid_line else text) is not None


_MARK = r"\*{1,3}|_{1,3}|~~"
_EMPHASIS_EDGE = re.compile(
    rf"(?<![\w*~])(?P<opening>{_MARK})(?=[^\W_]|[\"'«„“(])"
    rf"|(?<=[\w.,!?…\"'»”’)])(?P<closing>{_MARK})(?![\w*~])"
)


def drop_split_emphasis(sentence: str, mark: str | None) -> tuple[str, str | None]:
    """Drop a mark of emphasis whose other half is in another sentence of the line.

    mark: what is open from the sentences before; returned is what is open behind this one
    """
    opening: re.Match[str] | None = None
    for edge in _EMPHASIS_EDGE.finditer(sentence):
        if mark is None and edge["opening"]:
            mark, opening = edge["opening"], edge
        elif edge["closing"] and edge["closing"] == mark:
            if opening is None:  # no mark of this sentence is dropped but this one
                rest, mark = drop_split_emphasis(sentence[edge.end() :], None)
                return sentence[: edge.start()] + rest, mark
            mark = opening = None
    if sentence.endswith("\n"):
        return sentence, None
    if opening is not None:
        sentence = sentence[: opening.start()] + sentence[opening.end() :]
    return sentence, mark


def _read_table_row(line: str) -> str:
    """Turn "| a | b |" into "a, b"; one cell, or |x|, is not a row."""
    row = line.strip()
    if not (row.startswith("|") and row.endswith("|") and row.count("|") > 2):
        return line
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    is_rule = all(cell and set(cell) <= set("-:") for cell in cells)
    return line if is_rule else ", ".join(filter(None, cells))


# Pictures, not writing: circled digits, degree and number signs, currency and © are not in it.
_PICTURE = (
    "\U0001f000-\U0001f0ff\U0001f170-\U0001faff"
    "\u231a-\u23ff\u25a0-\u266c\u2670-\u2775\u2794-\u27bf\u2b00-\u2bff\u3030\u303d"
)
_EMOJI = rf"[{_PICTURE}][{_PICTURE}{_EMOJI_JOINERS}]*+"
_EMOJI_BEFORE_POINT = re.compile(rf" ?{_EMOJI}(?=\s?[.,!?;:…。！？、，])")
_EMOJI_ANYWHERE = re.compile(_EMOJI)
# Left behind by keycaps (a digit and two marks) and by ©, whose sign is spoken.
_LEFTOVERS = re.compile("[\u200d\u20e3\ufe0e\ufe0f]")


def _drop_emoji(text: str) -> str:
    text = _EMOJI_ANYWHERE.sub(" ", _EMOJI_BEFORE_POINT.sub("", text))
    return _LEFTOVERS.sub("", text)


_GAPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r" ?\n ?"), "\n"),
    (re.compile(r"\n{3,}"), "\n\n"),
)


def _tidy_spaces(text: str) -> str:
    for gap, replacement in _GAPS:
        text = gap.sub(replacement, text)
    return text.strip()
