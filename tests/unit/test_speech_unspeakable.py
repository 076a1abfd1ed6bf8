"""Text without a reading: an error, or a short silence and a warning, as the request says."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from qwen_tts_service.errors import CannotSpeak, InvalidRequest, SynthesisFailed
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.speech.unspeakable import WARNING
from qwen_tts_service.speech.writing import open_speech
from qwen_tts_service.types import Samples, SpeechRequest, VoiceChoice

RATE_HZ = 1000
SILENCE = 200
STREAM = Output("pcm", is_stream=True)


class Fixed:
    """5 samples; none for a text with `mute`; refused with `late`, and after a sound with `cut`."""

    warning = None
    expected_s = 0.005
    finish_reason: Any = None

    def __init__(self, request: SpeechRequest, choice: VoiceChoice) -> None:
        self.text = request.text or ""
        self.choice = choice

    def speak(self) -> "Fixed":
        return self

    async def __aiter__(self) -> AsyncIterator[Samples]:
        if "late" in self.text:
            self.finish_reason = "error"
            raise CannotSpeak("no sound", code="no_reading")
        if "mute" not in self.text:
            yield np.full(5, 0.0005, np.float32)
        if "cut" in self.text:
            raise CannotSpeak("no sound any more", code="no_reading")
        self.finish_reason = "stop"

    async def aclose(self) -> None:
        self.finish_reason = self.finish_reason or "cancelled"


class Picky:
    """A voice that knows no reading for `q`, and refuses a runaway at once."""

    sample_rate_hz = RATE_HZ
    longest_part_chars: int | None = None
    model_name = "picky"

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        if request.speaker == "nobody":
            raise InvalidRequest("speaker is not known", param="speaker")
        return VoiceChoice(speaker="picky", language=request.language or "english")

    def prepare(self, request: SpeechRequest) -> Fixed:
        if "q" in (request.text or ""):
            raise CannotSpeak("no reading", param="text", code="no_reading")
        if "wild" in (request.text or ""):
            raise CannotSpeak("wild", code="runaway")
        return Fixed(request, self.choose(request))

    def open(self, request: SpeechRequest) -> Any:
        raise AssertionError("nothing is to be opened")


def request(text: str | None, **fields: Any) -> SpeechRequest:
    return SpeechRequest(
        request_id="r", seed=7, text=text, **{"on_unspeakable": "silence", **fields}
    )


def synthesizer(voice: Picky | None = None) -> Synthesizer:
    return Synthesizer(voice or Picky(), sample_rate_hz=8000)  # type: ignore[arg-type]


async def hear(text: str, **fields: Any) -> tuple[list[int], str | None, str]:
    """Samples between borders of sound and silence at the voice's rate; warning; language."""
    speech = await synthesizer().speak(request(text, **fields), STREAM)
    async with aclosing(speech):
        heard = np.concatenate([samples async for samples in speech._pcm])
    assert speech.finish_reason in ("stop", "length")
    assert heard.dtype == np.float32
    runs = np.split(heard, np.flatnonzero(np.diff(heard)) + 1)
    return [len(run) for run in runs], speech.info.warning, speech.info.choice.language


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("...", [SILENCE]),
        ("😊 **", [SILENCE]),
        ("[pause:1s]", [1000 + SILENCE]),
        ("q", [SILENCE]),
        ("late", [SILENCE]),
        ("Yes. Oh q.", [5, SILENCE]),
        ("Yes. Oh quo. Yes.", [5, SILENCE, 5]),
        ("Yes. Yes. Oh quo. Ah q. Yes. No.", [5, 2 * SILENCE, 5]),
        ("Yes. q. Yes.", [5, SILENCE, 5]),
        ("q。yes.\nq... Yes", [SILENCE, 5, SILENCE, 5]),
        ("Yes [pause:1s] q", [5, 1000 + SILENCE]),
        ("late [pause:1s] Yes", [SILENCE + 1000, 5]),
    ],
)
async def test_what_has_no_reading_is_silent_and_the_rest_is_spoken(
    text: str, runs: list[int]
) -> None:
    heard, warning, language = await hear(text, language="german")
    assert heard == runs
    assert (warning, language) == (WARNING, "german")


