"""Rules for what the Russian library reads wrong: they put it into words before it looks.

Links, phone numbers, dates, times of the day, scores, sums of money, versions, codes, numbers
after "нет". Each rule is a pattern and a function of its match; the words before a match decide
the case. What no rule matches is left to the library, and so is everything that is no number.
"""

import re
import tomllib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from .numerals import is_date, roman_value
from .russian_numbers import (
    GRAMMEMES,
    Case,
    GrammaticalGender,
    cardinal,
    count,
    counted,
    dictionary,
    gender_of,
    inflect,
    ordinal,
    parses_of,
    zero_led,
)

_TABLES: dict[str, Any] = tomllib.loads(
    files(__package__).joinpath("russian.toml").read_text(encoding="utf-8")
)


SPELLINGS_WITH_YO: dict[str, str] = _TABLES["yo"]
"""Words that the dictionary also knows without "ё", where that is another, rare word."""


def _words(name: str) -> frozenset[str]:
    return frozenset(_TABLES[name].split())


def _any_key_of(name: str) -> str:
    return "|".join(map(re.escape, sorted(_TABLES[name], key=len, reverse=True)))


def _any_of(name: str) -> str:
    return "|".join(map(re.escape, _TABLES[name].split()))


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern, and what its match is read as; None leaves the match as it is."""

    pattern: re.Pattern[str]
    read: Callable[[re.Match[str]], str | None]

    def apply(self, text: str) -> str:
        """Rewrite every match in a text."""
        return self.pattern.sub(self._read, text)

    def _read(self, match: re.Match[str]) -> str:
        read = self.read(match)
        return match[0] if read is None else read


# The words before ------------------------------------------------------------------------

_LAST_WORD = re.compile(r"([^\W\d_]+)[.:]? ?\Z")
_CASES: dict[str, Case] = {
    word: case for case, words in _TABLES["prepositions"].items() for word in words.split()
}


def _before(match: re.Match[str], chars: int = 24) -> str:
    return match.string[max(0, match.start() - chars) : match.start()].lower()


def _word_before(match: re.Match[str]) -> str:
    """The word right before a match, in lower case, or nothing."""
    found = _LAST_WORD.search(_before(match))
    return found[1] if found else ""


def _case_of(match: re.Match[str]) -> Case | None:
    """The case that the preposition before a match asks for."""
    return _CASES.get(_word_before(match))


def _has_word(text: str, words: frozenset[str]) -> bool:
    return not words.isdisjoint(re.findall(r"[^\W\d_]+", text))


def _after(match: re.Match[str], chars: int = 16) -> str:
    return match.string[match.end() : match.end() + chars]


# Links and addresses ---------------------------------------------------------------------

_HOST = rf"(?:[\w-]{{1,63}}\.){{1,5}}(?:{_any_of('domains')})(?![\w-])"
_MARKS = {".": "точка", "@": "собака", "_": "подчёркивание", "-": "дефис", "/": "слэш", "+": "плюс"}
_LINK_PARTS = re.compile(r"[^\W\d_]+|\d+|[.@_/+-]")
_SHORT_PATH = re.compile(r"(?:/[^\W\d_]{1,12}){1,2}/?(?![\w/.?=&#%-])")
# What Latin letters stand for in Russian names; the dictionary then says whether it is one.
_LETTERS: dict[str, str] = _TABLES["letters"]
_LETTER = re.compile("|".join(_LETTERS))


def _read_mail(match: re.Match[str]) -> str:
    return _spell_link(match["name"] + "@" + match["host"])


def _read_handle(match: re.Match[str]) -> str:
    parts = _LINK_PARTS.findall(match[0])
    return " ".join(_MARKS.get(part) or _read_link_word(part, is_russian=True) for part in parts)


def _read_link(match: re.Match[str]) -> str:
    """The host, and a path of one or two words; what else there is nobody says."""
    path = _SHORT_PATH.match(match["path"])
    end = match["path"][-1:] if match["path"][-1:] in (".", ",", "!", "?", ":", ";") else ""
    return _spell_link(match["host"] + (path[0].rstrip("/") if path else "")) + end


def _spell_link(link: str) -> str:
    is_russian = link.partition("/")[0].endswith((".ru", ".su", ".рф"))
    return " ".join(
        _MARKS.get(part) or _read_link_word(part, is_russian=is_russian)
        for part in _LINK_PARTS.findall(link)
    )


def _read_link_word(word: str, *, is_russian: bool) -> str:
    if word.isdecimal():
        return zero_led(word) if len(word) <= 4 else " ".join(map(zero_led, word))
    known: dict[str, str] = _TABLES["link_words"]
    if word.lower() in known:
        return known[word.lower()]
    if not (is_russian and word.isascii() and len(word) > 1):
        return word
    russian = _LETTER.sub(lambda letter: _LETTERS[letter[0]], word.lower())
    return russian if dictionary().word_is_known(russian) else word


# Phones ----------------------------------------------------------------------------------


def _read_phone(match: re.Match[str]) -> str:
    groups = [group for group in match.groups() if group]
    return ", ".join(map(_read_phone_group, groups))


def _read_phone_group(digits: str) -> str:
    if digits.startswith("+"):
        return f"плюс {cardinal(int(digits[1:]))}"
    pairs = (digits[:2], digits[2:]) if len(digits) == 4 else (digits,)
    return " ".join(map(zero_led, pairs))


def _read_phone_after_its_name(match: re.Match[str]) -> str | None:
    return _read_phone(match) if _has_word(_before(match), _words("phone_words")) else None


# Dates -----------------------------------------------------------------------------------

_MONTHS: list[str] = _TABLES["months"].split()
_UNITS_AFTER = re.compile(
    r" ?(?:[%°$€₽£]|(?:раза?|метр|кило|грамм|литр|км|см|мм|кг|м|л|г|руб|млн|млрд|тыс|процент|балл"
    r"|градус|секунд|час|минут|долл|евро|дюйм|тонн)\w*)"
)


def _date(day: int, month: int, year: int | None, case: Case) -> str:
    words = f"{ordinal(day, case, 'n')} {_MONTHS[month - 1]}"
    return words if year is None else f"{words} {ordinal(year, 'genitive')} года"


def _date_case(match: re.Match[str]) -> Case:
    """The case of a day: by its preposition, named ("Сегодня первое мая") or as a time."""
    case = _case_of(match)
    if case:
        return case
    before, after = _before(match).rstrip(), _after(match).lstrip()
    is_alone = not before and (not after or after[0] in ".!?—–-(:")
    is_named = _word_before(match) in _words("names_a_date") or before.endswith((":", "—", "–"))
    is_named = is_named or before.removesuffix(",").endswith(tuple(_DAYS.values()))
    is_open = re.match(r"\w", after) and not before
    return "nominative" if (is_alone or is_named) and not is_open else "genitive"


def _read_numeric_date(match: re.Match[str]) -> str | None:
    day, month, year = (int(match[name] or 0) for name in ("day", "month", "year"))
    if match["year"] and len(match["year"]) == 2:
        year += 2000 if year < 50 else 1900
    if not is_date(day, month, year or 2000):
        return None
    if not match["year"] and not _is_short_date(match):
        return None
    # A point that also ended the sentence stays.
    end = "." if match[0].endswith(".") and not _after(match).strip() else ""
    return _date(day, month, year or None, _date_case(match)) + end


def _is_short_date(match: re.Match[str]) -> bool:
    """Whether "31.12" is a day: not a decimal, not the time of day, not a version."""
    if _UNITS_AFTER.match(_after(match)) or _is_version(match):
        return False
    word = _word_before(match)
    return (len(match["day"]) == 2 and word not in ("в", "во")) or word in ("с", "до", "от", "к")


def _read_iso_date(match: re.Match[str]) -> str | None:
    year, month, day = map(int, match.groups())
    return _date(day, month, year, _date_case(match)) if is_date(day, month, year) else None


def _read_written_date(match: re.Match[str]) -> str | None:
    """Read "Сегодня 23 ноября" and "по 10 июля"; the library reads the others right."""
    day, month = int(match["day"]), _MONTHS.index(match["month"].lower()) + 1
    case = _date_case(match)
    if case not in ("nominative", "accusative") or not 1 <= day <= 31:
        return None
    return _date(day, month, int(match["year"]) if match["year"] else None, case)


def _read_date_range(match: re.Match[str]) -> str | None:
    """Read "10.12–15.12" as days, which decimals and times of the day are not."""
    first, last = ((int(match[day]), int(match[day + 1])) for day in (1, 3))
    if not (is_date(*first, 2000) and is_date(*last, 2000)) or _is_version(match):
        return None
    return f"с {_date(*first, None, 'genitive')} по {_date(*last, None, 'nominative')}"


def _read_days(match: re.Match[str]) -> str:
    first, last = int(match["first"]), int(match["last"])
    return (
        f"{match['from']} {ordinal(first, 'genitive', 'n')} по {ordinal(last, 'nominative', 'n')}"
    )


# Days of the week ------------------------------------------------------------------------

_DAYS: dict[str, str] = _TABLES["days"]
_DAY = "|".join(_DAYS)
# "ср." is "сравни" and "средний" too, "вс" an army.
_DAY_NEIGHBOUR = re.compile(
    rf"(?:[.,:]{{0,2}}| и| [—–-]) ?(?:\d{{1,2}}[:.–-]\d|(?:{_DAY}|выходной)\b)", re.I
)
_DAY_IN_LIST = re.compile(rf"\b(?:{'|'.join([_DAY, *_DAYS.values()])})[.,]{{0,2}}(?: и)? \Z", re.I)
_DAY_PREPOSITION = re.compile(r"\b(во?|по) [^;:\d]{0,20}\Z")


def _read_days_of_week(match: re.Match[str]) -> str | None:
    """Read "пн–пт" and "вт, чт" where days are listed; "к пт" is left to the library."""
    first, last = match["first"].lower(), (match["last"] or "").lower()
    end = "." if match[0].endswith(".") and not _after(match).strip() else ""
    if last:
        days = inflect(_DAYS[first], {"gent"}), inflect(_DAYS[last], {"accs"})
        preposition = "со" if first == "вт" else "с"
        return f"{preposition} {days[0]} по {days[1]}{end}"
    form = _form_of_day(match)
    if form is None:
        return None
    day = inflect(_DAYS[first], form)
    return (day.capitalize() if match[0][0].isupper() else day) + end


def _form_of_day(match: re.Match[str]) -> set[str] | None:
    """The case of a day; None for what may be no day: "Вт" are watts."""
    before, case = _before(match), _case_of(match)
    is_listed = _DAY_IN_LIST.search(before) or _DAY_NEIGHBOUR.match(_after(match))
    preposition = _DAY_PREPOSITION.search(before)
    if preposition:
        is_habit = preposition[1] == "по" and not re.search(r"\bсо? [^;:\d]{0,16}по \Z", before)
        return {"plur", "datv"} if is_habit else {"accs"}
    if case:
        return {GRAMMEMES[case]}
    is_watt = match["first"] == "Вт" and before and not _DAY_IN_LIST.search(before)
    is_unclear = match["first"].lower() in ("ср", "вс") and not is_listed
    return None if is_watt or is_unclear else {"nomn"}


def _read_hours(match: re.Match[str]) -> str | None:
    """Read "9–18" behind days of the week."""
    if _word_before(match) not in _words("before_hours"):
        return None
    first, last = (cardinal(int(hour), "genitive") for hour in match.groups())
    return f"с {first} до {last}"


# Times of the day ------------------------------------------------------------------------


def _time(hour: int, minute: int, second: int | None, case: Case) -> str:
    if not minute and second is None:
        return count(hour, "час", case)
    if second is not None:
        parts = ((hour, "час"), (minute, "минута"), (second, "секунда"))
        return " ".join(count(number, noun, case) for number, noun in parts)
    zero = "ноль " if minute < 10 else ""
    return f"{cardinal(hour, case)} {zero}{cardinal(minute, case, 'f')}"


def _time_case(match: re.Match[str]) -> Case:
    case = _case_of(match)
    return "accusative" if case is None or case == "prepositional" else case


def _read_time(match: re.Match[str]) -> str | None:
    if _has_word(_before(match, 32), _words("score_words")):
        return None
    second = int(match["second"]) if match["second"] else None
    return _time(int(match["hour"]), int(match["minute"]), second, _time_case(match))


def _read_time_range(match: re.Match[str]) -> str | None:
    if _has_word(_before(match, 32), _words("score_words")):
        return None
    if "." in match[0] and (_is_version(match) or _UNITS_AFTER.match(_after(match))):
        return None
    case: Case = "accusative" if _case_of(match) else "genitive"
    first, last = (
        _time(int(match[hour]), int(match[minute]), None, case) for hour, minute in ((1, 2), (3, 4))
    )
    return f"с {first} до {last}" if case == "genitive" else f"{first} — {last}"


def _read_time_with_point(match: re.Match[str]) -> str | None:
    if _UNITS_AFTER.match(_after(match)):
        return None
    return _time(int(match["hour"]), int(match["minute"] or 0), None, _time_case(match))


# Scores, ratios, sizes -------------------------------------------------------------------


def _read_ratio(match: re.Match[str]) -> str:
    first, second = int(match[1]), int(match[2].replace(" ", ""))
    before = _before(match, 32)
    if _has_word(before, _words("screen_words")):
        return f"{cardinal(first)} на {cardinal(second)}"
    if _has_word(before, _words("ratio_words")) or (first == 1 and second > 9):
        return f"{cardinal(first)} к {cardinal(second, 'dative')}"
    return f"{cardinal(first)} — {cardinal(second)}"


def _read_slash(match: re.Match[str]) -> str | None:
    """Read "24/7", "50/50", "120/80"; a fraction is left to the library, but for quarters."""
    first, second = int(match[1]), int(match[2])
    before = _before(match)
    is_address = _has_word(_before(match, 40), _words("street_words"))
    if is_address or _word_before(match) in _words("address_words") or before.endswith(("№", "№ ")):
        return f"{cardinal(first)} дробь {cardinal(second)}"
    if _has_word(before, _words("schedule_words")):
        return f"{cardinal(first)} через {cardinal(second)}"
    is_mark = second in (5, 10) and first <= second and re.match(r"[.,!?)]|\Z", _after(match))
    if is_mark:
        return f"{cardinal(first)} из {cardinal(second, 'genitive')}"
    if (first, second) == (3, 4):
        return "три четверти"
    if first >= second or first + second == 100:
        return f"{cardinal(first)} на {cardinal(second)}"
    return None


def _read_size(match: re.Match[str]) -> str:
    """Read "10×15 см"; a number with a unit behind stays in digits, for the library."""
    *first, last = re.findall(r"\d+(?:,\d+)?", match[0])
    has_unit = "," in last or re.match(r" ?(?:[мсдк]?м|к?г|м?л|т)\b", _after(match, 4))
    words = [side if "," in side else cardinal(int(side)) for side in first]
    return " на ".join([*words, last if has_unit else cardinal(int(last))])


# Codes and versions ----------------------------------------------------------------------

_LATIN_BEFORE = re.compile(r"[A-Za-z][\w+#-]* ?\Z")
_NO_VERSION = re.compile(r"\b(?:ph|usd|eur|rub|gbp|btc) ?\Z")


def _is_version(match: re.Match[str]) -> bool:
    before = _before(match)
    return _word_before(match) in _words("version_words") or bool(
        _LATIN_BEFORE.search(before) and not _NO_VERSION.search(before)
    )


def _read_version(match: re.Match[str]) -> str | None:
    if not _is_version(match) or _UNITS_AFTER.match(_after(match)):
        return None
    return " точка ".join(map(zero_led, match[0].split(".")))


def _read_prefixed_version(match: re.Match[str]) -> str:
    word = "" if _word_before(match) in _words("version_words") else "версия "
    return word + " точка ".join(map(zero_led, match["numbers"].split(".")))


def _read_in_pairs(match: re.Match[str]) -> str:
    """Read the number of a card."""
    groups = re.findall(r"\d{4}", match[0])
    return ", ".join(f"{zero_led(group[:2])} {zero_led(group[2:])}" for group in groups)


def _read_in_groups(match: re.Match[str]) -> str:
    """Read the number of an account, which counts nothing."""
    return ", ".join(map(zero_led, re.findall(r"\d{1,3}", match[0])))


def _read_list(match: re.Match[str]) -> str:
    """Read "100 200 300" as three numbers."""
    return match[0].replace(" ", ", ")


def _read_mark(match: re.Match[str]) -> str:
    """Read "5-ку", a mark at school or in a shop, as "пятёрку"."""
    return f"{_TABLES['marks'][match[1]]}{match[2]}"


def _read_month(match: re.Match[str]) -> str:
    return next(month for month in _MONTHS if month.startswith(match[1].lower()[:3]))


def _read_code(match: re.Match[str]) -> str:
    return zero_led(match[0])


def _read_votes(match: re.Match[str]) -> str:
    return cardinal(int(match[1]))


def _read_power(match: re.Match[str]) -> str:
    words = {"²": " в квадрате", "³": " в кубе"}
    return words.get(match[0]) or " в степени " + unicodedata.normalize("NFKC", match[0])


def _read_minutes(match: re.Match[str]) -> str:
    seconds = f" {count(int(match[2]), 'секунда')}" if match[2] else ""
    return count(int(match[1]), "минута") + seconds


def _read_building(match: re.Match[str]) -> str | None:
    """Read "д. 8, стр. 3" as a part of an address, not a page."""
    if not match["part"]:
        return "дом"
    words = {"стр": "строение", "к": "корпус"}
    is_address = _has_word(_before(match), _words("house_words") | _words("street_words"))
    word = words[match["part"].lower()]
    return (word if "." in match[0] else f" {word} ") if is_address else None


# Money -----------------------------------------------------------------------------------


def _read_money(match: re.Match[str]) -> str:
    """Read "$5.99" and "£10": the sum, then the currency, in the case of the preposition."""
    noun, small = _TABLES["currency"][match["sign"]]
    whole, cents = int(re.sub("[ ,]", "", match["whole"])), match["cents"]
    case = _case_of(match) or _object_case(match)
    if match["scale"]:
        number = match["whole"] + (f",{cents}" if cents else "")
        return f"{number} {match['scale']} {inflect(noun, {'plur', 'gent'})}"
    if cents and len(cents) == 2 and small:
        return f"{count(whole, noun, case)} {count(int(cents), small, case)}"
    if cents:
        return f"{match['whole']},{cents} {inflect(noun, {'sing', 'gent'})}"
    return count(whole, noun, case)


_TIMES_A_DAY = re.compile(r"\.?(?: в |/)(?:день|д\b|сут|нед)")


def _read_unit(match: re.Match[str]) -> str | None:
    """Write a unit out, "5 кг" as "5 килограммов": the library then declines the number."""
    unit, number = match["unit"] or match["sign"], match["number"].replace(".", ",")
    whole = int(number.partition(",")[0].replace(" ", ""))
    if _is_other_unit(match, whole):
        return None
    noun, cent = _TABLES["currency"].get(unit) or _TABLES["units"][unit]
    if unit == "р" and whole < 10 and _TIMES_A_DAY.match(match.string, match.end("unit")):
        noun, cent = "раз", ""
    case = _case_of_unit(match, noun, whole)
    if match["scale"]:
        words = f"{number}{match['scale']} {counted(0, noun)}"
    else:
        words = _with_unit(number, whole, noun, cent, case)
    per = _TABLES["per"][match["per"]] if match["per"] else ""
    if cent:
        per = per.replace(" на ", " за ")
    end = "." if match["point"] and not _after(match).strip() else ""
    return (match["first"] or "") + words + per + end


def _with_unit(number: str, whole: int, noun: str, cent: str, case: Case) -> str:
    decimals = number.partition(",")[2]
    if not decimals:
        return f"{number} {counted(whole, noun, case)}"
    if not cent or len(decimals) > 2:
        return f"{number} {inflect(noun, {'sing', 'gent'})}"
    cents = int(decimals.ljust(2, "0"))
    rest = f" {count(cents, cent, case)}" if cents else ""
    return f"{whole} {counted(whole, noun, case)}{rest}"


# "Смешайте молоко с 5 г соли": together with them, not from them on.
_MIXING = re.compile(r"(?:меш|взб|соедин|разот|раствор|развед)\w*+[^.!?]*\Z")


def _case_of_unit(match: re.Match[str], noun: str, whole: int) -> Case:
    word = _word_before(match)
    if word == "по" and whole % 10 == 1 and whole % 100 != 11:
        return "dative"
    if word == "в" and noun == "грамм":
        return "prepositional"
    if word in ("с", "со") and _MIXING.search(_before(match, 60)):
        return "instrumental"
    return _case_of(match) or _object_case(match)


def _is_other_unit(match: re.Match[str], number: int) -> bool:
    """Whether "г" is "год" here, "с" a preposition, "ст" an article of a law."""
    unit, after = match["unit"], _after(match)
    if unit == "с":
        return not match["point"] and re.match(r" ?(?!(?:и|до) \d)\w", after) is not None
    if unit == "л":  # horsepower
        return re.match(r"\.? ?с\.", after) is not None
    if unit == "ст":
        return not (match["point"] and re.match(rf" (?!{_any_of('no_drinks')})[а-яё]{{3}}", after))
    if unit != "г":
        return False
    if number > 999:
        return not _has_word(_before(match), _words("quantity_words"))
    is_old = re.match(r" ?(?:(?:до )?н\. ?э|[А-ЯЁ][а-яё])", after)  # or a town
    return bool(is_old or (match["point"] and _word_before(match) in ("в", "к", "с", "до")))


def _object_case(match: re.Match[str]) -> Case:
    """Accusative after a verb that takes an object: "Заработал тысячу долларов"."""
    word = _word_before(match)
    if not word or match.string[: match.start()].rstrip()[-1:] in ".:,":
        return "nominative"
    tag = parses_of(word)[0].tag
    return "accusative" if {"tran"} in tag and tag.POS in ("VERB", "INFN", "GRND") else "nominative"


def _read_object(match: re.Match[str]) -> str | None:
    """Read "Заработал 1000 рублей", where the accusative of a number is not its nominative."""
    number = int(match["number"].replace(" ", ""))
    if _object_case(match) != "accusative" or number // 1000 % 10 != 1 or number % 1000:
        return None
    return cardinal(number, "accusative")


def _read_price(match: re.Match[str]) -> str | None:
    """Read "Цена 1000 рублей" in the nominative, but not "цена от 1000 рублей"."""
    if _case_of_words(match["words"]):
        return None
    last = f" — {cardinal(int(match['last']))}" if match["last"] else ""
    return match["words"] + _cardinal_of(match, "nominative") + last


def _case_of_words(words: str) -> Case | None:
    return _CASES.get(words.lower().split()[-1])


def _read_few(match: re.Match[str]) -> str | None:
    """Read "2 тетради" as a count: the library also tries an ordinal in the genitive."""
    number = int(match["number"])
    tags = [parse.tag for parse in parses_of(match["noun"])]
    things = [tag for tag in tags if {"NOUN", "inan", "sing", "gent"} in tag and "Abbr" not in tag]
    if not things or number % 100 in (12, 13, 14) or _is_no_count(match):
        return None
    return cardinal(number, "nominative", gender_of(things[0]))


def _read_one(match: re.Match[str]) -> str | None:
    """Read "1 банка" and "1 банку", which the library takes for forms of "банк"."""
    number, parses = int(match["number"]), parses_of(match["noun"])
    if number > 11 and _is_masculine(parses[0].tag) and not _is_no_count(match):
        return cardinal(number)
    cases = {parse.tag.case for parse in parses if {"NOUN", "sing", "femn"} in parse.tag}
    is_ordinal = parses[0].normal_form in _words("ordinal_nouns")
    if (
        number % 100 == 11
        or len(cases & {"nomn", "accs"}) != 1
        or is_ordinal
        or _is_no_count(match)
    ):
        return None
    return cardinal(number, "nominative" if "nomn" in cases else "accusative", "f")


def _is_masculine(tag: Any) -> bool:
    return {"NOUN", "masc", "sing", "nomn"} in tag


def _is_no_count(match: re.Match[str]) -> bool:
    is_after_point = _before(match).rstrip().endswith((".", "№"))
    return match["noun"].lower() in _MONTHS or is_after_point or _case_of(match) is not None


def _read_day_of_month(match: re.Match[str]) -> str | None:
    """Read "5 числа" as a day, but not "3 числа" without a preposition, which may be a count."""
    number = int(match["number"])
    if match["noun"] == "числа" and number % 10 in (2, 3, 4) and not _case_of(match):
        return None
    case: Case = "genitive" if match["noun"] == "числа" else "dative"
    return ordinal(number, case, "n")


def _read_storey(match: re.Match[str]) -> str:
    """Write "2 эт." out, for the rule of ordinals."""
    return f"{match['number']} этаж" + ("е" if _word_before(match) == "на" else "")


def _read_inches(match: re.Match[str]) -> str | None:
    if match.string.count('"', 0, match.start()) % 2:  # it closes a quotation
        return None
    return f"{match[1]} {'дюйма' if ',' in match[1] else counted(int(match[1]), 'дюйм')}"


def _read_one_and_a_half(match: re.Match[str]) -> str | None:
    """Read "1,5 года" as "полтора года"; oblique cases are left to the library."""
    if _case_of(match) not in (None, "accusative"):
        return None
    return "полторы" if _gender_of_counted(match["noun"]) == "f" else "полтора"


def _read_spoons(match: re.Match[str]) -> str:
    """Read "2 ст. л."; a fraction stays for the library."""
    spoon = _TABLES["spoons"][match["kind"]].split()
    if not match["number"].isdecimal():
        return " ".join([match["number"], *(inflect(word, {"sing", "gent"}) for word in spoon)])
    number = int(match["number"])
    is_object = re.search(r"\w{3}(?:те|ть)\b", _before(match, 60))
    case: Case = "accusative" if is_object else "nominative"
    if number % 10 == 1 and number % 100 != 11:
        words = [inflect(word, {"femn", "sing", GRAMMEMES[case]}) for word in spoon]
    else:
        adjective = inflect(spoon[0], {"plur", "nomn" if number % 10 in (2, 3, 4) else "gent"})
        words = [adjective, counted(number, spoon[1])]
    return " ".join([cardinal(number, case, "f"), *words])


def _read_adjective(match: re.Match[str]) -> str:
    tag = parses_of(match["noun"])[0].tag
    form = {"plur", tag.case} if tag.number == "plur" else {"sing", tag.case, tag.gender}
    adjective = _TABLES["adjectives"][match["short"].lower()]
    word = inflect(adjective, {grammeme for grammeme in form if grammeme})
    return word.capitalize() if match["short"][0].isupper() else word


def _read_grams(match: re.Match[str]) -> str | None:
    """Read "от 100 до 200 г", which the library takes for years."""
    is_range = re.search(r"\bот \d+ до \d{1,3}\Z", _before(match))
    return " граммов" if is_range else None


def _read_lacking(match: re.Match[str]) -> str:
    return match["words"] + _cardinal_of(match, "genitive")


def _cardinal_of(match: re.Match[str], case: Case) -> str:
    number = int(match["number"].replace(" ", ""))
    return cardinal(number, case, _gender_of_counted(match["noun"]))


def _gender_of_counted(noun: str | None) -> GrammaticalGender:
    return gender_of(parses_of(noun)[0].tag) if noun else "m"


# Ordinals --------------------------------------------------------------------------------


def _read_ordinal(match: re.Match[str]) -> str | None:
    """Read "2 тур", "II место", "XXII Олимпийские игры": in the form of the word behind."""
    number = match["number"]
    value = int(number) if number.isdecimal() else roman_value(number)
    tag = _ordinal_tag(match["word"], is_roman=not number.isdecimal())
    if not value or tag is None:
        return None
    is_count = value > 1 or _word_before(match) in _words("count_words")
    if number.isdecimal() and value % 10 == 1 and value % 100 != 11 and is_count:
        return None
    *first, last = ordinal(value).split()
    form = {"plur", tag.case} if tag.number == "plur" else {"sing", tag.case, tag.gender}
    if tag.case == "accs" and tag.number == "sing" and tag.gender == "masc":
        form = {"sing", "nomn", "masc"}
    return " ".join([*first, inflect(last, form)]) + f" {match['word']}"


def _ordinal_tag(word: str, *, is_roman: bool) -> Any:
    """The form that an ordinal before a word has; None where the number may count it."""
    parses = [parse for parse in parses_of(word) if parse.tag.case]
    if not parses:
        return None
    tag = parses[0].tag
    if is_roman and tag.POS == "ADJF":
        return tag
    if parses[0].normal_form not in _words("ordinal_nouns"):
        return None
    if any(parse.tag.case in ("gent", "gen2") or "Fixd" in parse.tag for parse in parses):
        return None
    return tag if tag.number == "sing" else None


def _read_anniversary(match: re.Match[str]) -> str:
    number = int(match["number"])
    stems = {40: "сорока", 90: "девяносто", 100: "сто", 1000: "тысяче"}
    return stems.get(number, cardinal(number, "genitive").replace(" ", "")) + match["word"]


def _read_decade(match: re.Match[str]) -> str | None:
    """Read "в 90-е" as years; "90-е место" is left to the library."""
    tag = parses_of(match["noun"])[0].tag if match["noun"] else ()
    if "neut" in tag and "VERB" not in tag:
        return None
    return inflect(ordinal(int(match["number"])), {"plur", "nomn"})


_BEFORE_ADJECTIVE = re.compile(
    r"(?<![\w.,/-])(?P<number>\d{1,3})-й(?= [А-ЯЁа-яё-]+ой (?P<noun>[а-яё]+))"
)


def _read_before_adjective(match: re.Match[str]) -> str | None:
    """Read "1-й Тверской переулок" and "в 1-й городской больнице": the noun shows the gender."""
    number, tag = int(match["number"]), parses_of(match["noun"])[0].tag
    if _is_masculine(tag):
        return ordinal(number)
    return ordinal(number, "genitive", "f") if {"femn", "sing"} in tag else None


# The rules, in their order -----------------------------------------------------------------

_NUMBER = r"(?P<number>\d{1,3}(?: \d{3}){1,3}|\d{1,9})"
_SEPARATOR = r"[ \-–‑(]{0,3}"
_PHONE_START = rf"(?<![\d+])(\+7|8){_SEPARATOR}(\d{{3}})[ \-–‑)]{{0,3}}"
_HOUR, _MINUTE = r"[01]?\d|2[0-4]", r"[0-5]\d"
_AMOUNT = r"(?<![\d.,:/])(?:\d{1,3}(?: \d{3}){1,3}|\d{1,9})(?:[.,]\d{1,4})?"
_SCALE = r"(?: ?(?P<scale>тыс\.?|млн|млрд|трлн|(?:тысяч|миллион|миллиард|триллион)\w*)(?!\w))?"


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule; the first that matches a stretch of text takes it."""
    return (
        tuple(
            Rule(re.compile(pattern, re.IGNORECASE if is_any_case else 0), read)
            for pattern, read, is_any_case in _PATTERNS
        )
        + tuple(
            Rule(re.compile(rf"(?<![\w.]){_with_capital(pattern)}"), _abbreviation(words))
            for pattern, words in _TABLES["abbreviations"].items()
        )
        + (Rule(_BEFORE_ADJECTIVE, _read_before_adjective),)
    )


