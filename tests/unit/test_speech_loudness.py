"""One fixed gain for every speaker: what is measured, when, and where it is kept."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from tests.meter import loudness_and_peak

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import CannotSpeak, SynthesisFailed
from qwen_tts_service.speech.loudness import SENTENCE, SpeakerGains
from qwen_tts_service.speech.loudness_file import MOST_KEPT, NAME, LoudnessFile
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.types import KeptVoice, SpeechRequest, VoiceAttributes, VoiceChoice

RATE_HZ = 24000
TARGET_LUFS = -20.0
LOUDNESS = {"quiet": 0.05, "loud": 0.5, "silent": 0.0}
ANNA = KeptVoice(embedding=(0.1, 0.2))


class FakeUtterance:
    warning = None
    expected_s = 1.0

    def __init__(self, request, choice, spoken):
        self.request = request
        self.choice = choice
        self.spoken = spoken

    def speak(self):
        self.spoken.append(self.request.text)
        channel = PcmChannel(capacity_samples=10**9)
        level = LOUDNESS.get(self.choice.speaker, 0.1)
        if self.request.attributes.emotion == "whisper":
            level /= 4
        noise = np.random.default_rng(1).uniform(-level, level, 4 * RATE_HZ)
        channel.put(noise.astype(np.float32))
        channel.close("stop")
        return channel


class FakeVoice:
    """Noise, as loud as its speaker is; a fourth of it in a whisper."""

    model_name = "fake"
    sample_rate_hz = RATE_HZ
    has_own_rate = True
    longest_part_chars = None
    speakers = tuple(LOUDNESS)

    def __init__(self, error=None):
        self.measured = []
        self.spoken = []
        self.error = error

    def choose(self, request):
        speaker = request.speaker or ("cloned" if request.voice else "designed")
        return VoiceChoice(speaker=speaker, language=request.language or "english")

    def prepare(self, request):
        if request.text == SENTENCE:
            self.measured.append(request)
            if self.error:
                raise self.error
        return FakeUtterance(request, self.choose(request), self.spoken)


def gains_of(voice, folder, **other):
    fields = {"target_lufs": TARGET_LUFS, "identity": "weights 1", "kept": {"anna": ANNA}, **other}
    return SpeakerGains(voice, LoudnessFile([folder]), **fields)


def ask(speaker=None, **fields):
    return SpeechRequest(request_id="r", seed=7, text="Hello.", speaker=speaker, **fields)


async def heard(synthesizer, request):
    data, _ = await synthesizer.speak_whole(request, "pcm")
    speech = await synthesizer.speak(request, Output("pcm", is_stream=True))
    assert b"".join([part async for part in speech]) == data
    return (np.frombuffer(data, "<i2") / 32767).astype(np.float32)


async def test_speakers_come_to_the_same_loudness_and_a_whisper_stays_quieter(tmp_path):
    voice = FakeVoice()
    gains = gains_of(voice, tmp_path)
    synthesizer = Synthesizer(voice, sample_rate_hz=RATE_HZ, gains=gains)
    whisper = VoiceAttributes(emotion="whisper")
    for speaker in ("quiet", "loud"):
        plain = await heard(synthesizer, ask(speaker))
        lower = await heard(synthesizer, ask(speaker, attributes=whisper))
        lufs, peak = loudness_and_peak(plain, RATE_HZ)
        assert lufs == pytest.approx(TARGET_LUFS, abs=0.1)
        assert peak <= -1
        assert loudness_and_peak(lower, RATE_HZ)[0] == pytest.approx(lufs - 12.04, abs=0.1)
    assert [request.speaker for request in voice.measured] == ["quiet", "loud"]


async def test_a_gain_depends_on_the_speaker_alone(tmp_path):
    voice = FakeVoice()
    gains = gains_of(voice, tmp_path)
    gain_db = await gains.gain_db(ask("quiet"))
    assert gain_db == round(gain_db, 1)
    manners = [
        {"attributes": VoiceAttributes(emotion="angry", age=70)},
        {"instruct": "Shout.", "language": "russian", "rate": 2.0, "pitch": 1.2},
        {"voice": ANNA, "max_frames": 1, "pronunciations": (("a", "b"),)},
    ]
    assert {await gains.gain_db(ask("quiet", **fields)) for fields in manners} == {gain_db}
    assert len(voice.measured) == 1


async def test_it_is_measured_once_for_all_processes_and_again_when_the_voice_changes(tmp_path):
    voice = FakeVoice()
    first = await gains_of(voice, tmp_path).gain_db(ask("quiet"))
    other_target = gains_of(voice, tmp_path, target_lufs=-23.0)
    assert await other_target.gain_db(ask("quiet")) == pytest.approx(first - 3)
    assert len(voice.measured) == 1
    assert await gains_of(voice, tmp_path, identity="weights 2").gain_db(ask("quiet")) == first
    assert len(voice.measured) == 2
    kept = json.loads((tmp_path / NAME).read_text())
    assert {key.rpartition("/")[0] for key in kept} == {"fake/quiet"}
    assert set(kept.values()) == {round(TARGET_LUFS - first, 1)}


async def test_a_cloned_voice_is_a_speaker_by_its_sound_and_not_by_its_name(tmp_path):
    voice = FakeVoice()
    gains = gains_of(voice, tmp_path)
    await gains.gain_db(ask("anna"))
    await gains.gain_db(ask(voice=ANNA))
    assert [(request.speaker, request.voice) for request in voice.measured] == [(None, ANNA)]
    await gains.gain_db(ask(voice=replace(ANNA, transcript="Hm.")))
    renewed = gains_of(voice, tmp_path, kept={"anna": KeptVoice(embedding=(0.3, 0.2))})
    await renewed.gain_db(ask("anna"))
    assert len(voice.measured) == 3


async def test_described_voices_share_the_gain_of_one_that_nothing_describes(tmp_path):
    voice = FakeVoice()
    gains = gains_of(voice, tmp_path)
    for fields in ({"instruct": "A deep voice."}, {"attributes": VoiceAttributes(age=8)}, {}):
        await gains.gain_db(ask(**fields))
    (reference,) = voice.measured
    assert (reference.speaker, reference.instruct) == (None, None)
    assert reference.attributes == VoiceAttributes()


async def test_those_who_come_together_have_it_measured_once(tmp_path):
    voice = FakeVoice()
    gains = gains_of(voice, tmp_path)
    asked = (gains.gain_db(ask(who)) for who in ("quiet", "quiet", "loud", "quiet"))
    assert len({*await asyncio.gather(*asked)}) == 2
    assert len(voice.measured) == 2


async def test_who_leaves_while_it_is_measured_leaves_it_to_the_next(tmp_path):
    voice = FakeVoice()
    gains = gains_of(voice, tmp_path)
    leaver, other = (asyncio.create_task(gains.gain_db(ask("quiet"))) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    assert await other == await gains.gain_db(ask("quiet"))


@pytest.mark.parametrize("error", [CannotSpeak("no"), None])
async def test_what_cannot_be_measured_is_no_fault_of_the_caller(tmp_path, error):
    gains = gains_of(FakeVoice(error), tmp_path)
    with pytest.raises(SynthesisFailed, match="loudness could not be measured"):
        await gains.gain_db(ask("silent"))
    assert not (tmp_path / NAME).exists()


async def test_a_speech_that_is_closed_while_it_is_measured_never_starts(tmp_path):
    voice = FakeVoice()
    speech = await Synthesizer(
        voice, sample_rate_hz=RATE_HZ, gains=gains_of(voice, tmp_path)
    ).speak(ask("quiet"), Output("pcm", is_stream=True))
    reading = asyncio.ensure_future(anext(aiter(speech), b""))
    await asyncio.sleep(0)
    await speech.aclose()
    assert await reading == b""
    assert speech.finish_reason == "cancelled"
    assert voice.spoken == [SENTENCE]


# The file ----------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path, log):
    (tmp_path / "weights").write_text("no folder")
    file = LoudnessFile([tmp_path / "weights", tmp_path / "cache"])
    file.put("a", -20.5)
    assert LoudnessFile([tmp_path / "weights", tmp_path / "cache"]).get("a") == -20.5
    assert "weights" in log.text
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [NAME]


def test_without_any_folder_it_goes_on_and_says_so(tmp_path, log):
    (tmp_path / "weights").write_text("no folder")
    file = LoudnessFile([tmp_path / "weights"])
    file.put("a", -20.5)
    assert file.get("a") is None
    assert "measured again after a restart" in log.text


@pytest.mark.parametrize("spoilt", ["{", "[1]", '{"a": "loud"}', '{"a": null}', "\xff"])
def test_a_spoilt_file_is_replaced(tmp_path, log, spoilt):
    (tmp_path / NAME).write_bytes(spoilt.encode("latin-1"))
    file = LoudnessFile([tmp_path])
    assert file.get("a") is None
    assert "is not read" in log.text
    file.put("a", -18.0)
    assert file.get("a") == -18.0


def test_the_oldest_are_forgotten(tmp_path):
    file = LoudnessFile([tmp_path])
    (tmp_path / NAME).write_text(json.dumps({str(n): -float(n) for n in range(MOST_KEPT)}))
    file.put("new", -20.0)
    assert (file.get("0"), file.get("1"), file.get("new")) == (None, -1.0, -20.0)
