"""Claims about naming the language of a text and reading the name of one."""

import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.text import language as module
from qwen_tts_service.text.language import (
    _TABLE,
    LANGUAGES,
    detect_language,
    parse_language,
    preload_detector,
)

TEXTS = {
    "russian": [
        "Привет, мир!",
        "Да",
        "Я.",
        "Запусти docker compose up",
        "Установи Visual Studio Code",
        "В 2024 году — 3,14.",
        "Е\u0301жик",
        "Он сказал: «Hello, my friend».",
    ],
    "chinese": ["你好，世界！", "好", "我喜欢 Python", "今天是2024年5月1日。", "1次", "OK吗"],
    "japanese": ["こんにちは", "東京へ行きます。", "カタカナ", "はい", "Googleで検索", "ﾊﾝｶｸ"],
    "korean": ["안녕하세요", "네", "Python을 배워요", "오늘은 2024년입니다.", "한국어와 English"],
    "english": [
        "Hello, world!",
        "OK",
        "Hi",
        "Yes",
        "No",
        "Thanks",
        "I",
        "API",
        "Test",
        "Stop",
        "GOOD MORNING",
        "How are you?",
        "Dr. Smith paid $3.14.",
        "The word привет means hello",
        "The kanji 猫 means cat in Japanese",
        "Don't stop me now",
        "The weather is nice today, and it’s getting warmer.",
    ],
    "german": [
        "Ja",
        "Nein",
        "Hallo",
        "Hallo Welt",
        "Danke",
        "Guten Morgen",
        "Tschüss",
        "Straße",
        "Wie geht's?",
        "Das ist gut.",
        "Der Zug fährt um 10 Uhr ab.",
    ],
    "french": [
        "Oui",
        "Merci",
        "Salut",
        "Bonjour",
        "Bonjour le monde",
        "Ça va ?",
        "S'il vous plaît",
        "Au revoir",
        "C’est une belle journée.",
    ],
    "spanish": [
        "Sí",
        "Hola",
        "¡Hola!",
        "Gracias",
        "Hola mundo",
        "Buenos días",
        "¿Qué tal?",
        "Mañana",
        "El tren sale a las diez.",
    ],
    "italian": [
        "Sì",
        "Ciao",
        "Grazie",
        "Prego",
        "Come stai?",
        "Va bene.",
        "Ciao mondo",
        "Buongiorno",
        "Perché no?",
        "Il treno parte alle dieci.",
    ],
    "portuguese": [
        "Sim",
        "Não",
        "Olá",
        "Olá, mundo!",
        "Obrigado",
        "Bom dia",
        "Até logo",
        "Tudo bem?",
        "Você está bem?",
        "O trem sai às dez horas.",
    ],
}


@pytest.mark.parametrize(
    ("text", "language"), [(text, name) for name, texts in TEXTS.items() for text in texts]
)
def test_language_of_a_text_is_detected(text, language):
    assert detect_language(text) == language


@pytest.mark.parametrize("text", ["", " ", "123", "3.14!", "…", "😊", "שלום", "\ud800", "\x00"])
def test_text_without_letters_of_the_ten_is_english(text):
    assert detect_language(text) == "english"


# Each would be another language to statistics, or no word at all, with its marks apart.
@pytest.mark.parametrize(
    ("composed", "language"),
    [
        ("até", "portuguese"),
        ("olá", "portuguese"),
        ("não", "portuguese"),
        ("sí", "spanish"),
        ("ñ ok", "spanish"),
        ("ã ok", "portuguese"),
        ("Perché no?", "italian"),
    ],
)
def test_decomposed_letters_are_letters(composed, language):
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed
    assert detect_language(composed) == detect_language(decomposed) == language


