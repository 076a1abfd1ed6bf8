"""A text that is still being written, as one stream: when it begins, goes on and ends."""

import asyncio

import numpy as np
import pytest

from qwen_tts_service.errors import CannotSpeak, InvalidRequest, SynthesisFailed
from qwen_tts_service.speech.parts import TextOptions
from qwen_tts_service.speech.processing import ProcessedVoice
from qwen_tts_service.speech.sequence import PartSequence
from qwen_tts_service.speech.writing import OpenText
from qwen_tts_service.types import SpeechRequest, VoiceChoice

RATE_HZ = 1000


class FakeUtterance:
    """Says one sample per character, piece by piece as they come."""

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
        sent = 0
        while not self.is_closed:
            if sent < len(self.pieces):
                sent += 1
                yield np.ones(len(self.pieces[sent - 1]), np.float32)
            elif self.is_finished:
                break
            else:
                self._news.clear()
                await self._news.wait()
        if self.end == "error":
            raise SynthesisFailed("asked to fail")
        self.finish_reason = self.finish_reason or self.end

    async def aclose(self):
        self.is_closed = True
        self.finish_reason = self.finish_reason or "cancelled"
        self._news.set()


class FakeVoice:
    sample_rate_hz = RATE_HZ
    has_own_rate = False

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

    def __init__(self, voice, request, part_chars, default_language):
        self.sequence = PartSequence(sample_rate_hz=RATE_HZ, max_frames=request.max_frames)
        self.text = OpenText(
            voice,
            request,
            self.sequence,
            part_chars=part_chars,
            options=TextOptions(default_language=default_language),
        )
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


def open_stream(voice, part_chars=1000, default_language="english", **fields):
    request = SpeechRequest(request_id="t", seed=1, **{"language": "english", **fields})
    return OpenStream(voice, request, part_chars, default_language)


async def read(stream):
    async with asyncio.timeout(5):
        parts = [part async for part in stream]
    return np.concatenate(parts) if parts else np.zeros(0)


async def written(pieces, **fields):
    """What the voice was given, and what was heard."""

    voice = FakeVoice()
    stream = open_stream(voice, **fields)
    for piece in pieces:
        stream.feed(piece)
    stream.finish()
    return voice.texts, await read(stream), stream.finish_reason


def runs(samples):
    """[(value, how many in a row), ...]"""
    borders = np.flatnonzero(np.diff(samples)) + 1
    return [(int(run[0]), len(run)) for run in np.split(samples, borders) if len(run)]


async def test_what_is_written_is_spoken_before_it_is_complete():
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


LONG = "One two three. Four five six! Seven (eight) nine? Ten, eleven. Twelve"
TALK = "  — One two. — «Three four», he said. (Five) six? — Seven... No. 3.5 is it. — Eight"


@pytest.mark.parametrize("text", [LONG, TALK])
@pytest.mark.parametrize("part_chars", [1, 9, 20])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("fields", [{}, {"language": None}, {"normalize": "none"}])
async def test_the_pieces_change_nothing(text, part_chars, size, fields):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    whole = (await written([text], part_chars=part_chars, **fields))[0]
    assert len(whole) > 1
    assert (await written(pieces, part_chars=part_chars, **fields))[0] == whole


async def languages_of(text, size):
    """The language of each utterance that is opened for a text in pieces of so many characters."""
    voice = FakeVoice()
    stream = open_stream(voice, language=None)
    for at in range(0, len(text), size):
        stream.feed(text[at : at + size])
    stream.finish()
    return [utterance.request.language for utterance in voice.opened]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("blank", ["", " \n" * 15])
async def test_the_language_is_that_of_the_same_beginning_however_the_text_is_cut(size, blank):
    text = blank + "Привет, мой друг, да. Then it goes on in English for quite a while, as it may."
    assert await languages_of(text, size) == ["russian"]


