"""WebSocket sessions without a server: the ASGI app called directly, a fake voice and clock.

Time passes only when nobody has anything to do, and then at once: limits of minutes are measured
to the microsecond in no time. So nothing here may use a thread; `pcm` and `wav` do not.
"""

import asyncio
import json
import re
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, ClassVar, Self

import numpy as np

from qwen_tts_service.api.admission import Admission
from qwen_tts_service.api.app import make_app
from qwen_tts_service.api.front import Front
from qwen_tts_service.api.keys import Keys
from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import InvalidRequest, SynthesisFailed
from qwen_tts_service.settings import load_settings
from qwen_tts_service.speech.parts import TextOptions
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import FinishReason, Language, Samples, SpeechRequest, VoiceChoice

PATH = "/v1/audio/speech/stream"
RATE_HZ = 24000
FRAME_SAMPLES = 1920
FRAME_BYTES = 2 * FRAME_SAMPLES
DEADLINE_S = 100_000.0
"""Of the clock that passes at once: whatever waits for it waits for ever."""


# Time -----------------------------------------------------------------------------------


class _Clock(selectors.DefaultSelector):
    """Lets time pass instead of waiting."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout:
            self.now_s += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def run(scene: Coroutine[Any, Any, Any]) -> Any:
    """Run a scene on a clock that begins at 0; fails if it waits for what never comes."""

    async def play() -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await scene

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(play())


def at_once(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test run on a clock of its own, which passes at once."""

    @wraps(test)
    def run_test(*given: Any, **named: Any) -> None:
        run(test(*given, **named))

    return run_test


def now_s() -> float:
    return asyncio.get_running_loop().time()


