"""The supervisor: starts the workers of a server, replaces those that die, and stops them.

In place of circus, which BentoML uses: docs/adr/0015-our-own-supervisor.md has the reasons.
It knows nothing of requests; the workers own the connections.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from bentoml import serving
from bentoml._internal.utils import circus

from qwen_tts_service.settings import METRICS_DIRECTORY, ROSTER, load_settings
from qwen_tts_service.telemetry import logs, shared

from .roster import Roster
from .scratch import open_scratch

logger = logging.getLogger(__name__)

CANNOT_LIVE = 78
"""The exit code of a worker whose successor would end in the same way: EX_CONFIG of sysexits.h."""
MOST_EARLY_DEATHS = 5
"""So many deaths of one worker in a row, none of which was ever ready, end the server."""
PAUSE_S = 1.0
"""Before a worker that was never ready is replaced."""
MOST_SILENT_S = 60
"""A worker that was ready and has shown no sign of life for so long is killed, and replaced."""
LATE_S = 3.0
"""After GRACE_S, workers that have not ended by themselves are killed."""


class Watcher(Protocol):
    """What BentoML says of the workers: circus's Watcher."""

    args: list[str]
    numprocesses: int
    working_dir: str
    env: dict[str, str]


class Listener(Protocol):
    """A socket to listen on: circus's CircusSocket."""

    name: str

    def bind_and_listen(self) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Supervisor:
    """Runs the workers until it is told to stop; has the methods of BentoML's Arbiter."""

    def __init__(self, watcher: Watcher, listeners: Sequence[Listener], grace_s: float) -> None:
        self.exit_stack = ExitStack()  # BentoML leaves there what is to be closed at the end
        self._watcher = watcher
        self._listeners = listeners
        self._grace_s = grace_s
        self._workers: dict[int, Process] = {}
        self._roster = Roster.make(watcher.numprocesses)
        self._metrics = _share_metrics(watcher)
        self._stopping = asyncio.Event()
        self._code = 0

    def start(self, cb: Callable[[Any], Any] | None = None) -> None:
        """Listen and serve until the end; exits with code 1 if that was a failure.

        cb: called once the server listens
        """
        with self.exit_stack:
            self._listen()
            asyncio.run(self._run(cb))
        if self._code:
            sys.exit(self._code)

    def _listen(self) -> None:
        try:
            for listener in self._listeners:
                listener.bind_and_listen()
        except OSError as error:
            sys.exit(f"error: cannot listen on this address and port: {error.strerror}")

    async def _run(self, cb: Callable[[Any], Any] | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, self._on_signal)
        if cb is not None:
            cb(None)
        await asyncio.gather(*map(self._keep, range(1, self._watcher.numprocesses + 1)))

    async def _keep(self, place: int) -> None:
        """Keep one worker alive until the server stops."""
        early_deaths = 0
        while not self._stopping.is_set():
            code = await self._run_worker(place)
            if self._stopping.is_set():
                return
            early_deaths = 0 if self._roster.is_ready(place) else early_deaths + 1
            self._roster.note_death(place)
            logger.error("worker %d died: %s", place, _describe(code))
            if code == CANNOT_LIVE or early_deaths == MOST_EARLY_DEATHS:
                self._give_up(place, code)
            elif early_deaths:
                await asyncio.sleep(PAUSE_S)

    async def _run_worker(self, place: int) -> int:
        """Run one worker to its end; returns its exit code, or its signal as a negative number."""
        if self._metrics is not None:
            shared.clear_gauges(self._metrics, place)
        descriptors = {listener.name: listener.fileno() for listener in self._listeners}
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            *(_filled_in(argument, place, descriptors) for argument in self._watcher.args),
            cwd=self._watcher.working_dir,
            env={
                **self._watcher.env,
                ROSTER: f"{self._roster.descriptor}:{self._watcher.numprocesses}",
            },
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[*descriptors.values(), self._roster.descriptor],
            start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor alone
        )
        self._workers[place] = worker
        if self._stopping.is_set():  # a signal came while it was being started
            worker.terminate()
        watch = asyncio.create_task(self._watch(place, worker))
        try:
            return await worker.wait()
        finally:
            watch.cancel()

    async def _watch(self, place: int, worker: Process) -> None:
        """Kill a worker whose event loop stands or whose voice has failed.

        Seconds are counted and not looked up: who freezes the server freezes this process too.
        """
        beats = silent_s = 0
        while silent_s < MOST_SILENT_S:
            await asyncio.sleep(1)
            before, beats = beats, self._roster.beats(place)
            is_silent = self._roster.is_ready(place) and beats == before
            silent_s = silent_s + 1 if is_silent and not self._stopping.is_set() else 0
        logger.error(
            "worker %d is killed: its event loop stands, or its voice has failed, for %d s",
            place,
            MOST_SILENT_S,
        )
        worker.kill()

    def _give_up(self, place: int, code: int) -> None:
        if code != CANNOT_LIVE:  # which has said why
            logger.error(
                "worker %d died %d times without ever having been ready: the server ends; the "
                "lines above say why each one died",
                place,
                MOST_EARLY_DEATHS,
            )
        self._code = 1
        self._stop()

    def _on_signal(self) -> None:
        """Let workers finish what runs; a second signal kills them."""
        if self._stopping.is_set():
            self._kill()
        else:
            logger.info("stopping: what runs is finished within %g s", self._grace_s)
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for listener in self._listeners:  # open in any process, it would take connections
            listener.close()
        self._send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(self._grace_s + LATE_S, self._kill)

    def _kill(self) -> None:
        logger.warning("workers that still run are killed")
        self._code = 1
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.send_signal(number)

    def stop(self) -> None:
        """Part of BentoML's Arbiter; this one has ended by itself when `start` returns."""


