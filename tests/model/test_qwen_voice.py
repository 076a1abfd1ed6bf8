"""Jobs that the Qwen voice submits to the engine: exact ids and limits, and none too early."""

import asyncio
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.model.conftest import DATA

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.engine.job import Job
from qwen_tts_service.errors import CannotSpeak, InvalidRequest, StartupError
from qwen_tts_service.model.config import load_config
from qwen_tts_service.model.tokenizer import Tokenizer
from qwen_tts_service.qwen.limits import QwenOptions
from qwen_tts_service.qwen.voice import QwenVoice
from qwen_tts_service.types import Samples, SamplingOptions, SpeechRequest, VoiceAttributes

OPTIONS = QwenOptions(slots=3, max_positions=8192, max_text_tokens=50, runaway_factor=4.0)
CONFIG = load_config(DATA / "tiny_1b7")
TOKENIZER = Tokenizer(DATA / "tiny_1b7", CONFIG)
TEXT = "hello the world"
TOKENS = len(TOKENIZER.encode(TEXT)) - 8


pytestmark = pytest.mark.timeout(20)  # for an utterance that never ends


class FakeEngine:
    """Notes the jobs; says what a test puts into the channels."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.channels: list[PcmChannel] = []
        self.whole: list[Job] = []
        self.is_healthy = True
        self.is_closed = False
        self.samples: Samples = np.linspace(-1, 1, 1920, dtype=np.float32)

    def submit(self, job: Job) -> PcmChannel:
        self.jobs.append(job)
        self.channels.append(PcmChannel(capacity_samples=10**9))
        return self.channels[-1]

    def run_whole(self, job: Job) -> Samples:
        self.whole.append(job)
        return self.samples

    def close(self) -> None:
        self.is_closed = True


def make_voice(
    config: Any = CONFIG, *, encoder: Any = None, about: Any = MappingProxyType({}), **limits: Any
) -> Any:
    model = SimpleNamespace(
        config=config,
        tokenizer=TOKENIZER,
        encoder=encoder,
        device="cpu",
        dtype="torch.bfloat16",
        codec=SimpleNamespace(dtype="torch.float32", has_tf32=False),
        attention=SimpleNamespace(name="sdpa", reason="it is there"),
        kernels=SimpleNamespace(name="torch", reason="on cpu"),
        linear_layers="float: plain",
    )
    stand_ins: Any = (model, FakeEngine())
    return QwenVoice(*stand_ins, "qwen", replace(OPTIONS, **limits), **about)


def like_config(**changes: Any) -> Any:
    names = ("codec", "speakers", "languages", "follows_instruct", "kind", "width", "is_fine_tuned")
    names += ("codebooks", "codes")
    return SimpleNamespace(**{name: getattr(CONFIG, name) for name in names} | changes)


def ask(text: str | None = TEXT, **fields: Any) -> SpeechRequest:
    return SpeechRequest(
        request_id="r", seed=7, text=text, **{"language": "english", "speaker": "ryan", **fields}
    )


# A whole text ------------------------------------------------------------------------


def test_a_request_becomes_a_job_with_its_fields() -> None:
    sampling = SamplingOptions(temperature=0.5)
    utterance = make_voice().prepare(ask(instruct="Slowly.", sampling=sampling, max_frames=33))
    assert utterance.job == Job(
        ids=tuple(TOKENIZER.encode(TEXT)),
        instruct_ids=tuple(TOKENIZER.encode_instruct("Slowly.")),
        speaker="ryan",
        language="english",
        layout="full_text",
        seed=7,
        sampling=sampling,
        max_frames=33,
        runaway_frames=125 + 4 * (12 + 5 * TOKENS),
    )
    assert (utterance.choice.speaker, utterance.choice.language) == ("ryan", "english")
    assert utterance.expected_s == pytest.approx((12 + 5 * TOKENS) * 0.08)
    assert utterance.warning is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [({}, None), ({"pitch": 1.2}, "pitch"), ({"phonemes": "x", "pitch": 2.0}, "pitch, phoneme")],
)
def test_what_it_cannot_do_is_a_warning(fields: dict[str, Any], words: str | None) -> None:
    warning = make_voice().prepare(ask(**fields)).warning
    assert warning == (words and f"this model cannot apply: {words}")


def test_without_an_instruction_there_are_no_ids_for_one() -> None:
    assert make_voice().prepare(ask()).job.instruct_ids == ()


def test_attributes_become_a_voice_and_an_instruction() -> None:
    attributes = VoiceAttributes(gender="male", age=60, emotion="sad")
    utterance = make_voice().prepare(ask(speaker=None, attributes=attributes))
    assert utterance.choice.speaker == utterance.job.speaker == "uncle_fu"
    assert utterance.job.instruct_ids == tuple(TOKENIZER.encode_instruct(utterance.choice.instruct))
    assert utterance.job.instruct_ids


def test_a_model_that_follows_no_instructions_gets_none() -> None:
    voice = make_voice(like_config(follows_instruct=False))
    assert voice.prepare(ask(instruct="Slowly.")).job.instruct_ids == ()


def test_ids_are_the_text_that_they_came_from() -> None:
    ids = tuple(TOKENIZER.encode(TEXT)[3:-5])
    assert make_voice().prepare(ask(None, tokens=ids)).job == make_voice().prepare(ask()).job


def test_the_language_of_ids_is_that_of_their_text() -> None:
    ids = tuple(TOKENIZER.encode("Привет, мир")[3:-5])
    utterance = make_voice().prepare(ask(None, tokens=ids, language=None, speaker=None))
    assert utterance.job.language == utterance.choice.language == "russian"


def test_ids_without_letters_are_in_the_default_language() -> None:
    ids = tuple(TOKENIZER.encode("12, 13!")[3:-5])
    voice = make_voice(default_language="german")
    assert voice.prepare(ask(None, tokens=ids, language=None)).choice.language == "german"


def test_only_text_may_come_as_ids() -> None:
    last = TOKENIZER.text_tokens - 1
    assert make_voice().prepare(ask(None, tokens=(last,))).job.ids[3] == last
    for tokens, language in (((5, last + 1), "english"), ((10**12,), None)):
        with pytest.raises(InvalidRequest, match=f"ids, 0 to {last}$") as caught:
            make_voice().prepare(ask(None, tokens=tokens, language=language))
        assert caught.value.param == "tokens"


@pytest.mark.parametrize("fields", [{"text": ""}, {"text": None, "tokens": ()}])
def test_a_text_without_a_token_has_nothing_to_speak(fields: dict[str, Any]) -> None:
    with pytest.raises(CannotSpeak) as caught:
        make_voice().prepare(ask(**fields))
    assert (caught.value.code, caught.value.param) == ("no_reading", "text")
    assert make_voice().prepare(ask("a")).job.ids == tuple(TOKENIZER.encode("a"))


def test_a_language_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    voice = make_voice(like_config(languages=("german", "english")))
    assert voice.prepare(ask(language="german")).job.language == "german"
    for refused in (voice.prepare, voice.open):
        with pytest.raises(InvalidRequest, match="german, english") as caught:
            refused(ask(language="russian"))
        assert caught.value.param == "language"


@pytest.mark.parametrize("max_frames", [50, 4000])
@pytest.mark.parametrize("instruct", [None, "Slowly."])
@pytest.mark.parametrize(("factor", "least_factor"), [(4.0, 2.0), (1.5, 1.5)])
def test_a_slot_with_room_for_twice_an_ordinary_reading_is_enough(
    max_frames: int, instruct: str | None, factor: float, least_factor: float
) -> None:
    prompt = 8 + TOKENS + len(TOKENIZER.encode_instruct(instruct or ""))
    # Eight more than the prompt has: the engine adds ids of its own.
    room = min(max_frames, int(125 + least_factor * (12 + 5 * TOKENS)))
    needed = prompt + 8 + room
    request = ask(max_frames=max_frames, instruct=instruct)
    job = make_voice(max_positions=needed, runaway_factor=factor).prepare(request).job
    assert (job.max_frames, job.runaway_frames) == (max_frames, room)
    with pytest.raises(InvalidRequest, match=f"{needed} .* {needed - 1};") as caught:
        make_voice(max_positions=needed - 1, runaway_factor=factor).prepare(request)
    assert caught.value.param == "text"


@pytest.mark.parametrize(
    ("is_uncut", "cure"), [(True, "leave out split: never"), (False, "set a smaller max_length")]
)
def test_a_text_that_does_not_fit_is_told_what_to_change(is_uncut: bool, cure: str) -> None:
    request = SpeechRequest(
        request_id="r", seed=1, text="hello " * 400, max_frames=4096, is_uncut=is_uncut
    )
    with pytest.raises(InvalidRequest, match=f"send less text or {cure}"):
        make_voice(max_positions=1000).prepare(request)


@pytest.mark.parametrize(
    ("positions", "chars"), [(8192, 800), (5000, 800), (4999, 435), (2048, 167), (256, 40)]
)
def test_parts_are_as_long_as_slots_have_room_for(positions: int, chars: int) -> None:
    assert make_voice(max_positions=positions).longest_part_chars == chars


@pytest.mark.parametrize("positions", [1024, 2048, 4096])
def test_the_longest_part_fits_its_slot_with_a_token_a_character(positions: int) -> None:
    voice = make_voice(max_positions=positions)
    # The command line gives a whole text no longest length.
    request = ask(text=None, tokens=(1,) * (voice.longest_part_chars or 0), max_frames=10**9)
    assert voice.prepare(request).job.runaway_frames > 0


def test_the_runaway_factor_is_the_settings() -> None:
    job = make_voice(runaway_factor=1.5).prepare(ask()).job
    assert job.runaway_frames == int(125 + 1.5 * (12 + 5 * TOKENS))


async def test_the_job_goes_to_the_engine_and_its_channel_comes_back() -> None:
    voice = make_voice()
    utterance = voice.prepare(ask())
    assert voice._engine.jobs == []
    assert utterance.speak() is voice._engine.channels[0]
    assert voice._engine.jobs == [utterance.job]


def test_it_warms_up_with_a_short_real_utterance() -> None:
    voice = make_voice()
    voice.warm_up()
    (job,) = voice._engine.whole
    assert (job.ids, job.max_frames) == (tuple(TOKENIZER.encode("Hello.")), 10)


@pytest.mark.parametrize(
    "samples", [np.zeros(0), np.zeros(1920), np.full(1920, -1.0)], ids=["none", "zeros", "limit"]
)
def test_a_checkpoint_whose_first_word_is_no_sound_is_refused(samples: Samples) -> None:
    voice = make_voice()
    voice._engine.samples = samples.astype(np.float32)
    with pytest.raises(StartupError, match="its weights are damaged"):
        voice.warm_up()


def test_it_is_as_well_as_its_engine_and_ends_with_it() -> None:
    voice = make_voice()
    assert voice.is_healthy
    voice._engine.is_healthy = False
    assert not voice.is_healthy
    voice.close()
    assert voice._engine.is_closed


def test_it_reports_its_facts() -> None:
    voice = make_voice()
    assert (voice.model_name, voice.sample_rate_hz, voice.device) == ("qwen", 24000, "cpu")
    assert voice.speakers == CONFIG.speakers
    assert (voice.longest_part_chars, voice.slots) == (800, 3)
    assert voice.facts == {
        "kind": "custom_voice",
        "attention": "sdpa: it is there",
        "kernels": "torch: on cpu",
        "linear_layers": "float: plain",
        "number_format": "bfloat16, codec float32",
    }


# A text that is still being written --------------------------------------------------


async def turn() -> None:
    """Let everybody do what can be done now."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("asked", "given"), [(900, 900), (1000, 983), (983, 983), (984, 983)])
