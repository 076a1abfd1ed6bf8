"""WebSocket sessions in process, on a fake clock: every message, limit and end."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from tests.api.socket_harness import (
    FRAME_BYTES,
    PATH,
    FakeRuntime,
    FakeVoice,
    OpenFakeVoice,
    SocketClient,
    at_once,
    make_runtime,
    now_s,
    run,
    settle,
)

from qwen_tts_service.api.admission import Slot
from qwen_tts_service.errors import Busy

VOICES = [pytest.param(FakeVoice, id="sentence"), pytest.param(OpenFakeVoice, id="token")]
both = pytest.mark.parametrize("voice", VOICES)
Voice = Callable[[], FakeVoice]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def codes(events: list[dict[str, Any]]) -> list[str]:
    return [event["error"]["code"] for event in events if event["type"] == "error"]


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, str]]]:
    """The facts of every utterance's line so far."""
    caplog.set_level(logging.INFO)

    def read() -> list[dict[str, str]]:
        said = [line for line in caplog.messages if line.startswith(PATH)]
        return [dict(fact.split("=", 1) for fact in line.split()[1:]) for line in said]

    return read


# What is said ------------------------------------------------------------------------


@both
@at_once
async def test_ready_reports_the_configuration_in_force(voice: Voice) -> None:
    async with SocketClient(
        make_runtime(voice(), sample_rate_hz=16000), x_request_id="talk"
    ) as talk:
        got = await talk.configure(
            language="ru", voice="other", seed=5, normalize="none", response_format="wav"
        )
    assert got == {
        "type": "session.ready",
        "request_id": "talk",
        "model": "fake",
        "ai_generated": True,
        "voice": "other",
        "language": "russian",
        "split": "token" if voice is OpenFakeVoice else "sentence",
        "format": "wav",
        "sample_rate": 16000,
        "channels": 1,
        "normalize": "none",
        "seed": 5,
    }


@at_once
async def test_ready_names_the_fields_that_are_ignored_and_what_may_be_meant() -> None:
    async with SocketClient(make_runtime()) as talk:
        assert "warning" not in await talk.configure(language="ru")
        ready = await talk.configure(emotion="happy", volume=3)
        assert ready["warning"] == (
            'unknown field "emotion" is ignored. Did you mean voice_attributes.emotion? '
            'unknown field "volume" is ignored. '
            "There is no volume control; turn it up where the audio is played."
        )


@pytest.mark.parametrize(
    ("fields", "voice", "language"),
    [
        ({"language": None}, None, None),
        ({"language": "auto"}, None, None),
        ({"language": "german"}, "speaker_of_german", "german"),
        ({"language": None, "speaker": "other"}, "other", None),
    ],
)
@at_once
async def test_ready_names_a_voice_only_when_the_text_cannot_change_it(
    fields: dict[str, Any], voice: str | None, language: str | None
) -> None:
    async with SocketClient(make_runtime()) as talk:
        ready = await talk.configure(**fields)
        assert (ready["voice"], ready["language"]) == (voice, language)
        assert (ready["format"], ready["normalize"]) == ("pcm", "auto")


@pytest.mark.parametrize(("split", "expected"), [(None, "token"), ("sentence", "sentence")])
@at_once
async def test_text_is_split_by_token_unless_sentences_are_asked_for(
    split: str | None, expected: str
) -> None:
    async with SocketClient(make_runtime(OpenFakeVoice())) as talk:
        assert (await talk.configure(split=split))["split"] == expected
        events, _ = await talk.say("One two. Three.")
        assert events[-1]["total_sentences"] == (1 if expected == "token" else 2)


@both
@at_once
async def test_a_seed_is_drawn_once_and_every_utterance_speaks_with_it(voice: Voice) -> None:
    runtime = make_runtime(voice())
    async with SocketClient(runtime) as talk:
        ready = await talk.configure()
        starts = [(await talk.say(f"Text {n}."))[0][0] for n in range(2)]
        seeds = [utterance.request.seed for utterance in runtime.voice.utterances]
        assert seeds == [start["seed"] for start in starts] == [ready["seed"]] * 2
    async with SocketClient(runtime) as talk:
        got = [ready["seed"], (await talk.configure())["seed"]]
    assert len(set(got)) == 2


@both
@at_once
async def test_the_configuration_of_the_session_reaches_the_voice(voice: Voice) -> None:
    runtime = make_runtime(voice())
    async with SocketClient(runtime) as talk:
        await talk.configure(
            speaker="other",
            instructions="Calmly.",
            voice_attributes={"gender": "male", "age": 30},
            temperature=0.5,
            max_length=77,
        )
        events, _ = await talk.say("One.")
        start, request = events[0], runtime.voice.utterances[0].request
    assert (request.speaker, request.instruct, request.language) == ("other", "Calmly.", "english")
    assert (request.attributes.gender, request.attributes.age) == ("male", 30)
    assert (request.sampling.temperature, request.max_frames) == (0.5, 77)
    assert (start["applied"], start["not_applied"]) == (["gender"], {"age": "it has none"})


def test_every_audio_start_describes_its_audio() -> None:
    async def scene() -> Any:
        async with SocketClient(make_runtime(), x_request_id="talk") as talk:
            await talk.configure(seed=5)
            await talk.say("Before.")
            return (await talk.say("One. Three."))[0]

    start = {
        "type": "audio.start",
        "utterance_index": 1,
        "sentence_index": 0,
        "sentence_text": "One. ",
        "request_id": "talk.1",
        "format": "pcm",
        "sample_rate": 24000,
        "channels": 1,
        "voice": "speaker_of_english",
        "language": "english",
        "seed": 5,
        "applied": [],
        "not_applied": {},
    }
    done = {
        "type": "audio.done",
        "utterance_index": 1,
        "sentence_index": 0,
        "finish_reason": "stop",
        "audio_seconds": 0.24,
        "total_bytes": 3 * FRAME_BYTES,
        "error": False,
    }
    assert run(scene()) == [
        start,
        done,
        start | {"sentence_index": 1, "sentence_text": "Three."},
        done | {"sentence_index": 1, "audio_seconds": 0.4, "total_bytes": 5 * FRAME_BYTES},
        {
            "type": "session.done",
            "utterance_index": 1,
            "total_sentences": 2,
            "finish_reason": "stop",
            "audio_seconds": 0.64,
        },
    ]


