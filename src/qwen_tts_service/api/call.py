"""Record of one HTTP request or WebSocket utterance: id, times, outcome, resources to free.

`Front` makes a `Call` for every request and ends it whatever happens, so log line, metrics and
clean-up are written in one file.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import Any, cast

from qwen_tts_service.errors import SynthesisFailed, TimedOut, TTSError
from qwen_tts_service.telemetry import metrics

logger = logging.getLogger(__name__)

SCOPE_KEY = "qwen_tts.call"


class Call:
    """One request, from accepted to answered."""

    def __init__(
        self, request_id: str, *, route: str | None = None, status: int | None = None
    ) -> None:
        self.request_id = request_id
        self.accepted_s = monotonic()
        self.route = route
        self.status = status
        self.outcome: str | None = None
        self.facts: dict[str, object] = {}
        self._first_audio_s: float | None = None
        self._at_end = ExitStack()

    @staticmethod
    def of(scope: Any) -> "Call":
        """The call that `Front` made for this ASGI scope."""
        return cast("Call", scope[SCOPE_KEY])

    def at_end(self, free: Callable[[], object]) -> None:
        """Run `free` when the request has ended, with or without an error."""
        self._at_end.callback(free)

    def note(self, **facts: object) -> None:
        """Add facts to the log line; never the user's text."""
        self.facts.update(facts)

    def first_audio(self, format: str) -> None:
        """Record that the first audio bytes go to the socket now; later calls change nothing."""
        if self._first_audio_s is None and self.route is not None:
            self._first_audio_s = monotonic() - self.accepted_s
            metrics.FIRST_AUDIO_S.labels(self.route, format).observe(self._first_audio_s)
            self.note(first_audio_ms=round(self._first_audio_s * 1000))

    def spoke(self, audio_s: float) -> None:
        """Record seconds of audio that were sent."""
        if self.route is None or audio_s <= 0:
            return
        factor = (monotonic() - self.accepted_s) / audio_s
        metrics.AUDIO_S.labels(self.route).inc(audio_s)
        metrics.REAL_TIME_FACTOR.labels(self.route).observe(factor)
        self.note(audio_s=round(audio_s, 3), real_time_factor=round(factor, 3))

    def fail(self, error: Exception) -> TTSError:
        """Record a failure; an error that was not foreseen becomes SynthesisFailed, and is logged.

        The traceback goes to the log, a plain word to the client.
        """
        if isinstance(error, TimeoutError):
            error = TimedOut("the speech took longer than REQUEST_TIMEOUT_S; send less text")
        elif not isinstance(error, TTSError):
            logger.error("id=%s failed while speaking", self.request_id, exc_info=error)
            error = SynthesisFailed("the speech failed; the log has the details")
        self.outcome = error.code
        return error

    def end(self) -> None:
        """Free everything, count the request and write its line."""
        self._at_end.close()
        if self.route is None:
            return
        outcome = self.outcome or ("ok" if self.status and self.status < 400 else "internal_error")
        total_s = monotonic() - self.accepted_s
        metrics.REQUESTS.labels(self.route, outcome).inc()
        metrics.REQUEST_S.labels(self.route).observe(total_s)
        if outcome == "cancelled":
            metrics.CANCELLATIONS.labels("client_left").inc()
        self.note(total_ms=round(total_s * 1000), status=self.status, outcome=outcome)
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        logger.info("%s id=%s %s", self.route, self.request_id, facts)