async def test_an_open_speech_has_the_layout_and_the_frames_that_a_slot_has(
    asked: int, given: int
) -> None:
    voice = make_voice(max_positions=1000)
    utterance = voice.open(ask(None, max_frames=asked))
    utterance.feed(TEXT + " ")
    reading = asyncio.create_task(anext(aiter(utterance)))
    await turn()
    reading.cancel()
    job = voice._engine.jobs[0]
    assert (job.layout, job.max_frames, job.runaway_frames) == ("streaming_text", given, given)
    assert (job.speaker, job.language, job.seed) == ("ryan", "english", 7)


def test_an_instruction_takes_its_rows_from_an_open_speech() -> None:
    rows = len(TOKENIZER.encode_instruct("Slowly."))
    utterance = make_voice(max_positions=500).open(ask(None, instruct="Slowly."))
    assert utterance._job.max_frames == 500 - 17 - rows
    assert len(utterance._job.instruct_ids) == rows
    assert (utterance.choice.speaker, utterance.choice.instruct) == ("ryan", "Slowly.")


async def test_an_open_utterance_submits_the_job_of_its_request() -> None:
    voice = make_voice(max_positions=400)
    attributes = VoiceAttributes(gender="male", age=60, emotion="sad")
    request = ask(
        None,
        speaker=None,
        language="russian",
        attributes=attributes,
        sampling=SamplingOptions(temperature=0.5),
        max_frames=70,
    )
    utterance = voice.open(request)
    utterance.feed("x ")
    reading = asyncio.create_task(anext(aiter(utterance)))
    await turn()
    reading.cancel()
    job = voice._engine.jobs[0]
    assert utterance.choice.speaker == "uncle_fu"
    assert job == Job(
        ids=tuple(TOKENIZER.encode("x")),
        instruct_ids=tuple(TOKENIZER.encode_instruct(utterance.choice.instruct)),
        speaker="uncle_fu",
        language="russian",
        layout="streaming_text",
        seed=7,
        sampling=SamplingOptions(temperature=0.5),
        max_frames=70,
        runaway_frames=70,
        feed=job.feed,
    )
    assert job.instruct_ids


