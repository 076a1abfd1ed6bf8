"""Language identification for the ten languages, and language names and codes.

What is not spoken as words (links, mail, code, tags) does not count. Script decides wherever it
can; Latin letters alone need statistics, see `latin.py`.
"""

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, cast, get_args

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.types import Language

from .latin import WORD, detect_latin, names

LANGUAGES: tuple[Language, ...] = get_args(Language)

# iso: two-letter code; aliases: three-letter codes, the language's own name, its Russian name;
# function_words: the words of grammar, which a name or a command does not have;
# asks: what tells to say what follows, as in "Please translate: Привет".
_TABLE: Mapping[Language, dict[str, Any]] = json.loads(
    resources.files(__package__).joinpath("languages.json").read_text("utf-8")
)
_LANGUAGE_OF: Mapping[str, Language] = {
    alias: name for name, row in _TABLE.items() for alias in (name, row["iso"], *row["aliases"])
}
_TAG = re.compile(r"([a-z]{2,3})(-[a-z0-9]{1,8})+")


def parse_language(value: str) -> Language | None:
    """Read a language by name, native name, ISO code or tag (`ru-RU`), in any case.

    Returns None for "auto" and for blank: the text itself shall decide. Raises
    `InvalidRequest` for anything else.
    """
    name = value.strip().casefold().replace("_", "-")
    if name in ("", "auto"):
        return None
    tag = _TAG.fullmatch(name)
    language = _LANGUAGE_OF.get(tag[1] if tag else name)
    if language is None:
        known = ", ".join(LANGUAGES)
        message = f"language {shown(value)} is not one of auto, {known} or their ISO codes"
        raise InvalidRequest(message, param="language")
    return language


def iso_code(language: Language) -> str:
    """Name a language by its two letters."""
    return str(_TABLE[language]["iso"])


_RUNS = re.compile(
    r"(?P<cyrillic>[\u0400-\u052f][\u0400-\u052f\u0300-\u036f]*)"
    r"|(?P<hangul>[\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f]+)"
    r"|(?P<kana>[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d]+)"
    r"|(?P<han>[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
    rf"|(?P<latin>{WORD})"
)
_CJK_LETTERS_PER_WORD = 2
_LETTERS_THAT_TELL = 20  # four or five words' tokens
_MAX_BEGINNING_CHARS = 400
# ASCII is a word once something else follows: it may become a link; other letters are sure.
_COMPLETE_WORD = re.compile(r"(?P<ascii>[!-~]+)(?=[^!-~])|[^\x00-\x7f]")
_NO_WORD = re.compile(r"://|@|\w/\w|_|\\")
_MAX_JUDGED_CHARS = 2048


def detect_language(
    text: str, default: Language = "english", *, after: Language | None = None
) -> Language:
    """Name the language of a text; `default` when it has no letter of any of the ten.

    after: the language of the sentence before, which decides where this one could be either

    Known limits: Japanese without any kana reads as Chinese, every Cyrillic language as Russian,
    and a few Latin words that several languages share may be either.
    """
    text = text[:_MAX_JUDGED_CHARS]
    without_addresses = _ADDRESS.sub(" ", text)
    for spoken in (_without_code(without_addresses), without_addresses):
        if _RUNS.search(spoken):
            return _detect(spoken, after)
    words = _count_words(text)
    if not any(words.values()):
        return default
    return "english" if words["latin"] else _detect(text, after)


def beginning_that_tells(text: str) -> str | None:
    """The beginning of a text that is still being written by which its language is told.

    It ends with the word that has the 20th letter; None while there are fewer. How many pieces
    the text came in makes no difference. Marks and digits are not waited for for ever.
    """
    letters = 0
    for word in _COMPLETE_WORD.finditer(text[:_MAX_BEGINNING_CHARS]):
        is_counted = word["ascii"] is None or not _NO_WORD.search(word["ascii"])
        letters += is_counted and sum(map(str.isalpha, word[0]))
        if letters >= _LETTERS_THAT_TELL:
            return text[: word.end()]
    return text[:_MAX_BEGINNING_CHARS] if len(text) >= _MAX_BEGINNING_CHARS else None


