"""One WebSocket session: its configuration, and one utterance at a time.

Events are handled in the order they come in, but for `input.cancel`, which comes first: one task
reads the connection, another handles events, and each utterance is spoken by a third.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from qwen_tts_service.api.call import Call
from qwen_tts_service.api.inline_voice import with_own_voice
from qwen_tts_service.api.keys import MAY_CLONE, check_recording
from qwen_tts_service.api.rate import COUNT_REQUEST
from qwen_tts_service.api.runtime import Runtime
from qwen_tts_service.api.tickets import RUNTIME_KEY, parse_body
from qwen_tts_service.errors import (
    BodyTooLarge,
    ClientLeft,
    InvalidRequest,
    TimedOut,
    TTSError,
    Unauthorized,
    kind_of,
)
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.speech.writing import can_speak_by_token, open_speech
from qwen_tts_service.types import SpeechRequest

from .connection import PATH, ClientEvent, Connection, SessionConfig, SessionPlan
from .frames import FixedFrames
from .utterance import WebSocketUtterance

ON_KEY = "qwen_tts.on_key"
"""Set in the scope by `Front` for a client that must name the API key in its first message: what to
call when it has."""

CONFIG_TIMEOUT_S = 10.0
"""How long a new connection may send nothing."""
TEXT_TIMEOUT_S = 60.0
"""How long an unfinished text may pause; it may hold a slot."""
IDLE_TIMEOUT_S = 900.0
"""How long a session may be idle between utterances."""

POLICY_VIOLATION, TOO_BIG = 1008, 1009


async def handle_socket(socket: WebSocket) -> None:
    """Handle one WebSocket connection, from the handshake to its end."""
    session = Session(socket)
    await socket.accept()
    await session.run()


ROUTES = [WebSocketRoute(PATH, handle_socket, name="speak_as_written")]


class Session:
    """One connection's session. The inbox holds events so that a cancel can overtake them."""

    def __init__(self, socket: WebSocket) -> None:
        self._runtime: Runtime = socket.scope[RUNTIME_KEY]
        self._id = Call.of(socket.scope).request_id
        self._connection = Connection(socket, self._runtime.settings)
        self._on_key: Callable[[], None] | None = socket.scope.get(ON_KEY)
        self._count: Callable[[], Awaitable[None]] = socket.scope[COUNT_REQUEST]
        self._may_clone = bool(socket.scope.get(MAY_CLONE))
        self._inbox: asyncio.Queue[ClientEvent] = asyncio.Queue()
        self._plan: SessionPlan | None = None
        self._utterance: WebSocketUtterance | None = None
        self._indices = count()
        self._handlers = {
            "session.config": self._configure,
            "input.text": self._take_text,
            "input.done": self._end_text,
            "input.cancel": self._note_cancel,
        }

    async def run(self) -> None:
        """Read events and handle them, on two tasks, until either task ends."""
        if self._on_key is not None and not await self._take_key(self._on_key):
            return
        tasks = [asyncio.create_task(self._read_all()), asyncio.create_task(self._handle_all())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop_speaking("cancelled")
        for error in ended:
            if isinstance(error, Exception) and not isinstance(error, ClientLeft):
                raise error

    async def _take_key(self, on_key: Callable[[], None]) -> bool:
        """Wait for a configuration with the key; anything else closes the connection."""
        error: TTSError = Unauthorized(
            "the API key is missing or wrong; send it as `Authorization: Bearer <key>` or in "
            "session.config.api_key, in the first message"
        )
        with suppress(ClientLeft):
            try:
                async with asyncio.timeout(CONFIG_TIMEOUT_S):
                    event = await self._connection.receive()
                key = event.api_key if isinstance(event.api_key, str) else ""
                if event.type == "session.config" and self._runtime.keys.may_speak(key):
                    on_key()
                    self._inbox.put_nowait(event)
                    return True
            except TimeoutError:
                error = TimedOut("no message arrived within the time limit")
            except (InvalidRequest, BodyTooLarge):
                pass  # without the key, nothing is said about the message
            await self._connection.send_error(error)
            await self._connection.close(POLICY_VIOLATION)
        return False

    async def _read_all(self) -> None:
        """Put events into the inbox and cancel at once; ends when the client leaves."""
        while True:
            try:
                event = await self._connection.receive()
            except BodyTooLarge as error:
                await self._connection.send_error(error)
                await self._connection.close(TOO_BIG)
                return
            except InvalidRequest as error:
                await self._connection.send_error(error)
                continue
            if event.type == "input.cancel":
                await self._cancel()
            self._inbox.put_nowait(event)

    async def _cancel(self) -> None:
        """Barge-in: stop speaking and forget what was written, also for later utterances."""
        while not self._inbox.empty():
            self._connection.handled(self._inbox.get_nowait())
        utterance = await self._stop_speaking("interrupted")
        await self._connection.send(
            "audio.cancelled",
            utterance_index=None if utterance is None else utterance.index,
            audio_seconds=0.0 if utterance is None else round(utterance.audio_s, 3),
        )

    async def _stop_speaking(self, outcome: str) -> WebSocketUtterance | None:
        utterance, self._utterance = self._utterance, None
        if utterance is not None:
            await utterance.stop(outcome)
        return utterance

    async def _handle_all(self) -> None:
        """Handle one event after the other; ends with the session."""
        try:
            while (event := await self._next()).type != "session.close":
                self._connection.handled(event)
                await self._handle(event)
        except (TimeoutError, Unauthorized) as error:
            late = TimedOut("no message arrived within the time limit")
            await self._connection.send_error(error if isinstance(error, TTSError) else late)
            await self._connection.close(POLICY_VIOLATION)
        else:
            await self._connection.close()

    async def _next(self) -> ClientEvent:
        limit_s = IDLE_TIMEOUT_S if self._utterance is None else TEXT_TIMEOUT_S
        async with asyncio.timeout(CONFIG_TIMEOUT_S if self._plan is None else limit_s):
            return await self._inbox.get()

    async def _handle(self, event: ClientEvent) -> None:
        try:
            if self._plan is None and event.type not in ("session.config", "input.cancel"):
                raise InvalidRequest("send session.config first", param="type")
            await self._handlers[event.type](event)
        except (Unauthorized, ClientLeft):
            raise
        except TTSError as error:
            await self._connection.send_error(error)

    # Handlers --------------------------------------------------------------------------

    async def _configure(self, event: ClientEvent) -> None:
        if self._utterance is not None:
            raise InvalidRequest(
                "an utterance is being written; send input.done or input.cancel first", param="type"
            )
        body = parse_body(event.raw, SessionConfig)
        assert isinstance(body, SessionConfig)
        with ExitStack() as at_end:
            await self._begin_session(body, await self._runtime.keeper.wake(at_end.callback))

    async def _begin_session(self, body: SessionConfig, synthesizer: Synthesizer) -> None:
        settings = self._runtime.settings
        request = body.to_request(self._id, settings)
        self._may_clone |= self._runtime.keys.may_clone(body.api_key or "")
        check_recording(body, is_allowed=self._may_clone)
        request, warning = await with_own_voice(request, body, synthesizer, settings)
        plan = self._make_plan(body, request, synthesizer)
        choice = await synthesizer.choose(request)
        open_speech(synthesizer, request, plan.output, by_token=plan.is_by_token)
        self._plan = plan
        is_known = any((request.language, request.speaker, request.voice))
        warning = "; ".join(filter(None, [body.warning, warning]))
        await self._connection.send(
            "session.ready",
            request_id=self._id,
            model=synthesizer.voice.model_name,
            ai_generated=True,
            voice=choice.speaker if is_known else None,
            language=request.language,
            split="token" if plan.is_by_token else "sentence",
            format=plan.output.format,
            sample_rate=synthesizer.rate_of(request, plan.output.format),
            channels=1,
            normalize=request.normalize,
            seed=request.seed,
            **({} if body.frame_ms is None else {"frame_ms": body.frame_ms}),
            **({"warning": warning} if warning else {}),
        )

    @staticmethod
    def _make_plan(
        body: SessionConfig, request: SpeechRequest, synthesizer: Synthesizer
    ) -> SessionPlan:
        can_by_token = can_speak_by_token(synthesizer) and body.input_type != "ssml"
        by_default = body.split is None and can_by_token and body.timestamps is None
        rate_hz = synthesizer.rate_of(request, body.format)
        lasting = partial(FixedFrames.lasting, format=body.format, sample_rate_hz=rate_hz)
        return SessionPlan(
            request=request,
            output=Output(body.format, is_stream=True),
            is_by_token=body.split == "token" or by_default,
            frames=None if body.frame_ms is None else lasting(body.frame_ms),
        )

    async def _take_text(self, event: ClientEvent) -> None:
        text = event.text
        if not isinstance(text, str):
            raise InvalidRequest(f"text must be a string; got {kind_of(text)}", param="text")
        if self._utterance is None and text.strip():
            assert self._plan is not None
            await self._count()
            with ExitStack() as at_end:
                await self._runtime.keeper.wake(at_end.callback)
                self._utterance = WebSocketUtterance(
                    self._connection, self._runtime, self._plan, next(self._indices), self._id
                )
        if self._utterance is not None:
            await self._utterance.feed(text)

    async def _note_cancel(self, _event: ClientEvent) -> None:
        """Restart the time limit; `_cancel` has already stopped the utterance."""

    async def _end_text(self, _event: ClientEvent) -> None:
        utterance = self._utterance
        if utterance is None:
            await self._send_done(next(self._indices))
            return
        await utterance.finish()
        await utterance.ended()
        if self._utterance is utterance:
            self._utterance = None
            await self._send_done(
                utterance.index, utterance.sentences, utterance.finish_reason, utterance.audio_s
            )

    async def _send_done(
        self, index: int, sentences: int = 0, reason: str = "stop", audio_s: float = 0.0
    ) -> None:
        await self._connection.send(
            "session.done",
            utterance_index=index,
            total_sentences=sentences,
            finish_reason=reason,
            audio_seconds=round(audio_s, 3),
        )
