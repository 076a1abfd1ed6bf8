"""Russian dates in figures, written out: 01.02.2024 -> первого февраля две тысячи ... года.

espeak-ng reads the figures one by one with the dots ("ноль один точка ноль два точка ...").
The genitive is used throughout, the case of "when?". Other figures stay as they are.
"""

import re
from datetime import date

from . import read_table

_WORDS: dict[str, dict[str, str]] = read_table("russian_dates.toml")
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
    return " ".join([*_ordinal(day), _WORDS["months"][str(month)], *_ordinal(year), "года"])


def _ordinal(number: int) -> list[str]:
    """Cardinals up to the last non-zero part, which is the ordinal: 1900, 2000, 2024."""
    for unit in (1000, 100, 10):
        rest = number % unit
        if rest and number > max(unit, 20):
            return [_WORDS["cardinals"][str(number - rest)], *_ordinal(rest)]
    return [_WORDS["ordinals"][str(number)]]
