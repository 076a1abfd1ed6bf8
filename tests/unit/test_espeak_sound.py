"""What the embedded voice sounds like, measured: pitch, rate, words, and never a letter name."""

import itertools

import numpy as np
import pytest
from tests.meter import loudness_and_peak

from qwen_tts_service.audio.stretch import TimeStretch
from qwen_tts_service.espeak.library import SAMPLE_RATE_HZ, Delivery
from qwen_tts_service.espeak.mapping import LANGUAGE_CODES
from qwen_tts_service.speech.loudness import SpeakerGains
from qwen_tts_service.speech.loudness_file import LoudnessFile
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import SpeechRequest, VoiceAttributes

SENTENCES = {
    "chinese": "你好，今天天气很好，我们去公园吧。",
    "english": "Hello, it is a beautiful day today.",
    "japanese": "こんにちは、日本語を勉強しています。",
    "korean": "안녕하세요, 오늘은 날씨가 정말 좋습니다.",
    "german": "Guten Tag, heute ist ein schöner Tag.",
    "french": "Bonjour, il fait très beau aujourd’hui.",
    "russian": "Привет, мир! Сегодня хороший день.",
    "portuguese": "Olá, hoje o dia está muito bonito.",
    "spanish": "Hola, hoy hace muy buen tiempo.",
    "italian": "Ciao, oggi è una bella giornata.",
}
every_language = pytest.mark.parametrize("language", SENTENCES)


def speak(voice, text, language, *, speaker=None, pitch=1.0, **attributes):
    """Synthesise at once on this thread; float32 [N]."""
    request = SpeechRequest(
        request_id="test",
        seed=1,
        text=text,
        language=language,
        speaker=speaker,
        pitch=pitch,
        attributes=VoiceAttributes(**attributes),
    )
    utterance = voice.prepare(request)
    chunks = []
    for piece in utterance.pieces:
        chunks += voice._library.synthesise(utterance.delivery, piece)
    return np.concatenate(chunks)


async def speak_at(voice, rate, text, language="english", speaker="klatt4"):
    """Speak at a rate, as a stream does."""
    request = SpeechRequest(
        request_id="t", seed=1, text=text, language=language, speaker=speaker, rate=rate
    )
    return np.concatenate([chunk async for chunk in voice.prepare(request).speak()])


def stretched(samples, speed):
    stretch = TimeStretch(speed, SAMPLE_RATE_HZ)
    return np.concatenate([stretch.feed(samples), stretch.finish()])


WINDOW = 2048


def pitch_hz(part):
    """The shortest strong period of a window, by autocorrelation; NaN without one."""
    shortest, longest = SAMPLE_RATE_HZ // 500, SAMPLE_RATE_HZ // 55
    part = part - part.mean()
    spectrum = np.abs(np.fft.rfft(part, 2 * WINDOW)) ** 2
    likeness = np.fft.irfft(spectrum)[: longest + 2]
    likeness *= WINDOW / (WINDOW - np.arange(longest + 2)) / likeness[0]
    lags = np.arange(shortest, longest)
    is_peak = (likeness[lags] >= likeness[lags - 1]) & (likeness[lags] >= likeness[lags + 1])
    best = likeness[lags].max()
    strong = lags[is_peak & (likeness[lags] > 0.93 * best)]
    return SAMPLE_RATE_HZ / strong[0] if best > 0.5 and len(strong) else np.nan