@at_once
async def test_seconds_of_audio_are_sent_to_the_millisecond() -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure()
        events, _ = await talk.say("bit.")
        talk.write("bit hold.")
        talk.send("input.done")
        await settle()
        talk.send("input.cancel")
        events = [*events, *(await talk.until("audio.cancelled"))[0]]
    # What is cancelled lacks the last 5 ms, which are held back to be faded out.
    assert [e["audio_seconds"] for e in events if "audio_seconds" in e] == [0.042, 0.042, 0.037]


@at_once
async def test_words_are_one_stretch_without_a_sentence() -> None:
    async with SocketClient(make_runtime(OpenFakeVoice())) as talk:
        await talk.configure()
        start, done, end = (await talk.say("One two. ", "Three."))[0]
    assert "sentence_text" not in start
    assert (start["sentence_index"], done["total_bytes"]) == (0, 11 * FRAME_BYTES)
    assert (end["total_sentences"], end["audio_seconds"]) == (1, 0.88)


@both
@at_once
async def test_audio_comes_whole_in_frames_that_clients_accept(voice: Voice) -> None:
    async with SocketClient(make_runtime(voice())) as talk:
        await talk.configure()
        frames = (await talk.say("a" * 30))[1]
    assert max(map(len, frames)) == 32 * 1024
    heard = np.frombuffer(b"".join(frames), "<i2")
    assert np.array_equal(heard[:-120], (np.arange(30 * 1920) % 20000)[:-120])
    assert heard[-1] == 0  # it is faded out


@pytest.mark.parametrize(
    ("fields", "frame_bytes", "silence"),
    [
        pytest.param({"format": "mulaw"}, 160, b"\xff", id="mu-law"),
        pytest.param({"format": "alaw"}, 160, b"\xd5", id="A-law"),
        pytest.param({"format": "pcm"}, 960, b"\0", id="pcm at the server's rate"),
        pytest.param({"format": "pcm", "sample_rate": 8000}, 320, b"\0", id="pcm at 8 kHz"),
    ],
)
@at_once
async def test_audio_comes_in_frames_of_exactly_20_ms_if_asked(
    fields: dict[str, Any], frame_bytes: int, silence: bytes
) -> None:
    async with SocketClient(make_runtime()) as talk:
        whole, ready = await said(talk, **fields)
        frames, framed_ready = await said(talk, **fields, frame_ms=20)
    assert "frame_ms" not in ready
    assert framed_ready == {**ready, "frame_ms": 20}
    assert {len(frame) for frame in frames} == {frame_bytes}
    spoken, sent = b"".join(whole), b"".join(frames)
    assert sent.startswith(spoken)
    assert sent[len(spoken) :] == silence * (-len(spoken) % frame_bytes)


async def said(talk: SocketClient, **fields: Any) -> tuple[list[bytes], dict[str, Any]]:
    """The binary frames of a speech of 1000 samples and a few frames, and session.ready."""
    ready = await talk.configure(language="english", seed=1, **fields)
    events, frames = await talk.say("bit abc.")
    (done,) = (event for event in events if event["type"] == "audio.done")
    assert done["total_bytes"] == sum(map(len, frames))
    return frames, ready


@both
@at_once
async def test_an_utterance_has_silence_around_it_that_does_not_count(voice: Voice) -> None:
    quiet = {"lead_in_ms": 500, "tail_ms": 250, "max_length": 9}
    async with SocketClient(make_runtime(voice(), sample_rate_hz=8000)) as talk:
        await talk.configure(**quiet)
        events, frames = await talk.say("One. Two. Three. ...")
        heard = np.frombuffer(b"".join(frames), "<i2")
        assert len(heard) == round((0.5 + 9 * 0.08 + 0.25) * 8000)
        assert not heard[:3990].any()  # the filter begins a little earlier
        assert not heard[-1990:].any()
        assert events[-1]["finish_reason"] == "length"
        spoken = [event["sentence_text"] for event in events if "sentence_text" in event]
        assert spoken == ([] if voice is OpenFakeVoice else ["One. ", "Two. ", "Three. ...", ""])


@at_once
async def test_of_the_files_of_an_utterance_the_first_is_labelled() -> None:
    """Players stumble over a tag in the middle of an mp3."""
    runtime = make_runtime()
    runtime.synthesizer._labelled = ("wav",)
    async with SocketClient(runtime) as talk:
        await talk.configure(format="wav", tail_ms=100)
        files = b"".join((await talk.say("One. Two."))[1]).split(b"RIFF")[1:]
    assert [b"Machine-made" in file for file in files] == [True, False, False]


@both
@at_once
async def test_a_file_is_sent_while_it_is_made(voice: Voice) -> None:
    async with SocketClient(make_runtime(voice())) as talk:
        await talk.configure(format="wav")
        talk.write("One hold. ")
        talk.send("input.done")
        await talk.expect("audio.start")
        assert (await talk.receive())[:4] == b"RIFF"


@both
def test_an_utterance_without_words_is_counted_and_over_at_once(voice: Voice) -> None:
    async def scene() -> Any:
        async with SocketClient(make_runtime(voice())) as talk:
            await talk.configure()
            empty = (await talk.say("", " \n"))[0]
            return empty, (await talk.say("One."))[0][-1]["utterance_index"]

    ended = {"utterance_index": 0, "total_sentences": 0, "finish_reason": "stop"}
    assert run(scene()) == ([{"type": "session.done", **ended, "audio_seconds": 0.0}], 1)


