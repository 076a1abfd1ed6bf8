"""The embedded voice: a `Voice` for which a request is text, a delivery and nothing to download.

It does not know HTTP, encoders or the rate that callers want: samples are espeak-ng's own.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from qwen_tts_service.errors import CannotSpeak, SynthesisFailed
from qwen_tts_service.types import FRAME_S, Gender, Language, Samples, SpeechRequest, VoiceChoice

from . import chinese, text
from .kana import KanaReader
from .library import SAMPLE_RATE_HZ, Delivery, EspeakLibrary
from .mapping import LANGUAGE_CODES, choose_delivery, no_gender, plain_emotion
from .russian_dates import expand_dates
from .stream import EspeakStream

_LATIN_IN_JAPANESE = "Latin words in Japanese text are spelled letter by letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class EspeakUtterance:
    """A request made ready: what to say, piece by piece, and how."""

    choice: VoiceChoice
    warning: str | None
    expected_s: float
    pieces: tuple[str, ...]
    delivery: Delivery
    max_samples: int
    has_phonemes: bool
    start: Callable[["EspeakUtterance"], EspeakStream]

    def speak(self) -> EspeakStream:
        """Start speaking. Raises NotReady after the voice was closed."""
        return self.start(self)


class EspeakVoice:
    """Speaks ten languages by espeak-ng; float32 samples at 22,050 Hz.

    known_emotion: word -> one of the names in `mapping`, or None; without it only these names
        themselves are known
    gender_of_name: a speaker's name in other services -> its gender, or None
    raises: StartupError when a package of the extra ``espeak`` is missing
    """

    model_name = "espeak-ng"
    sample_rate_hz = SAMPLE_RATE_HZ
    device = "cpu"
    longest_part_chars: int | None = None  # it cuts by itself

    def __init__(
        self,
        *,
        known_emotion: Callable[[str], str | None] = plain_emotion,
        gender_of_name: Callable[[str], Gender | None] = no_gender,
    ) -> None:
        self._library = EspeakLibrary()
        self._kana = KanaReader()
        self._known_emotion = known_emotion
        self._gender_of_name = gender_of_name
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")
        self.speakers = self._library.variants
        self.facts: Mapping[str, str] = {}

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        """Choose speaker and language. Raises InvalidRequest for an unknown speaker."""
        return self._choose(request)[0]

    def _choose(self, request: SpeechRequest) -> tuple[VoiceChoice, Delivery]:
        return choose_delivery(
            request.attributes,
            request.language or "english",
            request.speaker,
            request.instruct,
            speakers=self.speakers,
            known_emotion=self._known_emotion,
            gender_of_name=self._gender_of_name,
        )

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
        choice, delivery = self._choose(request)
        readable = self._read(request.text or "", language)
        pieces = text.split(readable, language)
        return EspeakUtterance(
            choice=choice,
            warning=_warning(readable, language),
            expected_s=text.expected_s(readable, language),
            pieces=tuple(map(chinese.with_phonemes, pieces)) if language == "chinese" else pieces,
            delivery=delivery,
            max_samples=round(request.max_frames * FRAME_S * SAMPLE_RATE_HZ),
            has_phonemes=language == "chinese",
            start=self._start,
        )

    def _start(self, utterance: EspeakUtterance) -> EspeakStream:
        synthesise = partial(self._synthesise, utterance)
        return EspeakStream(
            utterance.pieces, synthesise, self._worker, max_samples=utterance.max_samples
        )

    def warm_up(self) -> None:
        """Speak one word on the calling thread. Raises SynthesisFailed if nothing is heard."""
        utterance = self.prepare(SpeechRequest(request_id="warm-up", seed=0, text="ready"))
        is_heard = False

        def listen(chunk: Samples) -> bool:
            nonlocal is_heard
            is_heard = is_heard or bool(chunk.any())
            return True

        self._synthesise(utterance, utterance.pieces[0], listen)
        if not is_heard:
            raise SynthesisFailed("espeak-ng made no sound at all")

    @property
    def is_healthy(self) -> bool:
        """Every piece is read by a library of its own: nothing can stay broken."""
        return True

    def close(self) -> None:
        """End the worker thread after the pieces it has; streams then raise NotReady."""
        self._worker.shutdown(wait=True)

    def _synthesise(
        self, utterance: EspeakUtterance, piece: str, on_chunk: Callable[[Samples], bool]
    ) -> None:
        self._library.synthesise(
            piece, utterance.delivery, on_chunk, is_phoneme_input=utterance.has_phonemes
        )

    def _read(self, raw: str, language: Language) -> str:
        """Make the text one that espeak-ng reads, or refuse it."""
        readable = text.clean(raw)
        if language == "japanese":
            readable = self._kana.read(readable)
        elif language == "russian":
            readable = expand_dates(readable)
        text.check_reading(readable, language)
        if language == "chinese":
            self._check_characters(readable)
        return readable

    def _check_characters(self, readable: str) -> None:
        characters = chinese.characters_to_check(readable)
        phonemes = self._library.phonemes(characters, LANGUAGE_CODES["chinese"])
        if not all(map(chinese.is_reading, phonemes)):
            raise CannotSpeak(
                "text has rare Chinese characters that the embedded voice knows no reading for",
                param="text",
                code="no_reading",
            )


def _warning(readable: str, language: Language) -> str | None:
    has_letters = language == "japanese" and text.has_latin_words(readable)
    return _LATIN_IN_JAPANESE if has_letters else None
