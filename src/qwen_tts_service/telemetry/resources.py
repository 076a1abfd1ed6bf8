"""Sample memory and load of this process and of the GPUs into the metrics."""

import logging
import threading
from collections.abc import Callable

import psutil

from . import metrics

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0


def start_sampling(stop: threading.Event) -> None:
    """Sample every few seconds on a daemon thread until `stop` is set."""
    threading.Thread(target=_sample_until, args=(stop,), name="resources", daemon=True).start()


def _sample_until(stop: threading.Event) -> None:
    process = psutil.Process()
    sample_gpus = _gpu_sampler()
    while True:
        metrics.MEMORY_BYTES.set(process.memory_info().rss)
        metrics.CPU_RATIO.set(process.cpu_percent() / 100)
        sample_gpus()
        if stop.wait(INTERVAL_S):
            return


def _gpu_sampler() -> Callable[[], None]:
    import pynvml  # noqa: PLC0415 - only where metrics are sampled, and slow to find its library

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return lambda: None

    def sample() -> None:
        for index, handle in enumerate(handles):
            try:
                used_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).used
                busy_percent = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            except pynvml.NVMLError as error:
                logger.debug("GPU %d cannot be sampled: %s", index, error)
                continue
            metrics.GPU_MEMORY_BYTES.labels(str(index)).set(used_bytes)
            metrics.GPU_RATIO.labels(str(index)).set(busy_percent / 100)

    return sample