@pytest.mark.parametrize(
    ("letters", "language"),
    [
        ("Ѐ ѝ", "russian"),
        ("Ёж", "russian"),
        ("ԯ", "russian"),
        ("ㅋㅋㅋ", "korean"),
        ("\u1112\u1161\u11ab", "korean"),
        ("힣", "korean"),
        ("ぁ", "japanese"),
        ("ゟ", "japanese"),
        ("ァ", "japanese"),
        ("ヺ", "japanese"),
        ("スー", "japanese"),
        ("ㇰ", "japanese"),
        ("ｦ ﾝ", "japanese"),
        ("人々", "chinese"),
        ("㐀", "chinese"),
        ("龥", "chinese"),
        ("豈", "chinese"),
        ("𠀀", "chinese"),
    ],
)
def test_edges_of_a_script_belong_to_it(letters, language):
    assert detect_language(letters) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        pytest.param("Скажи one two three", "russian", id="a quarter is Russian"),
        pytest.param("Скажи one two three four", "english", id="less than a quarter is"),
        pytest.param("Скажи ещё one two three four five six seven", "english", id="two and seven"),
        pytest.param("猫犬 one two three", "chinese", id="two characters are one word"),
        pytest.param("猫犬 one two three four", "english", id="a fifth is Chinese"),
        pytest.param("猫 one two", "english", id="one character is half a word"),
        pytest.param("ねこ one two three", "japanese", id="two kana are one word"),
        pytest.param("네 one two three", "korean", id="a quarter is Korean"),
        pytest.param("The word «е\u0301ж» means hedgehog", "english", id="a mark splits no word"),
        pytest.param("It's Bob’s cat's да", "russian", id="an apostrophe splits no word"),
        pytest.param("It's Bob’s O'Neill's d’Or да", "english", id="apostrophes in four of five"),
        pytest.param("Ame\u0301lie Zoe\u0301e No\u0308el да", "russian", id="three marked names"),
        pytest.param("да 네", "russian", id="Russian before Korean"),
        pytest.param("да 네 네", "korean", id="more Korean than Russian"),
        pytest.param("да 中国", "russian", id="Russian before Chinese"),
        pytest.param("да 中国人", "chinese", id="more Chinese than Russian"),
        pytest.param("да нет ねこ中国", "russian", id="Russian before Japanese"),
        pytest.param("да нет ねこ中国人", "japanese", id="kana and kanji together outweigh"),
        pytest.param("네 中国", "korean", id="Korean before Chinese"),
        pytest.param("네 中国人", "chinese", id="more Chinese than Korean"),
        pytest.param("네 네 ねこ中国", "korean", id="Korean before Japanese"),
        pytest.param("네 네 ねこ中国人", "japanese", id="more Japanese than Korean"),
        pytest.param("中国人民中国人民の", "japanese", id="one kana is enough"),
    ],
)
def test_the_script_with_the_most_words_decides(text, language):
    assert detect_language(text) == language


def test_only_the_beginning_of_a_long_text_is_judged():
    assert detect_language("да " * 1400 + "the weather is nice " * 2000) == "russian"
    assert detect_language("да " * 100 + "the weather is nice " * 200) == "english"


SHORT_WORDS = {
    "english": "ok okay hello hi hey yes bye stop start test wait please sorry thanks thank the",
    "german": "ja nein hallo danke bitte tschüss gut und ich",
    "french": "oui non merci salut bonjour bonsoir voilà",
    "spanish": "sí hola gracias adiós vale bueno",
    "italian": "sì ciao grazie prego buongiorno buonasera stai come bene",
    "portuguese": "sim não olá obrigado obrigada até tchau",
}


@pytest.mark.parametrize(
    ("word", "language"),
    [(word, language) for language, words in SHORT_WORDS.items() for word in words.split()],
)
def test_short_word_is_known_by_heart_and_the_first_one_decides(word, language):
    other = "danke" if language != "german" else "ciao"
    assert detect_language(word) == language
    assert detect_language(f"{word.upper()}, {other}!") == language


@pytest.mark.parametrize(
    ("text", "language"), [("my gut feeling", "german"), ("my gut feeling says", "english")]
)
def test_words_are_known_by_heart_in_texts_of_three_and_no_more(text, language):
    assert detect_language(text) == language


@pytest.mark.parametrize(
    ("mark", "language"),
    [
        ("¿", "spanish"),
        ("¡", "spanish"),
        ("ñ", "spanish"),
        ("Ñ", "spanish"),
        ("ã", "portuguese"),
        ("Õ", "portuguese"),
        ("ß", "german"),
        ("ẞ", "german"),
    ],
)
def test_mark_of_one_language_decides_before_a_known_word(mark, language):
    assert detect_language(f"hello {mark}") == language


