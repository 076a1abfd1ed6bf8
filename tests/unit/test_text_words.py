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
        ("wait [pause:0.5s] now", "wait now"),
        ("2 * 3 * 4, x_1 and snake_case, #1 and - 5", "2 * 3 * 4, x_1 and snake_case, #1 and - 5"),
        ("  much \t space \r\n\r\n here ", "much space here "),
        ("**Привет**, _мир_!", "Привет, мир!"),
        ("你好，**世界**。今天", "你好，世界。今天"),
        ("cafe\u0301 \u202eright\u202c \x07bell", "café right bell"),
    ],
)
def test_a_text_is_said_without_its_marks(text, expected):
    assert said([text]) == expected


@given(st.lists(st.text(st.sampled_from("ab *_`#>\n\t😊。，.[pause:1s]-"), max_size=5)))
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
