"""How the synthesizer performs a script: refusals first, then one voice, part after part."""

import asyncio
import io
import re
import threading
import tracemalloc
import wave
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen_tts_service.audio.pipe import AudioPipe
from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import CannotSpeak, InvalidRequest, MisfitVoice, SynthesisFailed
from qwen_tts_service.speech import synthesizer as synthesizer_module
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.speech.writing import SpeechByToken, can_speak_by_token, open_speech
from qwen_tts_service.types import MAX_SEED, SpeechRequest, VoiceChoice

RATE_HZ = 24000
STREAM = Output("pcm", is_stream=True)
LEVEL = 0.0005
"""So near zero that nothing is faded."""


@dataclass(frozen=True)
class FakeUtterance:
    request: SpeechRequest
    choice: VoiceChoice
    warning: str | None
    expected_s: float
    start: Callable[["FakeUtterance"], PcmChannel]

    def speak(self):
        return self.start(self)


class FakeVoice:
    """Speaks 10 ms for a character; refuses a text with `no`; warns of one with `hm`.

    ends: how its speeches end, one after the other; "stop" when there are no more
    """

    sample_rate_hz = RATE_HZ
    model_name = "fake"
    has_own_rate = False

    level = LEVEL

    def __init__(self, longest_part_chars=None, ends=()):
        self.longest_part_chars = longest_part_chars
        self.ends = list(ends)
        self.is_warm = False
        self.is_closed = False
        self.prepared = []
        self.spoken = []

    def prepare(self, request):
        self.prepared.append(request)
        if "no" in (request.text or ""):
            raise CannotSpeak("not this")
        warning = "said oddly" if "hm" in (request.text or "") else None
        choice = VoiceChoice(speaker="default", language=request.language or "english")
        return FakeUtterance(request, choice, warning, len(request.text or "") / 100, self.speak)

    def speak(self, utterance):
        channel = PcmChannel(capacity_samples=10**9)
        self.spoken.append(channel)
        channel.put(np.full(len(utterance.request.text or "x") * 240, self.level, np.float32))
        channel.close(self.ends.pop(0) if self.ends else "stop")
        return channel

    def warm_up(self):
        self.is_warm = True

    def close(self):
        self.is_closed = True


class OpenFakeVoice(FakeVoice):
    """Notes the texts of the utterances it opens; says nothing."""

    def __init__(self, longest_part_chars=None):
        super().__init__(longest_part_chars)
        self.texts = []

    def open(self, request):
        self.texts.append("")
        return OpenFakeUtterance(self)


class OpenFakeUtterance:
    choice = VoiceChoice(speaker="default", language="english")
    finish_reason = None

    def __init__(self, voice):
        self._texts = voice.texts

    def feed(self, text):
        self._texts[-1] += text

    def finish(self):
        pass


def ask(text=None, **fields):
    return SpeechRequest(request_id="r", seed=7, text=text, **fields)


async def begin(voice, request):
    """Begin to speak and stop; what is known by then."""
    async with aclosing(
        await Synthesizer(voice, sample_rate_hz=RATE_HZ).speak(request, STREAM)
    ) as speech:
        return speech


async def hear(voice, request):
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    data, _ = await synthesizer.speak_whole(request, "pcm")
    async with aclosing(await synthesizer.speak(request, STREAM)) as speech:
        assert b"".join([part async for part in speech]) == data
    return np.frombuffer(data, "<i2")


async def test_an_ordinary_text_goes_to_the_voice_as_it_is_and_comes_back_untouched():
    voice = FakeVoice(longest_part_chars=800)
    heard = await hear(voice, ask("Good morning.", language="english"))
    assert voice.prepared == [ask("Good morning.", language="english")] * 2
    assert heard.tolist() == [round(LEVEL * 32767)] * 13 * 240


@pytest.mark.parametrize("max_frames", [100, 7])
async def test_there_is_no_step_at_edges_and_joins(max_frames):
    voice = FakeVoice(longest_part_chars=20)
    voice.level = 1.0
    text = "One, two, three, four. Five, six, seven. [pause:0.1s] Eight."
    heard = await hear(voice, ask(text, max_frames=max_frames, language="english"))
    assert len(voice.prepared) == 2 * 4
    steps = np.abs(np.diff(heard, prepend=0, append=0))
    assert steps.max() < 0.014 * 32767  # of half a cosine over 5 ms
    assert np.abs(heard).max() == 32767


