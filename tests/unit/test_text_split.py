"""Claims about dividing text at sentence ends and finding the pauses in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.text.split import (
    MAX_PAUSE_S,
    Pause,
    SentenceSplitter,
    is_speakable,
    split_pauses,
    split_sentences,
)

# "|" marks where a text must be cut; the space after a sentence belongs to it.
MARKED = {
    "russian": [
        "Привет, мир! |Как дела? |Хорошо.",
        "Родился А. С. Пушкин в г. Москве. |Потом вырос.",
        "А.С. Пушкин и Л.Н. Толстой. |Два писателя.",
        "В 1799 г. в Москве, т. е. давно. |Это т.е. так.",
        "В 2020 г. Россия и в XX в. Европа.",
        "Яблоки и т. д. |Потом груши и т.п. |Всё.",
        "В V в. до н. э. |Потом в I в. н. э. было так.",
        "Число 3.14 и 2,5. |Далее 10.5.",
        "Сегодня 23.11.2026. |Завтра 24.11.",
        "«Пойдём!» — сказал он. |«Куда?» |— «Туда». |Они ушли.",
        "— Стой! — крикнул он. |— Куда? |Туда.",
        "Он сказал: «Да!» |Потом ушёл.",
        "Это я. |Потом мы. |5 человек пришло.",
        "см. стр. 5 и рис. 3. |Дальше гл. 2.",
        "Цена 5 тыс. руб. |Потом 5 млн. 200 тыс. рублей.",
        "Живу на ул. Ленина, д. 5, кв. 12. |Приходи.",
        "Музей им. Пушкина и проф. Иванов. |Да.",
        "И др. |Они ушли.",
        "1. Яблоки\n|2. Груши\n|3. Сливы",
        "Что?! |Не может быть... |Может.",
        "Ну... да. |Ну… нет. |Ну… |Да.",
        "Да. ... |Нет.",
        "Node.js и v1.2.3 на https://a.ru/?q=1. |Да.",
        "Раз. |[pause:0.5s] Два.",
        "Заголовок\n|Текст идёт\nдальше, и\nтак. \n\n|Конец",
        "ООО «Ромашка». |Адрес: г. Тверь.",
        "Спросил: «Кто там?» и открыл.",
    ],
    "english": [
        "Hello, world! |How are you? |Fine.",
        "Mr. Smith and Dr. Jones live in St. Louis. |They paid $3.14.",
        "He lives in the U.S. today. |It was 5 p.m. when J. K. Rowling left.",
        '"Really?" he asked. |"Yes!" |He left.',
        "“Stop!” she said. |“Why?” |I left.",
        "No. 5 is it. |No. |I will not.",
        "See fig. 3, vol. 2, Jan. 5. |Then stop.",
        "Apple Inc. makes e.g. phones vs. pears. |Good.",
        "hello! |how are you? |fine",
        "It costs 5. |Then 6.",
        "Wait... what? |Wait... |What?",
        "(It is true.) |Is it?",
    ],
    "german": [
        "Am 3. Oktober um 10 Uhr, z. B. in Berlin bzw. Bonn. |Es war 1990. |Ja.",
        "„Ja.“ |Er ging. |»Nein.« |»Doch.«",
        "Der 2. Weltkrieg, d. h. Krieg. |Hr. Müller kam.",
        "Nr. 5, Abb. 3. |Das Haus steht.",
    ],
    "french": [
        "« Oui ! » dit-il. |« Non. » |Il part.",
        "M. Dupont et Mme. Curie arrivent. |Ça va ? |Oui.",
        "Il est 10 h. Voilà.",
    ],
    "spanish": [
        "¿Qué tal? |¡Hola! |¿y tú? |El Sr. García vino.",
        "La Sra. Pérez y el Dr. Ruiz. |Pág. 5. |Ya está.",
        "Ud. sabe. |¡Claro!",
    ],
    "italian": ["Il Sig. Rossi e il dott. Bianchi. |Ciao! |Pag. 5.", "Perché? |Così. |È vero."],
    "portuguese": ["O Sr. Silva e a Dra. Maria. |Olá! |Tudo bem?", "São 3,14. |É isso."],
    "chinese": [
        "你好！|我是小明。|今天是3.14元？|好……我不知道。",
        "“你好。”|他说。|“再见！”|他走了。",
        "他说。|“好。”",
        "你好?|我很好!|是吗",
        "真的吗？！|是的。",
        "（完。）|好。",
    ],
    "japanese": [
        "「本当？」と彼は言った。|「はい。」|次です。",
        "3.14です。|３．１４です。|そうです！|はい",
        "『行くよ。』|さようなら。",
    ],
    "korean": [
        "안녕하세요. |저는 민수입니다. |3.14입니다. |좋아요!",
        "“네.” |그는 말했다. |왜? |그냥.",
    ],
}
CASES = [(text, language) for language, texts in MARKED.items() for text in texts]


def by_pieces(pieces, **limits):
    splitter = SentenceSplitter(**limits)
    parts = [part for piece in pieces for part in splitter.feed(piece)]
    return parts + splitter.finish()


@pytest.mark.parametrize(("marked", "language"), CASES)
def test_text_is_cut_at_sentence_ends_and_nowhere_else(marked, language):
    assert split_sentences(marked.replace("|", "")) == marked.split("|")


@pytest.mark.parametrize(("marked", "language"), CASES)
def test_text_that_comes_by_characters_is_cut_alike(marked, language):
    assert by_pieces(marked.replace("|", "")) == marked.split("|")


FRAGMENTS = st.sampled_from(
    [
        *" \n.!?…。！？,;:-—«»“”„\"'()「」とっaBяЯ5中ね가\u0301",
        "т. е. ",
        "Dr. ",
        "3. ",
        "am ",
        "\n\n",
        " »",
    ]
)
TEXTS = st.text(max_size=80) | st.lists(FRAGMENTS, max_size=80).map("".join)
LIMITS = st.tuples(st.integers(0, 30), st.integers(1, 30)).map(
    lambda pair: {"min_chars": min(pair), "max_chars": max(pair)}
)


@given(TEXTS, LIMITS)
def test_no_character_is_lost_and_no_part_too_long(text, limits):
    parts = split_sentences(text, **limits)
    assert "".join(parts) == text
    assert all(0 < len(part) <= limits["max_chars"] for part in parts)


@given(TEXTS, LIMITS, st.data())
def test_parts_do_not_depend_on_the_pieces(text, limits, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = split_sentences(text, **limits)
    assert by_pieces(pieces, **limits) == whole
    assert by_pieces(text, **limits) == whole


def test_sentence_is_given_out_once_the_next_one_begins():
    splitter = SentenceSplitter()
    assert splitter.feed("Привет, мир! ") == []
    assert splitter.feed("К") == ["Привет, мир! "]
    assert splitter.feed("ак дела?") == []
    assert splitter.finish() == ["Как дела?"]


def test_finished_splitter_is_as_new():
    splitter = SentenceSplitter()
    for _ in range(2):
        assert [*splitter.feed("Да. Нет"), *splitter.finish()] == ["Да. ", "Нет"]
    assert splitter.finish() == []


def test_short_sentences_are_joined_up_to_the_minimum():
    text = "Раз два. Три четыре. Пять шесть. Семь."
    assert split_sentences(text, min_chars=15) == ["Раз два. Три четыре. ", "Пять шесть. Семь."]


def test_part_too_long_goes_back_to_the_last_sentence_below_the_minimum():
    text = "Раз. С" + "лово слово " * 5
    assert split_sentences(text, min_chars=20, max_chars=24)[0] == "Раз. "


def test_overlong_sentence_is_cut_after_a_clause():
    text = "Первая часть фразы, вторая часть фразы, третья часть"
    parts = split_sentences(text, max_chars=45)
    assert parts == ["Первая часть фразы, вторая часть фразы, ", "третья часть"]


def test_overlong_clause_is_cut_at_a_space():
    parts = split_sentences("слово " * 10, max_chars=20)
    assert all(part.endswith(" ") for part in parts)


def test_overlong_word_is_cut_but_never_between_a_letter_and_its_mark():
    parts = split_sentences("а\u0301" * 10, max_chars=5)
    assert all(not part.startswith("\u0301") for part in parts)
    assert "".join(parts) == "а\u0301" * 10


def test_chinese_is_cut_after_a_wide_comma():
    assert split_sentences("我喜欢苹果，我也喜欢梨和葡萄", max_chars=10)[0] == "我喜欢苹果，"


@pytest.mark.parametrize("limits", [(0, 0), (5, 4), (-1, 4)])
def test_senseless_limits_are_refused(limits):
    with pytest.raises(ValueError, match="max_chars"):
        SentenceSplitter(min_chars=limits[0], max_chars=limits[1])


@pytest.mark.parametrize("unit", [".", ". ", " ", "\n", "а. ", '"', "« ", " »", "…", "。」", "1. "])
def test_hostile_repetition_ends_and_loses_nothing(unit):
    text = unit * (20_000 // len(unit))
    assert "".join(split_sentences(text)) == text


def test_work_grows_with_the_text_and_not_with_its_square():
    class Counted(SentenceSplitter):
        calls = 0

        def _find_end(self, start):
            type(self).calls += 1
            return super()._find_end(start)

    splitter = Counted()
    text = "Это предложение. " * 500
    parts = [part for char in text for part in splitter.feed(char)]
    assert len(parts) == 499
    assert len(splitter._text) < 20
    assert Counted.calls <= len(text) + len(parts)


@pytest.mark.parametrize(
    ("part", "speakable"), [("Да", True), ("5", True), ("中", True), ("... ", False), ("", False)]
)
def test_mere_punctuation_is_not_speakable(part, speakable):
    assert is_speakable(part) == speakable


def test_punctuation_between_sentences_is_no_part_of_its_own():
    parts = split_sentences("Да. ... Нет. !!! Ну. — — Вот.")
    assert all(is_speakable(part) for part in parts)


# Pauses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Раз [pause:0.5s] два", ["Раз ", Pause(0.5), " два"]),
        ("[pause:500ms]Да", [Pause(0.5), "Да"]),
        ("Да[PAUSE: 2 S]", ["Да", Pause(2.0)]),
        ("Да[pause:1]", ["Да", Pause(1.0)]),
        ("Да[pause:0,25s]", ["Да", Pause(0.25)]),
        ("[pause:1s][pause:2s]", [Pause(3.0)]),
        ("[pause:9s] \n [pause:9s]", [Pause(MAX_PAUSE_S)]),
        ("[pause:999999s]", [Pause(MAX_PAUSE_S)]),
        ("а[pause:0s]б", ["а", "б"]),
        ("", []),
        (" ", []),
        ("Без пауз.", ["Без пауз."]),
    ],
)
def test_pauses_are_taken_out_of_the_text(text, parts):
    assert split_pauses(text) == parts


@pytest.mark.parametrize(
    "text",
    ["[pause]", "[pause:]", "[pause:-1s]", "[pause:1m]", "[pause:inf]", "[pause:1e9s]", "pause:1s"],
)
def test_what_is_not_exactly_a_pause_stays_text(text):
    assert split_pauses(text) == [text]


def test_pause_is_never_cut_in_two():
    text = "Слово. [pause:0.5s] Слово, слово. [pause:1,5s] " * 5
    parts = split_sentences(text, max_chars=40)
    pauses = [part for part in parts for item in split_pauses(part) if isinstance(item, Pause)]
    assert len(pauses) == 10


@given(st.text() | st.lists(st.sampled_from(["[pause:", "1s]", "9", "]", "a", " "])).map("".join))
def test_pauses_are_total_and_capped(text):
    for part in split_pauses(text):
        assert part.strip() if isinstance(part, str) else 0 < part.duration_s <= MAX_PAUSE_S
