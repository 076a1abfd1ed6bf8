"""API keys: who may speak, and who may clone voices."""

import hmac

from pydantic import SecretStr
from starlette.datastructures import Headers

from qwen_tts_service.errors import Unauthorized
from qwen_tts_service.fields import SpeechBody
from qwen_tts_service.settings import Settings

MAY_CLONE = "qwen_tts.may_clone"
"""Set in the scope by `Front`: whether the request's header has a key for cloning."""


def key_in(headers: Headers) -> str:
    """The key that the header Authorization names; "" for none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def may_speak(key: str, settings: Settings) -> bool:
    """Whether it is API_KEY, or VOICES_API_KEY, which allows more; anyone may if no key is set."""
    return not settings.api_key.get_secret_value() or (
        _is(key, settings.api_key) or _is(key, settings.voices_api_key)
    )


def may_clone(key: str, settings: Settings) -> bool:
    """Whether it is VOICES_API_KEY; if that is not set, whoever may speak may clone."""
    own = settings.voices_api_key
    return _is(key, own) if own.get_secret_value() else may_speak(key, settings)


def check_recording(body: SpeechBody, *, is_allowed: bool) -> None:
    """Raise Unauthorized for a recording from somebody who may not clone."""
    if body.ref_audio is not None and not is_allowed:
        raise Unauthorized(
            "ref_audio needs the key for cloning (VOICES_API_KEY); that key may speak too",
            param="ref_audio",
        )


def _is(key: str, right: SecretStr) -> bool:
    secret = right.get_secret_value()
    return bool(secret) and hmac.compare_digest(key.encode("utf-8", "replace"), secret.encode())