@pytest.mark.parametrize(
    "beginning", ["", " " * 30, "2026-11-25 18:30, +7 (495), — ", "… 😊 № 5. "]
)
async def test_without_a_language_20_letters_are_waited_for(beginning):
    voice = FakeVoice()
    stream = open_stream(voice, language=None, normalize="none")
    stream.feed(beginning + "а" * 19)
    assert voice.opened == []
    stream.feed("а")
    assert [voice.texts[0].strip(), voice.opened[0].request.language] == [
        (beginning + "а" * 20).strip(),
        "russian",
    ]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/docs/en/index.html — это ссылка на нашу документацию.",
        "konstantin.konstantinov@example.com — это моя почта, пишите на неё.",
        "18:30 — 19:45, 20.11.2026. Встреча с новыми сотрудниками компании.",
        "Docker, Kubernetes и Terraform — это инструменты, которые мы используем.",
    ],
)
async def test_a_beginning_that_is_no_word_does_not_decide(text, size):
    assert set(await languages_of(text, size)) == {"russian"}


async def test_marks_and_digits_are_not_waited_for_for_ever():
    voice = FakeVoice()
    stream = open_stream(voice, language=None, default_language="korean")
    stream.feed("12 " * 133)
    assert voice.opened == []
    stream.feed("12 ")
    assert [utterance.request.language for utterance in voice.opened] == ["korean"]


async def test_a_language_that_was_given_is_kept():
    voice = FakeVoice()
    stream = open_stream(voice, language="english")
    stream.feed("Да, ")
    assert (voice.texts, voice.opened[0].request.language) == (["Да, "], "english")


async def test_a_long_utterance_goes_on_only_by_whole_sentences():
    voice = FakeVoice()
    stream = open_stream(voice, part_chars=20, normalize="none")
    stream.feed("One two. Three four five six")
    assert voice.texts == ["One two. Three four "]
    stream.feed(" seven")
    assert voice.texts == ["One two. Three four "]
    stream.feed(". Eight")
    assert voice.texts == ["One two. Three four five six seven. ", "Eight"]
    assert [utterance.is_finished for utterance in voice.opened] == [True, False]


@pytest.mark.parametrize(("part_chars", "count"), [(15, 2), (16, 1)])
async def test_an_utterance_ends_with_the_sentence_that_makes_it_long_enough(part_chars, count):
    assert len((await written(["One two three. Four five"], part_chars=part_chars))[0]) == count


async def test_a_long_text_is_spoken_in_utterances_that_end_with_sentences():
    texts, heard, reason = await written([LONG], part_chars=21)
    assert texts == [
        "One two three. Four five six! ",
        "Seven (eight) nine? Ten, eleven. ",
        "Twelve",
    ]
    said = [*map(len, texts)]
    assert runs(heard) == [(1, said[0]), (0, 300), (1, said[1]), (0, 300), (1, said[2])]
    assert reason == "stop"


async def test_the_gap_stands_once_before_whatever_pieces_come_behind_it():
    texts, heard, _ = await written([*map("{} ".format, LONG.split())], part_chars=40)
    assert len(texts) == 2
    assert runs(heard) == [(1, len(texts[0])), (0, 300), (1, len(texts[1]))]


async def test_marks_behind_the_last_sentence_are_no_utterance():
    texts, *_ = await written(["One two three. Four five six. —", " "], part_chars=5)
    assert texts == ["One two three. ", "Four five six. — "]


async def test_the_language_is_found_in_the_first_words():
    voice = FakeVoice()
    stream = open_stream(voice, language=None)
    stream.feed("Привет, мир! ")
    assert voice.opened == []
    stream.feed("Как дела сегодня? ")
    assert voice.opened[0].request.language == "russian"


async def test_a_short_text_without_a_language_is_spoken_when_it_is_complete():
    assert (await written(["Да."], language=None))[0] == ["Да."]


@pytest.mark.parametrize("pieces", [[], [" "], ["...", " «»"]])
async def test_a_text_without_anything_to_say_is_refused(pieces):
    with pytest.raises(CannotSpeak) as caught:
        await written(pieces)
    assert (caught.value.code, caught.value.param) == ("no_reading", "text")


async def test_full_normalisation_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        await written(["x"], normalize="full")
    assert caught.value.param == "normalize"


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_what_is_written_is_stretched_whatever_the_pieces(size):
    voice = FakeVoice()
    stream = open_stream(ProcessedVoice(voice, None), rate=2.0, max_frames=3)
    text = "Nothing is said twice. " * 12
    for at in range(0, len(text), size):
        stream.feed(text[at : at + size])
    stream.finish()
    assert (await read(stream)).tolist() == [1.0] * round(len(voice.texts[0]) / 2)
    assert voice.opened[0].request.max_frames == 6