@at_once
async def test_space_within_a_text_is_part_of_it() -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure()
        assert (await talk.say("One", " ", "two."))[0][0]["sentence_text"] == "One two."


@pytest.mark.parametrize("pair", ["\U00010000", "\U0010fc00", "😀"])
@at_once
async def test_characters_that_were_sent_in_halves_are_whole_again(pair: str) -> None:
    high, low = (json.dumps(pair)[at : at + 6] for at in (1, 7))

    async with SocketClient(make_runtime()) as talk:
        await talk.configure(normalize="none")
        talk.send_raw(f'{{"type": "input.text", "text": "One {high}"}}')
        talk.send_raw(f'{{"type": "input.text", "text": "{low} two"}}')
        assert (await talk.say("."))[0][0]["sentence_text"] == f"One {pair} two."


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude00"])
@at_once
async def test_half_a_character_is_replaced(half: str) -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure(normalize="none")
        talk.send_raw(f'{{"type": "input.text", "text": "One {half}"}}')
        assert (await talk.say(" two."))[0][0]["sentence_text"] == "One \ufffd two."


# Sentences ---------------------------------------------------------------------------


@at_once
async def test_a_sentence_is_spoken_before_the_next_is_complete() -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure()
        talk.write("One. T")
        assert kinds((await talk.until("audio.done"))[0]) == ["audio.start", "audio.done"]
        await settle()
        assert not talk.has_news


@pytest.mark.parametrize("level", ["light", "none"])
@pytest.mark.parametrize("silent", ["... ", "[pause:1s] ", "😊! ", "\n\n```python\n\n"])
@at_once
async def test_a_sentence_without_words_is_no_sentence(silent: str, level: str) -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure(normalize=level, on_unspeakable="error")
        events, _ = await talk.say(silent)
        has_letters = "python" in silent and level == "none"
        assert codes(events) == ([] if has_letters else ["no_reading"])
        assert events[-1]["finish_reason"] == ("stop" if has_letters else "error")
        if not has_letters:
            assert events[0]["utterance_index"] == 0
            assert events[0]["error"]["param"] == "text"


@at_once
async def test_silence_between_sentences_is_left_out() -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure()
        events = (await talk.say("One. \n\n[pause:1s]\n\n Two."))[0]
    assert [e["sentence_text"].strip() for e in events if e["type"] == "audio.start"] == [
        "One.",
        "Two.",
    ]
    assert events[-1]["total_sentences"] == 2


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("Привет, мир. Hello there my friend. Да.", ["russian", "english", "russian"]),
        ("OK! Привет, как дела?", ["english", "russian"]),
        ("2026. Это был хороший год.", ["russian", "russian"]),
        ("Это был хороший год. 2026.", ["russian", "russian"]),
        ("- API\n- База данных", ["english", "russian"]),
        ("Hello. 你好世界。", ["english", "chinese"]),
        ("https://example.com/abc. Вот ссылка.", ["russian", "russian"]),
        ("12! 13! 14?", ["german"] * 3),
        ("東京です。京都。", ["japanese", "japanese"]),
    ],
)
@at_once
async def test_each_sentence_has_its_own_language_and_all_the_same_speaker(
    text: str, languages: list[str]
) -> None:
    runtime = make_runtime(default_language="german")
    async with SocketClient(runtime) as talk:
        await talk.configure(language=None)
        await talk.say(text)
        got = [
            (utterance.request.language, utterance.choice.speaker)
            for utterance in runtime.voice.utterances
        ]
    assert got == [(language, f"speaker_of_{languages[0]}") for language in languages]


@at_once
async def test_a_language_that_the_client_named_is_that_of_all_sentences() -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure(language="ru")
        await talk.say("Hello there my friend. 12.")
        got = [utterance.request.language for utterance in runtime.voice.utterances]
    assert got == ["russian"] * 2


@at_once
async def test_a_sentence_that_decides_nothing_waits_no_longer_than_the_text() -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure(language=None)
        await talk.say("12! 13!")
        got = [utterance.request.text.strip() for utterance in runtime.voice.utterances]
    assert got == ["12!", "13!"]


@pytest.mark.parametrize(
    ("text", "most", "asked", "heard", "reason"),
    [
        ("One. Three. Two.", 11, [11, 8, 3], [3, 5, 3], "stop"),
        ("One. Three. Two.", 10, [10, 7, 2], [3, 5, 2], "length"),
        ("One. Three. Two.", 9, [9, 6, 1], [3, 5, 1], "length"),
        ("One. Three. Two. Four.", 6, [6, 3], [3, 3], "length"),
        ("One. Two. Three.", 6, [6, 3], [3, 3], "length"),
        ("One half. Two.", 5, [5, 1], [3.5, 1], "length"),
        ("One length. Two.", 9, [9], [3], "length"),
        ("AAAAAAA. Two.", 10, [10, 3], [7, 3], "stop"),  # 7 * 0.08 / 0.08 is more than 7
    ],
)
@at_once
async def test_max_length_bounds_all_sentences_together(
    text: str, most: int, asked: list[int], heard: list[float], reason: str
) -> None:
    """Parts of a frame count as whole ones."""

    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure(max_length=most)
        events, _ = await talk.say(text)
        again, _ = await talk.say("One.")
        frames = [e["total_bytes"] / FRAME_BYTES for e in events if e["type"] == "audio.done"]
        given = [utterance.request.max_frames for utterance in runtime.voice.utterances]
        got = given, frames, events[-1]["finish_reason"], again[-1]["finish_reason"]
    assert got == ([*asked, most], heard, reason, "stop")


