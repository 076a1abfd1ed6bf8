"""The embedded voice: espeak-ng speaking ten languages on any CPU, without weights."""

import tomllib
from importlib import import_module
from importlib.resources import files
from typing import Any

from qwen_tts_service.errors import CannotSpeak, StartupError


def import_extra(package: str) -> Any:
    """Import a package of the extra ``espeak``. Raises StartupError where it is missing."""
    try:
        return import_module(package)
    except ImportError:
        raise StartupError(
            f"the embedded voice needs {package.replace('_', '-')}, which is not installed; "
            "run: ./scripts/setup espeak"
        ) from None


def no_reading(message: str) -> CannotSpeak:
    """Make the error for a text that espeak-ng would spell, drop or pass over."""
    return CannotSpeak(message, param="text", code="no_reading")


def read_table(name: str) -> dict[str, Any]:
    """Read a TOML file of this folder."""
    return tomllib.loads(files(__name__).joinpath(name).read_text("utf-8"))
