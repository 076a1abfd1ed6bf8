"""What a request comes to: parts to speak and silence between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.speech.parts import TextOptions, TextParts, split_request
from qwen_tts_service.text import russian
from qwen_tts_service.text.segments import MAX_PAUSE_S, Pause
from qwen_tts_service.types import SpeechRequest

LONG = "Мы пошли в лес. Там было тихо и темно! Кто там живёт? Никто не знал этого. " * 8


def request(text=None, **fields):
    return SpeechRequest(request_id="r", seed=7, text=text, **fields)


def plan(text, longest_part_chars=None, **fields):
    """The script in short: texts and seconds."""
    script = split_request(request(text, **fields), longest_part_chars)
    return [p.duration_s if isinstance(p, Pause) else p.text for p in script.parts]


def spoken(script: TextParts) -> list[SpeechRequest]:
    return [part for part in script.parts if isinstance(part, SpeechRequest)]


@pytest.mark.parametrize("text", ["Привет, мир!", "One.\n\nTwo: 3 * 4.", "3.14", "你好。"])
def test_an_ordinary_text_is_one_part_and_unchanged(text):
    script = split_request(request(text), 800)
    assert plan(text, 800) == [text]
    assert script.warning is None


def test_a_sign_that_became_a_word_keeps_its_distance():
    pytest.importorskip("ru_normalizr")
    text = "<speak>Заказ №<say-as interpret-as='characters'>АБ</say-as></speak>"
    assert plan(text) == ["Заказ номер а, бэ"]


def test_token_ids_are_never_touched():
    asked = request(tokens=(1, 2, 3), normalize="full")
    assert split_request(asked, 1).parts == (asked,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Раз [pause:0.5s] два", ["Раз", 0.5, "два"]),
        ("[pause:1s]Раз[pause:200ms]", [1.0, "Раз", 0.2]),
        ("Раз[pause:99s]два", ["Раз", MAX_PAUSE_S, "два"]),
        ("Раз [pause:1s] … [pause:2s] два", ["Раз", 1.0, 2.0, "два"]),
        ("Раз [pause:0s] два", ["Раз два"]),
        ("Раз [pause] два", ["Раз [pause] два"]),
    ],
)
def test_pauses_stand_between_what_is_spoken(text, expected):
    assert plan(text) == expected


def test_pauses_count_at_every_level():
    for level in ("none", "light", "full"):
        assert 0.5 in plan("раз[pause:0.5s]два", normalize=level)


def test_the_language_is_that_of_the_whole_text_without_its_pauses():
    script = split_request(request("Да [pause:1s] ok [pause:1s] нет и ещё раз нет"), None)
    assert [part.language for part in spoken(script)] == ["russian"] * 3


def test_words_on_both_sides_of_a_pause_stay_apart_for_the_language():
    script = split_request(
        request("ich[pause:1s]nehme[pause:1s]da[pause:1s]heute[pause:1s]nichts"), None
    )
    assert {part.language for part in spoken(script)} == {"german"}


def test_a_text_without_letters_is_in_the_default_language():
    options = TextOptions(default_language="russian")
    for text, language in (("42", "russian"), ("😊 5", "russian"), ("Hello", "english")):
        (part,) = spoken(split_request(request(text), None, options))
        assert part.language == language


def test_a_language_that_was_given_is_kept():
    (part,) = spoken(split_request(request("Привет", language="english"), None))
    assert part.language == "english"


@pytest.mark.parametrize(
    ("level", "expected"), [("none", "**Да** 😀 5"), ("light", "Да 5"), ("full", "Да пять")]
)
def test_the_level_decides_what_is_rewritten(level, expected):
    assert plan("**Да** 😀 5", normalize=level, language="russian") == [expected]


def test_full_warns_where_there_are_no_full_rules():
    warning = split_request(request("It is 5 pm.", normalize="full"), None).warning
    assert "english" in warning
    assert warning.isascii()
    assert split_request(request("Уже 5 часов.", normalize="full"), None).warning is None


def test_full_without_its_extra_is_refused(monkeypatch: pytest.MonkeyPatch):
    def missing(**_):
        raise InvalidRequest("not installed", param="normalize", code="extra_missing")

    monkeypatch.setattr(russian, "_load_russian", missing)
    with pytest.raises(InvalidRequest):
        split_request(request("Уже 5 часов.", normalize="full"), None)


@pytest.mark.parametrize("text", ["…", "😀", "[pause:1s]", "[pause:1s] ! [pause:1s]", "**", "---"])
def test_a_text_with_nothing_to_speak_is_refused(text):
    with pytest.raises(CannotSpeak) as caught:
        split_request(request(text), None)
    assert (caught.value.code, caught.value.param) == ("no_reading", "text")


def test_a_long_text_is_cut_at_sentence_ends_with_gaps_between():
    parts = plan(LONG, 200)
    assert parts[1::2] == [0.3] * (len(parts) // 2)
    assert "".join(parts[::2]) == LONG.strip()
    assert all(part.rstrip()[-1] in ".!?" for part in parts[::2])
    assert len(parts) > 3


def test_parts_of_a_long_text_are_about_the_same_length():
    lengths = [len(part) for part in plan(LONG, 400)[::2]]
    assert max(lengths) <= 400
    assert min(lengths) > 150


@pytest.mark.parametrize(("longest", "count"), [(26, 1), (25, 2)])
def test_a_text_is_cut_only_when_it_is_too_long_for_one_part(longest, count):
    assert (
        len(spoken(split_request(request("One two three. Four five."[:25] + "!"), longest)))
        == count
    )


def test_every_part_has_the_voice_and_the_seed_of_the_request():
    asked = request(LONG, speaker="ryan", instruct="Calmly.", language="russian")
    for part in spoken(split_request(asked, 200)):
        assert (part.seed, part.speaker, part.instruct) == (7, "ryan", "Calmly.")
        assert (part.max_frames, part.sampling) == (asked.max_frames, asked.sampling)


def test_a_voice_that_takes_any_length_gets_it_whole():
    assert plan(LONG, None) == [LONG.strip()]


def test_a_text_that_is_not_to_be_cut_is_one_part():
    assert plan(LONG, 200, is_uncut=True) == [LONG.strip()]


@pytest.mark.parametrize(
    ("between", "pause_s"), [(" ", 0.2), ("\n", 0.2), ("\n\n", 0.7), (" \n \n\n", 0.7)]
)
def test_the_pause_between_parts_is_that_of_the_sentence_or_of_the_paragraph(between, pause_s):
    options = TextOptions(pause_sentence_s=0.2, pause_paragraph_s=0.7)
    asked = request(f"One two three.{between}Four five six.", language="english")
    _, pause, _ = split_request(asked, 16, options).parts
    assert (pause.duration_s, pause.is_gap) == (pause_s, True)


@given(st.text(alphabet="аб1 .!?\n,😀*", max_size=300), st.integers(1, 60))
def test_no_part_is_silent_or_too_long_and_no_letter_is_lost(text, longest):
    def letters(text):
        return [char for char in text if char.isalnum()]

    try:
        parts = plan(text, longest, normalize="light")
    except CannotSpeak:
        assert not letters(text)
        return
    texts = [part for part in parts if isinstance(part, str)]
    assert all(letters(part) and len(part) <= longest for part in texts)
    assert letters("".join(texts)) == letters(text)


# Markup ---------------------------------------------------------------------------------


def manners(text, **fields):
    """(speaker, language, text) of each part, and seconds."""
    parts = split_request(request(text, **fields), None).parts
    return [
        p.duration_s if isinstance(p, Pause) else (p.speaker, p.language, p.text) for p in parts
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<speak>Привет <break time="1s"/> мир</speak>', ["Привет", 1.0, "мир"]),
        ("Hello<break/>world", ["Hello", 0.75, "world"]),
        ("Первая<br>Вторая", ["Первая\nВторая"]),
        ("Tom &amp; Jerry", ["Tom & Jerry"]),
        ("<think>hm</think>Ответ", ["Ответ"]),
        ("<p>Один.</p>\n<p>Два.</p>", ["Один.\n\nДва."]),
        ("&lt;b&gt; [&#49;] a<5", ["<b> [1] a<5"]),
        ("<speak><sub alias='**вэ цэ**'>WC</sub> тут</speak>", ["**вэ цэ** тут"]),
        ("<speak>№ <say-as interpret-as='characters'>АБ</say-as>!</speak>", ["№ а, бэ!"]),
        ("<speak><p>Один</p><p>Два</p></speak>", ["Один\n\nДва"]),
        ("<speak>до<emphasis>ро</emphasis>га</speak>", ["дорога"]),
    ],
)
def test_markup_is_never_spoken(text, expected):
    assert plan(text, language="russian", normalize="light") == expected


def test_without_normalising_markup_is_spoken():
    for text in ("<b>Да</b> &amp; [voice:x]", "<speak>Да</speak>"):
        assert plan(text, normalize="none") == [text]
    assert plan("<speak>Да<break/>нет</speak>", normalize="none", input_type="ssml") == [
        "Да",
        0.75,
        "нет",
    ]


def test_a_dialogue_changes_the_speaker_with_a_gap_between():
    assert manners("Hi there. [voice:ryan] Hello. [voice:vivian] Bye. [/voice] So.") == [
        (None, "english", "Hi there."),
        0.3,
        ("ryan", "english", "Hello."),
        0.3,
        ("vivian", "english", "Bye."),
        0.3,
        (None, "english", "So."),
    ]


def test_a_pause_between_speakers_takes_the_place_of_the_gap():
    assert manners("[voice:a] One [pause:1s] [voice:b] two", language="english") == [
        ("a", "english", "One"),
        1.0,
        ("b", "english", "two"),
    ]


def test_the_speaker_of_the_request_named_again_changes_nothing():
    assert manners("One [voice:a] two", speaker="a", language="english") == [
        ("a", "english", "One two")
    ]


def test_every_part_of_a_dialogue_has_the_seed_of_the_request():
    parts = spoken(split_request(request("[voice:a] One [voice:b] two"), None))
    assert [part.seed for part in parts] == [7, 7]


def test_another_language_or_rate_in_a_sentence_makes_no_gap():
    text = "<speak>Say <lang xml:lang='ru'>привет</lang> <prosody rate='slow'>now</prosody></speak>"
    parts = spoken(split_request(request(text, language="english"), None))
    assert [(p.language, p.rate, p.text) for p in parts] == [
        ("english", 1.0, "Say"),
        ("russian", 1.0, "привет"),
        ("english", 0.75, "now"),
    ]
    assert len(manners(text, language="english")) == 3


def test_the_language_is_looked_for_in_what_names_none():
    text = "<speak>Say <lang xml:lang='ru'>привет и до свидания</lang> now and then</speak>"
    assert [language for _, language, _ in manners(text)] == ["english", "russian", "english"]


@pytest.mark.parametrize(
    ("given", "expected"), [(None, ["german", "french"]), ("english", ["english", "french"])]
)
def test_the_language_of_the_document_counts_where_none_was_given(given, expected):
    text = "<speak xml:lang='de'>eins<s xml:lang='fr'>deux</s></speak>"
    parts = spoken(split_request(request(text, language=given), None))
    assert [part.language for part in parts] == expected


def test_warnings_of_ssml_are_passed_on():
    warning = split_request(request("<speak><foo>Yes</foo></speak>"), None).warning
    assert "foo" in warning


@pytest.mark.parametrize("text", ["<speak/>", "<speak><break/></speak>", "<think>hm", "<b></b>"])
def test_markup_without_a_text_is_nothing_to_speak(text):
    with pytest.raises(CannotSpeak) as caught:
        split_request(request(text), None)
    assert caught.value.code == "no_reading"


@pytest.mark.parametrize(
    ("text", "level", "expected"),
    [
        ("Привет.", "auto", "ПРИВЕТ."),
        ("Привет.", "full", "ПРИВЕТ."),
        ("Привет.", "light", "Привет."),
        ("Привет.", "none", "Привет."),
        ("Hello there.", "auto", "Hello there."),
    ],
)
def test_stress_is_set_in_russian_that_is_read_out(text, level, expected):
    options = TextOptions(accent=str.upper)
    (part,) = split_request(request(text, normalize=level), None, options).parts
    assert part.text == expected