def tells_language(text: str) -> bool:
    """Whether there is a word by which to tell the language: no digits, marks, links, code."""
    spoken = _without_code(_ADDRESS.sub(" ", text[:_MAX_JUDGED_CHARS]))
    return _RUNS.search(spoken) is not None


def _detect(text: str, after: Language | None) -> Language:
    words = _count_words(text)
    if words.pop("latin") and (not any(words.values()) or _is_latin_sentence(text)):
        return detect_latin(text, after)
    if words["cyrillic"] >= max(words["hangul"], words["kana"] + words["han"]):
        return "russian"
    if words["hangul"] >= words["kana"] + words["han"]:
        return "korean"
    is_japanese = words["kana"] or after == "japanese" or _is_japanese(text)
    return "japanese" if is_japanese else "chinese"


def _is_japanese(text: str) -> bool:
    """Whether Chinese characters alone are as written in Japan: "駅", "電池残量", not "车站"."""
    han = "".join(run["han"] or "" for run in _RUNS.finditer(text))
    return _has_all("shift_jis", han) and not (_has_all("gb2312", han) or _has_all("big5", han))


def _has_all(character_set: str, text: str) -> bool:
    try:
        text.encode(character_set)
    except UnicodeEncodeError:
        return False
    return True


def _count_words(text: str) -> dict[str, float]:
    """Count words by script; where none are written apart, two letters make one."""
    words = {"cyrillic": 0.0, "hangul": 0.0, "kana": 0.0, "han": 0.0, "latin": 0.0}
    for run in _RUNS.finditer(text):
        script = cast("str", run.lastgroup)
        is_cjk = script in ("kana", "han")
        words[script] += len(run[0]) / _CJK_LETTERS_PER_WORD if is_cjk else 1
    return words


# What is not spoken as words ------------------------------------------------------------

# A link ends where a script without spaces goes on: \u94fe\u63a5\uff1ahttps://example.com\u3002
_ADDRESS = re.compile(
    r"\]\([^\s()]*\)?"
    r"|(?<![a-z])(?:[a-z]{2,10}://|www\.)[^\s\u3000-\u9fff\uac00-\ud7a3\uff00-\uffef<>\"]+"
    r"|(?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)+"
    r"|^[ \t]*[-*+•] \[[ x]\](?: todo\b)?",  # of a task list, where "todo" is no Spanish
    re.IGNORECASE | re.MULTILINE,
)
_CODE = re.compile(
    r"```.*?(?:```|\Z)"
    r"|`[^`\n]+`"
    r"|</?[A-Za-z!?][^<>\n]{0,300}>"
    r"|<\|\w{1,20}\|>"  # tokens of language models
    r"|&(?:[A-Za-z]{2,8}|\#\w{1,8});"
    r"|\[\w{1,12}:[^\[\]\n]{0,40}\]"  # [pause:1s], [voice:ryan]
    r"|\b(?:sudo|git|docker|podman|kubectl|helm|terraform|ansible|systemctl|apt|brew|conda|pip3?|uv"
    r"|npm|npx|yarn|pnpm|node|python3?|cargo|ssh|scp|curl|wget|tar|chmod|mkdir|grep|ls|rm|cp)"
    r"(?: [!-~]+){0,6}? --?[A-Za-z][\w-]*",  # a command with its words, up to an option
    re.DOTALL,
)
_ASCII = re.compile(r"[!-~]+")
# A path, an option, a tag, an identifier or a file within one stretch of ASCII.
_TECHNICAL = re.compile(
    r"\\|[@#][A-Za-z]|--[A-Za-z]|(?<![!-~])-[A-Za-z](?![A-Za-z])"
    r"|(?<![\w.])(?:~|\.{1,2})?/[A-Za-z]|/[^/]+/"
    r"|[A-Za-z0-9]_[A-Za-z0-9]|[a-z][A-Z]|\w\(\)|[A-Za-z0-9]\.[A-Za-z0-9]|\w(?:::|->|==?)\w"
)


def _without_code(text: str) -> str:
    text = _CODE.sub(" ", text)
    return _ASCII.sub(lambda word: " " if _TECHNICAL.search(word[0]) else word[0], text)


# A Latin sentence with a foreign word in it ----------------------------------------------