async def test_tokens_go_to_the_voice_as_they_are():
    voice = FakeVoice(longest_part_chars=1)
    await begin(voice, ask(tokens=(1, 2)))
    assert voice.prepared == [ask(tokens=(1, 2))]


async def test_nothing_is_spoken_when_a_later_part_is_refused():
    voice = FakeVoice()
    with pytest.raises(CannotSpeak):
        await begin(voice, ask("Yes. [pause:1s] no"))
    assert len(voice.prepared) == 2
    assert not voice.spoken


async def test_pauses_are_heard_for_as_long_as_they_say():
    heard = await hear(FakeVoice(), ask("One [pause:0.5s] two"))
    assert len(heard) == (3 * 240) + 12000 + (3 * 240)
    assert np.flatnonzero(heard == 0).tolist() == list(range(720, 12720))


async def test_a_long_text_is_spoken_part_by_part():
    voice = FakeVoice(longest_part_chars=30)
    heard = await hear(voice, ask("This is one. That is two. Here is three."))
    assert [len(part.text) for part in voice.prepared[:2]] == [26, 14]
    assert len(heard) == 40 * 240 + 7200
    assert {part.seed for part in voice.prepared} == {7}


async def test_all_parts_share_max_length():
    assert len(await hear(FakeVoice(), ask("One [pause:0.1s] two", max_frames=2))) == 2 * 1920


async def test_a_text_that_will_not_fit_as_a_whole_is_warned_about_once():
    voice = FakeVoice()
    text = "Quite short. [pause:1s] Quite short."
    assert (await begin(voice, ask(text, max_frames=20))).info.warning is None
    warning = (await begin(voice, ask(text, max_frames=14))).info.warning
    assert warning.count("max_length") == 1
    assert warning.isascii()


async def test_warnings_of_parts_are_joined_without_repetition():
    speech = await begin(
        FakeVoice(), ask("hm [pause:1s] hm and 5", normalize="full", language="english")
    )
    assert speech.info.warning.count("said oddly") == 1
    assert "full" in speech.info.warning


async def test_the_expected_length_is_that_of_parts_and_pauses():
    speech = await begin(FakeVoice(), ask("Quite [pause:2s] short"))
    assert speech.info.expected_s == pytest.approx(2.1)


async def test_a_speech_has_its_speaker_seed_length_and_finish_reason():
    synthesizer = Synthesizer(FakeVoice(), sample_rate_hz=RATE_HZ)
    request = ask("Good. [pause:1s] Доброе утро", language=None)
    async with aclosing(await synthesizer.speak(request, STREAM)) as speech:
        before = speech.finish_reason
        data = b"".join([part async for part in speech])
        assert speech.audio_s == len(data) / 2 / RATE_HZ
        assert (before, speech.finish_reason) == (None, "stop")
        assert (speech.info.choice.language, speech.seed) == ("russian", 7)


@pytest.mark.parametrize(("frames", "is_warned"), [(15, False), (14, True)])
async def test_what_just_fits_is_not_warned_about(frames, is_warned):
    text = "a" * 120  # 1.2 s, 15 frames
    warning = (await begin(FakeVoice(), ask(text, max_frames=frames))).info.warning
    assert (warning is not None) == is_warned


@pytest.mark.parametrize("rate", [0.5, 2.0])
async def test_a_voice_without_a_rate_is_stretched_and_written_pauses_are_not(rate):
    voice = FakeVoice()
    heard = await hear(voice, ask("One is said. [pause:0.5s] two", rate=rate))
    assert len(heard) == round(12 * 240 / rate) + 12000 + round(3 * 240 / rate)
    assert np.count_nonzero(heard == 0) == 12000
    assert {part.rate for part in voice.prepared} == {1.0}


