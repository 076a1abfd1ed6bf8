"""Exception classes: one tree with stable error codes.

    TTSError
    ├── InvalidRequest          the request breaks a rule; `param` names the field
    │   ├── UnknownModel        the named model is not the one that is loaded
    │   ├── UnknownVoice        there is no kept voice of this name
    │   └── MisfitVoice         a kept voice is not encoded for the loaded model's size
    ├── CannotSpeak             the request is well formed, yet no voice can say it
    │   └── CannotClone         the loaded model cannot clone voices
    ├── Unauthorized            the API key is missing or wrong
    ├── BodyTooLarge            more bytes than MAX_BODY_BYTES or MAX_VOICE_BYTES
    ├── UnsupportedMediaType    the body is not application/json
    ├── Busy                    all slots and the queue are full
    │   └── RateLimited         this client has sent more than it may
    ├── NotReady                the model is still loading, or the service is stopping
    ├── TimedOut                the speech took longer than the service allows
    ├── SynthesisFailed         our fault
    └── ClientLeft              the client closed the connection; nobody reads this one
    StartupError                the process cannot serve at all (not a TTSError: nobody asked yet)

Which HTTP status each one becomes is said in api/errors.py and only there. A message never
contains what the user wrote as text; it names the field, what is wrong and what is allowed. What
was sent for a name or an enumeration may be in it by `shown`: messages go to the sender, never to
the log.
"""

MAX_SHOWN_CHARS = 40


def printable(text: str) -> str:
    """What was sent, on one line: at most 40 characters, without control characters."""
    start = "".join(char if char.isprintable() else "\ufffd" for char in text[:MAX_SHOWN_CHARS])
    return start if len(text) <= MAX_SHOWN_CHARS else start[:-1] + "…"


def shown(value: object) -> str:
    """A value as shown to the client that sent it: a name, a number, or the kind of any other."""
    if isinstance(value, str):
        return f'"{printable(value)}"'
    is_short = isinstance(value, int | float) and abs(value) < 10**MAX_SHOWN_CHARS
    return str(value) if is_short and not isinstance(value, bool) else kind_of(value)


def kind_of(value: object) -> str:
    """Name what a JSON value is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), "something else")


class TTSError(Exception):
    """A request failed. `code` is stable and for programs; `message` is for people."""

    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(TTSError):
    """A field breaks a rule the caller can read in the documentation."""

    code = "invalid_request"


class UnknownModel(InvalidRequest):
    """The request names a model that is not the loaded one."""

    code = "model_not_found"


class UnknownVoice(InvalidRequest):
    """There is no kept voice of this name to delete."""

    code = "voice_not_found"


class MisfitVoice(InvalidRequest):
    """A kept voice is not encoded for the size of the loaded model."""

    code = "voice_of_another_model"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the kept voice {shown(name)} is of a model of another size, and cannot be encoded "
            "anew: its recording was not kept, or VOICES_PATH cannot be written. Delete it, and "
            "keep it again from its recording",
            param="speaker",
        )
        self.name = name


class CannotSpeak(TTSError):
    """Well formed, but this voice cannot say it: no reading, no tokenizer, runaway."""

    code = "cannot_speak"


class CannotClone(CannotSpeak):
    """The loaded model cannot clone voices."""

    code = "cloning_not_supported"

    def __init__(self) -> None:
        super().__init__(
            "this model cannot clone voices; MODEL_NAME=Qwen3-TTS-12Hz-1.7B-Base and "
            "Qwen3-TTS-12Hz-0.6B-Base can",
            param="ref_audio",
        )


class Unauthorized(TTSError):
    """The API key is missing or wrong."""

    code = "unauthorized"


class BodyTooLarge(TTSError):
    """The body, or a recording in it, has more bytes than the settings allow."""

    code = "body_too_large"


class UnsupportedMediaType(TTSError):
    """The body is not JSON, or does not say that it is."""

    code = "unsupported_media_type"


class Busy(TTSError):
    """Every slot is taken and the queue is full."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Busy):
    """This client has sent more than RATE_LIMIT, or holds too many WebSockets without a key."""

    code = "rate_limited"


class NotReady(TTSError):
    """The model is still loading, or the service is stopping."""

    code = "not_ready"


class TimedOut(TTSError):
    """The speech took longer than the service allows."""

    code = "timeout"


class SynthesisFailed(TTSError):
    """The voice failed while speaking."""


class ClientLeft(TTSError):
    """The client closed the connection before its response was complete."""

    code = "cancelled"


class StartupError(Exception):
    """The service cannot start; the message says where it looked and what to do."""
