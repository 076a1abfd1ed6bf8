"""Ids of a text that is still being written are those of the whole text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.conftest import DATA

from qwen_tts_service.model.config import load_config
from qwen_tts_service.model.tokenizer import Tokenizer
from qwen_tts_service.qwen.open_text import OpenTokenizer

TEXTS = [
    "Hello, world! The world's one two three.",
    "Привет, мир! Это проверка: 3,14 и «кавычки» — да…",
    "你好，世界！今天天气很好。",
    "one \n\n two\r\n \n  three \t four!\n\n five",
    "don't WE'LL they're 'lx 's",
    "cafe\u0301, e\u0301! e\u0316\u0301.",  # a mark before punctuation, which it would join
    "cafe\u0301 e\u0316\u0301 q\u0323\u0301 \u1100\u1161\u11a8 가",
    "a<|im_end|>b <tts_pad> ```code``` 😀👍🏽 !!??",
]
# Letters, marks, digits and all kinds of space that the rules of cutting look at.
characters = st.sampled_from("abstl'’ \n\r\t\u00a0.,!?1е\u0301\u0316你가😀<|>")


@pytest.fixture(scope="module", params=["qwen2", "mistral"])
def tokenizer(request) -> Tokenizer:
    directory = DATA / "tiny_1b7"
    return Tokenizer(directory, load_config(directory), request.param)


def ids_of(tokenizer, pieces):
    growing = OpenTokenizer(tokenizer)
    return [token for piece in pieces for token in growing.feed(piece)] + growing.finish()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_ids_are_those_of_the_whole_text(tokenizer, text, size):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert tokenizer.wrap(ids_of(tokenizer, pieces)) == tokenizer.encode(text.strip())


@given(st.lists(st.text(characters, max_size=6), max_size=12))
def test_the_ids_do_not_depend_on_the_pieces(tokenizer, pieces):
    text = "".join(pieces)
    assert tokenizer.wrap(ids_of(tokenizer, pieces)) == tokenizer.encode(text.strip())


def test_a_word_is_given_out_once_there_is_something_behind_it(tokenizer):
    growing = OpenTokenizer(tokenizer)
    assert growing.feed("Hello") == []
    assert tokenizer.decode(growing.feed(" ")) == "Hello"
    assert growing.feed("wor") == []
    assert tokenizer.decode(growing.feed("ld, y")) == " world,"
    assert tokenizer.decode(growing.finish()) == " y"


def test_most_of_a_text_is_given_out_before_its_end(tokenizer):
    growing = OpenTokenizer(tokenizer)
    for word in ("one ", "two ", "three ", "four "):
        assert growing.feed(word)
    assert growing.finish() == []


def test_texts_are_cut_at_every_position_alike(tokenizer):
    text = TEXTS[3]
    whole = ids_of(tokenizer, [text])
    for cut in pairwise([0, *range(3, len(text)), len(text)]):
        assert ids_of(tokenizer, [text[: cut[1]], text[cut[1] :]]) == whole
