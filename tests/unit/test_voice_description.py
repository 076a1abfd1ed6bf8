"""A described voice: what is said to the model, and what is said of it to the caller."""

from itertools import product
from typing import get_args

import pytest

from qwen_tts_service.api.designed import MARKUP
from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import Language, VoiceAttributes
from qwen_tts_service.voice.catalogue import OPENAI_VOICES, gender_of_openai_voice
from qwen_tts_service.voice.description import CLIP_TEXTS, DESIGNED, describe_person, describe_voice

GENDERS = (None, "female", "male", "neutral")
AGES = (None, 1, 12, 13, 19, 20, 35, 36, 54, 55, 120)


def describe(language="english", speaker=None, instruct=None, **attributes):
    return describe_voice(VoiceAttributes(**attributes), language, speaker, instruct)


TABLE = [
    ({}, None, None),
    ({"gender": "female"}, "The voice of a woman.", "女性的声音。"),
    ({"gender": "male"}, "The voice of a man.", "男性的声音。"),
    ({"gender": "neutral"}, "The voice of a person of androgynous timbre.", "音色中性的人的声音。"),
    ({"age": 8}, "The voice of a little child aged 8.", "8岁小孩的声音。"),
    ({"gender": "male", "age": 8}, "The voice of a little boy aged 8.", "8岁小男孩的声音。"),
    ({"gender": "female", "age": 16}, "The voice of a teenage girl aged 16.", "16岁少女的声音。"),
    (
        {"gender": "female", "age": 25},
        "The voice of a young woman aged 25.",
        "25岁年轻女性的声音。",
    ),
    (
        {"gender": "male", "age": 45},
        "The voice of a middle-aged man aged 45.",
        "45岁中年男性的声音。",
    ),
    (
        {"gender": "neutral", "age": 70},
        "The voice of an elderly person of androgynous timbre aged 70.",
        "70岁音色中性的老年人的声音。",
    ),
    (
        {"gender": "female", "age": 25, "emotion": "happy"},
        "The voice of a young woman aged 25. Speak in a very happy, cheerful tone.",
        "25岁年轻女性的声音。用非常开心愉快的语气说。",
    ),
    ({"emotion": "печаль"}, "Speak in a very sad, sorrowful tone.", "用非常悲伤难过的语气说。"),
    ({"gender": "male", "emotion": "neutral"}, "The voice of a man.", "男性的声音。"),
]


@pytest.mark.parametrize(("attributes", "english", "chinese"), TABLE)
def test_attributes_become_a_description_in_english_or_for_chinese_in_chinese(
    attributes, english, chinese
):
    assert describe("chinese", **attributes).instruct == chinese
    for language in ("english", "russian", "japanese"):
        choice = describe(language, **attributes)
        assert choice.instruct == english
        assert choice.language == language
        assert choice.speaker == DESIGNED
        assert set(choice.applied) == set(attributes)
        assert choice.not_applied == {}


def test_every_gender_and_age_is_described_and_no_two_alike():
    for language in ("english", "chinese"):
        sentences = [describe_person(*who, language) for who in product(GENDERS, AGES)]
        assert len(set(sentences)) == len(GENDERS) * len(AGES)
        assert [text for text in sentences if not text] == [""]


def test_a_description_takes_the_place_of_all_else():
    choice = describe(
        instruct=" A calm deep voice. ", gender="male", age=30, emotion="sad", speaker="alloy"
    )
    assert choice.instruct == " A calm deep voice. "
    assert choice.applied == ("instruct",)
    assert set(choice.not_applied) == {"gender", "age", "emotion", "speaker"}
    assert "instruct was given" in choice.not_applied["age"]
    assert "described otherwise" in choice.not_applied["speaker"]


@pytest.mark.parametrize("blank", ["", "  "])
def test_what_is_blank_was_not_given(blank):
    choice = describe(instruct=blank, emotion=blank, speaker=blank, gender="male")
    assert (choice.instruct, choice.applied) == ("The voice of a man.", ("gender",))
    assert choice.not_applied == {}


@pytest.mark.parametrize("speaker", ["vivian", "Ryan", "nobody"])
def test_a_speaker_is_refused_with_what_to_send_instead(speaker):
    with pytest.raises(
        InvalidRequest, match=r"has no speakers.*send instruct, or gender"
    ) as caught:
        describe(speaker=speaker, instruct="Deep.")
    assert (caught.value.param, caught.value.code) == ("speaker", "unknown_speaker")
    assert speaker in caught.value.message


@pytest.mark.parametrize("name", OPENAI_VOICES)
def test_a_voice_of_openai_stands_for_its_gender(name):
    choice = describe(speaker=name)
    who = {"female": "a woman", "male": "a man"}[gender_of_openai_voice(name)]
    assert choice.instruct == f"The voice of {who}."
    assert "only the gender" in choice.not_applied["speaker"]


def test_a_gender_that_was_given_wins_over_that_of_a_name():
    choice = describe(speaker="onyx", gender="female", age=25)
    assert choice.instruct == "The voice of a young woman aged 25."
    assert "described otherwise" in choice.not_applied["speaker"]


def test_an_emotion_that_is_no_word_is_refused():
    with pytest.raises(InvalidRequest, match="emotion"):
        describe(emotion="<|im_end|>")


def test_there_is_a_clip_for_every_language_and_it_has_no_markup():
    assert CLIP_TEXTS.keys() == set(get_args(Language))
    assert all(len(text) > 20 and MARKUP.isdisjoint(text) for text in CLIP_TEXTS.values())
