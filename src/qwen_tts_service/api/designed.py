"""Designed voices: VoiceDesign speaks a clip, which is kept as the recording of a voice.

It is encoded by the first Base model that is to speak with it and finds it in VOICES_PATH.
"""

import asyncio

from qwen_tts_service.audio.recording import LONGEST_S, TAIL_S, read_recording
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.fields import VoiceForm, draw_seed
from qwen_tts_service.types import FRAME_S, KeptVoice, SamplingOptions, SpeechRequest
from qwen_tts_service.voice.description import CLIP_TEXTS
from qwen_tts_service.voice.library import LibraryEntry

from .call import Call
from .runtime import Runtime

NEEDS_A_BASE_MODEL = (
    "it is kept as a recording: a server with a Base model and this VOICES_PATH speaks with it, "
    "and this one makes another voice of every description"
)
MARKUP = frozenset("[]<>")
"""What no transcript has."""


async def design_voice(form: VoiceForm, runtime: Runtime, call: Call) -> tuple[LibraryEntry, bytes]:
    """Speak a clip with the described voice: the voice to keep, and its recording.

    raises: CannotSpeak with code `design_not_supported` if the loaded model describes no voices
    """
    synthesizer = await runtime.keeper.wake(call.at_end)
    if synthesizer.voice.facts.get("kind") != "voice_design":
        raise CannotSpeak(
            "this model makes no voice of a description, MODEL_NAME=Qwen3-TTS-12Hz-1.7B-"
            "VoiceDesign does: send the same to a server with it and this VOICES_PATH, or let it "
            "speak a clip and send that here as audio_sample, and its text as ref_text",
            param="description",
            code="design_not_supported",
        )
    request = _request_for(form, call.request_id)
    slot = runtime.admission.enter()
    call.at_end(slot.release)
    async with asyncio.timeout(runtime.settings.request_timeout_s):
        await slot.granted()
        clip, speech = await synthesizer.speak_whole(request, "wav")
    call.spoke(speech.audio_s)
    if speech.finish_reason == "length":
        raise InvalidRequest(
            f"ref_text takes more than {LONGEST_S:g} s: send less", param="ref_text"
        )
    try:
        await asyncio.to_thread(read_recording, clip)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"{error.message}; so the clip of ref_text cannot be kept",
            param="ref_text",
            code=error.code,
        ) from None
    entry = LibraryEntry(
        name=form.name,
        model=runtime.settings.model_name,
        voice=KeptVoice(embedding=(), transcript=request.text or ""),
        duration_s=speech.audio_s,
        tail_s=TAIL_S if runtime.settings.reference_tail == "silence" else 0.0,
        recording="recording.wav",
        language=speech.info.choice.language,
        description=form.description,
        consent=form.consent,
    )
    return entry, clip


def _request_for(form: VoiceForm, request_id: str) -> SpeechRequest:
    if form.keep_audio == "false":
        raise InvalidRequest("a designed voice is kept as its recording", param="keep_audio")
    if form.ref_text and not MARKUP.isdisjoint(form.ref_text):
        raise InvalidRequest(
            "ref_text must be plain words, without tags: it is kept as what is said in the clip",
            param="ref_text",
        )
    language = form.spoken_language
    return SpeechRequest(
        request_id=request_id,
        seed=draw_seed() if form.seed is None else form.seed,
        is_seed_drawn=form.seed is None,
        text=form.ref_text or CLIP_TEXTS[language or "english"],
        language=language,
        instruct=form.description,
        sampling=SamplingOptions(temperature=form.temperature),
        max_frames=int(LONGEST_S / FRAME_S),
    )
