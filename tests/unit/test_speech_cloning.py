"""From a recording's file to a clone: once per recording, one after the other, with warnings."""

import asyncio
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qwen_tts_service.audio.recording import TAIL_S
from qwen_tts_service.errors import Busy, CannotClone, InvalidRequest
from qwen_tts_service.speech import cloning
from qwen_tts_service.speech.cloning import CloningOrder, VoiceCloner
from qwen_tts_service.types import KeptVoice

REFERENCE = Path(__file__).parent.parent / "data" / "voices" / "references" / "ref_a.flac"
DATA = REFERENCE.read_bytes()
SECONDS = 48731 / 24000


class CloningFake:
    """Makes voices whose embedding is the number of samples heard."""

    def __init__(self):
        self.heard = []
        self.may_go = threading.Event()
        self.may_go.set()

    def clone(self, reference):
        assert self.may_go.wait(30)
        self.heard.append(reference)
        return KeptVoice(
            embedding=(float(len(reference.samples)),), transcript=reference.transcript or ""
        )


def noise(seconds):
    file = BytesIO()
    generator = np.random.default_rng(7)
    soundfile.write(file, generator.uniform(-0.5, 0.5, int(seconds * 8000)), 8000, format="WAV")
    return file.getvalue()


def clone(**order):
    return VoiceCloner(CloningFake()).clone_now(CloningOrder(data=DATA, **order))


def test_a_recording_with_its_transcript_is_followed_by_silence_unless_switched_off():
    made = clone(transcript="Hello, the wide world. ")
    assert made.voice.embedding == (48731 + TAIL_S * 24000,)
    assert made.voice.transcript == "Hello, the wide world."
    assert (made.kind, made.tail_s, made.warning) == ("flac", TAIL_S, None)
    assert made.duration_s == pytest.approx(SECONDS)
    made = clone(transcript="Hello, the wide world.", has_tail=False)
    assert (made.voice.embedding, made.tail_s) == ((48731,), 0)


@pytest.mark.parametrize("transcript", [None, "", " "])
def test_without_a_transcript_the_recording_is_heard_as_it_is(transcript):
    made = clone(transcript=transcript)
    assert (made.voice.embedding, made.voice.transcript, made.tail_s) == ((48731,), "", 0)


@pytest.mark.parametrize(
    ("transcript", "language", "is_plausible"),
    [
        ("Hello, the wide world.", None, True),
        ("Hello.", None, False),
        ("Hello. " * 20, None, False),
        ("今天天气很好我们走", None, True),
        ("今", None, False),
        ("今天天气很好" * 5, None, False),
        ("Сегодня хорошая погода.", "russian", True),
        ("Сегодня", "russian", False),
        ("3", "chinese", False),
    ],
)
def test_a_pace_at_which_nobody_speaks_is_warned_of(transcript, language, is_plausible):
    warning = clone(transcript=transcript, language=language).warning
    assert (warning is None) == is_plausible
    if warning is not None:
        assert warning.isascii()
        assert "unless it is exactly what is said" in warning
        assert transcript not in warning


def test_what_cannot_be_cloned_is_refused():
    with pytest.raises(CannotClone, match=r"1\.7B-Base and Qwen3-TTS-12Hz-0\.6B-Base"):
        VoiceCloner(object()).clone_now(CloningOrder(data=DATA))
    with pytest.raises(InvalidRequest, match="shorter"):
        VoiceCloner(CloningFake()).clone_now(CloningOrder(data=noise(0.5)))


def test_the_same_recording_is_heard_once():
    voice = CloningFake()
    cloner = VoiceCloner(voice)
    first = cloner.clone_now(CloningOrder(data=DATA))
    assert cloner.clone_now(CloningOrder(data=bytes(DATA))) is first
    cloner.clone_now(CloningOrder(data=DATA, transcript="Hello."))
    cloner.clone_now(CloningOrder(data=DATA, transcript="Hello.", has_tail=False))
    assert len(voice.heard) == 3


def test_only_the_last_clones_are_remembered(monkeypatch):
    monkeypatch.setattr(cloning, "MOST_REMEMBERED", 2)
    voice = CloningFake()
    cloner = VoiceCloner(voice)
    orders = [CloningOrder(data=noise(seconds)) for seconds in (1, 2, 3)]
    for order in (orders[0], orders[1], orders[0], orders[2], orders[0], orders[1]):
        cloner.clone_now(order)
    assert len(voice.heard) == 4  # the second was forgotten


async def until_waiting(cloner, orders):
    async with asyncio.timeout(30):
        while cloner._waiting < orders:  # noqa: ASYNC110 - a thread has no events of this loop
            await asyncio.sleep(0.001)


@pytest.mark.anyio
async def test_a_remembered_recording_waits_for_no_other(monkeypatch):
    monkeypatch.setattr(cloning, "MOST_WAITING", 1)
    voice = CloningFake()
    cloner = VoiceCloner(voice)
    first = await cloner.clone(CloningOrder(data=DATA))
    voice.may_go.clear()
    other = asyncio.create_task(cloner.clone(CloningOrder(data=noise(1))))
    await until_waiting(cloner, 1)
    assert await cloner.clone(CloningOrder(data=bytes(DATA))) is first
    assert not other.done()
    voice.may_go.set()
    assert (await other).voice.embedding == (24000,)
    cloner.close()


@pytest.mark.anyio
async def test_so_many_may_wait_and_the_next_is_told_to_come_again(monkeypatch):
    monkeypatch.setattr(cloning, "MOST_WAITING", 2)
    voice = CloningFake()
    voice.may_go.clear()
    cloner = VoiceCloner(voice)
    waiting = [
        asyncio.create_task(cloner.clone(CloningOrder(data=DATA, transcript=text)))
        for text in ("One two three four.", "Five six seven eight.")
    ]
    await until_waiting(cloner, 2)
    with pytest.raises(Busy):
        await cloner.clone(CloningOrder(data=DATA))
    voice.may_go.set()
    first, second = await asyncio.gather(*waiting)
    assert (first.voice.transcript, second.voice.transcript) == (
        "One two three four.",
        "Five six seven eight.",
    )
    assert (await cloner.clone(CloningOrder(data=DATA))).warning is None
    cloner.close()
