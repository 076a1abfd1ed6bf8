"""How long the embedded voice takes, estimated and measured: words, figures, single letters."""

import math

import numpy as np
import pytest

from qwen_tts_service.espeak.library import SAMPLE_RATE_HZ
from qwen_tts_service.espeak.text import expected_s
from qwen_tts_service.espeak.voice import EspeakVoice
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.types import FRAME_S, Language, Samples, SpeechRequest, VoiceAttributes

NEARLY_ALWAYS, ALWAYS = 1.5, 2.0
"""Factors between the estimate and the speech: for nine texts in ten, and for every text."""

# None of these is among the texts that the estimate was fitted to.
TEXTS: dict[Language, tuple[str, ...]] = {
    "english": (
        "She sells sea shells by the sea shore.",
        "654987",
        "Q. R. S. T. U. V.",
        "The answer is 42, not 17.",
        "Stop! Wait! Now?",
        "BBC, CNN and FBI",
        "Well, it rained all day long. We stayed at home. Nobody complained, and tea was made.",
    ),
    "russian": (
        "Сегодня утром шёл сильный дождь.",
        "987321",
        "К. Л. М. Н. О. П.",
        "В доме 48 квартир и 3 подъезда.",
        "Стой! Куда? Сюда.",
        "МВД, ФСБ и ОМОН",
        "Зима была долгой. Снег лежал до мая, и никто не помнил такой весны. Потом пришло лето.",
    ),
    "german": (
        "Heute scheint die Sonne.",
        "8765",
        "K. L. M. N. O.",
        "Er hat 27 Bücher und 3 Hefte.",
    ),
    "french": ("Le train part ce soir.", "8765", "K. L. M. N. O.", "Il a 27 livres et 3 cahiers."),
    "spanish": (
        "El tren sale esta noche.",
        "8765",
        "K. L. M. N. O.",
        "Tiene 27 libros y 3 lápices.",
    ),
    "italian": ("Il treno parte stasera.", "8765", "K. L. M. N. O.", "Ha 27 libri e 3 quaderni."),
    "portuguese": (
        "O trem parte à noite.",
        "8765",
        "K. L. M. N. O.",
        "Tem 27 livros e 3 cadernos.",
    ),
    "chinese": ("火车今天晚上出发。", "8765", "他有27本书和3支笔。", "天。地。人。山。水。"),
    "japanese": ("電車は今夜出発します。", "8765", "本が27冊あります。", "空。海。山。"),
    "korean": ("기차는 오늘 밤에 떠납니다.", "8765", "책이 27권 있습니다.", "하늘. 바다. 산."),
}


def request(text: str, language: Language, **fields: object) -> SpeechRequest:
    return SpeechRequest(request_id="r", seed=1, text=text, language=language, **fields)  # type: ignore[arg-type]


def spoken_s(voice: EspeakVoice, asked: SpeechRequest) -> float:
    utterance = voice.prepare(asked)
    chunks: list[Samples] = [np.zeros(0, np.float32)]
    for piece in utterance.pieces:
        chunks += voice._library.synthesise(utterance.delivery, piece)
    return len(np.concatenate(chunks)) / SAMPLE_RATE_HZ


def test_the_estimate_is_near_the_speech(voice: EspeakVoice) -> None:
    factors = {}
    for language, texts in TEXTS.items():
        for text in texts:
            asked = request(text, language)
            factor = voice.prepare(asked).expected_s / spoken_s(voice, asked)
            factors[language, text] = math.exp(abs(math.log(factor)))
    assert len(factors) >= 40
    assert {text: factor for text, factor in factors.items() if factor > ALWAYS} == {}
    assert sum(factor > NEARLY_ALWAYS for factor in factors.values()) <= len(factors) / 10


@pytest.mark.parametrize("attributes", [{"age": 80, "emotion": "sad"}, {"emotion": "excited"}])
def test_the_estimate_follows_a_slow_or_quick_delivery(
    voice: EspeakVoice, attributes: dict[str, object]
) -> None:
    asked = request(TEXTS["english"][-1], "english", attributes=VoiceAttributes(**attributes))  # type: ignore[arg-type]
    assert voice.prepare(asked).expected_s == pytest.approx(spoken_s(voice, asked), rel=0.25)


@pytest.mark.parametrize(
    "text", ["9182736455" * 4, "Q. R. S. T. " * 8, "Yes [pause:5s] no [pause:5s] yes", "Hm. " * 20]
)
async def test_a_speech_that_will_be_cut_has_a_warning_and_one_that_fits_has_none(
    voice: EspeakVoice, text: str
) -> None:
    synthesizer = Synthesizer(voice, sample_rate_hz=24000)
    output = Output("pcm", is_stream=True)
    _, whole = await synthesizer.speak_whole(request(text, "english", max_frames=4096), "pcm")
    frames = whole.audio_s / FRAME_S
    for factor, has_warning in ((1 / NEARLY_ALWAYS, True), (NEARLY_ALWAYS, False)):
        asked = request(text, "english", max_frames=math.ceil(frames * factor))
        speech = await synthesizer.speak(asked, output)
        await speech.aclose()
        assert ("max_length" in (speech.info.warning or "")) == has_warning, (frames, speech.info)


def test_every_part_of_a_text_takes_time() -> None:
    def takes_s(text: str) -> float:
        return expected_s(text, "english")

    grows = (
        "a",
        "as",
        "as as",
        "as as, as",
        "as as. as",
        "as as. as 1",
        "as as. as 12",
        "as as. as 12 %",
    )
    assert sorted(map(takes_s, grows)) == list(map(takes_s, grows))
    assert takes_s("100") < takes_s("111") < takes_s("1 1 1") + takes_s("1")
    assert takes_s("1 234 567") == pytest.approx(takes_s("1234567"))
    assert takes_s("Q. R. S") == pytest.approx(takes_s("Q R S"))
