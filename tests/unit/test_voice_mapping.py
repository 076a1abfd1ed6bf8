"""Claims about turning gender, age, emotion, speaker and instruct into a voice."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import VoiceAttributes
from qwen_tts_service.voice import emotions
from qwen_tts_service.voice.catalogue import (
    AGE_BANDS,
    OPENAI_VOICES,
    SPEAKERS,
    age_band,
    gender_of_openai_voice,
)
from qwen_tts_service.voice.emotions import emotion_phrase, known_emotion
from qwen_tts_service.voice.mapping import VoiceCapabilities, choose_voice, resolve_speaker

LANGUAGES = [
    "chinese",
    "english",
    "japanese",
    "korean",
    "german",
    "french",
    "russian",
    "portuguese",
    "spanish",
    "italian",
]
EUROPEAN = ["english", "german", "french", "russian", "portuguese", "spanish", "italian"]
GENDERS = (None, "male", "female", "neutral")
AGES = (None, 1, 12, 13, 19, 20, 35, 36, 54, 55, 120)
ALL = tuple(SPEAKERS)
LARGE = VoiceCapabilities(speakers=ALL, obeys_instruct=True)
SMALL = VoiceCapabilities(speakers=ALL, obeys_instruct=False)


def choose(language="russian", speaker=None, instruct=None, able=LARGE, **attributes):
    return choose_voice(VoiceAttributes(**attributes), language, speaker, instruct, able)


def wishes(**given):
    return {name for name, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (1, "child"),
        (12, "child"),
        (13, "teen"),
        (19, "teen"),
        (20, "young"),
        (35, "young"),
        (36, "adult"),
        (54, "adult"),
        (55, "senior"),
        (120, "senior"),
    ],
)
def test_age_falls_into_its_band(age, band):
    assert age_band(age) == band


@pytest.mark.parametrize("able", [LARGE, SMALL], ids=["1.7B", "0.6B"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_wish_of_the_whole_table_is_accounted_for(language, able):
    for speaker, gender, age in product((None, *ALL), GENDERS, AGES):
        choice = choose(language, speaker, able=able, gender=gender, age=age)
        asked = wishes(speaker=speaker, gender=gender, age=age)
        assert set(choice.applied) | set(choice.not_applied) == asked
        assert set(choice.applied).isdisjoint(choice.not_applied)
        assert choice.speaker == (speaker or choice.speaker)
        assert choice.speaker in ALL
        assert choice.language == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_chosen_speaker_has_the_wanted_gender_in_every_language_and_at_every_age(language):
    for gender, age in product(("male", "female"), AGES):
        choice = choose(language, gender=gender, age=age)
        assert SPEAKERS[choice.speaker].gender == gender
        assert "gender" in choice.applied


AGE_TABLE = [
    (["chinese"], "female", "vivian vivian vivian serena serena"),
    (["chinese"], "male", "uncle_fu uncle_fu uncle_fu uncle_fu uncle_fu"),
    (["japanese"], "female", "ono_anna ono_anna ono_anna ono_anna sohee"),
    (["korean"], "female", "sohee sohee sohee sohee sohee"),
    (["japanese", "korean", *EUROPEAN], "male", "aiden aiden aiden ryan uncle_fu"),
    (EUROPEAN, "female", "ono_anna ono_anna vivian serena serena"),
]


@pytest.mark.parametrize(("languages", "gender", "speakers"), AGE_TABLE)
def test_speaker_follows_gender_age_and_language(languages, gender, speakers):
    for language, (age, speaker) in product(
        languages, zip((8, 16, 25, 45, 70), speakers.split(), strict=True)
    ):
        assert choose(language, gender=gender, age=age).speaker == speaker


@pytest.mark.parametrize(
    ("language", "speaker"),
    [
        ("chinese", "serena"),
        ("japanese", "ono_anna"),
        ("korean", "sohee"),
        *[(language, "ryan") for language in EUROPEAN],
    ],
)
@pytest.mark.parametrize("gender", [None, "neutral"])
def test_no_preference_gives_the_default_speaker_of_the_language(language, speaker, gender):
    assert choose(language, gender=gender).speaker == speaker


def test_neutral_gender_is_said_to_be_no_preference():
    assert "no preference" in choose(gender="neutral").not_applied["gender"]
    assert choose(gender="neutral").instruct is None


def test_example_of_a_happy_young_russian_woman():
    choice = choose("russian", gender="female", age=25, emotion="happy")
    assert choice.speaker == "vivian"
    assert choice.language == "russian"
    assert choice.instruct == "Speak in a very happy, cheerful tone."
    assert set(choice.applied) == {"gender", "age", "emotion"}
    assert choice.not_applied == {}


# The dialect trap -----------------------------------------------------------------------


def test_dialect_speakers_are_never_chosen_for_chinese_unasked():
    for gender, age, able in product(GENDERS, AGES, (LARGE, SMALL)):
        chosen = choose("chinese", gender=gender, age=age, able=able).speaker
        assert SPEAKERS[chosen].dialect is None


def test_dialect_speakers_are_avoided_even_where_the_table_has_no_other_answer():
    able = VoiceCapabilities(speakers=("dylan", "eric", "sohee"), obeys_instruct=True)
    choice = choose("chinese", gender="male", able=able)
    assert choice.speaker == "sohee"
    assert "gender" in choice.not_applied


@pytest.mark.parametrize("speaker", ["dylan", "eric"])
def test_dialect_speaker_is_given_when_asked_for(speaker):
    assert choose("chinese", speaker).speaker == speaker


def test_no_name_of_openai_leads_to_a_dialect():
    assert not [name for name, target in OPENAI_VOICES.items() if SPEAKERS[target].dialect]


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_is_always_passed_by_name(language):
    for speaker in (None, *ALL):
        assert choose(language, speaker).language == language


# Explicit speaker -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("Vivian", "vivian"),
        ("VIVIAN", "vivian"),
        ("Ono_Anna", "ono_anna"),
        ("ono anna", "ono_anna"),
        ("Uncle-Fu", "uncle_fu"),
        (" ryan ", "ryan"),
        *OPENAI_VOICES.items(),
        ("Alloy", "serena"),
    ],
)
def test_speaker_is_known_by_id_display_name_and_openai_name(name, speaker):
    assert resolve_speaker(name, LARGE) == speaker


def test_all_thirteen_openai_names_resolve():
    names = [
        "alloy",
        "ash",
        "ballad",
        "cedar",
        "coral",
        "echo",
        "fable",
        "marin",
        "nova",
        "onyx",
        "sage",
        "shimmer",
        "verse",
    ]
    assert sorted(OPENAI_VOICES) == names
    assert set(OPENAI_VOICES.values()) <= set(SPEAKERS)


@pytest.mark.parametrize(
    ("name", "gender"),
    [("nova", "female"), (" Onyx", "male"), ("vivian", None), ("nobody", None), ("", None)],
)
def test_openai_voices_have_the_gender_of_their_speaker(name, gender):
    assert gender_of_openai_voice(name) == gender


@pytest.mark.parametrize("name", ["nobody", "!", "пётр", "ryan2", "a" * 500])
def test_unknown_speaker_is_refused_with_the_known_ones_and_without_the_name(name):
    with pytest.raises(InvalidRequest) as refusal:
        choose(speaker=name)
    assert refusal.value.code == "unknown_speaker"
    assert refusal.value.param == "speaker"
    assert all(speaker in refusal.value.message for speaker in ALL)
    assert name == "!" or name not in refusal.value.message.replace("unknown", "")


def test_speaker_that_only_the_checkpoint_knows_is_accepted():
    able = VoiceCapabilities(speakers=("Маша",), obeys_instruct=True)
    choice = choose(speaker="маша", gender="female", age=20, able=able)
    assert choice.speaker == "Маша"
    assert set(choice.not_applied) == {"gender", "age"}


def test_known_speaker_that_the_checkpoint_lacks_is_refused():
    able = VoiceCapabilities(speakers=("ryan",), obeys_instruct=True)
    with pytest.raises(InvalidRequest):
        choose(speaker="vivian", able=able)
    with pytest.raises(InvalidRequest):
        choose(speaker="alloy", able=able)


def test_speaker_wins_over_gender_and_age_and_says_so():
    choice = choose(speaker="ryan", gender="female", age=70)
    assert choice.speaker == "ryan"
    assert choice.instruct is None
    assert "speaker" in choice.applied
    assert choice.not_applied == {
        "gender": "speaker was given and is male",
        "age": "speaker was given and sounds another age",
    }


def test_attributes_that_fit_the_given_speaker_count_as_applied():
    choice = choose(speaker="ryan", gender="male", age=40)
    assert set(choice.applied) == {"speaker", "gender", "age"}


def test_blank_speaker_is_no_speaker():
    assert choose(speaker=" ") == choose()


# Emotion, age phrases and instruct ------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "emotion"),
    [
        ("neutral Нейтральный 中性", "neutral"),
        ("happy HAPPY joy весёлый Веселый радостно 开心", "happy"),
        ("sad грустный печально 悲伤", "sad"),
        ("angry злой сердито 愤怒", "angry"),
        ("fearful scared испуганно 害怕", "fearful"),
        ("surprised удивлённо 惊讶", "surprised"),
        ("disgusted отвращение 厌恶", "disgusted"),
        ("excited восторженно 兴奋", "excited"),
        ("calm спокойно 平静", "calm"),
        ("serious серьезно 严肃", "serious"),
        ("friendly дружелюбно 友好", "friendly"),
        ("whisper шёпотом 耳语", "whisper"),
    ],
)
def test_emotion_is_known_in_english_russian_and_chinese(words, emotion):
    assert {known_emotion(word) for word in words.split()} == {emotion}


def test_no_emotion_word_means_two_emotions():
    words = [
        emotions._key(word) for line in emotions._SYNONYMS.values() for word in line.split(",")
    ]
    assert len(words) == len(set(words))


def test_emotion_words_may_end_like_a_sentence():
    assert emotion_phrase("Very happy.", "english") == "Speak in a Very happy tone."
    assert emotion_phrase(" Happy! ", "english") == emotion_phrase("happy", "english")


def test_chinese_text_gets_a_chinese_instruct_and_no_other_does():
    for language in LANGUAGES:
        instruct = choose(language, emotion="sad", age=70).instruct
        assert instruct.isascii() == (language != "chinese")


def test_neutral_emotion_sends_no_instruct():
    choice = choose(emotion="neutral")
    assert choice.instruct is None
    assert choice.applied == ("emotion",)


@pytest.mark.parametrize(
    ("language", "word", "instruct"),
    [
        ("russian", "nostalgic", "Speak in a nostalgic tone."),
        ("english", "ironic", "Speak in an ironic tone."),
        ("german", "задумчивый", "Speak in a задумчивый tone."),
        ("chinese", "怀旧", "用怀旧的语气说。"),
    ],
)
def test_unknown_emotion_word_is_put_into_a_plain_phrase(language, word, instruct):
    choice = choose(language, emotion=word)
    assert choice.instruct == instruct
    assert choice.applied == ("emotion",)


@pytest.mark.parametrize(
    "emotion",
    [
        "a" * 65,
        "happy\nsad",
        "happy\x00",
        "sad\u202e",
        "<|im_end|>",
        "a>b",
        "a|b",
        "123",
        "!!!",
        "😊",
        "\ud800a",
    ],
)
@pytest.mark.parametrize("able", [LARGE, SMALL], ids=["1.7B", "0.6B"])
def test_what_is_no_emotion_word_is_refused_without_repeating_it(emotion, able):
    with pytest.raises(InvalidRequest) as refusal:
        choose(emotion=emotion, able=able)
    assert refusal.value.param == "voice_attributes.emotion"
    assert emotion not in refusal.value.message


def test_blank_emotion_and_blank_instruct_are_no_wishes():
    assert choose(emotion=" ", instruct=" ") == choose()


@pytest.mark.parametrize("age", [8, 70])
def test_ends_of_life_get_a_phrase_after_the_emotion(age):
    instruct = choose(gender="female", age=age, emotion="calm").instruct
    assert instruct.startswith("Speak in a calm, relaxed, steady tone. Speak ")
    assert len(instruct) < 200


@pytest.mark.parametrize("age", [13, 19, 20, 35, 36, 54])
def test_ages_between_get_no_phrase(age):
    assert choose(gender="male", age=age).instruct is None


def test_given_instruct_wins_over_emotion_and_age_phrase_and_says_so():
    choice = choose(gender="male", age=8, emotion="sad", instruct="  Sing it. ")
    assert choice.instruct == "  Sing it. "
    assert set(choice.applied) == {"gender", "instruct"}
    assert choice.not_applied["emotion"] == "instruct was given and takes its place"
    assert "age" in choice.not_applied


def test_given_instruct_silences_even_a_neutral_emotion():
    assert "emotion" in choose(emotion="neutral", instruct="Shout.").not_applied


def test_model_that_ignores_instructions_says_so():
    choice = choose(gender="male", age=8, emotion="sad", instruct="Sing it.", able=SMALL)
    assert choice.instruct is None
    assert choice.applied == ("gender",)
    assert choice.not_applied["emotion"] == "this model does not follow instructions"
    assert choice.not_applied["instruct"] == "this model does not follow instructions"
    assert choice.not_applied["age"] == "no fitting speaker sounds this age"


def test_neutral_emotion_needs_no_instruct_and_so_any_model_obeys_it():
    assert choose(emotion="neutral", able=SMALL).applied == ("emotion",)


def test_age_counts_as_applied_where_the_speaker_sounds_it():
    assert "age" in choose(gender="male", age=70, able=SMALL).applied
    assert "age" in choose("chinese", gender="male", age=16).not_applied


# The whole ------------------------------------------------------------------------------


def test_checkpoint_without_speakers_is_refused():
    with pytest.raises(ValueError, match="without speakers"):
        VoiceCapabilities(speakers=(), obeys_instruct=True)


def test_catalogue_is_complete_and_consistent():
    assert len(SPEAKERS) == 9
    for key, speaker in SPEAKERS.items():
        assert key == speaker.id == speaker.name.lower()
        assert speaker.ages
        assert set(speaker.ages) <= set(AGE_BANDS)
        assert speaker.native_language in LANGUAGES


WORDS = st.sampled_from([None, "", "happy", "грустно", "愤怒", "pensive", "neutral"])


@given(
    attributes=st.builds(
        VoiceAttributes,
        gender=st.sampled_from(GENDERS),
        age=st.none() | st.integers(),
        emotion=WORDS,
    ),
    language=st.sampled_from(LANGUAGES),
    speaker=st.none() | st.sampled_from([*OPENAI_VOICES, *ALL]),
    instruct=st.none() | st.text(max_size=9),
    able=st.sampled_from([LARGE, SMALL]),
)
def test_mapping_is_total_deterministic_and_silent_about_nothing(
    attributes, language, speaker, instruct, able
):
    choice = choose_voice(attributes, language, speaker, instruct, able)
    assert choice == choose_voice(attributes, language, speaker, instruct, able)
    asked = wishes(speaker=speaker, gender=attributes.gender, age=attributes.age)
    asked |= {"emotion"} if attributes.emotion else set()
    asked |= {"instruct"} if instruct and instruct.strip() else set()
    assert set(choice.applied) | set(choice.not_applied) == asked
    assert all(reason.isascii() and reason.isprintable() for reason in choice.not_applied.values())
    assert able.obeys_instruct or choice.instruct is None


@given(st.sets(st.sampled_from(ALL), min_size=1), st.sampled_from(LANGUAGES), st.integers(1, 120))
def test_any_set_of_speakers_gives_a_decision(speakers, language, age):
    able = VoiceCapabilities(speakers=tuple(sorted(speakers)), obeys_instruct=True)
    assert choose(language, gender="female", age=age, able=able).speaker in speakers
