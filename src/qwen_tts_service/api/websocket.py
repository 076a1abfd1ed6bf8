"""WS /v1/audio/speech/stream: text comes in as it is written, audio goes out meanwhile.

    client: session.config, input.text ..., input.done, input.text ..., input.done, session.close
    server: session.ready, audio.start, <audio> ..., audio.done, session.done, ...

Messages are obeyed in the order they come in, but for `input.cancel`, which comes first: a task
listens, another obeys, and each utterance is spoken by a third. docs/websocket.md is the contract.
It does not know how speech is made.
"""

import asyncio
import hmac
import json
import logging
import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from qwen_tts_service.audio.formats import check_format
from qwen_tts_service.errors import (
    BodyTooLarge,
    CannotSpeak,
    ClientLeft,
    InvalidRequest,
    SynthesisFailed,
    TimedOut,
    TTSError,
    Unauthorized,
)
from qwen_tts_service.synthesizer import OpenSpeech, Output, Speech
from qwen_tts_service.telemetry import metrics
from qwen_tts_service.text.normalise import normalise
from qwen_tts_service.text.split import SentenceSplitter, is_speakable, split_pauses
from qwen_tts_service.types import (
    FRAME_S,
    AudioFormat,
    FinishReason,
    SpeechRequest,
    VoiceChoice,
)

from .call import Call
from .doors import RUNTIME_KEY, parse_body
from .errors import body_of, in_words_of
from .openai import CreateSpeechBody
from .runtime import Runtime

logger = logging.getLogger(__name__)

PATH = "/v1/audio/speech/stream"
KEY_IS_OWED = "qwen_tts.key_is_owed"
"""Set in the scope by `Front` for a client that must name the API key in its first message."""

CONFIG_TIMEOUT_S = 10.0
"""How long a new connection may say nothing."""
TEXT_TIMEOUT_S = 60.0
"""How long a text may stop in its middle; it may be holding a slot."""
IDLE_TIMEOUT_S = 900.0
"""How long a session may rest between utterances."""
MAX_FRAME_BYTES = 32 * 1024
"""Longer audio is sent in several frames: some clients refuse frames of 1 MiB."""

POLICY_VIOLATION, TOO_BIG = 1008, 1009

Event = dict[str, Any]


