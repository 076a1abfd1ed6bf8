"""What reaches espeak-ng: cleaned, readable, in pieces that lose nothing."""

import pytest

from qwen_tts_service.errors import CannotSpeak
from qwen_tts_service.espeak import read_table
from qwen_tts_service.espeak.readings import characters_to_check, is_reading, with_phonemes
from qwen_tts_service.espeak.runs import Run, check_letters, split_runs
from qwen_tts_service.espeak.russian import write_out_dates
from qwen_tts_service.espeak.text import clean, split


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        pytest.param("a\0b\x01c", "a b c", id="control characters end a C string or command"),
        pytest.param("⑳ Ⅳ ⅓ ٣ ²", "20 IV 1/3 3 ²", id="numbers in other writing"),
        pytest.param("a[[b]]", "a  b", id="brackets that enclose phonemes"),
        pytest.param("и\u0300 е\u0300", "и е", id="secondary stress"),
        pytest.param("ḥa ṣ ẞ", "ha s SS", id="Latin letters beyond what is read"),
        pytest.param("so\u00adft \u200bjoin", "soft join", id="soundless characters"),
        pytest.param("ＡＢＣ１２３", "ABC123", id="full width"),
        pytest.param("80㎡ 5㎏ ﬁt 𝐁𝐨", "80m² 5kg fit Bo", id="letters and units in one character"),
        pytest.param("ｶﾞｷﾞ", "ガギ", id="half width"),
        pytest.param("и\u0306од", "йод", id="decomposed"),
        pytest.param("№ 5, ½", "№ 5, ½", id="symbols that espeak-ng reads stay"),
        pytest.param(" one\ntwo ", "one\ntwo", id="line ends stay"),
        pytest.param("a\tb\ue000c\u0378d", "a b c d", id="tabs, private and unassigned"),
        pytest.param("！（Ａ）Ｂ\u3000ｱ", "！（A）B\u3000ア", id="wide punctuation stays"),
        pytest.param("\u1112\u1161\u11ab", "한", id="decomposed Hangul"),
        pytest.param("a\ud800", "a\ud800", id="a lone surrogate stays, to be refused"),
    ],
)
def test_text_is_cleaned(given, cleaned):
    assert clean(given) == cleaned


@pytest.mark.parametrize(
    ("text", "language", "runs"),
    [
        ("Запусти docker, да", "russian", "ru:Запусти docker, да"),
        (
            "The word привет means hello.",
            "english",
            "en-us:The word |ru:привет |en-us:means hello.",
        ),
        ("I live in 東京 now.", "english", "en-us:I live in |cmn:東京 |en-us:now."),
        ("Say (добрый день) 5 times", "english", "en-us:Say (|ru:добрый день|en-us:) 5 times"),
        ("сказал 안녕하세요!", "russian", "ru:сказал |ko:안녕하세요!"),
        ("это ねこ カ", "russian", "ru:это |ja:ねこ カ"),
        ("Слово λόγος и α", "russian", "ru:Слово |el:λόγος |ru:и α"),
        ("das Wort мир", "german", "de:das Wort |ru:мир"),
        ("le mot 中国", "french", "fr:le mot |cmn:中国"),
        ("la palabra мир", "spanish", "es:la palabra |ru:мир"),
        ("la parola мир", "italian", "it:la parola |ru:мир"),
        ("a palavra мир", "portuguese", "pt-br:a palavra |ru:мир"),
        ("你好 мир AI", "chinese", "cmn:你好 |ru:мир |cmn:AI"),
        ("中国カ", "chinese", "cmn:中国|ja:カ"),
        ("Pythonを かく", "japanese", "en-us:Python|ja:を かく"),
        ("ㄅ", "japanese", "cmn:ㄅ"),
        ("한국어 漢字", "korean", "ko:한국어 |cmn:漢字"),
        ("Nguyễn sang", "english", "vi:Nguyễn |en-us:sang"),
        ("Қазақстан и Алматы", "russian", "kk:Қазақстан |ru:и Алматы"),
        ("Өмір", "russian", "kk:Өмір"),
        ("თბილისი", "russian", "ka:თბილისი"),
        ("naïve café, Łódź, it’s", "english", "en-us:naïve café, Łódź, it’s"),
        ("1º e 2ª, 5 µm", "portuguese", "pt-br:1º e 2ª, 5 µm"),
        ("\u024f", "english", "en-us:\u024f"),
        ("人々 ㄅ 〇", "chinese", "cmn:人々 ㄅ 〇"),
        ("かなカナー", "japanese", "ja:かなカナー"),
        ("Привіт ўсім", "russian", "ru:Привіт ўсім"),
        ("за\u0301мок", "english", "ru:за\u0301мок"),
        ("(мир)", "english", "ru:(мир)"),
        ("2024", "german", "de:2024"),
        ("½ km²", "german", "de:½ km²"),
        ("5 мир 6", "english", "en-us:5 |ru:мир|en-us: 6"),
        ("... !!!", "english", "en-us:... !!!"),
    ],
)
def test_words_are_read_by_the_language_that_has_their_letters(text, language, runs):
    check_letters(text, language)
    expected = [Run(*run.split(":", 1)) for run in runs.split("|")]
    assert split_runs(text, language) == expected