@pytest.mark.parametrize(
    ("word", "language"), [("Casa", "english"), ("GPU", "english"), ("chien", "french")]
)
def test_guess_without_evidence_is_english(word, language):
    assert detect_language(word) == language


@pytest.mark.parametrize(
    "text",
    ["Goedemorgen, hoe gaat het vandaag met u?", "Hur mår du i dag, min vän?", "Dzień dobry"],
)
def test_text_in_an_eleventh_language_is_one_of_the_ten(text):
    assert detect_language(text) in LANGUAGES


def test_foreign_name_does_not_change_the_language_of_a_sentence():
    text = "The flight from São Paulo to Düsseldorf leaves the gate at ten. El Niño is coming."
    assert detect_language(text) == "english"


@given(st.text())
def test_detection_is_total_and_deterministic(text):
    assert detect_language(text) == detect_language(text)
    assert detect_language(text) in LANGUAGES


def test_detector_loads_once_whatever_the_number_of_threads():
    module._load_identifier.cache_clear()
    together = threading.Barrier(8)

    def detect(text):
        together.wait(30)
        return detect_language(text)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(detect, ["The weather is nice in the north."] * 8))
    assert found == {"english"}
    assert module._load_identifier.cache_info().misses == 1


def test_detector_can_be_loaded_ahead():
    module._load_identifier.cache_clear()
    preload_detector()
    assert module._load_identifier.cache_info().currsize == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("form", [str, str.upper, str.title, lambda name: f"  {name} "])
def test_language_is_known_by_its_name_and_code_in_any_case(language, form):
    assert parse_language(form(language)) == language
    assert parse_language(form(_TABLE[language]["iso"])) == language


NAMES = {
    "chinese": "zh zho chi cmn mandarin 中文 汉语 漢語 普通话 普通話 国语 國語 китайский",
    "english": "en eng английский",
    "japanese": "ja jpn jp 日本語 nihongo японский",
    "korean": "ko kor kr 한국어 корейский",
    "german": "de deu ger Deutsch немецкий",
    "french": "fr fra fre Français francais французский",
    "russian": "ru rus Русский",
    "portuguese": "pt por Português portugues португальский",
    "spanish": "es spa Español espanol castellano испанский",
    "italian": "it ita Italiano итальянский",
}
TAGS = {
    "ru-RU": "russian",
    "ru_RU": "russian",
    "RUS-ru": "russian",
    "zh-CN": "chinese",
    "zh-Hans-CN": "chinese",
    "cmn-x": "chinese",
    "en-US": "english",
    "en-abcdefgh": "english",
    "ko-KR": "korean",
    "de-AT": "german",
    "fr-CA": "french",
    "pt-BR": "portuguese",
    "es-419": "spanish",
}


@pytest.mark.parametrize(
    ("name", "language"),
    [(name, language) for language, names in NAMES.items() for name in names.split()]
    + list(TAGS.items()),
)
def test_language_is_known_by_code_tag_and_native_name(name, language):
    assert parse_language(name) == language


def test_two_letter_codes_are_those_of_iso_639():
    assert {language: names.split()[0] for language, names in NAMES.items()} == {
        language: row["iso"] for language, row in _TABLE.items()
    }


@pytest.mark.parametrize("name", ["auto", "Auto", " AUTO ", "", "  "])
def test_auto_and_blank_leave_the_language_to_the_text(name):
    assert parse_language(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "klingon",
        "uk",
        "uk-UA",
        "beijing_dialect",
        "xy",
        "english-",
        "chinese-CN",
        "ru RU",
        "ru-",
        "ru-RU-",
        "ru-abcdefghi",
        "r-ru",
        "🇷🇺",
        "autos",
    ],
)
def test_unknown_language_is_refused_and_the_known_ones_listed(name):
    with pytest.raises(InvalidRequest) as refusal:
        parse_language(name)
    assert refusal.value.param == "language"
    assert all(language in refusal.value.message for language in ("auto", *LANGUAGES))
    assert refusal.value.message.startswith(f'language "{name}" is not one of ')
