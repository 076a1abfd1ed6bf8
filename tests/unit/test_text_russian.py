"""Claims about Russian that is read out, and about stress marks."""

import importlib.util
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.text import russian as module
from qwen_tts_service.text.accent import Accentor
from qwen_tts_service.text.normalise import normalise
from qwen_tts_service.text.russian import has_russian, preload_russian
from qwen_tts_service.text.russian_numbers import ordinal, zero_led
from qwen_tts_service.text.split import split_sentences
from qwen_tts_service.text.stress import drop_stress, mark_stress
from qwen_tts_service.text.words import WordNormaliser

ROOT = Path(__file__).resolve().parents[2]

LEAST_RIGHT = {
    "numbers": 50,
    "cases": 90,
    "dates": 81,
    "times": 59,
    "money": 69,
    "units": 86,
    "phones": 34,
    "links": 36,
    "abbreviations": 90,
    "initials": 17,
    "roman": 40,
    "ordinals": 60,
    "ranges": 33,
    "fractions": 35,
    "ratios": 38,
    "codes": 52,
    "stress": 27,
    "yo": 42,
    "latin": 32,
    "news": 49,
    "messages": 48,
    "shop": 53,
    "recipes": 30,
    "bank": 33,
    "medicine": 31,
    "sport": 30,
    "timetables": 23,
    "addresses": 23,
    "chats": 34,
    "code": 25,
}
"""Cases of tests/data/russian_cases.tsv that are read right, by category."""


@pytest.fixture
def needs_russian():
    pytest.importorskip("ru_normalizr")


def full(text):
    return normalise(text, "full", "russian")


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch):
    module._load_russian.cache_clear()
    has_russian.cache_clear()
    monkeypatch.setitem(sys.modules, "ru_normalizr", None)
    yield
    module._load_russian.cache_clear()
    has_russian.cache_clear()


# The hard cases -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def check_russian():
    spec = importlib.util.spec_from_file_location(
        "check_russian", ROOT / "scripts" / "check_russian.py"
    )
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    yield script
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def results(check_russian):
    pytest.importorskip("ru_normalizr")
    return check_russian.run(full)


def test_hard_cases_are_read_right_in_every_category(check_russian, results):
    figures = check_russian.figures(results)
    assert figures.keys() == LEAST_RIGHT.keys()
    fallen = {name: right for name, (right, _) in figures.items() if right < LEAST_RIGHT[name]}
    assert fallen == {}, [result.said for result in results if not result.is_right]


def test_the_document_has_these_figures(check_russian, results):
    assert check_russian.report(results) in check_russian.DOCUMENT.read_text("utf-8")


def test_a_wrong_reading_is_counted_as_wrong(check_russian):
    untouched = check_russian.figures(check_russian.run(str))
    assert sum(right for right, _ in untouched.values()) < 90


# Levels ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_the_extra")
@pytest.mark.parametrize("text", ["5 рублей", "Привет"])
def test_missing_extra_is_refused_with_the_way_to_get_it(text):
    with pytest.raises(InvalidRequest) as refusal:
        full(text)
    assert refusal.value.param == "normalize"
    assert refusal.value.code == "extra_missing"
    assert "scripts/setup ru" in refusal.value.message


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_auto_is_light_and_others_do_not_need_it():
    assert normalise("**5** рублей", "auto", "russian") == "5 рублей"
    assert normalise("5 Euro", "full", "german") == "5 Euro"
    assert normalise("5 рублей", "light", "russian") == "5 рублей"


@pytest.mark.usefixtures("needs_russian")
def test_auto_reads_out_russian_alone():
    assert normalise("5 рублей", "auto", "russian") == "пять рублей"
    assert normalise("5 apples", "auto", "english") == "5 apples"


# What is left as it was -----------------------------------------------------------------


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("**5** раз 😊", "пять раз"),
        ("Раз 1.\n\nДва 2.", "Раз один.\n\nДва два."),
        ("Запусти docker compose up", "Запусти docker compose up"),
        ("Привет, мир! Как дела?", "Привет, мир! Как дела?"),
        ("Да.  Нет.", "Да. Нет."),
        ("Это котеныш.", "Это котеныш."),  # no word of the dictionary, which guesses "котёныш"
    ],
)
def test_the_rest_stays(written, spoken):
    assert full(written) == spoken


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Поле 9/9.", "Поле девять на девять."),
        ("тел. 5", "телефон пять"),
        ("Тел. 5", "Телефон пять"),
        (
            "Счёт 407028105123.",
            "Счёт четыреста семь, ноль двадцать восемь, сто пять, сто двадцать три.",
        ),
    ],
)
def test_rules_reach_to_their_borders(written, spoken):
    assert full(written) == spoken


