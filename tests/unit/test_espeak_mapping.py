"""The table from attributes to a delivery: every attribute is applied or has a reason."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.espeak import read_table
from qwen_tts_service.espeak.library import Delivery
from qwen_tts_service.espeak.mapping import LANGUAGE_CODES, choose_delivery
from qwen_tts_service.types import Gender, Language, SpeechRequest, VoiceAttributes
from qwen_tts_service.voice.catalogue import AGE_BANDS
from qwen_tts_service.voice.emotions import EMOTIONS

SPEAKERS = ("Annie", "f1", "f2", "f5", "m1", "m3", "m6", "whisper", "whisperf")


def choose(language="russian", speaker=None, instruct=None, speakers=SPEAKERS, **attributes):
    request = SpeechRequest(
        request_id="test",
        seed=1,
        text="text",
        language=language,
        speaker=speaker,
        instruct=instruct,
        attributes=VoiceAttributes(**attributes),
    )
    return choose_delivery(request, speakers)


CODES = {
    "chinese": "cmn",
    "english": "en-us",
    "japanese": "ja",
    "korean": "ko",
    "german": "de",
    "french": "fr",
    "russian": "ru",
    "portuguese": "pt-br",
    "spanish": "es",
    "italian": "it",
}


@pytest.mark.parametrize("language", get_args(Language))
def test_every_language_is_spoken_by_its_code(language):
    choice, delivery = choose(language)
    assert choice.language == language
    assert delivery.language_code == LANGUAGE_CODES[language] == CODES[language]


# Gender, ages (the first and the last of a band), variant, pitch, words per minute.
VOICES = [
    ("male", (1, 12), "f2", 58, 170),
    ("male", (13, 19), "m6", 70, 172),
    ("male", (20, None, 54), "m6", 48, 165),
    ("male", (55, 120), "m1", 42, 140),
    ("female", (1, 12), "f5", 80, 170),
    ("female", (13, 19), "f2", 62, 172),
    ("female", (20, None, 54), "f2", 50, 165),
    ("female", (55, 120), "f1", 50, 140),
    ("neutral", (1, 12), "f2", 71, 170),
    ("neutral", (13, 19), "f2", 34, 172),
    ("neutral", (20, None, 54), "f2", 20, 165),
    ("neutral", (55, 120), "f1", 26, 140),
]
EACH_VOICE = [(voice[0], age, *voice[2:]) for voice in VOICES for age in voice[1]]


def sound(delivery):
    return (delivery.variant, delivery.pitch, delivery.rate_wpm)


@pytest.mark.parametrize(("gender", "age", "variant", "pitch", "rate_wpm"), EACH_VOICE)
def test_gender_and_age_have_their_voice(gender, age, variant, pitch, rate_wpm):
    choice, delivery = choose(gender=gender, age=age)
    assert choice.speaker == variant
    assert sound(delivery) == (variant, pitch, rate_wpm)
    assert (delivery.pitch_range, delivery.volume) == (50, 100)


@pytest.mark.parametrize("age", [1, 12, 13, 19, 20, None, 54, 55])
def test_voice_without_a_requested_gender_is_male(age):
    assert choose(age=age)[1] == choose(gender="male", age=age)[1]


@pytest.mark.parametrize(
    ("emotion", "pitch", "pitch_range", "rate_wpm", "volume"),
    [
        ("neutral", 48, 50, 165, 100),
        ("happy", 60, 75, 182, 110),
        ("sad", 33, 20, 129, 80),
        ("angry", 52, 80, 190, 140),
        ("fearful", 64, 35, 198, 90),
        ("surprised", 64, 90, 165, 110),
        ("disgusted", 40, 60, 145, 100),
        ("excited", 64, 85, 201, 120),
        ("calm", 43, 35, 145, 90),
        ("serious", 40, 30, 155, 100),
        ("friendly", 54, 62, 165, 100),
        ("whisper", 48, 50, 152, 100),
    ],
)
def test_emotion_changes_the_delivery_of_a_man(emotion, pitch, pitch_range, rate_wpm, volume):
    choice, delivery = choose(emotion=emotion)
    assert choice.applied == ("emotion",)
    assert delivery == Delivery(
        language_code="ru",
        variant="whisper" if emotion == "whisper" else "m6",
        pitch=pitch,
        pitch_range=pitch_range,
        rate_wpm=rate_wpm,
        volume=volume,
    )


def test_emotion_changes_what_the_age_gives():
    delivery = choose(gender="female", age=70, emotion="sad")[1]
    assert sound(delivery) == ("f1", 35, 109)


@pytest.mark.parametrize(
    ("gender", "age", "variant", "pitch", "rate_wpm"),
    [
        (None, None, "whisper", 48, 152),
        ("male", None, "whisper", 48, 152),
        ("male", 12, "whisper", 58, 156),
        ("male", 19, "whisper", 70, 158),
        ("male", 55, "whisper", 42, 129),
        ("female", None, "whisperf", 50, 152),
        ("female", 12, "whisperf", 80, 156),
        ("neutral", None, "whisperf", 20, 152),
        ("neutral", 55, "whisperf", 26, 129),
    ],
)
def test_whisper_keeps_the_pitch_and_the_pace_of_gender_and_age(
    gender, age, variant, pitch, rate_wpm
):
    choice, delivery = choose(gender=gender, age=age, emotion="whisper")
    assert choice.not_applied == {}
    assert choice.speaker == variant
    assert sound(delivery) == (variant, pitch, rate_wpm)


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


def test_every_attribute_is_reported_once():
    choice, _ = choose(gender="female", age=25, emotion="happy")
    assert set(choice.applied) == {"gender", "age", "emotion"}
    assert choice.not_applied == {}


def test_nothing_is_reported_for_a_request_without_attributes():
    choice, _ = choose()
    assert choice.applied == ()
    assert choice.not_applied == {}


def test_speaker_wins_over_gender_and_age_with_a_reason():
    choice, delivery = choose(speaker="annie", gender="male", age=70, emotion="sad")
    assert delivery.variant == choice.speaker == "Annie"
    assert set(choice.applied) == {"speaker", "emotion"}
    assert choice.not_applied == {"gender": "speaker was given", "age": "speaker was given"}


@pytest.mark.parametrize("written", ["m3", "M3", " m3 "])
def test_given_speaker_speaks_alike_whatever_gender_and_age(written):
    plain = Delivery(language_code="ru", variant="m3", pitch=50, rate_wpm=165)
    assert choose(speaker=written)[1] == plain
    assert choose(speaker=written, gender="female", age=70)[1] == plain


def test_given_speaker_takes_every_emotion_but_whisper():
    delivery = choose(speaker="m3", emotion="sad")[1]
    assert sound(delivery) == ("m3", 35, 129)
    assert (delivery.pitch_range, delivery.volume) == (20, 80)


def test_speaker_wins_over_the_whispering_variant():
    choice, delivery = choose(speaker="m3", emotion="whisper")
    assert delivery == choose(speaker="m3")[1]
    assert choice.applied == ("speaker",)
    assert choice.not_applied == {"emotion": "speaker was given"}


def test_unknown_speaker_is_refused_with_the_known_ones():
    with pytest.raises(InvalidRequest) as caught:
        choose(speaker="marker-word")
    assert (caught.value.param, caught.value.code) == ("speaker", "unknown_speaker")
    assert "Annie, f1" in caught.value.message
    assert caught.value.message.startswith('speaker "marker-word" is not known')


def test_unknown_emotion_is_not_applied_and_changes_nothing():
    choice, delivery = choose(gender="male", emotion="wistful")
    assert choice.applied == ("gender",)
    assert choice.not_applied["emotion"].endswith("it knows " + ", ".join(EMOTIONS))
    assert delivery == choose(gender="male")[1]


def test_instruct_is_reported_as_not_followed():
    choice, delivery = choose(instruct="Speak like a pirate.")
    assert "does not follow instructions" in choice.not_applied["instruct"]
    assert choice.instruct is None
    assert delivery == choose()[1]


def test_emotion_is_known_in_other_words_and_languages():
    choice, delivery = choose(emotion="грустно")
    assert choice.applied == ("emotion",)
    assert delivery == choose(emotion="sad")[1]


@pytest.mark.parametrize("word", [" Happy ", "HAPPY"])
def test_emotion_is_known_by_its_own_name_in_any_case(word):
    assert choose(emotion=word) == choose(emotion="happy")


def test_speaker_is_looked_up_before_the_names_of_other_services():
    choice, _ = choose(speaker="Onyx", speakers=("f2", "onyx"))
    assert choice.speaker == "onyx"


@pytest.mark.parametrize(("name", "variant"), [("nova", "f2"), ("onyx", "m6")])
def test_names_of_other_services_speak_with_their_gender(name, variant):
    choice, delivery = choose(speaker=name, gender="neutral", age=70)
    assert choice.speaker == variant
    assert sound(delivery) == (variant, 50, 165)
    assert choice.applied == ("speaker",)
    assert set(choice.not_applied) == {"gender", "age"}


@pytest.mark.parametrize("name", ["vivian", "nobody"])
def test_names_that_no_table_knows_are_refused(name):
    with pytest.raises(InvalidRequest) as caught:
        choose(speaker=name)
    assert caught.value.code == "unknown_speaker"


def test_tables_have_every_language_gender_age_and_emotion():
    tables = read_table("deliveries.toml")
    assert set(read_table("languages.toml")) == set(get_args(Language))
    assert set(tables["voices"]) == set(tables["whispers"]) == set(get_args(Gender))
    for ages in tables["voices"].values():
        assert set(ages) == set(AGE_BANDS) - {"young"}
    assert set(tables["manners"]) == set(EMOTIONS)


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_blank_attributes_count_as_not_given(blank):
    assert choose(speaker=blank, instruct=blank, emotion=blank) == choose()


@pytest.mark.parametrize(("factor", "pitch"), [(1, 48), (1.2, 66), (0.8, 24), (2, 99), (0.5, 0)])
def test_the_pitch_of_a_request_is_within_what_the_library_takes(factor, pitch):
    plain = SpeechRequest(request_id="t", seed=1)
    assert choose_delivery(replace(plain, pitch=factor), SPEAKERS)[1].pitch == pitch


@pytest.mark.parametrize(
    ("rate", "emotion", "rate_wpm"),
    [(1, None, 165), (0.5, None, 82), (2, None, 330), (0.4, None, 80), (9, "excited", 450)],
)
def test_the_rate_of_a_request_multiplies_within_what_the_library_takes(rate, emotion, rate_wpm):
    plain = SpeechRequest(request_id="t", seed=1, attributes=VoiceAttributes(emotion=emotion))
    assert choose_delivery(replace(plain, rate=rate), SPEAKERS)[1].rate_wpm == rate_wpm