@pytest.mark.parametrize(("rate", "asked_frames"), [(0.5, 4), (1.3, 10), (2.0, 14)])
async def test_max_length_counts_what_is_heard(rate, asked_frames):
    voice = FakeVoice()
    request = ask("word " * 200, rate=rate, max_frames=7)
    data, speech = await Synthesizer(voice, sample_rate_hz=RATE_HZ).speak_whole(request, "pcm")
    assert len(data) == 2 * 7 * 1920
    assert speech.finish_reason == "length"
    assert voice.prepared[0].max_frames == asked_frames


async def test_the_length_to_expect_is_that_of_the_stretched_speech():
    speech = await begin(FakeVoice(), ask("a" * 120, rate=0.5, max_frames=20))
    assert speech.info.expected_s == pytest.approx(2.4)
    assert "max_length" in speech.info.warning


async def test_the_rate_of_markup_multiplies_that_of_the_request():
    text = "<speak><prosody rate='1.5'>One</prosody></speak>"
    assert len(await hear(FakeVoice(), ask(text, rate=0.5))) == 3 * 240 / 0.75


async def test_a_voice_with_a_rate_of_its_own_is_asked_for_it():
    voice = FakeVoice()
    voice.has_own_rate = True
    assert len(await hear(voice, ask("One", rate=2.0))) == 3 * 240
    assert {part.rate for part in voice.prepared} == {2.0}


async def test_a_stretched_speech_that_is_closed_before_it_is_read_never_starts():
    voice = FakeVoice()
    speech = await begin(voice, ask("One", rate=2.0))
    assert speech.finish_reason == "cancelled"
    assert [part async for part in speech] == []
    assert not voice.spoken


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_file_knows_its_length_and_a_stream_does_not(is_stream):
    synthesizer = Synthesizer(FakeVoice(), sample_rate_hz=RATE_HZ)
    if is_stream:
        async with aclosing(
            await synthesizer.speak(ask("Four"), Output("wav", is_stream=True))
        ) as s:
            data = b"".join([part async for part in s])
    else:
        data, _ = await synthesizer.speak_whole(ask("Four"), "wav")
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnframes() == 4 * 240) is not is_stream
    assert len(data) == 44 + 2 * 4 * 240


async def test_the_voices_rate_becomes_the_rate_that_is_asked_for():
    request = ask("Quite [pause:1s] short.", max_frames=12)
    for rate_hz in (RATE_HZ, 12000, 48000):
        synthesizer = Synthesizer(FakeVoice(), sample_rate_hz=rate_hz)
        data, speech = await synthesizer.speak_whole(request, "pcm")
        assert len(data) / 2 == pytest.approx(0.96 * rate_hz, abs=3)
        assert speech.audio_s == pytest.approx(0.96, abs=1e-3)
        assert speech.finish_reason == "length"


@pytest.mark.parametrize(
    ("format", "is_beside"),
    [("pcm", False), ("wav", False), ("mp3", True), ("flac", True), ("ogg", True), ("opus", True)],
)
async def test_formats_that_cost_time_are_encoded_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, format, is_beside
):
    threads = []
    for name in ("feed", "finish"):
        work = getattr(AudioPipe, name)

        def noted(self, *args, work=work):
            threads.append(threading.current_thread())
            return work(self, *args)

        monkeypatch.setattr(AudioPipe, name, noted)

    synthesizer = Synthesizer(FakeVoice(), sample_rate_hz=RATE_HZ)
    assert (await synthesizer.speak_whole(ask("One"), format))[0]
    assert len(threads) == 2
    assert [thread is not threading.main_thread() for thread in threads] == [is_beside] * 2


async def test_no_empty_piece_is_handed_on():
    synthesizer = Synthesizer(FakeVoice(), sample_rate_hz=RATE_HZ)
    async with aclosing(
        await synthesizer.speak(ask("One"), Output("mp3", is_stream=True))
    ) as speech:
        parts = [part async for part in speech]
    assert parts
    assert all(parts)


