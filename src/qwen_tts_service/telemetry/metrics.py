"""Prometheus metrics: every metric declared in one place, and the page that shows them.

Label values come from closed sets: routes, formats, outcomes and reasons that the code names,
never anything a client wrote. With several workers the numbers are summed over them through
the directory that the server sets up.
"""

from functools import partial

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6, 1, 2, 4, 8, 16, 32, 64)
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1, 1.5, 2, 4, 8)

_seconds = partial(Histogram, buckets=_SECONDS)
_gauge = partial(Gauge, multiprocess_mode="livesum")  # added up over the workers
_largest = partial(Gauge, multiprocess_mode="livemax")

REQUESTS = Counter(
    "tts_requests", "Requests that ended, by route and how they ended.", ["route", "outcome"]
)
REQUEST_S = _seconds("tts_request_seconds", "From accepted to answered, seconds.", ["route"])
FIRST_AUDIO_S = _seconds(
    "tts_first_audio_seconds",
    "From accepted to the first audio bytes handed to the socket, seconds.",
    ["route", "format"],
)
REAL_TIME_FACTOR = Histogram(
    "tts_real_time_factor",
    "Seconds of work for a second of audio; below 1 is faster than real time.",
    ["route"],
    buckets=_RATIOS,
)
AUDIO_S = Counter("tts_audio_seconds", "Seconds of audio sent.", ["route"])
UNDERRUNS = Counter("tts_underruns", "Parts of a stream sent later than it was played.", ["route"])
CANCELLATIONS = Counter("tts_cancellations", "Speech stopped early, by reason.", ["reason"])
ACTIVE = _gauge("tts_active_requests", "Requests that hold a slot now.")
QUEUED = _gauge("tts_queued_requests", "Requests that wait for a slot now.")
SLOTS = _gauge("tts_slots", "Requests that can speak at once.")
READY = _gauge("tts_ready", "Workers that take requests.")
LOADED = _gauge("tts_loaded", "Workers whose voice is in memory; see KEEP_ALIVE_S.")
ENGINE_STEP_S = Histogram(
    "tts_engine_step_seconds",
    "One step of the engine: a frame for every active row, and their audio, seconds.",
    buckets=(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4),
)
ENGINE_ROWS = Histogram(
    "tts_engine_frames_per_step",
    "Frames that one step made, one for each active row.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
ENGINE_PAUSED = _gauge("tts_engine_paused_rows", "Rows that wait for a slow reader.")
ENGINE_FAILURES = Counter("tts_engine_failed_steps", "Steps of the engine that failed.")
DROPPED_CONNECTIONS = Counter(
    "tts_dropped_connections",
    "Connections closed as headers or body did not come in time, or as there were too many.",
    ["reason"],
)
WORKER_DEATHS = _gauge("tts_worker_deaths", "Workers that died since the server started.")
MEMORY_BYTES = _gauge("tts_memory_bytes", "Resident memory of the workers, bytes.")
CPU_RATIO = _gauge("tts_cpu_utilisation_ratio", "CPU used by the workers; 1 is one core.")
GPU_MEMORY_BYTES = _largest("tts_gpu_memory_bytes", "Memory in use on each GPU, bytes.", ["gpu"])
GPU_RATIO = _largest("tts_gpu_utilisation_ratio", "How busy each GPU is, 0 to 1.", ["gpu"])

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render() -> bytes:
    """The metrics of all workers as Prometheus text."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:  # no directory to share: this process is the only one
        return generate_latest(REGISTRY)
    return generate_latest(registry)
