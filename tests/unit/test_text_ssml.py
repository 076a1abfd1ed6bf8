"""SSML: what each tag becomes, and what is refused."""

import sys
import time
from pathlib import Path

import pytest

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.text.markup import parse
from qwen_tts_service.text.say_as import written
from qwen_tts_service.text.segments import Pause, SayAs, Segment
from qwen_tts_service.text.ssml import could_be_ssml, is_ssml


def read(body, attributes=""):
    return parse(f"<speak{attributes}>{body}</speak>", "ssml")


def parts(body):
    """Texts and seconds."""
    segments = read(body).segments
    return [p.duration_s if isinstance(p, Pause) else p.text for p in segments]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Hi", ["Hi"]),
        ("a\n   b", ["a b"]),
        ("a<break/>b", ["a", 0.75, "b"]),
        ('a<break time="500ms"/>b', ["a", 0.5, "b"]),
        ('a<break time=" +1.5 s "/>b', ["a", 1.5, "b"]),
        ('a<break time=".5s"></break>b', ["a", 0.5, "b"]),
        ('a<break time="60s"/>b', ["a", 10.0, "b"]),
        ('a<break strength="weak"/>b', ["a", 0.5, "b"]),
        ('a <break strength="none"/>b', ["a  b"]),
        ('a<break time="1s"/> <break time="2s"/>b', ["a", 3.0, "b"]),
        ("<p>a</p><p>b</p>", ["\n\na\n\n\n\nb\n\n"]),
        ("<s>a</s><s>b</s>", ["\na\n\nb\n"]),
        ('<sub alias="World">W</sub>', ["World"]),
        ("<sub>W</sub>", ["W"]),
        ("<emphasis level='strong'>a</emphasis>b", ["ab"]),
        ("a<mark name='x'/>b", ["ab"]),
        ("<metadata>no</metadata><desc>no</desc>a", ["a"]),
        ("<audio src='x'>text<desc>no</desc></audio>", ["text"]),
        ("<phoneme alphabet='ipa' ph='x'>word</phoneme>", ["word"]),
        ("a<phoneme alphabet='x-espeak' ph='x'>word</phoneme>", ["a", "word"]),
        ("<mstts:express-as style='x'>a</mstts:express-as>", ["a"]),
        ("<a:break time='1s'/>b", [1.0, "b"]),
        ("Tom &amp; Jerry &#1055; &lt;b&gt;", ["Tom & Jerry П <b>"]),
        ("<![CDATA[a < b]]>", ["a < b"]),
        ("a<!-- no --><?no pi?>b", ["ab"]),
        ("<unknown>a <b>c</b></unknown>", ["a c"]),
        ("[pause:1s]", ["[pause:1s]"]),
    ],
)
def test_a_tag_becomes(body, expected):
    assert parts(body) == expected


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("slow", 0.75),
        ("x-fast", 1.5),
        ("medium", 1.0),
        ("80%", 0.8),
        ("+10%", 1.1),
        ("-25%", 0.75),
        ("1.2", 1.2),
        ("1000%", 2.0),
        ("0.1", 0.5),
    ],
)
def test_the_rate_is_a_factor(rate, expected):
    (segment,) = read(f'<prosody rate="{rate}">a</prosody>').segments
    assert segment.rate == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pitch", "expected"),
    [
        ("x-low", 0.55),
        ("LOW", 0.8),
        ("medium", 1),
        ("high", 1.2),
        ("x-high", 1.45),
        ("+10%", 1.1),
        ("-25 %", 0.75),
        ("+12st", 2),
        ("-6st", 2**-0.5),
        ("-0.5st", 2 ** (-0.5 / 12)),
    ],
)
def test_the_pitch_is_a_factor(pitch, expected):
    (segment,) = read(f'<prosody pitch="{pitch}">a</prosody>').segments
    assert (segment.pitch, segment.rate) == (pytest.approx(expected), 1)