def loud_windows(samples):
    """Where a window begins that is not much quieter than the whole."""
    starts = range(0, len(samples) - WINDOW, WINDOW // 2)
    loudness = np.mean(samples**2)
    return [at for at in starts if np.var(samples[at : at + WINDOW]) >= loudness / 2]


def median_pitch_hz(samples):
    """Median over loud windows."""
    pitches = [pitch_hz(samples[at : at + WINDOW]) for at in loud_windows(samples)]
    return float(np.nanmedian(pitches))


def pitch_change(samples, other):
    """Median over loud windows of the pitch at the same place of the same speech, as a factor."""
    rate, half = len(samples) / len(other), WINDOW // 2
    centres = [(at + half, round((at + half) * rate)) for at in loud_windows(other)]
    inside = [(here, there) for here, there in centres if half <= there <= len(samples) - half]
    changes = [
        pitch_hz(other[here - half : here + half]) / pitch_hz(samples[there - half : there + half])
        for here, there in inside
    ]
    return float(np.nanmedian(changes))


def test_pitch_of_a_known_tone_is_measured_right():
    seconds = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tone = sum(np.sin(2 * np.pi * 200 * k * seconds) / k for k in range(1, 8))
    assert median_pitch_hz(tone) == pytest.approx(200, rel=0.02)


@every_language
def test_language_is_audible(voice, language):
    samples = speak(voice, SENTENCES[language], language)
    assert samples.dtype == np.float32
    assert len(samples) > SAMPLE_RATE_HZ
    assert np.sqrt(np.mean(samples**2)) > 0.03
    assert np.abs(samples).max() <= 1.0


@every_language
def test_male_is_lower_than_neutral_and_neutral_lower_than_female(voice, language):
    text = SENTENCES[language]
    for age in (None, 8, 16, 75):
        male, neutral, female = (
            median_pitch_hz(speak(voice, text, language, gender=gender, age=age))
            for gender in ("male", "neutral", "female")
        )
        assert male < 0.97 * neutral
        assert neutral < 0.97 * female


@every_language
@pytest.mark.parametrize("gender", ["male", "female"])
def test_a_child_is_higher_than_an_adult(voice, language, gender):
    child, adult = (
        median_pitch_hz(speak(voice, SENTENCES[language], language, gender=gender, age=age))
        for age in (8, 40)
    )
    assert child > 1.2 * adult


@every_language
def test_the_old_speak_slower(voice, language):
    adult, old = (len(speak(voice, SENTENCES[language], language, age=age)) for age in (40, 80))
    assert old > 1.1 * adult


@every_language
@pytest.mark.parametrize("gender", ["male", "female"])
def test_sad_is_slower_and_lower_than_happy(voice, language, gender):
    sad, happy = (
        speak(voice, SENTENCES[language], language, gender=gender, emotion=emotion)
        for emotion in ("sad", "happy")
    )
    assert len(sad) > 1.3 * len(happy)
    assert median_pitch_hz(sad) < 0.9 * median_pitch_hz(happy)


@pytest.mark.parametrize(
    ("language", "word"),
    [
        ("korean", "나는학생"),
        ("korean", "고양이 "),
        ("japanese", "カタカナ"),
        ("chinese", "中国人"),
        ("russian", "слово"),
        ("german", "Donaudampf"),
        ("english", "word "),
    ],
)
def test_nothing_is_lost_of_long_words_and_long_clauses(voice, language, word):
    # Left alone, espeak-ng drops the end of long words and clauses without a sign.
    short, long = (len(speak(voice, word * times, language)) for times in (10, 200))
    assert long > 0.75 * 20 * short


def test_every_emotion_changes_the_sound(voice):
    from qwen_tts_service.voice.emotions import EMOTIONS

    heard = {speak(voice, "Привет.", "russian", emotion=name).tobytes() for name in EMOTIONS}
    assert len(heard) == len(EMOTIONS)


def test_every_speaker_is_audible(voice):
    for speaker in voice.speakers:
        samples = speak(voice, "Good day.", "english", speaker=speaker)
        assert np.abs(samples).max() > 0.01, speaker


@every_language
def test_an_ordinary_sentence_is_read_in_its_own_language(voice, language):
    pieces, _ = voice._read(SENTENCES[language], language)
    (phonemes,) = voice._library.phonemes([" ".join(pieces)], LANGUAGE_CODES[language])
    assert phonemes.strip("_| ")
    assert "(" not in phonemes


def test_a_foreign_word_would_be_seen_in_the_phonemes(voice):
    assert "(en)" in voice._library.phonemes(["docker"], "ru")[0]


def test_espeak_reads_numbers(voice):
    figures, words = voice._library.phonemes(["17", "семнадцать"], "ru")
    assert figures.strip("_").casefold() == words.casefold()


def test_chinese_bear_is_one_syllable_of_chinese(voice):
    bear, use, big = (speak(voice, text, "chinese") for text in ("大熊", "大用", "大"))
    # espeak-ng itself spells xiong as an English word of several syllables.
    assert len(big) < len(bear) < 1.3 * len(use)


VOCABULARY = {
    "the train leaves at seven",
    "please open the window",
    "she sells fresh bread",
    "my brother lives in london",
    "tomorrow will be cold",
}


@pytest.fixture(scope="module")
def recognise():
    """Recognise float32 samples at 22,050 Hz as one of the sentences; None for no speech."""
    import soxr
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, lm=None, loglevel="FATAL")
    sentences = " | ".join(sorted(VOCABULARY))
    decoder.add_jsgf_string("five", f"#JSGF V1.0; grammar five; public <s> = {sentences};")
    decoder.activate_search("five")

    def recognise(samples):
        resampled = soxr.resample(samples, SAMPLE_RATE_HZ, 16000)
        decoder.start_utt()
        decoder.process_raw((resampled * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis else None

    return recognise


@pytest.mark.parametrize("sentence", sorted(VOCABULARY))
def test_english_is_understood_by_a_recogniser(voice, recognise, sentence):
    samples = speak(voice, sentence, "english", speaker="klatt4")
    assert recognise(samples) == sentence


@pytest.mark.parametrize("speed", [0.75, 1.5])
async def test_words_are_understood_at_other_speeds(voice, recognise, speed):
    for sentence in sorted(VOCABULARY):
        assert recognise(await speak_at(voice, speed, sentence)) == sentence
        assert recognise(stretched(await speak_at(voice, 1.0, sentence), speed)) == sentence


@pytest.mark.parametrize("language", ["english", "russian", "chinese"])
@pytest.mark.parametrize("rate", [0.5, 0.75, 1.5, 2.0])
async def test_a_rate_divides_the_length_and_leaves_the_pitch(voice, language, rate):
    text = SENTENCES[language]
    usual, other = [await speak_at(voice, each, text, language, "m6") for each in (1.0, rate)]
    assert len(other) == pytest.approx(len(usual) / rate, rel=0.001)
    assert pitch_change(usual, stretched(usual, rate)) == pytest.approx(1, abs=0.01)
    assert median_pitch_hz(other) == pytest.approx(median_pitch_hz(usual), rel=0.08)


def test_silence_is_not_understood(recognise):
    assert recognise(np.zeros(2 * SAMPLE_RATE_HZ, np.float32)) is None


def test_the_voices_of_the_table_are_understood(voice, recognise):
    """Not each sentence by each voice: formant voices differ, but words must come through."""
    kinds = itertools.product(("male", "female", "neutral"), (None, 8, 75))
    cases = [(*kind, sentence) for kind in kinds for sentence in sorted(VOCABULARY)]
    right = sum(
        recognise(speak(voice, sentence, "english", gender=gender, age=age)) == sentence
        for gender, age, sentence in cases
    )
    assert right >= 0.9 * len(cases)


@pytest.mark.parametrize("factor", [0.75, 0.8, 1.2, 1.45])
def test_a_factor_of_pitch_is_heard_as_such(voice, factor):
    plain, other = (
        median_pitch_hz(speak(voice, SENTENCES["english"], "english", pitch=pitch))
        for pitch in (1, factor)
    )
    assert other / plain == pytest.approx(factor, rel=0.08)


def test_pitch_moves_the_whole_voice_and_pitch_range_hardly(voice):
    def height_hz(**settings):
        delivery = Delivery(language_code="ru", variant="m3", **settings)
        chunks = voice._library.synthesise(delivery, SENTENCES["russian"])
        return median_pitch_hz(np.concatenate(list(chunks)))

    plain = height_hz()
    assert height_hz(pitch=90) > 1.35 * plain
    assert height_hz(pitch_range=90) < 1.3 * plain


# Those of the table, and the loudest and the quietest of all: from -11 to -29 LUFS by themselves.
SPEAKERS = ("m6", "f2", "m1", "f1", "f5", "iven", "Jacky", "Hugo", "caleb", "klatt2")


async def test_speakers_are_equally_loud_and_a_whisper_is_quieter(voice, tmp_path):
    gains = SpeakerGains(voice, LoudnessFile([tmp_path]), target_lufs=-20, identity="test", kept={})
    synthesizer = Synthesizer(voice, sample_rate_hz=24000, gains=gains)

    async def loudness_of(**fields):
        request = SpeechRequest(
            request_id="t",
            seed=1,
            text="She sells fresh bread at seven. Please open the window, my brother lives in "
            "London, and tomorrow will be cold.",
            language="english",
            **fields,
        )
        data, _ = await synthesizer.speak_whole(request, "pcm")
        samples = (np.frombuffer(data, "<i2") / 32767).astype(np.float32)
        lufs, peak_db = loudness_and_peak(samples, 24000)
        assert peak_db <= -1
        return lufs

    loudness = [await loudness_of(speaker=speaker) for speaker in SPEAKERS]
    assert max(loudness) - min(loudness) <= 1
    assert loudness == pytest.approx([-20] * len(SPEAKERS), abs=1)
    whisper, neutral, angry = [
        await loudness_of(attributes=VoiceAttributes(emotion=emotion))
        for emotion in ("whisper", "neutral", "angry")
    ]
    assert whisper + 1 < neutral < angry - 2
