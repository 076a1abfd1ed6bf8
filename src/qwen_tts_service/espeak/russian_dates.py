"""Russian dates in figures, written out: 01.02.2024 -> первого февраля две тысячи ... года.

espeak-ng reads the figures one by one with the dots ("ноль один точка ноль два точка ...").
The genitive is used throughout, the case of "when?". It knows no other figures.
"""

import re
from datetime import date


def _words(spaced: str) -> tuple[str, ...]:
    return tuple(spaced.split())


_MONTHS = _words(
    "января февраля марта апреля мая июня июля августа сентября октября ноября декабря"
)
_ORDINALS = _words(
    "нулевого первого второго третьего четвёртого пятого шестого седьмого восьмого девятого "
    "десятого одиннадцатого двенадцатого тринадцатого четырнадцатого пятнадцатого "
    "шестнадцатого семнадцатого восемнадцатого девятнадцатого"
)
_TENS_ORDINALS = _words(
    "двадцатого тридцатого сорокового пятидесятого шестидесятого семидесятого "
    "восьмидесятого девяностого"
)
_TENS = _words("двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто")
_HUNDREDS_ORDINALS = _words(
    "сотого двухсотого трёхсотого четырёхсотого пятисотого шестисотого семисотого "
    "восьмисотого девятисотого"
)
_HUNDREDS = _words("сто двести триста четыреста пятьсот шестьсот семьсот восемьсот девятьсот")
_THOUSANDS = {1: "тысяча", 2: "две тысячи"}
_THOUSANDS_ORDINALS = {1: "тысячного", 2: "двухтысячного"}

# A dot after "г" that may end the sentence (a capital or nothing follows) is left in the text.
_DATE = re.compile(
    r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.([12]\d{3})(?!\d|\.\d)"
    r"(?:\s*(?:года\b|г\.(?=\s*[^\sА-ЯЁ])|г\b))?"
)


def expand_dates(text: str) -> str:
    """Write out every date in figures; what is no day of the calendar stays as it is."""
    return _DATE.sub(_spoken, text)


def _spoken(match: re.Match[str]) -> str:
    day, month, year = (int(figures) for figures in match.groups())
    try:
        date(year, month, day)
    except ValueError:
        return match[0]
    ordinal_day = " ".join(_below_hundred(day))
    return f"{ordinal_day} {_MONTHS[month - 1]} {' '.join(_year(year))} года"


def _year(year: int) -> list[str]:
    """Cardinals up to the last non-zero part, which is the ordinal: 1900, 2000, 2024."""
    thousands, rest = divmod(year, 1000)
    hundreds, below = divmod(rest, 100)
    if rest == 0:
        return [_THOUSANDS_ORDINALS[thousands]]
    words = [_THOUSANDS[thousands]]
    if below == 0:
        return [*words, _HUNDREDS_ORDINALS[hundreds - 1]]
    if hundreds:
        words.append(_HUNDREDS[hundreds - 1])
    return words + _below_hundred(below)


def _below_hundred(number: int) -> list[str]:
    if number < 20:
        return [_ORDINALS[number]]
    tens, units = divmod(number, 10)
    if units == 0:
        return [_TENS_ORDINALS[tens - 2]]
    return [_TENS[tens - 2], _ORDINALS[units]]
