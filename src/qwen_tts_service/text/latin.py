"""Which of the six Latin-script languages a text is in, by its words; made for short texts.

Naive Bayes: each everyday word adds its logarithmic frequency in each language, any other word
the weights of its letter n-grams. A text without evidence is English, as are names of products.
The tables come from `scripts/make_language_tables.py`.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

from qwen_tts_service.types import Language

LATIN_LANGUAGES: tuple[Language, ...] = (
    "english",
    "german",
    "french",
    "spanish",
    "italian",
    "portuguese",
)
"""In the order of the tables' columns."""

Scores = tuple[float, ...]
"""Logarithmic likelihood of each language, in nats, up to a constant."""

WORD = r"[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ][A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ\u0300-\u036f'’]*"
"""A word in Latin letters, as a regular expression."""
_WORD = re.compile(WORD)
_ELISION = re.compile(r"(?<=')")
_MAX_JUDGED_WORDS = 64
_MAX_WORD_CHARS = 40

# Nats of one step of the tables' digits, which are in base 36.
_WORD_STEP, _NGRAM_STEP, _NGRAM_ZERO = 0.5, 0.25, 18
_MAX_NGRAM = 5
# In doubt English, then Spanish: Portuguese shares the most words with it, and is spoken less.
_PRIOR: Scores = (0.3, 0, 0, 0.5, 0, 0)
# An unknown word is the name of something until its letters say otherwise.
_UNKNOWN_WORD: Scores = (1.5, 0, 0, 0, 0, 0)
_NAME: Scores = (3, 0, 0, 0, 0, 0)
_SAME_LANGUAGE = 2.5
_SURE = 4
_LEAST_OF_HALF = 4.5  # of a compound's: a word of everyday
# Whole texts whose words are more frequent elsewhere: alone, "no" answers an English question.
_ALONE: Mapping[str, Language] = {
    "no": "english",
    "come in": "english",
    "photo album": "english",
    "non": "french",
    "vas y": "french",
    "entre": "french",
    "moin": "german",
    "servus": "german",
    "moment mal": "german",
    "que pena": "portuguese",
    "nota fiscal": "portuguese",
}
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


def _for(language: Language, nats: float) -> Scores:
    return tuple(nats if name == language else 0.0 for name in LATIN_LANGUAGES)


_LANGUAGE_OF_MARKS: tuple[tuple[str, Language], ...] = (
    ("¿¡ñ", "spanish"),
    ("ãõ", "portuguese"),
    ("ß", "german"),
)
_MARKS: Mapping[str, Scores] = {
    mark: _for(language, _SURE) for marks, language in _LANGUAGE_OF_MARKS for mark in marks
}


def detect_latin(text: str, after: Language | None = None) -> Language:
    """Name the language of a text in Latin letters; English when nothing speaks for another.

    after: the language of the sentence before; in doubt this one is in the same
    """
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    words = [found[0] for found in _WORD.finditer(text)][:_MAX_JUDGED_WORDS]
    marks = [scores for mark, scores in _MARKS.items() if mark in text]
    is_of_letters = not marks and all(len(word) == 1 and word.isascii() for word in words)
    if after is None and (alone := _ALONE.get(" ".join(words))):
        return alone
    if after is None and is_of_letters:  # single letters are names and code
        return "english"
    evidence = [_PRIOR, *marks]
    evidence += [scores for word in words for scores in _scores_of(word.strip("'"))]
    if after is not None:
        evidence.append(_for(after, _SAME_LANGUAGE))
    total = _add(evidence)
    return LATIN_LANGUAGES[total.index(max(total))]


def preload_detector() -> None:
    """Load the tables now (0.1 s, once) rather than during the first request."""
    names()
    _known_words()
    _ngrams()


@cache
def names() -> frozenset[str]:
    """Names of products and words of code, in lower case."""
    lines = _lines("names.txt")
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


@cache
def _known_words() -> Mapping[str, Scores]:
    table = {}
    for line in _lines("latin_words.txt"):
        digits, *words = line.split()
        table.update(dict.fromkeys(words, tuple(_WORD_STEP * int(digit, 36) for digit in digits)))
    return table


@cache
def _ngrams() -> Mapping[str, Scores]:
    table = {}
    for line in _lines("latin_ngrams.txt"):
        digits, ngram = line.split()
        table[ngram] = tuple(_NGRAM_STEP * (int(digit, 36) - _NGRAM_ZERO) for digit in digits)
    return table


def _lines(name: str) -> list[str]:
    return resources.files(__package__).joinpath(name).read_text("utf-8").splitlines()


def _scores_of(word: str) -> Iterable[Scores]:
    """Score a word, or what an apostrophe divides: "l'amour" is "l'" and "amour"."""
    if word in names():
        return [_NAME]
    if len(word) == 1 and word in _CONSONANTS:  # "USB-C", "Plan B": no word of any language
        return []
    if word.endswith("'s") and word not in _known_words():  # "Jerry's"; "geht's" is known
        return [_for("english", 2), _score_part(word[:-2])]
    word = word.replace("ß", "ss")
    parts = [word] if word in _known_words() else _ELISION.split(word)
    return [_score_part(part if part in _known_words() else part.strip("'")) for part in parts]


def _score_part(part: str) -> Scores:
    known = _known_words().get(part)
    if known is not None:
        return known
    if _is_german_compound(part):
        return _for("german", _SURE)
    framed = f"^{part[:_MAX_WORD_CHARS]}$"
    sizes = range(1, _MAX_NGRAM + 1)
    ngrams = {framed[i : i + n] for n in sizes for i in range(len(framed) - n + 1)}
    table = _ngrams()
    return _add([_UNKNOWN_WORD, *(table[ngram] for ngram in ngrams if ngram in table)])


def _is_german_compound(word: str) -> bool:
    """Whether a long word is two German ones: "Notausgang", "Videoanruf"."""
    german = LATIN_LANGUAGES.index("german")
    for cut in range(3, len(word) - 3) if len(word) > 7 else ():
        halves = [_known_words().get(half) for half in (word[:cut], word[cut:])]
        if None not in halves:
            shared = [min(scores) for scores in zip(*filter(None, halves), strict=True)]
            if shared[german] == max(shared) >= _LEAST_OF_HALF:
                return True
    return False


def _add(evidence: Iterable[Scores]) -> Scores:
    return tuple(map(sum, zip(*evidence, strict=True)))
