"""The embedded voice as a `Voice`: refusals, streaming, turns, cancellation, length."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qwen_tts_service.errors import CannotSpeak, InvalidRequest, NotReady, SynthesisFailed
from qwen_tts_service.espeak.stream import EspeakStream
from qwen_tts_service.espeak.voice import EspeakVoice
from qwen_tts_service.types import FRAME_S, SpeechRequest, VoiceAttributes

SENTENCES = "Первое предложение. Второе предложение! Третье? И ещё одно, последнее."


@pytest.fixture(scope="module")
def voice():
    voice = EspeakVoice()
    yield voice
    voice.close()


def request(text="Привет, мир!", language="russian", **fields):
    return SpeechRequest(request_id="test", seed=1, text=text, language=language, **fields)


async def collect(stream):
    return np.concatenate([chunk async for chunk in stream])


async def speak(voice, **fields):
    stream = voice.prepare(request(**fields)).speak()
    return await collect(stream), stream.finish_reason


# Refusals --------------------------------------------------------------------------


def test_tokens_are_refused(voice):
    with pytest.raises(CannotSpeak) as caught:
        voice.prepare(SpeechRequest(request_id="test", seed=1, tokens=(1, 2)))
    assert (caught.value.code, caught.value.param) == ("tokens_not_supported", "tokens")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        pytest.param("中国", "russian", id="Chinese in Russian"),
        pytest.param("漢字を書く", "english", id="Japanese in English"),
        pytest.param("𠮷野家", "japanese", id="kanji dropped by the kana reader"),
        pytest.param("龘", "japanese", id="kanji without kana"),
        pytest.param("一个𠀀字", "chinese", id="character espeak-ng spells by its code"),
        pytest.param("衤", "chinese", id="a radical"),
        pytest.param("?!", "english", id="punctuation"),
    ],
)
def test_text_without_a_reading_is_refused(voice, text, language):
    with pytest.raises(CannotSpeak) as caught:
        voice.prepare(request(text, language))
    assert (caught.value.code, caught.value.param) == ("no_reading", "text")
    assert text not in caught.value.message


def test_text_that_turns_out_silent_fails_before_its_first_chunk(voice):
    # A circled number is a number to Python, and English espeak-ng says nothing for it.
    with pytest.raises(CannotSpeak, match="nothing that the embedded voice can speak"):
        asyncio.run(speak(voice, text="⑳", language="english"))


def test_unknown_speaker_is_refused(voice):
    with pytest.raises(InvalidRequest) as caught:
        voice.prepare(request(speaker="nobody"))
    assert caught.value.code == "unknown_speaker"


# What is read ----------------------------------------------------------------------


def test_kanji_are_read_in_kana_with_particles_as_spoken(voice):
    pieces = voice.prepare(request("私は日本語を勉強します。東京へ行く。", "japanese")).pieces
    assert pieces == ("わたし わ にほんご を べんきょう します 。", "とうきょう え いく 。")


def test_emoji_and_figures_do_not_trouble_the_kana_reader(voice):
    pieces = voice.prepare(request("ＯＫ 😀 100円！ 二〇年 한국 café\n", "japanese")).pieces
    assert " ".join(" ".join(pieces).split()) == "OK 😀 100 えん ！ に ぜろ ねん 한국 café"


def test_latin_words_in_japanese_are_warned_about(voice):
    assert "letter by letter" in voice.prepare(request("Pythonを書く", "japanese")).warning
    assert voice.prepare(request("USBを買う", "japanese")).warning is None


def test_russian_dates_are_spoken_as_dates(voice):
    dated, written = (
        voice.prepare(request(text)).pieces
        for text in ("С 01.02.2024.", "С первого февраля две тысячи двадцать четвёртого года.")
    )
    assert dated == written


def test_brackets_are_no_way_to_phonemes(voice):
    for language, text in (("english", "say [[h@loU]]"), ("chinese", "说[[S;'ong35]]")):
        (piece,) = voice.prepare(request(text, language)).pieces
        assert language == "english" or "[" not in piece


def test_language_defaults_to_english(voice):
    utterance = voice.prepare(request("Hello", None))
    assert utterance.choice.language == "english"
    assert utterance.delivery.language_code == "en-us"


def test_choice_names_the_speaker_and_what_was_applied(voice):
    attributes = VoiceAttributes(gender="female", age=25, emotion="wistful")
    choice = voice.prepare(request(attributes=attributes)).choice
    assert choice.speaker in voice.speakers
    assert choice.applied == ("gender", "age")
    assert set(choice.not_applied) == {"emotion"}


def test_voice_says_what_it_is(voice):
    assert (voice.model_name, voice.device, voice.sample_rate_hz) == ("espeak-ng", "cpu", 22050)
    assert {"f1", "m3", "Annie"} <= set(voice.speakers)


# Streaming -------------------------------------------------------------------------


def test_same_request_gives_the_same_samples(voice):
    (first, _), (second, _) = (asyncio.run(speak(voice, text=SENTENCES)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_speech_ends_with_stop(voice):
    samples, reason = asyncio.run(speak(voice))
    assert reason == "stop"
    assert samples.dtype == np.float32
    assert np.abs(samples).max() > 0.1


def test_concurrent_utterances_equal_their_solo_results(voice):
    asked = [
        {"text": SENTENCES, "attributes": VoiceAttributes(gender="female", emotion="happy")},
        {"text": "Hello there. How are you?", "language": "english", "speaker": "grandma"},
        {"text": "你好。今天天气很好。", "language": "chinese"},
    ]
    solo = [asyncio.run(speak(voice, **fields))[0] for fields in asked]

    async def together():
        return await asyncio.gather(*(speak(voice, **fields) for fields in asked))

    for expected, (samples, _) in zip(solo, asyncio.run(together()), strict=True):
        np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("max_frames", [1, 5, 12])
def test_length_cap_cuts_exactly_and_says_so(voice, max_frames):
    whole, _ = asyncio.run(speak(voice, text=SENTENCES))
    samples, reason = asyncio.run(speak(voice, text=SENTENCES, max_frames=max_frames))
    assert reason == "length"
    assert len(samples) == round(max_frames * FRAME_S * voice.sample_rate_hz)
    np.testing.assert_array_equal(samples, whole[: len(samples)])


def test_length_cap_across_pieces_cuts_exactly(voice):
    first_piece = voice.prepare(request(text=SENTENCES)).pieces[0]
    first, _ = asyncio.run(speak(voice, text=first_piece))
    max_frames = int(len(first) / voice.sample_rate_hz / FRAME_S) + 5
    samples, reason = asyncio.run(speak(voice, text=SENTENCES, max_frames=max_frames))
    assert reason == "length"
    assert len(samples) == round(max_frames * FRAME_S * voice.sample_rate_hz)


def test_expected_length_is_near_the_real_one(voice):
    samples, _ = asyncio.run(speak(voice, text=SENTENCES))
    expected_s = voice.prepare(request(text=SENTENCES)).expected_s
    assert expected_s == pytest.approx(len(samples) / voice.sample_rate_hz, rel=0.5)


def test_warm_up_speaks_and_fails_when_nothing_is_heard(voice, monkeypatch):
    voice.warm_up()
    monkeypatch.setattr(voice._library, "synthesise", lambda *_args, **_more: None)
    with pytest.raises(SynthesisFailed):
        voice.warm_up()


def test_closed_voice_is_not_ready():
    voice = EspeakVoice()
    utterance = voice.prepare(request())
    voice.close()
    with pytest.raises(NotReady):
        utterance.speak()
    voice.close()


# Turns and cancellation, with a synthesis that the test holds in its hands -----------


class HeldSynthesis:
    """Each piece gives ten chunks of one sample, once its text has been let go."""

    def __init__(self):
        self.started = []
        self.chunks = 0
        self.may_end = threading.Event()
        self.is_running = threading.Event()

    def __call__(self, piece, on_chunk):
        self.started.append(piece)
        self.is_running.set()
        assert self.may_end.wait(30)
        for _ in range(10):
            self.chunks += 1
            if not on_chunk(np.ones(1, np.float32)):
                return


@pytest.fixture
def worker():
    with ThreadPoolExecutor(1) as worker:
        yield worker


def test_first_piece_arrives_while_the_rest_is_not_synthesised(worker):
    held = HeldSynthesis()
    held.may_end.set()

    async def first_chunk():
        stream = EspeakStream("abcdef", held, worker, max_samples=1000)
        chunk = await anext(aiter(stream))
        reason = stream.finish_reason
        await stream.aclose()
        return chunk, reason

    chunk, reason = asyncio.run(first_chunk())
    assert len(chunk) == 10
    assert reason is None
    assert set(held.started) <= {"a", "b"}


def test_pieces_of_two_utterances_take_turns(worker):
    held = HeldSynthesis()
    held.may_end.set()

    async def two():
        streams = [EspeakStream(p, held, worker, max_samples=1000) for p in ("aaaa", "bbbb")]
        await asyncio.gather(*map(collect, streams))

    asyncio.run(two())
    assert sorted(held.started) == list("aaaabbbb")
    assert held.started[:4].count("b") == 2


def test_leaving_stops_the_piece_in_the_making_within_one_chunk(worker):
    held = HeldSynthesis()

    async def leave():
        stream = EspeakStream("ab", held, worker, max_samples=1000)
        await asyncio.to_thread(held.is_running.wait)
        await stream.aclose()
        await stream.aclose()
        held.may_end.set()
        return stream, [chunk async for chunk in stream]

    stream, chunks = asyncio.run(leave())
    worker.shutdown()
    assert chunks == []
    assert stream.finish_reason == "cancelled"
    assert held.started == ["a"]
    assert held.chunks <= 1


def test_leaving_before_ones_turn_costs_nothing(worker):
    held = HeldSynthesis()

    async def leave():
        busy = EspeakStream("a", held, worker, max_samples=1000)
        waiting = EspeakStream("b", held, worker, max_samples=1000)
        reader = asyncio.ensure_future(collect_all(waiting))
        await asyncio.to_thread(held.is_running.wait)
        await waiting.aclose()
        heard = await reader
        held.may_end.set()
        await collect(busy)
        return heard

    async def collect_all(stream):
        return [chunk async for chunk in stream]

    assert asyncio.run(leave()) == []
    assert held.started == ["a"]


def test_failure_inside_reaches_the_reader(worker):
    def fail(_piece, _on_chunk):
        raise SynthesisFailed("espeak-ng failed with status 1")

    async def read():
        stream = EspeakStream("a", fail, worker, max_samples=1000)
        with pytest.raises(SynthesisFailed):
            await collect(stream)
        return stream.finish_reason

    assert asyncio.run(read()) == "error"
