"""How this service writes its log: one line per event, to standard error, never user text.

It does not know which events there are.
"""

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
