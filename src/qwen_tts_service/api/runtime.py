"""State shared by all routes of one worker: settings, synthesizer, admission, loading progress.

Made empty when service.py is imported and filled when the service class is made, so that
importing needs neither a model nor a device.
"""

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qwen_tts_service import __version__
from qwen_tts_service.errors import NotReady
from qwen_tts_service.settings import EMBEDDED_VOICE, Settings, metrics_directory
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.telemetry import logs, metrics, resources
from qwen_tts_service.types import ReportProgress

from .admission import Admission

logger = logging.getLogger(__name__)

Build = Callable[[Settings, ReportProgress], Synthesizer]
"""Loads the voice; called once, on a thread."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How far the service has come in starting."""

    status: Literal["starting", "ready", "failed", "stopping"]
    step: str = ""
    progress: float = 0.0


class Runtime:
    """The state of one worker."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._synthesizer: Synthesizer | None = None
        self._admission: Admission | None = None
        self._stop = threading.Event()
        self._stage = Stage("starting", "settings")

    @property
    def stage(self) -> Stage:
        """How far the service is; a voice that fell ill has failed for good."""
        ready = self._synthesizer if self._stage.status == "ready" else None
        if ready is not None and not ready.voice.is_healthy:
            return Stage("failed", "the voice has failed; restart the service")
        return self._stage

    @property
    def settings(self) -> Settings:
        assert self._settings is not None, "open() comes first"
        return self._settings

    @property
    def synthesizer(self) -> Synthesizer:
        """The synthesizer; raises NotReady until a first utterance has been spoken."""
        if self._synthesizer is None or self.stage.status != "ready":
            raise NotReady(f"the service is {self.stage.status}: {self.stage.step}")
        return self._synthesizer

    @property
    def admission(self) -> Admission:
        assert self._admission is not None, "open() comes first"
        return self._admission

    def open(self, settings: Settings, build: Build, on_failure: Callable[[], None]) -> None:
        """Start loading the voice on a thread; `on_failure` is called if that fails."""
        logs.configure(settings.log_level)
        self._settings = settings
        self._admission = Admission(
            slots=settings.max_concurrent_requests,
            queue_limit=settings.queue_limit,
            on_change=self._show_load,
        )
        metrics.forget_dead_workers(metrics_directory())
        metrics.SLOTS.set(settings.max_concurrent_requests)
        resources.start_sampling(self._stop)
        threading.Thread(target=self._load, args=(build, on_failure), daemon=True).start()

    def _show_load(self) -> None:
        metrics.ACTIVE.set(self.admission.active)
        metrics.QUEUED.set(self.admission.queued)

    def _load(self, build: Build, on_failure: Callable[[], None]) -> None:
        try:
            synthesizer = build(self.settings, self._report)
            self._report("warm-up", 0.0)
            synthesizer.warm_up()
        except Exception:
            logger.exception("the voice could not be loaded")
            self._stage = Stage("failed", self._stage.step)
            on_failure()
            return
        # What has been loaded stays, and a full collection of it would stop all threads for 0.1 s.
        # Without it, collections also come sooner: requests leave little that waits for one.
        gc.collect()
        gc.freeze()
        self._synthesizer = synthesizer
        self._stage = Stage("ready", progress=1.0)
        metrics.READY.set(1)
        self._log_ready(synthesizer)

    def _report(self, step: str, progress: float) -> None:
        if step != self._stage.step:
            logger.info("starting: %s", step)
        self._stage = Stage("starting", step, progress)

    def _log_ready(self, synthesizer: Synthesizer) -> None:
        settings = self.settings
        logger.info(
            "ready: version=%s model=%s device=%s sampling_rate=%d slots=%d queue=%d key=%s",
            __version__,
            synthesizer.voice.model_name,
            synthesizer.voice.device,
            settings.sampling_rate,
            settings.max_concurrent_requests,
            settings.queue_limit,
            "set" if settings.api_key.get_secret_value() else "none: open to everyone",
        )
        if settings.model_name == EMBEDDED_VOICE:
            logger.info("MODEL_NAME=%s: using the embedded voice", EMBEDDED_VOICE)

    def close(self) -> None:
        """Stop for good; the server has let running requests finish by now."""
        self._stop.set()
        self._stage = Stage("stopping", "shutdown")
        metrics.READY.set(0)
        if self._synthesizer is not None:
            self._synthesizer.close()
