"""A few bytes of memory that the supervisor and its workers share: who is ready, who died.

A file without a name whose descriptor the workers inherit. It knows nothing of processes.
"""

import os
import struct
import tempfile

_ROW = struct.Struct("<III")


class Roster:
    """A row per worker, numbered from 1: whether it is ready, how many died there, its heartbeats.

    Row 0 has the supervisor's process id.
    """

    def __init__(self, descriptor: int, workers: int) -> None:
        self.descriptor = descriptor
        self._workers = workers

    @classmethod
    def make(cls, workers: int) -> "Roster":
        """A new roster of this process's workers, of whom none is ready."""
        if hasattr(os, "memfd_create"):  # no disk that could be full
            descriptor = os.memfd_create("workers")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.pwrite(descriptor, _ROW.pack(os.getpid(), 0, 0) + bytes(_ROW.size * workers), 0)
        return cls(descriptor, workers)

    @property
    def supervisor(self) -> int:
        """The supervisor's process id."""
        return self._read(0)[0]

    def note_ready(self, worker: int) -> None:
        self._write(worker, True, self.deaths(worker), 0)

    def note_death(self, worker: int) -> None:
        self._write(worker, False, self.deaths(worker) + 1, 0)

    def beat(self, worker: int) -> None:
        """Say that a worker that is ready still works."""
        self._write(worker, True, self.deaths(worker), self.beats(worker) + 1)

    def is_ready(self, worker: int) -> bool:
        return bool(self._read(worker)[0])

    def deaths(self, worker: int) -> int:
        return self._read(worker)[1]

    def beats(self, worker: int) -> int:
        return self._read(worker)[2]

    @property
    def has_ready(self) -> bool:
        """Whether any worker is ready."""
        return any(map(self.is_ready, range(1, self._workers + 1)))

    def _read(self, worker: int) -> tuple[int, ...]:
        return _ROW.unpack(os.pread(self.descriptor, _ROW.size, worker * _ROW.size))

    def _write(self, worker: int, is_ready: bool, deaths: int, beats: int) -> None:
        os.pwrite(self.descriptor, _ROW.pack(is_ready, deaths, beats), worker * _ROW.size)
