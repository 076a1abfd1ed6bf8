"""Markup in plain text: what is read, what stays, and that the pieces change nothing."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.text.markup import MarkupReader, SentenceReader, parse
from qwen_tts_service.text.segments import Pause, Segment, VoiceChange


def read(text, **options):
    """Texts, seconds, and pairs (speaker, text) where another speaker speaks."""
    return [
        part.duration_s
        if isinstance(part, Pause)
        else (part.speaker, part.text)
        if part.speaker
        else part.text
        for part in parse(text, **options).segments
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Раз [pause:0.5s] два", ["Раз ", 0.5, " два"]),
        ("[pause:500ms]Да", [0.5, "Да"]),
        ("Да[PAUSE: 2 S]", ["Да", 2.0]),
        ("Да[pause:1]", ["Да", 1.0]),
        ("Да[pause:0,25s]", ["Да", 0.25]),
        ("[pause:1s][pause:2s]", [3.0]),
        ("[pause:4s] \n [pause:5.5s]", [9.5]),
        ("[pause:9s] \n [pause:9s]", [10.0]),
        ("[pause:999999s]", [10.0]),
        ("[pause:10001ms]", [10.0]),
        ("[pause:9999ms]", [9.999]),
        ("[pause:1.5Ms]", [0.0015]),
        ("[pause: 1.123456 s ]", [1.123456]),
        ("а[pause:1s] б [pause:0s]в", ["а", 1.0, " б  в"]),
        ("а[pause:1s][pause:0s]", ["а", 1.0]),
        ("а[pause:0s][pause:2s]", ["а ", 2.0]),
        ("а[pause:0s]б", ["а б"]),
        ("", []),
        (" ", []),
        ("Без пауз.", ["Без пауз."]),
        # Other spellings and languages.
        ("a [pause 1s] b", ["a ", 1.0, " b"]),
        ("а[пауза:1с]б", ["а", 1.0, "б"]),
        ("а[пауза 0,5 сек.]б", ["а", 0.5, "б"]),
        ("а[Пауза: 300 мс]б", ["а", 0.3, "б"]),
        ("а[пауза: 2 секунды]б", ["а", 2.0, "б"]),
        ("a[pause = 2 seconds]b", ["a", 2.0, "b"]),
        ("a[pausa: 1,5 segundos]b", ["a", 1.5, "b"]),
        ("a[Pause: 2 Sekunden]b", ["a", 2.0, "b"]),
        ("甲[停顿1秒]乙", ["甲", 1.0, "乙"]),
        ("甲【停顿：500毫秒】乙", ["甲", 0.5, "乙"]),
        ("あ[ポーズ:2秒]い", ["あ", 2.0, "い"]),
        ("가[일시정지 1초]나", ["가", 1.0, "나"]),
    ],
)
def test_pauses_are_taken_out_of_the_text(text, parts):
    assert read(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "[pause]",
        "[pause:]",
        "[pause:-1s]",
        "[pause:1m]",
        "[pause:1.s]",
        "[pause:.5s]",
        "[pause:1 2s]",
        "[pause:1s s]",
        "[pause:1234567s]",
        "[pause:1.1234567s]",
        "[pause:٣s]",
        "[pause:inf]",
        "[pause:1e9s]",
        "pause:1s",
        "[pause:1s",
        "[pause1s]",
        "[пауза]",
        "[/pause:1s]",
        "[voice]",
        "[voice message]",
        "[voice:]",
        "[voice:" + "a" * 65 + "]",
        "[voices:ryan]",
        "[note: pause 1s]",
        "[/voice x]",
    ],
)
def test_what_is_not_exactly_a_pause_or_a_voice_stays_text(text):
    assert read(text) == [text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('<speak>Привет <break time="1s"/> мир', ["Привет ", 1.0, " мир"]),
        ("Hello<break/>world", ["Hello", 0.75, "world"]),
        ('a<break strength="strong">b', ["a", 1.0, "b"]),
        ("a<break time='250 ms' />b</break>", ["a", 0.25, "b"]),
        ("a<break time=1.5s>b", ["a", 1.5, "b"]),
        ("a<break time=“2s”/>b", ["a", 2.0, "b"]),
        ('a<break time="soon"/>b', ["a", 0.75, "b"]),
        ("Первая<br>Вторая", ["Первая\nВторая"]),
        ("Первая<BR />Вторая", ["Первая\nВторая"]),
        ("<p>One</p><p>Two</p>", ["\n\nOne\n\n\n\nTwo\n\n"]),
        ("<ul><li>a</li></ul>", ["\n\na\n\n"]),
        ("<td>a</td><td>b</td>", [" a  b "]),
        ("<b>bo</b>ld <i class='x y'>it</i>", ["bold it"]),
        ('<a href="http://x.y/?a=1>2" target=_blank>link</a>', ["link"]),
        ("<img src=a.png alt='no'/>x<input disabled>", [" x "]),
        ("a</div>b", ["a\nb"]),
        ("<!-- a > b --><!DOCTYPE html><?xml version='1.0'?>x", ["x"]),
        ("a<!-- not closed", ["a"]),
        ("Tom &amp; Jerry", ["Tom & Jerry"]),
        ("&laquo;a&raquo; &#1055;&#x43f; &nbsp;&mdash;", ["«a» Пп \u00a0—"]),
        ("&lt;b&gt; &amp;lt;", ["<b> &lt;"]),
        ("<think>hm</think>Ответ", ["Ответ"]),
        ("<THINKING>\na <b> c\n</thinking >\n\nAnswer", ["\n\nAnswer"]),
        ("Да. <think>hm", ["Да. "]),
        ("hm</think>Yes", ["hmYes"]),
        ("<think/>a", ["a"]),
        ("<style>b { c }</style>a<script src='x'>if (a<b) {}</script>", ["a"]),
        ("<answer>42</answer>", ["42"]),
        ("<iframe allowfullscreen src=x></iframe><p align=center nowrap>a", ["\n\na"]),
        ("<font color=#fff data-x=1 @click='f()' :a=b>a</font>", ["a"]),
        ("Now <time>10:30</time> <object>a", ["Now 10:30 a"]),
        ('<say-as interpret-as="date">1</say-as><prosody rate="slow">a</prosody>', ["1a"]),
        ("Привет<P>Мир", ["Привет\n\nМир"]),
        ("10<sup>2</sup>5, x<SUP class=a>12</SUP>", ["10²5, x¹²"]),
        (
            "1<sup>st</sup> 2, H<sub>2</sub>O, 5<sup>3 a 4</sup>, 6<sup/>7",
            ["1st 2, H2O, 5³ a 4, 67"],
        ),
    ],
)
def test_tags_and_entities_are_read(text, parts):
    assert read(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "a < b > c",
        "x<5",
        "I <3 you",
        "<user@example.com>",
        "<https://example.com/a?b=c>",
        "List<String>",
        "List<Object> and Map<B>",
        "vector<object>, map<int, data> and Box<time>",
        "#include <stdio.h>",
        "#include <map>",
        "if a <b and c> d",
        "a <b",
        "<-- <= <> </> </3>",
        "<name> <your-city> <Иван>",
        "AT&T, R&D; a && b; &bogus; &copy ?x=1&lang=en",
        "[x](y) [1] [ ] []",
        "<think about it>",
        "1 <a2 b>",
        "<b",
        "&am",
        "<!x>",
        "a <p, b> c",
    ],
)
def test_what_is_no_markup_stays(text):
    assert read(text) == [text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[voice:ryan]Hi", [("ryan", "Hi")]),
        ("Hi [voice: Ryan ] ho", ["Hi ", ("Ryan", " ho")]),
        ("[голос:Vivian]Да[/голос] нет", [("Vivian", "Да"), " нет"]),
        ("[声音：serena]好", [("serena", "好")]),
        ("[VOICE=Uncle Fu]a[pause:1s]b", [("Uncle Fu", "a"), 1.0, ("Uncle Fu", "b")]),
        ("[voice:a]x[voice:b]y[voice:a]z", [("a", "x"), ("b", "y"), ("a", "z")]),
        ("[voice:a]x[voice:a]y", [("a", "xy")]),
    ],
)
def test_a_voice_speaks_from_there_on(text, parts):
    assert read(text) == parts


@pytest.mark.parametrize(
    "text", ["<b>x</b> &amp; [voice:a] <think>y", "[пауза:1с]", "[pause 1s]", "<speak>a</speak>"]
)
def test_without_markup_a_text_is_untouched(text):
    assert read(text, has_markup=False) == [text]


def test_without_markup_exact_pauses_are_read():
    assert read("a [pause:1s] b", has_markup=False) == ["a ", 1.0, " b"]


PIECES = [
    "<", ">", "/", "&", ";", "[", "]", "<b>", "</b>", "<br/>", "<p", " a=", '"', "'", "x", " ", ".",
    "\n", "<think>", "</think>", "<!--", "-->", "&amp;", "&lt", "#3", "[pause", ":1s]", "[voice:",
    "r]", "<sup>", "2", "<break time=", "'1s'", "A", "Ж", "好。", "!", "<!doctype", "<?xml",
    "#include ", "停顿",
]  # fmt: skip
MARKED_TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def events_of(pieces, *, has_markup=True):
    """Events, the texts that follow each other joined."""
    reader = MarkupReader(has_markup=has_markup)
    joined = [""]
    for event in [*(e for piece in pieces for e in reader.feed(piece)), *reader.finish()]:
        if isinstance(event, str) and isinstance(joined[-1], str):
            joined[-1] += event
        else:
            joined.append(event)
    return joined


@given(MARKED_TEXTS, st.booleans(), st.integers(1, 7))
def test_the_pieces_change_nothing(text, has_markup, size):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert events_of(pieces, has_markup=has_markup) == events_of([text], has_markup=has_markup)


@given(MARKED_TEXTS, st.integers(1, 7))
def test_sentences_do_not_depend_on_the_pieces(text, size):
    def sentences(pieces):
        reader = SentenceReader(has_markup=True)
        return [*(s for piece in pieces for s in reader.feed(piece)), *reader.finish()]

    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert sentences(pieces) == sentences([text])


@given(MARKED_TEXTS)
def test_no_letter_outside_markup_is_lost_or_moved(text):
    whole = "".join(p.text for p in parse(text).segments if isinstance(p, Segment))
    reader = SentenceReader(has_markup=True)
    sentences = [*reader.feed(text), *reader.finish()]
    by_sentence = "".join(p.text for s in sentences for p in s.segments if isinstance(p, Segment))
    assert [c for c in by_sentence if c.isalnum()] == [c for c in whole if c.isalnum()]


def test_a_word_that_is_no_tag_is_passed_on_at_once():
    reader = MarkupReader(has_markup=True)
    passed = [reader.feed(piece) for piece in ("x<5 ", "a <b and c", " [1", " AT&T ", "<Strin")]
    assert passed == [["x<5 "], ["a <b and c"], [" [1"], [" AT&T "], ["<Strin"]]


def test_a_tag_is_waited_for():
    reader = MarkupReader(has_markup=True)
    assert [reader.feed(piece) for piece in ("a<b", "r/", ">b", "&am", "p;", "[voi", "ce:x]")] == [
        ["a"],
        [],
        ["\nb"],
        [],
        ["&"],
        [],
        [VoiceChange("x")],
    ]


def test_a_tag_is_not_waited_for_without_end():
    reader = MarkupReader(has_markup=True)
    assert reader.feed('<a href="' + "x" * 980) == []
    assert reader.feed("x" * 20) == ['<a href="' + "x" * 1000]


@pytest.mark.parametrize("beginning", ["It is ` open. ", "It is [open. ", "| It is open. "])
def test_the_end_of_markdown_is_not_waited_for_without_end(beginning):
    reader = SentenceReader(has_markup=True)
    assert reader.feed(beginning + "Word word word. " * 50) == []
    first, *others = reader.feed("Word word word. " * 20)
    assert 1000 <= len(first.text) < 1020
    assert {sentence.text for sentence in others} == {"Word word word. "}


def sentences_of(text):
    reader = SentenceReader(has_markup=True)
    return [list(s.segments) for s in [*reader.feed(text), *reader.finish()]]


def test_sentences_keep_their_pauses_and_voices():
    assert sentences_of("One. [pause:1s]Two <b>or. </b>[voice:x]Three[pause:2s]four. Five.") == [
        [Segment("One. "), Pause(1.0)],
        [Segment("Two or. ")],
        [Segment("Three", speaker="x"), Pause(2.0), Segment(" four. ", speaker="x")],
        [Segment("Five.", speaker="x", is_mid_line=True)],
    ]


def test_pauses_of_what_is_not_spoken_come_before_what_is():
    assert sentences_of("[pause:1s] — [voice:x][pause:2s]Yes.[pause:3s]") == [
        [Pause(3.0), Segment(" Yes.", speaker="x"), Pause(3.0)]
    ]


def test_a_tag_is_never_cut_in_two():
    assert sentences_of('One <a title="Why? Who! Me.">two</a>. Three.') == [
        [Segment("One two. ")],
        [Segment("Three.", is_mid_line=True)],
    ]


@pytest.mark.parametrize(
    "unit",
    ["<", "&", "[", "<a ", '<a x="', "<a b=c ", "[pause", "<!--", "<think>", "<b>", "&amp;",
     "[voice:a]", "x[pause:1s]", "<?xml ", "[ ", "</", "<a x='<a x=\""],
)  # fmt: skip
def test_a_hostile_text_is_read_in_linear_time(unit):
    times_s = []
    for length in (20_000, 80_000):
        started_s = time.process_time()
        parse((unit * length)[:length])
        times_s.append(time.process_time() - started_s)
    # Four times the text in quadratic time would take sixteen times as long.
    assert times_s[1] < 10 * times_s[0] + 0.1
