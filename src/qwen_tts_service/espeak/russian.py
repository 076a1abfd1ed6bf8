"""Russian dates, ordinals, decimals and agreement in words, where espeak-ng 1.52 is wrong."""

import re

from qwen_tts_service.text.numerals import agreed, is_date, noun_form, roman_value
from qwen_tts_service.text.stress import STRESS

from . import read_table

_WORDS: dict[str, dict[str, str]] = read_table("russian.toml")
_FEMININE = read_table("notation.toml")["russian"]["feminine"]

# A dot after "г" that may end the sentence (a capital or nothing follows) is left in the text.
_DATE = re.compile(
    r"(?<![\d.])(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>[12]\d{3})(?!\d|\.\d)"
    r"(?:\s*(?:года\b|г\.(?=\s*[^\sА-ЯЁ])|г\b))?"
)
_ISO_DATE = re.compile(r"(?<![\w.,-])(?P<year>[12]\d{3})-(?P<month>\d{2})-(?P<day>\d{2})(?![\w-])")
# A version (Python 3.12, версия 10.11) and a measure (20.10 кг) are no days.
_DAY = re.compile(
    r"(?<![\w.,/-])(?<![A-Za-z] )(?<!ерсии )(?<!ерсия )(?<!ерсию )(?P<day>\d{2})\.(?P<month>\d{2})"
    r"(?P<year>)(?![\w/-]|[.,]\d|\s?(?:[%°$€₽£]|руб|[кмс]м\b|кг\b|м\b|г\b|л\b|тыс|млн|млрд))"
)
_NOUNS = "|".join(re.escape(noun) + r"(?!\w)" for noun in sorted(_WORDS["nouns"], reverse=True))
_ORDINAL = re.compile(
    rf"(?<![\w.,-])(?P<number>\d{{1,4}})(?:[-\u2011](?P<ending>{'|'.join(_WORDS['endings'])})(?!\w)"
    rf"|(?<=\d{{4}})\s?(?P<noun>{_NOUNS}))"
)
_NOUN_WORDS = {"г.": "года", "в.": "век", "вв.": "века"}
_ROMAN = re.compile(rf"(?<!\w)(?P<roman>[IVXХ]{{1,6}})(?!\w)(?:\s(?P<noun>{_NOUNS}))?")
_NAMED = re.compile(r"(?:(?P<name>[А-ЯЁ][а-яё]+)|[а-яё]+)\s\Z")
_CENTURIES = re.compile(r"[-–][IVX]{1,6}\sв")
_DECIMAL = re.compile(r"(?<![\d.,])(\d+),(\d{1,3})(?![\d.,]\d|\d)")
_FRACTION = re.compile(r"(?<![\d./])(\d+)/(\d+)(?![\d/])")
_BEFORE_FEMININE = re.compile(rf"(?<![\d.,])(\d*[12])(?=\s({_FEMININE}))")


def write_out_dates(text: str) -> str:
    """Write out dates in the genitive, the case of "when?", and ordinals and Roman numerals.

    01.02.2024 -> первого февраля две тысячи двадцать четвёртого года; what is no day of the
    calendar stays as it is.
    """
    for pattern in (_ISO_DATE, _DATE, _DAY):
        text = pattern.sub(_date, text)
    return _ROMAN.sub(_roman, _ORDINAL.sub(_ordinal_as_written, text))


def write_out_numbers(text: str) -> str:
    """Write out fractions, decimals and what agrees in gender with its noun."""
    text = _FRACTION.sub(_fraction, text)
    text = _DECIMAL.sub(_decimal, text)
    return _BEFORE_FEMININE.sub(_before_feminine, text)


def _date(match: re.Match[str]) -> str:
    day, month, year = int(match["day"]), int(match["month"]), match["year"]
    if not is_date(day, month, int(year or 2000)):
        return match[0]
    words = f"{_ordinal(day)} {_WORDS['months'][str(month)]}"
    return f"{words} {_ordinal(int(year))} года" if year else words


def _ordinal(number: int, ending: str = "ого") -> str:
    """Cardinals up to the last non-zero part, which is the ordinal: 1900, 2000, 2024."""
    for unit in (1000, 100, 10):
        rest = number % unit
        if rest and number > max(unit, 20):
            cardinal = _WORDS["cardinals"].get(str(number - rest), number - rest)
            return f"{cardinal} {_ordinal(rest, ending)}"
    return _with_ending(_WORDS["ordinals"][str(number)], ending)


def _with_ending(genitive: str, ending: str) -> str:
    if ending == "ого":
        return genitive
    stem = genitive[:-3]
    if genitive == "третьего":
        return "трет" + _WORDS["soft_endings"].get(ending, "ь" + ending.replace("ы", "и"))
    is_stressed = stem.endswith(("втор", "шест", "седьм", "восьм", "сороков"))
    return stem + ("ой" if is_stressed and ending == "ый" else ending)


def _known_ordinal(number: int, ending: str) -> str | None:
    try:
        return _ordinal(number, ending)
    except KeyError:  # 0, and thousands beyond 2000
        return None


def _ordinal_as_written(match: re.Match[str]) -> str:
    number, noun = int(match["number"]), match["noun"]
    if noun:
        words = _before_noun(number, noun, match)
        return f"{words}{_dot_of(match)}" if words else match[0]
    # "90-е" are the nineties.
    is_decade = match["ending"] == "е" and number % 10 == 0
    ending = "ые" if is_decade else _WORDS["endings"][match["ending"]]
    return _known_ordinal(number, ending) or match[0]


