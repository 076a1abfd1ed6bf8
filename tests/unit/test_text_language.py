"""Claims about naming the language of a text and reading the name of one."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.text.language import (
    _TABLE,
    LANGUAGES,
    beginning_that_tells,
    detect_language,
    parse_language,
    tells_language,
)
from qwen_tts_service.text.latin import LATIN_LANGUAGES, names

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
        pytest.param("Скажи one two three four five", "russian", id="no word of grammar"),
        pytest.param("Скажи the one", "english", id="one, and a small word"),
        pytest.param("Скажи the", "russian", id="as many as the Russian words"),
        pytest.param("Скажи ему the one", "russian", id="fewer than the Russian words"),
        pytest.param("Скажи The One", "russian", id="capitals are names"),
        pytest.param("The word «е\u0301ж» means hedgehog", "english", id="a mark splits no word"),
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


MIXED = {
    "russian": [
        "Смотри https://example.com/path?x=1.",
        "Почта: ivan.petrov@mail.ru",
        "[Сайт](https://example.com/docs/en/latest/index.html)",
        "Выполни docker compose up -d",
        "API, HTTP, SQL и JSON",
        "Docker, Kubernetes, Terraform и Ansible",
        "Запусти git push origin main",
        "Установи: pip install --upgrade qwen-tts-service",
        "Файл /etc/nginx/nginx.conf",
        "Функция get_user_by_id и fooBar",
        "Спасибо @john_smith и @mary",
        "Тег #MachineLearning #ArtificialIntelligence",
        "```python\nprint('hello world and this is the end')\n```\nЭто код",
        "Код `for i in range(10): print(i)` печатает числа",
        "Он сказал: «Hello, my friend».",
        "Что значит «I would like to go to the cinema»?",
        "Песня Let It Be группы The Beatles",
        "Смотри Back to the Future",
        "The Lord of the Rings — фильм",
        "Скажи one two three",
        '<b>Привет</b> <a href="https://example.com">мир</a>',
        "Tom &amp; Jerry идут",
        "Купил iPhone 15 Pro Max",
        "Microsoft Word, Excel и PowerPoint",
        "OK! Привет, как дела?",
        "`Привет`",
        "Ошибка: NullPointerException at com.example.Main.main(Main.java:10)",
        "Сделай SELECT name FROM users WHERE id",
        "Лог: Failed to connect to the database",
        "Журнал: ERROR Could not read from the socket at localhost:8080",
        "Ошибка: Cannot read property 'x' of undefined",
        "Ошибка API при запуске сервера:\nThe service is not available",
        "12:30 Статус: Waiting for connection to the server",
        "Тема: Re: Fwd: Invoice for the month of May",
        "Команда выводит: This is a test of the system",
        "www.example.com/en/index — сайт",
        "Работаю в Google",
        "CI/CD в GitLab",
        "C:\\Users\\Ivan\\Documents папка",
        "Let's Encrypt выдал сертификат",
        "The Beatles — группа",
        '<speak>Привет <break time="1s"/> мир</speak>',
        "[voice:ryan] Привет",
        "e-mail: a@b.com, сайт: x.org/en/about",
        "in-app, in-game покупки",
        "Please say Привет: как дела",
    ],
    "chinese": [
        "链接：https://example.com/docs/en/index.html",
        "链接：https://example.com/docs/en/index.html。",
        "我喜欢 Python",
        "运行 docker compose up -d",
        "邮箱：zhang.wei@example.com",
        "使用 Docker、Kubernetes 和 Terraform",
        "OK吗",
        "打开 Visual Studio Code",
        "请执行 npm install --save-dev typescript",
        "我看了 The Lord of the Rings",
        "Hello. 你好世界。",
        "如何使用 git add and git commit",
        "查看 README.md 文件",
        "变量 user_name 和 userName",
        "错误：Connection refused at port 80",
        "日志: The server is not responding",
        "@john 你好",
    ],
    "japanese": [
        "Googleで検索",
        "リンク：https://example.com/docs/en/index.html",
        "docker compose up -d を実行",
        "Docker、Kubernetes と Terraform",
        "メール：taro@example.com",
        "Visual Studio Codeを開く",
        "iPhoneが欲しい",
        "git push origin main してください",
        "東京へ行きます。README.md",
        "The Lord of the Rings を見た",
        "エラー：Permission denied for user root",
        "ログ: Failed to connect to the server",
    ],
    "korean": [
        "Python을 배워요",
        "링크: https://example.com/docs/en/index.html",
        "docker compose up -d 실행하세요",
        "이메일: kim@example.com",
        "Docker, Kubernetes, Terraform 및 Ansible",
        "Visual Studio Code 열기",
        "README.md 파일",
        "git commit 하고 git push 하세요",
        "오류: Connection timed out at the gateway",
    ],
    "english": [
        "The word привет means hello.",
        "I live in 東京 now.",
        "My name is Иван.",
        "My name is Иван Петров",
        "How do you say спасибо?",
        "Привет means hello in Russian.",
        "The kanji 猫 means cat in Japanese",
        "I love 东京",
        "She said «до свидания» and left.",
        "See https://пример.рф for more details",
        "What does 你好 mean?",
        "The Korean word 사랑 means love.",
        "The 東京タワー is tall",
        "In Japanese, さようなら means goodbye",
        "What does ありがとうございます mean?",
        "The word привет: it means hello.",
        "C++",
        "f(x) < g(x) && y > 2",
        "A. B. C.",
        "USB-C",
        "This is Москва",
        "Welcome to Москва",
        "https://example.com/привет",
        "foo_bar",
        "README.md",
        "user@example.com",
        "API",
        "Run docker compose up -d",
        "Hi @marie, how are you?",
        "Please open /etc/hosts",
        "We visited Café Müller in München yesterday.",
    ],
    "german": [
        "Ich lerne das Wort привет heute",
        "Das Wort привет heißt Hallo.",
        "Ich wohne in 東京",
        "Ich mag ラーメン und борщ",
        "Plan B ist besser",
        "Führe docker compose up -d aus",
        "Siehe https://example.com/en/index.html für mehr",
        "Schick es an john.smith@example.com",
        "Ich arbeite mit Docker und Kubernetes",
        "Er sagte: «Привет!» und ging.",
        "`Hallo`",
        "[Heute](https://example.com/docs/the-best-of-english)",
        "[Guten Tag](/docs/the-best-of-english)",
    ],
    "french": [
        "Le mot привет veut dire bonjour.",
        "J'habite à 東京",
        "Lancez docker compose up -d",
        "Voir https://example.com/en/the-best-of",
        "Écris à john.smith@example.com",
        "J'utilise Docker et Kubernetes",
        "J'aime 寿司",
    ],
    "spanish": [
        "La palabra привет significa hola.",
        "Vivo en 東京 ahora",
        "Ejecuta docker compose up -d",
        "Mira https://example.com/en/the-best-of",
        "Uso Docker y Kubernetes",
        "Me gusta 寿司",
    ],
    "italian": [
        "La parola привет vuol dire ciao.",
        "Vivo a 東京 adesso",
        "Esegui docker compose up -d",
        "Guarda https://example.com/en/the-best-of",
        "Mi piace 寿司",
        "Uso Docker e Kubernetes per il lavoro",
    ],
    "portuguese": [
        "A palavra привет significa olá.",
        "Moro em 東京 agora",
        "Execute o comando docker compose up -d",
        "Veja https://example.com/en/the-best-of",
        "Uso o Docker e o Kubernetes",
        "Eu gosto de 寿司",
    ],
}


@pytest.mark.parametrize(
    ("text", "language"), [(text, name) for name, texts in MIXED.items() for text in texts]
)
def test_links_code_and_names_do_not_outvote_the_sentence_around_them(text, language):
    assert detect_language(text) == language


MIXED_TEXTS = Path(__file__).parent.parent / "data" / "mixed_texts.tsv"


def test_ordinary_mixed_texts_are_in_the_language_of_their_frame():
    rows = [line.split("\t") for line in MIXED_TEXTS.read_text("utf-8").splitlines()]
    wrong = [text for language, text in rows if detect_language(text) != language]
    assert wrong == []
    assert len(rows) > 100


SHORT_TEXTS = Path(__file__).parent.parent / "data" / "short_texts"


@pytest.mark.parametrize("language", LANGUAGES)
def test_short_texts_are_in_their_language_in_95_of_100(language):
    texts = (SHORT_TEXTS / f"{language}.txt").read_text("utf-8").splitlines()
    wrong = [text for text in texts if detect_language(text) != language]
    assert len(set(texts)) == len(texts) >= 300
    assert len(wrong) <= 0.05 * len(texts), wrong


@pytest.mark.parametrize("word", ["Neustart", "Flugmodus", "Notausgang", "Radiosender"])
def test_word_made_of_two_german_ones_is_german(word):
    assert detect_language(word) == "german"


@pytest.mark.parametrize(
    "word",
    [
        pytest.param("Surname", id="short"),
        pytest.param("Obsession", id="a first half of two letters"),
        pytest.param("Singleton", id="a second half of three"),
        pytest.param("Puppeteer", id="a rare half"),
    ],
)
def test_word_that_only_begins_or_ends_like_a_german_one_is_not(word):
    assert detect_language(word) == "english"


@pytest.mark.parametrize("word", ["Error", "Docker", "Kubernetes", "docker compose up", "GPU"])
def test_words_of_code_and_products_are_english(word):
    assert detect_language(word) == "english"


def test_names_are_in_small_letters_and_no_comment():
    assert {"docker", "error", "html"} <= names()
    assert all(name == name.lower() and name.strip("#") for name in names())


@pytest.mark.parametrize(
    ("text", "after", "language"),
    [
        ("Casa.", "portuguese", "portuguese"),
        ("Casa.", "italian", "italian"),
        ("Casa.", None, "spanish"),
        ("No.", "spanish", "spanish"),
        ("No.", None, "english"),
        ("Guten Morgen, meine Damen und Herren.", "english", "german"),
        ("東京。", "japanese", "japanese"),
        ("東京。", "russian", "chinese"),
        ("Да.", "english", "russian"),
    ],
)
def test_the_sentence_before_decides_between_languages_that_share_a_word(text, after, language):
    assert detect_language(text, after=after) == language


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("text", ["", "12:30", "…", "😊", "שלום"])
def test_the_default_language_is_for_texts_without_letters(text, language):
    assert detect_language(text, language) == language
    assert detect_language("API", language) == "english"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("- [ ] todo", "english"),
        ("- [ ] todo\n- [x] done", "english"),
        ("Buy milk:\n* [X] TODO fix", "english"),
        ("- [ ] todo\n- [ ] Comprar leche y pan", "spanish"),
        ("- [ ] Todo dia", "portuguese"),
        ("- [x] готово", "russian"),
        ("Todo bien", "spanish"),
    ],
)
def test_the_marks_of_a_task_list_do_not_count(text, language):
    assert detect_language(text) == language


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("Да.", True),
        ("OK", True),
        ("2026.", False),
        ("https://example.com/a.", False),
        ("ivan@mail.ru", False),
        ("😊!", False),
        ("<b>1</b>", False),
        ("- [ ] todo", False),
    ],
)
def test_only_words_tell_a_language(text, tells):
    assert tells_language(text) is tells


@given(st.text(alphabet="aбв字.-_/@: 1", max_size=120))
def test_the_beginning_that_tells_does_not_depend_on_the_pieces(text):
    told = [beginning_that_tells(text[:end]) for end in range(len(text) + 1)]
    found = [beginning for beginning in told if beginning is not None]
    assert set(found) <= {beginning_that_tells(text)}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    ["<a", "`", "«", '"', "(", "git ", "a@", "A of ", "a.", "&a", "[a:", "www.", "-", "ab'", "x_y"],
)
def test_a_hostile_text_ends_and_has_a_language(unit):
    # It takes 0.1 s; a pattern that backtracks would take minutes.
    text = unit * (2_000_000 // len(unit))
    assert detect_language(text) in LANGUAGES
    assert tells_language(text) in {True, False}
    beginning = beginning_that_tells(text)
    assert beginning
    assert text.startswith(beginning)


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
def test_mark_of_one_language_weighs_more_than_a_word_of_many(mark, language):
    assert detect_language(f"Doria {mark}") == language


@pytest.mark.parametrize(
    ("word", "language"), [("Xqzt", "english"), ("GPU", "english"), ("chien", "french")]
)
def test_guess_without_evidence_is_english(word, language):
    assert detect_language(word) == language


@pytest.mark.parametrize(
    "text",
    ["Goedemorgen, hoe gaat het vandaag met u?", "Hur mår du i dag, min vän?", "Dzień dobry"],
)
def test_text_in_an_eleventh_language_is_one_of_the_ten(text):
    assert detect_language(text) in LANGUAGES


def test_only_the_beginning_of_a_long_word_is_judged():
    assert detect_language("x" * 40 + "heitungschaft") == "english"
    assert detect_language("x" * 4 + "heitungschaft") == "german"


def test_foreign_name_does_not_change_the_language_of_a_sentence():
    text = "The flight from São Paulo to Düsseldorf leaves the gate at ten. El Niño is coming."
    assert detect_language(text) == "english"


@given(st.text())
def test_detection_is_total_and_deterministic(text):
    assert detect_language(text) == detect_language(text)
    assert detect_language(text) in LANGUAGES


def test_the_detector_knows_all_languages_in_latin_letters():
    assert set(LATIN_LANGUAGES) == {
        name for name, row in _TABLE.items() if row.get("function_words")
    }


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