@pytest.mark.parametrize(
    ("text", "language", "named"),
    [
        ("قطة", "french", "ة ط ق"),
        ("слово Ѣ", "russian", "Ѣ"),
        ("שלום", "russian", "ו ל ם ש"),
        ("สวัสดี", "english", "ด ว ส"),
        ("hello ƅ", "english", "ƅ"),
        ("ɐ", "english", "ɐ"),
        ("a \ud800 b", "english", "U+D800"),
        ("ሰላም", "japanese", "ላ ም ሰ"),
    ],
)
def test_letters_that_no_language_reads_are_refused_by_name(text, language, named):
    with pytest.raises(CannotSpeak) as caught:
        check_letters(text, language)
    assert (caught.value.code, caught.value.param) == ("no_reading", "text")
    assert f"cannot read: {named}. " in caught.value.message


def test_refusal_names_twenty_letters_at_most():
    with pytest.raises(CannotSpeak) as caught:
        check_letters("".join(map(chr, range(0x1200, 0x1240))), "english")
    assert len(caught.value.message.partition(": ")[2].partition(".")[0]) == 39


@pytest.mark.parametrize(
    ("text", "language", "warning"),
    [
        ("Привіт, їжак", "russian", "letters that Russian lacks (U+0456, U+0457)"),
        ("Ўладзімір", "russian", "letters that Russian lacks (U+040E, U+0456)"),
        ("слово Қазақстан", "russian", "words in Kazakh letters are read by espeak-ng's Kazakh"),
        ("λόγος", "german", "words in Greek letters"),
    ],
)
def test_what_is_read_as_something_else_is_warned_about_in_ascii(text, language, warning):
    (found,) = check_letters(text, language)
    assert warning in found
    assert found.isascii()


@pytest.mark.parametrize(
    ("text", "language"),
    [("Слово docker", "russian"), ("мир", "english"), ("Python", "japanese"), ("α", "english")],
)
def test_words_of_the_ten_languages_need_no_warning(text, language):
    assert check_letters(text, language) == []


def test_pieces_with_korean_or_chinese_words_are_as_short_as_those_need():
    assert max(map(len, split("слово " * 30 + "안녕 " + "слово " * 30, "russian"))) <= 80
    assert max(map(len, split("слово " * 30 + "中国 " + "слово " * 30, "russian"))) <= 120


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
        pytest.param("Ну… Да. 5 раз", ("Ну…", "Да.", "5 раз"), id="dots, and a figure"),
        pytest.param("Да! нет. Ёж", ("Да! нет.", "Ёж"), id="not before a small letter"),
        pytest.param("Да. ёж", ("Да. ёж",), id="nor before a small yo"),
        pytest.param("Yes! no. Yes", ("Yes! no.", "Yes"), id="nor a Latin one"),
        pytest.param("今天！！很好", ("今天！！", "很好"), id="two wide points"),
        pytest.param("“好。”他", ("“好。”他",), id="closing quote stays"),
        pytest.param("『行く？』と", ("『行く？』と",), id="closing double bracket stays"),
    ],
)
def test_text_is_cut_at_sentence_ends(text, pieces):
    assert split(text, "russian") == pieces


