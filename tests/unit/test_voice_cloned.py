"""Which cloned voice answers, and what a clone cannot do."""

import pytest

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import KeptVoice, SpeechRequest, VoiceAttributes
from qwen_tts_service.voice.cloned import CLONED, choose_clone

ANNA, OTHER = KeptVoice(embedding=(1.0,)), KeptVoice(embedding=(2.0,))


def choose(kept=None, **fields):
    request = SpeechRequest(request_id="r", seed=0, text="Hello.", **fields)
    return choose_clone(request, "russian", {"Anna": ANNA} if kept is None else kept)


def test_a_kept_voice_is_found_by_its_name():
    choice, voice = choose(speaker=" Anna ")
    assert voice is ANNA
    assert (choice.speaker, choice.language, choice.applied) == ("Anna", "russian", ("speaker",))


def test_the_voice_of_a_request_speaks_where_nobody_is_named():
    choice, voice = choose(voice=OTHER)
    assert voice is OTHER
    assert (choice.speaker, choice.applied, choice.not_applied) == (CLONED, (), {})
    choice, voice = choose(voice=OTHER, speaker="Anna")
    assert voice is ANNA
    assert (choice.speaker, choice.applied) == ("Anna", ("speaker",))


def test_what_would_change_the_voice_is_said_not_to_be_applied():
    wishes = VoiceAttributes(gender="male", age=30, emotion="sad")
    choice, _ = choose(voice=OTHER, attributes=wishes, instruct="Slowly.")
    assert set(choice.not_applied) == {"gender", "age", "emotion", "instruct"}
    assert choice.instruct is None
    blank = choose(voice=OTHER, attributes=VoiceAttributes(emotion=" "), instruct=" ")[0]
    assert blank.not_applied == {}


@pytest.mark.parametrize(
    ("kept", "known"), [(None, "kept voices: Anna"), ({}, "kept voices: none yet")]
)
def test_an_unknown_name_is_refused_with_those_there_are(kept, known):
    with pytest.raises(InvalidRequest, match=known) as caught:
        choose(kept, speaker="vivian")
    assert (caught.value.param, caught.value.code) == ("speaker", "unknown_speaker")


@pytest.mark.parametrize("speaker", [None, " "])
def test_without_any_voice_the_request_is_refused(speaker):
    with pytest.raises(InvalidRequest, match="name a kept one in speaker") as caught:
        choose(speaker=speaker)
    assert caught.value.code == "voice_required"