async def test_one_token_is_spoken_and_has_the_cap_of_its_length() -> None:
    voice = make_voice()
    utterance = voice.open(ask(None))
    utterance.feed("a")
    utterance.finish()
    reading = asyncio.create_task(anext(aiter(utterance), None))
    await turn()
    voice._engine.channels[0].close()
    await reading
    job, reason = voice._engine.jobs[0], utterance.finish_reason
    assert job.ids == tuple(TOKENIZER.encode("a"))
    assert job.feed is not None
    assert job.feed.take(9) == ([], 125 + 4 * 17)
    assert reason == "stop"


async def test_closing_after_the_end_changes_nothing() -> None:
    voice = make_voice()
    utterance = voice.open(ask(None))
    utterance.finish()
    assert [part async for part in utterance] == []
    await utterance.aclose()
    assert utterance.finish_reason == "stop"


@pytest.mark.parametrize(("room", "is_refused"), [(0, True), (1, False)])
def test_an_instruction_that_leaves_no_frame_is_refused(room: int, is_refused: bool) -> None:
    rows = len(TOKENIZER.encode_instruct("Slowly."))
    voice, request = make_voice(max_positions=rows + 17 + room), ask(None, instruct="Slowly.")
    if not is_refused:
        assert voice.open(request)._job.max_frames == 1
        assert voice.choose(request).instruct == "Slowly."
        return
    for refusing in (voice.open, voice.choose):
        with pytest.raises(InvalidRequest, match="MAX_POSITIONS") as caught:
            refusing(request)
        assert caught.value.param == "instruct"


