"""When sentences and words are heard: in the audio, and in the text as it was sent."""

import asyncio
from contextlib import aclosing

import numpy as np
import pytest

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.speech.timeline import HeardSpan, Timeline
from qwen_tts_service.speech.writing import open_speech
from qwen_tts_service.text.places import align
from qwen_tts_service.types import SpeechRequest, VoiceChoice, WordMark

RATE_HZ = 10_000
EDGE_S = 0.1
"""Silence at both ends of everything that the voice says."""


class ToneUtterance:
    """Says `EDGE_S` of silence, 0.1 s of sound for every letter, and silence again."""

    warning = None
    expected_s = 0.0

    def __init__(self, request: SpeechRequest) -> None:
        self.choice = VoiceChoice(speaker="tone", language=request.language or "english")
        self.letters = sum(map(str.isalpha, request.text or ""))

    def speak(self) -> PcmChannel:
        channel = PcmChannel(capacity_samples=10**9)
        edge = np.zeros(round(EDGE_S * RATE_HZ), np.float32)
        sound = np.full(round(0.1 * RATE_HZ), 0.5, np.float32)
        for samples in (edge, *[sound] * self.letters, edge):
            channel.put(samples)
        channel.close()
        return channel


class ToneVoice:
    model_name = "tone"
    sample_rate_hz = RATE_HZ
    longest_part_chars = 1000

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        return ToneUtterance(request).choice

    def prepare(self, request: SpeechRequest) -> ToneUtterance:
        if "silent" in (request.text or ""):
            raise CannotSpeak("asked to", code="no_reading")
        return ToneUtterance(request)


class EvenAligner:
    """Finds the two words `A` and `bc` where `ToneUtterance` says them."""

    def align(self, samples, sample_rate_hz, text, language):
        assert (sample_rate_hz, text.strip(), language) == (RATE_HZ, "A bc.", "english")
        assert len(samples) == round(0.5 * RATE_HZ)
        return [WordMark(1000, 2000, 0, 1), WordMark(2000, 4000, 2, 4)]


def speak(text, *, rate_hz=RATE_HZ, aligner=None, timestamps="sentence", **asked):
    """Speak; return text, start and end in seconds of each timestamp."""
    synthesizer = Synthesizer(ToneVoice(), sample_rate_hz=rate_hz, aligner=aligner)
    request = SpeechRequest(
        request_id="t", seed=1, text=text, language="english", timestamps=timestamps, **asked
    )
    _, speech = asyncio.run(synthesizer.speak_whole(request, "pcm"))
    for timestamp in speech.timestamps:
        assert text[timestamp.start_char : timestamp.end_char] == timestamp.text
    return [(t.text, round(t.start_s, 3), round(t.end_s, 3)) for t in speech.timestamps]


def test_a_sentence_is_timed_by_its_sound_and_named_as_it_was_written():
    assert speak("One. [pause:1s] «<b>Two</b>» &amp; **six**!") == [
        ("One.", 0.1, 0.4),
        # 0.1 s of silence, the pause, and 0.1 s of silence again
        ("«<b>Two</b>» &amp; **six**!", 1.6, 2.2),
    ]


def test_times_are_those_of_the_audio_that_is_sent_whatever_its_rate():
    assert speak("One. Two.", rate_hz=24000) == speak("One. Two.")


def test_a_sentence_that_is_cut_ends_where_the_audio_ends():
    assert speak("Four. Nine.", max_frames=15) == [("Four.", 0.1, 0.5), ("Nine.", 1.0, 1.2)]
    assert speak("Four. Nine.", max_frames=5) == [("Four.", 0.1, 0.4)]


def test_what_is_replaced_by_silence_has_no_time():
    assert [text for text, *_ in speak("One. silent. Two.", on_unspeakable="silence")] == [
        "One.",
        "Two.",
    ]


def test_nothing_is_timed_unless_it_is_asked_for():
    assert speak("One. Two.", timestamps=None) == []


def test_words_are_refused_where_nothing_knows_them():
    with pytest.raises(CannotSpeak) as refused:
        speak("A bc.", timestamps="word")
    assert (refused.value.code, refused.value.param) == ("word_times_not_supported", "timestamps")


