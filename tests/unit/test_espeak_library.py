"""The C library behind its lock: checked names, no memory of earlier calls, prompt stop."""

import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from qwen_tts_service.errors import StartupError, SynthesisFailed
from qwen_tts_service.espeak.kana import KanaReader
from qwen_tts_service.espeak.leaks import ForgottenMemory
from qwen_tts_service.espeak.library import SAMPLE_RATE_HZ, Delivery, EspeakLibrary

RUSSIAN = "Привет, мир! Сегодня хороший день."
# Variants with flutter, breath noise, echo and klatt: all that espeak-ng keeps state for.
STATEFUL = ["grandma", "whisper", "f4", "klatt4", "croak"]


@pytest.fixture(scope="module")
def library():
    return EspeakLibrary()


def synthesise(library, text, variant, language_code="ru", **settings):
    chunks = []
    delivery = Delivery(language_code=language_code, variant=variant, **settings)
    library.synthesise(text, delivery, lambda chunk: chunks.append(chunk) or True)
    return np.concatenate(chunks)


@pytest.mark.parametrize("variant", STATEFUL)
def test_same_call_gives_the_same_samples_whatever_came_before(library, variant):
    first = synthesise(library, RUSSIAN, variant)
    synthesise(library, "Guten Tag!", "f1", "de", rate_wpm=300, pitch=90, volume=150)
    np.testing.assert_array_equal(synthesise(library, RUSSIAN, variant), first)


def test_each_parameter_changes_the_sound(library):
    plain = {"rate_wpm": 175, "pitch": 50, "pitch_range": 50, "volume": 100}
    changes = [{}, {"rate_wpm": 200}, {"pitch": 60}, {"pitch_range": 80}, {"volume": 60}]
    heard = {synthesise(library, RUSSIAN, "f2", **(plain | c)).tobytes() for c in changes}
    assert len(heard) == len(changes)


def test_no_two_variants_sound_the_same(library):
    by_sound = {}
    for variant in library.variants:
        by_sound.setdefault(synthesise(library, "Привет.", variant).tobytes(), []).append(variant)
    assert [names for names in by_sound.values() if len(names) > 1] == []


def test_stop_is_obeyed_within_one_chunk(library):
    chunks = []

    def stop_at_the_third(chunk):
        chunks.append(chunk)
        return len(chunks) < 3

    library.synthesise(RUSSIAN * 50, Delivery(language_code="ru", variant="f2"), stop_at_the_third)
    assert len(chunks) == 3
    assert max(map(len, chunks)) <= 0.1 * SAMPLE_RATE_HZ + 1


def test_stopped_synthesis_leaves_nothing_for_the_next(library):
    expected = synthesise(library, RUSSIAN, "f2")
    library.synthesise(RUSSIAN, Delivery(language_code="ru", variant="f2"), lambda _: False)
    np.testing.assert_array_equal(synthesise(library, RUSSIAN, "f2"), expected)


def test_samples_are_float32_up_to_one(library):
    samples = synthesise(library, RUSSIAN, "m3", volume=200)
    assert samples.dtype == np.float32
    assert 0.5 < np.abs(samples).max() <= 1
    np.testing.assert_array_equal(np.rint(samples * 32768), samples * 32768)  # 16 bits, exactly


def test_text_ends_with_a_pause(library):
    samples = synthesise(library, "Привет, мир", "f2")
    assert np.abs(samples[-1000:]).max() < 1e-3


def test_louder_faster_higher_and_livelier_are_what_they_say(library):
    def measured(**settings):
        samples = synthesise(library, RUSSIAN, "m3", **settings)
        return len(samples), float(np.sqrt(np.mean(samples**2)))

    length, loudness = measured()
    assert measured(volume=200)[1] > 1.5 * loudness
    assert measured(rate_wpm=350)[0] < 0.6 * length
    for settings in ({"pitch": 90}, {"pitch_range": 90}, {"volume": 60}):
        assert measured(**settings)[0] == pytest.approx(length, rel=0.02)


