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
    """Return the choice and the voice: the kept one that `speaker` names, or the request's own.

    raises: `InvalidRequest` with code `unknown_speaker`, or `voice_required` if there is neither
    """
    outcomes: Outcomes = {}
    if (name := given(request.speaker)) is not None:
        outcomes["speaker"] = None
    if request.attributes.gender is not None:
        outcomes["gender"] = _IS_CLONED
    if request.attributes.age is not None:
        outcomes["age"] = _IS_CLONED
    if given(request.attributes.emotion):
        outcomes["emotion"] = _IS_CLONED
    if given(request.instruct):
        outcomes["instruct"] = NO_INSTRUCT
    voice = request.voice if name is None else _named(name.strip(), kept)
    if voice is None:
        raise InvalidRequest(
            "this model speaks with cloned voices alone: name a kept one in speaker, or send "
            "ref_audio",
            param="speaker",
            code="voice_required",
        )
    speaker = CLONED if name is None else name.strip()
    return choice_with(outcomes, speaker=speaker, language=language), voice


def _named(name: str, kept: Mapping[str, KeptVoice]) -> KeptVoice:
    if (found := kept.get(name)) is not None:
        return found
    known = ", ".join(kept) or "none yet"
    raise InvalidRequest(
        f"speaker {shown(name)} is unknown; kept voices: {known}",
        param="speaker",
        code="unknown_speaker",
    )
