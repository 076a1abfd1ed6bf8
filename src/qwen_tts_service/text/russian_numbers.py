"""Russian numbers in words, declined: cardinals, ordinals, counted nouns, groups of digits.

Needs the extra `ru` (num2words, pymorphy3); both are imported at the first use.
"""

from functools import cache, lru_cache
from typing import Any, Literal, cast

from .numerals import russian_plural

Case = Literal["nominative", "genitive", "dative", "accusative", "instrumental", "prepositional"]
GrammaticalGender = Literal["m", "f", "n"]

GRAMMEMES: dict[Case, str] = {
    "nominative": "nomn",
    "genitive": "gent",
    "dative": "datv",
    "accusative": "accs",
    "instrumental": "ablt",
    "prepositional": "loct",
}
_GENDERS: dict[str, GrammaticalGender] = {"masc": "m", "femn": "f", "neut": "n"}
_ACCUSATIVE = {"одна": "одну", "тысяча": "тысячу"}


@cache
def dictionary() -> Any:
    """The morphological dictionary, a `pymorphy3.MorphAnalyzer` (0.3 s and 30 MB, once)."""
    from pymorphy3 import MorphAnalyzer  # noqa: PLC0415  (optional)

    return MorphAnalyzer()


@lru_cache(maxsize=16384)
def parses_of(word: str) -> Any:
    """What a word may be, likeliest first: a list of `pymorphy3.analyzer.Parse`."""
    return dictionary().parse(word)


@lru_cache(maxsize=16384)
def cardinal(number: int, case: Case = "nominative", gender: GrammaticalGender = "m") -> str:
    """Say how many; the accusative is that of things, not of living beings."""
    from num2words import num2words  # noqa: PLC0415  (optional)

    if case != "accusative":
        return cast("str", num2words(number, lang="ru", case=case, gender=gender))
    words = cardinal(number, "nominative", gender).split()
    return " ".join(_ACCUSATIVE.get(word, word) for word in words)


def ordinal(number: int, case: Case = "nominative", gender: GrammaticalGender = "m") -> str:
    """Say which in a row; the accusative is that of things."""
    from num2words import num2words  # noqa: PLC0415  (optional)

    if case == "accusative":
        if gender != "f":
            return ordinal(number, "nominative", gender)
        *first, last = ordinal(number).split()
        return " ".join([*first, inflect(last, {"femn", "accs"})])
    return cast("str", num2words(number, lang="ru", to="ordinal", case=case, gender=gender))


def inflect(word: str, grammemes: set[str]) -> str:
    """Put a word into another form; itself where it has none."""
    return _inflect(word, frozenset(grammemes))


@lru_cache(maxsize=16384)
def _inflect(word: str, grammemes: frozenset[str]) -> str:
    form = parses_of(word)[0].inflect(grammemes)
    return cast("str", form.word) if form else word


def count(number: int, noun: str, case: Case = "nominative") -> str:
    """Say a number with the noun that it counts, which is given in the nominative singular."""
    parse = parses_of(noun)[0]
    return f"{cardinal(number, case, gender_of(parse.tag))} {counted(number, noun, case)}"


def counted(number: int, noun: str, case: Case = "nominative") -> str:
    """The form of a noun behind a number: "час", "часа", "часов"."""
    plural = russian_plural(number)
    if plural == 0:
        form = {"sing", GRAMMEMES[case]}
    elif case not in ("nominative", "accusative"):
        form = {"plur", GRAMMEMES[case]}
    else:
        form = {"sing", "gent"} if plural == 1 else {"plur", "gent"}
    if noun == "человек" and form == {"plur", "gent"}:
        return noun
    word = inflect(noun, form)
    # The dictionary knows "грамм" as the genitive too, as it is spoken.
    return word + "ов" if form == {"plur", "gent"} and word.endswith("грамм") else word


def gender_of(tag: Any) -> GrammaticalGender:
    """The gender in a tag of the dictionary; masculine where it has none."""
    return _GENDERS.get(str(tag.gender), "m")


def zero_led(digits: str, case: Case = "nominative") -> str:
    """Say digits that may begin with zeros: "007" is "ноль ноль семь"."""
    if not digits.startswith("0"):
        return cardinal(int(digits), case)
    rest = digits.lstrip("0")
    head = len(rest) % 3
    groups = [rest[:head], *(rest[at : at + 3] for at in range(head, len(rest), 3))]
    said = [zero_led(group, case) for group in groups if group]
    return " ".join(["ноль"] * (len(digits) - len(rest)) + said)