def test_left_out_settings_are_those_of_espeak_itself(library):
    plain = {"rate_wpm": 175, "pitch": 50, "pitch_range": 50, "volume": 100}
    expected = synthesise(library, RUSSIAN, "f2", **plain)
    np.testing.assert_array_equal(synthesise(library, RUSSIAN, "f2"), expected)


def test_phonemes_are_read_as_such_only_when_it_is_said(library):
    def length(text, **options):
        chunks = []
        delivery = Delivery(language_code="en-us", variant="m3")
        library.synthesise(text, delivery, lambda chunk: chunks.append(chunk) or True, **options)
        return sum(map(len, chunks))

    word = length("hello")
    assert length("[[h@l'oU]]", is_phoneme_input=True) == pytest.approx(word, rel=0.1)
    assert length("[[h@l'oU]]") > 1.4 * word


def test_phonemes_of_each_text_come_in_their_order_with_all_clauses(library):
    whole, no, yes = library.phonemes(["Да! Нет.", "Нет.", "Да!"], "ru")
    assert whole == f"{yes} {no}"
    assert no != yes
    assert library.phonemes([], "ru") == []


def test_variants_are_sorted_and_are_all_voices(library):
    assert list(library.variants) == sorted(library.variants, key=str.casefold)
    assert len(library.variants) > 50
    assert "fast" not in library.variants


class BrokenLibrary(ctypes.CDLL):
    """espeak-ng, but one of its functions has another answer."""

    answers: ClassVar[dict[str, int]] = {}

    def __getattr__(self, name):
        function = super().__getattr__(name)
        if name not in self.answers:
            return function
        return lambda *arguments: (function(*arguments), self.answers[name])[1]


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ({"espeak_Synth": 1}, SynthesisFailed, "status 1"),
        ({"espeak_SetVoiceByName": 2}, SynthesisFailed, "refused .* status 2"),
        ({"espeak_Initialize": 16000}, StartupError, "sample rate 16000, expected 22050"),
    ],
)
def test_failure_of_the_library_is_an_error_and_the_next_call_is_as_before(
    library, monkeypatch, answers, error, message
):
    expected = synthesise(library, RUSSIAN, "f2")
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", BrokenLibrary)
        patch.setattr(BrokenLibrary, "answers", answers)
        with pytest.raises(error, match=message):
            synthesise(library, RUSSIAN, "f2")
    np.testing.assert_array_equal(synthesise(library, RUSSIAN, "f2"), expected)


def test_unknown_variant_is_refused(library):
    with pytest.raises(SynthesisFailed, match="no variant 'nobody'"):
        synthesise(library, RUSSIAN, "nobody")


@pytest.mark.parametrize("code", ["xx", "", "russian"])
def test_unknown_language_is_refused(library, code):
    with pytest.raises(SynthesisFailed, match="no language"):
        synthesise(library, RUSSIAN, "f2", code)


def test_threads_do_not_disturb_one_another(library):
    texts = [f"Это предложение номер {number}." for number in range(8)]
    expected = [synthesise(library, text, "f2") for text in texts]
    heard = {}

    def speak(text):
        heard[text] = synthesise(library, text, "f2")

    threads = [threading.Thread(target=speak, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text, samples in zip(texts, expected, strict=True):
        np.testing.assert_array_equal(heard[text], samples)


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_pieces_spoken(library):
    # A piece with a foreign word would lose 180 KB, any other 2 KB; 100 pieces are 18 MB.
    def speak_many(times):
        for _ in range(times):
            synthesise(library, "Слово docker.", "f2")
            library.phonemes(["天"], "cmn")

    speak_many(20)
    before = resident_bytes()
    speak_many(100)
    assert resident_bytes() - before < 4 * 2**20


def test_a_library_without_symbols_is_left_alone(tmp_path):
    path = tmp_path / "library.so"
    path.write_bytes(b"not an ELF file")
    assert not ForgottenMemory(path).can_free


@pytest.mark.parametrize(
    ("package", "make"), [("espeakng_loader", EspeakLibrary), ("pykakasi", KanaReader)]
)
def test_missing_package_is_named_with_the_way_to_install_it(monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StartupError, match=r"pip install 'qwen-tts-service\[espeak\]'"):
        make()