@pytest.mark.parametrize("text", ["Yes.", "Yes [pause:0.2s] ... [pause:0.2s] yes"])
async def test_what_is_spoken_is_not_warned_about(text: str) -> None:
    assert (await hear(text))[1] is None


@pytest.mark.parametrize("text", ["...", "q", "late", "Yes. [pause:1s] q"])
async def test_without_asking_it_is_an_error(text: str) -> None:
    with pytest.raises(CannotSpeak) as caught:
        await hear(text, on_unspeakable="error")
    assert caught.value.code == "no_reading"


async def test_only_a_missing_reading_is_silenced() -> None:
    with pytest.raises(CannotSpeak):
        await hear("wild")
    with pytest.raises(InvalidRequest):
        await hear("...", speaker="nobody")
    with pytest.raises(CannotSpeak):  # it has been heard
        await hear("cut")
    with pytest.raises(SynthesisFailed):  # a voice that is mute has failed
        await synthesizer().speak_whole(request("mute"), "pcm")


@pytest.mark.parametrize("text", ["...", "q", "late"])
async def test_the_silence_is_cut_by_max_length(text: str) -> None:
    assert (await hear(text, max_frames=1))[0] == [80]


async def test_a_whole_file_is_the_stream() -> None:
    data, speech = await synthesizer().speak_whole(request("..."), "pcm")
    assert len(data) == 2 * 8 * SILENCE
    assert not any(data)
    assert (speech.info.warning, speech.audio_s) == (WARNING, 0.2)


async def write(*pieces: str, by_token: bool, **fields: Any) -> list[tuple[str | None, float]]:
    """Warning and seconds of each stretch of audio."""

    async def before() -> None:
        pass

    written = open_speech(synthesizer(), request(None, **fields), STREAM, by_token=by_token)
    for piece in pieces:
        written.feed(piece)
    written.finish()
    stretches = []
    async for speech in written.speeches(before):
        async with aclosing(speech):
            _ = [part async for part in speech]
        stretches.append((speech.info.warning, round(speech.audio_s, 3)))
    return stretches


@pytest.mark.parametrize("by_token", [True, False])
async def test_a_written_text_without_a_word_is_silent(by_token: bool) -> None:
    assert await write("..", ". 😊", by_token=by_token) == [(WARNING, 0.2)]
    with pytest.raises(CannotSpeak):
        await write("...", by_token=by_token, on_unspeakable="error")


@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("text", ["<think>Hm.", "<!-- a -->", "<script>a</script>", "[voice:bob]"])
async def test_a_written_text_that_is_all_markup_is_silent(text: str, by_token: bool) -> None:
    assert await write(text, by_token=by_token) == [(WARNING, 0.2)]
    with pytest.raises(CannotSpeak):
        await write(text, by_token=by_token, on_unspeakable="error")


async def test_a_written_text_that_is_refused_otherwise_is_not_silenced() -> None:
    class Refusing(Picky):
        def open(self, request: SpeechRequest) -> Any:
            raise CannotSpeak("wild", code="runaway")

    written = open_speech(synthesizer(Refusing()), request(None), STREAM, by_token=True)
    written.feed("Yes.")
    with pytest.raises(CannotSpeak):
        written.finish()


@pytest.mark.parametrize("on_unspeakable", ["error", "silence"])
async def test_a_mark_with_a_reading_is_a_word(on_unspeakable: str) -> None:
    asked = {"pronunciations": (("🙂", "yes"),), "on_unspeakable": on_unspeakable}
    assert await write("🙂", by_token=False, **asked) == [(None, 0.005)]


async def test_a_written_sentence_without_a_reading_is_silent_and_the_next_is_spoken() -> None:
    stretches = await write("Yes. Oh q! ... ", "Yes.", by_token=False)
    assert stretches == [(None, 0.005), (WARNING, 0.2), (None, 0.005)]