async def test_nothing_is_begun_before_it_is_read():
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


@pytest.mark.parametrize(
    ("first", "expected"),  # 240 samples of speech and silence together
    [
        pytest.param(300, [(1, 240)], id="in-the-first"),
        pytest.param(200, [(1, 200), (0, 40)], id="in-the-gap"),
        pytest.param(98, [(1, 98), (0, 142)], id="in-the-gap-too"),
        pytest.param(240, [(1, 240)], id="between-them"),
    ],
)
async def test_the_whole_is_cut_at_max_frames(first, expected):
    voice = FakeVoice()
    stream = open_stream(voice, part_chars=5, max_frames=3, normalize="none")
    stream.feed("x" * (first - 2) + ". Y" + "y" * 150)
    stream.finish()
    heard = await read(stream)
    assert [u.is_closed for u in voice.opened if u.is_read][-1]
    await stream.aclose()
    assert (runs(heard), stream.finish_reason) == (expected, "length")


async def test_what_is_cut_in_a_later_utterance_counts_the_ones_before():
    text = "One two. Three four. Five six."
    _, heard, reason = await written([text], part_chars=5, max_frames=4)
    assert (runs(heard), reason) == ([(1, 9), (0, 300), (1, 11)], "length")


async def test_a_speech_that_ends_with_its_last_frame_has_not_been_cut():
    _, heard, reason = await written(["x" * 80], max_frames=1)
    assert (len(heard), reason) == (80, "stop")


async def test_a_reader_may_wait_before_there_is_a_text_and_when_it_has_ended():
    voice = FakeVoice()
    stream = open_stream(voice, part_chars=5, normalize="none")
    reading = asyncio.create_task(read(stream))
    for piece in ("", "One two. Three", " four. *"):
        await asyncio.sleep(0)
        stream.feed(piece)
        for _ in range(20):
            await asyncio.sleep(0)
    assert voice.texts == ["One two. ", "Three four. "]
    assert [utterance.is_read for utterance in voice.opened] == [True, True]
    assert not reading.done()
    stream.finish()
    heard = await reading
    assert (runs(heard), stream.finish_reason) == ([(1, 9), (0, 300), (1, 12)], "stop")


async def test_leaving_afterwards_does_not_change_how_it_ended():
    stream = open_stream(FakeVoice())
    stream.feed("One.")
    stream.finish()
    await read(stream)
    await stream.aclose()
    assert stream.finish_reason == "stop"


async def test_a_failure_after_closing_is_no_failure():
    stream = open_stream(FakeVoice(["error"]))
    stream.feed("One two")
    heard = aiter(stream)
    await anext(heard)
    await stream.aclose()
    assert [samples async for samples in heard] == []
    assert stream.finish_reason == "cancelled"


async def test_leaving_ends_a_wait_for_text():
    stream = open_stream(FakeVoice())
    reading = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    await stream.aclose()
    assert len(await reading) == 0


@pytest.mark.parametrize("end", ["runaway", "length"])
async def test_an_utterance_that_ends_otherwise_is_the_end_of_all(end):
    voice = FakeVoice([end])
    stream = open_stream(voice, part_chars=5)
    stream.feed("One two three. Four five six. Seven")
    stream.finish()
    assert len(await read(stream)) == len("One two three. ")
    assert stream.finish_reason == end


async def test_a_failure_is_raised():
    stream = open_stream(FakeVoice(["error"]))
    stream.feed("One.")
    stream.finish()
    with pytest.raises(SynthesisFailed):
        await read(stream)
    assert stream.finish_reason == "error"


# Markup ---------------------------------------------------------------------------------

