"""Words of a text that is still being written lose what nobody says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.text.words import WordNormaliser


def said(pieces, language="english"):
    words = WordNormaliser(language)
    return "".join([*map(words.feed, pieces), words.finish()])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words, and a point.", "plain words, and a point."),
        ("**Bold** and *two words* and `code`, ~~gone~~.", "Bold and two words and code, gone."),
        ("# Title\n\n* one\n> two\n---\nthree", "Title\none\ntwo\nthree"),
        ("```python\nprint\n```\nend", "print\nend"),
        ("Hi 😊 there 👍🏽!", "Hi there !"),
        ("2 * 3 * 4, x_1 and snake_case, #1 and - 5", "2 * 3 * 4, x_1 and snake_case, #1 and - 5"),
        ("  much \t space \r\n\r\n here ", "much space here "),
        ("**Привет**, _мир_!", "Привет, мир!"),
        ("你好，**世界**。今天", "你好，世界。今天"),
        ("***a*** ___b___ __c__ _d_ ~~e~~ `f`", "a b c d e f"),
        ("**\"a\"** *'b'* _«c»_ ~~“d”~~ `(e)` __‘f’__", "\"a\" 'b' «c» “d” (e) ‘f’"),
        ("**„a“** _»b«_ **„c.“**", "„a“ »b« „c.“"),
        ("**a.** *b,* _c!_ ~~d?~~", "a. b, c! d?"),
        ("**a**. *b*, _c_! ~~d~~? `e`: **f**; *g*… (_h_)", "a. b, c! d? e: f; g… (_h)"),
        ("**你好**。*世界*！", "你好。世界！"),
        ("a**b**c and x* of *two words*", "a**b**c and x of two words"),
        ("** a ** and ** b", "** a ** and ** b"),
        ("# a\n## b\n###### c\n####### d", "a\nb\nc\n####### d"),
        ("* a\n• b\n> c\n- d\n-- e\n--- f", "a\nb\nc\n- d\n-- e\nf"),
        ("---\na\n***\nb\n*****\nc", "a\nb\nc"),
        ("~~~py\na\n~~~\nb", "a\nb"),
        ("a # b * c • d > e", "a # b * c • d > e"),
        ("a\n\n\nb \n c\t\td\u3000e", "a\nb c d e"),
        ("# \n* x", "x"),
        ("**a**b and `c`d", "a**b and c`d"),
        ("~~two words~~\n`two words`\n__two words__", "two words\ntwo words\ntwo words"),
        ("ab [a](http://b)", "ab a"),
        ("cafe\u0301 \u202eright\u202c \x07bell", "café right bell"),
    ],
)
def test_a_text_is_said_without_its_marks(text, expected):
    assert said([text]) == expected


@given(st.lists(st.text(st.sampled_from("ab *_`#>\n\t😊。，.[]-"), max_size=5)))
def test_what_is_said_does_not_depend_on_the_pieces(pieces):
    assert said(pieces) == said(["".join(pieces)])


def test_a_word_comes_out_with_the_space_behind_it():
    words = WordNormaliser("english")
    assert [words.feed(piece) for piece in ("one", " ", "two ", " three")] == [
        "",
        "one ",
        "two ",
        "",
    ]
    assert words.finish() == "three"


def test_wide_punctuation_ends_a_word_without_a_space():
    words = WordNormaliser("chinese")
    assert words.feed("你好，世界") == "你好，"


@pytest.mark.parametrize("mark", "。！？、，；：…）」』】")
def test_each_wide_mark_ends_a_word_without_a_space(mark):
    assert WordNormaliser("chinese").feed(f"世界{mark}我") == f"世界{mark}"
    assert said([f"**世界**{mark}我"], "chinese") == f"世界{mark}我"


@pytest.mark.parametrize("language", ["english", "russian"])
def test_no_figure_is_read_out_while_a_text_is_written(language):
    assert said(["5 руб."], language) == "5 руб."


def test_finished_normaliser_has_nothing_left():
    words = WordNormaliser("english")
    assert words.feed("one") + words.finish() == "one"
    assert words.finish() == ""