def test_pitches_inside_each_other_multiply_up_to_an_octave():
    parsed = read(
        '<prosody pitch="high">a<prosody pitch="x-high" rate="slow">b</prosody></prosody>'
    )
    outer, inner = parsed.segments
    assert (outer.pitch, inner.pitch, inner.rate) == (1.2, pytest.approx(1.74), 0.75)
    (segment,) = read('<prosody pitch="+13st">a</prosody>').segments
    assert segment.pitch == 2


def test_rates_inside_each_other_multiply():
    outer, inner, _ = read(
        '<prosody rate="0.8">a<prosody rate="1.5">b</prosody>c</prosody>'
    ).segments
    assert (outer.rate, inner.rate) == (0.8, pytest.approx(1.2))


def test_voices_and_languages_hold_for_what_is_inside():
    parsed = read(
        'a<voice name="ryan" xml:lang="de-DE">b<lang xml:lang="fr">c</lang></voice>'
        '<p xml:lang="ru">d</p>e',
        ' version="1.0" xmlns="http://www.w3.org/2001/10/synthesis" xml:lang="en-US"',
    )
    assert parsed.language == "english"
    assert parsed.segments == (
        Segment("a"),
        Segment("b", "ryan", "german"),
        Segment("c", "ryan", "french"),
        Segment("\n\nd", None, "russian"),
        Segment("\n\ne"),
    )


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("<unknown>a</unknown>", "unknown"),
        ("<mstts:silence/>a", "mstts:silence"),
        ("<prosody pitch='+10Hz'>a</prosody>", "pitch in Hz"),
        ("<prosody pitch='-60%'>a</prosody>", "pitch"),
        ("<prosody contour='(0%,+2st)'>a</prosody>", "contour"),
        ("<prosody rate='300%'>a</prosody>", "rate"),
        ("<voice gender='female'>a</voice>", "gender"),
        ("<say-as interpret-as='bleep'>a</say-as>", "bleep"),
        ("<phoneme ph='x'>a</phoneme>", "phoneme"),
        ("<phoneme alphabet='x-espeak' ph='a]] [[b'>a</phoneme>", "phoneme"),
        ("<phoneme alphabet='x-espeak' ph='é'>a</phoneme>", "phoneme"),
        ("<phoneme alphabet='x-espeak'>a</phoneme>", "phoneme"),
        ("<audio src='x'>a</audio>", "audio"),
        ("<sub>a</sub>", "sub"),
        ("<break time='11s'/>a", "10 s"),
    ],
)
def test_what_is_not_applied_is_reported(body, word):
    (warning,) = read(body).warnings
    assert word in warning


def test_phonemes_are_those_of_the_tag():
    word, rest = read("<phoneme alphabet='x-espeak' ph=\"h@l'oU\">a</phoneme>b").segments
    assert (word.phonemes, rest.phonemes) == ("h@l'oU", None)


def test_known_tags_give_no_warning():
    assert not read("<p><s>a<break/></s></p><sub alias='b'>c</sub><mark name='d'/>").warnings
    assert not read("<lang xml:lang='fr'>a</lang>").warnings


def test_nothing_stands_between_two_tags():
    tag = "<say-as interpret-as='date'>1.2</say-as>"
    assert [part.text for part in read(tag + tag).segments] == ["1.2", "1.2"]


