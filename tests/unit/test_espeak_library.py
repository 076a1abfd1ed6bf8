"""The C library in its process: checked names, no memory of earlier calls, prompt stop."""

import ctypes
import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from qwen_tts_service.errors import StartupError, SynthesisFailed
from qwen_tts_service.espeak import server
from qwen_tts_service.espeak.library import SAMPLE_RATE_HZ, Delivery, EspeakLibrary
from qwen_tts_service.espeak.readings import KanaReader

SERVER = server.__file__
RUSSIAN = "Привет, мир! Сегодня хороший день."
# Variants with flutter, breath noise, echo and klatt, whose noise comes from the C library's
# rand(): all that espeak-ng keeps state for.
STATEFUL = ["grandma", "whisper", "f4", "klatt4", "croak", "Reed"]


@pytest.fixture(scope="module")
def library() -> Iterator[EspeakLibrary]:
    library = EspeakLibrary()
    yield library
    library.close()


def synthesise(library, text, variant, language_code="ru", **settings):
    delivery = Delivery(language_code=language_code, variant=variant, **settings)
    return np.concatenate(list(library.synthesise(delivery, text)))


def begin_and_stop(library, text, chunks=1):
    """The first chunks of a speech that is then stopped."""
    with closing(library.synthesise(Delivery(language_code="ru", variant="f2"), text)) as made:
        return [next(made) for _ in range(chunks)]


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


def test_chunks_are_short_and_come_before_the_speech_has_ended(library):
    chunks = begin_and_stop(library, RUSSIAN * 50, chunks=3)
    assert max(map(len, chunks)) <= 0.1 * SAMPLE_RATE_HZ + 1


def test_stopped_synthesis_leaves_nothing_for_the_next(library):
    expected = synthesise(library, RUSSIAN, "f2")
    begin_and_stop(library, RUSSIAN)
    np.testing.assert_array_equal(synthesise(library, RUSSIAN, "f2"), expected)


class OneChunk:
    """A library that makes one chunk of a single sample and does nothing else."""

    def espeak_SetSynthCallback(self, callback):  # noqa: N802 - the library's name
        self.callback = callback

    def espeak_Synth(self, *_arguments):  # noqa: N802 - the library's name
        self.callback((ctypes.c_short * 1)(5), 1, None)
        return 0


def test_caller_who_leaves_with_samples_unread_ends_the_fork(monkeypatch):
    exits = []
    monkeypatch.setattr(server.os, "_exit", exits.append)

    def send(_chunk):
        raise ConnectionResetError

    server._synthesise(OneChunk(), send, "text", [], False)
    assert exits == [0]


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
        return len(synthesise(library, text, "m3", "en-us", **options))

    word = length("hello")
    assert length("[[h@l'oU]]", has_phonemes=True) == pytest.approx(word, rel=0.1)
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


NO_FORK = """
import errno, os, runpy

fork, forks = os.fork, iter(range(9))

def fork_but_fail():
    if next(forks) in (1, 2, 3):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

os.fork = fork_but_fail
runpy.run_path({server!r}, run_name="__main__")
"""
BROKEN_SERVER = """
import ctypes, runpy, signal

class BrokenLibrary(ctypes.CDLL):
    def __getattr__(self, name):
        function = super().__getattr__(name)
        if name != {broken!r}:
            return function
        return lambda *arguments: (function(*arguments), {answer})[1]

ctypes.CDLL = BrokenLibrary
runpy.run_path({server!r}, run_name="__main__")
"""


@pytest.fixture
def make_broken(monkeypatch, tmp_path):
    """Make a library, but one of its functions has another answer."""

    def make(broken, answer):
        script = tmp_path / "broken.py"
        script.write_text(BROKEN_SERVER.format(broken=broken, answer=answer, server=SERVER))
        monkeypatch.setattr(server, "__file__", str(script))
        return EspeakLibrary()

    return make


def test_failure_of_the_library_is_an_error_and_the_next_call_is_as_before(library, make_broken):
    broken = make_broken("espeak_Synth", 1)
    for _ in range(2):
        with pytest.raises(SynthesisFailed, match="status 1"):
            synthesise(broken, RUSSIAN, "f2")
    assert broken.phonemes(["Да!"], "ru") == library.phonemes(["Да!"], "ru")
    assert broken.is_running
    broken.close()


