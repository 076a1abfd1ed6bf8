"""Where rewritten words stand in the text as it was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.text.markup import MarkupReader, SentenceReader, parse
from qwen_tts_service.text.places import align, cut, find, through
from qwen_tts_service.text.segments import Segment
from qwen_tts_service.types import Stretch


def pairs(source, text, places):
    return [(text[s.start : s.end], source[s.source_start : s.source_end]) for s in places]


def of_markup(text, **kind):
    segments = [
        part
        for part in parse(text, keeps_places=True, **kind).segments
        if isinstance(part, Segment)
    ]
    return [pair for segment in segments for pair in pairs(text, segment.text, segment.places)]


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        pytest.param("за 5 %, и", "за пять процентов, и", "за=за пять=5 % процентов=5 % и=и"),
        pytest.param("pay $5.99!", "pay five dollars!", "pay=pay five=$5.99 dollars=$5.99"),
        pytest.param("обесп+ечить мир", "обеспе́чить мир", "обеспе́чить=обесп+ечить мир=мир"),
        pytest.param("**Да** нет", "Да нет", "Да=Да нет=нет"),
        pytest.param("A & B", "A and B", "A=A and=& B=B"),
        pytest.param("一二三", "一 に 三", "一=一 に=二 三=三"),
        pytest.param("nothing", "", ""),
    ],
)
def test_words_that_have_changed_come_from_what_stands_between_those_that_have_not(
    source, text, expected
):
    found = [f"{word}={was}" for word, was in pairs(source, text, align(source, text))]
    assert " ".join(found) == expected


@given(st.text(), st.text())
def test_places_are_in_order_and_within_both_texts(source, text):
    places = align(source, text)
    assert [s.start for s in places] == sorted(s.start for s in places)
    for stretch in places:
        assert 0 <= stretch.start <= stretch.end <= len(text)
        assert 0 <= stretch.source_start <= stretch.source_end <= len(source)


def test_places_go_through_a_text_to_its_source():
    tags = (Stretch(0, 4, 3, 7), Stretch(4, 5, 7, 12))  # "<b>Tom &amp;" -> "Tom &"
    words = align("Tom &", "Tom and")
    assert through(words, tags) == (Stretch(0, 3, 3, 6), Stretch(4, 7, 7, 12))


def test_a_part_of_a_stretch_that_has_stayed_is_found_exactly_and_of_a_changed_one_as_a_whole():
    places = (Stretch(0, 4, 10, 14), Stretch(4, 6, 14, 20))
    assert find(places, 1, 3) == (11, 13)
    assert find(places, 5, 6) == (14, 20)
    assert find(places, 6, 9) is None
    assert cut(places, 3, 5) == (Stretch(0, 1, 13, 14), Stretch(1, 2, 14, 20))


def test_markup_keeps_exact_places():
    text = "Tom &amp; <b>Jerry</b>[pause:1s] Hi 10<sup>2</sup><br>you [pause:0s] too"
    assert of_markup(text) == [
        ("Tom ", "Tom "),
        ("&", "&amp;"),
        ("Jerry", "Jerry"),
        (" Hi 10", " Hi 10"),
        ("²", "2"),
        ("you ", "you "),
        (" too", " too"),
    ]


def test_ssml_keeps_exact_places():
    text = (
        "\n<speak>Привет &amp;  <b>мир</b>\r\n"
        ' <sub alias="вэ вэ">WW</sub> <!-- no --> &lt;3</speak>'
    )
    assert of_markup(text, input_type="ssml") == [
        ("Привет", "Привет"),
        ("&", "&amp;"),
        ("мир", "мир"),
        ("вэ вэ", "WW"),
        ("<", "&lt;"),
        ("3", "3"),
    ]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_sentences_of_a_text_that_is_being_written_know_their_places_in_all_of_it(size):
    text = "One <i>two</i>. [pause:1s] [voice:ryan] Three &amp; four. Five"
    reader = SentenceReader(has_markup=True, keeps_places=True)
    found = [s for at in range(0, len(text), size) for s in reader.feed(text[at : at + size])]
    sentences = [
        " ".join(was for _, was in pairs(text, part.text, part.places)).replace(" ", "")
        for parsed in [*found, *reader.finish()]
        for part in parsed.segments
        if isinstance(part, Segment)
    ]
    assert sentences == ["Onetwo.", "Three&amp;four.", "Five"]


def test_a_reader_counts_what_it_has_let_go():
    reader = MarkupReader(has_markup=True, keeps_places=True)
    text = "word " * 100 + "<b>end</b>"
    for char in text:
        reader.feed(char)
    last = [s for s in reader.places if text[s.source_start : s.source_end] == "e"]
    assert [s.source_start for s in last] == [text.index("end")]
