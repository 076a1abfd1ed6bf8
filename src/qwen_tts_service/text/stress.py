"""Stress marks in Cyrillic words: "+" before a vowel, as typists write it, becomes U+0301 after it.

    "обесп+ечение" -> "обеспе́чение"; "2+2", "C++", "+7", "русский+английский" stay

Looks at one word at a time, so that a text that is being written is read as it would be whole.
"""

import re

from .russian_numbers import dictionary

STRESS = "\u0301"
"""The combining acute accent, which follows its vowel."""

_PLUS = re.compile(
    r"(?<![\w+])(?P<left>[а-яё]{0,32})\+(?P<vowel>[аеёиоуыэюя])(?P<right>[а-яё]{0,32})(?![\w+])",
    re.IGNORECASE,
)
# A marked vowel of a Latin keyboard inside a Cyrillic word: "договóр".
_LATIN = dict(zip("áéóýÁÉÓÝ", "аеоуАЕОУ", strict=True))
_LATIN_VOWEL = re.compile(r"(?<=[а-яё])[áéóý]|[áéóýÁÉÓÝ](?=[а-яё])", re.IGNORECASE)
_STRESS_MARK = re.compile(rf"(?<=[аеёиоуыэюя]){STRESS}", re.IGNORECASE)


def mark_stress(text: str) -> str:
    """Put U+0301 for every "+" that is a stress mark, and for a Latin "ó"; a "ё" needs none."""
    text = _LATIN_VOWEL.sub(lambda vowel: _LATIN[vowel[0]] + STRESS, text)
    return _PLUS.sub(_mark, text) if "+" in text else text


def drop_stress(text: str) -> str:
    """Take the marks of stress off Cyrillic vowels."""
    return _STRESS_MARK.sub("", text)


def _mark(match: re.Match[str]) -> str:
    left, vowel, right = match["left"], match["vowel"], match["right"]
    if _is_sum(left, vowel + right):
        return match[0]
    return left + vowel + ("" if vowel in "ёЁ" else STRESS) + right


def _is_sum(left: str, right: str) -> bool:
    """Whether a plus stands between two words: "СМС+интернет", "чай+ананас", "дом+офис"."""
    if not left:
        return len(right) == 1
    is_other_case = left[-1].isupper() != right[0].isupper() and len(left) > 1
    is_long = min(len(left), len(right)) > 3
    return (
        is_other_case
        or (left[-1] in "йьъЙЬЪ" and len(right) > 3)
        or (is_long and left[-1] in "аеёиоуыэюяАЕЁИОУЫЭЮЯ")
        or (min(len(left), len(right)) > 2 and _are_two_words(left, right))
    )


def _are_two_words(left: str, right: str) -> bool:
    """Whether the dictionary has both and not what they are together; it is of the extra `ru`."""
    try:
        is_known = dictionary().word_is_known
    except ImportError:
        return False
    return is_known(left) and is_known(right) and not is_known(left + right)
