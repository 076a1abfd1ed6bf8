"""The embedded voice: espeak-ng as a `Voice`, which needs no weights."""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from qwen_tts_service.audio.stretch import TimeStretch
from qwen_tts_service.errors import CannotSpeak, SynthesisFailed
from qwen_tts_service.text.split import nothing_to_speak, split_sentences
from qwen_tts_service.text.stress import STRESS, mark_stress
from qwen_tts_service.types import FRAME_S, Language, Samples, SpeechRequest, VoiceChoice

from . import no_reading, readings, runs, russian, text
from .library import SAMPLE_RATE_HZ, Delivery, EspeakLibrary
from .mapping import LANGUAGE_CODES, MAX_PITCH, MIN_PITCH, choose_delivery
from .notation import write_out
from .stream import EspeakStream
from .words import UtteranceWords, WordBegin

# At a change of language within a sentence; about what is left between two words.
_JOIN_S = 0.03
_LOUD = 0.003
_BLOCK_CHARS = 2000
_CLAUSE_ENDS = (*",.;:!?…—–，。、；：！？",)

_Speak = Callable[[UtteranceWords | None, str], Generator[Samples, None, None]]
"""Speaks a piece of text, and tells of its words."""
_SpeakAs = Callable[[Delivery, UtteranceWords | None, str], Generator[Samples, None, None]]


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
    has_own_rate = True
    slots: int | None = None
    times_words: Literal[True] = True

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
        usual = choose_delivery(replace(request, rate=1.0), self.speakers)[1]
        warnings: list[str] = []
        speak_as: _SpeakAs = partial(self._speak, language)
        if request.phonemes is None:
            pieces, warnings = self._read(request.text or "", language)
        else:
            pieces, speak_as = (f"[[{request.phonemes}]]",), self._speak_phonemes
            delivery, usual = (replace(each, has_phonemes=True) for each in (delivery, usual))
        speak: _Speak = partial(speak_as, delivery)
        if request.rate != 1:
            speak = partial(_speak_at_rate, speak, partial(speak_as, usual), request.rate)
        if request.pitch != 1 and delivery.pitch in (MIN_PITCH, MAX_PITCH):
            warnings.append("the pitch was limited to what the embedded voice has")
        max_samples = round(request.max_frames * FRAME_S * SAMPLE_RATE_HZ)
        return EspeakUtterance(
            choice=choice,
            warning="; ".join(warnings) or None,
            expected_s=text.expected_s(" ".join(pieces), language, usual.rate_wpm) / request.rate,
            pieces=pieces,
            delivery=delivery,
            start=partial(self._start, request, pieces, speak, max_samples),
        )

    def _start(
        self, request: SpeechRequest, pieces: tuple[str, ...], speak: _Speak, max_samples: int
    ) -> EspeakStream:
        words = None
        if request.timestamps == "word":
            asked, places = request.text or "", None
            if request.language == "japanese":
                asked, places = self._kana.places(asked)
            words = UtteranceWords(asked, pieces, places)
        synthesise = partial(speak, words)
        return EspeakStream(pieces, synthesise, self._worker, max_samples=max_samples, words=words)

    def warm_up(self) -> None:
        """Speak one word on the calling thread. Raises SynthesisFailed if nothing is heard."""
        utterance = self.prepare(SpeechRequest(request_id="warm-up", seed=0, text="ready"))
        chunks = list(self._library.synthesise(utterance.delivery, utterance.pieces[0]))
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

    def _read(self, raw: str, language: Language) -> tuple[tuple[str, ...], list[str]]:
        """Make pieces of text that espeak-ng reads, and warnings; or refuse the text."""
        marked = mark_stress(text.clean(raw))
        # Block by block, as a rule that looks at all of a long text keeps other threads waiting.
        blocks = split_sentences(marked, max_chars=_BLOCK_CHARS, min_chars=_BLOCK_CHARS // 2)
        readable = "".join(write_out(block, language) for block in blocks)
        if language == "japanese":
            readable = self._kana.read(readable)
        pieces = text.split(readable, language)
        if not pieces:
            raise nothing_to_speak()
        if language not in ("chinese", "japanese"):
            pieces = tuple(map(self._with_kana, pieces))
        readable = " ".join(pieces)
        warnings = runs.check_letters(readable, language)
        self._check_characters(readings.characters_to_check(readable))
        return pieces, warnings

    def _check_characters(self, characters: list[str]) -> None:
        """Refuse Chinese characters that espeak-ng would spell by their code."""
        if not characters:
            return
        phonemes = self._library.phonemes(characters, LANGUAGE_CODES["chinese"])
        unread = [
            char
            for char, sound in zip(characters, phonemes, strict=True)
            if not readings.is_reading(sound)
        ]
        if unread:
            raise no_reading(
                "text has rare Chinese characters that the embedded voice knows no reading for: "
                + " ".join(unread[:20])
            )

    def _with_kana(self, piece: str) -> str:
        """Read Chinese characters beside kana as Japanese; others are left, and are Chinese."""
        return self._kana.read(piece) if readings.has_kana(piece) else piece

    def _speak(
        self, language: Language, delivery: Delivery, words: UtteranceWords | None, piece: str
    ) -> Generator[Samples, None, None]:
        """Speak a piece, each run in its language and without a gap before the next."""
        parts = runs.split_runs(piece, language)
        has_gap_before = True
        for run in parts:
            run_delivery, phonetic = self._delivered(delivery, run)
            if len(parts) == 1 and words is None:
                yield from self._library.synthesise(run_delivery, phonetic)
                return
            has_gap_behind = run is parts[-1] or run.text.rstrip().endswith(_CLAUSE_ENDS)
            if not has_gap_behind:
                phonetic += ","  # keeps the voice up, as within a sentence
            samples, begins = self._speak_run(run_delivery, phonetic)
            kept = _trimmed(samples, keep_start=has_gap_before, keep_end=has_gap_behind)
            if words is not None:
                words.add_run(run.text, phonetic, begins, samples, kept)
            yield samples[kept]
            has_gap_before = has_gap_behind

    def _speak_phonemes(
        self, delivery: Delivery, words: UtteranceWords | None, piece: str
    ) -> Generator[Samples, None, None]:
        samples, begins = self._speak_run(delivery, piece)
        if words is not None:
            words.add_run(piece, piece, begins, samples, slice(0, len(samples)))
        yield samples

    def _speak_run(self, delivery: Delivery, phonetic: str) -> tuple[Samples, list[WordBegin]]:
        begins: list[WordBegin] = []
        chunks = self._library.synthesise(
            delivery, phonetic, lambda sample, char: begins.append((sample, char))
        )
        return np.concatenate([np.zeros(0, np.float32), *chunks]), begins

    def _delivered(self, delivery: Delivery, run: runs.Run) -> tuple[Delivery, str]:
        """The delivery of a run, and its text with the phonemes that espeak-ng lacks."""
        phonetic = run.text
        if run.language_code == "ru" != delivery.language_code:
            phonetic = write_out(run.text, "russian")  # "at МГУ"
        if run.language_code == "cmn":
            phonetic = readings.with_phonemes(run.text)
        elif STRESS in phonetic and run.language_code != "ru":
            phonetic = russian.unmarked(phonetic)
        elif STRESS in phonetic:
            words = russian.stressed_words(phonetic)
            phonemes = self._library.phonemes([russian.unmarked(word) for word in words], "ru")
            phonetic = russian.with_stress(phonetic, dict(zip(words, phonemes, strict=True)))
        has_phonemes = "[[" in phonetic
        return replace(
            delivery, language_code=run.language_code, has_phonemes=has_phonemes
        ), phonetic


def _speak_at_rate(
    speak: _Speak, usually: _Speak, rate: float, words: UtteranceWords | None, piece: str
) -> Generator[Samples, None, None]:
    """Speak a piece in exactly its usual time divided by the rate.

    espeak-ng follows a rate to within a fifth, and to half as fast it cannot go everywhere: the
    rest is time stretch.
    """
    samples = np.concatenate([np.zeros(0, np.float32), *speak(words, piece)])
    usual_length = sum(map(len, usually(None, piece)))
    if not len(samples) or not usual_length:
        yield samples
        return
    factor = len(samples) * rate / usual_length
    if words is not None:
        words.stretch_piece(factor)
    stretch = TimeStretch(factor, SAMPLE_RATE_HZ)
    yield np.concatenate([stretch.feed(samples), stretch.finish()])


def _trimmed(samples: Samples, *, keep_start: bool, keep_end: bool) -> slice:
    """What is left without the silence at the ends that are joined to others; float32 [N]."""
    loud = np.flatnonzero(np.abs(samples) > _LOUD)
    if not len(loud):
        return slice(0, 0)
    margin = round(_JOIN_S / 2 * SAMPLE_RATE_HZ)
    start = 0 if keep_start else max(0, int(loud[0]) - margin)
    end = len(samples) if keep_end else min(len(samples), int(loud[-1]) + margin)
    return slice(start, end)
