"""Lexicon: whole words, case, the longest entry, streams that equal the whole, files, time."""

import random

import pytest

from qwen_tts_service.text.lexicon import (
    Lexicon,
    LexiconError,
    LexiconStream,
    check_entry,
    lexicon_of,
    parse_lexicon,
)

ENTRIES = {
    "GPU": "джи пи ю",
    "GPU cluster": "кластер",
    "c++": "си плюс плюс",
    "C#": "си шарп",
    ".NET": "дот нет",
    "москва": "масква",
    "Иван Петров": "Ваня",
    "Нижний": "нижний-",
    "sql": "сиквел",
    "SQL": "эс кью эль",
    "重庆": "chóngqìng",
    "東京": "とうきょう",
    "서울": "seo-ul",
    "straße": "Weg",
    "don't": "do not",
    "L’Oréal": "лореаль",
    "24/7": "круглосуточно",
    "5G": "пять джи",
    "🙂": "смайлик",
    "кафе": "кофейня",
    "café": "bistro",
    "обеспечение": "X",
    "us": "GPU",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Whole words only; marks of markdown and punctuation do not hinder.
        ("GPU", "джи пи ю"),
        ("GPUs GPU2 2GPU eGPU GPUшка", "GPUs GPU2 2GPU eGPU GPUшка"),
        ("«GPU», (GPU)! GPU-шка", "«джи пи ю», (джи пи ю)! джи пи ю-шка"),
        ("**GPU** _GPU_ ~~GPU~~ `GPU`", "**джи пи ю** _джи пи ю_ ~~джи пи ю~~ `джи пи ю`"),
        ("[GPU](https://a.com/GPU/x) ok", "[джи пи ю](https://a.com/GPU/x) ok"),
        ("[GPU](/GPU) [GPU](#GPU)", "[джи пи ю](/GPU) [джи пи ю](#GPU)"),
        ("https://a.com/GPU www.GPU.com GPU", "https://a.com/GPU www.GPU.com джи пи ю"),
        ("GPU@mail.com, i.GPU@mail.com", "GPU@mail.com, i.GPU@mail.com"),
        ("链接：https://a.com/GPU。GPU", "链接：https://a.com/GPU。джи пи ю"),
        ("don't, don’t L'Oréal L’Oréal", "do not, do not лореаль лореаль"),
        # Case: one upper-case letter in the entry and it matches as it is written.
        ("gpu Gpu", "gpu Gpu"),
        ("москва Москва МОСКВА", "масква масква масква"),
        ("SQL sql Sql", "эс кью эль сиквел сиквел"),
        ("Нижний нижний", "нижний- нижний"),
        ("STRASSE Straße", "Weg Weg"),
        # Stress and composition.
        ("Москва́ моск\u00adва", "масква масква"),
        ("обесп+ечение", "X"),
        ("cafe\u0301 café cafe", "bistro bistro cafe"),
        ("кафе́ кафе", "кофейня кофейня"),
        # Marks and digits in entries.
        ("C++, c++. C#!", "си плюс плюс, си плюс плюс. си шарп!"),
        ("c++11 xC++", "c++11 xC++"),
        ("на .NET и ASP.NET", "на дот нет и ASP.NET"),
        ("24/7, 124/7, 24/75, 5G", "круглосуточно, 124/7, 24/75, пять джи"),
        ("Don't, don't!", "do not, do not!"),
        ("Да 🙂! Да🙂", "Да смайлик! Да🙂"),
        # Several words; the longest wins; space is space, but a paragraph ends a phrase.
        ("GPU cluster, GPU clusters", "кластер, джи пи ю clusters"),
        ("GPU\u00a0cluster GPU\ncluster GPU  cluster", "кластер кластер кластер"),
        ("GPU\n\ncluster", "джи пи ю\n\ncluster"),
        ("Иван Петров и Иван", "Ваня и Иван"),
        # Chinese, Japanese, Korean: anywhere, and not in the way of their neighbours.
        ("我在重庆用GPU计算", "我在chóngqìng用джи пи ю计算"),
        ("東京都へ GPUを使う", "とうきょう都へ джи пи юを使う"),
        ("서울은 GPU는", "seo-ul은 джи пи ю는"),
        # Not looked up again.
        ("us", "GPU"),
        # Nothing to replace: the text is as it was.
        ("  Раз\t\r\n два e\u0301 \u200b ", "  Раз\t\r\n два e\u0301 \u200b "),
        ("", ""),
    ],
)
def test_whole_words_are_replaced(text: str, expected: str) -> None:
    assert lexicon_of(ENTRIES).apply(text) == expected


def test_the_first_lexicon_wins_only_where_the_words_are_equally_long() -> None:
    own, other = lexicon_of({"gpu": "own", "a": "own"}), lexicon_of({"GPU": "other", "GPU x": "y"})
    assert own.over(other).apply("GPU a. GPU x.") == "own own. y."
    assert other.over(own).apply("GPU a.") == "other own."
    assert own.over(Lexicon()).apply("gpu") == Lexicon().over(own).apply("gpu") == "own"