@at_once
async def test_max_length_bounds_words_too() -> None:
    async with SocketClient(make_runtime(OpenFakeVoice())) as talk:
        await talk.configure(max_length=7)
        events, frames = await talk.say("One two. ", "Three four.")
        got = events[-1]["finish_reason"], len(b"".join(frames))
    assert got == ("length", 7 * FRAME_BYTES)


# Order -------------------------------------------------------------------------------


@both
@at_once
async def test_messages_are_handled_in_order_and_all_before_the_close(voice: Voice) -> None:
    async with SocketClient(make_runtime(voice())) as talk:
        await talk.configure()
        for text in ("One.", "Two three."):
            talk.write(text)
            talk.send("input.done")
        talk.send("session.config", format="wav", language="english")
        talk.send("session.close")
        first, _ = await talk.until("session.done")
        second, _ = await talk.until("session.done")
        assert (await talk.expect("session.ready"))["format"] == "wav"
        assert await talk.is_sent_away(1000)
        got = [(e[-1]["utterance_index"], e[-1]["audio_seconds"]) for e in (first, second)]
    assert got == [(0, 0.24), (1, 0.64)]


@at_once
async def test_a_close_in_the_middle_of_a_text_ends_it() -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write("hold. Two")
        await settle()
        assert runtime.admission.active == 1
        talk.send("session.close")
        assert await talk.is_sent_away(1000)
        await talk.ended()
        assert runtime.is_idle
        assert runtime.voice.utterances[0].channel.is_cancelled


@at_once
async def test_a_configuration_that_is_refused_changes_nothing() -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure(seed=5, format="wav")
        talk.send("session.config", seed=6, speaker="nobody")
        assert (await talk.error())["code"] == "unknown_speaker"
        events, _ = await talk.say("One.")
        assert (events[0]["seed"], events[0]["format"]) == (5, "wav")


@both
@at_once
async def test_no_configuration_while_a_text_is_written(voice: Voice) -> None:
    async with SocketClient(make_runtime(voice())) as talk:
        await talk.configure()
        talk.write("One")
        talk.send("session.config", format="wav")
        error = await talk.error()
        assert (error["param"], error["utterance_index"]) == ("type", None)
        talk.send("input.done")
        events, _ = await talk.until("session.done")
        assert events[0]["format"] == "pcm"


@pytest.mark.parametrize(
    ("voice", "fields", "param"),
    [
        (FakeVoice, {"tokens": [1]}, "text"),
        (FakeVoice, {"text": "One."}, "text"),
        (FakeVoice, {"format": "opus"}, "format"),  # at 22,050 Hz there is none
        (FakeVoice, {"split": "token"}, "split"),
        (FakeVoice, {"speaker": "nobody"}, "voice"),
        (OpenFakeVoice, {"normalize": "full"}, "normalize"),
        (FakeVoice, {"format": "mp3", "frame_ms": 20}, "frame_ms"),
        (FakeVoice, {"format": "pcm", "frame_ms": 25}, "frame_ms"),  # of 551.25 samples
        (FakeVoice, {"format": "pcm", "frame_ms": 9}, "frame_ms"),
        (FakeVoice, {"format": "mp3", "sample_rate": 8001}, "sample_rate"),
    ],
)
@at_once
async def test_what_cannot_be_done_is_refused_before_there_is_a_text(
    voice: Voice, fields: dict[str, Any], param: str
) -> None:
    async with SocketClient(make_runtime(voice(), sample_rate_hz=22050)) as talk:
        talk.send("session.config", **fields)
        assert (await talk.error())["param"] == param
        talk.write("One.")
        assert (await talk.error())["param"] == "type"


# What is too much --------------------------------------------------------------------

MOST_BYTES = 1024
BAD = [
    pytest.param("x" * 600, "invalid_json", None, id="no-json"),
    pytest.param(json.dumps(["x" * 600]), "invalid_json", None, id="no-object"),
    pytest.param(json.dumps({"type": "x" * 600}), "invalid_request", "type", id="no-such-type"),
]


@pytest.mark.parametrize(("message", "code", "param"), BAD)
@at_once
async def test_bad_messages_do_not_wait_to_be_handled(
    message: str, code: str, param: str | None
) -> None:
    async with SocketClient(make_runtime(MAX_BODY_BYTES=str(MOST_BYTES))) as talk:
        await talk.configure()
        for _ in range(5):
            talk.send_raw(message)
        for _ in range(5):
            error = await talk.error()
            assert (error["code"], error["param"]) == (code, param)
        assert kinds((await talk.say("One."))[0])[-1] == "session.done"


@at_once
async def test_messages_that_were_handled_do_not_wait_any_more() -> None:
    async with SocketClient(make_runtime(MAX_BODY_BYTES=str(MOST_BYTES))) as talk:
        await talk.configure()
        for _ in range(5):
            talk.write("a" * 600)
            await settle()
        talk.send("input.done")
        assert (await talk.until("session.done"))[0][-1]["finish_reason"] == "stop"


@at_once
async def test_cancelled_messages_do_not_wait_any_more() -> None:
    async with SocketClient(make_runtime(MAX_BODY_BYTES=str(MOST_BYTES))) as talk:
        await talk.configure()
        for _ in range(5):
            talk.write("hold.")
            talk.send("input.done")
            await settle()
            talk.write("a" * 600)
            await settle()
            talk.send("input.cancel")
            await talk.expect("audio.cancelled")
        assert kinds((await talk.say("One."))[0])[-1] == "session.done"


@at_once
async def test_a_session_may_be_interrupted_for_ever() -> None:
    async with SocketClient(make_runtime(MAX_BODY_BYTES=str(MOST_BYTES))) as talk:
        for _ in range(50):
            talk.send("input.cancel")
            await talk.expect("audio.cancelled")
        await talk.configure()
        for _ in range(50):
            talk.send("input.cancel")
            await talk.expect("audio.cancelled")
            await settle()
        assert kinds((await talk.say("One."))[0])[-1] == "session.done"