async def speak_whole(voice, drawn_seed=None, attempts=None):
    """Speak "One" with seed 7; `drawn_seed`: the seed that is drawn next, None if 7 was given."""
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    watch = (lambda _: None) if attempts is None else attempts.append
    request = ask("One", is_seed_drawn=drawn_seed is not None)
    with pytest.MonkeyPatch.context() as patch:
        drawn = {MAX_SEED + 1: drawn_seed}
        patch.setattr(synthesizer_module.secrets, "randbelow", drawn.__getitem__)
        return await synthesizer.speak_whole(request, "pcm", on_begin=watch)


@pytest.mark.parametrize("drawn_seed", [0, 9])
async def test_a_runaway_is_spoken_once_more_with_another_seed(drawn_seed):
    voice, attempts = FakeVoice(ends=["runaway"]), []
    data, speech = await speak_whole(voice, drawn_seed, attempts)
    assert [asked.seed for asked in voice.prepared] == [7, drawn_seed]
    assert (speech.seed, speech.finish_reason) == (drawn_seed, "stop")
    assert [attempt.seed for attempt in attempts] == [7, drawn_seed]
    assert attempts[-1] is speech
    assert len(data) == 2 * 3 * 240


async def test_what_ends_is_spoken_once():
    voice = FakeVoice()
    await speak_whole(voice, 9)
    assert len(voice.prepared) == 1


@pytest.mark.parametrize(("drawn_seed", "times"), [(None, 1), (9, 2)])
async def test_a_second_runaway_is_cannot_speak(drawn_seed, times):
    voice = FakeVoice(ends=["runaway"] * 2)
    with pytest.raises(CannotSpeak) as caught:
        await speak_whole(voice, drawn_seed)
    assert caught.value.code == "runaway"
    assert len(voice.prepared) == times


class TenMinutes:
    """A second of silence at a time."""

    finish_reason = None

    async def __aiter__(self):
        for _ in range(600):
            yield np.zeros(RATE_HZ, np.float32)
        self.finish_reason = "stop"

    async def aclose(self):
        pass


@pytest.mark.parametrize("format", ["wav", "flac"])
async def test_speech_goes_to_a_file_without_being_held(format, tmp_path):
    voice = FakeVoice()
    voice.speak = lambda _: TenMinutes()
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    path = tmp_path / "speech"
    with path.open("w+b") as file:
        await synthesizer.speak_into(file, ask("One"), format)  # what is loaded once
        file.seek(0)
        tracemalloc.start()
        speech = await synthesizer.speak_into(file, ask("One"), format)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert speech.audio_s == 600
    assert peak < 1_000_000  # bytes; 29 million hold it all
    assert soundfile.info(path).duration == pytest.approx(600, abs=0.2)


async def test_a_runaway_leaves_nothing_in_the_file(tmp_path):
    synthesizer = Synthesizer(FakeVoice(ends=["runaway"]), sample_rate_hz=RATE_HZ)
    with (tmp_path / "speech").open("w+b") as file:
        await synthesizer.speak_into(file, ask("One", is_seed_drawn=True), "pcm")
        assert file.tell() == 2 * 3 * 240


async def test_a_speech_that_was_stopped_is_no_file():
    with pytest.raises(SynthesisFailed):
        await speak_whole(FakeVoice(ends=["cancelled"]), 9)


async def test_what_fails_while_it_is_watched_is_stopped():
    def broken(_speech):
        raise RuntimeError

    voice = FakeVoice()
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    with pytest.raises(RuntimeError):
        await synthesizer.speak_whole(ask("One"), "pcm", on_begin=broken)
    assert voice.spoken[0].is_cancelled


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("stop", None),
        ("length", None),
        ("runaway", "runaway"),
        ("cancelled", "internal_error"),
        ("error", "internal_error"),
    ],
)
async def test_an_ending_that_is_none_is_said(end, code):
    synthesizer = Synthesizer(FakeVoice(ends=[end]), sample_rate_hz=RATE_HZ)
    async with aclosing(await synthesizer.speak(ask("One"), STREAM)) as speech:
        [part async for part in speech]
    if code is None:
        speech.check_ending()
        return
    with pytest.raises(SynthesisFailed) as caught:
        speech.check_ending()
    assert caught.value.code == code


