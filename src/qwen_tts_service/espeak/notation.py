"""Write out addresses, numbers, units, signs and abbreviations as words, in ten languages.

What espeak-ng 1.52 reads well by itself stays as it is. The knowledge is in notation.toml. Every
step is one regular expression over the text, in time linear in its length.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from qwen_tts_service.text import japanese_numbers
from qwen_tts_service.text.numerals import agreed, noun_form
from qwen_tts_service.text.say_as import written as said_as
from qwen_tts_service.text.segments import SayAs
from qwen_tts_service.types import Language

from . import read_table, russian

_TABLES = read_table("notation.toml")
_NEVER = "(?!)"
_SPACE = "[ \u00a0\u2009\u202f]"
_NUMBER = r"\d+(?:[.,]\d+)?"
_SCALE = (
    r"(?:thousand|[mb]illion|Mi[ol]\.|Mrd\.|Millionen|Milliarden?|millions?|milliards?|mill[oó]n(?:es)?"
    r"|mil\b|mil[hi]\w+|тыс\.?|млн\.?|млрд\.?|[万亿億만억])"
)
_LETTERS = "A-Za-zÀ-ÖØ-öø-ɏа-яёА-ЯЁ"  # of words with spaces between them
_NO_LETTER = rf"(?![{_LETTERS}\d²³])"
_START = rf"(?<![{_LETTERS}\d.,])"

# "100 200 300" is three numbers, "100 200" and "146 203 613" are one.
_LIST = rf"[1-9]00(?:{_SPACE}[1-9]00){{2}}"

_ADDRESS = re.compile(
    r"(?P<url>(?:https?://|(?<!\w)www\.)[^\s<>«»\"]+)"
    r"|(?<![\w.+-])(?P<mail>[\w.+-]++@[\w-]+(?:\.[\w-]+)+)"
    r"|(?<![A-Za-z0-9@./-])(?!(?i:sig|prof|dott|gent)\.)(?P<name>(?:[A-Za-z0-9-]{2,}\.)+[a-z]{2,6}+)(?:/[\w/.-]*)?(?![A-Za-z0-9@-])"
)
_FIGURES = re.compile(
    rf"{_START}(?<![-/])(?P<date>\d{{4}}([-./])\d{{1,2}}\2\d{{1,2}}|\d{{1,2}}([./])\d{{1,2}}\3\d{{4}})"
    r"(?![-./]?\d)"
    rf"|{_START}(?P<phone>\+\d(?:[ \u00a0()-]{{0,2}}\d){{6,13}}"
    r"|8[ -]?\(?\d{3}\)?[ -]?\d{3}[ -]?\d{2}[ -]?\d{2}"
    r"|1-\d{3}-\d{3}-\d{4}|\(\d{3,5}\)[ -]?\d{1,3}(?:-\d{2,4}){1,2}|\d{2,5}(?:-\d{2,4}){2,})(?!-)"
    rf"{_NO_LETTER}"
    rf"|{_START}(?<!\d{_SPACE})(?:(?P<list>{_LIST})|(?P<grouped>[1-9]\d{{0,2}}(?:{_SPACE}\d{{3}})+)"
    r"(?!\d|-\d{1,2}(?!\d)))"
    r"|(?<![\d.,])(?P<both>\d{1,3}(?:(?:\.\d{3})+,\d+|(?:,\d{3})+\.\d+))(?![\d.,]\d)"
    r"|(?<![\d.])(?P<dotted>\d+(?:\.\d+){2,})(?!\d)"
)
_DIGIT = re.compile("[0-9]")
_IP = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.|\Z)){4}\Z")
_THOUSANDS = re.compile(r"\d{1,3}(?:\.\d{3})+")
_RANGE = re.compile(rf"{_START}(?<![/-])({_NUMBER})[-–—]({_NUMBER})(?!-|[.,]\d){_NO_LETTER}")
_DECIMAL = re.compile(r"(?<![\d.,])(\d+)\.(\d+)(?![.,]?\d)")
_MINUS = re.compile(rf"{_START}(?<![)\]])[-–−](?=\d)")
_HOURS = re.compile(rf"{_START}(\d{{1,2}}){_SPACE}?[hH](?:{_SPACE}?(\d\d))?(?!/){_NO_LETTER}")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])/(?=[^\W\d_])")
_INITIAL = re.compile(
    r"(?<!\w)([A-HJ-ZÀ-ÝА-ЮЁ]|(?<=[А-ЮЁ]\. )Я)\.\s?(?=[A-ZÀ-ÝА-ЯЁ,;)]|\Z)"
    r"|(?<=[A-Z]\.)([A-Z])\.(?=\s[a-zß-ÿ])"
)
_CAPITALS = re.compile(r"(?<![A-Za-z])[A-Z]{2,5}(?![A-Za-z])")
# Words in capitals, which are not spelled.
_WORD = re.compile(
    r"THE|AND|FOR|YES|NOT|NEW|TOP|HOT|BIG|RED|RAM|ROM|SIM|PIN|GIF|BOX|PRO|MAX|AIR|NO|GO|ON|TO|IN"
    r"|(?=.*[AEIOUY]).{4,}"
)


def write_out(text: str, language: Language) -> str:
    """Write a text as it is read in this language; words stay as they are."""
    notation = _notation(language)
    text = _ADDRESS.sub(notation.read_address, text)
    for pattern, replacement in notation.rewrites:
        text = pattern.sub(replacement, text)
    if has_figures := _DIGIT.search(text) is not None:
        text = _FIGURES.sub(notation.read_figures, text)
    if language == "russian":
        text = russian.write_out_dates(text)
    if has_figures:
        text = notation.spelled.sub(lambda match: " ".join(match[0]), text)
        text = notation.money.sub(notation.read_money, text)
        text = notation.hours.sub(notation.read_hours, text)
        text = notation.quantity.sub(notation.read_quantity, text)
    text = _BETWEEN_WORDS.sub(" ", notation.rules.sub(notation.apply_rule, text))
    if has_figures:
        text = _RANGE.sub(notation.read_range, text)
        if language == "russian":
            text = russian.write_out_numbers(text)
        text = notation.decimal.sub(notation.read_decimal, _MINUS.sub(notation.minus, text))
        if language == "japanese":  # espeak-ng reads 10,000 as English "ten thousand"
            text = japanese_numbers.write_out(text)
    text = notation.signs.sub(notation.read_sign, text)
    text = notation.ordinal.sub(notation.read_ordinal, text)
    text = notation.capitals.sub(notation.spell, text)
    text = _INITIAL.sub(_read_initial, text)
    for number, words in notation.counted if has_figures else ():
        text = number.sub(words, text)
    return text


class Notation:
    """How one language reads what is not words; each method is the replacement of a match."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._table = table = _TABLES[language]
        self.rewrites = [(re.compile(old), new) for old, new in table.get("rewrites", [])]
        self.spelled = re.compile(table.get("spelled", _NEVER))
        self.counted = [
            (re.compile(rf"(?<![\d.,:-])(\d{{1,3}}\.?)(?={nouns})"), partial(_known, words))
            for nouns, words in table.get("counted", {}).items()
        ]
        self._gap = "" if table["money"] == "{number}{unit}" else " "
        self._rules, self.rules = _compile_rules(table["rules"])
        currencies, units = (_alternatives(table[kind]) for kind in ("currencies", "units"))
        amount = rf"{_NUMBER}(?:\s?{_SCALE})?"
        self.money = re.compile(
            rf"(?:(?<![{_LETTERS}])|(?![{_LETTERS}]))"  # no "р." of "стр. 5"
            rf"(?P<sign>{currencies})\s?(?P<amount>(?<!\d){amount}){_NO_LETTER}"
            rf"|{_START}(?P<before>{amount})\s?(?P<behind>{currencies}){_NO_LETTER}"
        )
        self.quantity = re.compile(
            rf"{_START}(?P<number>{_NUMBER})\s?(?P<unit>{units}){_NO_LETTER}"
        )
        self.hours = re.compile(_HOURS if "hours" in table else _NEVER)
        self.decimal = re.compile(_DECIMAL if "point" in table else _NEVER)
        self.capitals = re.compile(_CAPITALS if "letters" in table else _NEVER)
        self.ordinal = re.compile(table.get("ordinal", _NEVER))
        self._ordinals: list[str] = table.get("ordinals", "").split()
        self.signs = re.compile(rf"\s*({_alternatives(table['signs'])})\s*")
        self.minus = f"{table['signs']['−']} " if "−" in table["signs"] else "-"

    def read_address(self, match: re.Match[str]) -> str:
        """Name the domain of a link, or a mail address or file name whole."""
        written = match[0].rstrip(".,;:!?)'*_~")
        rest = match[0][len(written) :]
        if match["url"]:
            written = re.sub(r"\A(?:https?://)?(?:www\.)?|[/?#:].*\Z", "", written, flags=re.DOTALL)
        elif match["name"]:
            written, rest = match["name"], ""
        words: dict[str, str] = {
            "@": self._table["at"],
            ".": self._table["dot"],
            **self._table.get("labels", {}),
        }
        parts = [words.get(part, part) for part in str.split(re.sub(r"([.@])", r" \1 ", written))]
        return re.sub(r"[-_+]+", " ", " ".join(parts)).strip() + rest

    def read_figures(self, match: re.Match[str]) -> str:
        """Undo what groups the digits of a number, and set those of a phone apart."""
        written = match[0]
        if match["date"]:
            date, _ = said_as(written, SayAs("date"), self._language)
            is_read = date != written or self._language == "russian"
            return date if is_read else " ".join(re.findall(r"\d+", date))
        if match["phone"]:
            return self._phone(written)
        if match["list"]:
            return re.sub(_SPACE, ", ", written)
        if match["grouped"]:
            return re.sub(_SPACE, "", written)
        if match["both"]:
            whole, decimals = re.split(r"[.,](?=\d+\Z)", written)
            return f"{re.sub('[.,]', '', whole)}{self._table['decimal']}{decimals}"
        if _THOUSANDS.fullmatch(written) and not _IP.match(written):
            return written.replace(".", "")
        return f" {self._table['dot']} ".join(written.split("."))

    def _phone(self, written: str) -> str:
        digits = re.sub(
            r"(?<!\d)(\d)?(\d{3})(\d{3})(\d{2})(\d{2})(?!\d)", r"\1 \2 \3 \4 \5", written
        )
        groups = re.findall(r"\d+", digits)
        if self._table.get("phone") == "digits":
            groups = [" ".join(group) for group in groups]
        return ("+" if written.startswith("+") else "") + " ".join(groups)

    def read_money(self, match: re.Match[str]) -> str:
        """Set the currency behind its amount, as "5 dollars 99"."""
        amount = match["amount"] or match["before"]
        forms = self._table["currencies"][match["sign"] or match["behind"]].split("|")
        units, cents = (forms[:3], forms[3:]) if len(forms) > 3 else (forms, [])
        parts = re.fullmatch(r"(\d+)[.,](\d\d)", amount) if self._gap else None
        whole = parts[1] if parts else amount
        words = self._count(whole, units)
        if parts and (hundredths := str(int(parts[2]))) != "0":
            unit = noun_form(units, whole)
            rest = self._count(hundredths, cents) if cents else hundredths
            words = self._table["money"].format(whole=agreed(whole, unit), unit=unit, cents=rest)
        return words + _stop(match)

    def read_hours(self, match: re.Match[str]) -> str:
        """Write out the h of a time of the day: "14h30"."""
        word = noun_form(self._table["hours"].split("|"), match[1])
        return " ".join(filter(None, [match[1], word, match[2]]))

    def read_quantity(self, match: re.Match[str]) -> str:
        """Write out a unit behind its number."""
        forms = self._table["units"][match["unit"]].split("|")
        return self._count(match["number"], forms) + _stop(match)

    def _count(self, number: str, forms: Sequence[str]) -> str:
        """A number with the noun that it counts; the words for a noun may say where it stands."""
        word = noun_form(forms, number)
        if "{number}" in word:
            return word.format(number=number)
        return f"{agreed(number, word)}{self._gap}{word}"

    def apply_rule(self, match: re.Match[str]) -> str:
        """Replace what a rule matched; a capital stays one, a sentence may begin there."""
        words, *is_last = self._rules[(match.lastindex or 1) - 1][1:]
        return _as_capital(match[0], words) + _stop(match, before_capital=bool(is_last))

    def read_range(self, match: re.Match[str]) -> str:
        """Read "10-15" as "10 to 15", what does not rise as two numbers."""
        first, last = (float(number.replace(",", ".")) for number in match.groups())
        to = self._table["to"] if first < last else ""
        return " ".join(filter(None, [match[1], to, match[2]]))

    def read_decimal(self, match: re.Match[str]) -> str:
        """Write out the decimal point where espeak-ng leaves it out."""
        whole, decimals = match.groups()
        if self._table["decimal"] == ".":
            decimals = " ".join(decimals)
        elif _THOUSANDS.fullmatch(match[0]):
            return match[0]
        return f"{whole} {self._table['point']} {decimals}"

    def read_sign(self, match: re.Match[str]) -> str:
        """Write out a sign."""
        return f" {self._table['signs'][match[1]]} "

    def read_ordinal(self, match: re.Match[str]) -> str:
        """Write out a German number with a dot: "der 3. Versuch", "am 3. Mai"."""
        number = int(match["number"] or match["day"])
        if not 0 < number <= len(self._ordinals):
            return match[0]
        before = match["before"] or ""
        ending = "e" if before.strip().lower() in ("der", "die", "das") else "en"
        return before + self._ordinals[number - 1] + ending

    def spell(self, match: re.Match[str]) -> str:
        """Name the letters of an abbreviation."""
        if _WORD.fullmatch(match[0]):
            return match[0]
        names = " ".join(self._table["letters"][letter] for letter in match[0])
        return _as_capital(match[0], names)


