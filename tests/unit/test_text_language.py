"""Claims about naming the language of a text and reading the name of one."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.text.language import (
    ISO_CODES,
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


@pytest.mark.parametrize(
    ("decomposed", "language"),
    [("Na\u0303o", "portuguese"), ("Man\u0303ana", "spanish"), ("Perche\u0301 no?", "italian")],
)
def test_decomposed_letters_are_letters(decomposed, language):
    assert detect_language(decomposed) == language


def test_foreign_name_does_not_change_the_language_of_a_sentence():
    text = "The flight from São Paulo to Düsseldorf leaves the gate at ten. El Niño is coming."
    assert detect_language(text) == "english"


@given(st.text())
def test_detection_is_total_and_deterministic(text):
    assert detect_language(text) == detect_language(text)
    assert detect_language(text) in LANGUAGES


def test_detector_loads_once_whatever_the_number_of_threads():
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(detect_language, ["The weather is nice in the north."] * 32))
    preload_detector()
    assert found == {"english"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("form", [str, str.upper, str.title, lambda name: f"  {name} "])
def test_language_is_known_by_its_name_and_code_in_any_case(language, form):
    assert parse_language(form(language)) == language
    assert parse_language(form(ISO_CODES[language])) == language


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("ru-RU", "russian"),
        ("ru_RU", "russian"),
        ("RUS", "russian"),
        ("Русский", "russian"),
        ("zh-CN", "chinese"),
        ("zh-Hans-CN", "chinese"),
        ("cmn", "chinese"),
        ("中文", "chinese"),
        ("普通话", "chinese"),
        ("en-US", "english"),
        ("английский", "english"),
        ("日本語", "japanese"),
        ("jpn", "japanese"),
        ("한국어", "korean"),
        ("ko-KR", "korean"),
        ("Deutsch", "german"),
        ("de-AT", "german"),
        ("Français", "french"),
        ("fr-CA", "french"),
        ("Português", "portuguese"),
        ("pt-BR", "portuguese"),
        ("Español", "spanish"),
        ("es-419", "spanish"),
        ("Italiano", "italian"),
    ],
)
def test_language_is_known_by_tag_and_native_name(name, language):
    assert parse_language(name) == language


@pytest.mark.parametrize("name", ["auto", "Auto", " AUTO ", "", "  "])
def test_auto_and_blank_leave_the_language_to_the_text(name):
    assert parse_language(name) is None


@pytest.mark.parametrize(
    "name", ["klingon", "uk", "uk-UA", "beijing_dialect", "xy", "english-", "ru RU", "🇷🇺", "autos"]
)
def test_unknown_language_is_refused_and_the_known_ones_listed(name):
    with pytest.raises(InvalidRequest) as refusal:
        parse_language(name)
    assert refusal.value.param == "language"
    assert "russian" in refusal.value.message
    assert name not in refusal.value.message