def test_warnings_are_few_and_short():
    many = "".join(f"<x{number}{'x' * 100}/>" for number in range(100))
    warnings = read(many + "a").warnings
    assert len(warnings) == 9
    assert max(map(len, warnings)) < 100


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("<speak>\na</speak", 2, 2, "unclosed token"),
        ("<speak>\n <b>a</speak>", 2, 8, "mismatched tag"),
        ("\n\n<speak>a & b</speak>", 3, 11, "invalid token"),
        ("<speak>&nbsp;</speak>", 1, 8, "undefined entity"),
        ("<speak>a</speak>b", 1, 17, "junk"),
        ("hello", 1, 1, "begin with <speak>"),
        ("<html>a</html>", 1, 1, "html"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><speak>&a;</speak>', 1, 13, "document type"),
        ('<!DOCTYPE speak SYSTEM "file:///etc/passwd"><speak/>', 1, 44, "document type"),
        ("<speak>" + "<p>" * 60 + "</speak>", 1, 155, "more than 50"),
        ("<speak>\ud800&</speak>", 1, 10, "invalid token"),
        ("<speak>Привет & мир</speak>", 1, 16, "invalid token"),
    ],
)
def test_malformed_ssml_is_refused_with_line_and_column(text, line, column, words):
    with pytest.raises(InvalidRequest) as caught:
        parse(text, "ssml")
    assert caught.value.param == "text"
    assert f"line {line}, column {column}: " in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<break time='soon'/>", ("break time", "'soon'", "500ms")),
        ("<break strength='huge'/>", ("strength", "'huge'", "x-weak")),
        ("<prosody rate='warp'>a</prosody>", ("rate", "'warp'", "x-slow")),
        ("<prosody pitch='80%'>a</prosody>", ("pitch", "'80%'", "x-low")),
        ("<prosody pitch='2st'>a</prosody>", ("pitch", "'2st'", "-2st")),
        ("<lang xml:lang='tlh'>a</lang>", ("xml:lang is 'tlh'; it must be one of auto, chin",)),
    ],
)
def test_a_value_that_does_not_exist_is_refused(body, words):
    with pytest.raises(InvalidRequest) as caught:
        read("\n" + body)
    assert caught.value.param == "text"
    assert all(word in caught.value.message for word in ("line 2, column 1", *words))


def test_text_that_begins_like_ssml_and_is_malformed_is_read_without_its_tags():
    parsed = parse("<speak>Tom & <b>Jerry</speak>")
    assert parsed.segments == (Segment("Tom & Jerry"),)
    assert "line 1, column 13" in parsed.warnings[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<speak>a</speak>", True),
        (" \n<speak version='1.0'>a</speak>", True),
        ("<?xml version='1.0'?>\n<speak>a</speak>", True),
        ("\ufeff<speak/>", True),
        ("<speaker>a</speaker>", False),
        ("a <speak>b</speak>", False),
    ],
)
def test_a_document_is_known_by_its_first_tag(text, expected):
    assert is_ssml(text) == expected
    decided = next(end for end in range(len(text) + 1) if not could_be_ssml(text[:end]))
    assert is_ssml(text[:decided]) == expected


def test_a_text_with_a_rate_that_is_no_ssml_is_plain():
    assert parse("<prosody rate='slow'>a</prosody>").segments == (Segment("a"),)


