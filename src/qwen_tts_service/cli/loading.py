"""Load the voice that the settings name, for a command that speaks in this process."""

from qwen_tts_service.build import build, check
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.cloning import Clone
from qwen_tts_service.speech.synthesizer import Synthesizer

from .progress import SpeechProgressBar


def load(settings: Settings, progress: SpeechProgressBar) -> Synthesizer:
    """Load the voice, with a bar. Raises StartupError."""
    check(settings)
    try:
        return build(settings, progress.show, worker=0)
    finally:
        progress.end()


def notes_on(clone: Clone) -> list[str]:
    """What was done to a recording, and what may be wrong with it."""
    tail = f", with {clone.tail_s:g} s of silence after it" if clone.tail_s else ""
    notes = [f"voice cloned from {clone.duration_s:.1f} s{tail}"]
    return notes + ([clone.warning] if clone.warning else [])
