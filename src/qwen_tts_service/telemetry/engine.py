"""Prometheus metrics of the engine, from its statistics after each step."""

from qwen_tts_service.types import EngineStatistics

from . import metrics


class EngineMetrics:
    """Counts steps; used by one engine, on its thread."""

    def __init__(self) -> None:
        self._failures = 0
        self._paused = 0

    def observe(self, statistics: EngineStatistics) -> None:
        """Count one step; quick, and touches only what has changed."""
        if statistics.rows:
            metrics.ENGINE_STEP_S.observe(statistics.step_s)
            metrics.ENGINE_ROWS.observe(statistics.rows)
        if statistics.paused != self._paused:
            self._paused = statistics.paused
            metrics.ENGINE_PAUSED.set(statistics.paused)
        if statistics.failures > self._failures:
            metrics.ENGINE_FAILURES.inc(statistics.failures - self._failures)
            self._failures = statistics.failures