@pytest.mark.parametrize("letter", ["b", "я", "語"])
@pytest.mark.parametrize(("size", "is_too_much"), [(MOST_BYTES, False), (MOST_BYTES + 1, True)])
@at_once
async def test_messages_that_wait_may_have_so_many_bytes_together(
    size: int, is_too_much: bool, letter: str
) -> None:
    runtime = make_runtime(MAX_BODY_BYTES=str(MOST_BYTES))
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write("hold.")
        talk.send("input.done")
        await settle()
        text = letter * (size // 2 // len(letter.encode()))
        padded = json.dumps({"type": "input.text", "text": text}, ensure_ascii=False)
        for raw in (padded, '{"type": "input.done"}'.ljust(size - len(padded.encode()))):
            talk.send_raw(raw)
        await settle()
        assert runtime.admission.active == (0 if is_too_much else 1)
        events: list[dict[str, Any]] = []
        if not is_too_much:
            talk.send("session.close", now=1)
        while isinstance(message := await talk.receive(), dict | bytes):
            events += [message] if isinstance(message, dict) else []
        assert codes(events) == ["body_too_large"]
        assert message == 1009
        await talk.ended()
        assert runtime.is_idle


@both
@pytest.mark.parametrize(("chars", "is_too_much"), [(40, False), (41, True)])
@at_once
async def test_a_text_may_have_so_many_characters(
    voice: Voice, chars: int, is_too_much: bool
) -> None:
    runtime = make_runtime(voice(), MAX_TEXT_CHARS="40", MAX_CONCURRENT_REQUESTS="1")
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write("One hold. " + "A" * 20)
        await talk.expect("audio.start")
        talk.write("b" * (chars - 30))
        await settle()
        assert runtime.admission.active == (0 if is_too_much else 1)
        talk.write("c" if is_too_much else "")  # of a lost text: not an error of its own
        talk.send("input.done" if is_too_much else "input.cancel")
        events, _ = await talk.until("session.done" if is_too_much else "audio.cancelled")
        assert codes(events) == (["invalid_request"] if is_too_much else [])
        if is_too_much:
            assert kinds(events) == ["error", "session.done"]
            assert (events[0]["utterance_index"], events[0]["error"]["param"]) == (0, "text")
            assert events[-1]["finish_reason"] == "error"
        again, _ = await talk.say("a" * 40)  # every utterance anew
        assert again[-1]["finish_reason"] == "stop"


@at_once
async def test_a_text_that_the_voice_refuses_on_its_way_is_lost_and_the_session_stays() -> None:
    async with SocketClient(make_runtime(OpenFakeVoice())) as talk:
        await talk.configure()
        talk.write("One ")
        await talk.expect("audio.start")
        events, _ = await talk.say("toolong ", "three.")
        assert kinds(events) == ["error", "session.done"]
        assert events[0]["utterance_index"] == 0
        assert events[1]["finish_reason"] == "error"
        assert (await talk.say("One."))[0][-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("message", "param"), [({}, "text"), ({"text": None}, "text"), ({"text": 5}, "text")]
)
@at_once
async def test_a_text_that_is_no_text_is_refused(message: dict[str, Any], param: str) -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure()
        talk.send("input.text", **message)
        assert (await talk.error())["param"] == param
        talk.send_bytes(b"audio")
        assert (await talk.error())["code"] == "invalid_request"
        assert (await talk.say("One."))[0][-1]["utterance_index"] == 0


# Time --------------------------------------------------------------------------------


async def sent_away_after(talk: SocketClient) -> float:
    """Seconds until the session ends for want of a message."""
    since_s = now_s()
    assert (await talk.error())["code"] == "timeout"
    assert await talk.is_sent_away(1008)
    return now_s() - since_s


@at_once
async def test_a_new_session_may_send_nothing_for_10_s() -> None:
    async with SocketClient(make_runtime()) as talk:
        assert await sent_away_after(talk) == pytest.approx(10, abs=0.01)


@at_once
async def test_a_session_that_only_makes_mistakes_is_as_new() -> None:
    async with SocketClient(make_runtime()) as talk:
        talk.send("session.config", speaker="nobody")
        await talk.error()
        assert await sent_away_after(talk) == pytest.approx(10, abs=0.01)


@both
@at_once
async def test_a_text_may_stop_in_its_middle_for_60_s(voice: Voice) -> None:
    runtime = make_runtime(voice())
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write("hold on. T")
        await talk.until("audio.start")
        await asyncio.sleep(59)
        talk.write("wo")  # every message counts anew
        await settle()
        talk.stop_reading()
        assert runtime.admission.active == 1
        talk.read_on()
        since_s = now_s()
        events, _ = await talk.until("error")
        assert codes(events) == ["timeout"]
        assert await talk.is_sent_away(1008)
        await talk.ended()
        assert runtime.is_idle
        assert now_s() - since_s == pytest.approx(60, abs=0.01)


@both
@pytest.mark.parametrize("spoken", [True, False])
@at_once
async def test_a_session_may_rest_between_texts_for_15_minutes(voice: Voice, spoken: bool) -> None:
    async with SocketClient(make_runtime(voice())) as talk:
        await talk.configure()
        if spoken:
            await talk.say("One.")
        assert await sent_away_after(talk) == pytest.approx(900, abs=0.01)


@both
@at_once
async def test_an_interrupted_text_is_followed_by_the_idle_time_limit(voice: Voice) -> None:
    async with SocketClient(make_runtime(voice())) as talk:
        await talk.configure()
        talk.write("hold on. T")
        await talk.until("audio.start")
        talk.send("input.cancel")
        await talk.until("audio.cancelled")
        assert await sent_away_after(talk) == pytest.approx(900, abs=0.01)


@both
@at_once
async def test_a_client_that_waits_for_a_long_speech_stays_connected(voice: Voice) -> None:
    async with SocketClient(make_runtime(voice())) as talk:
        await talk.configure()
        talk.write("hold.")
        talk.send("input.done")
        await asyncio.sleep(890)
        talk.send("input.cancel")
        await talk.until("audio.cancelled")


@asynccontextmanager
async def one_speaks_another_waits(
    runtime: FakeRuntime,
) -> AsyncIterator[tuple[SocketClient, SocketClient]]:
    """Two configured sessions; the first holds its slot until it is cancelled."""
    async with SocketClient(runtime) as first, SocketClient(runtime) as second:
        for client in (first, second):
            await client.configure()
        first.write("One hold.")
        first.send("input.done")
        await first.expect("audio.start")
        yield first, second


@both
@at_once
async def test_a_slot_is_waited_for_as_long_as_a_request_may_take(voice: Voice) -> None:
    runtime = make_runtime(voice(), MAX_CONCURRENT_REQUESTS="1", REQUEST_TIMEOUT_S="30")
    async with one_speaks_another_waits(runtime) as (first, second):
        await settle()
        second.write("Two.")
        second.send("input.done")
        began_s = now_s()
        events, _ = await second.until("session.done")
        assert now_s() - began_s == pytest.approx(30, abs=0.01)
        assert (codes(events), events[0]["utterance_index"]) == (["timeout"], 0)
        assert events[-1]["finish_reason"] == "error"
        assert (runtime.admission.active, runtime.admission.queued) == (1, 0)
        second.write("Two.")
        second.send("input.done")
        await settle()
        assert runtime.admission.queued == 1
        first.send("input.cancel")
        assert (await second.until("session.done"))[0][-1]["finish_reason"] == "stop"


@both
@at_once
async def test_beyond_the_queue_it_is_busy_and_the_session_stays(voice: Voice) -> None:
    runtime = make_runtime(voice(), MAX_CONCURRENT_REQUESTS="1", MAX_QUEUE="0")
    async with one_speaks_another_waits(runtime) as (first, second):
        events, _ = await second.say("Two.")
        assert (codes(events), events[0]["utterance_index"]) == (["busy"], 0)
        assert events[-1] == {
            "type": "session.done",
            "utterance_index": 0,
            "total_sentences": 0,
            "finish_reason": "error",
            "audio_seconds": 0.0,
        }
        first.send("input.cancel")
        await first.until("audio.cancelled")
        assert (await second.say("Two."))[0][-1]["finish_reason"] == "stop"


@at_once
async def test_a_slot_is_taken_once_there_is_a_sentence_and_kept_between_them() -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write("... One")
        await settle()
        assert runtime.is_idle
        talk.write(". Two. Three")
        await settle()
        assert runtime.admission.active == 1
        talk.send("input.done")
        await talk.until("session.done")
        assert runtime.is_idle


@asynccontextmanager
async def one_writes_another_waits(
    voice: Voice, text: str, **settings: str
) -> AsyncIterator[tuple[FakeRuntime, SocketClient, Slot]]:
    """A session that has the only slot and has spoken what it wrote, and a request behind it."""
    runtime = make_runtime(voice(), MAX_CONCURRENT_REQUESTS="1", **settings)
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write(text)
        await talk.expect("audio.start")
        await asyncio.sleep(30)
        yield runtime, talk, runtime.admission.enter()


@both
@pytest.mark.parametrize("more", ["t", "two. T"])
@at_once
async def test_a_writer_whom_others_wait_for_gives_its_slot_up(voice: Voice, more: str) -> None:
    async with one_writes_another_waits(voice, "One. T") as (_, talk, waiting):
        since_s = now_s()
        talk.write(*["x"] * 3)
        await asyncio.sleep(6)
        talk.write(more)  # a letter, or a sentence that is spoken: the waits add up
        await waiting.granted()
        assert now_s() - since_s == pytest.approx(10, abs=0.3)
        events, _ = await talk.until("error")
        assert (codes(events), events[-1]["utterance_index"]) == (["timeout"], 0)
        assert "TEXT_WAIT_S" in events[-1]["message"]
        waiting.release()
        talk.send("input.done")
        assert (await talk.expect("session.done"))["finish_reason"] == "error"
        assert (await talk.say("One."))[0][-1]["finish_reason"] == "stop"


@both
@at_once
async def test_a_refused_request_waits_as_one_in_the_queue(voice: Voice) -> None:
    runtime = make_runtime(voice(), MAX_CONCURRENT_REQUESTS="1", MAX_QUEUE="0", TEXT_WAIT_S="2")
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write("One. T")
        await talk.expect("audio.start")
        with pytest.raises(Busy):
            runtime.admission.enter()
        assert codes((await talk.until("error"))[0]) == ["timeout"]
        assert runtime.is_idle


@both
@at_once
async def test_a_speech_that_takes_long_to_make_does_not_wait_for_text(voice: Voice) -> None:
    async with one_writes_another_waits(voice, "One hold. T") as (_, _talk, waiting):
        await asyncio.sleep(25)
        assert not waiting.is_granted
        waiting.release()


@both
@at_once
async def test_an_utterance_has_a_slot_for_15_minutes_at_most_read_or_not(voice: Voice) -> None:
    runtime = make_runtime(voice())
    async with SocketClient(runtime) as talk:
        await talk.configure()
        since_s = now_s()
        talk.write("One hold.")
        talk.send("input.done")
        await talk.expect("audio.start")
        await asyncio.sleep(800)
        talk.stop_reading()
        await asyncio.sleep(99)
        assert not runtime.is_idle
        await asyncio.sleep(2)
        assert runtime.is_idle
        talk.read_on()
        events, _ = await talk.until("session.done")
        assert codes(events) == ["timeout"]
        assert "UTTERANCE_TIMEOUT_S" in events[-2]["message"]
        assert now_s() - since_s == pytest.approx(901, abs=0.1)


# Ends --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("text", "code", "starts"),
    [
        ("One two fail", "internal_error", 1),
        ("One two break", "internal_error", 1),
        ("One two runaway", "runaway", 1),
        ("One two cancelled", "internal_error", 1),
        ("mute", "internal_error", 0),
    ],
)
@at_once
async def test_a_speech_that_fails_is_an_error_of_its_utterance(
    voice: Voice, lines: Callable[[], list[dict[str, str]]], text: str, code: str, starts: int
) -> None:
    runtime = make_runtime(voice())
    async with SocketClient(runtime) as talk:
        await talk.configure()
        events, _ = await talk.say(text)
        assert kinds(events) == ["audio.start"] * starts + ["error", "session.done"]
        assert (codes(events), events[-2]["utterance_index"]) == ([code], 0)
        assert (events[-1]["finish_reason"], events[-1]["total_sentences"]) == ("error", 0)
        assert runtime.is_idle
        assert (await talk.say("One."))[0][-1]["utterance_index"] == 1
    assert [line["outcome"] for line in lines()] == [code, "ok"]
    assert [line["finish_reason"] for line in lines()] == ["error", "stop"]


