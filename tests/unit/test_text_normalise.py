"""Claims about making written text speakable."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.text.language import LANGUAGES
from qwen_tts_service.text.normalise import LANGUAGES_WITH_FULL, normalise


def light(text):
    return normalise(text, "light", "english")


def full(text):
    return normalise(text, "full", "russian")


MESSY = " **a**\x00 \ud800😊\n\n\n"


@pytest.mark.parametrize("language", LANGUAGES)
def test_none_touches_nothing(language):
    assert normalise(MESSY, "none", language) == MESSY


# Light ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("**Привет**, *мир*!", "Привет, мир!"),
        ("***очень*** и ~~нет~~ да", "очень и нет да"),
        ("Ровно **42**.", "Ровно 42."),
        ("_курсив_ и __жирный__", "курсив и жирный"),
        ("这是**重点**内容", "这是重点内容"),
        ("# Заголовок\nТекст", "Заголовок\nТекст"),
        ("- один\n* два\n+ три\n- [x] готово", "один\nдва\nтри\nготово"),
        ("1. Раз\n2. Два", "1. Раз\n2. Два"),
        ("[ссылка](https://a.ru/x_y) и ![кот](/a.png)", "ссылка и кот"),
        ('[сайт](https://a.ru "подсказка")', "сайт"),
        ("<https://a.ru>", "https://a.ru"),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "a, b\n1, 2"),
        ("a | b\n--- | ---\n", "a | b"),
        ("```python\nprint(1)\n```", "print(1)"),
        ("Набери `ls -l`", "Набери ls -l"),
        ("> цитата\n>> ещё", "цитата\nещё"),
        ("---\nтекст\n***", "текст"),
        ("| a | - |\n|---|---|\n| - | 1 |", "a, -\n-, 1"),
        ("| | - |", "-"),
        ("| a | | b |\n  |c|d|  ", "a, b\nc, d"),
        ("a | b\n:-: | --:\nc", "a | b\nc"),
        ("a\n:-: |\nb\n-|-\nc\n|:-|-:|\nd", "a\nb\nc\nd"),
        ("~~~py\nprint(1)\n~~~\nтекст", "print(1)\nтекст"),
        ("раз\n```\nдва\n```\nтри", "раз\nдва\nтри"),
        ("раз\n- - -\nдва\n___\nтри\n-----\nпять", "раз\nдва\nтри\nпять"),
        ("* * * *\nраз", "раз"),
        ("# а\n## б\n### в\n#### г\n##### д\n###### е", "а\nб\nв\nг\nд\nе"),
        ("• один\n- [ ] два\n* [X] три\n+ [x] четыре", "один\nдва\nтри\nчетыре"),
        ("- «один»\n* (два)", "«один»\n(два)"),
        ("> > цитата\n>цитата", "цитата\nцитата"),
        ("[а](http://b) [в](mailto:c@d) [г](/e) [д](#f) [е](./g) [ё](../h)", "а в г д е ё"),
        ("![](/a.png)да", "да"),
        ("![кот](a.png) и [кот](a)", "кот и [кот](a)"),
        ("$x^2$ и $$E=mc^2$$, $5 и $6", "x^2 и E=mc^2, $5 и $6"),
        ("<http://a.ru> и <mailto:a@b.ru>", "http://a.ru и mailto:a@b.ru"),
        ("***а***, **б**, *в*, ___г___, __д__, _е_", "а, б, в, г, д, е"),
        ("**а б**! (*в г*) «**д**» **е**ё", "а б! (в г) «д» её"),
        ("я**а**я", "яая"),
        ("**а** и **б**, *в* и *г*, _д_ и _е_", "а и б, в и г, д и е"),
        ("*5 раз* и _5_ и **5**", "5 раз и 5 и 5"),
        ("~~а~~б, `в`г", "аб, вг"),
        ("~~а~~\nб", "а\nб"),
        ("**nn**, *nn*, _nn_, ~~nn~~, `nn`, [nn](/nn)", "nn, nn, nn, nn, nn, nn"),
        ("[а~б](/а~б) [a](/b 'c') [a](/n \"n n\")", "а~б [a](/b 'c') a"),
        ("a | b\n:- | :-\nc\n-: | -: | -\nd\n|-|:-:\ne", "a | b\nc\nd\ne"),
    ],
)
def test_markdown_marks_are_dropped_and_its_words_kept(written, spoken):
    assert light(written) == spoken


@pytest.mark.parametrize(
    "text",
    [
        "2 * 3 * 4 = 24",
        "2 *3* 4",
        "2**3**4",
        "a*b*c",
        "x**2 + y**n",
        "- 5 градусов",
        "-5 °C",
        "# 5",
        "#1 и #хештег",
        "> 5",
        "5 > 3 < 4",
        "snake_case_name и x_1",
        "f[i](x)",
        "|x| = 5",
        "C# и F#, C++",
        "~5",
        "<|im_end|> и <b>",
        "[pause:0.5s]",
        "$5, 5 €, №3, 50 %, 20 °C, §7, ©, ™, ½, H₂O, x²",
        "①②❶ и ♯, ♭",
        "→ ≤ √ ±",
        "«Да!» — сказал он… „Ja“ “yes” 'no' ¿Qué?",
        "3,14 и 3.14, 10:30, 23.11.2026, 1/2",
        "中文，日本語、한국어。「はい」！？…",
        "Е\u0301жик и за\u0301мок",
        "Привет\nмир\n\nАбзац",
        "| a |",
        "| a | b",
        "a | b |",
        "--",
        "* 5\n+ 5\n• 5",
        "#а\n####### б",
        "-а\n*а\n+а",
        "[а](b) и [в](c.d) и [г](e/f)",
        "[а](https://b c)",
        "<ftp://a.ru> и <a@b.ru>",
        "** а ** и * б *, _ в _, ~~ г ~~",
        "**а ** и *б *, _в _, ~~г ~~",
        "x**y**z и x*y*z, а*б*в",
        "_а_б и а_б_, __init__x",
        "**…** и *…* и *5*",
        "**а* и *б**",
        "~а~, ``",
        "~~\n``\n__\n**",
        "Набери ```ls\nили ~~~ls",
        "**а\nб** и *а\nб* и _а\nб_ и ~~а\nб~~ и `а\nб`",
        "[а\nб](https://a.ru)",
        "а > б, а # б, а - б, а * б, а • б",
        "а ---\nб --- | ---",
        "--- а\n--- | --- а",
        "\u0378",
    ],
)
def test_what_is_spoken_is_kept(text):
    assert light(text) == text


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Привет 😊!", "Привет!"),
        ("Привет😊мир", "Привет мир"),
        ("👨\u200d👩\u200d👧 семья", "семья"),
        ("🇷🇺 флаг", "флаг"),
        ("1️⃣ первый", "1 первый"),
        ("❤️ люблю ❤", "люблю"),
        ("👍🏽 ок.", "ок."),
        ("© и ©️", "© и ©"),
        ("我😀很好。", "我 很好。"),
        ("✅ готово 🎉🎉", "готово"),
        ("😊", ""),
        *[(f"a{char}b", "a b") for char in "\U0001f000\U0001f0ff\U0001f170\U0001faff"],
        *[(f"a{char}b", "a b") for char in "\u231a\u23ff\u25a0\u266c\u2670\u2775"],
        *[(f"a{char}b", "a b") for char in "\u2794\u27bf\u2b00\u2bff\u3030\u303d"],
        *[(f"Да 😊{point} нет", f"Да{point} нет") for point in ".,!?;:…。！？、，"],
        ("Да😊!", "Да!"),
        ("Да 😊 !", "Да !"),
        ("Да 😊👍!", "Да!"),
        *[(f"1{mark} a", "1 a") for mark in "\u200d\u20e3\ufe0e\ufe0f"],
    ],
)
def test_emoji_are_dropped_without_joining_words(written, spoken):
    assert light(written) == spoken


@pytest.mark.parametrize(
    "char",
    "\u2319\u2400\u2500\u259f\u266d\u266f\u2776\u2793\u27c0\u2aff\u2c00\U0001f100\U0001f16f\U0001fb00",
)
def test_neighbours_of_emoji_are_writing(char):
    assert light(f"a{char}b") == f"a{char}b"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        *[(f"a{end}b", "a\nb") for end in ("\r\n", *"\r\n\x0b\x0c\x85\u2028\u2029")],
        ("a\r\r\nb", "a\n\nb"),
        ("a\n\nb", "a\n\nb"),
        ("a\nb", "a\nb"),
        ("a\u200bb\u00adc\ufeff", "abc"),
        ("\u202eabc\u2066", "abc"),
        ("a\x00b\x1b", "ab"),
        ("\ud800x\ue000", "x"),
        ("e\u0301 и\u0306", "é й"),
        ("\u1112\u1161\u11ab", "한"),
        ("a \t b\u00a0c\u3000d", "a b c d"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("  a  \n  b\n\n\n\nc ", "a\nb\n\nc"),
        ("", ""),
    ],
)
def test_controls_and_spaces_are_tidied_and_letters_composed(written, spoken):
    assert light(written) == spoken


UNMARKED = st.text(st.characters(exclude_characters="`~(", exclude_categories=["Cs"]))


@given(UNMARKED)
def test_no_letter_and_no_digit_is_lost(text):
    def spoken(text):
        kept = (char for char in text if unicodedata.category(char) != "Cf")
        return [
            char
            for char in unicodedata.normalize("NFC", "".join(kept))
            if char.isalnum() and not 0x1F000 <= ord(char) <= 0x1FAFF
        ]

    assert spoken(light(text)) == spoken(text)


MARKS = st.text(st.sampled_from("a1я中 *_`~#>-|[]()<:/.!\n\t😊\ufe0f\u200d\u0301"), max_size=60)


@given(st.text() | MARKS)
def test_light_is_total_and_leaves_no_loose_ends(text):
    tidy = light(text)
    assert tidy == tidy.strip()
    assert "  " not in tidy
    assert not any(0xD800 <= ord(char) <= 0xDFFF for char in tidy)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["*", "**a", "_a", "[", "[](a:", "|", "`", "--- | "])
def test_hostile_repetition_ends_and_changes_nothing(unit):
    # Quadratic at worst: a pattern that backtracks without bound would never come back.
    text = unit * (4096 // len(unit)) + "x"
    assert light(text) == text


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("unit", "left"),
    [
        pytest.param("> ", "x", id="quotations"),
        pytest.param("- ", "- " * 2047 + "x", id="a list, one mark of it"),
        pytest.param("😊\ufe0f", "x", id="emoji"),
        pytest.param(" ", "x", id="spaces"),
        pytest.param("~~", "", id="a fence"),
    ],
)
def test_hostile_marks_end_and_are_dropped(unit, left):
    assert light(unit * (4096 // len(unit)) + "x") == left


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ["*", "**a", "_a", "[", "[](a:", "|", "> ", "- ", "😊\ufe0f", " ", "`", "~~", "--- | "]
)
def test_hostile_repetition_leaves_the_next_line(unit):
    assert light(unit * (4096 // len(unit)) + "x\nend").endswith("end")


# Full -----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "russian"])
@pytest.mark.parametrize("text", ["5 apples, 3.14, $5", "23.11.2026 № 5 г. XIX", "т. е. 5 руб."])
def test_full_applies_no_russian_rule_to_another_language(language, text):
    assert language not in LANGUAGES_WITH_FULL
    assert normalise(text, "full", language) == normalise(text, "light", language)


def test_full_does_more_than_light_in_russian_alone():
    assert set(LANGUAGES_WITH_FULL) == {"russian"}


def test_light_expands_nothing_in_russian():
    assert normalise("5 руб. 23.11.2026", "light", "russian") == "5 руб. 23.11.2026"