def _dot_of(match: re.Match[str]) -> str:
    """The dot of "г." that also ends the sentence."""
    rest = match.string[match.end() : match.end() + 3]
    is_last = not rest.strip() or re.match(r"\s+[А-ЯЁ]", rest)
    return "." if match[0].endswith(".") and is_last else ""


def _roman(match: re.Match[str]) -> str:
    """XXI век -> двадцать первый век, Екатерина II -> Екатерина вторая; "гл. IV" has the figure."""
    numeral, noun = match["roman"].replace("Х", "X"), match["noun"]
    before = _NAMED.search(match.string[max(0, match.start() - 30) : match.start()])
    is_sure = noun or (before and (before["name"] or len(numeral) > 1))
    number = roman_value(numeral)
    if number is None or not (is_sure or len(set(numeral)) > 1):
        return match[0]
    if noun:  # with a capital, as the numeral: a sentence may begin there
        return f"{_before_noun(number, noun, match)}{_dot_of(match)}".capitalize()
    if not before and not _CENTURIES.match(match.string, match.end()):
        return str(number)
    is_feminine = before is not None and before[0].strip().endswith(("а", "я", "часть"))
    return _ordinal(number, "ая" if is_feminine else "ый")


def _before_noun(number: int, noun: str, match: re.Match[str]) -> str | None:
    """An ordinal with its noun; "в 2024 г." has another case than "2024 г."."""
    if match.string[max(0, match.start() - 2) : match.start()].lower() == "в ":
        noun = {"г.": "году", "в.": "веке"}.get(noun, noun)
    words = _known_ordinal(number, _WORDS["nouns"][noun])
    return f"{words} {_NOUN_WORDS.get(noun, noun)}" if words else None


def _fraction(match: re.Match[str]) -> str:
    between = "на" if match[1] == match[2] else "дробь"
    return f"{match[1]} {between} {match[2]}"


def _decimal(match: re.Match[str]) -> str:
    """1,5 -> "одна целая 5 десятых"."""
    whole, parts = match[1], str(int(match[2]))
    wholes, fractions = (_WORDS["fractions"][str(places)] for places in (0, len(match[2])))
    return (
        f"{agreed(whole, 'а')} {noun_form(wholes.split('|'), whole)}"
        f" {agreed(parts, 'а')} {noun_form(fractions.split('|'), parts)}"
    )


def _before_feminine(match: re.Match[str]) -> str:
    """1 минута -> одна минута, 1 минуту -> одну минуту."""
    words = agreed(match[1], "а")
    return words.replace("одна", "одну") if match[2].endswith(("у", "ю")) else words


# Stress ---------------------------------------------------------------------------------

_VOWELS = "аеёиоуыэюя"
_MARKED_WORD = re.compile(
    rf"(?<![а-яё\u0301])[а-яё]*[{_VOWELS}]\u0301[а-яё\u0300\u0301]*", re.IGNORECASE
)
_STRAY_MARK = re.compile(r"[\u0300\u0301]")
_VOWEL_PHONEMES = re.compile(r"V#|a#|E#|E2|I2|I3|O#|o#|u\"|u#|U|[AaVEeIiOouYy80]")


def stressed_words(text: str) -> list[str]:
    """List the distinct words with a mark of stress."""
    return sorted(set(_MARKED_WORD.findall(text)))


def unmarked(word: str) -> str:
    """Take the marks of stress out of a word."""
    return _STRAY_MARK.sub("", word)


def with_stress(text: str, phonemes: dict[str, str]) -> str:
    """Write a marked word as phonemes where espeak-ng would stress another vowel.

    phonemes: by marked word, how espeak-ng reads it without the mark
    """
    marked = _MARKED_WORD.sub(lambda word: _stressed(word[0], phonemes[word[0]]), text)
    return unmarked(marked)


def _stressed(word: str, phonemes: str) -> str:
    """Move the stress in the phonemes, with the vowels that it makes full or weak.

    The word is left as it is where the stress is right, or its vowels are not those written.
    """
    letters = [char for char in unmarked(word.lower()) if char in _VOWELS]
    to = sum(char in _VOWELS for char in word.lower().partition(STRESS)[0]) - 1
    vowels = list(_VOWEL_PHONEMES.finditer(phonemes))
    stressed = [at for at, v in enumerate(vowels) if phonemes[v.start() - 1 : v.start()] == "'"]
    if len(vowels) != len(letters) or stressed == [to] or " " in phonemes:
        return unmarked(word)
    out, end = [], 0
    for at, (vowel, letter) in enumerate(zip(vowels, letters, strict=True)):
        out.append(phonemes[end : vowel.start()].rstrip("',"))
        if at == to:
            soft = re.match(r"[^;AaVEeIiOouYy80]{1,3};", phonemes[vowel.end() :])
            out.append("'" + _WORDS["stressed"].get(letter, "e" if soft else "E"))
        elif at in stressed:
            out.append(_weak(letter, is_last=vowel.end() == len(phonemes)))
        else:
            out.append(vowel[0])
        end = vowel.end()
    return f"[[{''.join(out)}{phonemes[end:]}]]"


def _weak(letter: str, *, is_last: bool) -> str:
    if is_last and letter in "ая":
        return "a#" if letter == "а" else "V"
    return _WORDS["unstressed"].get(letter, "i" if is_last or letter == "и" else "I")
