"""State shared by all routes of one worker: settings, the voice, admission.

Made empty when service.py is imported and filled when the service class is made, so that
importing needs neither a model nor a device.
"""

import gc
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from qwen_tts_service import __version__
from qwen_tts_service.errors import NotReady
from qwen_tts_service.settings import EMBEDDED_VOICE, Settings
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.telemetry import logs, metrics, resources
from qwen_tts_service.types import ReportProgress, Voice
from qwen_tts_service.voice.library import VoiceLibrary

from .admission import Admission, RateLimit
from .keeper import Stage, VoiceKeeper
from .keys import Keys

logger = logging.getLogger(__name__)

Build = Callable[[Settings, ReportProgress], Synthesizer]
"""Loads the voice; called on a thread."""


class Runtime:
    """The state of one worker."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._keeper: VoiceKeeper | None = None
        self._admission: Admission | None = None
        self._keys: Keys | None = None
        self._library: VoiceLibrary | None = None
        self._uploads: RateLimit | None = None
        self._stop = threading.Event()
        self._facts: dict[str, object] = {}

    @property
    def stage(self) -> Stage:
        """How far the service has started."""
        return Stage("starting", "settings") if self._keeper is None else self._keeper.stage

    @property
    def settings(self) -> Settings:
        assert self._settings is not None, "open() comes first"
        return self._settings

    @property
    def synthesizer(self) -> Synthesizer:
        """The synthesizer; raises NotReady while the voice is not loaded."""
        return self.keeper.synthesizer

    @property
    def keeper(self) -> VoiceKeeper:
        """What loads and unloads the voice, and keeps it while a request needs it."""
        assert self._keeper is not None, "open() comes first"
        return self._keeper

    @property
    def facts(self) -> dict[str, object]:
        """What /health reports of the voice; if it is unloaded, what was true before."""
        with suppress(NotReady):
            self._facts = _facts_of(self.synthesizer.voice)
        return self._facts

    @property
    def admission(self) -> Admission:
        assert self._admission is not None, "open() comes first"
        return self._admission

    @property
    def keys(self) -> Keys:
        """The API keys, as settings and file are."""
        assert self._keys is not None, "open() comes first"
        return self._keys

    @property
    def library(self) -> VoiceLibrary:
        """The kept voices, as the files are."""
        assert self._library is not None, "open() comes first"
        return self._library

    @property
    def uploads(self) -> RateLimit:
        """How many voices may still be kept in this minute."""
        assert self._uploads is not None, "open() comes first"
        return self._uploads

    def open(
        self,
        settings: Settings,
        build: Build,
        on_failure: Callable[[], None],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Start loading the voice on a thread; `on_failure` is called if that fails.

        release: gives memory back that an unloaded voice has freed
        """
        logs.configure(settings.log_level)
        self._settings = settings
        self._keys = Keys(settings)
        self._admission = Admission(
            slots=settings.max_concurrent_requests,
            queue_limit=settings.queue_limit,
            on_change=self._show_load,
        )
        self._library = VoiceLibrary(settings.voices_path, most=settings.max_voices)
        self._uploads = RateLimit(settings.voices_per_minute)
        metrics.SLOTS.set(settings.max_concurrent_requests)
        resources.start_sampling(self._stop)

        def load(report: ReportProgress) -> Synthesizer:
            synthesizer = build(settings, report)
            report("warm-up", 0.0)
            synthesizer.warm_up()
            # What has been loaded stays until it is unloaded, and a full collection of it would
            # stop all threads for 0.1 s. Without it, collections also come sooner: requests leave
            # little that waits for one.
            gc.collect()
            gc.freeze()
            return synthesizer

        self._keeper = VoiceKeeper(
            load, keep_alive_s=settings.keep_alive_s, release=release, on_ready=self._note_ready
        )
        self._keeper.start(on_failure)

    def _show_load(self) -> None:
        metrics.ACTIVE.set(self.admission.active)
        metrics.QUEUED.set(self.admission.queued)

    def _note_ready(self, synthesizer: Synthesizer) -> None:
        voice = synthesizer.voice
        self._facts = _facts_of(voice)
        self.admission.slots = slots = voice.slots or self.settings.max_concurrent_requests
        if self.settings.max_queue is None:
            self.admission.queue_limit = 2 * slots
        metrics.SLOTS.set(slots)
        self._log_ready(synthesizer)

    def _log_ready(self, synthesizer: Synthesizer) -> None:
        settings = self.settings
        logger.info(
            "ready: version=%s model=%s device=%s sampling_rate=%d slots=%d queue=%d key=%s",
            __version__,
            synthesizer.voice.model_name,
            synthesizer.voice.device,
            settings.sampling_rate,
            self.admission.slots,
            self.admission.queue_limit,
            "none: open to everyone" if self.keys.is_open else "set",
        )
        for name, fact in synthesizer.voice.facts.items():
            logger.info("%s: %s", name, fact)
        if settings.voice_cloning:
            logger.info("VOICE_CLONING=1: voices are kept in %s", settings.voices_path)
        if settings.model_name == EMBEDDED_VOICE:
            logger.info("MODEL_NAME=%s: using the embedded voice", EMBEDDED_VOICE)

    def close(self) -> None:
        """Stop for good; the server has let running requests finish by now."""
        self._stop.set()
        if self._keeper is not None:
            self._keeper.close()


def _facts_of(voice: Voice) -> dict[str, object]:
    return {"device": voice.device, **voice.facts, "speakers": list(voice.speakers)}
