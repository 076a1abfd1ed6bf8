"""Load the voice on a thread, unload it when it is idle, load it again for the next request.

One thread does all of it, one step after the other, so that requests which come together load the
voice once, and memory is given back before it is taken again.
"""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from qwen_tts_service.errors import NotReady, StartupError, TTSError
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.telemetry import metrics
from qwen_tts_service.types import ReportProgress

logger = logging.getLogger(__name__)

LOAD_WAIT_S = 50.0
"""How long a request waits for a voice to be loaded again; proxies often give up after 60 s."""

LOAD_STALL_S = 600.0
"""How long loading and warm-up may go on without any progress; a download reports each piece, a
load each tensor. What is stuck then cannot be stopped, so the process has to end."""

AtEnd = Callable[[Callable[[], object]], object]
"""Takes what is to be called once a request has ended."""


@dataclass(frozen=True, slots=True)
class Stage:
    """State of the voice; `unloaded` and `loading` come after it has been ready."""

    status: Literal["starting", "ready", "unloaded", "loading", "failed", "stopping"]
    step: str = ""
    progress: float = 0.0

    @property
    def takes_requests(self) -> bool:
        """Whether requests are accepted, though they may have to wait for the voice to load."""
        return self.status in ("ready", "unloaded", "loading")


class VoiceKeeper:
    """Loads the voice when `start` is called, and with keep_alive_s unloads it after so long.

    load:     returns a synthesizer that has spoken; called on the keeper's thread
    release:  gives memory back that an unloaded voice has freed
    on_ready: called after every load, on the keeper's thread
    """

    def __init__(
        self,
        load: Callable[[ReportProgress], Synthesizer],
        *,
        keep_alive_s: float | None = None,
        release: Callable[[], None] = lambda: None,
        on_ready: Callable[[Synthesizer], None] = lambda _synthesizer: None,
    ) -> None:
        self._load = load
        self._release = release
        self._on_ready = on_ready
        self._keep_alive_s = keep_alive_s
        self._changed = threading.Condition()
        self._stage = Stage("starting", "settings")
        self._synthesizer: Synthesizer | None = None
        self._users = 0
        self._idle_since_s = monotonic()
        self._is_wanted = False
        self._coming: Future[None] = Future()

    def start(self, on_failure: Callable[[], None]) -> None:
        """Load the voice on a thread; `on_failure` is called if the first load fails.

        And if any makes no progress for LOAD_STALL_S.
        """
        watch = threading.Thread(target=self._watch, args=(on_failure,), name="voice-watch")
        watch.daemon = True
        watch.start()
        threading.Thread(target=self._run, args=(on_failure,), name="voice", daemon=True).start()

    @property
    def stage(self) -> Stage:
        """The current stage; a voice that is not healthy counts as failed."""
        ready = self._synthesizer
        if ready is not None and self._stage.status == "ready" and not ready.voice.is_healthy:
            return Stage("failed", "the voice has failed; restart the service")
        return self._stage

    @property
    def synthesizer(self) -> Synthesizer:
        """The synthesizer; raises NotReady while the voice is not loaded."""
        synthesizer, stage = self._synthesizer, self.stage
        if synthesizer is None or stage.status != "ready":
            raise NotReady(f"the service is {stage.status}: {stage.step}")
        return synthesizer

    def check_ready(self) -> None:
        """Raise NotReady if a new request would not be spoken."""
        if not self.stage.takes_requests:
            raise NotReady(f"the service is {self.stage.status}: {self.stage.step}")

    def hold(self, at_end: AtEnd) -> None:
        """Keep the voice loaded until the request has ended."""
        with self._changed:
            self._users += 1
        at_end(self._let_go)

    def _let_go(self) -> None:
        with self._changed:
            self._users -= 1
            self._idle_since_s = monotonic()
            self._changed.notify_all()

    async def wake(self, at_end: AtEnd) -> Synthesizer:
        """Keep the voice loaded until the request has ended; load it first if it is unloaded.

        Raises NotReady after LOAD_WAIT_S, or if it could not be loaded.
        """
        self.check_ready()
        self.hold(at_end)
        with self._changed:
            if self._synthesizer is not None:
                return self.synthesizer
            self._is_wanted = True
            self._changed.notify_all()
            coming = self._coming
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                await asyncio.shield(asyncio.wrap_future(coming))
        except TimeoutError:
            raise NotReady(f"the voice was not loaded within {LOAD_WAIT_S:.0f} s") from None
        return self.synthesizer

    def close(self) -> None:
        """Stop for good; a load that is under way ends by itself."""
        with self._changed:
            self._stage = Stage("stopping", "shutdown")
            synthesizer = self._synthesizer
            self._changed.notify_all()
        metrics.READY.set(0)
        metrics.LOADED.set(0)
        if synthesizer is not None:
            synthesizer.close()

    def _watch(self, on_failure: Callable[[], None]) -> None:
        """The watch's thread: end the process over a load that makes no progress."""
        with self._changed:
            while not self._stands_still(stage := self._stage):
                is_over = self._stage.status == "ready" and self._keep_alive_s is None
                if is_over or self._stage.status in ("failed", "stopping"):
                    return
            self._stage = Stage("failed", stage.step)
        said = "the voice could not be loaded: no progress for %g s at %s"
        logger.error(said, LOAD_STALL_S, stage.step)
        on_failure()

    def _stands_still(self, stage: Stage) -> bool:
        """Wait for another stage; True for one of a load that has stayed for LOAD_STALL_S."""
        is_loading = stage.status in ("starting", "loading")
        limit_s = LOAD_STALL_S if is_loading else None
        return not self._changed.wait_for(lambda: self._stage is not stage, limit_s)

    # The keeper's thread -----------------------------------------------------------------

    def _run(self, on_failure: Callable[[], None]) -> None:
        if not self._load_voice():
            if self._stage.status != "stopping":
                self._set_stage(Stage("failed", self._stage.step))
                on_failure()
            return
        while self._keep_alive_s is not None and self._unload_when_idle(self._keep_alive_s):
            self._give_back()
            logger.info("unloaded: %g s without a request", self._keep_alive_s)
            while self._is_wanted_again() and not self._load_voice():
                self._give_back()
                self._set_stage(Stage("unloaded", "it could not be loaded; the log has the reason"))

    def _give_back(self) -> None:
        gc.unfreeze()  # whoever froze what had been loaded meant it to stay
        gc.collect()  # an engine has references in circles
        self._release()

    def _load_voice(self) -> bool:
        """Load the voice and wake waiting requests; returns whether it is loaded."""
        synthesizer = None
        try:
            synthesizer = self._load(self._report)
        except (StartupError, TTSError, MemoryError) as error:
            said = str(error) or "there is not enough memory"
            logger.error("the voice could not be loaded: %s", said)  # noqa: TRY400 - it says all
            logger.debug("where it failed:", exc_info=True)
        except Exception:
            logger.exception("the voice could not be loaded")
        with self._changed:
            coming, self._coming = self._coming, Future()
            self._is_wanted = False
            self._idle_since_s = monotonic()
            is_late = self._stage.status in ("stopping", "failed")
            if synthesizer is not None and not is_late:
                self._on_ready(synthesizer)
                self._synthesizer = synthesizer
                self._stage = Stage("ready", progress=1.0)
                self._changed.notify_all()
                metrics.READY.set(1)
                metrics.LOADED.set(1)
        if synthesizer is not None and is_late:
            synthesizer.close()
        coming.set_result(None)
        return synthesizer is not None

    def _report(self, step: str, progress: float) -> None:
        status = self._stage.status
        if status != "stopping" and step != self._stage.step:
            logger.info("%s: %s", status, step)
        self._set_stage(Stage(status, step, progress))

    def _set_stage(self, stage: Stage) -> None:
        with self._changed:
            if self._stage.status not in ("stopping", "failed"):
                self._stage = stage
                self._changed.notify_all()

    def _unload_when_idle(self, keep_alive_s: float) -> bool:
        """Wait for so long without a request, then unload; False if the voice stays loaded."""
        with self._changed:
            while self._stage.status == "ready":
                idle_s = monotonic() - self._idle_since_s
                if not self._users and idle_s >= keep_alive_s:
                    break
                self._changed.wait(None if self._users else keep_alive_s - idle_s)
            if self.stage.status != "ready":
                return False
            synthesizer, self._synthesizer = self._synthesizer, None
            self._stage = Stage("unloaded", "the next request loads the voice")
            metrics.LOADED.set(0)
        assert synthesizer is not None
        synthesizer.close()
        return True

    def _is_wanted_again(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_wanted or self._stage.status == "stopping")
            if self._stage.status == "stopping":
                return False
            self._stage = Stage("loading")
            self._changed.notify_all()
            return True