@at_once
async def test_what_broke_is_in_the_log_and_not_in_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with SocketClient(make_runtime(), x_request_id="talk") as talk:
        await talk.configure()
        got = (await talk.say("break"))[0][0]["message"]
    assert "asked to fail" not in got
    assert "id=talk.0 failed" in caplog.text
    assert "RuntimeError: asked to fail" in caplog.text


def test_a_session_that_breaks_is_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with SocketClient(make_runtime()) as talk:
            talk.send("session.config", speaker="broken")
            await talk.ended()

    with pytest.raises(RuntimeError, match="asked to fail"):
        run(scene())
    assert "failed outside its route" in caplog.text


@at_once
async def test_a_text_that_goes_on_behind_a_failure_is_ignored() -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.write("fail. T")
        await talk.error()
        events, _ = await talk.say("wo. Three.")
        assert kinds(events) == ["session.done"]
        assert len(runtime.voice.utterances) == 1


@both
def test_barge_in_stops_at_once_and_forgets_what_waits(
    voice: Voice, lines: Callable[[], list[dict[str, str]]]
) -> None:
    async def scene() -> None:
        runtime = make_runtime(voice())
        async with SocketClient(runtime) as talk:
            await talk.configure()
            talk.write("One hold.")
            talk.send("input.done")
            await talk.expect("audio.start")
            await settle()
            talk.write("Two.")
            talk.send("input.done")
            talk.send("session.close")
            await settle()
            talk.send("input.cancel")
            events, frames = await talk.until("audio.cancelled")
            assert b"".join(frames)
            heard_s = len(b"".join(frames)) / 2 / 24_000
            assert events == [
                {"type": "audio.cancelled", "utterance_index": 0, "audio_seconds": heard_s}
            ]
            assert heard_s in (0.235, 0.23)  # of 0.24 s, less what is held back to be faded out
            assert runtime.is_idle
            assert runtime.voice.utterances[0].channel.is_cancelled
            await settle()
            assert not talk.has_news
            assert (await talk.say("One."))[0][-1]["utterance_index"] == 1

    before = count("tts_cancellations_total", reason="barge_in")
    left = count("tts_cancellations_total", reason="client_left")
    run(scene())
    assert count("tts_cancellations_total", reason="barge_in") == before + 1
    assert count("tts_cancellations_total", reason="client_left") == left
    assert [line["outcome"] for line in lines()] == ["interrupted", "ok"]
    assert lines()[0]["finish_reason"] == "cancelled"


