"""One utterance of a WebSocket session, from its first word to the end of its audio."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from qwen_tts_service.api.call import Call
from qwen_tts_service.api.runtime import Runtime
from qwen_tts_service.api.times import TimeEvents
from qwen_tts_service.errors import ClientLeft, InvalidRequest, TimedOut, TTSError
from qwen_tts_service.speech.synthesizer import Speech
from qwen_tts_service.speech.writing import open_speech
from qwen_tts_service.telemetry import metrics
from qwen_tts_service.types import FinishReason

from .connection import PATH, Connection, SessionPlan

PIECE_CHARS, PIECE_REST_S = 400, 0.001
"""Longer text is read piece by piece; a request of another client takes several turns of the loop,
so one turn between the pieces would be too few."""
WATCH_EVERY_S = 0.1
"""How often it is looked at whether an utterance waits for text."""


class WebSocketUtterance:
    """Speaks one text on a task of its own; in the log and the metrics it is a call.

    `_half` holds half a character that a client has cut in two, until the other half comes.
    """

    def __init__(
        self,
        connection: Connection,
        runtime: Runtime,
        plan: SessionPlan,
        index: int,
        session_id: str,
    ) -> None:
        self._connection = connection
        self._runtime = runtime
        self._plan = plan
        self.index = index
        self.sentences = 0
        self.audio_s = 0.0
        self.finish_reason: FinishReason = "stop"
        self._chars = 0
        self._half = ""
        self._stopped: tuple[str, FinishReason] | None = None
        self._is_closed = False
        self._speech = open_speech(
            runtime.synthesizer, plan.request, plan.output, by_token=plan.is_by_token
        )
        self._call = Call(f"{session_id}.{index}", route=PATH, status=101)
        runtime.keeper.hold(self._call.at_end)
        self._call.note(format=plan.output.format, seed=plan.request.seed)
        self._limit = asyncio.timeout(None)
        self._free_slot: Callable[[], None] = lambda: None
        self._waited_s = 0.0
        self._task = asyncio.create_task(self._run())

    # The writer's side -----------------------------------------------------------------

    async def feed(self, text: str) -> None:
        """Add text; what comes after the speech has ended or failed is ignored."""
        await self._unless_refused(lambda: self._count(text))
        for start in range(0, len(text), PIECE_CHARS):
            if start:
                await asyncio.sleep(PIECE_REST_S)
            await self._unless_refused(partial(self._feed, text[start : start + PIECE_CHARS]))

    async def finish(self) -> None:
        """Say that the text is complete."""
        await self._unless_refused(self._speech.finish)

    async def _unless_refused(self, write: Callable[[], None]) -> None:
        """End the speech of a text that is refused or cannot be read; the client gets the error."""
        if self._task.done():
            return
        try:
            write()
        except Exception as error:  # noqa: BLE001 - the writer's top
            reason = self._call.fail(error)
            await self.stop(reason.code, "error")
            await self._connection.send_error(reason, utterance_index=self.index)

    def _count(self, text: str) -> None:
        self._chars += len(text)
        most = self._runtime.settings.max_text_chars
        if self._chars > most:
            raise InvalidRequest(
                f"text has {self._chars} characters; at most {most} are allowed "
                "(MAX_TEXT_CHARS); end the utterance with input.done",
                param="text",
            )

    def _feed(self, text: str) -> None:
        self._speech.feed(self._whole_characters(text))

    def _whole_characters(self, text: str) -> str:
        """Join surrogates, which clients send apart when they cut text by UTF-16 units."""
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

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
        self._close()  # a task that never started has not done it

    # The speaker's side ----------------------------------------------------------------

    async def _run(self) -> None:
        try:
            async with self._limit:
                await self._speak()
        except Exception as error:  # noqa: BLE001 - the utterance's top
            await self._fail(self._call.fail(self._too_long() if self._limit.expired() else error))
        finally:
            self._close()

    async def _speak(self) -> None:
        async with aclosing(self._speech.speeches(self._take_slot)) as speeches:
            async for speech in speeches:
                async with aclosing(speech):
                    await self._send_speech(speech)
        if self._speech.is_cut:
            self.finish_reason = "length"

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

    async def _fail(self, error: TTSError) -> None:
        self._free_slot()  # before the client, who may not read, is told
        self.finish_reason = "cancelled" if isinstance(error, ClientLeft) else "error"
        if not isinstance(error, ClientLeft):
            try:
                await self._connection.send_error(error, utterance_index=self.index)
            except ClientLeft:
                self._call.outcome = ClientLeft.code

    async def _take_slot(self) -> None:
        """Wait for a slot, which is held to the utterance's end; raises Busy."""
        slot = self._runtime.admission.enter()
        self._free_slot = slot.release
        self._call.at_end(slot.release)
        try:
            async with asyncio.timeout(self._runtime.settings.request_timeout_s):
                await slot.granted()
        except TimeoutError:
            raise TimedOut("no slot became free within REQUEST_TIMEOUT_S") from None
        loop = asyncio.get_running_loop()
        self._limit.reschedule(loop.time() + self._runtime.settings.utterance_timeout_s)
        loop.call_later(WATCH_EVERY_S, self._watch)

    def _watch(self) -> None:
        """Count the time that it keeps its slot from others without speaking, and end it then."""
        if self._is_closed or self._call.outcome is not None:
            return
        loop = asyncio.get_running_loop()
        if self._speech.waits_for_text and self._runtime.admission.is_contended:
            self._waited_s += WATCH_EVERY_S
        if self._is_waiting_too_long:
            self._limit.reschedule(loop.time())
        else:
            loop.call_later(WATCH_EVERY_S, self._watch)

    @property
    def _is_waiting_too_long(self) -> bool:
        return self._waited_s >= self._runtime.settings.text_wait_s

    def _too_long(self) -> TimedOut:
        if self._is_waiting_too_long:
            return TimedOut(
                "the utterance waited for text longer than TEXT_WAIT_S while other requests waited"
            )
        return TimedOut("the utterance took longer than UTTERANCE_TIMEOUT_S")

    async def _send_speech(self, speech: Speech) -> None:
        """Send one stretch of audio between its start and its done."""
        sent_bytes = 0
        before_s = self.audio_s
        times = TimeEvents(speech, after_s=before_s)
        frames = self._plan.frames
        async for data in speech if frames is None else frames.cut(speech):
            if not sent_bytes:
                await self._send_start(speech)
            await self._send_times(times)
            sent_bytes += len(data)
            await self._connection.send_audio(data)
            self._call.first_audio(self._plan.output.format)
            self.audio_s = before_s + speech.audio_s
        speech.check_ending()
        await self._send_times(times)
        self.finish_reason = speech.finish_reason or "stop"
        await self._connection.send(
            "audio.done",
            utterance_index=self.index,
            sentence_index=self.sentences,
            finish_reason=self.finish_reason,
            audio_seconds=round(speech.audio_s, 3),
            total_bytes=sent_bytes,
            error=False,
        )
        self.sentences += 1

    async def _send_times(self, times: TimeEvents) -> None:
        for kind, fields in times.take():
            await self._connection.send(
                f"audio.{kind}", utterance_index=self.index, sentence_index=self.sentences, **fields
            )

    async def _send_start(self, speech: Speech) -> None:
        info = speech.info
        choice = info.choice
        synthesizer = self._runtime.synthesizer
        self._call.note(
            model=synthesizer.voice.model_name, voice=choice.speaker, language=choice.language
        )
        await self._connection.send(
            "audio.start",
            utterance_index=self.index,
            sentence_index=self.sentences,
            **({} if speech.text is None else {"sentence_text": speech.text}),
            request_id=self._call.request_id,
            format=self._plan.output.format,
            sample_rate=speech.sample_rate_hz,
            channels=1,
            voice=choice.speaker,
            language=choice.language,
            seed=self._plan.request.seed,
            applied=choice.applied,
            not_applied=choice.not_applied,
            **({} if info.warning is None else {"warning": info.warning}),
        )
