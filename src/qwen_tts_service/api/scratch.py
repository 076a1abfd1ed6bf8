"""The directory of one running server for what it needs only while it runs.

The metrics of several workers, BentoML's sockets, and everything that a worker puts into the
directory of temporary files. It is removed when the server ends; if the server was killed, by the
next one of the same user, which sees from the lock that nobody lives there.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "qwen-tts-server-"


def open_scratch() -> Path:
    """Make the directory of this server, and remove those of servers that were killed.

    The lock is held until this process ends, however it ends.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_if_dead(old)
    unlocked = Path(tempfile.mkdtemp(prefix="qwen-tts-new-"))
    _lock(unlocked)
    directory = unlocked.rename(unlocked.with_name(PREFIX + unlocked.name[-8:]))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _lock(directory: Path) -> int:
    """Lock a directory, for as long as the descriptor that is returned is open.

    Raises OSError if another process has locked it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_dead(directory: Path) -> None:
    with suppress(OSError):  # locked, or another user's
        descriptor = _lock(directory)
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)
