"""Calendar days, Roman numerals and counted nouns, for every voice that reads numbers out."""

import re
from collections.abc import Sequence
from datetime import date

_ROMAN = re.compile("M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_FEMININE = {"1": "одна", "2": "две"}


def is_date(day: int, month: int, year: int) -> bool:
    """Whether the calendar has this day."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def roman_value(digits: str) -> int | None:
    """The value of a Roman number in capitals; None for what is not well-formed, or empty."""
    if not digits or not _ROMAN.fullmatch(digits):
        return None
    values = [_ROMAN_DIGITS[digit] for digit in digits]
    return sum(-value if value < max(values[at:]) else value for at, value in enumerate(values))


def russian_plural(number: int) -> int:
    """Which form of a noun a Russian number takes: 0 that of 1, 1 that of 2 to 4, 2 that of 5."""
    last = 0 if number % 100 in range(11, 15) else number % 10
    return 0 if last == 1 else 1 if last in (2, 3, 4) else 2


def noun_form(forms: Sequence[str], number: str) -> str:
    """Choose the form of a noun behind a number: of one and many, or of Russian 1, 2 and 5.

    In Russian a decimal ("1,5") takes the second form, a number in words ("5 млн") the third.
    """
    if len(forms) < 3:
        return forms[0] if number == "1" else forms[-1]
    if not number.isdecimal():
        return forms[1] if number[-1].isdecimal() else forms[2]
    return forms[russian_plural(int(number[-2:]))]


def agreed(number: str, noun: str) -> str:
    """Write 1 and 2 at the end of a number in the gender of a Russian noun: 21 -> "20 одна"."""
    if not number.isdecimal() or not noun.endswith(("а", "я", "ы", "и")) or number[-2:-1] == "1":
        return number
    unit = _FEMININE.get(number[-1])
    if unit is None or (number[-1] == "2" and noun.endswith(("а", "я")) and noun != "а"):
        return number
    # Not by int(), which refuses numbers of more than 4,300 digits.
    return f"{number[:-1]}0 {unit}" if number[:-1].strip("0") else unit
