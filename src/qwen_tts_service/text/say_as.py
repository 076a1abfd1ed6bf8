"""SSML's say-as: write a text so that a voice reads it as characters, an ordinal, a date…

The result is text of the language; most numbers stay in digits, which voices and normaliser read.
"""

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from qwen_tts_service.types import Language

from .language import iso_code
from .numerals import is_date
from .segments import SayAs

_TABLE: Mapping[Language, Mapping[str, Any]] = tomllib.loads(
    files(__package__).joinpath("say_as.toml").read_text("utf-8")
)  # type: ignore[assignment]
_LETTERS: Mapping[str, Mapping[str, str]] = {
    language: dict(pair.split(":") for pair in row.get("letters", "").split())
    for language, row in _TABLE.items()
}
_SPELLED = frozenset({"characters", "spell-out", "verbatim", "letters"})
_AS_IT_STANDS = frozenset({"time", "unit", "currency", "address", "name", "fraction"})
SAY_AS_KINDS = _SPELLED | _AS_IT_STANDS | {
    "digits", "telephone", "cardinal", "number", "ordinal", "date",
}  # fmt: skip
"""Values of interpret-as that are known; "currency" and the like are left to the normaliser."""


def written(text: str, say_as: SayAs, language: Language) -> tuple[str, bool]:
    """Write a text as it is to be said; and whether it must not be normalised any more."""
    text = text.strip()
    if say_as.kind in _SPELLED:
        return _spelled(text, language), True
    if say_as.kind == "digits":
        return " ".join(char for char in text if char.isalnum()), True
    if say_as.kind == "telephone":
        return _telephone(text, language), True
    if say_as.kind in ("cardinal", "number"):
        return _GROUPING.sub("", text), False
    if say_as.kind == "ordinal":
        return _ordinal(text, language), False
    if say_as.kind == "date":
        return _date(text, say_as.format, language), False
    return text, False


_GROUPING = re.compile(r"(?<=\d)[ \u00a0\u202f,.'’](?=\d{3}(?!\d))")


def _spelled(text: str, language: Language) -> str:
    """Name one letter after the other; punctuation is left to the voice."""
    names = _LETTERS[language]
    named = (names.get(char.lower(), char.upper()) for char in text if not char.isspace())
    return ", ".join(named).replace("_", " ")


def _telephone(text: str, language: Language) -> str:
    """Digit by digit, with a comma where the number is grouped."""
    groups = (" ".join(group) for group in re.findall(r"[^\W_]+", text))
    plus = f"{_TABLE[language]['plus']} " if text.startswith("+") else ""
    return plus + ", ".join(groups)


def _ordinal(text: str, language: Language) -> str:
    digits = _GROUPING.sub("", text)
    if not re.fullmatch(r"[0-9]{1,15}", digits):
        return text
    number = int(digits)
    return _ordinal_words(number, language) or _ordinal_sign(number, language)


def _ordinal_words(number: int, language: Language) -> str | None:
    """Name an ordinal by num2words, which the extra `ru` brings; None where it has none."""
    try:
        from num2words import num2words  # noqa: PLC0415  (optional, 0.2 s)

        return str(num2words(number, to="ordinal", lang=iso_code(language)))
    except (ImportError, NotImplementedError, KeyError, OverflowError):
        return None


def _ordinal_sign(number: int, language: Language) -> str:
    is_teen = number % 100 in (11, 12, 13)
    suffix = "th" if is_teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return str(_TABLE[language]["ordinal"].format(n=number, suffix=suffix))


def _date(text: str, format: str, language: Language) -> str:
    """Write a date of numbers in words; what is no such date stays as it is."""
    numbers = re.findall(r"[0-9]+", text)
    if not re.fullmatch(r"[0-9]{1,4}(?:[-./ ][0-9]{1,4}){0,2}\.?", text):
        return text
    order = "".join(char for char in format if char in "ymd") or _order(text, numbers, language)
    fields = dict(zip(order, map(int, numbers), strict=False))
    if len(order) != len(numbers) or not _is_date(fields):
        return text
    if "m" not in fields:
        return str(next(iter(fields.values())))
    row = _TABLE[language]
    kind = "".join(sorted(fields))
    names = row.get("months", "") if "d" in fields else row.get("months_alone", row.get("months"))
    month = names.split()[fields["m"] - 1] if names else ""
    pattern = {"dmy": row["ymd"], "dm": row["dm"], "my": row["my"]}.get(kind)
    if pattern is None:
        return month or text
    return str(pattern.format(month=month, **fields))


def _order(text: str, numbers: list[str], language: Language) -> str:
    """Guess the order of day, month and year as the language writes them."""
    if len(numbers[0]) == 4:
        return "ymd"[: len(numbers)]
    if language in ("chinese", "japanese", "korean"):
        return "ymd" if len(numbers) == 3 else "md"
    is_american = language == "english" and "/" in text
    return ("mdy" if is_american else "dmy")[: len(numbers)]


def _is_date(fields: Mapping[str, int]) -> bool:
    leap_year = 2000  # for a day without a year, and for "00"
    return is_date(fields.get("d", 1), fields.get("m", 1), fields.get("y", 0) or leap_year)