def test_a_model_that_drops_instructions_refuses_none_for_its_length() -> None:
    voice = make_voice(like_config(follows_instruct=False), max_positions=300)
    assert voice.choose(ask(None, instruct="Slowly. " * 99)).instruct is None


async def test_an_open_speech_begins_when_it_is_read_and_has_a_token() -> None:
    voice = make_voice()
    engine = voice._engine
    utterance = voice.open(ask(None))
    utterance.feed("hel")  # may yet become another token
    reading = asyncio.create_task(anext(aiter(utterance)))
    await turn()
    assert engine.jobs == []
    utterance.feed("lo the ")
    await turn()
    assert len(engine.jobs) == 1
    engine.channels[0].put(np.ones(5, np.float32))
    assert len(await reading) == 5


def test_an_open_speech_takes_no_slot_before_it_is_read() -> None:
    voice = make_voice()
    utterance = voice.open(ask(None))
    utterance.feed(TEXT + " ")
    utterance.finish()
    assert voice._engine.jobs == []
    assert utterance.finish_reason is None


STRESSED = "hello за\u0301мок, one two гора\u0301. hello"


@pytest.mark.parametrize("keeps_stress", [True, False])
def test_the_model_gets_stress_marks_if_it_is_to(keeps_stress: bool) -> None:
    utterance = make_voice(keeps_stress=keeps_stress).prepare(ask(STRESSED))
    given = STRESSED if keeps_stress else STRESSED.replace("\u0301", "")
    assert utterance.job.ids == tuple(TOKENIZER.encode(given))