ATOMS = [
    *(
        " ",
        " ",
        " ",
        "\n",
        "\n\n",
        "\u00a0",
        ".",
        ",",
        "+",
        "a",
        "а",
        "11",
        "。",
        "，",
        "*",
        "_",
        "(",
    ),
    *(
        "GPU",
        "GPU cluster",
        "cluster",
        "c++",
        "C",
        "重",
        "庆",
        "東京",
        ".NET",
        "москва́",
        "sql",
        "🙂",
    ),
    *(
        "Иван",
        "Петров",
        "don",
        "'",
        "t",
        "https://a/GPU",
        "](/GPU",
        "@",
        "e\u0301",
        "\u0301",
        "/",
        "7",
    ),
]


def test_a_text_in_pieces_comes_out_as_the_whole() -> None:
    lexicon, dice = lexicon_of(ENTRIES), random.Random(7)
    for _ in range(2000):
        text = "".join(dice.choices(ATOMS, k=dice.randint(1, 14)))
        stream, at, out = LexiconStream(lexicon), 0, ""
        while at < len(text):
            size = dice.randint(1, 5)
            out += stream.feed(text[at : at + size])
            at += size
        assert out + stream.finish() == lexicon.apply(text), text


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("My GPU ", "My "),  # may be "GPU cluster"
        ("My GPU, ", "My джи пи ю, "),
        ("My GPU cluster ", "My кластер "),
        ("My sql ", "My сиквел "),
        ("An unknown wo", "An unknown "),
        ("我在重庆用", "我在chóngqìng"),
        ("重庆。", "chóngqìng。"),
    ],
)
def test_no_more_is_held_back_than_a_word_and_the_beginning_of_an_entry(
    text: str, known: str
) -> None:
    stream = LexiconStream(lexicon_of(ENTRIES))
    assert "".join(map(stream.feed, text)) == known


@pytest.fixture(scope="module")
def large_lexicon() -> Lexicon:
    entries = {f"word{i} number x{i}": "r" for i in range(5000)}
    entries |= {f"Слово{i}": "r" for i in range(5000)} | {"." * 63 + "b": "r", "重" * 63 + "b": "r"}
    return lexicon_of(entries)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word77 number and Слово5. ", id="entries"),
        pytest.param("word77 ", id="beginnings"),
        pytest.param("a", id="one-word"),
        pytest.param(".", id="marks"),
        pytest.param("а+", id="stress"),
        pytest.param("](/www.", id="addresses"),
        pytest.param("a@", id="mail"),
        pytest.param("重", id="wide"),
        pytest.param("\u0301", id="combining"),
    ],
)
@pytest.mark.timeout(20)  # it takes a second; with the square of the text it would be a minute
def test_time_grows_with_the_text_only(large_lexicon: Lexicon, text: str) -> None:
    text = (text * 200_000)[:200_000]
    assert large_lexicon.apply(text + "\nword7 number x7!").endswith("\nr!")


@pytest.mark.parametrize(
    ("word", "reading", "why"),
    [
        ("", "x", "the word is empty"),
        (" \t", "x", "the word is empty"),
        ("x", " ", "the reading is empty"),
        ("x" * 65, "x", "the word has 65 characters; at most 64"),
        ("x", "y" * 201, "the reading has 201 characters; at most 200"),
        ("x", 5, "word and reading must be strings"),
    ],
)
def test_a_wrong_entry_is_an_error_with_the_reason(word: str, reading: object, why: str) -> None:
    with pytest.raises(LexiconError, match=why):
        check_entry(word, reading)
    check_entry("x" * 64, "y" * 200)


def test_a_file_has_entries_for_all_languages_and_for_one() -> None:
    file = "\ufeff# ours\nGPU\tgraphics card\r\n\n#GPU\tx\nC# \t see sharp \n[ru]\nGPU\tджи пи ю\n"
    lexicons = parse_lexicon(file.encode())
    assert lexicons.of("english").apply("GPU C#") == "graphics card see sharp"
    assert lexicons.of("russian").apply("GPU C#") == "джи пи ю see sharp"
    assert parse_lexicon(b"").of("english").apply("GPU") == "GPU"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"a\tb\nGPU", "line 2: a word, a tab and its reading are expected"),
        (b"\tb", "line 1: the word is empty"),
        (b"\na\t \n", "line 2: the reading is empty"),
        (b"a\tb\n" + b"x" * 65 + b"\tb", "line 2: the word has 65 characters"),
        (b"a\tb\n# c\na\tc", "line 3: the word is already in the lexicon"),
        (b"[klingon]", "line 1: the language of a section is not one of chinese, "),
        (b"[auto]", "line 1: a section needs the name of a language"),
        ("a\tb\nб\tв".encode("cp1251"), "line 2: this is not UTF-8"),
    ],
)
def test_a_file_that_is_wrong_names_the_line_and_no_words(data: bytes, why: str) -> None:
    with pytest.raises(LexiconError) as caught:
        parse_lexicon(data)
    assert str(caught.value).startswith(why)
    assert "GPU" not in str(caught.value)