@at_once
async def test_cancel_without_speech_is_answered() -> None:
    async with SocketClient(make_runtime()) as talk:
        await talk.configure()
        await talk.say("One.")
        talk.send("input.cancel")
        got = await talk.expect("audio.cancelled")
    assert got == {"type": "audio.cancelled", "utterance_index": None, "audio_seconds": 0.0}


@both
@at_once
async def test_whenever_the_cancel_comes_every_utterance_ends_once(
    voice: Voice, lines: Callable[[], list[dict[str, str]]]
) -> None:
    runtime = make_runtime(voice())
    stopped = []
    async with SocketClient(runtime) as talk:
        await talk.configure()
        for turns in range(25):
            talk.write("One hold.")
            talk.send("input.done")
            for _ in range(turns):
                await asyncio.sleep(0)
            talk.send("input.cancel")
            events, _ = await talk.until("audio.cancelled")
            if events[-1]["utterance_index"] is not None:
                stopped.append(events[-1]["utterance_index"])
            assert runtime.is_idle
            await settle()
            assert not talk.has_news
    assert len(stopped) > 5
    assert [line["id"].rpartition(".")[2] for line in lines()] == [str(i) for i in stopped]
    assert {line["outcome"] for line in lines()} == {"interrupted"}


@both
def test_a_client_that_leaves_stops_its_speech(
    voice: Voice, lines: Callable[[], list[dict[str, str]]]
) -> None:
    async def scene() -> None:
        runtime = make_runtime(voice())
        async with SocketClient(runtime) as talk:
            await talk.configure()
            talk.write("One hold. T")
            await talk.expect("audio.start")
            await settle()
            talk.leave()
            await talk.ended()
            assert runtime.is_idle
            assert runtime.voice.utterances[0].channel.is_cancelled

    before = count("tts_cancellations_total", reason="client_left")
    run(scene())
    assert count("tts_cancellations_total", reason="client_left") == before + 1
    (line,) = lines()
    assert (line["outcome"], line["finish_reason"]) == ("cancelled", "cancelled")