async def test_a_speech_that_is_left_stops_the_voice_and_gives_no_more_bytes():
    voice = FakeVoice()
    speech = await Synthesizer(voice, sample_rate_hz=RATE_HZ).speak(ask("One"), Output("wav", True))
    await speech.aclose()
    await speech.aclose()
    assert voice.spoken[0].is_cancelled
    assert [part async for part in speech] == []


OPUS = Output("opus", is_stream=True)


async def test_a_format_that_the_rate_does_not_have_is_refused_first():
    voice = FakeVoice()
    with pytest.raises(InvalidRequest) as caught:
        await Synthesizer(voice, sample_rate_hz=22050).speak(ask("no"), OPUS)
    assert caught.value.param == "format"
    assert not voice.prepared


def test_a_format_that_the_rate_does_not_have_is_refused_first_by_token():
    with pytest.raises(InvalidRequest) as caught:
        SpeechByToken(Synthesizer(OpenFakeVoice(), sample_rate_hz=22050), ask("no"), OPUS)
    assert caught.value.param == "format"


LONG = "Quite long, this. " * 20


class SlowReader(FakeVoice):
    """Reads a text for as long as nobody sets `may_go_on`."""

    def __init__(self):
        super().__init__()
        self.is_reading, self.may_go_on = threading.Event(), threading.Event()

    def prepare(self, request):
        self.is_reading.set()
        assert self.may_go_on.wait(10), "the event loop had no turn"
        return super().prepare(request)


async def test_the_event_loop_goes_on_while_a_long_text_is_read():
    voice = SlowReader()
    beginning = asyncio.create_task(begin(voice, ask(LONG)))
    assert await asyncio.to_thread(voice.is_reading.wait, 10)
    voice.may_go_on.set()
    await beginning
    assert voice.spoken


async def test_a_caller_cancelled_while_a_long_text_is_read_has_started_nothing():
    voice = SlowReader()
    beginning = asyncio.create_task(begin(voice, ask(LONG)))
    assert await asyncio.to_thread(voice.is_reading.wait, 10)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    voice.may_go_on.set()
    await begin(voice, ask("One"))
    assert len(voice.spoken) == 1


async def test_long_texts_are_read_on_as_few_threads_however_many_come():
    names = set()

    class Named(FakeVoice):
        def prepare(self, request):
            names.add(threading.current_thread().name)
            return super().prepare(request)

    synthesizer = Synthesizer(Named(), sample_rate_hz=RATE_HZ)
    for speech in await asyncio.gather(*(synthesizer.speak(ask(LONG), STREAM) for _ in range(20))):
        await speech.aclose()
    synthesizer.close()
    assert names <= {f"text_{index}" for index in range(synthesizer_module.READERS)}


async def test_a_long_text_that_is_refused_is_an_error_of_its_caller():
    with pytest.raises(CannotSpeak):
        await begin(FakeVoice(), ask(LONG + "no"))


def test_only_a_voice_that_takes_words_takes_words():
    assert can_speak_by_token(Synthesizer(OpenFakeVoice(), sample_rate_hz=RATE_HZ))
    synthesizer = Synthesizer(FakeVoice(), sample_rate_hz=RATE_HZ)
    assert not can_speak_by_token(synthesizer)
    with pytest.raises(InvalidRequest) as caught:
        open_speech(synthesizer, ask(), STREAM, by_token=True)
    assert caught.value.param == "split"


@pytest.mark.parametrize(("longest_part_chars", "chars"), [(None, 407), (800, 407), (60, 33)])
async def test_an_open_text_is_divided_at_half_a_part(longest_part_chars, chars):
    voice = OpenFakeVoice(longest_part_chars)
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    request = ask(language="english", normalize="none")
    speech = open_speech(synthesizer, request, STREAM, by_token=True)
    speech.feed("Some word. " * 80)  # of 11 characters
    assert len(voice.texts[0]) == chars


