"""API keys: who may speak, and who may clone voices."""

import hmac
import logging
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers

from qwen_tts_service.errors import StartupError, Unauthorized
from qwen_tts_service.fields import SpeechBody
from qwen_tts_service.settings import Settings, is_header_word

logger = logging.getLogger(__name__)

MAY_CLONE = "qwen_tts.may_clone"
"""Set in the scope by `Front`: whether the request's header has a key for cloning."""

_Version = tuple[int, int, int] | None
"""Inode, time of the last change in nanoseconds, size in bytes; None if there is no file."""


def key_in(headers: Headers) -> str:
    """The key that the header Authorization names; "" for none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class KeyFile:
    """A file with an API key on each line, read again when it changes.

    Raises StartupError if it cannot be used at first. Later the keys before stay in use where it is
    missing or wrong, which is logged once, without its content.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = self._version_now()
        try:
            self._keys = _keys_of(path)
        except ValueError as error:
            raise StartupError(f"API_KEYS_FILE={path}: {error}") from None

    def current(self) -> tuple[bytes, ...]:
        """The keys that are valid now."""
        version = self._version_now()
        if version != self._version:
            self._version = version
            try:
                self._keys = _keys_of(self._path)
                logger.info("API_KEYS_FILE was read again: %d keys", len(self._keys))
            except ValueError as error:
                logger.warning("the changed API_KEYS_FILE is not used: %s", error)
        return self._keys

    def _version_now(self) -> _Version:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _keys_of(path: Path) -> tuple[bytes, ...]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from None
    keys = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    keys = [(number, key) for number, key in keys if key and not key.startswith("#")]
    for number, key in keys:
        if not is_header_word(key):
            raise ValueError(f"line {number}: a key is ASCII characters without spaces")
    if not keys:  # a file that was truncated by mistake must not lock everybody out, or let them in
        raise ValueError("it has no key")
    return tuple(key.encode() for _, key in keys)


class Keys:
    """API_KEY, API_KEYS_FILE and VOICES_API_KEY."""

    def __init__(self, settings: Settings) -> None:
        self._fixed = tuple(key.encode() for key in settings.api_keys)
        self._file = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
        self._for_voices = settings.voices_api_key.get_secret_value().encode()

    @property
    def is_open(self) -> bool:
        """Whether anyone may speak, because no key is set."""
        return not self._fixed and self._file is None

    def knows(self, key: str) -> bool:
        """Whether it is any of the keys."""
        from_file = () if self._file is None else self._file.current()
        return _is_among(key, (*self._fixed, *from_file, self._for_voices))

    def may_speak(self, key: str) -> bool:
        """Whether it is one of the keys, of which VOICES_API_KEY allows more; anyone if open."""
        return self.is_open or self.knows(key)

    def may_clone(self, key: str) -> bool:
        """Whether it is VOICES_API_KEY; if that is not set, whoever may speak may clone."""
        if self._for_voices:
            return _is_among(key, (self._for_voices,))
        return self.may_speak(key)


def _is_among(key: str, secrets: Iterable[bytes]) -> bool:
    """Compare with every secret, in a time that does not depend on which of them it is."""
    given = key.encode("utf-8", "replace")
    return sum(hmac.compare_digest(given, secret) for secret in secrets if secret) > 0


def check_recording(body: SpeechBody, *, is_allowed: bool) -> None:
    """Raise Unauthorized for a recording from somebody who may not clone."""
    if body.ref_audio is not None and not is_allowed:
        raise Unauthorized(
            "ref_audio needs the key for cloning (VOICES_API_KEY); that key may speak too",
            param="ref_audio",
        )