class SessionConfig(CreateSpeechBody):
    """What a session is asked for; fields of OpenAI and vLLM-Omni, and ours by either name."""

    model_config = ConfigDict(populate_by_name=True)

    text: str | None = None  # has no place here, and is refused
    format: AudioFormat = Field(
        "pcm",
        validation_alias=AliasChoices("format", "response_format"),
        description="The audio format.",
    )
    split: Literal["token", "sentence"] | None = Field(
        None,
        description="Speak words as they come, or sentences when they are complete; "
        "token where the model can, if it is not said.",
    )
    api_key: str | None = Field(
        None, description="The API key, for clients that cannot send headers."
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What every utterance of a session has in common; `request` is without a text."""

    request: SpeechRequest
    format: AudioFormat
    is_by_token: bool

    @property
    def output(self) -> Output:
        return Output(self.format, is_stream=True)


async def speak_as_written(socket: WebSocket) -> None:
    """Hold one session, from the handshake to the end of the connection."""
    session = Session(socket, socket.scope[RUNTIME_KEY], Call.of(socket.scope).request_id)
    await socket.accept()
    await session.run()


ROUTES = [WebSocketRoute(PATH, speak_as_written)]


class Session:
    """One connection: its configuration, and one utterance at a time."""

    def __init__(self, socket: WebSocket, runtime: Runtime, session_id: str) -> None:
        self._socket = socket
        self.runtime = runtime
        self.id = session_id
        self._owes_key = bool(socket.scope.get(KEY_IS_OWED))
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._waiting_chars = 0
        self._plan: Plan | None = None
        self._utterance: Utterance | None = None
        self._utterances = 0
        self._obeyed = {
            "session.config": self._configure,
            "input.text": self._take_text,
            "input.done": self._end_text,
            "input.cancel": self._rest,
        }

    async def run(self) -> None:
        """Listen and obey until one of both ends."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._obey_all())]
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

    # What goes out ---------------------------------------------------------------------

    async def say(self, kind: str, **facts: object) -> None:
        """Send one JSON message; raises ClientLeft."""
        await self._send({"text": json.dumps({"type": kind, **facts}, ensure_ascii=False)})

    async def send_audio(self, data: bytes) -> None:
        """Send audio, waiting for a client that reads slowly; raises ClientLeft."""
        for start in range(0, len(data), MAX_FRAME_BYTES):
            await self._send({"bytes": data[start : start + MAX_FRAME_BYTES]})

    async def say_error(self, error: TTSError, **facts: object) -> None:
        """Send the one error body; vLLM-Omni's clients look for its message outside as well."""
        error = in_words_of(SessionConfig, error)
        await self.say("error", message=error.message, **body_of(error), **facts)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._socket.send({"type": "websocket.send", **message})
        except (WebSocketDisconnect, RuntimeError, OSError):
            raise ClientLeft("the client closed the connection") from None

    async def _close(self, code: int = 1000) -> None:
        try:
            await self._socket.close(code)
        except (WebSocketDisconnect, RuntimeError, OSError):
            raise ClientLeft("the client closed the connection") from None

    # What comes in ---------------------------------------------------------------------

    async def _listen(self) -> None:
        """Put messages into the inbox and cancel at once; ends when the client leaves."""
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            try:
                event = self._read(message)
            except BodyTooLarge as error:
                await self.say_error(error)
                await self._close(TOO_BIG)
                return
            except TTSError as error:
                await self.say_error(error)
                continue
            if event["type"] == "input.cancel":
                await self._cancel()
            self._inbox.put_nowait(event)

    def _read(self, message: Any) -> Event:
        raw = message.get("text")
        if raw is None:
            raise InvalidRequest("send JSON in text frames; audio only goes out")
        self._waiting_chars += len(raw)
        if self._waiting_chars > self.runtime.settings.max_body_bytes:
            most = self.runtime.settings.max_body_bytes
            raise BodyTooLarge(f"messages of more than {most} bytes together wait to be obeyed")
        try:
            event = json.loads(raw)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self._waiting_chars -= len(raw)
            raise InvalidRequest("the message is not a JSON object", code="invalid_json")
        known = (*self._obeyed, "session.close")
        if event.get("type") not in known:
            self._waiting_chars -= len(raw)
            raise InvalidRequest(f"type must be one of {', '.join(known)}", param="type")
        return {"type": event["type"], "text": event.get("text"), "raw": raw}

    async def _cancel(self) -> None:
        """Barge-in: stop speaking and forget what was written, also for later utterances."""
        while not self._inbox.empty():
            self._forget(self._inbox.get_nowait())
        utterance = await self._stop_speaking("interrupted")
        await self.say(
            "audio.cancelled",
            utterance_index=None if utterance is None else utterance.index,
            audio_seconds=0.0 if utterance is None else round(utterance.audio_s, 3),
        )

    async def _stop_speaking(self, outcome: str) -> "Utterance | None":
        utterance, self._utterance = self._utterance, None
        if utterance is not None:
            await utterance.stop(outcome)
        return utterance

    def _forget(self, event: Event) -> None:
        self._waiting_chars -= len(event["raw"])

    # What is done ----------------------------------------------------------------------

    async def _obey_all(self) -> None:
        """Obey one message after the other; ends with the session."""
        try:
            while (event := await self._next())["type"] != "session.close":
                self._forget(event)
                await self._obey(event)
        except (TimeoutError, Unauthorized) as error:
            late = TimedOut("no message came in time") if isinstance(error, TimeoutError) else error
            await self.say_error(late)
            await self._close(POLICY_VIOLATION)
            return
        await self._close()

    async def _next(self) -> Event:
        limit_s = IDLE_TIMEOUT_S if self._utterance is None else TEXT_TIMEOUT_S
        async with asyncio.timeout(CONFIG_TIMEOUT_S if self._plan is None else limit_s):
            return await self._inbox.get()

    async def _obey(self, event: Event) -> None:
        try:
            if self._plan is None and event["type"] not in ("session.config", "input.cancel"):
                self._check_key(None)
                raise InvalidRequest("session.config comes first", param="type")
            await self._obeyed[event["type"]](event)
        except (Unauthorized, ClientLeft):
            raise
        except TTSError as error:
            await self.say_error(error)

    async def _configure(self, event: Event) -> None:
        if self._utterance is not None:
            raise InvalidRequest(
                "an utterance is being written; send input.done or input.cancel first",
                param="type",
            )
        body = parse_body(event["raw"].encode("utf-8", "replace"), SessionConfig)
        assert isinstance(body, SessionConfig)
        self._check_key(body.api_key)
        plan, choice = await self._make_plan(body)
        self._plan = plan
        has_voice = plan.request.language is not None or plan.request.speaker is not None
        await self.say(
            "session.ready",
            request_id=self.id,
            model=self.runtime.synthesizer.voice.model_name,
            voice=choice.speaker if has_voice else None,
            language=plan.request.language,
            split="token" if plan.is_by_token else "sentence",
            format=plan.format,
            sample_rate=self.runtime.synthesizer.sample_rate_hz,
            channels=1,
            normalize=plan.request.normalize,
            seed=plan.request.seed,
        )

    def _check_key(self, given: str | None) -> None:
        if not self._owes_key:
            return
        key = self.runtime.settings.api_key.get_secret_value()
        if not hmac.compare_digest((given or "").encode("utf-8", "replace"), key.encode()):
            raise Unauthorized(
                "give the API key as `Authorization: Bearer <key>` or in session.config.api_key"
            )
        self._owes_key = False

    async def _make_plan(self, body: SessionConfig) -> tuple[Plan, VoiceChoice]:
        """Check all that can be checked without a text: with one that every language has."""
        if body.text is not None or body.tokens is not None:
            raise InvalidRequest("text is sent by input.text", param="text")
        probe = body.model_copy(update={"text": "1"}).to_request(self.id, self.runtime.settings)
        synthesizer = self.runtime.synthesizer
        check_format(body.format, synthesizer.sample_rate_hz)
        choice = synthesizer.voice.prepare(
            replace(probe, language=probe.language or "english")
        ).choice
        plan = Plan(
            request=replace(probe, text=None),
            format=body.format,
            is_by_token=body.split == "token"
            or (body.split is None and synthesizer.can_stream_text),
        )
        if plan.is_by_token:
            await synthesizer.speak_open(plan.request, plan.output).aclose()
        return plan, choice

    async def _rest(self, _event: Event) -> None:
        """`_cancel` has done it; from this message on the session rests between utterances."""
        self._check_key(None)

    async def _take_text(self, event: Event) -> None:
        text = event["text"]
        if not isinstance(text, str):
            raise InvalidRequest("text must be a string", param="text")
        if self._utterance is None and text.strip():
            self._utterance = self._begin_utterance()
        if self._utterance is not None:
            await self._utterance.append(text)

    def _begin_utterance(self) -> "Utterance":
        assert self._plan is not None
        kind = SpeechByToken if self._plan.is_by_token else SpeechBySentence
        index, self._utterances = self._utterances, self._utterances + 1
        return kind(self, self._plan, index)

    async def _end_text(self, _event: Event) -> None:
        utterance = self._utterance
        if utterance is None:
            index, self._utterances = self._utterances, self._utterances + 1
            await self._say_done(index, 0, "stop", 0.0)
            return
        await utterance.finish()
        await utterance.ended()
        if self._utterance is utterance:
            self._utterance = None
            await self._say_done(
                utterance.index,
                utterance.sentences,
                utterance.finish_reason,
                utterance.audio_s,
            )

    async def _say_done(
        self, index: int, sentences: int, reason: FinishReason, audio_s: float
    ) -> None:
        await self.say(
            "session.done",
            utterance_index=index,
            total_sentences=sentences,
            finish_reason=reason,
            audio_seconds=round(audio_s, 3),
        )


class Utterance:
    """One text, from its first word to the end of its audio; speaks on a task of its own."""

    def __init__(self, session: Session, plan: Plan, index: int) -> None:
        self._session = session
        self._runtime = session.runtime
        self._plan = plan
        self.index = index
        self.sentences = 0
        self.audio_s = 0.0
        self.finish_reason: FinishReason = "stop"
        self._chars = 0
        self._half = ""
        self._stopped: tuple[str, FinishReason] | None = None
        self._is_closed = False
        self._call = Call(f"{session.id}.{index}")
        self._call.route = PATH
        self._call.status = 101
        self._call.note(format=plan.format, seed=plan.request.seed)
        self._task = asyncio.create_task(self._run())

    # The writer's side -----------------------------------------------------------------

    async def append(self, text: str) -> None:
        """Add text; what comes after the speech has ended or failed is ignored."""
        await self._unless_refused(lambda: self._append(text))

    async def finish(self) -> None:
        """Say that the text is complete."""
        await self._unless_refused(self._complete)

    async def _unless_refused(self, write: Callable[[], None]) -> None:
        """A text that is refused on its way ends the speech; the client is told why."""
        if self._task.done():
            return
        try:
            write()
        except TTSError as error:
            await self.stop(error.code, "error")
            await self._session.say_error(error, utterance_index=self.index)

    def _append(self, text: str) -> None:
        self._chars += len(text)
        most = self._runtime.settings.max_text_chars
        if self._chars > most:
            raise InvalidRequest(
                f"text has more than {most} characters; end utterances with input.done",
                param="text",
            )
        self._write(self._whole_characters(text))

    def _whole_characters(self, text: str) -> str:
        """Join surrogates, which clients send apart when they cut text by UTF-16 units."""
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _write(self, text: str) -> None:
        raise NotImplementedError

    def _complete(self) -> None:
        raise NotImplementedError

    async def ended(self) -> None:
        """Wait until it has been spoken, stopped or failed."""
        await asyncio.wait({self._task})

    async def stop(self, outcome: str, reason: FinishReason = "cancelled") -> None:
        """End it now; `outcome` is for log and metrics. Harmless when it has ended."""
        if self._task.done():
            return
        self._stopped = outcome, reason
        self._task.cancel()
        await self.ended()
        self._close()  # a task that had not begun has not done it

    # The speaker's side ----------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._perform()
        except Exception as error:  # noqa: BLE001 - the utterance's top
            await self._fail(self._named(error))
        finally:
            self._close()

    def _close(self) -> None:
        """Free the slot, write the line; once."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._stopped is not None:
            self._call.outcome, self.finish_reason = self._stopped
        if self._call.outcome == "interrupted":
            metrics.CANCELLATIONS.labels("barge_in").inc()
        self._call.spoke(self.audio_s)
        self._call.note(chars=self._chars, finish_reason=self.finish_reason)
        self._call.end()

    def _named(self, error: Exception) -> TTSError:
        if isinstance(error, TTSError):
            return error
        if isinstance(error, TimeoutError):
            return TimedOut("no slot came free within REQUEST_TIMEOUT_S")
        logger.error("id=%s failed while speaking", self._call.request_id, exc_info=error)
        return SynthesisFailed("the speech failed; the log has the details")

    async def _fail(self, error: TTSError) -> None:
        self.finish_reason = "cancelled" if isinstance(error, ClientLeft) else "error"
        self._call.outcome = error.code
        if not isinstance(error, ClientLeft):
            try:
                await self._session.say_error(error, utterance_index=self.index)
            except ClientLeft:
                self._call.outcome = ClientLeft.code

    async def _perform(self) -> None:
        raise NotImplementedError

    async def _take_place(self) -> None:
        """Wait for a slot, which is held to the utterance's end; raises Busy."""
        place = self._runtime.admission.enter()
        self._call.at_end(place.release)
        async with asyncio.timeout(self._runtime.settings.request_timeout_s):
            await place.granted()

    async def _send_audio(self, speech: Speech | OpenSpeech, **facts: object) -> None:
        """Send one stretch of audio between its start and its done."""
        sent_bytes = 0
        said_s = self.audio_s
        async with aclosing(speech):
            async for data in speech:
                if not sent_bytes:
                    await self._say_start(speech, facts)
                sent_bytes += len(data)
                await self._session.send_audio(data)
                self._call.first_audio(self._plan.format)
                self.audio_s = said_s + speech.audio_s
        self._check_ending(speech, sent_bytes)
        await self._session.say(
            "audio.done",
            utterance_index=self.index,
            sentence_index=self.sentences,
            finish_reason=self.finish_reason,
            audio_seconds=round(speech.audio_s, 3),
            total_bytes=sent_bytes,
            error=False,
        )
        self.sentences += 1

    def _check_ending(self, speech: Speech | OpenSpeech, sent_bytes: int) -> None:
        reason = speech.finish_reason
        if reason == "runaway":
            raise SynthesisFailed("the model did not find an end for this text", code="runaway")
        if reason not in ("stop", "length"):
            raise SynthesisFailed("the speech was stopped before its end")
        if not sent_bytes:
            raise SynthesisFailed("the voice made no sound for this text")
        self.finish_reason = reason

    async def _say_start(self, speech: Speech | OpenSpeech, facts: dict[str, object]) -> None:
        choice = speech.choice
        assert choice is not None, "there is audio"
        voice = self._runtime.synthesizer.voice
        self._call.note(model=voice.model_name, voice=choice.speaker, language=choice.language)
        await self._session.say(
            "audio.start",
            utterance_index=self.index,
            sentence_index=self.sentences,
            **facts,
            request_id=self._call.request_id,
            format=self._plan.format,
            sample_rate=self._runtime.synthesizer.sample_rate_hz,
            channels=1,
            voice=choice.speaker,
            language=choice.language,
            seed=self._plan.request.seed,
            applied=choice.applied,
            not_applied=choice.not_applied,
        )


class SpeechByToken(Utterance):
    """Speaks words as they come, as one stretch of audio."""

    def __init__(self, session: Session, plan: Plan, index: int) -> None:
        self._speech: OpenSpeech = session.runtime.synthesizer.speak_open(plan.request, plan.output)
        super().__init__(session, plan, index)

    def _write(self, text: str) -> None:
        self._speech.append(text)

    def _complete(self) -> None:
        self._speech.finish()

    async def _perform(self) -> None:
        async with aclosing(self._speech):
            await self._take_place()
            await self._send_audio(self._speech)


class SpeechBySentence(Utterance):
    """Speaks every sentence once it is complete, as a stretch of audio of its own."""

    def __init__(self, session: Session, plan: Plan, index: int) -> None:
        self._splitter = SentenceSplitter()
        self._sentences: asyncio.Queue[str | None] = asyncio.Queue()
        super().__init__(session, plan, index)

    def _write(self, text: str) -> None:
        for sentence in self._splitter.feed(text):
            self._sentences.put_nowait(sentence)

    def _complete(self) -> None:
        for sentence in self._splitter.finish():
            self._sentences.put_nowait(sentence)
        self._sentences.put_nowait(None)

    async def _perform(self) -> None:
        request = self._plan.request
        while (sentence := await self._sentences.get()) is not None:
            if self.finish_reason == "length" or not self._has_words(sentence):
                continue
            if request.max_frames < 1:
                self.finish_reason = "length"
                continue
            if not self.sentences:
                await self._take_place()
            speech = self._runtime.synthesizer.speak(
                replace(request, text=sentence), self._plan.output
            )
            await self._send_audio(speech, sentence_text=sentence)
            request = _go_on(request, speech)
        if not self.sentences:
            raise CannotSpeak(
                "text has no letter or digit to speak", param="text", code="no_reading"
            )

    def _has_words(self, sentence: str) -> bool:
        """Whether anything is left to say once pauses, marks and emoji are out."""
        text = "".join(part for part in split_pauses(sentence) if isinstance(part, str))
        is_raw = self._plan.request.normalize == "none"
        return is_speakable(text if is_raw else normalise(text, "light", "english"))


def _go_on(request: SpeechRequest, speech: Speech) -> SpeechRequest:
    """What the next sentence is asked for: the same voice, and the time that is left."""
    used = math.ceil(speech.audio_s / FRAME_S - 1e-6)
    language: Any = speech.choice.language
    return replace(request, language=language, max_frames=request.max_frames - used)
