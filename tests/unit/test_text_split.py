"""Claims about dividing text at sentence ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.text.split import SentenceSplitter, is_speakable, split_sentences

# "|" marks where a text must be cut; the space after a sentence belongs to it.
MARKED = {
    "russian": [
        "Привет, мир! |Как дела? |Хорошо.",
        "Родился А. С. Пушкин в г. Москве. |Потом вырос.",
        "А.С. Пушкин и Л.Н. Толстой. |Два писателя.",
        "В 1799 г. в Москве, т. е. давно. |Это т.е. так.",
        "В 2020 г. Россия и в XX в. Европа. |Всё.",
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
        "Спросил: «Кто там?» и открыл. |Вошли.",
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
        "Il est 10 h. Voilà. |Oui.",
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


# One mark or one word of a table each ---------------------------------------------------


def assert_cut(marked, **limits):
    """Expect cuts at "|" and nowhere else, in the whole text and by characters."""
    parts = marked.split("|")
    text = "".join(parts)
    assert split_sentences(text, **limits) == parts
    assert by_pieces(text, **limits) == parts


@pytest.mark.parametrize("point", [*".!?…。！？｡", "...", "?!", "!!!"])
def test_each_point_ends_a_sentence(point):
    assert_cut(f"Ещё раз{point} |Потом")


@pytest.mark.parametrize("close", [*"\"'”’»“‘«)]}›", '")', " »", "\u00a0»", "\u202f»"])
def test_each_closing_mark_stays_with_its_sentence(close):
    assert_cut(f"Ещё раз.{close} |Потом")


@pytest.mark.parametrize("close", [*"”’」』】）》〉\"'", "」）"])
def test_each_closing_mark_stays_with_its_wide_point(close):
    assert_cut(f"我很好。{close}|我很好")


@pytest.mark.parametrize("mark", "“‘«([{‹「『（")
def test_opening_mark_after_a_wide_point_belongs_to_the_next_sentence(mark):
    assert_cut(f"我很好。|{mark}我很好")


@pytest.mark.parametrize("mark", [*"\"'«„“‘(—–‒‐-", "— «", "»"])
def test_sentence_goes_on_in_lower_case_behind_each_opening_mark(mark):
    assert_cut(f"Ещё раз. {mark}потом")
    assert_cut(f"Ещё раз. |{mark}Потом")


@pytest.mark.parametrize("dash", "—–‒‐-")
def test_words_after_a_dash_say_who_called(dash):
    assert_cut(f"Стой! {dash} крикнул он. |Да")
    assert_cut(f"Стой! |{dash} Крикнул он. |Да")


@pytest.mark.parametrize("mark", ",;:)]")
def test_mark_that_goes_on_forbids_a_cut_before_it(mark):
    assert_cut(f"Ещё раз. {mark} Потом. |Нет")


@pytest.mark.parametrize("mark", ".!?…。！？｡")
def test_points_apart_are_one_end(mark):
    assert_cut(f"Ещё раз. {mark} |Потом")


@pytest.mark.parametrize("mark", ",;:，、；：—–-")
def test_line_that_ends_with_a_clause_mark_goes_on(mark):
    assert_cut(f"Раз{mark}\nДва")
    assert_cut(f"Раз{mark}\n\n|Два")


@pytest.mark.parametrize(
    "marked",
    [
        pytest.param("Раз\n|Два", id="a line before a capital ends"),
        pytest.param("Раз\nдва", id="a line before a small letter goes on"),
        pytest.param("Раз\n\n|два", id="an empty line ends"),
        pytest.param("Раз. \n|Два", id="a point and a line end"),
        pytest.param("Раз\n|5 два", id="a line before a figure ends"),
        pytest.param("你好?|ぁ", id="glued hiragana"),
        pytest.param("你好?|ア", id="glued katakana"),
        pytest.param("你好!|鿿", id="glued last character"),
        pytest.param("你好!|豈", id="glued compatible character"),
        pytest.param("你好!|\ufaff", id="glued last compatible character"),
        pytest.param("你好!|𠀀", id="glued rare character"),
        pytest.param("네?그", id="glued Hangul goes on"),
        pytest.param("你好!abc", id="glued Latin goes on"),
        pytest.param("你好.|我", id="a narrow point between wide letters"),
        pytest.param("v2.我", id="a narrow point after a figure"),
        pytest.param("你好…我", id="glued dots go on"),
        pytest.param("你好?(我", id="a glued bracket goes on"),
        pytest.param("「本当？」と言った", id="a quotation goes on with to"),
        pytest.param("「本当？」って言った", id="a quotation goes on with tte"),
        pytest.param("本当？|と言った", id="without a bracket it does not"),
        pytest.param("「本当？」|彼は", id="nor before another letter"),
        pytest.param("Да! |сказал он", id="a call before a small letter ends"),
        pytest.param("«Да!» сказал он", id="a quoted call before a small letter goes on"),
        pytest.param("Да. сказал он", id="a point before a small letter goes on"),
        pytest.param("Dr.. |Smith", id="two points are no abbreviation"),
        pytest.param("г… |Москва", id="dots are no abbreviation"),
        pytest.param("Да. |5. Яблоки. |6. Груши", id="a number at a part's beginning"),
        pytest.param("12. Яблоки", id="two figures number a line"),
        pytest.param("123. |Яблоки", id="three figures do not"),
        pytest.param("Es war am 31. Oktober", id="a day"),
        pytest.param("Es war am 310. |Oktober", id="no day"),
        pytest.param("Es waren nur 3. |Oktober", id="no ordinal"),
        pytest.param("И т. д. |Потом", id="may be last: т. д."),
        pytest.param("И т.п. |Потом", id="may be last: т.п."),
        pytest.param("И Т. Д. |Потом", id="may be last: Т. Д."),
        pytest.param("До н. э. |Потом", id="may be last: н. э."),
        pytest.param("До н.э. |Потом", id="may be last: н.э."),
        pytest.param("До н. э. 5 человек", id="not before a figure"),
        pytest.param("Это я. |Потом", id="я is a word"),
        pytest.param("Это ю. Потом", id="another letter is not"),
        pytest.param("Это Ю. Потом", id="nor is a capital"),
        pytest.param("... Да. |Нет", id="points without a word end nothing"),
        pytest.param("!!! Да? ... |Нет! |Да", id="nor do they between two sentences"),
        pytest.param("Да 가. |나무", id="a letter without case is a word"),
        pytest.param("Это xmr. |Потом", id="the end of a word is no abbreviation"),
    ],
)
def test_rules_of_sentence_ends_hold_at_their_bounds(marked):
    assert_cut(marked)


ALWAYS_GO_ON = (
    "гг вв ул пер пл просп наб им проф акад доц тов гр см ср напр англ нем лат греч рус обл "
    "тел корп стр рис табл долл св оз род ред изд сост "
    "mr mrs ms dr prof st sr jr gen col capt lt sgt maj rev hon gov sen rep messrs inc ltd corp "
    "co bros vs "
    "hr fr frl bzw ggf evtl inkl exkl vgl hrsg geb gest sog "
    "mm mme mlle mgr ste cf sra srta sres dra drs ud uds vd avda gral lic ing dña sig sigg dott "
    "avv geom srs profa exmo exma"
)
GO_ON_BEFORE_NUMBERS = (
    "гл ст разд прил пп кв мин сек час руб коп тыс млн млрд трлн экз "
    "no nos nr fig figs vol ch sec art pp approx ca max min tel ext jan feb mar apr jun jul aug "
    "sep sept oct nov dec "
    "str abs bd kap abb mio mrd núm num pág págs cap env av pag pagg"
)
GO_ON_AFTER_A_DAY = "am der dem den des die das vom zum bis im ab seit und"


@pytest.mark.parametrize("word", ALWAYS_GO_ON.split())
def test_sentence_goes_on_after_an_abbreviation(word):
    assert_cut(f"Это {word}. Потом. |Нет")
    assert_cut(f"Это {word.upper()}. Потом. |Нет")


@pytest.mark.parametrize("word", GO_ON_BEFORE_NUMBERS.split())
def test_sentence_goes_on_after_an_abbreviation_only_before_a_number(word):
    assert_cut(f"Это {word}. 5 раз")
    assert_cut(f"Это {word}. |Потом")


@pytest.mark.parametrize("word", GO_ON_AFTER_A_DAY.split())
def test_german_ordinal_does_not_end_a_sentence(word):
    assert_cut(f"Es war {word} 3. Oktober. |Nein")
    assert_cut(f"{word.title()} 3. Oktober. |Nein")


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
    assert "".join(whole) == text
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


def test_finished_splitter_cuts_a_long_text_as_a_new_one():
    limits = {"min_chars": 20, "max_chars": 24}
    splitter = SentenceSplitter(**limits)
    assert [*splitter.feed("Раз два три. Слово"), *splitter.finish()] == ["Раз два три. Слово"]
    text = "Слово слово слово слово слово"
    assert [*splitter.feed(text), *splitter.finish()] == ["Слово слово слово слово ", "слово"]


@pytest.mark.parametrize(
    ("marked", "limits"),
    [
        pytest.param("Раз два. |Три.", {"min_chars": 9}, id="exactly the minimum"),
        pytest.param("Раз два. Три.", {"min_chars": 10}, id="one less than the minimum"),
        pytest.param(
            "Раз два. Три четыре. |Пять шесть. Семь.", {"min_chars": 15}, id="joined to the minimum"
        ),
        pytest.param(
            "Раз. |Слово слово слово |слово слово ",
            {"min_chars": 20, "max_chars": 22},
            id="too long: back to the last sentence below the minimum",
        ),
        pytest.param(
            "Раз. Два. |Слово слово слово",
            {"min_chars": 20, "max_chars": 22},
            id="too long: back to the last of two",
        ),
        pytest.param("а" * 400, {}, id="exactly 400"),
        pytest.param("а" * 400 + "|а", {}, id="one more than 400"),
        pytest.param("Раз два. ", {"max_chars": 9}, id="exactly the maximum"),
        pytest.param("Раз |два. ", {"max_chars": 8}, id="one more than the maximum"),
        pytest.param(
            "Первая часть фразы, вторая часть фразы, |третья часть",
            {"max_chars": 45},
            id="a clause",
        ),
        pytest.param(
            "abcdefghi, |ijk lmn opq, rst uvw", {"max_chars": 21}, id="after half: a clause"
        ),
        pytest.param("abcdefgh, ijk lmn |opqr", {"max_chars": 20}, id="at half: a space"),
        pytest.param("xx yyyyyy |" * 3 + "zz", {"max_chars": 10}, id="the last space that fits"),
        pytest.param("слово слово слово |" * 3 + "слово ", {"max_chars": 20}, id="a space"),
        pytest.param("ab |cdefghijklmnopqrstuv|wx", {"max_chars": 20}, id="an early space"),
        pytest.param("我喜欢苹果，|我也喜欢梨和葡萄", {"max_chars": 10}, id="a wide comma"),
        pytest.param("我，喜欢苹果和梨和葡|萄还有", {"max_chars": 10}, id="an early wide comma"),
        pytest.param("абвгд|абвгд|аб", {"max_chars": 5}, id="a word too long"),
        pytest.param("а\u0301а\u0301|" * 4 + "а\u0301", {"max_chars": 5}, id="marked letters"),
        pytest.param("а|\u0301|\u0301\u0301", {"max_chars": 2}, id="more marks than fit"),
    ],
)
def test_length_of_a_part_is_between_minimum_and_maximum(marked, limits):
    assert_cut(marked, **limits)


@pytest.mark.parametrize("mark", [*(f"{mark} " for mark in ",;:—–"), *"，、；："])
def test_overlong_sentence_is_cut_after_each_mark_of_a_clause(mark):
    assert_cut(f"Первая часть{mark}|вторая часть", max_chars=20)


@pytest.mark.parametrize("mark", "\u0300\u0301\u036f\u200d\ufe0f\u3099\u309a\U0001f3fb\U0001f3ff")
def test_letter_is_never_cut_from_its_mark(mark):
    assert_cut(f"аб|в{mark}г", max_chars=3)


@pytest.mark.parametrize("limits", [(0, 0), (5, 4), (-1, 4)])
def test_senseless_limits_are_refused(limits):
    with pytest.raises(ValueError, match="max_chars"):
        SentenceSplitter(min_chars=limits[0], max_chars=limits[1])


@pytest.mark.parametrize("unit", [".", ". ", " ", "\n", "а. ", '"', "« ", " »", "…", "。」", "1. "])
def test_hostile_repetition_ends_and_loses_nothing(unit):
    text = unit * (20_000 // len(unit))
    parts = split_sentences(text)
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 400


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
    assert_cut("Да. ... |Нет. !!! |Ну. |— — Вот.")
