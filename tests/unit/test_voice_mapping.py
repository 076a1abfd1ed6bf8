"""Gender, age, emotion, speaker and instruct choose a voice."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tts_service.errors import InvalidRequest, StartupError, shown
from qwen_tts_service.types import VoiceAttributes
from qwen_tts_service.voice import emotions
from qwen_tts_service.voice.catalogue import (
    AGE_BANDS,
    OPENAI_VOICES,
    SPEAKERS,
    age_band,
    gender_of_openai_voice,
    read_speakers,
)
from qwen_tts_service.voice.emotions import EMOTIONS, emotion_phrase, known_emotion
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
LARGE = VoiceCapabilities(speakers=ALL, follows_instruct=True)
SMALL = VoiceCapabilities(speakers=ALL, follows_instruct=False)


def choose(language="russian", speaker=None, instruct=None, able=LARGE, **attributes):
    return choose_voice(VoiceAttributes(**attributes), language, speaker, instruct, able)


def asked_for(**given):
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
def test_every_attribute_is_applied_or_has_a_reason(language, able):
    for speaker, gender, age in product((None, *ALL), GENDERS, AGES):
        choice = choose(language, speaker, able=able, gender=gender, age=age)
        asked = asked_for(speaker=speaker, gender=gender, age=age)
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
    (["chinese"], "neutral", "vivian vivian serena serena uncle_fu"),
    (["japanese"], "female", "ono_anna ono_anna ono_anna ono_anna sohee"),
    (["japanese"], "neutral", "ono_anna ono_anna ono_anna ono_anna uncle_fu"),
    (["korean"], "female", "sohee sohee sohee sohee sohee"),
    (["korean"], "neutral", "sohee sohee sohee sohee uncle_fu"),
    (["japanese", "korean", *EUROPEAN], "male", "aiden aiden aiden ryan uncle_fu"),
    (EUROPEAN, "female", "ono_anna ono_anna vivian serena serena"),
    (EUROPEAN, "neutral", "ono_anna aiden ryan ryan uncle_fu"),
]


@pytest.mark.parametrize(("languages", "gender", "speakers"), AGE_TABLE)
def test_speaker_follows_gender_age_and_language(languages, gender, speakers):
    for language, (age, speaker) in product(
        languages, zip((8, 16, 25, 45, 70), speakers.split(), strict=True)
    ):
        assert choose(language, gender=gender, age=age).speaker == speaker
        if gender == "neutral":
            assert choose(language, age=age).speaker == speaker


@pytest.mark.parametrize(("languages", "gender", "speakers"), AGE_TABLE)
def test_gender_without_an_age_is_answered_by_the_adult(languages, gender, speakers):
    for language in languages:
        assert choose(language, gender=gender).speaker == speakers.split()[3]


@pytest.mark.parametrize(
    ("speakers", "language", "attributes", "speaker"),
    [
        pytest.param("sohee ryan", "russian", {}, "ryan", id="the one of the table"),
        pytest.param("uncle_fu sohee", "russian", {"gender": "female"}, "sohee", id="the gender"),
        pytest.param(
            "aiden serena", "russian", {"gender": "female", "age": 16}, "serena", id="gender > age"
        ),
        pytest.param("ryan aiden", "russian", {"gender": "female", "age": 16}, "aiden", id="age"),
        pytest.param("aiden ryan", "russian", {"gender": "female", "age": 40}, "ryan", id="adult"),
        pytest.param("dylan sohee", "chinese", {"gender": "male"}, "sohee", id="no dialect"),
        pytest.param("sohee dylan", "russian", {"gender": "male"}, "dylan", id="no Chinese text"),
        pytest.param("sohee vivian", "russian", {"age": 40}, "sohee", id="no gender: age"),
        pytest.param("Маша aiden", "russian", {}, "aiden", id="a known one before an unknown"),
        pytest.param("dylan Маша", "chinese", {}, "Маша", id="an unknown one before a dialect"),
        pytest.param("Маша Ира", "russian", {"age": 8}, "Маша", id="the first of equals"),
        pytest.param("eric dylan", "russian", {"age": 25}, "eric", id="the first of two young"),
        pytest.param("dylan eric", "russian", {"age": 25}, "dylan", id="the first of these two"),
    ],
)
def test_checkpoint_without_the_speaker_of_the_table_answers_with_the_nearest(
    speakers, language, attributes, speaker
):
    able = VoiceCapabilities(speakers=tuple(speakers.split()), follows_instruct=True)
    assert choose(language, able=able, **attributes).speaker == speaker


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


def test_neutral_gender_is_reported_as_no_preference():
    reason = choose(gender="neutral").not_applied["gender"]
    assert reason == "no speaker is neutral, so neutral means no preference"
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
    able = VoiceCapabilities(speakers=("dylan", "eric", "sohee"), follows_instruct=True)
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


def test_each_openai_name_has_its_speaker():
    assert OPENAI_VOICES == {
        "alloy": "serena",
        "ash": "ryan",
        "ballad": "uncle_fu",
        "cedar": "ryan",
        "coral": "vivian",
        "echo": "aiden",
        "fable": "aiden",
        "marin": "serena",
        "nova": "vivian",
        "onyx": "uncle_fu",
        "sage": "sohee",
        "shimmer": "ono_anna",
        "verse": "ryan",
    }


def test_speaker_of_the_checkpoint_wins_over_a_voice_of_openai_with_its_name():
    able = VoiceCapabilities(speakers=("serena", "Alloy"), follows_instruct=True)
    assert resolve_speaker("alloy", able) == "Alloy"


@pytest.mark.parametrize("name", ["uncle_fu", "UNCLE-FU", "uncle  fu", " Uncle_Fu "])
def test_speaker_is_given_as_the_checkpoint_spells_it(name):
    able = VoiceCapabilities(speakers=("Uncle-Fu",), follows_instruct=True)
    assert resolve_speaker(name, able) == "Uncle-Fu"
    assert resolve_speaker("onyx", able) == "Uncle-Fu"


@pytest.mark.parametrize(
    ("name", "gender"),
    [
        *[(name, "female") for name in ("nova", "alloy", "coral", "marin", "sage", "shimmer")],
        *[
            (name, "male")
            for name in (" Onyx ", "ash", "ballad", "cedar", "echo", "fable", "verse")
        ],
        ("vivian", None),
        ("nobody", None),
        ("", None),
    ],
)
def test_openai_voices_have_the_gender_of_their_speaker(name, gender):
    assert gender_of_openai_voice(name) == gender


@pytest.mark.parametrize("name", ["nobody", "!", "пётр", "ryan2", "a" * 500])
def test_unknown_speaker_is_refused_by_name_with_the_known_ones(name):
    with pytest.raises(InvalidRequest) as refusal:
        choose(speaker=name)
    assert refusal.value.code == "unknown_speaker"
    assert refusal.value.param == "speaker"
    assert all(speaker in refusal.value.message for speaker in ALL)
    assert refusal.value.message.startswith(f"speaker {shown(name)} is unknown")


def test_speaker_that_only_the_checkpoint_knows_is_accepted():
    able = VoiceCapabilities(speakers=("Маша",), follows_instruct=True)
    choice = choose(speaker="маша", gender="female", age=20, able=able)
    assert choice.speaker == "Маша"
    assert choice.not_applied == {
        "gender": "the gender of this speaker is not known",
        "age": "the age of this speaker is not known",
    }


def test_gender_that_no_speaker_of_the_checkpoint_has_is_reported():
    able = VoiceCapabilities(speakers=("ryan",), follows_instruct=True)
    assert choose(gender="female", able=able).not_applied == {
        "gender": "this model has no fitting female speaker"
    }


def test_known_speaker_that_the_checkpoint_lacks_is_refused():
    able = VoiceCapabilities(speakers=("ryan",), follows_instruct=True)
    with pytest.raises(InvalidRequest):
        choose(speaker="vivian", able=able)
    with pytest.raises(InvalidRequest):
        choose(speaker="alloy", able=able)


def test_speaker_wins_over_gender_and_age_with_a_reason():
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
    assert choice.applied == ("speaker", "gender", "age")
    assert choice.not_applied == {}


def test_blank_speaker_is_no_speaker():
    assert choose(speaker=" ") == choose()


# Emotion, age phrases and instruct ------------------------------------------------------


EMOTION_WORDS = {
    "neutral": "neutral, none, normal, default, plain, нейтральный, нейтральная, нейтрально, "
    "нейтральное, обычный, обычная, обычно, без эмоций, 中性, 中立, 平淡, 普通, 正常, 无",
    "happy": "happy, happiness, joy, joyful, joyous, cheerful, glad, merry, delighted, happily, "
    "радость, радостный, радостная, радостно, счастье, счастливый, счастливая, "
    "счастливо, веселье, весёлый, весёлая, весело, жизнерадостный, жизнерадостно, 开心, "
    "高兴, 快乐, 愉快, 喜悦, 欢快, 開心, 高興, 快樂",
    "sad": "sad, sadness, sadly, sorrow, sorrowful, unhappy, melancholy, melancholic, gloomy, "
    "depressed, mournful, грусть, грустный, грустная, грустно, печаль, печальный, "
    "печальная, печально, тоска, тоскливый, тоскливо, унылый, уныло, горе, 悲伤, 难过, 伤心, "
    "悲哀, 忧伤, 悲傷, 難過, 傷心",
    "angry": "angry, anger, angrily, furious, mad, rage, irritated, annoyed, злость, злой, злая, "
    "зло, гнев, гневный, гневная, гневно, сердитый, сердитая, сердито, ярость, яростный, "
    "яростно, раздражённый, раздражённо, 愤怒, 生气, 恼火, 暴怒, 憤怒, 生氣",
    "fearful": "fearful, fear, afraid, scared, frightened, terrified, anxious, nervous, страх, "
    "испуг, испуганный, испуганная, испуганно, страшно, боязливый, боязливо, тревога, "
    "тревожный, тревожная, тревожно, 害怕, 恐惧, 恐慌, 紧张, 惊恐, 恐懼, 緊張",
    "surprised": "surprised, surprise, astonished, amazed, shocked, удивление, удивлённый, "
    "удивлённая, удивлённо, изумление, изумлённый, изумлённо, шок, 惊讶, 吃惊, 惊奇, 惊喜, 驚訝, "
    "吃驚",
    "disgusted": "disgusted, disgust, contempt, contemptuous, scornful, отвращение, брезгливый, "
    "брезгливо, презрение, презрительный, презрительно, с отвращением, 厌恶, 恶心, 嫌弃, 鄙视, "
    "厭惡, 噁心",
    "excited": "excited, excitement, enthusiastic, energetic, thrilled, восторг, восторженный, "
    "восторженная, восторженно, возбуждённый, возбуждённо, воодушевлённый, "
    "воодушевлённо, энергичный, энергично, взволнованный, взволнованно, 兴奋, 激动, 热情, 興奮, "
    "激動",
    "calm": "calm, calmly, relaxed, peaceful, serene, soothing, tranquil, спокойствие, "
    "спокойный, спокойная, спокойно, расслабленный, расслабленно, умиротворённый, "
    "умиротворённо, безмятежный, безмятежно, 平静, 冷静, 放松, 舒缓, 平靜, 冷靜",
    "serious": "serious, seriously, formal, stern, solemn, серьёзность, серьёзный, серьёзная, "
    "серьёзно, строгий, строгая, строго, официальный, официально, торжественный, "
    "торжественно, 严肃, 正式, 认真, 庄重, 嚴肅, 認真",
    "friendly": "friendly, warm, kind, tender, gentle, affectionate, дружелюбие, дружелюбный, "
    "дружелюбная, дружелюбно, тёплый, тепло, добрый, добрая, ласковый, ласковая, "
    "ласково, нежный, нежная, нежно, приветливый, приветливо, 友好, 亲切, 温柔, 温暖, 親切, 溫柔",
    "whisper": "whisper, whispering, whispered, hushed, шёпот, шёпотом, шепчущий, шепча, "
    "耳语, 低语, 悄悄话, 轻声, 耳語, 輕聲",
}


@pytest.mark.parametrize("emotion", EMOTION_WORDS)
def test_emotion_is_known_in_english_russian_and_chinese(emotion):
    words = EMOTION_WORDS[emotion].split(", ")
    assert {word: known_emotion(word) for word in words} == dict.fromkeys(words, emotion)


@pytest.mark.parametrize(
    ("word", "emotion"),
    [
        ("HAPPY", "happy"),
        ("Веселый", "happy"),
        ("ВЕСЁЛЫЙ", "happy"),
        ("без   ЭМОЦИЙ", "neutral"),
        (" happy ", "happy"),
        ("happy.", "happy"),
        ("happy!!", "happy"),
        ("开心。", "happy"),
        ("开心！", "happy"),
        ("happy?", None),
        ("very happy", None),
        ("", None),
    ],
)
def test_emotion_word_is_known_in_any_case_and_spacing_and_with_a_point(word, emotion):
    assert known_emotion(word) == emotion


PHRASES = {
    "happy": ("Speak in a very happy, cheerful tone.", "用非常开心愉快的语气说。"),
    "sad": ("Speak in a very sad, sorrowful tone.", "用非常悲伤难过的语气说。"),
    "angry": ("Speak in a very angry, furious tone.", "用特别愤怒的语气说。"),
    "fearful": ("Speak in a frightened, trembling voice.", "用害怕、颤抖的语气说。"),
    "surprised": ("Speak in a very surprised, astonished tone.", "用非常惊讶的语气说。"),
    "disgusted": ("Speak in a disgusted, contemptuous tone.", "用厌恶嫌弃的语气说。"),
    "excited": ("Speak in a very excited, energetic tone.", "用非常兴奋激动的语气说。"),
    "calm": ("Speak in a calm, relaxed, steady tone.", "用平静舒缓的语气说。"),
    "serious": ("Speak in a serious, formal tone.", "用严肃正式的语气说。"),
    "friendly": ("Speak in a warm, friendly tone.", "用温暖亲切的语气说。"),
    "whisper": ("Whisper softly, in a hushed voice.", "轻声耳语。"),
}


@pytest.mark.parametrize("emotion", PHRASES)
def test_known_emotion_has_its_phrase_in_english_and_in_chinese(emotion):
    phrases = (emotion_phrase(emotion, "english"), emotion_phrase(emotion, "chinese"))
    assert phrases == PHRASES[emotion]


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_neutral_emotion_has_no_phrase(language):
    assert emotion_phrase("neutral", language) == ""


def test_emotions_are_those_of_the_table():
    assert list(EMOTIONS) == list(EMOTION_WORDS)


def test_no_emotion_word_means_two_emotions():
    words = [
        emotions._key(word) for row in emotions._TABLE.values() for word in row["words"].split(",")
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
        *[
            ("english", word, f"Speak in an {word} tone.")
            for word in ("angelic", "eerie", "Ironic", "OMINOUS", "upbeat")
        ],
        ("english", " bored. ", "Speak in a bored tone."),
        ("english", "bored!", "Speak in a bored tone."),
        ("english", "a" * 64, f"Speak in an {'a' * 64} tone."),
        ("english", f"  {'b' * 64}  ", f"Speak in a {'b' * 64} tone."),
        ("english", "half-asleep, 50 %", "Speak in a half-asleep, 50 % tone."),
        ("german", "задумчивый", "Speak in a задумчивый tone."),
        ("chinese", "怀旧", "用怀旧的语气说。"),
        ("chinese", "怀旧。", "用怀旧的语气说。"),
        ("chinese", "怀旧！", "用怀旧的语气说。"),
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
        "a<b",
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


def test_blank_emotion_and_blank_instruct_count_as_not_given():
    assert choose(emotion=" ", instruct=" ") == choose()


CHILD = "Speak in a high-pitched, childlike voice."
OLD = "Speak slowly in an aged, slightly hoarse, thin voice, like a person in their seventies."


@pytest.mark.parametrize(
    ("language", "age", "instruct"),
    [
        ("russian", 1, CHILD),
        ("russian", 12, CHILD),
        ("japanese", 55, OLD),
        ("english", 120, OLD),
        ("chinese", 12, "用稚嫩、音调偏高的童声说。"),
        ("chinese", 55, "用苍老、略带沙哑、缓慢的老年人声音说。"),
    ],
)
def test_ends_of_life_get_a_phrase_after_the_emotion(language, age, instruct):
    choice = choose(language, age=age)
    assert choice.instruct == instruct
    assert choice.applied == ("age",)
    space = "" if language == "chinese" else " "
    calm = emotion_phrase("calm", "chinese" if language == "chinese" else "english")
    assert choose(language, age=age, emotion="calm").instruct == calm + space + instruct


@pytest.mark.parametrize("age", [13, 19, 20, 35, 36, 54])
def test_ages_between_get_no_phrase(age):
    for language in ("russian", "chinese"):
        assert choose(language, gender="male", age=age).instruct is None


def test_instruct_wins_over_emotion_and_age_phrase_with_a_reason():
    choice = choose(gender="male", age=8, emotion="sad", instruct="  Sing it. ")
    assert choice.instruct == "  Sing it. "
    assert set(choice.applied) == {"gender", "instruct"}
    assert choice.not_applied["emotion"] == "instruct was given and takes its place"
    assert "age" in choice.not_applied


def test_given_instruct_silences_even_a_neutral_emotion():
    reason = "instruct was given and takes its place"
    assert choose(emotion="neutral", instruct="Shout.").not_applied == {"emotion": reason}


def test_phrase_for_an_age_makes_up_for_a_speaker_who_does_not_sound_it():
    assert choose("chinese", gender="male", age=8).applied == ("gender", "age")
    reason = "no fitting speaker sounds this age"
    assert choose("chinese", age=8, instruct="Shout.").not_applied == {"age": reason}
    assert choose("chinese", age=8, able=SMALL).not_applied == {"age": reason}


def test_given_speaker_gets_no_phrase_for_an_age():
    choice = choose(speaker="ryan", age=8, emotion="calm")
    assert choice.instruct == "Speak in a calm, relaxed, steady tone."
    assert choice.not_applied == {"age": "speaker was given and sounds another age"}


def test_applied_attributes_are_in_the_order_of_the_request():
    choice = choose(speaker="ryan", gender="male", age=40, emotion="sad")
    assert choice.applied == ("speaker", "gender", "age", "emotion")
    choice = choose(speaker="ryan", gender="male", age=40, emotion="sad", instruct="Sing it.")
    assert choice.applied == ("speaker", "gender", "age", "instruct")


def test_model_that_ignores_instructions_is_a_reason():
    choice = choose(gender="male", age=8, emotion="sad", instruct="Sing it.", able=SMALL)
    assert choice.instruct is None
    assert choice.applied == ("gender",)
    assert choice.not_applied["emotion"] == "this model does not follow instructions"
    assert choice.not_applied["instruct"] == "this model does not follow instructions"
    assert choice.not_applied["age"] == "no fitting speaker sounds this age"


def test_neutral_emotion_needs_no_instruct_and_is_applied_by_any_model():
    assert choose(emotion="neutral", able=SMALL).applied == ("emotion",)
    choice = choose(emotion="neutral", instruct="Sing it.", able=SMALL)
    assert choice.applied == ("emotion",)
    assert set(choice.not_applied) == {"instruct"}


def test_age_counts_as_applied_where_the_speaker_sounds_it():
    assert "age" in choose(gender="male", age=70, able=SMALL).applied
    assert "age" in choose("chinese", gender="male", age=16).not_applied


# The whole ------------------------------------------------------------------------------


CATALOGUE = {
    "vivian": ("female", "teen young", "chinese", None, "bright young woman"),
    "serena": ("female", "young adult", "chinese", None, "gentle woman"),
    "ono_anna": ("female", "child teen young", "japanese", None, "girl"),
    "sohee": ("female", "young adult", "korean", None, "woman who shows her feelings"),
    "uncle_fu": ("male", "adult senior", "chinese", None, "mellow man"),
    "dylan": ("male", "teen young", "chinese", "beijing", "young man from Beijing"),
    "eric": ("male", "young", "chinese", "sichuan", "man from Chengdu"),
    "ryan": ("male", "young adult", "english", None, "dynamic man"),
    "aiden": ("male", "teen young", "english", None, "young American"),
}


@pytest.mark.parametrize("speaker_id", CATALOGUE)
def test_speaker_is_in_the_catalogue_as_it_sounds(speaker_id):
    speaker = SPEAKERS[speaker_id]
    gender, ages, native_language, dialect, description = CATALOGUE[speaker_id]
    assert (speaker.gender, " ".join(speaker.ages)) == (gender, ages)
    assert (speaker.native_language, speaker.dialect) == (native_language, dialect)
    assert (speaker.id, speaker.name) == (speaker_id, speaker_id.title())
    assert description in speaker.description


def test_catalogue_has_these_speakers_in_this_order_and_no_others():
    assert list(SPEAKERS) == list(CATALOGUE)
    assert AGE_BANDS == ("child", "teen", "young", "adult", "senior")


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
    asked = asked_for(speaker=speaker, gender=attributes.gender, age=attributes.age)
    asked |= {"emotion"} if attributes.emotion else set()
    asked |= {"instruct"} if instruct and instruct.strip() else set()
    assert set(choice.applied) | set(choice.not_applied) == asked
    assert all(reason.isascii() and reason.isprintable() for reason in choice.not_applied.values())
    assert able.follows_instruct or choice.instruct is None


@given(st.sets(st.sampled_from(ALL), min_size=1), st.sampled_from(LANGUAGES), st.integers(1, 120))
def test_any_set_of_speakers_gives_a_decision(speakers, language, age):
    able = VoiceCapabilities(speakers=tuple(sorted(speakers)), follows_instruct=True)
    assert choose(language, gender="female", age=age, able=able).speaker in speakers


# Speakers of a checkpoint's own ----------------------------------------------------------


def own(tmp_path, text):
    file = tmp_path / "speakers.json"
    file.write_text(text, encoding="utf-8")
    return read_speakers(file)


def test_nothing_is_known_of_speakers_that_nobody_describes(tmp_path):
    known = read_speakers(tmp_path / "speakers.json")
    assert known is SPEAKERS
    able = VoiceCapabilities(speakers=("speaker_test",), follows_instruct=False, known=known)
    choice = choose(gender="male", age=30, able=able)
    assert choice.speaker == "speaker_test"
    assert choice.not_applied == {
        "gender": "the gender of this speaker is not known",
        "age": "the age of this speaker is not known",
    }


def test_speakers_are_described_in_a_file_beside_the_checkpoint(tmp_path):
    known = own(
        tmp_path,
        '{"Boris": {"gender": "male", "age": 60}, "Vera": {"gender": "female",'
        ' "description": "Low.", "native_language": "russian"}}',
    )
    assert known["vivian"] is SPEAKERS["vivian"]
    assert (known["vera"].name, known["vera"].description) == ("Vera", "Low.")
    able = VoiceCapabilities(speakers=("vera", "boris"), follows_instruct=False, known=known)
    assert choose(gender="male", able=able).speaker == "boris"
    assert choose(gender="female", able=able).speaker == "vera"
    choice = choose("russian", "Boris", gender="male", age=70, able=able)
    assert set(choice.applied) == {"speaker", "gender", "age"}
    assert choose("russian", "boris", age=20, able=able).not_applied == {
        "age": "speaker was given and sounds another age"
    }
    assert choose("russian", "vera", age=20, able=able).not_applied == {
        "age": "the age of this speaker is not known"
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "must be an object of speakers"),
        ("{", "must be an object of speakers"),
        ('{"a": 1}', "must be an object of speakers"),
        ('{"a": {"age": 3}}', "a: no gender"),
        ('{"a": {"gender": "m"}}', "a: no gender"),
        ('{"a": {"gender": "male", "pitch": 1}}', r"a: unknown \['pitch'\]"),
        ('{"a": {"gender": "male", "age": "old"}}', "must be an object of speakers"),
        ('{"a": {"gender": "male", "native_language": "ru"}}', "a: description is a text"),
        ('{"a": {"gender": "male", "description": 5}}', "a: description is a text"),
    ],
)
def test_a_wrong_description_of_speakers_is_named(tmp_path, text, said):
    with pytest.raises(StartupError, match=said):
        own(tmp_path, text)
