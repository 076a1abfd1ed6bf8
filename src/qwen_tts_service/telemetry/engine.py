"""Prometheus metrics of the engine, from its statistics after each step."""

from typing import Protocol

from . import metrics


class Snapshot(Protocol):
    """What an engine says of itself after a step; counters run from its start."""

    @property
    def failures(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def step_s(self) -> float: ...
    @property
    def paused(self) -> int: ...


class EngineMetrics:
    """Counts steps; used by one engine, on its thread."""

    def __init__(self) -> None:
        self._failures = 0
        self._paused = 0

    def observe(self, snapshot: Snapshot) -> None:
        """Count one step; quick, and touches only what has changed."""
        if snapshot.rows:
            metrics.ENGINE_STEP_S.observe(snapshot.step_s)
            metrics.ENGINE_ROWS.observe(snapshot.rows)
        if snapshot.paused != self._paused:
            self._paused = snapshot.paused
            metrics.ENGINE_PAUSED.set(snapshot.paused)
        if snapshot.failures > self._failures:
            metrics.ENGINE_FAILURES.inc(snapshot.failures - self._failures)
            self._failures = snapshot.failures
