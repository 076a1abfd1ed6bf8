"""Choose a cloned voice for a request, and say which of the given fields were applied."""

from collections.abc import Mapping

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.types import KeptVoice, Language, SpeechRequest, VoiceChoice

from .mapping import NO_INSTRUCT, Outcomes, choice_with, given

CLONED = "cloned"
"""What stands for the name of a voice that has none."""
_IS_CLONED = "a cloned voice speaks as its recording does"


def choose_clone(
    request: SpeechRequest, language: Language, kept: Mapping[str, KeptVoice]
) -> tuple[VoiceChoice, KeptVoice]:
    """Return the choice and the voice: the request's own, or the kept one that `speaker` names.

    raises: `InvalidRequest` with code `unknown_speaker`, or `voice_required` if there is neither
    """
    outcomes: Outcomes = {}
    name, voice = given(request.speaker), request.voice
    if name is not None:
        outcomes["speaker"] = None if voice is None else "the request has a voice of its own"
    if request.attributes.gender is not None:
        outcomes["gender"] = _IS_CLONED
    if request.attributes.age is not None:
        outcomes["age"] = _IS_CLONED
    if given(request.attributes.emotion):
        outcomes["emotion"] = _IS_CLONED
    if given(request.instruct):
        outcomes["instruct"] = NO_INSTRUCT
    named = CLONED if voice is not None or name is None else name.strip()
    choice = choice_with(outcomes, speaker=named, language=language)
    return choice, _named(name, kept) if voice is None else voice


def _named(name: str | None, kept: Mapping[str, KeptVoice]) -> KeptVoice:
    if name is None:
        raise InvalidRequest(
            "this model speaks with cloned voices alone: name a kept one in speaker, or send "
            "ref_audio",
            param="speaker",
            code="voice_required",
        )
    if (found := kept.get(name.strip())) is not None:
        return found
    known = ", ".join(kept) or "none yet"
    raise InvalidRequest(
        f"speaker {shown(name)} is unknown; kept voices: {known}",
        param="speaker",
        code="unknown_speaker",
    )
