"""Files through which several workers add up their metrics: one of each kind per worker.

They are made in full before the workers start, and a worker that replaces a dead one goes on with
its files. So a disk that is full later stops nobody: a write into a mapped page that has no block
would end the process by SIGBUS. Other modules declare the metrics.
"""

from pathlib import Path

from prometheus_client import values

FILE_BYTES = 1024 * 1024
"""Of each file; all our series together take a quarter of it."""
_KEPT, _LIVE = ("counter", "histogram"), ("gauge_livesum", "gauge_livemax")


def allocate(directory: Path, worker: int) -> None:
    """Make the files of a worker, with all their blocks. Raises OSError if the disk is full."""
    directory.mkdir(exist_ok=True)
    for kind in (*_KEPT, *_LIVE):
        (directory / f"{kind}_{worker}.db").write_bytes(bytes(FILE_BYTES))


def clear_gauges(directory: Path, worker: int) -> None:
    """Forget what a dead worker held; its counters stay in the sums."""
    for kind in _LIVE:
        with (directory / f"{kind}_{worker}.db").open("r+b") as file:
            file.write(bytes(FILE_BYTES))


def write_as(worker: int) -> None:
    """Have this process write into the files of this worker; before any metric is declared."""
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: worker
    )
