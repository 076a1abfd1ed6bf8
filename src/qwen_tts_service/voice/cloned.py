"""Choose a cloned voice for a request, and say which of the given fields were applied."""

from collections.abc import Mapping

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.types import KeptVoice, Language, SpeechRequest, VoiceChoice

from .mapping import NO_INSTRUCT, choice_with, given, outcomes_of

CLONED = "cloned"
"""What stands for the name of a voice that has none."""
_IS_CLONED = "a cloned voice speaks as its recording does"


def choose_clone(
    request: SpeechRequest, language: Language, kept: Mapping[str, KeptVoice]
) -> tuple[VoiceChoice, KeptVoice]:
    """Return the choice and the voice: the kept one that `speaker` names, or the request's own.

    raises: `InvalidRequest` with code `unknown_speaker`, or `voice_required` if there is neither
    """
    name, attributes = given(request.speaker), request.attributes
    outcomes = outcomes_of(
        ("speaker", name, None),
        ("gender", attributes.gender, _IS_CLONED),
        ("age", attributes.age, _IS_CLONED),
        ("emotion", given(attributes.emotion), _IS_CLONED),
        ("instruct", given(request.instruct), NO_INSTRUCT),
    )
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
