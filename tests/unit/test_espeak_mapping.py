"""The table from wishes to a delivery: total, and honest about every wish."""

import itertools
from typing import get_args

import pytest

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.espeak.mapping import EMOTIONS, LANGUAGE_CODES, choose_delivery
from qwen_tts_service.types import Gender, Language, VoiceAttributes
from qwen_tts_service.voice.emotions import Emotion

SPEAKERS = ("Annie", "f1", "f2", "f5", "m1", "m3", "m6", "whisper", "whisperf")


def choose(language="russian", speaker=None, instruct=None, **attributes):
    return choose_delivery(
        VoiceAttributes(**attributes), language, speaker, instruct, speakers=SPEAKERS
    )


def test_every_language_has_a_code():
    assert set(LANGUAGE_CODES) == set(get_args(Language))


def test_mapping_is_total_and_within_what_espeak_accepts():
    genders = (*get_args(Gender), None)
    for gender, age, emotion in itertools.product(genders, (None, 1, 12, 16, 40, 120), EMOTIONS):
        choice, delivery = choose(gender=gender, age=age, emotion=emotion)
        assert delivery.variant in SPEAKERS
        assert choice.speaker == delivery.variant
        assert 80 <= delivery.rate_wpm <= 450
        assert 0 <= delivery.pitch <= 99
        assert 0 <= delivery.pitch_range <= 99
        assert 0 <= delivery.volume <= 200


def test_every_wish_is_reported_once():
    choice, _ = choose(gender="female", age=25, emotion="happy")
    assert set(choice.applied) == {"gender", "age", "emotion"}
    assert choice.not_applied == {}


def test_no_wish_is_reported_when_there_was_none():
    choice, _ = choose()
    assert choice.applied == ()
    assert choice.not_applied == {}


def test_speaker_wins_over_gender_and_age_and_says_so():
    choice, delivery = choose(speaker="annie", gender="male", age=70, emotion="sad")
    assert delivery.variant == choice.speaker == "Annie"
    assert set(choice.applied) == {"speaker", "emotion"}
    assert choice.not_applied == {"gender": "speaker was given", "age": "speaker was given"}


def test_speaker_wins_over_the_whispering_variant():
    choice, delivery = choose(speaker="m3", emotion="whisper")
    assert delivery.variant == "m3"
    assert choice.not_applied == {"emotion": "speaker was given"}


def test_unknown_speaker_is_refused_with_the_known_ones():
    with pytest.raises(InvalidRequest) as caught:
        choose(speaker="marker-word")
    assert (caught.value.param, caught.value.code) == ("speaker", "unknown_speaker")
    assert "Annie, f1" in caught.value.message
    assert "marker-word" not in caught.value.message


def test_unknown_emotion_is_not_applied_and_changes_nothing():
    choice, delivery = choose(gender="male", emotion="wistful")
    assert choice.applied == ("gender",)
    assert "happy" in choice.not_applied["emotion"]
    assert delivery == choose(gender="male")[1]


def test_instruct_is_reported_as_not_followed():
    choice, delivery = choose(instruct="Speak like a pirate.")
    assert "instruct" in choice.not_applied
    assert choice.instruct is None
    assert delivery == choose()[1]


def test_emotion_words_come_from_the_table_that_is_given():
    choice, delivery = choose_delivery(
        VoiceAttributes(emotion="грустно"),
        "russian",
        None,
        None,
        speakers=SPEAKERS,
        known_emotion={"грустно": "sad"}.get,
    )
    assert choice.applied == ("emotion",)
    assert delivery == choose(emotion="sad")[1]


@pytest.mark.parametrize(("name", "variant"), [("nova", "f2"), ("onyx", "m6")])
def test_names_of_other_services_speak_with_their_gender(name, variant):
    choice, _ = choose_delivery(
        VoiceAttributes(gender="neutral", age=70),
        "russian",
        name,
        None,
        speakers=SPEAKERS,
        gender_of_name={"nova": "female", "onyx": "male"}.get,
    )
    assert choice.speaker == variant
    assert choice.applied == ("speaker",)
    assert set(choice.not_applied) == {"gender", "age"}


def test_names_that_no_table_knows_are_refused():
    with pytest.raises(InvalidRequest) as caught:
        choose(speaker="nova")
    assert caught.value.code == "unknown_speaker"


def test_emotions_have_the_names_of_the_table_of_words():
    assert set(EMOTIONS) == set(get_args(Emotion))


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_blank_wishes_are_no_wishes(blank):
    assert choose(speaker=blank, instruct=blank, emotion=blank) == choose()