def _filled_in(argument: str, place: int, descriptors: dict[str, int]) -> str:
    """An argument of circus's command line with its variables replaced."""
    for name, descriptor in descriptors.items():
        argument = argument.replace(f"$(circus.sockets.{name})", str(descriptor))
    return argument.replace("$(CIRCUS.WID)", str(place))


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"


def _share_metrics(watcher: Watcher) -> Path | None:
    """The directory through which workers add up their metrics; None for a single one."""
    directory = watcher.env.pop(METRICS_DIRECTORY)
    if watcher.numprocesses == 1:
        return None
    watcher.env[METRICS_DIRECTORY] = directory
    for place in range(1, watcher.numprocesses + 1):
        shared.allocate(Path(directory), place)
    return Path(directory)


def _open_scratch() -> str:
    """In place of BentoML's `ensure_prometheus_dir`, which all servers of a user share."""
    scratch = open_scratch()
    tempfile.tempdir = str(scratch)  # for BentoML's sockets
    metrics = scratch / "metrics"
    metrics.mkdir()
    return str(metrics)


_make_arbiter = circus.create_standalone_arbiter


def _make_supervisor(
    watchers: list[Any], *, threaded: bool = False, sockets: Sequence[Any] = (), **options: Any
) -> Any:
    """In place of BentoML's `create_standalone_arbiter`, unless it has to reload changed files."""
    if threaded or options.get("plugins") or len(watchers) != 1:
        return _make_arbiter(watchers, threaded=threaded, sockets=sockets, **options)
    settings = load_settings()
    logs.configure(settings.log_level)
    (watcher,) = watchers
    watcher.env["TMPDIR"] = tempfile.gettempdir()
    cache = Path(tempfile.gettempdir()).with_name(f"torchinductor_{os.getuid()}")
    watcher.env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))  # outlives the server
    try:
        return Supervisor(watcher, sockets, settings.grace_s)
    except OSError as error:
        sys.exit(f"error: the metrics of the workers find no room: {error}")


def replace_bentomls_supervisor() -> None:
    """Replace what BentoML calls to supervise workers; before `bentoml serve` looks for it."""
    serving.ensure_prometheus_dir = _open_scratch  # type: ignore[assignment]
    circus.create_standalone_arbiter = _make_supervisor


def die_with(supervisor: int) -> None:
    """Have Linux kill this worker when its supervisor ends, however that ends."""
    if sys.platform != "linux":
        return
    set_death_signal = 1  # PR_SET_PDEATHSIG of sys/prctl.h
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != supervisor:  # it ended before
        os._exit(1)