@pytest.mark.usefixtures("needs_russian")
def test_numbers_are_declined():
    assert ordinal(21, "accusative", "f") == "двадцать первую"
    assert ordinal(21, "accusative", "m") == "двадцать первый"
    assert zero_led("01234567") == "ноль один двести тридцать четыре пятьсот шестьдесят семь"


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.parametrize(
    ("written", "read", "right"),
    [
        (
            "Жду 3.04, вечером",
            "Жду три целых четыре сотых, вечером",
            "Жду третьего апреля, вечером",
        ),
        ("до мин. значения", "до мин. Значения", "до минимального значения"),
    ],
)
def test_known_errors_of_the_russian_library_are_these(written, read, right):
    # When this fails after an upgrade, an error is gone: move the line up to the good ones.
    assert full(written) == read != right


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("В 44 г. умер Цезарь.", "В сорок четвёртом году умер Цезарь."),
        ("Вес 1200 г.", "Вес одна тысяча двести граммов."),
        ("В 1200 г. основали город.", "В тысяча двухсотом году основали город."),
        ("Встреча в 5 с Иваном", "Встреча в пять с Иваном"),
        ("6 ст. закона", "шесть ст. закона"),
        ("3 р. в день", "три раза в день"),
        ("500 р. в день", "пятьсот рублей в день"),
        ("Купи 1 банку", "Купи одну банку"),
        ("Купи 1 морковь", "Купи одну морковь"),
        ("1 место", "первое место"),
        ("Прошёл 1 день", "Прошёл один день"),
        ("3 числа", "три числа"),
        ("до 3 числа", "до третьего числа"),
        ("Мощность, Вт: 100", "Мощность, Вт: сто"),
        ("с 10.12-15.12", "с десятого декабря по пятнадцатое декабря"),
        ("версия 9.00-9.10", "версия девять точка ноль ноль девять точка десять"),
        ("пн-пт 9.00-21.00", "с понедельника по пятницу с девяти часов до двадцати одного часа"),
        ("5 к Ивану, 5к мне", "пять к Ивану, пять тысяч мне"),
        ("на 4 чел. и 100 тыс. чел.", "на четырёх человек и сто тысяч человек."),
        ("Мощность 150 л. с.", "Мощность сто пятьдесят лошадиных сил."),
        ("д. 5к2, 5к", "дом пять корпус два, пять тысяч."),
        ("с пн по ср", "с понедельника по среду"),
        ("по пн и ср", "по понедельникам и средам"),
        ('Он сказал "5" раз', 'Он сказал "пять" раз'),
        ("10⁶ и 2¹⁰, Docker¹", "десять в степени шесть и два в степени десять, Docker"),
        (
            "В 90-е было 80-е место, лихие 90-е",
            "В девяностые было восьмидесятое место, лихие девяностые",
        ),
        ("Песня #1", "Песня номер один"),
        ("4-й Тверской-Ямской пер., 1", "четвёртый Тверской-Ямской переулок, один"),
        ("в 1-й городской больнице", "в первой городской больнице"),
        ("до 3-й Тверской улицы", "до третьей Тверской улицы"),
        ('Экран "Моно" 27" на столе', 'Экран "Моно" двадцать семь дюймов на столе'),
        ("25 м² и 10³", "двадцать пять квадратных метров и десять в кубе"),
    ],
)
def test_what_looks_alike_is_told_apart(written, spoken):
    assert full(written) == spoken


TEXTS = [
    "Пришло 21 письмо. Встреча 31.12 в 10:30! Ещё 5 книг? Да.",
    "Живу на ул. Ленина, д. 5, кв. 7. Звони 8 800 555-35-35.",
    "А. С. Пушкин родился в 1799 г. в Москве.",
    "Яблоки, груши и т. д. Потом 2:1.\nНовая строка 10 000 руб.\n\nКонец 007.",
    "Пишите на ivan.petrov@mail.ru. Сайт example.com. Версия 3.11.2. Всё еще 24/7.",
]


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.parametrize("text", TEXTS)
def test_sentences_are_read_as_the_whole_is(text):
    apart = " ".join(full(sentence) for sentence in split_sentences(text))
    assert apart.split() == full(text).split()


