"""The embedded voice as a `Voice`: refusals, streaming, turns, cancellation, length."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qwen_tts_service.errors import CannotSpeak, InvalidRequest, NotReady, SynthesisFailed, TTSError
from qwen_tts_service.espeak.stream import EspeakStream
from qwen_tts_service.espeak.voice import EspeakVoice
from qwen_tts_service.types import FRAME_S, SpeechRequest, VoiceAttributes

SENTENCES = "Первое предложение. Второе предложение! Третье? И ещё одно, последнее."


def request(text="Привет, мир!", language="russian", **fields):
    return SpeechRequest(request_id="test", seed=1, text=text, language=language, **fields)


async def collect(stream):
    return np.concatenate([chunk async for chunk in stream])


async def speak(voice, **fields):
    stream = voice.prepare(request(**fields)).speak()
    return await collect(stream), stream.finish_reason


# Refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pitch", "is_limited"), [(1, False), (1.2, False), (2, True), (0.5, True)]
)
def test_a_pitch_beyond_the_library_is_limited_with_a_warning(voice, pitch, is_limited):
    warning = voice.prepare(request(text="Hello.", pitch=pitch)).warning
    assert ("pitch was limited" in (warning or "")) is is_limited


def test_tokens_are_refused(voice):
    with pytest.raises(CannotSpeak) as caught:
        voice.prepare(SpeechRequest(request_id="test", seed=1, tokens=(1, 2)))
    assert (caught.value.code, caught.value.param) == ("tokens_not_supported", "tokens")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        pytest.param("قطة", "russian", id="Arabic in Russian"),
        pytest.param("衤 here", "english", id="a radical in English"),
        pytest.param("𠮷野家", "japanese", id="kanji dropped by the kana reader"),
        pytest.param("龘", "japanese", id="kanji without kana"),
        pytest.param("私の龘", "japanese", id="kanji without kana behind others"),
        pytest.param("一个𠀀字", "chinese", id="character espeak-ng spells by its code"),
        pytest.param("衤", "chinese", id="a radical"),
        pytest.param("?!", "english", id="punctuation"),
    ],
)
def test_text_without_a_reading_is_refused(voice, text, language):
    with pytest.raises(CannotSpeak) as caught:
        voice.prepare(request(text, language))
    assert (caught.value.code, caught.value.param) == ("no_reading", "text")


async def test_text_that_turns_out_silent_fails_before_its_first_chunk(voice):
    # An Aegean number is a number to Python, and English espeak-ng says nothing for it.
    with pytest.raises(CannotSpeak, match="nothing that the embedded voice can speak"):
        await speak(voice, text="\U00010107", language="english")


def test_unknown_speaker_is_refused(voice):
    with pytest.raises(InvalidRequest) as caught:
        voice.prepare(request(speaker="nobody"))
    assert caught.value.code == "unknown_speaker"


# What is read ----------------------------------------------------------------------


def test_kanji_are_read_in_kana_with_particles_as_spoken(voice):
    pieces = voice.prepare(request("私は日本語を勉強します。東京へ行く。", "japanese")).pieces
    assert pieces == ("わたし わ にほんご を べんきょう します 。", "とうきょう え いく 。")


def test_emoji_and_digits_pass_the_kana_reader(voice):
    pieces = voice.prepare(request("ＯＫ 😀 100円！ 二〇年 한국 café\n", "japanese")).pieces
    assert " ".join(" ".join(pieces).split()) == "おー けー 😀 ひゃくえん ！ に ぜろ ねん 한국 café"


@pytest.mark.parametrize(
    ("text", "language", "alone", "language_alone"),
    [
        ("Pythonを書く", "japanese", "Python,", "english"),
        ("привет my friend", "english", "привет,", "russian"),
        ("МГУ my friend", "english", "МГУ,", "russian"),
        ("東京 now", "english", "東京,", "chinese"),
        ("안녕 мой друг", "russian", "안녕,", "korean"),
    ],
)
async def test_foreign_word_sounds_as_in_its_own_language(
    voice, text, language, alone, language_alone
):
    whole, _ = await speak(voice, text=text, language=language)
    word, _ = await speak(voice, text=alone, language=language_alone)
    start = len(np.trim_zeros(word)) // 2
    np.testing.assert_array_equal(whole[:start], word[:start])


@pytest.mark.parametrize(
    "text",
    ["The word привет means hello.", "I live in 東京 now.", "Say 안녕 to ねこ and мир friend."],
)
async def test_change_of_language_leaves_no_gap(voice, text):
    samples, _ = await speak(voice, text=text, language="english")
    loud = np.flatnonzero(np.abs(samples) > 0.003)
    assert np.diff(loud).max() < 0.1 * voice.sample_rate_hz


async def test_comma_before_a_foreign_word_keeps_its_pause(voice):
    samples, _ = await speak(voice, text="He said, привет.", language="english")
    loud = np.flatnonzero(np.abs(samples) > 0.003)
    assert np.diff(loud).max() > 0.12 * voice.sample_rate_hz


async def test_length_cap_cuts_within_foreign_words(voice):
    text = "The word привет means hello."
    whole, _ = await speak(voice, text=text, language="english")
    for max_frames in (3, 8):
        cut, reason = await speak(voice, text=text, language="english", max_frames=max_frames)
        assert reason == "length"
        np.testing.assert_array_equal(cut, whole[: len(cut)])


async def test_mark_of_stress_moves_the_stress_or_changes_nothing(voice):
    async def sound(text, language="russian"):
        return (await speak(voice, text=text, language=language))[0]

    marked, plain = await sound("Москва\u0301 и го\u0301род"), await sound("Москва и город")
    np.testing.assert_array_equal(marked, plain)
    castle, lock = await sound("за\u0301мок"), await sound("замо\u0301к")
    np.testing.assert_array_equal(lock, await sound("замок"))
    np.testing.assert_array_equal(castle, await sound("з+амок"))
    assert len(castle) != len(lock)
    marked, plain = [await sound(f"the {word}", "english") for word in ("за\u0301мок", "замок")]
    assert len(marked) != len(plain)


def test_russian_dates_are_spoken_as_dates(voice):
    dated, written = (
        voice.prepare(request(text)).pieces
        for text in ("С 01.02.2024.", "С первого февраля две тысячи двадцать четвёртого года.")
    )
    assert dated == written


async def test_phonemes_are_spoken_instead_of_the_text(voice):
    asked, _ = await speak(voice, text="other", language="english", phonemes="h@l'oU")
    hello, _ = await speak(voice, text="hello", language="english")
    assert len(asked) == pytest.approx(len(hello), rel=0.1)


def test_brackets_are_no_way_to_phonemes(voice):
    for language, text in (("english", "say [[h@loU]]"), ("chinese", "说[[S;'ong35]]")):
        (piece,) = voice.prepare(request(text, language)).pieces
        assert language == "english" or "[" not in piece


async def test_phoneme_names_in_english_text_are_spoken_as_text(voice):
    bracketed, _ = await speak(voice, text="[[h@l'oU]]", language="english")
    word, _ = await speak(voice, text="hello", language="english")
    assert len(bracketed) > 1.4 * len(word)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("人々は〇", ("ひとびと わ ぜろ",)),
        ("へ は", ("え わ",)),
        ("豈", ("あに",)),
        ("東京abc大阪", ("とうきょう abc おおさか",)),
    ],
)
def test_each_kind_of_japanese_character_is_read(voice, text, pieces):
    found = voice.prepare(request(text, "japanese")).pieces
    assert tuple(" ".join(piece.split()) for piece in found) == pieces


def test_language_defaults_to_english(voice):
    utterance = voice.prepare(request("Hello", None))
    assert utterance.choice.language == "english"
    assert utterance.delivery.language_code == "en-us"


def test_choice_names_the_speaker_and_what_was_applied(voice):
    attributes = VoiceAttributes(gender="female", age=25, emotion="wistful")
    choice = voice.prepare(request(attributes=attributes)).choice
    assert voice.choose(request(attributes=attributes)) == choice
    assert choice.speaker in voice.speakers
    assert choice.applied == ("gender", "age")
    assert set(choice.not_applied) == {"emotion"}


def test_voice_reports_its_facts(voice):
    assert (voice.model_name, voice.device, voice.sample_rate_hz) == ("espeak-ng", "cpu", 22050)
    assert {"f1", "m3", "Annie"} <= set(voice.speakers)
    assert voice.longest_part_chars is None
    assert voice.is_healthy is True
    assert voice.facts == {}


def test_speaker_and_instruct_of_the_request_reach_the_choice(voice):
    utterance = voice.prepare(request(speaker="annie", instruct="Sing it."))
    assert utterance.choice.speaker == utterance.delivery.variant == "Annie"
    assert utterance.choice.applied == ("speaker",)
    assert set(utterance.choice.not_applied) == {"instruct"}


def test_emotion_words_and_names_of_other_services_are_known(voice):
    utterance = voice.prepare(
        request(speaker="nova", attributes=VoiceAttributes(emotion="грустно"))
    )
    assert utterance.choice.speaker == "f2"
    assert utterance.choice.applied == ("emotion", "speaker")


async def test_voice_whose_process_has_ended_is_not_healthy():
    voice = EspeakVoice()
    assert voice.is_healthy
    voice._library.close()
    assert not voice.is_healthy
    with pytest.raises(SynthesisFailed):
        await speak(voice)
    voice.close()


# Streaming -------------------------------------------------------------------------


async def test_same_request_gives_the_same_samples(voice):
    (first, _), (second, _) = [await speak(voice, text=SENTENCES) for _ in range(2)]
    np.testing.assert_array_equal(first, second)


async def test_speech_ends_with_stop(voice):
    samples, reason = await speak(voice)
    assert reason == "stop"
    assert samples.dtype == np.float32
    assert np.abs(samples).max() > 0.1


async def test_concurrent_utterances_equal_their_solo_results(voice):
    asked = [
        {"text": SENTENCES, "attributes": VoiceAttributes(gender="female", emotion="happy")},
        {"text": "Hello there. How are you?", "language": "english", "speaker": "grandma"},
        {"text": "你好。今天天气很好。", "language": "chinese"},
    ]
    solo = [(await speak(voice, **fields))[0] for fields in asked]
    together = await asyncio.gather(*(speak(voice, **fields) for fields in asked))
    for expected, (samples, _) in zip(solo, together, strict=True):
        np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("max_frames", [1, 5, 12])
async def test_length_cap_cuts_exactly_with_finish_reason_length(voice, max_frames):
    whole, _ = await speak(voice, text=SENTENCES)
    samples, reason = await speak(voice, text=SENTENCES, max_frames=max_frames)
    assert reason == "length"
    assert len(samples) == round(max_frames * FRAME_S * voice.sample_rate_hz)
    np.testing.assert_array_equal(samples, whole[: len(samples)])


async def test_length_cap_across_pieces_cuts_exactly(voice):
    first_piece = voice.prepare(request(text=SENTENCES)).pieces[0]
    first, _ = await speak(voice, text=first_piece)
    max_frames = int(len(first) / voice.sample_rate_hz / FRAME_S) + 5
    samples, reason = await speak(voice, text=SENTENCES, max_frames=max_frames)
    assert reason == "length"
    assert len(samples) == round(max_frames * FRAME_S * voice.sample_rate_hz)


async def test_expected_length_is_near_the_real_one(voice):
    samples, _ = await speak(voice, text=SENTENCES)
    expected_s = voice.prepare(request(text=SENTENCES)).expected_s
    assert expected_s == pytest.approx(len(samples) / voice.sample_rate_hz, rel=0.5)


def test_warm_up_speaks_and_fails_without_sound(voice, monkeypatch):
    voice.warm_up()
    monkeypatch.setattr(voice._library, "synthesise", lambda *_args: iter(()))
    with pytest.raises(SynthesisFailed):
        voice.warm_up()


def test_warm_up_needs_one_chunk_with_sound(voice, monkeypatch):
    def speak(*levels):
        chunks = [np.full(9, level, np.float32) for level in levels]
        monkeypatch.setattr(voice._library, "synthesise", lambda *_args: iter(chunks))

    speak(0, 0.1, 0)
    voice.warm_up()
    speak(0)
    with pytest.raises(SynthesisFailed):
        voice.warm_up()


async def test_closed_voice_is_not_ready():
    voice = EspeakVoice()
    utterance = voice.prepare(request())
    voice.close()
    with pytest.raises(NotReady):
        await collect(utterance.speak())
    voice.close()


# Turns and cancellation, with a synthesis that the test holds in its hands -----------


class HeldSynthesis:
    """Each piece gives ten chunks of one sample, once its text has been let go."""

    def __init__(self):
        self.started = []
        self.chunks = 0
        self.may_end = threading.Event()
        self.is_running = threading.Event()

    def __call__(self, piece):
        self.started.append(piece)
        self.is_running.set()
        assert self.may_end.wait(30)
        for _ in range(10):
            self.chunks += 1
            yield np.ones(1, np.float32)


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as worker:
        yield worker


async def test_first_piece_arrives_while_the_rest_is_not_synthesised(worker):
    held = HeldSynthesis()
    held.may_end.set()
    stream = EspeakStream("abcdef", held, worker, max_samples=1000)
    assert len(await anext(aiter(stream))) == 10
    assert stream.finish_reason is None
    await stream.aclose()
    assert set(held.started) <= {"a", "b"}


async def test_pieces_of_two_utterances_take_turns(worker):
    held = HeldSynthesis()
    held.may_end.set()
    streams = [EspeakStream(p, held, worker, max_samples=1000) for p in ("aaaa", "bbbb")]
    await asyncio.gather(*map(collect, streams))
    assert sorted(held.started) == list("aaaabbbb")
    assert held.started[:4].count("b") == 2


async def test_closing_stops_the_current_piece_within_one_chunk(worker):
    held = HeldSynthesis()
    stream = EspeakStream("ab", held, worker, max_samples=1000)
    await asyncio.to_thread(held.is_running.wait)
    await stream.aclose()
    await stream.aclose()
    held.may_end.set()
    assert [chunk async for chunk in stream] == []
    worker.shutdown()
    assert stream.finish_reason == "cancelled"
    assert held.started == ["a"]
    assert held.chunks <= 1


async def test_a_stream_closed_before_its_turn_synthesises_nothing(worker):
    held = HeldSynthesis()

    async def collect_all(stream):
        return [chunk async for chunk in stream]

    busy = EspeakStream("a", held, worker, max_samples=1000)
    waiting = EspeakStream("b", held, worker, max_samples=1000)
    reader = asyncio.ensure_future(collect_all(waiting))
    await asyncio.to_thread(held.is_running.wait)
    await waiting.aclose()
    assert await reader == []
    held.may_end.set()
    await collect(busy)
    assert held.started == ["a"]


async def test_failure_inside_reaches_the_reader(worker):
    def fail(_piece):
        raise SynthesisFailed("espeak-ng failed with status 1")
        yield

    stream = EspeakStream("a", fail, worker, max_samples=1000)
    with pytest.raises(SynthesisFailed):
        await collect(stream)
    assert stream.finish_reason == "error"


async def spoken(pieces, samples_of, worker, max_samples=1000):
    """Read a stream of pieces with these samples, and leave; its chunks, its end, any error."""
    is_begun = threading.Event()

    def synthesise(piece):
        assert is_begun.wait(30)
        for chunk in samples_of[piece]:
            yield np.asarray(chunk, np.float32)

    stream = EspeakStream(pieces, synthesise, worker, max_samples=max_samples)
    assert stream.finish_reason is None
    is_begun.set()
    chunks = []
    try:
        async for chunk in stream:
            chunks += [chunk.tolist()]
    except TTSError as error:
        return chunks, stream.finish_reason, error
    await stream.aclose()
    return chunks, stream.finish_reason, None


async def test_one_chunk_has_one_piece_and_silent_pieces_are_left_out(worker):
    sounds = {"a": [[1, 2], [3]], "b": [[0, 0]], "c": [[0], [4]], "d": []}
    assert await spoken("abcd", sounds, worker) == ([[1, 2, 3], [0, 4]], "stop", None)


@pytest.mark.parametrize("sounds", [{"a": []}, {"a": [[0, 0]]}])
async def test_speech_without_a_sound_is_an_error(worker, sounds):
    chunks, reason, error = await spoken("aa", sounds, worker)
    assert (chunks, reason) == ([], "error")
    assert isinstance(error, CannotSpeak)
    assert (error.code, error.param) == ("no_reading", "text")


@pytest.mark.parametrize(
    ("max_samples", "chunks", "reason"),
    [
        (2, [[1, 2]], "length"),
        (3, [[1, 2, 3]], "length"),
        (4, [[1, 2, 3], [0]], "length"),
        (5, [[1, 2, 3], [0, 4]], "length"),
        (6, [[1, 2, 3], [0, 4], [5]], "length"),
        (7, [[1, 2, 3], [0, 4], [5]], "stop"),
    ],
)
async def test_speech_is_cut_at_its_length_even_in_a_silence(worker, max_samples, chunks, reason):
    sounds = {"a": [[1, 2], [3]], "b": [[0, 4]], "c": [[5]]}
    assert await spoken("abc", sounds, worker, max_samples) == (chunks, reason, None)


async def test_silence_alone_up_to_the_length_is_no_error(worker):
    assert await spoken("a", {"a": [[0, 0, 0]]}, worker, 2) == ([[0, 0]], "length", None)


async def test_synthesis_stops_where_the_length_is_reached(worker):
    made = []

    def synthesise(_piece):
        for _ in range(3):
            made.append(2)
            yield np.ones(2, np.float32)

    assert len(await collect(EspeakStream("ab", synthesise, worker, max_samples=4))) == 4
    worker.shutdown()
    assert made == [2, 2]


async def test_next_piece_is_made_while_the_reader_has_the_first(worker):
    is_second_made = threading.Event()

    def synthesise(piece):
        yield np.ones(1, np.float32)
        if piece == "b":
            is_second_made.set()

    stream = EspeakStream("ab", synthesise, worker, max_samples=9)
    await anext(aiter(stream))
    assert await asyncio.to_thread(is_second_made.wait, 30)


async def test_unforeseen_failure_inside_is_a_failure_of_synthesis_and_logged(
    worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)

    def fail(_piece):
        raise OSError("no such file")
        yield

    with pytest.raises(SynthesisFailed, match="the embedded voice failed"):
        await collect(EspeakStream("a", fail, worker, max_samples=9))
    assert "no such file" in caplog.text


async def test_failure_of_a_later_piece_follows_the_pieces_before_it(worker):
    class Sounds(dict):
        def __missing__(self, _):
            raise SynthesisFailed("espeak-ng failed with status 1")

    chunks, reason, error = await spoken("ab", Sounds(a=[[1]]), worker)
    assert (chunks, reason) == ([[1]], "error")
    assert isinstance(error, SynthesisFailed)


async def test_stream_is_not_ready_for_a_next_piece_after_the_worker_has_ended():
    worker = ThreadPoolExecutor(1)

    def synthesise(_piece):
        yield np.ones(1, np.float32)

    stream = EspeakStream("ab", synthesise, worker, max_samples=9)
    worker.shutdown()
    with pytest.raises(NotReady, match="stopping"):
        await collect(stream)
    assert stream.finish_reason == "error"
