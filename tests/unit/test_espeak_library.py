"""The C library behind its lock: checked names, no memory of earlier calls, prompt stop."""

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from qwen_tts_service.errors import StartupError, SynthesisFailed
from qwen_tts_service.espeak.kana import KanaReader
from qwen_tts_service.espeak.leaks import ForgottenMemory
from qwen_tts_service.espeak.library import CHUNK_MS, SAMPLE_RATE_HZ, Delivery, EspeakLibrary

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
    assert max(map(len, chunks)) <= SAMPLE_RATE_HZ * CHUNK_MS / 1000 + 1


def test_stopped_synthesis_leaves_nothing_for_the_next(library):
    expected = synthesise(library, RUSSIAN, "f2")
    library.synthesise(RUSSIAN, Delivery(language_code="ru", variant="f2"), lambda _: False)
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