@pytest.mark.usefixtures("needs_russian")
@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("0123456789.,:/-+ №$%гвXIVедоСст@\n"), max_size=60))
def test_reading_out_is_total(text):
    assert isinstance(full(text), str)


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "1 ",
        "1.",
        "1:",
        "I",
        "т. ",
        "+а",
        "а+",
        "a.",
        "@a",
        "8-",
        "$1",
        "ее",
        "1 кг ",
        "пн, ",
        '5"',
        "x²",
        "1 ст. л. ",
    ],
)
def test_hostile_repetition_ends_and_leaves_the_next_line(unit):
    text = unit * (4096 // len(unit)) + "\n\nСтоит 5 руб."
    assert full(text).endswith("\n\nСтоит пять рублей.")


# Stress ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "marked"),
    [
        ("обесп+ечение", "обеспе́чение"),
        ("з+амок, зам+ок", "за́мок, замо́к"),
        ("+аист", "а́ист"),
        ("М+ОСКВА", "МО́СКВА"),
        ("хорош+о!", "хорошо́!"),
        ("рай+он и на+ука", "райо́н и нау́ка"),
        ("кто-т+о", "кто-то́"),
        ("вс+ё", "всё"),
        ("три+умф", "триу́мф"),
        ("договóр Áист", "догово́р А́ист"),
    ],
)
@pytest.mark.parametrize("level", ["auto", "light", "full"])
def test_a_plus_before_a_vowel_in_a_word_is_a_stress_mark(written, marked, level):
    assert mark_stress(written) == marked
    if level == "light" or has_russian():
        assert normalise(written, level, "russian") == marked


@pytest.mark.parametrize(
    "text",
    [
        "Café á", "2+2", "C++", "+7", "а+б", "русский+английский", "СМС+интернет", "вода+огонь",
        "Группа +а", "Кофе+Обед", "кафе+отель", "x+a", "5+а", "а+5", "++а", "чай + обед",
    ],
)  # fmt: skip
def test_other_pluses_stay(text):
    assert mark_stress(text) == text


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.parametrize("text", ["дом+офис", "рис+овощи", "суп+обед"])
def test_two_words_of_the_dictionary_are_a_sum_if_they_are_no_word_together(text):
    assert mark_stress(text) == text
    assert full(text) == text.replace("+", " плюс ")
    assert mark_stress("дом+ой стол+овая блог+ер") == "домо́й столо́вая блоге́р"


@pytest.mark.usefixtures("needs_russian")
@pytest.mark.parametrize("vowel", "аеиоуыэюяАЕИОУЫЭЮЯ")
def test_stress_on_each_vowel_survives_full(vowel):
    assert full(f"б{vowel}\u0301т 5") == f"б{vowel}\u0301т пять"


@pytest.mark.usefixtures("needs_russian")
def test_written_stress_marks_survive_full_beside_numbers():
    assert full("Е\u0301жик и 5 за\u0301мков") == "Е\u0301жик и пять за\u0301мков"


def test_stress_marks_come_off_cyrillic_vowels_alone():
    assert drop_stress("за\u0301мок e\u0301 А\u0301") == "замок e\u0301 А"


@pytest.mark.parametrize("text", ["з+амок и зам+ок, 2+2", "русский+английский +аист C++"])
def test_stress_is_read_while_it_is_written_as_in_the_whole(text):
    words = WordNormaliser("russian")
    assert "".join([*map(words.feed, text), words.finish()]) == normalise(text, "light", "russian")


class FakeAccentor:
    """Marks the first vowel of each word, as silero-stress would write it."""

    def __init__(self):
        self.sentences = []

    def __call__(self, sentence, *, stress_single_vowel):
        assert not stress_single_vowel
        self.sentences.append(sentence)
        return re.sub(r"(?<![\w+])([^\Wаеиоуыэюя]*)([аеиоуыэюя])", r"\1+\2", sentence)


@pytest.fixture
def silero(monkeypatch: pytest.MonkeyPatch):
    fake = FakeAccentor()
    package = SimpleNamespace(load_accentor=lambda: fake)
    monkeypatch.setitem(sys.modules, "silero_stress", package)
    return fake


def test_stress_is_set_sentence_by_sentence_and_what_the_writer_marked_stays(silero):
    said = Accentor()("Вода на горе\u0301. Мама.")
    assert said == "Во\u0301да на\u0301 горе\u0301. Ма\u0301ма."
    assert silero.sentences == ["Вода на горе\u0301. ", "Мама."]


def test_stress_is_set_by_the_real_package():
    pytest.importorskip("silero_stress")
    assert Accentor()("На двери висит замок.") == "На двери́ виси́т замо́к."


# Loading --------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_russian")
def test_russian_can_be_loaded_ahead():
    module._load_russian.cache_clear()
    preload_russian()
    assert module._load_russian.cache_info().currsize == 2


@pytest.mark.usefixtures("needs_russian")
def test_russian_loads_once_whatever_the_number_of_threads():
    module._load_russian.cache_clear()
    together = threading.Barrier(4)

    def read(text):
        together.wait(30)
        return full(text)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, ["5 раз"] * 4)) == {"пять раз"}
    assert module._load_russian.cache_info().misses == 2  # with and without Roman numbers