@pytest.mark.parametrize(
    ("broken", "answer", "reason"),
    [
        ("espeak_SetVoiceByName", 2, "refused .* status 2"),
        ("espeak_Initialize", 16000, "sample rate 16000, not 22050"),
    ],
)
def test_library_that_does_not_work_is_found_out_at_the_start(
    make_broken, capfd, broken, answer, reason
):
    with pytest.raises(StartupError, match="espeak-ng could not start") as caught:
        make_broken(broken, answer)
    assert re.search(reason, str(caught.value) + capfd.readouterr().err)


def test_fork_that_fails_costs_its_caller_only(monkeypatch, tmp_path):
    script = tmp_path / "no_fork.py"
    script.write_text(NO_FORK.format(server=SERVER))
    monkeypatch.setattr(server, "__file__", str(script))
    library = EspeakLibrary()
    fds = Path(f"/proc/{library._process.pid}/fd")
    before = len(list(fds.iterdir())) if fds.is_dir() else 0
    for _ in range(3):
        with pytest.raises(SynthesisFailed, match="could not start a process: Res"):
            synthesise(library, RUSSIAN, "f2")
    assert library.is_running
    assert library.phonemes(["Да!"], "ru") == ["d'A"]
    if fds.is_dir():
        assert len(list(fds.iterdir())) == before
    library.close()


def test_fork_that_hangs_is_ended_at_the_limit(monkeypatch, tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text(
        BROKEN_SERVER.format(broken="espeak_Synth", answer="signal.pause()", server=SERVER)
    )
    monkeypatch.setattr(server, "__file__", str(script))
    monkeypatch.setattr("qwen_tts_service.espeak.library.LIMIT_S", 1)
    library = EspeakLibrary()
    with pytest.raises(SynthesisFailed, match="a process of espeak-ng has ended"):
        synthesise(library, RUSSIAN, "f2")
    assert library.phonemes(["Да!"], "ru") == ["d'A"]
    library.close()
    assert library._process.returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stops a process")
def test_server_that_hangs_is_given_up_and_killed_at_the_end(monkeypatch):
    library = EspeakLibrary()
    monkeypatch.setattr("qwen_tts_service.espeak.library.LIMIT_S", 0)
    monkeypatch.setattr("qwen_tts_service.espeak.library._CLOSE_S", 0.1)
    library._process.send_signal(signal.SIGSTOP)
    with pytest.raises(SynthesisFailed, match="no answer within 0 s"):
        synthesise(library, RUSSIAN, "f2")
    library.close()
    assert library._process.returncode == -signal.SIGKILL


def test_process_that_has_ended_is_noticed():
    library = EspeakLibrary()
    assert library.is_running
    library._process.kill()
    library._process.wait()
    assert not library.is_running
    with pytest.raises(SynthesisFailed, match="has ended"):
        synthesise(library, RUSSIAN, "f2")
    library.close()


def test_process_ends_when_the_library_is_closed_or_forgotten():
    closed, forgotten = EspeakLibrary(), EspeakLibrary()
    processes = closed._process, forgotten._process
    closed.close()
    closed.close()
    del forgotten
    gc.collect()
    assert [process.returncode for process in processes] == [0, 0]
    with pytest.raises(SynthesisFailed, match="has ended"):
        synthesise(closed, RUSSIAN, "f2")


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


def resident_bytes(library):
    """Memory of this process and of the library's."""
    pages = sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        for pid in (os.getpid(), library._process.pid)
    )
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_pieces_spoken(library):
    # In one process a piece with a foreign word would lose 180 KB: 100 pieces are 18 MB.
    def speak_many(times):
        for _ in range(times):
            synthesise(library, "Слово docker.", "f2")
            library.phonemes(["天"], "cmn")

    speak_many(20)
    before = resident_bytes(library)
    speak_many(100)
    assert resident_bytes(library) - before < 4 * 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_fork_is_left_behind(library):
    synthesise(library, RUSSIAN, "f2")
    begin_and_stop(library, RUSSIAN * 50)
    children = Path(f"/proc/{library._process.pid}/task/{library._process.pid}/children")
    deadline = time.monotonic() + 30
    while children.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children.read_text() == ""


@pytest.mark.parametrize(
    ("package", "make"), [("espeakng_loader", EspeakLibrary), ("pykakasi", KanaReader)]
)
def test_missing_package_is_named_with_the_way_to_install_it(monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StartupError, match=r"run: \./scripts/setup espeak"):
        make()
