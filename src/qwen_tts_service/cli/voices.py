"""Lists of voices: those that a model can speak with, and those of a running server."""

import json
import sys
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

from qwen_tts_service.build import speakers_of
from qwen_tts_service.settings import Settings
from qwen_tts_service.types import ModelKind
from qwen_tts_service.voice.library import VoiceLibrary

from .arguments import CommandError

WAIT_S = 30.0
_WITHOUT_SPEAKERS: dict[ModelKind, str] = {
    "voice_design": "this model has no speakers: it makes a voice of --instruct, or of --gender, "
    "--age and --emotion",
    "base": "this model has no speakers, and no voice is kept: --voice-from clones one",
}


def voices_of_model(settings: Settings) -> Iterator[str]:
    """Yield a line for each speaker or kept voice; says on standard error why there is none."""
    kind, speakers = speakers_of(settings)
    for name, known in speakers.items():
        if known is None:
            yield name
        else:
            ages, language = "/".join(known.ages), known.native_language or ""
            yield f"{name:9} {known.gender:7} {ages:12} {language:9} {known.description}"
    library = VoiceLibrary(settings.voices_path, most=settings.max_voices)
    kept = list(library) if kind == "base" else []
    for name in kept:
        entry = library.entry(name)
        yield f"{name:9} kept    {(entry and entry.description) or ''}"
    if not speakers and not kept:
        sys.stderr.write(_WITHOUT_SPEAKERS.get(kind, "this model has no speakers") + "\n")


def voices_of_server(url: str) -> Iterator[str]:
    """Yield a line for each voice that a server offers. Raises CommandError."""
    if not url.startswith(("http://", "https://")):
        raise CommandError("--url: it begins with http:// or https://")
    try:
        with urlopen(url.rstrip("/") + "/v1/audio/voices", timeout=WAIT_S) as response:  # noqa: S310 - http alone
            voices = json.load(response)["voices"]
        lines = [_line_of(voice) for voice in voices]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise CommandError(f"--url: the server's voices cannot be read: {error}") from None
    for line in lines:
        yield "".join(char if char.isprintable() else " " for char in line)


def _line_of(voice: dict[str, str | None]) -> str:
    name, gender, language = (voice.get(field) or "" for field in ("id", "gender", "language"))
    description = voice.get("description") or f"spoken by {voice.get('speaker')}"
    return f"{name:9} {gender:7} {language:9} {description}"