def _table_words(name: str) -> frozenset[str]:
    return frozenset(word for row in _TABLE.values() for word in row.get(name, "").split())


_FUNCTION_WORDS = _table_words("function_words")
_ASKS = _table_words("asks")
_QUOTED = re.compile(
    r"«[^«»]*»|“[^“”]*”|„[^„“”]*[“”]|\"[^\"\n]*\"|「[^「」]*」|『[^『』]*』"
    r"|\([^()]*\)|\uff08[^\uff08\uff09]*\uff09"
)
# "Back to the Future": capitals, with small words between them.
_NAME = re.compile(
    r"\b(?P<first>[A-Z][\w'’]*)(?:(?: (?:of|the|to|and|in|for|a|on|at|de|la|le|du|des|del|di|do|da"
    r"|von|der|und|et|y|e|&)){0,3} [A-Z][\w'’]*)+"
)
# "Ошибка: Cannot open the file": what is said is before the colon, what is shown behind it.
_SAID_BEFORE = re.compile(r"(?:[^:\uff1a.!?\n\u3002]|[:.](?=\S)){1,200}(?::(?=\s)|\uff1a)")
# One word of a language without spaces, or a Cyrillic title, between two words of a Latin sentence.
_INSERTED = re.compile(
    r"(?<=[a-z,;] )([\u3005-\u30ff\u3400-\u9fff])[\u3005-\u30ff\u3400-\u9fff]{2,9}(?=,? [a-z])"
    r"|(?<=[a-z,;] )([А-ЯЁ])[а-яё]*(?: [А-ЯЁа-яё]+){1,4}(?=,? [a-z])"
)
_SENTENCE_START = re.compile(r"(?:\A|[.!?\n])[\s\"'«“„(¿¡-]*\Z")
_WEIGHT_OF_OTHER_WORD = 0.25


def _is_latin_sentence(text: str) -> bool:
    """Whether the grammar of a mixed text is Latin: "I live in \u6771\u4eac", not "API \u0438 SQL".

    Names, titles, quotations and commands have no say: what counts are function words, with the
    small words around them, against all words of the other scripts outside quotations. What is
    said before a first colon decides alone if it is in another script, or asks to say
    the rest.
    """
    said = _SAID_BEFORE.match(text)
    if said and _is_in_other_script(said[0]):
        return False
    if said and _words_of(said[0]) & _ASKS and not _has_other(said[0]):
        return True
    frame = _INSERTED.sub(r"\1\2", _QUOTED.sub(" ", text))
    frame = _NAME.sub(lambda name: name["first"] if _is_function(name["first"]) else " ", frame)
    words = _count_words(frame)
    ordinary = [
        part
        for run in _RUNS.finditer(frame)
        if run["latin"] and _is_ordinary(run, frame)
        for part in _parts(run[0])
    ]
    function_words = sum(map(_is_function, ordinary))
    latin = function_words + _WEIGHT_OF_OTHER_WORD * (len(ordinary) - function_words)
    return function_words > 0 and latin > sum(words.values()) - words["latin"]


def _words_of(text: str) -> set[str]:
    return set(re.findall(WORD, text.lower()))


def _has_other(text: str) -> bool:
    words = _count_words(text)
    return sum(words.values()) > words["latin"]


def _is_in_other_script(text: str) -> bool:
    words = _count_words(text)
    return sum(words.values()) > 2 * words["latin"]


def _is_function(word: str) -> bool:
    return word.lower() in _FUNCTION_WORDS


def _parts(word: str) -> list[str]:
    """Divide what an article is written together with: "J'aime" is "j'" and "aime"."""
    article, mark, rest = word.lower().replace("’", "'").partition("'")
    return [article + mark, rest] if rest and article + mark in _FUNCTION_WORDS else [word]


def _is_ordinary(run: re.Match[str], text: str) -> bool:
    """Whether a word is in small letters or begins a sentence, and no name or half a word."""
    word, start = run[0], run.start()
    before = text[max(0, start - 8) : start]
    beside = before[-1:] + text[run.end() : run.end() + 1]
    if word.lower() in names() or re.search(r"[-\d]", beside):  # "e-mail", "s03e05"
        return False
    return word.islower() or word == "I" or bool(_SENTENCE_START.search(before))