def test_an_aligner_finds_the_words_of_a_voice_that_knows_none():
    found = speak("A bc. A bc.", timestamps="word", aligner=EvenAligner())
    gap_s = found[2][1] - found[0][1]
    assert found[:2] == [("A", 0.1, 0.2), ("bc", 0.2, 0.4)]
    assert [(text, round(start_s - gap_s, 3)) for text, start_s, _ in found[2:]] == [
        ("A", 0.1),
        ("bc", 0.2),
    ]


def test_a_word_counts_once_it_is_heard_to_its_end_and_is_cut_with_the_speech():
    timeline = Timeline("a b c", [align("a b c", "a b c")], "word")
    timeline.begin_part()
    timeline.hear(np.ones(10, np.float32), is_speech=True)
    # Known before they are heard, as the stages between may hold samples back.
    timeline.hear_words([WordMark(0, 10, 0, 1), WordMark(10, 20, 2, 3), WordMark(20, 30, 4, 5)])
    assert timeline.spans == []
    timeline.hear(np.ones(5, np.float32), is_speech=True)
    timeline.end_part()
    assert timeline.spans == [HeardSpan(0, 10, 0, 1), HeardSpan(10, 15, 2, 3)]


def test_a_part_that_is_not_heard_has_no_words():
    timeline = Timeline("a b", [align("a b", "a b")], "word")
    timeline.hear(np.ones(100, np.float32), is_speech=False)
    timeline.begin_part()
    timeline.hear_words([WordMark(0, 10, 0, 1)])
    timeline.end_part()
    assert timeline.spans == []


def test_spans_never_overlap_in_the_text():
    places = [align("a 5 b", "a five b"), align("a 5 b", "five b")]
    timeline = Timeline("a 5 b", places, "word")
    for words in ([WordMark(0, 10, 0, 1), WordMark(10, 20, 2, 6)], [WordMark(0, 10, 0, 4)]):
        timeline.begin_part()
        timeline.hear(np.ones(20, np.float32), is_speech=True)
        timeline.hear_words(words)
        timeline.end_part()
    assert [(span.start_char, span.end_char) for span in timeline.spans] == [(0, 1), (2, 3)]


async def test_a_stream_tells_what_has_begun_and_what_has_ended():
    synthesizer = Synthesizer(ToneVoice(), sample_rate_hz=RATE_HZ)
    request = SpeechRequest(request_id="t", seed=1, text="One. Two.", timestamps="sentence")
    seen = []
    async with aclosing(await synthesizer.speak(request, Output("pcm", is_stream=True))) as speech:
        async for _ in speech:
            begun = speech.begun_sentence
            seen.append((begun and begun.text, [t.text for t in speech.timestamps]))
    assert list(dict.fromkeys(map(str, seen))) == [
        "(None, [])",
        "('One.', [])",
        "(None, ['One.'])",
        "('Two.', ['One.'])",
        "(None, ['One.', 'Two.'])",  # the end is held back, to be faded
    ]
    assert [t.text for t in speech.timestamps] == ["One.", "Two."]


@pytest.mark.parametrize("size", [1, 4, 100])
async def test_a_text_that_is_being_written_has_places_in_all_of_it(size):
    text = "  One **two. Three** &amp; four. <b>Five</b>"
    synthesizer = Synthesizer(ToneVoice(), sample_rate_hz=RATE_HZ)
    request = SpeechRequest(request_id="t", seed=1, language="english", timestamps="sentence")
    speech = open_speech(synthesizer, request, Output("pcm", is_stream=True), by_token=False)
    for at in range(0, len(text), size):
        speech.feed(text[at : at + size])
    speech.finish()

    async def no_slot():
        pass

    found = []
    async for sentence in speech.speeches(no_slot):
        async for _ in sentence:
            pass
        found += sentence.timestamps
    assert [text[t.start_char : t.end_char] for t in found] == [
        "One **two.",
        "Three** &amp; four.",
        "Five",
    ]
    assert [t.text for t in found] == [text[t.start_char : t.end_char] for t in found]


def test_words_as_they_come_cannot_be_timed():
    class OpenToneVoice(ToneVoice):
        def open(self, request):
            raise AssertionError

    synthesizer = Synthesizer(OpenToneVoice(), sample_rate_hz=RATE_HZ)
    request = SpeechRequest(request_id="t", seed=1, timestamps="sentence")
    with pytest.raises(InvalidRequest) as refused:
        open_speech(synthesizer, request, Output("pcm", is_stream=True), by_token=True)
    assert refused.value.param == "timestamps"