@pytest.mark.parametrize("text", ["One two. Three.", "fail. Two."])
@at_once
async def test_a_client_that_cannot_be_sent_to_has_left(
    text: str, lines: Callable[[], list[dict[str, str]]]
) -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.is_gone = True
        talk.write(text)
        talk.send("input.done")
        await talk.ended()
        assert runtime.is_idle
        assert len(runtime.voice.utterances) == 1
    assert [line["outcome"] for line in lines()] == ["cancelled"]


@at_once
async def test_a_client_that_does_not_read_is_waited_for_and_loses_nothing() -> None:
    runtime = make_runtime()
    async with SocketClient(runtime) as talk:
        await talk.configure()
        talk.stop_reading()
        talk.write("One. Two. Three.")
        talk.send("input.done")
        await asyncio.sleep(100)
        assert len(runtime.voice.utterances) == 1
        talk.read_on()
        events, frames = await talk.until("session.done")
        assert events[-1]["total_sentences"] == 3
        assert len(b"".join(frames)) == 11 * FRAME_BYTES


# Who may come in ---------------------------------------------------------------------

KEY = "secret"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("session.config", {}),
        ("session.config", {"api_key": "other"}),
        ("input.text", {"text": "One.", "api_key": KEY}),
        ("input.done", {}),
    ],
)
@at_once
async def test_a_client_that_never_gives_its_deferred_key_is_sent_away(
    kind: str, fields: dict[str, str]
) -> None:
    runtime = make_runtime(API_KEY=KEY)
    async with SocketClient(runtime) as talk:
        talk.send(kind, **fields)
        talk.send("session.config", api_key=KEY)
        assert (await talk.error())["code"] == "unauthorized"
        assert await talk.is_sent_away(1008)
        await talk.ended()
        assert not talk.has_news


@at_once
async def test_before_its_key_a_client_is_told_nothing_and_sent_away() -> None:
    for message in ('{"type": "input.cancel"}', "no JSON", '{"type": "unknown"}', "x" * 2**21):
        async with SocketClient(make_runtime(API_KEY=KEY)) as talk:
            talk.send_raw(message)
            assert (await talk.error())["code"] == "unauthorized"
            assert await talk.is_sent_away(1008)


@at_once
async def test_a_client_that_sends_no_key_at_all_is_sent_away_after_ten_seconds() -> None:
    async with SocketClient(make_runtime(API_KEY=KEY)) as talk:
        assert (await talk.error())["code"] == "timeout"
        assert await talk.is_sent_away(1008)
        assert now_s() == pytest.approx(10, abs=0.01)


@at_once
async def test_an_utterance_counts_as_a_request_of_the_rate_limit() -> None:
    async with SocketClient(make_runtime(RATE_LIMIT="2/hour")) as talk:  # the handshake is one
        await talk.configure()
        await talk.say("One.")
        talk.write("Two.")
        assert (await talk.error())["code"] == "rate_limited"


@pytest.mark.parametrize("in_header", [True, False])
@at_once
async def test_the_key_is_given_once(in_header: bool) -> None:
    headers = {"authorization": f"Bearer {KEY}"} if in_header else {}
    async with SocketClient(make_runtime(API_KEY=KEY), **headers) as talk:
        await talk.configure(**({} if in_header else {"api_key": KEY}))
        await talk.configure(format="wav")
        assert (await talk.say("One."))[0][0]["format"] == "wav"


@pytest.mark.parametrize("key", ["", KEY])
@at_once
async def test_a_recording_needs_the_key_for_voices(key: str) -> None:
    runtime = make_runtime(API_KEY=KEY, VOICES_API_KEY="own", VOICE_CLONING="1")
    headers = {"authorization": f"Bearer {KEY}"} if key else {}
    async with SocketClient(runtime, **headers) as talk:
        talk.send("session.config", api_key=KEY, ref_audio="AAAA")
        error = await talk.error()
        assert (error["code"], error["param"]) == ("unauthorized", "ref_audio")
        assert await talk.is_sent_away(1008)


@at_once
async def test_text_before_the_configuration_is_refused_and_the_session_stays() -> None:
    async with SocketClient(make_runtime()) as talk:
        for kind in ("input.text", "input.done"):
            talk.send(kind, text="One.")
            error = await talk.error()
            assert (error["param"], error["utterance_index"]) == ("type", None)
        await talk.configure()


# What is seen ------------------------------------------------------------------------


@both
@at_once
async def test_every_utterance_has_its_line_with_the_facts(
    voice: Voice, lines: Callable[[], list[dict[str, str]]]
) -> None:
    async with SocketClient(make_runtime(voice()), x_request_id="talk") as talk:
        await talk.configure(seed=5, format="wav", speaker="other")
        await talk.say("One. ", "Three.")
        await talk.say("Two.")

    first, second = lines()
    assert first["id"] == "talk.0"
    facts = {
        "model": "fake",
        "voice": "other",
        "language": "english",
        "format": "wav",
        "seed": "5",
        "chars": "11",
        "audio_s": "0.64",
        "finish_reason": "stop",
        "outcome": "ok",
        "status": "101",
    }
    assert facts.items() <= first.items()
    assert {"first_audio_ms", "real_time_factor", "total_ms"} <= set(first)
    assert (second["id"], second["chars"], second["audio_s"]) == ("talk.1", "4", "0.24")


def test_metrics_count_every_utterance_and_its_audio_once() -> None:
    async def scene() -> None:
        async with SocketClient(make_runtime()) as talk:
            await talk.configure()
            await talk.say("One. Three.")
            await talk.say("Two.")

    def counts() -> list[float]:
        return [
            count("tts_requests_total", route=PATH, outcome="ok"),
            count("tts_audio_seconds_total", route=PATH),
            count("tts_first_audio_seconds_count", route=PATH, format="pcm"),
        ]

    before = counts()
    run(scene())
    assert np.subtract(counts(), before) == pytest.approx([2, 0.88, 2])