@pytest.mark.parametrize("unit", ["<p>", "<p></p>", "<break/>a", "&amp;", "<x/>", "&"])
def test_a_hostile_document_is_read_in_linear_time(unit):
    times_s = []
    for length in (20_000, 80_000):
        started_s = time.process_time()
        parse("<speak>" + (unit * length)[: length // len(unit) * len(unit)] + "</speak>")
        times_s.append(time.process_time() - started_s)
    assert times_s[1] < 10 * times_s[0] + 0.1


def test_the_example_of_the_guide_is_understood():
    guide = (Path(__file__).parents[2] / "docs" / "ssml.md").read_text("utf-8")
    example = guide.split("```xml\n")[1].split("```")[0]
    parsed = parse(example)
    assert (parsed.language, parsed.warnings) == ("english", ())
    assert Pause(0.5) in parsed.segments


# say-as ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "language", "expected"),
    [
        ("characters", "HTTP", "english", "H, T, T, P"),
        ("spell-out", "ab 1", "english", "A, B, 1"),
        ("characters", "МВД", "russian", "эм, вэ, дэ"),
        ("characters", "Йод", "russian", "и краткое, о, дэ"),
        ("verbatim", "你好", "chinese", "你, 好"),
        ("digits", "1-23", "english", "1 2 3"),
        ("telephone", "+7 (495) 123-45-67", "russian", "плюс 7, 4 9 5, 1 2 3, 4 5, 6 7"),
        ("telephone", "555-0100", "english", "5 5 5, 0 1 0 0"),
        ("cardinal", "12,345", "english", "12345"),
        ("cardinal", "1 234 567", "russian", "1234567"),
        ("cardinal", "3.14", "english", "3.14"),
        ("ordinal", "third", "english", "third"),
        ("time", "10:30", "english", "10:30"),
        ("currency", "$5", "english", "$5"),
    ],
)
def test_a_text_is_written_as_it_is_to_be_said(kind, text, language, expected):
    assert written(text, SayAs(kind), language)[0] == expected


ORDINALS = [
    ("1", "english", "1st", "first"),
    ("12", "english", "12th", "twelfth"),
    ("23", "english", "23rd", "twenty-third"),
    ("1,002", "english", "1002nd", "one thousand and second"),
    ("3", "russian", "3-й", "третий"),
    ("3", "german", "3.", "dritte"),
    ("3", "french", "3e", "troisième"),
    ("3", "spanish", "3º", "tercero"),
    ("3", "italian", "3º", "terzo"),
    ("3", "portuguese", "3º", "terceiro"),
    ("3", "chinese", "第3", "第3"),
    ("3", "japanese", "第3", "三番目"),
    ("3", "korean", "3번째", "세 번째"),
    ("100", "korean", "100번째", "100번째"),
]


@pytest.mark.parametrize(("text", "language", "sign", "_words"), ORDINALS)
def test_an_ordinal_is_written_with_its_sign(monkeypatch, text, language, sign, _words):
    monkeypatch.setitem(sys.modules, "num2words", None)
    assert written(text, SayAs("ordinal"), language) == (sign, False)


@pytest.mark.parametrize(("text", "language", "_sign", "words"), ORDINALS)
def test_an_ordinal_is_written_in_words_with_the_extra(text, language, _sign, words):
    pytest.importorskip("num2words")
    assert written(text, SayAs("ordinal"), language) == (words, False)


@pytest.mark.parametrize(
    ("text", "order", "language", "expected"),
    [
        ("03.10.2024", "", "russian", "03.10.2024"),
        ("2024-10-03", "", "english", "October 3, 2024"),
        ("10/03/2024", "", "english", "October 3, 2024"),
        ("03/10/2024", "dmy", "english", "October 3, 2024"),
        ("10/03/2024", "mdy", "russian", "03.10.2024"),
        ("31.12", "", "russian", "31 декабря"),
        ("10-2024", "my", "russian", "октябрь 2024 года"),
        ("10-2024", "my", "german", "Oktober 2024"),
        ("20241003", "", "english", "20241003"),
        ("2024", "y", "english", "2024"),
        ("10", "m", "french", "octobre"),
        ("3.10.2024", "", "german", "3. Oktober 2024"),
        ("3/10/2024", "", "french", "3 octobre 2024"),
        ("3/10/2024", "", "spanish", "3 de octubre de 2024"),
        ("3/10/2024", "", "italian", "3 ottobre 2024"),
        ("3/10/2024", "", "portuguese", "3 de outubro de 2024"),
        ("2024/10/3", "", "chinese", "2024年10月3日"),
        ("10/3", "", "japanese", "10月3日"),
        ("2024-10", "", "korean", "2024년 10월"),
        ("3.13.2024", "", "russian", "3.13.2024"),
        ("tomorrow", "", "english", "tomorrow"),
        ("1.2.3.4", "", "english", "1.2.3.4"),
        ("1-2", "dmy", "english", "1-2"),
    ],
)
def test_a_date_is_written_as_the_language_writes_it(text, order, language, expected):
    assert written(text, SayAs("date", order), language) == (expected, False)


def test_what_is_spelled_is_not_normalised_again():
    assert written("a*b*", SayAs("characters"), "english")[1]
    assert written("+1 2", SayAs("telephone"), "english")[1]
