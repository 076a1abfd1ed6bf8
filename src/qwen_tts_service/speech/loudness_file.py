"""The file that keeps how loud speakers were when they were measured, shared by all workers."""

import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

NAME = "loudness.json"
MOST_KEPT = 1000
"""Speakers; recordings that are sent with requests count. The oldest are forgotten."""


class LoudnessFile:
    """Loudness in LUFS by key, in the first of some folders that can be written.

    It never fails: where no folder can be written, values are lost with the process, and a line
    in the log says so.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._lock = threading.Lock()

    def get(self, key: str) -> float | None:
        """The value that is kept; None for none."""
        return next((v for f in self._folders if (v := _read(f / NAME).get(key)) is not None), None)

    def put(self, key: str, lufs: float) -> None:
        """Keep a value; what another worker writes at the same moment may be lost."""
        with self._lock:
            self._put(key, lufs)

    def _put(self, key: str, lufs: float) -> None:
        for folder in self._folders:
            try:
                _write(folder / NAME, {**_read(folder / NAME), key: lufs})
            except OSError as error:
                logger.info("loudness is not kept in %s: %s", folder, error.strerror)
            else:
                return
        logger.warning("loudness cannot be kept anywhere; it is measured again after a restart")


def _read(file: Path) -> dict[str, float]:
    """What is in a file; nothing, and a line in the log, if somebody has spoilt it."""
    try:
        return {str(key): float(lufs) for key, lufs in json.loads(file.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s is not read: %r", file, error)
        return {}


def _write(file: Path, values: dict[str, float]) -> None:
    """Replace the file as a whole, so that nobody reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{NAME}.{os.getpid()}")
    kept = dict(list(values.items())[-MOST_KEPT:])
    try:
        new.write_text(json.dumps(kept, indent=1, ensure_ascii=False), "utf-8")
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
