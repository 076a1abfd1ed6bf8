"""Metrics of the engine, of memory and load, dead workers, and the form of log lines."""

import logging
import math
import re
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from prometheus_client import REGISTRY, Gauge, Histogram
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from qwen_tts_service.telemetry import logs, metrics, resources, shared
from qwen_tts_service.telemetry.engine import EngineMetrics

DEAD_PID = 2**31 - 2


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@dataclass
class Snapshot:
    failures: int = 0
    rows: int = 0
    step_s: float = 0.0
    paused: int = 0


def test_a_step_that_made_frames_is_counted_with_its_rows_and_time() -> None:
    names = ("tts_engine_step_seconds", "tts_engine_frames_per_step")
    before = [(value(f"{n}_count"), value(f"{n}_sum")) for n in names]
    engine = EngineMetrics()
    engine.observe(Snapshot(rows=3, step_s=0.25))
    engine.observe(Snapshot(rows=0, step_s=9.0))
    after = [(value(f"{n}_count"), value(f"{n}_sum")) for n in names]
    assert [a[0] - b[0] for a, b in zip(after, before, strict=True)] == [1, 1]
    assert [a[1] - b[1] for a, b in zip(after, before, strict=True)] == pytest.approx([0.25, 3])


def test_failures_are_added_up_from_a_running_count() -> None:
    before = value("tts_engine_failed_steps_total")
    engine = EngineMetrics()
    for failures in (0, 2, 2, 3):
        engine.observe(Snapshot(failures=failures))
    assert value("tts_engine_failed_steps_total") == before + 3


def test_paused_rows_are_shown_as_they_are_now() -> None:
    engine = EngineMetrics()
    for paused in (2, 2, 5, 0):
        engine.observe(Snapshot(paused=paused))
        assert value("tts_engine_paused_rows") == paused


@pytest.fixture
def resource_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(
        memory_info=lambda: SimpleNamespace(rss=12345), cpu_percent=lambda: 250.0
    )
    monkeypatch.setattr(resources.psutil, "Process", lambda: process)


@pytest.mark.usefixtures("resource_metrics")
def test_memory_and_load_are_sampled_until_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[float] = []
    monkeypatch.setattr(resources, "_gpu_sampler", lambda: lambda: rounds.append(0))
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            return len(waits) == 3

    resources._sample_until(Stop())
    assert waits == [5.0] * 3
    assert len(rounds) == 3
    assert value("tts_memory_bytes") == 12345
    assert value("tts_cpu_utilisation_ratio") == 2.5


@pytest.mark.usefixtures("resource_metrics")
def test_sampling_has_a_daemon_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    sampled = threading.Event()

    def sample() -> None:
        threads.append(threading.current_thread())
        sampled.set()

    monkeypatch.setattr(resources, "_gpu_sampler", lambda: sample)
    stop = threading.Event()
    resources.start_sampling(stop)
    assert sampled.wait(10)
    stop.set()
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert threads[0].daemon
    assert threads[0].name == "resources"


def test_each_gpu_is_sampled_and_one_that_cannot_be_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(pynvml.NVMLError):
        def __new__(cls) -> Any:
            return Exception.__new__(cls)

        def __str__(self) -> str:
            return "broken"

    def memory(handle: int) -> Any:
        if handle == 101:
            raise Broken
        return SimpleNamespace(used=1000 + handle)

    begun: list[int] = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: begun.append(1))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda i: 100 + i)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetUtilizationRates", lambda h: SimpleNamespace(gpu=h - 75)
    )
    resources._gpu_sampler()()
    assert begun == [1]
    assert value("tts_gpu_memory_bytes", gpu="0") == 1100
    assert value("tts_gpu_memory_bytes", gpu="2") == 1102
    assert value("tts_gpu_utilisation_ratio", gpu="0") == 0.25
    assert value("tts_gpu_utilisation_ratio", gpu="2") == 0.27
    assert REGISTRY.get_sample_value("tts_gpu_memory_bytes", {"gpu": "1"}) is None


def test_without_a_gpu_nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    resources._gpu_sampler()()


def test_a_new_worker_goes_on_with_the_counters_of_a_dead_one_and_not_with_its_gauges(
    tmp_path: Path,
) -> None:
    shared.allocate(tmp_path, 1)
    names = [tmp_path / f"{kind}_1.db" for kind in ("counter", "gauge_livesum")]
    key = mmap_key("a_metric", "a_metric", [], [], "One.")
    for name in names:
        with closing(MmapedDict(str(name))) as file:
            file.write_value(key, 3.0, 0.0)
    shared.clear_gauges(tmp_path, 1)
    values = [[value for _, value, _, _ in MmapedDict.read_all_values_from_file(n)] for n in names]
    assert values == [[3.0], []]


def test_the_page_of_one_process_shows_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    before = value("tts_cancellations_total", reason="a test")
    metrics.CANCELLATIONS.labels("a test").inc(3)
    line = f'tts_cancellations_total{{reason="a test"}} {before + 3}'
    assert line in metrics.render().decode().splitlines()


def test_the_page_of_several_workers_shows_their_sum(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    key = mmap_key("tts_slots", "tts_slots", [], [], "Requests that can speak at once.")
    for worker, slots in ((1, 3.0), (2, 4.0)):
        with closing(MmapedDict(str(tmp_path / f"gauge_livesum_{worker}.db"))) as file:
            file.write_value(key, slots, 0.0)
    page = metrics.render().decode()
    assert "tts_slots 7.0" in page.splitlines()
    assert "tts_cancellations" not in page  # this process shares nothing


@pytest.mark.parametrize(
    ("histogram", "bounds"),
    [
        (metrics.ENGINE_ROWS, [2.0**power for power in range(8)]),
        (metrics.ENGINE_STEP_S, [*(2**power / 1000 for power in range(10)), 1, 2, 4]),
    ],
    ids=["rows", "seconds"],
)
def test_an_engine_step_has_buckets_that_double(histogram: Histogram, bounds: list[float]) -> None:
    assert histogram._upper_bounds == [*bounds, math.inf]


def test_only_what_one_device_has_once_is_not_added_up_over_workers() -> None:
    gauges = {name: gauge for name, gauge in vars(metrics).items() if isinstance(gauge, Gauge)}
    added = {name for name, gauge in gauges.items() if gauge._multiprocess_mode == "livesum"}
    assert gauges.keys() - added == {"GPU_MEMORY_BYTES", "GPU_RATIO"}
    assert {gauges[name]._multiprocess_mode for name in gauges.keys() - added} == {"livemax"}


@pytest.fixture
def logger() -> Any:
    logger = logging.getLogger("qwen_tts_service")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logger.handlers.clear()
    yield logger
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_our_lines_go_to_standard_error_once_and_from_their_level_on(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("warning")
    logs.configure("info")
    logging.getLogger("qwen_tts_service.api.call").info("said %d", 7)
    logger.debug("too much")
    logging.getLogger("another").info("not ours")
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO qwen_tts_service\.api\.call: said 7", line
    )
    assert not logger.propagate