@pytest.mark.parametrize(
    "sentence", ['"Really."', "(Yes.)", "«Да!»", "« Non. »", "“Why?”", "Da…»)", "Ну."]
)
def test_a_sentence_is_the_same_piece_within_a_text_and_alone(sentence):
    assert split(f"{sentence} Then he left.", "english") == (
        *split(sentence, "english"),
        "Then he left.",
    )


@pytest.mark.parametrize("language", ["russian", "korean", "chinese"])
@pytest.mark.parametrize("text", ["слово, " * 300, "слово " * 300, "слово" * 300, "中国人" * 300])
def test_long_sentences_are_cut_and_lose_nothing(text, language):
    pieces = split(text, language)
    assert max(map(len, pieces)) <= read_table("languages.toml")[language]["max_piece_chars"]
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("close", "»”’\"')]")
def test_text_is_cut_behind_the_mark_that_closes_a_sentence(close):
    first, second = split(f"Это да.{close} Нет", "russian")
    assert (first.rstrip(close), second) == ("Это да.", "Нет")


@pytest.mark.parametrize(
    ("text", "language", "lengths"),
    [
        pytest.param("слово, " * 60, "russian", [293, 125], id="after a clause"),
        pytest.param("слово " * 60, "russian", [299, 59], id="at a space"),
        pytest.param("а" * 300, "russian", [286, 20], id="in long words"),
        pytest.param("中国，" * 60, "chinese", [120, 60], id="after a wide comma"),
        pytest.param("中国， " * 40, "chinese", [119, 39], id="no space at an end"),
        pytest.param("中" * 121, "chinese", [120, 1], id="anywhere in Chinese"),
        pytest.param("中" * 120, "chinese", [120], id="just fits"),
        pytest.param("가나다 " * 40, "korean", [79, 79], id="Korean"),
        pytest.param("а" * 40, "russian", [40], id="the longest word"),
        pytest.param("か" * 41, "japanese", [42], id="a word too long is two"),
        pytest.param("я" * 40 + ", " + "я" * 40, "russian", [82], id="two long words"),
        pytest.param(("я" * 39 + ", ") * 7 + "я" * 13, "russian", [300], id="just fits 300"),
        pytest.param(("я" * 39 + ", ") * 7 + "я" * 14, "russian", [286, 14], id="one too many"),
    ],
)
def test_piece_is_as_long_as_its_language_allows(text, language, lengths):
    assert list(map(len, split(text, language))) == lengths


@pytest.mark.parametrize("mark", [*(f"{mark} " for mark in ",;:—–"), *"，；：、"])
def test_long_sentence_is_cut_after_each_mark_of_a_clause(mark):
    text = "слово " * 30 + "слово" + mark + "слово " * 30
    assert split(text, "russian")[0] == ("слово " * 30 + "слово" + mark).strip()


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
        ("1.13.2024, 0.1.2024, 1.0.2024", "1.13.2024, 0.1.2024, 1.0.2024"),
        ("5.5.3024, 5.5.0024, 5.5.12024", "5.5.3024, 5.5.0024, 5.5.12024"),
        ("115.5.2024, 5.5.2024.5", "115.5.2024, 5.5.2024.5"),
        ("до 5.5.1000.", "до пятого мая тысячного года."),
        ("в 2024-11-25 и 31.12", "в двадцать пятого ноября две тысячи двадцать четвёртого года "
         "и тридцать первого декабря"),
        ("5.5.1100 года", "пятого мая тысяча сотого года"),
        ("5.5.2010г. было", "пятого мая две тысячи десятого года было"),
        ("5.5.2010 г", "пятого мая две тысячи десятого года"),
        ("5.5.2010 г., да", "пятого мая две тысячи десятого года, да"),
        ("5.5.2010 г. Было", "пятого мая две тысячи десятого года. Было"),
        ("5.5.2010 г.", "пятого мая две тысячи десятого года."),
        ("5.5.2010 годовой", "пятого мая две тысячи десятого года годовой"),
        ("2024 г.  ", "две тысячи двадцать четвёртого года.  "),
        ("версия 1.2.3.2024 и 3.14", "версия 1.2.3.2024 и 3.14"),
    ],
)  # fmt: skip
def test_russian_dates_are_written_out(given, expanded):
    assert write_out_dates(given) == expanded


