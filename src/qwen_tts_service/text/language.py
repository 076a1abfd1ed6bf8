"""Language identification for the ten languages, and language names and codes.

Script decides wherever it can; only Latin letters need statistics (py3langid, restricted to
the six Latin-script languages).
"""

import json
import re
import threading
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Protocol, cast, get_args

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.types import Language

LANGUAGES: tuple[Language, ...] = get_args(Language)

# iso: two-letter code; aliases: three-letter codes, the language's own name, its Russian name;
# short_words: what statistics over byte sequences cannot tell, of the Latin-script languages.
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


_RUNS = re.compile(
    r"(?P<cyrillic>[\u0400-\u052f][\u0400-\u052f\u0300-\u036f]*)"
    r"|(?P<hangul>[\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f]+)"
    r"|(?P<kana>[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d]+)"
    r"|(?P<han>[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
    r"|(?P<latin>[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ][A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ\u0300-\u036f'’]*)"
)
# A text with Latin words in it counts as Latin only when fewer than one word in four is not:
# "Запусти docker compose up" is Russian, "The word привет means hello" is English.
_LATIN_WORDS_PER_OTHER = 3
_CJK_LETTERS_PER_WORD = 2
_MAX_JUDGED_CHARS = 4096


def detect_language(text: str) -> Language:
    """Name the language of a text; English when it has no letter of any of the ten.

    Known limits: Japanese without any kana reads as Chinese, every Cyrillic language as
    Russian, and a single Latin word that several languages share may be either.
    """
    words = _count_words(text)
    latin = words.pop("latin")
    if latin > _LATIN_WORDS_PER_OTHER * sum(words.values()) or not any(words.values()):
        return _detect_latin(text)
    if words["cyrillic"] >= max(words["hangul"], words["kana"] + words["han"]):
        return "russian"
    if words["hangul"] >= words["kana"] + words["han"]:
        return "korean"
    return "japanese" if words["kana"] else "chinese"


def _count_words(text: str) -> dict[str, float]:
    """Count words by script; where none are written apart, two letters make one."""
    words = {"cyrillic": 0.0, "hangul": 0.0, "kana": 0.0, "han": 0.0, "latin": 0.0}
    for run in _RUNS.finditer(text[:_MAX_JUDGED_CHARS]):
        script = cast("str", run.lastgroup)
        is_cjk = script in ("kana", "han")
        words[script] += len(run[0]) / _CJK_LETTERS_PER_WORD if is_cjk else 1
    return words


class _Identifier(Protocol):
    def classify(self, text: str) -> tuple[str, float]: ...


_LANGUAGE_OF_SHORT_WORD: Mapping[str, Language] = {
    word: name for name, row in _TABLE.items() for word in row.get("short_words", ())
}
_MAX_WORDS_OF_SHORT_TEXT = 3
_MARKS: tuple[tuple[str, Language], ...] = (
    ("¿¡ñ", "spanish"),
    ("ãõ", "portuguese"),
    ("ß", "german"),
)
# Of six languages the guess of no evidence has 0.17; "API" reaches 0.22, "Bonjour" 0.83.
_LEAST_CONFIDENCE = 0.3
_LOADING = threading.Lock()


def preload_detector() -> None:
    """Load the detector's tables now (0.6 s, once) rather than during the first request."""
    _identifier()


def _identifier() -> _Identifier:
    with _LOADING:
        return _load_identifier()


@cache
def _load_identifier() -> _Identifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415  (0.6 s)

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    latin = [row["iso"] for row in _TABLE.values() if "short_words" in row]
    identifier.set_languages(sorted(latin))
    return cast("_Identifier", identifier)


def _detect_latin(text: str) -> Language:
    text = unicodedata.normalize("NFC", text[:_MAX_JUDGED_CHARS])
    words = [run[0] for run in _RUNS.finditer(text) if run["latin"]]
    if len(words) <= _MAX_WORDS_OF_SHORT_TEXT:
        known = _detect_short(text.lower(), words)
        if known is not None or not words:
            return known or "english"
    code, confidence = _identifier().classify(" ".join(words))
    return _LANGUAGE_OF[code] if confidence >= _LEAST_CONFIDENCE else "english"


def _detect_short(text: str, words: list[str]) -> Language | None:
    """Know a few words by a mark or by heart; None leaves it to statistics."""
    for marks, language in _MARKS:
        if not set(marks).isdisjoint(text):
            return language
    known = (_LANGUAGE_OF_SHORT_WORD.get(word.lower()) for word in words)
    return next(filter(None, known), None)