@cache
def _notation(language: Language) -> Notation:
    return Notation(language)


def _alternatives(table: Mapping[str, Any]) -> str:
    return "|".join(re.escape(key) for key in sorted(table, key=len, reverse=True))


def _compile_rules(rules: Sequence[Sequence[str]]) -> tuple[list[Sequence[str]], re.Pattern[str]]:
    """Put rules with the same first letter together, so that few are tried at each word."""
    by_first: dict[str, list[Sequence[str]]] = {}
    for rule in rules:
        first = re.sub(r"\A\(\?<=[^)]*\)|\[", "", rule[0])[:1].lower()
        by_first.setdefault(first, []).append(rule)
    groups = (
        f"(?=[{first}{first.upper()}])(?:"
        + "|".join(f"({_bounded(rule[0])})" for rule in same)
        + ")"
        for first, same in by_first.items()
    )
    pattern = re.compile(rf"(?<!\w)(?=\w)(?:{'|'.join(groups) or _NEVER})")
    return [rule for same in by_first.values() for rule in same], pattern


def _bounded(pattern: str) -> str:
    """A rule that does not end with a dot or a condition ends where its word ends."""
    return pattern if pattern.endswith((r"\.", ")", " ")) else rf"{pattern}(?!\w)"


def _stop(match: re.Match[str], *, before_capital: bool = True) -> str:
    """The dot of an abbreviation that is also the dot of its sentence."""
    if not match[0].endswith("."):
        return ""
    rest = match.string[match.end() : match.end() + 3]
    is_end = not match.string[match.end() : match.end() + 100].strip()
    return "." if is_end or (before_capital and re.match(r"\s+[^\W\d_a-zа-яё]", rest)) else ""


def _as_capital(written: str, words: str) -> str:
    return words[0].upper() + words[1:] if written[0].isupper() else words


def _known(words: Mapping[str, str], match: re.Match[str]) -> str:
    return words.get(match[0], match[0])


def _read_initial(match: re.Match[str]) -> str:
    letter = match[1] or match[2]
    return f"{_TABLES['initials'].get(letter, letter).capitalize()} "