@pytest.mark.parametrize("size", [1, 4, 9, 1000])  # 9: a cut behind a stress mark
@pytest.mark.parametrize(
    ("text", "keeps_stress"),
    [("hello the world, one two three. hello", False), (STRESSED, False), (STRESSED, True)],
)
async def test_the_ids_of_an_open_speech_are_those_of_the_whole(
    text: str, keeps_stress: bool, size: int
) -> None:
    voice = make_voice(keeps_stress=keeps_stress)
    utterance = voice.open(ask(None))
    for at in range(0, len(text), size):
        utterance.feed(text[at : at + size])
    utterance.finish()
    reading = asyncio.create_task(anext(aiter(utterance), None))
    await turn()
    voice._engine.channels[0].close("length")
    await reading
    assert utterance.finish_reason == "length"
    job = voice._engine.jobs[0]

    whole = TOKENIZER.encode(text if keeps_stress else text.replace("\u0301", ""))
    ids, end = job.feed.take(1000)
    assert [*job.ids[:3], *job.ids[-5:]] == [*whole[:3], *whole[-5:]]
    assert [*job.ids[3:-5], *ids] == whole[3:-5]
    assert len(job.ids) == 9
    assert end == min(125 + 4 * (12 + 5 * (len(whole) - 8)), 1000)


async def test_a_finished_text_never_has_more_than_its_slot() -> None:
    voice = make_voice()
    utterance = voice.open(ask(None, max_frames=60))
    utterance.feed(TEXT)
    utterance.finish()
    reading = asyncio.create_task(anext(aiter(utterance), None))
    await turn()
    voice._engine.channels[0].close()
    await reading
    assert voice._engine.jobs[0].feed.take(1000)[1] == 60


@pytest.mark.parametrize("is_too_long", [False, True])
def test_an_open_speech_has_so_many_tokens(is_too_long: bool) -> None:
    utterance = make_voice(max_text_tokens=TOKENS - is_too_long).open(ask(None))
    utterance.feed(TEXT[:4])
    if not is_too_long:
        utterance.feed(TEXT[4:])
        utterance.finish()
        return
    with pytest.raises(InvalidRequest) as caught:
        utterance.feed(TEXT[4:] + " ")
    assert caught.value.param == "text"


async def test_a_text_without_a_token_ends_without_a_slot() -> None:
    voice = make_voice()
    utterance = voice.open(ask(None))
    utterance.feed("  ")
    utterance.finish()
    assert [part async for part in utterance] == []
    assert (utterance.finish_reason, voice._engine.jobs) == ("stop", [])


async def test_an_utterance_closed_before_it_begins_takes_no_slot() -> None:
    voice = make_voice()
    utterance = voice.open(ask(None))
    reading = asyncio.create_task(anext(aiter(utterance), None))
    await turn()
    await utterance.aclose()
    await utterance.aclose()
    async with asyncio.timeout(5):
        assert await reading is None
    utterance.feed(TEXT + " ")
    utterance.finish()
    async with asyncio.timeout(5):
        assert [part async for part in utterance] == []
    assert (utterance.finish_reason, voice._engine.jobs) == ("cancelled", [])


async def test_an_utterance_closed_while_speaking_frees_its_slot() -> None:
    voice = make_voice()
    utterance = voice.open(ask(None))
    utterance.feed(TEXT + " ")
    reading = asyncio.create_task(anext(aiter(utterance), None))
    await turn()
    await utterance.aclose()
    assert await reading is None
    assert (voice._engine.channels[0].is_cancelled, utterance.finish_reason) == (True, "cancelled")