@pytest.mark.timeout(20)
def test_time_of_roman_numerals_grows_with_the_text_only():
    times = 40_000  # 0.5 s; quadratic it takes ten minutes
    assert write_out_dates("слово II " * times) == "слово второй " * times


MONTHS = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря"
DAYS = (
    "первого второго третьего четвёртого пятого шестого седьмого восьмого девятого десятого "
    "одиннадцатого двенадцатого тринадцатого четырнадцатого пятнадцатого шестнадцатого "
    "семнадцатого восемнадцатого девятнадцатого двадцатого"
)
TENS = {
    20: "двадцатого двадцать",
    30: "тридцатого тридцать",
    40: "сорокового сорок",
    50: "пятидесятого пятьдесят",
    60: "шестидесятого шестьдесят",
    70: "семидесятого семьдесят",
    80: "восьмидесятого восемьдесят",
    90: "девяностого девяносто",
}
HUNDREDS = {
    100: "сотого сто",
    200: "двухсотого двести",
    300: "трёхсотого триста",
    400: "четырёхсотого четыреста",
    500: "пятисотого пятьсот",
    600: "шестисотого шестьсот",
    700: "семисотого семьсот",
    800: "восьмисотого восемьсот",
    900: "девятисотого девятьсот",
}


@pytest.mark.parametrize(("month", "name"), list(enumerate(MONTHS.split(), start=1)))
def test_each_month_has_its_name(month, name):
    assert write_out_dates(f"1.{month}.2000") == f"первого {name} двухтысячного года"


@pytest.mark.parametrize(("day", "name"), list(enumerate(DAYS.split(), start=1)))
def test_each_day_has_its_name(day, name):
    assert write_out_dates(f"{day:02}.01.2000") == f"{name} января двухтысячного года"


@pytest.mark.parametrize("years", TENS | HUNDREDS)
def test_each_decade_and_century_has_its_name(years):
    ordinal, cardinal = (TENS | HUNDREDS)[years].split()
    for millennium, name in ((1000, "тысяча"), (2000, "две тысячи")):
        of = f"первого января {name} {cardinal} первого года"
        assert write_out_dates(f"1.1.{millennium + years + 1}") == of
    assert write_out_dates(f"1.1.{1000 + years}") == f"первого января тысяча {ordinal} года"


PHONEMES = {
    "S;'ong55": "兄凶匈汹洶胸哅忷恟讻訩",
    "S;'ong35": "雄熊",
    "tS;'ong55": "扃坰駉",
    "tS;'ong214": "窘炯迥冏泂褧煚熲颎",
    "tS;h'ong55": "芎",
    "tS;h'ong35": "琼瓊穷窮穹筇茕煢蛩跫邛銎惸笻",
    "@r35": "兒",
}


@pytest.mark.parametrize("sound", PHONEMES)
def test_each_chinese_character_that_espeak_lacks_has_its_sound(sound):
    for char in PHONEMES[sound]:
        assert with_phonemes(char) == f"[[{sound}]]"
        assert characters_to_check(char) == []


def test_chinese_syllables_that_espeak_lacks_become_phonemes():
    assert with_phonemes("大熊猫") == "大[[S;'ong35]]猫"


def test_only_characters_of_unknown_reading_are_checked():
    assert characters_to_check("熊猫 AI 猫人 か 가 。") == ["人", "猫"]


@pytest.mark.parametrize(
    ("phonemes", "expected"),
    [
        ("t'A51_|", True),
        ("(en)kS@Nt'u:(cmn)_|", False),
        ("@:11_|s'a55n_|", False),
        ("_|", False),
        (" _", False),
        ("", False),
    ],
)
def test_a_reading_is_told_from_a_spelled_code(phonemes, expected):
    assert is_reading(phonemes) is expected