def _with_capital(pattern: str) -> str:
    """Let an abbreviation begin with a capital; a single letter would be an initial."""
    first, rest = pattern[0], pattern[1:]
    return pattern if rest.startswith("\\") or first == "(" else f"[{first}{first.upper()}]{rest}"


def _abbreviation(words: str) -> Callable[[re.Match[str]], str]:
    """Read an abbreviation; its point stays where it also ends the text."""

    def read(match: re.Match[str]) -> str:
        is_last = match[0].endswith(".") and not match.string[match.end() :].strip()
        gap = " " if re.match(r"\w", _after(match, 1)) else ""
        spoken = words.capitalize() if match[0][0].isupper() and match.start() == 0 else words
        return spoken + ("." if is_last else gap)

    return read


_PATTERNS: tuple[tuple[str, Callable[[re.Match[str]], str | None], bool], ...] = (
    # Links and addresses.
    (rf"(?<![\w.+-])(?P<name>[\w.+-]{{1,64}})@(?P<host>{_HOST})", _read_mail, True),
    (
        r"(?:https?|ftp)://(?:www\.)?(?P<host>[\w.-]{1,255}(?<=\w))(?::\d+)?(?P<path>[^\s<>«»\"]*)",
        _read_link,
        True,
    ),
    (rf"(?<![\w.@-])(?:www\.)?(?P<host>{_HOST})(?P<path>(?:/[^\s<>«»\"]*)?+)", _read_link, True),
    (r"(?<![\w@])@(?P<name>[a-zA-Z]\w{1,31})(?!\w)", _read_handle, False),
    # Lists, and numbers that are read by their groups.
    (r"(?<![\d.,] )(?<![\w.,])[1-9]00(?: [1-9]00){2,9}(?![\w.,]| \d)", _read_list, False),
    (r"(?<=аспорт )(\d\d) ?(\d\d) ?(\d{3}) ?(\d{3})(?!\d)", _read_phone, False),
    (r"(?<=ндекс )(\d{3})(\d{3})(?!\d)", _read_phone, False),
    (r"(?<!\w)([2-5])-(к(?:ой|ами?|ах|[аиуе]))(?!\w)", _read_mark, False),
    # Phones.
    (rf"{_PHONE_START}(\d{{3}})[ \-–‑]?(\d\d)[ \-–‑]?(\d\d)(?![\d\-])", _read_phone, False),
    (rf"{_PHONE_START}(\d{{4}})[ \-–‑]?(\d{{3}})(?![\d\-])", _read_phone, False),
    (r"(?<![\d\-+(])(\d{3})[-–‑](\d\d)[-–‑](\d\d)(?![\d\-])", _read_phone, False),
    (r"(?<![\d\-+(])(\d\d)[-–‑](\d\d)[-–‑](\d\d)(?![\d\-])", _read_phone_after_its_name, False),
    # Dates and times.
    (r"(?<=\d )(янв|февр?|мар|апр|июн|июл|авг|сент?|окт|нояб?|дек)\.", _read_month, True),
    (
        rf"(?<![\w.])(?<!\d )(?P<first>{_DAY})\b\.?(?: ?[-–—] ?(?P<last>{_DAY})\b\.?)?(?![\w-])",
        _read_days_of_week,
        True,
    ),
    (rf"(?<![\w.,:/-])({_HOUR}) ?[-–—] ?({_HOUR})(?![\w/-]|[.,:]\d)", _read_hours, False),
    (r"(?<![\d.\-])(\d{4})-(\d\d)-(\d\d)(?![\d\-])", _read_iso_date, False),
    (
        r"(?<![\w.,/:\-])(?P<day>\d{1,2})[./](?P<month>\d\d)[./](?P<year>\d{4}|\d\d)(?![\w/]|\.\d)"
        r"(?: ?(?:года?|г\.?)(?!\w))?",
        _read_numeric_date,
        False,
    ),
    (
        r"(?<![\w.,/:+−])(?:\b[сС] )?(?<!\d-)(\d\d)\.(\d\d) ?[-–—] ?(\d\d)\.(\d\d)"
        r"(?![\w/:]|[.,]\d)",
        _read_date_range,
        False,
    ),
    (
        r"(?<![\w.,/:\-+−])(?P<day>\d{1,2})\.(?P<month>\d\d)(?P<year>(?!))?(?![\w/:]|[.,]\d)",
        _read_numeric_date,
        False,
    ),
    (
        rf"(?P<from>\b[СсCc]о?) (?P<first>\d{{1,2}}) по (?P<last>\d{{1,2}})"
        rf"(?= (?:{_any_of('months')})\b)",
        _read_days,
        True,
    ),
    (
        rf"(?<![\w.,/:\-–—])(?P<day>\d{{1,2}}) (?P<month>{_any_of('months')})\b"
        r"(?: (?P<year>\d{4})(?: ?(?:года|г\.?))?(?!\w))?",
        _read_written_date,
        True,
    ),
    (
        rf"(?<![\d:.,/])({_HOUR})[:.]({_MINUTE}) ?[-–—] ?({_HOUR})[:.]({_MINUTE})(?![\d:]|[.,]\d)",
        _read_time_range,
        False,
    ),
    (
        rf"(?<![\d:.,/])(?P<hour>{_HOUR}):(?P<minute>{_MINUTE})(?::(?P<second>{_MINUTE}))?"
        r"(?![\d:]|[.,]\d)",
        _read_time,
        False,
    ),
    (
        r"(?:(?<=\b[вВсСкК] )|(?<=\b[Дд]о ))"
        rf"(?P<hour>{_HOUR})(?:\.(?P<minute>{_MINUTE})|[-–]00)(?!\w|[.,]\d)",
        _read_time_with_point,
        False,
    ),
    # Addresses, scores, ratios, sizes.
    (r"(?<=\d)(?P<part>к)(?=\d)", _read_building, False),
    (r"№№ ?", lambda _: "номера ", False),
    (r"(?<![\w&])#(?=\d)", lambda _: "номер ", False),
    (r"(?<![\w.,/])(\d{1,2})/(\d{1,2}) эт\b\.?", lambda m: f"{m[1]} этаж из {m[2]}", False),
    (r"(?<![\w.])(?:(?P<part>стр|к)\.(?= ?\d)|д\.(?= ?\d+(?:/\d|[а-я]\b)))", _read_building, True),
    (r"(?<![\d:.,])(\d{1,4}):(\d{1,3}(?: \d{3}){1,2}|\d{1,5})(?![\d:]|[.,]\d)", _read_ratio, False),
    (r"(?<![\w/.,:])(\d{1,3})/(\d{1,3})(?![\w/]|[.,]\d)", _read_slash, False),
    (
        r"(?<![\w.,])\d{1,5}(?:,\d{1,3})?(?: ?[xхXХ×] ?\d{1,5}(?:,\d{1,3})?){1,2}(?!\d)",
        _read_size,
        False,
    ),
    # Codes and versions.
    (
        r"(?<![\w.])[vV]\.? ?(?P<numbers>\d{1,4}(?:\.\d{1,4}){1,3})(?!\w|\.\d)",
        _read_prefixed_version,
        False,
    ),
    (r"(?<![\w.,])\d{1,4}\.\d{1,4}(?!\w|[.,]\d)", _read_version, False),
    (r"(?<![\w.,:/+\-−])(?<!\d )0\d{1,12}(?![\w/:]|[.,\-]\d)", _read_code, False),
    (r"(?<![\d\-])\d{4}(?:[ -]\d{4}){3}(?![\d\-])", _read_in_pairs, False),
    (r"(?<![\w.,])\d{12,40}(?![\w]|[.,]\d)", _read_in_groups, False),
    (r"(?<=[²³)]) ?\+ ?(?=\w)", lambda _: " плюс ", False),
    (r"(?<=[\dA-Za-z)])[²³](?!\w)|(?<=\d)[⁰¹²³⁴-⁹]+(?!\w)", _read_power, False),
    (r"(?<![\w.,°])(\d{1,3})′(?: ?(\d{1,2})″)?", _read_minutes, False),
    (r"(?<= )\+(?= [A-Za-z\d])", lambda _: "плюс", False),
    (r"(?<= )−(?= [A-Za-z\d])", lambda _: "минус", False),
    (r"(?<=[A-Za-z]) ?= ?(?=[A-Za-z\d])", lambda _: " равно ", False),
    (r"(?<=\d)(?:\.{3}|…) ?[-−](?=\d)", lambda _: " — минус ", False),
    (r"(?<=\d)\+(?!\w)", lambda _: " плюс", False),
    (r"(?<![\w.,:/-])(\d{1,9})(?= (?:против|за)(?:[.,!?;]|\Z))", _read_votes, False),
    (r"(?<=\d)к(?![\w-]| ?кв|\.)", lambda _: " тыс.", False),
    (r"(?<![\w.,\"])(\d{1,3}(?:,\d)?)\"(?!\w)", _read_inches, False),
    # Money.
    (
        r"(?<!\w)(?P<sign>[$€£¥₴₸₽₿]) ?(?P<whole>\d{1,3}(?:[ ,]\d{3}){1,3}|\d{1,9})"
        rf"(?:[.,](?P<cents>\d{{1,2}}))?(?!\d){_SCALE}",
        _read_money,
        False,
    ),
    (
        r"(?<![\d.,])(?P<whole>\d{1,3}(?: \d{3}){1,3}|\d{1,9})(?:[.,](?P<cents>\d{1,2}))?"
        r"(?P<scale>(?!))? ?(?P<sign>[£¥₴₸₿])",
        _read_money,
        False,
    ),
    (r"(?<=\d) ?т\. ?р\.", lambda _: " тыс. руб.", False),
    (
        rf"(?P<first>{_AMOUNT} ?[-–—] ?)?(?P<number>{_AMOUNT})(?P<scale> ?(?:тыс|млн|млрд)\.?)? ?"
        rf"(?:(?P<unit>{_any_key_of('units')})(?!\w)(?P<point>\.)?|(?P<sign>[₽$€]))"
        rf"(?:/(?P<per>{_any_key_of('per')}))?(?![\w/²³·-])",
        _read_unit,
        False,
    ),
    (
        rf"(?P<words>\b(?:{_any_of('price_words')}) (?:[а-яё]+ )?){_NUMBER}"
        r"(?: ?[-–—] ?(?P<last>\d{1,9}))?(?:(?= (?P<noun>[а-яё]{3,}))|(?=[.!?]?\Z))",
        _read_price,
        True,
    ),
    (r"\b(на|в|о|при) нем\b", lambda match: f"{match[1]} нём", True),
    # Numbers and the words behind them.
    (
        rf"(?P<words>\b{_TABLES['lacking']} ){_NUMBER}(?= (?P<noun>[а-яё]{{2,}})|[.!?]*\Z)",
        _read_lacking,
        True,
    ),
    (rf"(?<![\w.,]){_NUMBER}(?= [а-яё]{{3,}})", _read_object, False),
    (
        r"(?<![\w.,:/\-–—])(?<!\d )(?P<number>\d?\d?[234])(?= (?P<noun>[а-яё]{3,}))",
        _read_few,
        False,
    ),
    (r"(?<![\w.,:/\-–—])(?<!\d )(?P<number>\d?\d?1)(?= (?P<noun>[а-яё]{3,}))", _read_one, False),
    (r"(?<![\w.,])(?P<number>\d{1,2})(?= (?P<noun>числ[ау])\b)", _read_day_of_month, False),
    (r"(?<![\w.,])(?P<number>\d{1,2}) эт\b\.?", _read_storey, False),
    (
        r"(?<![\w.,])1,5(?=(?: ?[-–—] ?2)? (?!млн|млрд|тыс)(?P<noun>[а-яё]{3,}))",
        _read_one_and_a_half,
        False,
    ),
    (
        r"(?<![\w.,/])(?P<number>\d{1,3}(?:[/,]\d)?|[½¼¾]) (?P<kind>ст|ч)\. ?л\.",
        _read_spoons,
        False,
    ),
    (
        rf"(?<![\w.])(?P<short>{'|'.join(_TABLES['adjectives'])})\.(?= (?P<noun>[а-яё]{{3,}}))",
        _read_adjective,
        True,
    ),
    (r"(?<![\w.,])1,5-(?=[а-яё]{4})", lambda _: "полутора", False),
    (r"(?<=\d) ?км/час\b", lambda _: " км/ч", False),
    (r"(?<=\d) км/с\b", lambda _: " километров в секунду", False),
    (
        r"(?<![\w.,:/\-–—])(?P<number>\d{1,2}|[IVXLC]{1,7}) (?P<word>[А-ЯЁа-яё][а-яё]+)(?![\w\-])",
        _read_ordinal,
        False,
    ),
    (r"(?<![\w.,–—-])(?P<number>[2-9]0)-е(?!\w)(?=(?: (?P<noun>[а-яё]+))?)", _read_decade, False),
    (r"(?<![\w.,])(?P<number>\d{1,4})[-–‑ ]?(?P<word>лети[еяюй]\w*)", _read_anniversary, False),
    (r"(?<=\d) г(?=[.,!?]?\Z)", _read_grams, False),
)