@pytest.mark.parametrize("has_russian", [True, False])
def test_before_the_first_request_everything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, has_russian
):
    loaded = []

    def preload_russian():
        if not has_russian:
            raise InvalidRequest("not installed")
        loaded.append("russian")

    monkeypatch.setattr(synthesizer_module, "preload_detector", lambda: loaded.append("detector"))
    monkeypatch.setattr(synthesizer_module, "preload_russian", preload_russian)
    voice = FakeVoice()
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    synthesizer.warm_up()
    assert loaded == ["detector", "russian"][: 1 + has_russian]
    assert (voice.is_warm, voice.is_closed) == (True, False)
    synthesizer.close()
    assert voice.is_closed


# Markup and dialogue --------------------------------------------------------------------


class DialogueVoice(FakeVoice):
    """Tells as the speaker who is asked for, and knows only a and b."""

    def choose(self, request):
        if request.speaker not in (None, "a", "b"):
            raise InvalidRequest("known: a, b", param="speaker", code="unknown_speaker")
        return VoiceChoice(speaker=request.speaker or "default", language="english")

    def prepare(self, request):
        self.choose(request)
        utterance = super().prepare(request)
        return replace(
            utterance, choice=replace(utterance.choice, speaker=request.speaker or "default")
        )


class OpenCast(DialogueVoice, OpenFakeVoice):
    """The same, by token too."""


async def test_the_speakers_of_a_dialogue_are_listed_in_order():
    speech = await begin(DialogueVoice(), ask("One [voice:b] two [voice:a] three [voice:b] four"))
    assert speech.info.speakers == ("default", "b", "a")
    assert speech.info.choice.speaker == "default"


@pytest.mark.parametrize(
    "text",
    [
        "One. [voice:Bob] two",
        "One. [voice:Bob]",
        "[voice:Bob][voice:a]One.",
        "One. [voice:Bob][pause:1s][/voice] two",
        '<speak>One.<voice name="Bob">two</voice></speak>',
        '<speak>One.<voice name="Bob"><break/></voice></speak>',
    ],
)
async def test_an_unknown_voice_is_refused_before_anything_is_spoken(text):
    voice = DialogueVoice()
    with pytest.raises(InvalidRequest) as caught:
        await begin(voice, ask(text))
    assert (caught.value.param, caught.value.code) == ("text", "unknown_speaker")
    assert '"Bob": known: a, b' in caught.value.message
    assert not voice.spoken


async def test_a_voice_without_english_knows_its_speakers_in_another_language():
    class Russian(DialogueVoice):
        def choose(self, request):
            if request.language != "russian":
                raise InvalidRequest("known: russian", param="language")
            return super().choose(request)

    speech = await begin(Russian(), ask("Раз. [voice:a] Два."))
    assert speech.info.speakers == ("default", "a")


@pytest.mark.parametrize("by_token", [False, True])
async def test_an_unknown_voice_in_a_text_that_is_written_is_refused_when_its_name_is_complete(
    by_token,
):
    synthesizer = Synthesizer(OpenCast(), sample_rate_hz=RATE_HZ)
    speech = open_speech(synthesizer, ask(), STREAM, by_token=by_token)
    speech.feed("One. [voice:a]Two. Three [voice:Bo")
    with pytest.raises(InvalidRequest) as caught:
        speech.feed("b]")
    assert (caught.value.param, caught.value.code) == ("text", "unknown_speaker")


async def test_an_unknown_speaker_of_the_request_is_the_requests_fault():
    with pytest.raises(InvalidRequest) as caught:
        await begin(DialogueVoice(), ask("One [voice:a] two", speaker="Bob"))
    assert caught.value.param == "speaker"


async def spoken_by_sentence(pieces, voice=None, **fields):
    """What is prepared: (speaker, text) for each part of each sentence, and seconds."""
    voice = voice or DialogueVoice()
    speech = open_speech(
        Synthesizer(voice, sample_rate_hz=RATE_HZ), ask(**fields), STREAM, by_token=False
    )
    for piece in pieces:
        speech.feed(piece)
    speech.finish()

    async def at_once():
        pass

    heard_s = []
    async with aclosing(speech.speeches(at_once)) as speeches:
        async for sentence in speeches:
            async with aclosing(sentence):
                [part async for part in sentence]
            heard_s.append(round(sentence.audio_s, 3))
    return [(part.speaker, part.text) for part in voice.prepared], heard_s


