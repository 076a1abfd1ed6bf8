"""Write out addresses, numbers, units, signs and abbreviations as words, in ten languages.

What espeak-ng 1.52 reads well by itself stays as it is. The knowledge is in notation.toml. Every
step is one regular expression over the text, in time linear in its length.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from qwen_tts_service.text.say_as import written as said_as
from qwen_tts_service.text.segments import SayAs
from qwen_tts_service.types import Language

from . import japanese, read_table, russian

_TABLES = read_table("notation.toml")
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
    text = notation.rewrite(_ADDRESS.sub(notation.read_address, text))
    if has_figures := _DIGIT.search(text) is not None:
        text = _FIGURES.sub(notation.read_figures, text)
    if language == "russian":
        text = russian.write_out_dates(text)
    if has_figures:
        text = notation.spelled.sub(lambda match: " ".join(match[0]), text)
        text = notation.money.sub(notation.read_money, text)
        text = _HOURS.sub(notation.read_hours, text)
        text = notation.quantity.sub(notation.read_quantity, text)
    text = _BETWEEN_WORDS.sub(" ", notation.rules.sub(notation.apply_rule, text))
    if has_figures:
        text = _RANGE.sub(notation.read_range, text)
        if language == "russian":
            text = russian.write_out_numbers(text)
        text = notation.read_decimals(_MINUS.sub(notation.minus, text))
        if language == "japanese":
            text = japanese.write_out_numbers(text)
    text = notation.read_letters(notation.signs.sub(notation.read_sign, text))
    return notation.read_counted(text) if has_figures else text


class Notation:
    """How one language reads what is not words; each method is the replacement of a match."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._table = table = _TABLES[language]
        self._rewrites = [(re.compile(old), new) for old, new in table.get("rewrites", [])]
        self.spelled = re.compile(table.get("spelled", "(?!)"))
        self._counted = [
            (re.compile(rf"(?<![\d.,:-])(\d{{1,3}}\.?)(?={nouns})"), _reader_of(words))
            for nouns, words in table.get("counted", {}).items()
        ]
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
        self.signs = re.compile(rf"\s*({_alternatives(table['signs'])})\s*")
        self.minus = f"{table['signs']['−']} " if "−" in table["signs"] else "-"

    def rewrite(self, text: str) -> str:
        """Write out or set apart what no table of words can say."""
        for old, new in self._rewrites:
            text = old.sub(new, text)
        return text

    def read_counted(self, text: str) -> str:
        """Write small numbers as they are before what they count: "1 Stunde" is "eine Stunde"."""
        for number, read in self._counted:
            text = number.sub(read, text)
        return text

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
        unit, cents = forms[: 3 if len(forms) > 3 else None], forms[3:]
        how = {"number": amount, "unit": _form(unit, amount)}
        if "{number}" in self._table["money"]:
            return str(self._table["money"].format(**how))
        hundredths = re.fullmatch(r"(\d+)[.,](\d\d)", amount)
        if not hundredths:
            return f"{_agreed(amount, how['unit'])} {how['unit']}" + _stop(match)
        whole, rest = hundredths[1], str(int(hundredths[2]))
        unit_word = _form(unit, whole)
        rest_words = f"{_agreed(rest, _form(cents, rest))} {_form(cents, rest)}" if cents else rest
        words = self._table["money"].format(
            whole=_agreed(whole, unit_word), unit=unit_word, cents=rest_words
        )
        return (words if int(rest) else f"{_agreed(whole, unit_word)} {unit_word}") + _stop(match)

    def read_hours(self, match: re.Match[str]) -> str:
        """Write out the h of a time of the day: "14h30"."""
        if "hours" not in self._table:
            return match[0]
        word = _form(self._table["hours"].split("|"), match[1])
        return " ".join(filter(None, [match[1], word, match[2]]))

    def read_quantity(self, match: re.Match[str]) -> str:
        """Write out a unit behind its number."""
        number = match["number"]
        word: str = _form(self._table["units"][match["unit"]].split("|"), number)
        if "{number}" in word:
            return word.format(number=number)
        gap = "" if "{number}" in self._table["money"] else " "
        return f"{_agreed(number, word)}{gap}{word}" + _stop(match)

    def apply_rule(self, match: re.Match[str]) -> str:
        """Replace what a rule matched; a capital stays one, a sentence may begin there."""
        words, *is_last = self._rules[(match.lastindex or 1) - 1][1:]
        return _as_capital(match[0], words) + _stop(match, before_capital=bool(is_last))

    def read_range(self, match: re.Match[str]) -> str:
        """Read "10-15" as "10 to 15", what does not rise as two numbers."""
        first, last = (float(number.replace(",", ".")) for number in match.groups())
        return " ".join(
            filter(None, [match[1], self._table["to"] if first < last else "", match[2]])
        )

    def read_decimals(self, text: str) -> str:
        """Write out the decimal point where espeak-ng leaves it out."""
        if "point" not in self._table:
            return text
        return _DECIMAL.sub(self._decimal, text)

    def _decimal(self, match: re.Match[str]) -> str:
        if self._table["decimal"] == ".":
            return f"{match[1]} {self._table['point']} {' '.join(match[2])}"
        if _THOUSANDS.fullmatch(match[0]):
            return match[0]
        return f"{match[1]} {self._table['point']} {match[2]}"

    def read_sign(self, match: re.Match[str]) -> str:
        """Write out a sign."""
        return f" {self._table['signs'][match[1]]} "

    def read_letters(self, text: str) -> str:
        """Write out initials, ordinals with a dot, and abbreviations that are spelled."""
        if "ordinals" in self._table:
            text = self._ordinals(text)
        if "letters" in self._table:
            text = _CAPITALS.sub(self._spell, text)
        return _INITIAL.sub(
            lambda found: f"{russian.letter_name(found[1] or found[2]).capitalize()} ", text
        )

    def _spell(self, match: re.Match[str]) -> str:
        if _WORD.fullmatch(match[0]):
            return match[0]
        names = " ".join(self._table["letters"][letter] for letter in match[0])
        return _as_capital(match[0], names)

    def _ordinals(self, text: str) -> str:
        after, before = self._table["ordinal_after"], self._table["ordinal_before"]
        stems: list[str] = self._table["ordinals"].split()

        def read(found: re.Match[str]) -> str:
            number = int(found[2] or found[3])
            if not 0 < number <= len(stems):
                return found[0]
            ending = "e" if (found[1] or "").strip().lower() in ("der", "die", "das") else "en"
            return (found[1] or "") + stems[number - 1] + ending

        return re.sub(
            rf"\b((?i:{after})\s)(\d{{1,2}})\.(?=\s[A-ZÄÖÜ])"
            rf"|(?<![\w.,])(\d{{1,2}})\.(?=\s?(?:{before})\b)",
            read,
            text,
        )


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
    pattern = re.compile(rf"(?<!\w)(?=\w)(?:{'|'.join(groups) or '(?!)'})")
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


def _reader_of(words: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda number: words.get(number[0], number[0])


def _form(forms: list[str], number: str) -> str:
    """Choose the form of a noun; a number that is not whole takes the second in Russian."""
    if len(forms) == 3:
        return russian.form(forms, number)
    return forms[0] if number == "1" else forms[-1]


def _agreed(number: str, noun: str) -> str:
    """Write the number as the noun has it: only Russian 1 and 2 have a gender."""
    return russian.agreed(number, noun)
