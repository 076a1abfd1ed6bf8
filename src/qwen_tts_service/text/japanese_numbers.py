"""Japanese numbers in kana, with their counters, for a voice that reads kana only."""

import re
import tomllib
from importlib.resources import files
from typing import Any

_TABLE: dict[str, Any] = tomllib.loads(
    files(__package__).joinpath("japanese_numbers.toml").read_text("utf-8")
)
_DIGITS: list[str] = _TABLE["digits"].split()
_GROUPS: list[str] = ["", *_TABLE["groups"].split()]
_MOST_DIGITS = 4 * len(_GROUPS)
"""A longer number, and one that begins with a zero, is read figure by figure."""
_COUNTERS: dict[str, dict[str, str]] = _TABLE["counters"]
_NUMBER = re.compile(rf"(?P<number>\d{{1,3}}(?:,\d{{3}})+|\d+)(?P<counter>{'|'.join(_COUNTERS)})?")


def write_out(text: str) -> str:
    """Write figures in kana: 9時 is くじ, 3人 さんにん, 10000 いちまん."""
    return _NUMBER.sub(lambda match: f" {_number(match)} ", text)


def _number(match: re.Match[str]) -> str:
    digits, counter = match["number"].replace(",", ""), match["counter"] or ""
    forms = _COUNTERS.get(counter, {})
    if len(digits) > _MOST_DIGITS or (digits[0] == "0" and len(digits) > 1):
        return " ".join([*(_DIGITS[int(digit)] for digit in digits), forms.get("read", counter)])
    before = match.string[match.start() - 1 : match.start()]
    if whole := forms.get(before + digits + counter) or forms.get(digits + counter):
        return whole
    end = forms.get(digits[-1])
    if end and digits[-1] == "0" and len(digits) == 2:  # じゅっぷん, にじゅっぷん
        return ("" if digits[0] == "1" else _DIGITS[int(digits[0])]) + end
    if end and digits[-1] != "0":
        return (_kana(int(digits[:-1] + "0")) if len(digits) > 1 else "") + end
    return _kana(int(digits)) + forms.get("read", counter)


def _kana(number: int) -> str:
    """Say a number below 10^16; groups of four figures are set apart."""
    if number == 0:
        return _DIGITS[0]
    groups = []
    for power, unit in enumerate(_GROUPS):
        group = number // 10_000**power % 10_000
        if group:
            groups.append(_below_10_000(group) + unit)
    return " ".join(reversed(groups))


def _below_10_000(number: int) -> str:
    said = ""
    for unit, name in (("1000", "せん"), ("100", "ひゃく"), ("10", "じゅう")):
        digit = number // int(unit) % 10
        plain = (_DIGITS[digit] if digit > 1 else "") + name
        said += _TABLE["tens"].get(f"{digit}{unit[1:]}", plain) if digit else ""
    return said + (_DIGITS[number % 10] if number % 10 else "")