class _AtOnce(Executor):
    """Runs work when it is submitted, as the clock of these tests does not wait for threads."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*given, **named))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)
        return future


async def settle() -> None:
    """Let everybody do what can be done now."""
    await asyncio.sleep(1e-3)


# The voice ------------------------------------------------------------------------------


class FakeUtterance:
    """One speech: a frame for every letter, or what a word stands for.

    `half` is half a frame, `bit` 1000 samples, `hold` goes on for ever, `mute` says nothing, `fail`
    fails, `break` breaks, and `runaway`, `length` and `cancelled` end like that. No sample is like
    its neighbours, so that none is lost or sent twice unseen.
    """

    def __init__(
        self,
        request: SpeechRequest,
        choice: VoiceChoice,
        on_speak: Callable[["FakeUtterance"], None] = lambda _: None,
    ) -> None:
        self.on_speak = on_speak
        self.request = request
        self.choice = choice
        self.warning: str | None = None
        self.expected_s = 0.0
        self.text = ""
        self.is_finished = self._is_read = False
        self._left = request.max_frames * FRAME_SAMPLES
        self._made = 0
        self._broken: Exception | None = None

    @cached_property
    def channel(self) -> PcmChannel:
        """Made on the event loop that reads it, as an utterance may be prepared on a thread."""
        return PcmChannel(capacity_samples=10**9)

    def feed(self, text: str) -> None:
        if "toolong" in text:
            raise InvalidRequest("text is too long", param="text")
        self.text += text
        for word in re.findall(r"\w+", text):
            self._do(word)

    def speak(self) -> "FakeUtterance":
        self.feed(self.request.text or "")
        self.finish()
        self.on_speak(self)
        return self

    def finish(self) -> None:
        self.is_finished = True
        if not re.search(r"\bhold\b", self.text):
            self.channel.close()

    def _do(self, word: str) -> None:
        if word == "fail":
            self.channel.fail(SynthesisFailed("asked to fail"))
        elif word == "break":
            self._broken = RuntimeError("asked to fail")
            self.channel.close()
        elif word in ("runaway", "length", "cancelled"):
            self.channel.close(word)  # type: ignore[arg-type]
        elif word not in ("hold", "mute"):
            samples = {"half": FRAME_SAMPLES // 2, "bit": 1000}
            self._put(samples.get(word, FRAME_SAMPLES * len(word)))

    def _put(self, count: int) -> None:
        kept = min(count, self._left)
        made = np.arange(self._made, self._made + kept) % 20000 / 32767
        self.channel.put(made.astype(np.float32))
        self._made += kept
        self._left -= kept
        if kept < count:
            self.channel.close("length")

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.channel.finish_reason

    @property
    def waits_for_text(self) -> bool:
        return self._is_read and not self.channel._waiting_samples and "hold" not in self.text

    async def __aiter__(self) -> AsyncIterator[Samples]:
        self._is_read = True
        async for samples in self.channel:
            yield samples
        if self._broken is not None:
            raise self._broken

    async def aclose(self) -> None:
        await self.channel.aclose()


class FakeVoice:
    """A voice for whole sentences. `utterances` holds what it was asked to speak."""

    model_name = "fake"
    sample_rate_hz = RATE_HZ
    device = "cpu"
    speakers = ("fake", "other")
    longest_part_chars: int | None = None
    slots: int | None = None
    facts: ClassVar[dict[str, str]] = {}
    is_healthy = True

    def __init__(self) -> None:
        self.utterances: list[FakeUtterance] = []

    def choose(self, request: SpeechRequest) -> VoiceChoice:
        if request.speaker == "nobody":
            raise InvalidRequest("no such speaker", param="speaker", code="unknown_speaker")
        if request.speaker == "broken":
            raise RuntimeError("asked to fail")
        return VoiceChoice(
            speaker=request.speaker or f"speaker_of_{request.language}",
            language=request.language or "english",
            applied=("gender",) if request.attributes.gender else (),
            not_applied={"age": "it has none"} if request.attributes.age else {},
        )

    def prepare(self, request: SpeechRequest) -> FakeUtterance:
        return FakeUtterance(request, self.choose(request), self.utterances.append)

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


class OpenFakeVoice(FakeVoice):
    """A voice for words as they come, too."""

    def open(self, request: SpeechRequest) -> FakeUtterance:
        self.utterances.append(self.prepare(request))
        return self.utterances[-1]


# The runtime and the client ----------------------------------------------------------------


@dataclass(frozen=True)
class FakeKeeper:
    """Has a voice that is always loaded."""

    synthesizer: Synthesizer

    def check_ready(self) -> None:
        pass

    def hold(self, at_end: Any) -> None:
        pass

    async def wake(self, _at_end: Any) -> Synthesizer:
        return self.synthesizer


@dataclass(frozen=True)
class FakeRuntime:
    """What the routes share, as `Runtime` has it when the voice is ready."""

    settings: Any
    synthesizer: Synthesizer
    admission: Admission

    @cached_property
    def keys(self) -> Keys:
        return Keys(self.settings)

    @property
    def keeper(self) -> FakeKeeper:
        return FakeKeeper(self.synthesizer)

    @property
    def voice(self) -> Any:
        return self.synthesizer.voice

    @property
    def is_idle(self) -> bool:
        return self.admission.active == self.admission.queued == 0


def make_runtime(
    voice: FakeVoice | None = None,
    *,
    sample_rate_hz: int = RATE_HZ,
    default_language: Language = "english",
    **given: str,
) -> FakeRuntime:
    settings = load_settings({"MODEL_NAME": "fake", **given})
    synthesizer = Synthesizer(
        voice or FakeVoice(),
        sample_rate_hz=sample_rate_hz,
        text_options=TextOptions(default_language=default_language),
    )
    synthesizer._readers = _AtOnce()
    return FakeRuntime(
        settings,
        synthesizer,
        Admission(slots=settings.max_concurrent_requests, queue_limit=settings.queue_limit),
    )


class SocketClient:
    """One connection to the WebSocket route, from the handshake on."""

    def __init__(self, fake: FakeRuntime, **headers: str) -> None:
        runtime: Any = fake
        self._app = Front(make_app(runtime, dict), runtime)
        self._scope = {
            "type": "websocket",
            "path": PATH,
            "raw_path": PATH.encode(),
            "root_path": "",
            "query_string": b"",
            "scheme": "ws",
            "subprotocols": [],
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }
        self._in: asyncio.Queue[Any] = asyncio.Queue()
        self._out: asyncio.Queue[Any] = asyncio.Queue()
        self._can_send = asyncio.Event()
        self._can_send.set()
        self.is_gone = False

    async def __aenter__(self) -> Self:
        self._in.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._app(self._scope, self._in.get, self._take))
        assert (await self._out.get())["type"] == "websocket.accept"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.read_on()
        self.leave()
        await self._task

    async def _take(self, message: Any) -> None:
        await self._can_send.wait()
        if self.is_gone:
            raise OSError("nobody is there")
        self._out.put_nowait(message)

    def stop_reading(self) -> None:
        """Take nothing from now on, as a slow client's full socket does."""
        self._can_send.clear()

    def read_on(self) -> None:
        self._can_send.set()

    def leave(self) -> None:
        self._in.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def ended(self) -> None:
        """Wait until the server has let go of the connection."""
        await asyncio.wait({self._task})

    def send_raw(self, text: str) -> None:
        self._in.put_nowait({"type": "websocket.receive", "text": text})

    def send_bytes(self, data: bytes) -> None:
        self._in.put_nowait({"type": "websocket.receive", "bytes": data})

    def send(self, kind: str, **fields: Any) -> None:
        self.send_raw(json.dumps({"type": kind, **fields}))

    def write(self, *pieces: str) -> None:
        for piece in pieces:
            self.send("input.text", text=piece)

    async def receive(self) -> Any:
        """The next event as a dict, audio as bytes, or the code of the end as an int."""
        message = await self._out.get()
        if message["type"] == "websocket.close":
            return message["code"]
        return json.loads(message["text"]) if "text" in message else message["bytes"]

    async def expect(self, kind: str) -> dict[str, Any]:
        event = await self.receive()
        assert isinstance(event, dict), event if isinstance(event, int) else len(event)
        assert event["type"] == kind, event
        return event

    async def configure(self, **fields: Any) -> dict[str, Any]:
        self.send("session.config", **{"language": "english", **fields})
        return await self.expect("session.ready")

    async def error(self) -> dict[str, Any]:
        event = await self.expect("error")
        assert event["message"] == event["error"]["message"]
        return {**event["error"], "utterance_index": event.get("utterance_index")}

    async def until(self, kind: str) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Everything up to an event of this kind: the events, and the frames of audio."""
        events: list[dict[str, Any]] = []
        frames: list[bytes] = []
        while not events or events[-1]["type"] != kind:
            message = await self.receive()
            assert not isinstance(message, int), f"closed with {message}"
            (frames if isinstance(message, bytes) else events).append(message)
        return events, frames

    async def say(self, *pieces: str) -> tuple[list[dict[str, Any]], list[bytes]]:
        self.write(*pieces)
        self.send("input.done")
        return await self.until("session.done")

    async def is_sent_away(self, code: int) -> bool:
        """Whether the server closes now with this code, and says nothing before."""
        return await self.receive() == code

    @property
    def has_news(self) -> bool:
        return not self._out.empty()
