"""How the synthesizer performs a script: refusals first, then one voice, part after part."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import pytest

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import CannotSpeak
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.types import SpeechRequest, VoiceChoice

RATE_HZ = 24000
STREAM = Output("pcm", is_stream=True)


@dataclass(frozen=True)
class Told:
    request: SpeechRequest
    choice: VoiceChoice
    warning: str | None
    expected_s: float
    start: Callable[["Told"], PcmChannel]

    def speak(self):
        return self.start(self)


class Teller:
    """Speaks 10 ms for a character; refuses a text with `no`; warns of one with `hm`."""

    sample_rate_hz = RATE_HZ

    def __init__(self, longest_part_chars=None):
        self.longest_part_chars = longest_part_chars
        self.prepared = []
        self.spoken = []

    def prepare(self, request):
        self.prepared.append(request)
        if "no" in (request.text or ""):
            raise CannotSpeak("not this")
        warning = "said oddly" if "hm" in (request.text or "") else None
        choice = VoiceChoice(speaker="teller", language=request.language or "english")
        return Told(request, choice, warning, len(request.text or "") / 100, self.speak)

    def speak(self, told):
        channel = PcmChannel(capacity_samples=10**9)
        self.spoken.append(channel)
        channel.put(np.full(len(told.request.text or "x") * 240, 0.5, np.float32))
        channel.close()
        return channel


def ask(text=None, **fields):
    return SpeechRequest(request_id="r", seed=7, text=text, **fields)


def begin(teller, request):
    """Begin to speak and stop; what is known by then."""

    async def run():
        async with aclosing(
            Synthesizer(teller, sample_rate_hz=RATE_HZ).speak(request, STREAM)
        ) as s:
            return s

    return asyncio.run(run())


def hear(teller, request):
    async def run():
        synthesizer = Synthesizer(teller, sample_rate_hz=RATE_HZ)
        data, _ = await synthesizer.speak_whole(request, "pcm")
        async with aclosing(synthesizer.speak(request, STREAM)) as speech:
            assert b"".join([part async for part in speech]) == data
        return np.frombuffer(data, "<i2")

    return asyncio.run(run())


def test_an_ordinary_text_goes_to_the_voice_as_it_is_and_comes_back_untouched():
    teller = Teller(longest_part_chars=800)
    speech = begin(teller, ask("Good morning.", language="english"))
    assert teller.prepared == [ask("Good morning.", language="english")]
    assert speech._pcm is teller.spoken[0]


def test_tokens_go_to_the_voice_as_they_are():
    teller = Teller(longest_part_chars=1)
    begin(teller, ask(tokens=(1, 2)))
    assert teller.prepared == [ask(tokens=(1, 2))]


def test_nothing_is_spoken_when_a_later_part_is_refused():
    teller = Teller()
    with pytest.raises(CannotSpeak):
        begin(teller, ask("Yes. [pause:1s] no"))
    assert len(teller.prepared) == 2
    assert not teller.spoken


def test_pauses_are_heard_for_as_long_as_they_say():
    heard = hear(Teller(), ask("One [pause:0.5s] two"))
    assert len(heard) == (3 * 240) + 12000 + (3 * 240)
    assert np.flatnonzero(heard == 0).tolist() == list(range(720, 12720))


def test_a_long_text_is_spoken_part_by_part():
    teller = Teller(longest_part_chars=30)
    heard = hear(teller, ask("This is one. That is two. Here is three."))
    assert [len(part.text) for part in teller.prepared[:2]] == [26, 14]
    assert len(heard) == 40 * 240 + 7200
    assert {part.seed for part in teller.prepared} == {7}


def test_all_parts_share_max_length():
    assert len(hear(Teller(), ask("One [pause:0.1s] two", max_frames=2))) == 2 * 1920


def test_a_text_that_will_not_fit_as_a_whole_is_warned_about_once():
    teller = Teller()
    text = "Quite short. [pause:1s] Quite short."
    assert begin(teller, ask(text, max_frames=20)).info.warning is None
    warning = begin(teller, ask(text, max_frames=14)).info.warning
    assert warning.count("max_length") == 1
    assert warning.isascii()


def test_warnings_of_parts_are_said_once_and_together():
    speech = begin(Teller(), ask("hm [pause:1s] hm and 5", normalize="full", language="english"))
    assert speech.info.warning.count("said oddly") == 1
    assert "full" in speech.info.warning


def test_the_expected_length_is_that_of_parts_and_pauses():
    assert begin(Teller(), ask("Quite [pause:2s] short")).info.expected_s == pytest.approx(2.1)
