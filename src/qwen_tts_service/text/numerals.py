"""Days of the calendar and Roman numbers, whichever voice reads them out."""

import re
from datetime import date

_ROMAN = re.compile("M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


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