MARKED = (
    "<think>Hm. Why?</think>Tom &amp; <b>Jerry</b> are here. [pause:0.5s]Now [voice:ryan] I say"
    " x<5.<br>Bye[voice:vivian][pause 1s] [pause 2s]you<break time='100ms'/>"
)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 1000])
@pytest.mark.parametrize("fields", [{}, {"language": None}])
async def test_markup_is_read_however_it_is_cut(size, fields):
    voice = FakeVoice()
    stream = open_stream(voice, **fields)
    for at in range(0, len(MARKED), size):
        stream.feed(MARKED[at : at + size])
    stream.finish()
    assert [(u.request.speaker, u.text) for u in voice.opened] == [
        (None, "Tom & Jerry are here. "),
        (None, "Now "),
        ("ryan", "I say x<5.\nBye"),
        ("vivian", "you"),
    ]
    silences = [length for value, length in runs(await read(stream)) if value == 0]
    assert silences == [500, 300, 3000, 100]


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_without_normalising_only_exact_pauses_are_read(size):
    text = " [pause:1s]<b>One</b>[pause 1s] &amp; [pause:1s] two"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    texts, heard, _ = await written(pieces, normalize="none")
    assert texts == ["<b>One</b>[pause 1s] &amp; ", "two"]
    assert [value for value, _ in runs(heard)] == [0, 1, 0, 1]


async def test_pauses_together_are_no_longer_than_the_longest():
    _, heard, _ = await written(["a[pause:9s] [pause:9s]b"])
    assert runs(heard) == [(1, 1), (0, 10_000), (1, 1)]


async def test_a_change_of_voice_in_the_first_words_does_not_hide_the_language():
    voice = FakeVoice()
    stream = open_stream(voice, language=None)
    stream.feed("[voice:a]OK! [voice:b]Привет, как твои дела сегодня?")
    stream.finish()
    assert [(u.request.speaker, u.request.language) for u in voice.opened] == [
        ("a", "russian"),
        ("b", "russian"),
    ]


async def test_the_end_of_a_change_of_voice_is_the_speaker_who_was_asked_for():
    voice = FakeVoice()
    stream = open_stream(voice, speaker="anna")
    stream.feed("One. [voice:bob]Two. [/voice]Three.")
    stream.finish()
    assert [u.request.speaker for u in voice.opened] == ["anna", "bob", "anna"]


async def test_ssml_is_not_spoken_by_token():
    with pytest.raises(InvalidRequest) as caught:
        open_stream(FakeVoice(), input_type="ssml")
    assert (caught.value.param, "sentence" in caught.value.message) == ("input_type", True)


async def test_an_unknown_voice_in_the_text_is_the_texts_fault():
    class OneVoice(FakeVoice):
        def open(self, request):
            if request.speaker == "bob":
                raise InvalidRequest("known: a", param="speaker", code="unknown_speaker")
            return super().open(request)

    stream = open_stream(OneVoice())
    stream.feed("Hello. ")
    with pytest.raises(InvalidRequest) as caught:
        stream.feed("[voice:bob] Hello there")
    assert (caught.value.param, caught.value.code) == ("text", "unknown_speaker")
    assert '"bob": known: a' in caught.value.message


WORDS = (("GPU", "джи пи ю"), ("GPU cluster", "кластер"), ("you", "ты"), ("🙂", "смайлик"))


@pytest.mark.parametrize("level", ["light", "none"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_words_are_replaced_however_the_text_is_cut(size, level):
    text = "A **GPU**, a GPU cluster and a GPU\ncluster. Do you see? Your GPU"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    fields = {"pronunciations": WORDS, "normalize": level, "part_chars": 20}
    texts, _, _ = await written(pieces, **fields)
    stars = "**" if level == "none" else ""
    said = " ".join("".join(texts).split())
    begin = f"A {stars}джи пи ю{stars}, a кластер and a"
    assert said.startswith(begin)
    assert said.endswith(" кластер. Do ты see? Your джи пи ю")
    assert texts == (await written([text], **fields))[0]


async def test_a_word_is_spoken_as_soon_as_no_longer_entry_can_follow():
    voice = FakeVoice()
    stream = open_stream(voice, pronunciations=WORDS)
    stream.feed("My GPU ")
    assert voice.texts == ["My "]
    stream.feed("is")
    assert voice.texts == ["My "]
    stream.feed(" so")
    assert voice.texts == ["My джи пи ю is "]


@pytest.mark.parametrize("language", [None, "russian"])
async def test_a_mark_that_has_a_reading_is_spoken(language):
    texts, _, _ = await written(["🙂", " ", "🙂"], pronunciations=WORDS, language=language)
    assert texts == ["смайлик смайлик"]
