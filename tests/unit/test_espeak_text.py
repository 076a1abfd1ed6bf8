"""What reaches espeak-ng: cleaned, readable, in pieces that lose nothing."""

import pytest

from qwen_tts_service.errors import CannotSpeak
from qwen_tts_service.espeak.chinese import characters_to_check, is_reading, with_phonemes
from qwen_tts_service.espeak.russian_dates import expand_dates
from qwen_tts_service.espeak.text import check_reading, clean, max_piece_chars, split


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        pytest.param("a\0b\x01c", "a b c", id="control characters end a C string or command"),
        pytest.param("so\u00adft \u200bjoin", "soft join", id="soundless characters"),
        pytest.param("ＡＢＣ１２３", "ABC123", id="full width"),
        pytest.param("ｶﾞｷﾞ", "ガギ", id="half width"),
        pytest.param("и\u0306од", "йод", id="decomposed"),
        pytest.param("№ 5, ½", "№ 5, ½", id="symbols that espeak-ng reads stay"),
        pytest.param(" one\ntwo ", "one\ntwo", id="line ends stay"),
    ],
)
def test_text_is_cleaned(given, cleaned):
    assert clean(given) == cleaned


@pytest.mark.parametrize(
    ("text", "language"),
    [
        pytest.param("Запусти docker, пожалуйста", "russian", id="Latin word in Russian"),
        pytest.param("сказал 안녕하세요 и α", "russian", id="Hangul and Greek are read anywhere"),
        pytest.param("naïve café, Łódź", "english", id="Latin with marks"),
        pytest.param("AI技术很好，ㄅ", "chinese", id="Chinese"),
        pytest.param("ケーブル と ねこ", "japanese", id="kana"),
        pytest.param("1º e 2ª", "portuguese", id="ordinal signs"),
        pytest.param("2024", "german", id="figures alone"),
    ],
)
def test_text_with_a_reading_is_accepted(text, language):
    check_reading(text, language)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        pytest.param("это 中国", "russian", id="Chinese in Russian"),
        pytest.param("hello ねこ", "english", id="kana in English"),
        pytest.param("hello мир", "english", id="Cyrillic in English"),
        pytest.param("你好 мир", "chinese", id="Cyrillic in Chinese"),
        pytest.param("漢字", "korean", id="Chinese in Korean"),
        pytest.param("قطة", "french", id="Arabic"),
        pytest.param("Nguyễn", "english", id="Vietnamese letters"),
        pytest.param("a \ud800 b", "english", id="lone surrogate"),
        pytest.param("... !!!", "english", id="punctuation only"),
        pytest.param("😀", "russian", id="emoji only"),
        pytest.param("", "english", id="nothing"),
    ],
)
def test_text_without_a_reading_is_refused_without_quoting_it(text, language):
    with pytest.raises(CannotSpeak) as caught:
        check_reading(text, language)
    assert (caught.value.code, caught.value.param) == ("no_reading", "text")
    assert not text.strip() or text not in caught.value.message


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        pytest.param("Раз. Два! Три?", ("Раз.", "Два!", "Три?"), id="Russian"),
        pytest.param(
            "Это т.е. пример и т.д. дальше", ("Это т.е. пример и т.д. дальше",), id="abbr"
        ),
        pytest.param("It is 3.14. Yes.", ("It is 3.14.", "Yes."), id="decimal point"),
        pytest.param("你好。今天！很好？", ("你好。", "今天！", "很好？"), id="Chinese"),
        pytest.param("「行く。」と", ("「行く。」と",), id="closing bracket stays"),
        pytest.param("one\n\n...\ntwo", ("one", "two"), id="lines, and one without a sound"),
    ],
)
def test_text_is_cut_at_sentence_ends(text, pieces):
    assert split(text, "russian") == pieces


@pytest.mark.parametrize("language", ["russian", "korean", "chinese"])
@pytest.mark.parametrize("text", ["слово, " * 300, "слово " * 300, "слово" * 300, "中国人" * 300])
def test_long_sentences_are_cut_and_lose_nothing(text, language):
    pieces = split(text, language)
    assert max(map(len, pieces)) <= max_piece_chars(language)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        ("01.02.2024", "первого февраля две тысячи двадцать четвёртого года"),
        ("30.12.1999 г. б", "тридцатого декабря тысяча девятьсот девяносто девятого года б"),
        ("31.1.1811", "тридцать первого января тысяча восемьсот одиннадцатого года"),
        ("1.1.2000 г. Было", "первого января двухтысячного года. Было"),
        ("20.10.1900 года.", "двадцатого октября тысяча девятисотого года."),
        ("9.5.1040", "девятого мая тысяча сорокового года"),
        ("30.02.2024", "30.02.2024"),
        ("версия 1.2.3.2024 и 3.14", "версия 1.2.3.2024 и 3.14"),
    ],
)  # fmt: skip
def test_russian_dates_are_written_out(given, expanded):
    assert expand_dates(given) == expanded


def test_chinese_syllables_that_espeak_lacks_become_phonemes():
    assert with_phonemes("大熊[[x]]猫") == "大[[S;'ong35]]  x  猫"


def test_only_characters_of_unknown_reading_are_checked():
    assert characters_to_check("熊猫 AI 猫。") == ["猫"]


@pytest.mark.parametrize(
    ("phonemes", "expected"),
    [("t'A51_|", True), ("(en)kS@Nt'u:(cmn)_|", False), ("@:11_|s'a55n_|", False), ("_|", False)],
)
def test_a_reading_is_told_from_a_spelled_code(phonemes, expected):
    assert is_reading(phonemes) is expected
