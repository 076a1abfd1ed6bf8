"""Logging setup: one line per event on standard error, never user text."""

import logging
import sys

_PACKAGE = __name__.split(".", maxsplit=1)[0]


def configure(level: str) -> None:
    """Send our own lines to standard error at `level`; other libraries keep theirs."""
    logger = logging.getLogger(_PACKAGE)
    logger.setLevel(level.upper())
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
