"""A text that is still being written, as one stream: when it begins, goes on and ends."""

import asyncio

import numpy as np
import pytest

from qwen_tts_service.errors import CannotSpeak, InvalidRequest, SynthesisFailed
from qwen_tts_service.speech.parts import GAP
from qwen_tts_service.speech.sequence import PartSequence
from qwen_tts_service.speech.writing import OpenText
from qwen_tts_service.types import SpeechRequest, VoiceChoice

RATE_HZ = 1000


class FakeUtterance:
    """Says one sample per character, as soon as it is there."""

    def __init__(self, request, end="stop"):
        self.request = request
        self.choice = VoiceChoice(speaker="fake", language=request.language)
        self.finish_reason = None
        self.end = end
        self.pieces = []
        self.is_finished = False
        self.is_read = False
        self.is_closed = False
        self._news = asyncio.Event()

    @property
    def text(self):
        return "".join(self.pieces)

    def feed(self, text):
        assert text
        self.pieces.append(text)
        self._news.set()

    def finish(self):
        self.is_finished = True
        self._news.set()

    async def __aiter__(self):
        self.is_read = True
        told = 0
        while not self.is_closed:
            if told < len(self.text):
                chars = len(self.text) - told
                told += chars
                yield np.ones(chars, np.float32)
            elif self.is_finished:
                break
            else:
                self._news.clear()
                await self._news.wait()
        if self.end == "error":
            raise SynthesisFailed("told to")
        self.finish_reason = self.finish_reason or self.end

    async def aclose(self):
        self.is_closed = True
        self.finish_reason = self.finish_reason or "cancelled"
        self._news.set()


class FakeVoice:
    def __init__(self, ends=()):
        self.opened = []
        self.ends = list(ends)

    def open(self, request):
        end = self.ends.pop(0) if self.ends else "stop"
        self.opened.append(FakeUtterance(request, end))
        return self.opened[-1]

    @property
    def texts(self):
        return [utterance.text for utterance in self.opened]


class OpenStream:
    """Open text and the sequence that speaks it, as one stream."""

    def __init__(self, voice, request, part_chars):
        self.sequence = PartSequence(sample_rate_hz=RATE_HZ, max_frames=request.max_frames)
        self.text = OpenText(voice, request, self.sequence, part_chars=part_chars)
        self.feed = self.text.feed
        self.finish = self.text.finish
        self.aclose = self.sequence.aclose

    def __aiter__(self):
        return aiter(self.sequence)

    @property
    def finish_reason(self):
        return self.sequence.finish_reason

    @property
    def choice(self):
        return self.text.info().choice


def open_stream(voice, part_chars=1000, **fields):
    request = SpeechRequest(request_id="t", seed=1, **{"language": "english", **fields})
    return OpenStream(voice, request, part_chars)


async def read(stream):
    async with asyncio.timeout(5):
        parts = [part async for part in stream]
    return np.concatenate(parts) if parts else np.zeros(0)


def written(pieces, **fields):
    """What the voice was given, and what was heard."""

    async def run():
        voice = FakeVoice()
        stream = open_stream(voice, **fields)
        for piece in pieces:
            stream.feed(piece)
        stream.finish()
        return voice.texts, await read(stream), stream.finish_reason

    return asyncio.run(run())


def test_what_is_written_is_spoken_before_it_is_complete():
    async def run():
        voice = FakeVoice()
        stream = open_stream(voice)
        stream.feed("one two")
        heard = aiter(stream)
        async with asyncio.timeout(5):
            assert len(await anext(heard)) == len("one ")
        assert stream.choice.speaker == "fake"
        stream.finish()
        rest = [part async for part in heard]
        assert sum(map(len, rest)) == len("two")
        assert stream.finish_reason == "stop"

    asyncio.run(run())


LONG = "One two three. Four five six! Seven (eight) nine? Ten, eleven. Twelve"


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("fields", [{}, {"language": None}, {"normalize": "none"}])
def test_the_pieces_change_nothing(size, fields):
    pieces = [LONG[at : at + size] for at in range(0, len(LONG), size)]
    assert (
        written(pieces, part_chars=20, **fields)[0] == written([LONG], part_chars=20, **fields)[0]
    )


def test_a_long_text_is_spoken_in_utterances_that_end_with_sentences():
    texts, heard, reason = written([LONG], part_chars=21)
    assert texts == [
        "One two three. Four five six! ",
        "Seven (eight) nine? Ten, eleven. ",
        "Twelve",
    ]
    assert len(heard) == len(LONG) + 2 * round(GAP.duration_s * RATE_HZ)
    assert reason == "stop"


def test_marks_behind_the_last_sentence_are_no_utterance():
    texts, *_ = written(["One two three. Four five six. —", " "], part_chars=5)
    assert texts == ["One two three. ", "Four five six. — "]


def test_the_language_is_found_in_the_first_words():
    async def run():
        voice = FakeVoice()
        stream = open_stream(voice, language=None)
        stream.feed("Привет, мир! ")
        assert voice.opened == []
        stream.feed("Как дела сегодня? ")
        assert voice.opened[0].request.language == "russian"

    asyncio.run(run())


def test_a_short_text_without_a_language_is_spoken_when_it_is_complete():
    assert written(["Да."], language=None)[0] == ["Да."]


@pytest.mark.parametrize("pieces", [[], [" "], ["...", " «»"]])
def test_a_text_without_anything_to_say_is_refused(pieces):
    with pytest.raises(CannotSpeak) as caught:
        written(pieces)
    assert caught.value.code == "no_reading"


def test_full_normalisation_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        written(["x"], normalize="full")
    assert caught.value.param == "normalize"


def test_nothing_is_begun_before_it_is_read():
    async def run():
        voice = FakeVoice()
        stream = open_stream(voice, part_chars=5)
        stream.feed("One two three. Four five six. Seven")
        assert [utterance.is_read for utterance in voice.opened] == [False, False]
        heard = aiter(stream)
        async with asyncio.timeout(5):
            await anext(heard)
        assert [utterance.is_read for utterance in voice.opened] == [True, False]
        await stream.aclose()
        assert [part async for part in heard] == []
        assert stream.finish_reason == "cancelled"
        assert voice.opened[0].is_closed

    asyncio.run(run())


def test_the_whole_is_cut_at_max_frames():
    text = "x" * 150 + ". " + "y" * 150  # a sample per character, 80 in a frame
    _, heard, reason = written([text], part_chars=5, max_frames=3)
    assert (len(heard), reason) == (240, "length")


def test_leaving_ends_a_wait_for_text():
    async def run():
        stream = open_stream(FakeVoice())
        reading = asyncio.create_task(read(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        assert len(await reading) == 0

    asyncio.run(run())


@pytest.mark.parametrize("end", ["runaway", "length"])
def test_an_utterance_that_ends_otherwise_is_the_end_of_all(end):
    async def run():
        voice = FakeVoice([end])
        stream = open_stream(voice, part_chars=5)
        stream.feed("One two three. Four five six. Seven")
        stream.finish()
        assert len(await read(stream)) == len("One two three. ")
        assert stream.finish_reason == end

    asyncio.run(run())


def test_a_failure_is_raised():
    async def run():
        stream = open_stream(FakeVoice(["error"]))
        stream.feed("One.")
        stream.finish()
        with pytest.raises(SynthesisFailed):
            await read(stream)
        assert stream.finish_reason == "error"

    asyncio.run(run())
