"""The only file that knows every concrete class: settings become a synthesizer.

It does not know HTTP or BentoML.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from .errors import StartupError
from .settings import EMBEDDED_VOICE, Settings
from .synthesizer import Synthesizer
from .types import Voice

Report = Callable[[str, float], None]


def check(settings: Settings) -> None:
    """Find out before anything is started whether these settings can be served.

    Raises StartupError that says where it looked and what to do.
    """
    if settings.is_embedded:
        _check_embedded(settings)
        return
    raise StartupError("not yet")


def build(settings: Settings, report: Report) -> Synthesizer:
    """Load the voice; `report` is told each step and how much of it is done."""
    report("voice", 0.0)
    return Synthesizer(_load_voice(), sample_rate_hz=settings.sampling_rate)


def _check_embedded(settings: Settings) -> None:
    if settings.device not in (None, "cpu"):
        raise StartupError(
            f"DEVICE={settings.device} was asked for, but the embedded voice {EMBEDDED_VOICE} "
            "speaks on the CPU only. Unset DEVICE or set DEVICE=cpu."
        )
    if find_spec("espeakng_loader") is None:
        raise StartupError(
            f"MODEL_NAME={EMBEDDED_VOICE} needs the extra `espeak`: "
            "pip install 'qwen-tts-service[espeak]'"
        )


def _load_voice() -> Voice[Any]:
    from .espeak.voice import EspeakVoice  # noqa: PLC0415 - only the voice that was asked for
    from .voice.emotions import known_emotion  # noqa: PLC0415

    return EspeakVoice(known_emotion=known_emotion)