TALK = (
    "<think>Hm. No? Yes!</think>One <b title='A. B. C.'>two</b>. Tom &amp; I. [voice:a]Three."
    " Four[pause:1s]five.<br>Six [voice:b] seven"
)


@pytest.mark.parametrize("size", [1, 3, 8, 1000])
async def test_sentences_with_markup_are_the_same_however_they_are_cut(size):
    pieces = [TALK[at : at + size] for at in range(0, len(TALK), size)]
    assert await spoken_by_sentence(pieces, language="english") == (
        [
            (None, "One two."),
            (None, "Tom & I."),
            ("a", "Three."),
            ("a", "Four"),
            ("a", "five."),
            ("a", "Six"),
            ("b", "seven"),
        ],
        # 0.3 s before another speaker, as in a text that is spoken whole
        [0.08, 0.08, 0.36, 1.09, 0.03, 0.35],
    )


@pytest.mark.parametrize(
    "text",
    [
        "[voice:a]Раз. [voice:b]Два. [/voice]Три.",
        "[voice:a]Раз. Ещё. [pause:1s][voice:b]Два. [voice:b]Три.",
        "Раз. [voice:a]Два [pause:1s].",
    ],
)
async def test_sentences_of_several_speakers_take_as_long_as_the_whole(text):
    whole = await Synthesizer(DialogueVoice(), sample_rate_hz=RATE_HZ).speak(
        ask(text=text, language="russian"), STREAM
    )
    async with aclosing(whole):
        [part async for part in whole]
    _, heard_s = await spoken_by_sentence([text], language="russian")
    assert sum(heard_s) == pytest.approx(whole.audio_s, abs=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "**Важно. Очень важно.** Да.",
        "*Раз. Два.* И **три**. ~~Четыре. Пять.~~",
        "__One. Two!__ **So. Oh?** Ok",
        "Он **дал** *ей. Нет* да. **Всё**",
        "**One.\nTwo.** Three",
        "2 * 3. So 4 * 5. And x**2. Then y**3.",
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
async def test_emphasis_over_several_sentences_is_read_as_in_the_whole(text, size):
    voice = DialogueVoice()
    await Synthesizer(voice, sample_rate_hz=RATE_HZ).speak(
        ask(text=text, language="english"), STREAM
    )
    whole = " ".join(part.text for part in voice.prepared)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    said, _ = await spoken_by_sentence(pieces, language="english")
    assert " ".join(part for _, part in said).split() == whole.split()


async def said_whole(text, **fields):
    """What is prepared for a whole text, and seconds."""
    voice = DialogueVoice()
    speech = await Synthesizer(voice, sample_rate_hz=RATE_HZ).speak(
        ask(text=text, **fields), STREAM
    )
    async with aclosing(speech):
        [part async for part in speech]
    return [(part.speaker, part.text) for part in voice.prepared], [speech.audio_s]


def by_speaker(said, heard_s):
    """The words of each speaker without the marks behind them, and seconds of silence."""
    silence_s = sum(heard_s) - sum(len(text) for _, text in said) / 100
    turns = groupby(said, key=lambda part: part[0])
    words = [(who, " ".join(" ".join(text for _, text in turn).split())) for who, turn in turns]
    return [(who, re.sub(r"\W+\Z", "", text)) for who, text in words], round(silence_s, 1)


SIZES = st.sampled_from([1, 2, 3, 7, 1000])
MARKS = st.sampled_from(
    ["", "> ", "# ", "* ", "+ ", "- ", "1. ", "2) ", "| ", "```", "---\n", "  "]
)
SENTENCES = st.sampled_from(
    [
        "Раз. ",
        "Два! ",
        "три. ",
        "10 000 книг. ",
        "На ул. Ленина, д. 5. ",
        "А. С. Пушкин. ",
        "«Да. Нет». ",
        "(Один. Два.) ",
        "**Так. Да!** ",
        "*Ну. И что?* ",
        "_Он_. ",
        "[Вот. Это](https://a.b/c) ссылка. ",
        "[Сноска. Да] тут. ",
        "https://a.b. ",
        "`a. b` и `c`. ",
        "Это <b>да. Нет</b>. ",
        "А &amp; Б. ",
        "| a. Б | в. Г |\n",
        "[voice:a]Кто? ",
        "[/voice]Я! ",
        "Сперва [pause:1s]затем. ",
        "```py\nx = 1. Y = 2\n```\n",
    ]
)
ENDS = st.sampled_from(["", "", "\n", "\n\n"])


@given(parts=st.lists(st.tuples(MARKS, SENTENCES, ENDS), min_size=1, max_size=6), size=SIZES)
@settings(max_examples=60, deadline=None)
@example(parts=[("", "Раз. ", ""), ("> ", "Два! ", "")], size=1)
@example(parts=[("1. ", "Раз. ", ""), ("2. ", "Два! ", "")], size=1)
@example(parts=[("", "Раз. ", ""), ("", "| a. Б | в. Г |\n", "")], size=3)
async def test_by_sentence_the_same_is_spoken_as_of_the_whole_text(parts, size):
    text = "".join(map("".join, parts))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    asked = {"language": "russian", "normalize": "light", "on_unspeakable": "silence"}
    whole = await said_whole(text, **asked)
    written = await spoken_by_sentence(pieces, **asked)
    assert by_speaker(*written) == by_speaker(*whole)


SSML = (
    "<speak>One. <sub alias='two'>2</sub> <break time='1s'/> <voice name='a'>Three.</voice></speak>"
)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("input_type", ["text", "ssml"])
async def test_ssml_is_spoken_as_a_whole_once_it_is_complete(size, input_type):
    pieces = [SSML[at : at + size] for at in range(0, len(SSML), size)]
    assert await spoken_by_sentence(pieces, input_type=input_type, language="english") == (
        [(None, "One. two"), ("a", "Three.")],
        [1.14],
    )


async def test_a_text_that_only_begins_like_ssml_is_spoken_by_sentence():
    said, _ = await spoken_by_sentence(
        ["<s", "pan>One. ", "Two. <spea", "k>Three"], language="english"
    )
    assert [text for _, text in said] == ["One.", "Two.", "Three"]


async def test_a_text_that_stays_the_beginning_of_ssml_is_spoken():
    with pytest.raises(CannotSpeak):
        await spoken_by_sentence(["<"])
    assert (await spoken_by_sentence(["<spe"], language="english"))[0] == [(None, "<spe")]


async def test_malformed_ssml_that_was_asked_for_is_refused_at_its_end():
    with pytest.raises(InvalidRequest) as caught:
        await spoken_by_sentence(["<speak>One. ", "Two."], input_type="ssml")
    assert "line 1, column 17" in caught.value.message


class NarrowVoice(DialogueVoice):
    """Speaks with kept voices once they have been fitted; nobody can fit `lost`."""

    def __init__(self):
        super().__init__()
        self.fitted = []

    def choose(self, request):
        if request.speaker and request.speaker not in self.fitted:
            raise MisfitVoice(request.speaker)
        return super().choose(request)

    def prepare(self, request):
        self.choose(request)
        return super().prepare(request)

    def fit(self, name):
        if name != "lost":
            self.fitted.append(name)


def narrow():
    voice = NarrowVoice()
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    synthesizer.fit = voice.fit
    return voice, synthesizer


async def test_kept_voices_of_another_model_are_encoded_anew_each_once():
    voice, synthesizer = narrow()
    request = ask("[voice:a]One. [voice:b]Two. [voice:a]Three.")
    for _ in range(2):
        speech = await synthesizer.speak(request, STREAM)
        assert speech.info.speakers == ("a", "b")
    assert voice.fitted == ["a", "b"]
    assert (await synthesizer.choose(ask("x", speaker="a"))).speaker == "a"


async def test_a_kept_voice_that_cannot_be_encoded_anew_is_refused():
    voice, synthesizer = narrow()
    for _ in range(2):
        with pytest.raises(MisfitVoice):
            await synthesizer.choose(ask("x", speaker="lost"))
    synthesizer.fit = None
    with pytest.raises(MisfitVoice):
        await synthesizer.choose(ask("x", speaker="a"))
    assert voice.fitted == []
