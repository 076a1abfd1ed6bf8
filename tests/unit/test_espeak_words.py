"""When the embedded voice says each word: beside the pauses that are measured in its sound."""

import asyncio
import itertools

import numpy as np
import pytest

from qwen_tts_service.espeak.words import UtteranceWords
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import SpeechRequest, WordMark

RATE_HZ = 24000
FRAME = RATE_HZ // 100
QUIET = 0.004
"""Root mean square of a frame of 10 ms in a pause, -48 dB."""
SHORTEST_PAUSE_S = 0.12
"""A stop between two sounds of a word is shorter."""
MOST_OFF_S = 0.05
TEXTS = {
    "chinese": "你好，今天天气很好，我们去公园吧。明天呢？",
    "english": "Hello, it is **twenty-first** century; 1500 people &amp; I, at the end of the day.",
    "japanese": "こんにちは、日本語を勉強しています。元気ですか？",
    "korean": "안녕하세요, 오늘은 날씨가 정말 좋습니다. 그래요?",
    "german": "Guten Tag, heute ist ein schöner Tag. Es kostet 5,99 €!",
    "french": "Bonjour, il fait très beau aujourd’hui. C'est l'été, n'est-ce pas?",
    "russian": "Привет, мир! Docker за 5 %, з+амок у МГУ, 1 500 ₽. [pause:0.5s] Да, «вот».",
    "portuguese": "Olá, hoje o dia está muito bonito. Vamos!",
    "spanish": "Hola, hoy hace muy buen tiempo. ¿Vamos?",
    "italian": "Ciao, oggi è una bella giornata. Sì!",
}


def timed(voice, text, language, speaker=None, rate=1.0):
    """Speak; return samples, and timestamps of the words."""
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)
    request = SpeechRequest(
        request_id="test",
        seed=1,
        text=text,
        language=language,
        speaker=speaker,
        rate=rate,
        timestamps="word",
    )
    data, speech = asyncio.run(synthesizer.speak_whole(request, "pcm"))
    return np.frombuffer(data, np.int16) / 32768, list(speech.timestamps)


def pauses_of(samples, rate):
    """List start and end in seconds of every pause between two sounds; at a rate over 1 shorter."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    level = np.sqrt(np.mean(frames**2, axis=1))
    loud = np.flatnonzero(level > QUIET)
    return [
        (float(a + 1) / 100, float(b) / 100)
        for a, b in itertools.pairwise(loud)
        if b - a - 1 >= SHORTEST_PAUSE_S / max(1.0, rate) * 100
    ]


@pytest.mark.parametrize(
    ("speaker", "rate"),
    [
        (None, 1.0),
        pytest.param("f2", 1.0, id="with an echo"),
        pytest.param(None, 0.6, id="slow"),
        pytest.param(None, 1.3, id="fast"),
    ],
)
@pytest.mark.parametrize("language", TEXTS)
def test_words_end_and_begin_where_a_pause_does(voice, language, speaker, rate):
    text = TEXTS[language]
    samples, words = timed(voice, text, language, speaker, rate)
    pauses = pauses_of(samples, rate)
    assert len(pauses) >= 1
    for start_s, end_s in pauses:
        before = max((w for w in words if w.start_s < start_s), key=lambda w: w.end_s)
        behind = min((w for w in words if w.end_s > end_s), key=lambda w: w.start_s)
        assert abs(before.end_s - start_s) < MOST_OFF_S, (before, start_s)
        assert abs(behind.start_s - end_s) < MOST_OFF_S, (behind, end_s)
        # The pause is where the text has a mark, not somewhere between two words.
        between = text[before.end_char : behind.start_char]
        assert not between.isspace(), (before, behind)
        assert between, (before, behind)


@pytest.mark.parametrize("language", TEXTS)
def test_words_follow_each_other_and_have_all_letters(voice, language):
    text = TEXTS[language]
    samples, words = timed(voice, text, language)
    ends = [0.0, *(word.end_s for word in words)]
    assert all(ends[i] <= word.start_s < word.end_s for i, word in enumerate(words))
    assert words[-1].end_s <= len(samples) / RATE_HZ
    chars = [0, *(word.end_char for word in words)]
    assert all(chars[i] <= word.start_char < word.end_char for i, word in enumerate(words))
    left_out = "".join(
        text[a:b]
        for a, b in zip(chars, [*(word.start_char for word in words), len(text)], strict=True)
    )
    assert not any(map(str.isalpha, left_out.replace("[pause:0.5s]", "")))
    assert [word.text for word in words] == [text[w.start_char : w.end_char] for w in words]


def test_a_number_a_reading_and_phonemes_are_one_word_each(voice):
    text = "Say 1500, 5 % and <phoneme alphabet='x-espeak' ph='h@l&apos;oU'>hey you</phoneme> now."
    _, words = timed(voice, f"<speak>{text}</speak>", "english")
    assert [word.text for word in words] == ["Say", "1500", "5", "%", "and", "hey you", "now"]


def test_japanese_words_are_those_that_are_read_in_kana(voice):
    _, words = timed(voice, "私は東京のGPUに住んでいます。", "japanese")
    assert [word.text for word in words] == [
        "私",
        "は",
        "東京",
        "の",
        "GPU",
        "に",
        "住ん",
        "でいます",
    ]


def test_times_change_no_sample(voice):
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ)

    def samples(timestamps):
        request = SpeechRequest(
            request_id="test",
            seed=1,
            text="One Москва two. Three, four!",
            language="english",
            timestamps=timestamps,
        )
        return asyncio.run(synthesizer.speak_whole(request, "pcm"))[0]

    assert samples("sentence") == samples("word") == samples(None)


def test_a_piece_without_a_sound_takes_no_time_but_its_place():
    words = UtteranceWords("a b c", ("a", "b", "c"))
    sound = np.ones(10, np.float32)
    for piece, is_heard in (("a", True), ("b", False), ("c", True)):
        words.add_run(piece, piece, [(0, 0)], sound, slice(0, 10))
        words.end_piece(10 if is_heard else 0)
    assert words.take(10) == [WordMark(0, 10, 0, 1)]
    assert words.take(100) == [WordMark(10, 20, 4, 5)]
