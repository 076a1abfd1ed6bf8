"""The embedded voice: espeak-ng as a `Voice`, which needs no weights."""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from qwen_tts_service.errors import CannotSpeak, SynthesisFailed
from qwen_tts_service.types import FRAME_S, Language, Samples, SpeechRequest, VoiceChoice

from . import no_reading, readings, text
from .library import SAMPLE_RATE_HZ, Delivery, EspeakLibrary
from .mapping import LANGUAGE_CODES, choose_delivery
from .stream import EspeakStream

_LATIN_IN_JAPANESE = "Latin words in Japanese text are spelled letter by letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class EspeakUtterance:
    """A text in pieces, and how it is spoken."""

    choice: VoiceChoice
    warning: str | None
    expected_s: float
    pieces: tuple[str, ...]
    delivery: Delivery
    start: Callable[[], EspeakStream]

    def speak(self) -> EspeakStream:
        """Start speaking; the stream fails with NotReady after the voice was closed."""
        return self.start()


class EspeakVoice:
    """Speaks ten languages by espeak-ng; float32 samples at 22,050 Hz.

    Raises StartupError when a package of the extra ``espeak`` is missing.
    """

    model_name = "espeak-ng"
    sample_rate_hz = SAMPLE_RATE_HZ
    device = "cpu"
    longest_part_chars: int | None = None  # it cuts by itself

    def __init__(self) -> None:
        self._kana = readings.KanaReader()
        self._library = EspeakLibrary()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")
        self.speakers = self._library.variants
        self.facts: Mapping[str, str] = {}

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        """Choose speaker and language. Raises InvalidRequest for an unknown speaker."""
        return choose_delivery(request, self.speakers)[0]

    def prepare(self, request: SpeechRequest) -> EspeakUtterance:
        """Read the text and choose the delivery.

        Raises InvalidRequest for an unknown speaker; CannotSpeak for tokens and for text
        without a reading in its language.
        """
        if request.tokens is not None:
            raise CannotSpeak(
                "the embedded voice has no tokenizer; send text instead of tokens",
                param="tokens",
                code="tokens_not_supported",
            )
        language: Language = request.language or "english"
        choice, delivery = choose_delivery(request, self.speakers)
        readable = self._read(request.text or "", language)
        pieces = text.split(readable, language)
        if language == "chinese":
            pieces = tuple(map(readings.with_phonemes, pieces))
        max_samples = round(request.max_frames * FRAME_S * SAMPLE_RATE_HZ)
        synthesise = partial(self._library.synthesise, delivery)
        if request.phonemes is not None:
            pieces, delivery = (f"[[{request.phonemes}]]",), replace(delivery, has_phonemes=True)
            synthesise = partial(self._library.synthesise, delivery)
        return EspeakUtterance(
            choice=choice,
            warning=_LATIN_IN_JAPANESE if _has_latin_words(readable, language) else None,
            expected_s=text.expected_s(readable, language, delivery.rate_wpm),
            pieces=pieces,
            delivery=delivery,
            start=partial(EspeakStream, pieces, synthesise, self._worker, max_samples=max_samples),
        )

    def warm_up(self) -> None:
        """Speak one word on the calling thread. Raises SynthesisFailed if nothing is heard."""
        utterance = self.prepare(SpeechRequest(request_id="warm-up", seed=0, text="ready"))
        chunks: list[Samples] = []

        def keep(chunk: Samples) -> bool:
            chunks.append(chunk)
            return True

        self._library.synthesise(utterance.delivery, utterance.pieces[0], keep)
        if not any(chunk.any() for chunk in chunks):
            raise SynthesisFailed("espeak-ng made no sound at all")

    @property
    def is_healthy(self) -> bool:
        """Whether the process that speaks is running."""
        return self._library.is_running

    def close(self) -> None:
        """End the worker thread after the pieces it has; streams then raise NotReady."""
        self._worker.shutdown(wait=True)
        self._library.close()

    def _read(self, raw: str, language: Language) -> str:
        """Make the text one that espeak-ng reads, or refuse it."""
        readable = text.clean(raw)
        if language == "japanese":
            readable = self._kana.read(readable)
        elif language == "russian":
            readable = readings.expand_dates(readable)
        text.check_reading(readable, language)
        if language == "chinese":
            characters = readings.characters_to_check(readable)
            phonemes = self._library.phonemes(characters, LANGUAGE_CODES["chinese"])
            if not all(map(readings.is_reading, phonemes)):
                raise no_reading(
                    "text has rare Chinese characters that the embedded voice knows no reading for"
                )
        return readable


def _has_latin_words(readable: str, language: Language) -> bool:
    """Whether there are Latin words in Japanese longer than a usual abbreviation."""
    return language == "japanese" and re.search(r"[A-Za-z]{4}", readable) is not None
