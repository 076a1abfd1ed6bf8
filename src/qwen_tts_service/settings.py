"""Settings from environment variables, read once and validated.

The only file that reads the environment.
"""

import os
import re
from ipaddress import ip_network
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from .errors import InvalidRequest, StartupError
from .text.language import LANGUAGES, parse_language
from .types import Language
from .validation import choices_of, folded

EMBEDDED_VOICE = "espeak-ng"
"""The value of MODEL_NAME that asks for the embedded voice."""

DEFAULT_MODEL = "Qwen3-TTS-12Hz-1.7B-CustomVoice"

PUBLIC_PATHS = (
    *("/", "/docs.json", "/schema.json", "/favicon.ico", "/static_content/*", "/playground*"),
    *("/health", "/metrics"),
    # Open WebUI sends no API key to these.
    *("/v1/audio/voices", "/v1/audio/models"),
)
MAX_REQUEST_TIMEOUT_S = 3600
"""Largest REQUEST_TIMEOUT_S."""

_PositiveInt = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Every setting under its environment name in lower case."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model_name: str = Field(DEFAULT_MODEL, min_length=1)
    """A Qwen3-TTS checkpoint, or `espeak-ng` for the embedded voice."""
    model_path: str = "/app/models"
    """Where checkpoints are: MODEL_PATH/MODEL_NAME, or the checkpoint itself."""
    device: str | None = Field(None, pattern=r"^(cpu|cuda(:\d+)?)$")
    """`cuda`, `cuda:N` or `cpu`; unset takes cuda if it is usable, and says so."""
    sampling_rate: int = Field(24000, ge=8000, le=48000)
    """Hz of the audio sent out; other than the model's own is resampled."""
    loudness_lufs: Annotated[float, Field(ge=-40, le=-10)] | None = None
    """Loudness of every speaker, by BS.1770; unset: as the voice speaks."""
    max_concurrent_requests: int = Field(10, ge=1, le=1024)
    """Requests that speak at the same time, per worker; unset: fewer where memory is short."""
    use_flash_attention: bool = True
    """Use flash-attn where it runs on this device and is faster than without it."""

    workers: int = Field(1, ge=1, le=64)
    """Processes that serve side by side; each loads the model, on a GPU of its own if it can."""
    cpu_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads of the model on the CPU, per worker; unset is one for each core."""
    cpu_weights: Literal["half", "bfloat16", "int8", "float"] | None = None
    """Number format on the CPU; unset: half (exact) on x86; bfloat16 is faster with AMX, rounds."""
    codec_dtype: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Number format of the codec; tf32 (on CUDA) and bfloat16 are faster and add a little noise."""
    torch_compile: bool = False
    """On CUDA, fuse kernels by torch.compile instead of our own Triton kernels: a longer start."""
    deterministic: bool = False
    """Bit-equal audio for the same request, at some cost in speed."""
    max_queue: Annotated[int, Field(ge=0)] | None = None
    """Requests that may wait; unset is twice MAX_CONCURRENT_REQUESTS."""
    max_text_chars: _PositiveInt = 4096
    """Longest text of one request, in characters."""
    default_language: Language = "english"
    """Language of texts without letters, such as digits and emoji."""
    pause_sentence_ms: Annotated[int, Field(ge=0, le=10_000)] = 300
    """Silence between two parts of a text that is too long for one, and between two speakers."""
    pause_paragraph_ms: Annotated[int, Field(ge=0, le=10_000)] = 600
    """The same where the first part ends with its paragraph."""
    lexicon: Path | None = None
    """A file of words and how they are spoken, a tab between them; read again when it changes."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    """Largest request body, in bytes."""
    request_timeout_s: Annotated[float, Field(gt=0, le=MAX_REQUEST_TIMEOUT_S)] = 1800.0
    """Longest wait for a whole file, or for a stream's first audio."""
    stall_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """A client that takes nothing of its stream for so long is cut off."""
    text_wait_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How long a WebSocket utterance may wait for text, in all, while others wait for its slot."""
    utterance_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 900.0
    """Longest time that a WebSocket utterance may have a slot."""
    header_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """The headers of a request have to arrive within so long, from the connection on."""
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """The body of a request has to arrive within so long, from its headers on."""
    max_connections: _PositiveInt = 1000
    """Open connections, per worker; fewer where the limit of open files is lower."""
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """After SIGTERM, what runs may go on for so long before it is broken off."""
    keep_alive_s: Annotated[float, Field(gt=0, le=30 * 24 * 3600)] | None = None
    """Without a request for so long, the model's memory is given back; unset: never."""
    max_positions: Annotated[int, Field(ge=256)] = 8192
    """Longest prompt and speech of one part of a text together, in tokens and frames; sizes the
    slots; unset: fewer where memory is short."""
    runaway_factor: Annotated[float, Field(ge=1, le=100)] = 4.0
    """A speech this many times longer than its text should take is stopped as a runaway."""
    russian_stress: bool = False
    """Set the stress of every Russian word; needs the extra `ru-stress`."""
    stress_marks: Literal["keep", "drop"] = "drop"
    """Whether Qwen3-TTS gets stress marks (U+0301); the embedded voice always does."""
    ai_label: Literal["0", "1", "all"] = "1"
    """Say in the metadata of mp3, ogg, opus and flac that the speech is machine-made; all: in wav
    too, whose header is longer then."""
    api_key: SecretStr = SecretStr("")
    """When set, every route that speaks asks for `Authorization: Bearer <key>`; several keys are
    separated by commas."""
    api_keys_file: Path | None = None
    """A file with more keys, one on each line; read again when it changes."""
    public_paths: tuple[str, ...] = PUBLIC_PATHS
    """Paths that need no key, separated by commas; `*` at the end is for all that begin so."""
    rate_limit: str = ""
    """Requests of one key, or of one address without a key, per worker: `60/minute`."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which the server may be called, separated by commas; `*` for any. Unset: a server
    without a key refuses pages on its own machine that call it by a public name."""
    forwarded_allow_ips: tuple[str, ...] = ()
    """Proxies whose X-Forwarded-For is believed: addresses and networks; uvicorn reads it."""
    voice_cloning: bool = False
    """Take recordings to clone voices from, and keep and delete voices."""
    voices_path: Path = Path("/app/voices")
    """Where kept voices are, a folder each."""
    max_voices: _PositiveInt = 100
    """How many voices are kept at most."""
    voices_per_minute: _PositiveInt = 30
    """How many voices may be sent to be kept in a minute, per worker."""
    max_voice_bytes: Annotated[int, Field(ge=1024)] = 10 * 1024 * 1024
    """Largest recording, in bytes of its file."""
    reference_tail: Literal["silence", "none"] = "silence"
    """What follows a recording with a transcript: 0.5 s of silence, which keeps its last words
    out of the speech, or nothing."""
    voices_api_key: SecretStr = SecretStr("")
    """When set, keeping and deleting voices and ref_audio ask for this key instead of API_KEY."""
    cors_origins: tuple[str, ...] = ()
    """Web origins that may call, separated by commas; `*` for any."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged."""
    hf_hub_offline: bool = False
    """Never look on the network for weights."""

    @field_validator("default_language", mode="before")
    @classmethod
    def _name_or_code(cls, value: object) -> object:
        try:
            language = parse_language(value) if isinstance(value, str) else None
        except InvalidRequest:
            language = None
        if language is None:
            raise ValueError(f"must be one of {', '.join(LANGUAGES)} or their codes, such as ru")
        return language

    @field_validator("*", mode="before")
    @classmethod
    def _as_listed(cls, value: object, info: ValidationInfo) -> object:
        """Take enumerations, switches and devices in any case, with blanks around them."""
        name = info.field_name or ""
        kind = cls.model_fields[name].annotation
        if isinstance(value, str) and (choices_of(kind) or kind is bool or name == "device"):
            return folded(value)
        return value

    @field_validator("model_name")
    @classmethod
    def _as_written(cls, name: str) -> str:
        """The embedded voice in any case; names of checkpoints are folders, and stay."""
        return EMBEDDED_VOICE if folded(name) == EMBEDDED_VOICE else name

    @field_validator("api_key", "voices_api_key")
    @classmethod
    def _fits_into_a_header(cls, key: SecretStr) -> SecretStr:
        if not is_header_word(key.get_secret_value()):
            raise ValueError(
                "must be ASCII characters without spaces, as clients encode others differently"
            )
        return key

    @field_validator("api_key")
    @classmethod
    def _has_keys_between_commas(cls, key: SecretStr) -> SecretStr:
        if key.get_secret_value() and "" in key.get_secret_value().split(","):
            raise ValueError("must be keys with one comma between them")
        return key

    @field_validator(
        "cors_origins", "public_paths", "allowed_hosts", "forwarded_allow_ips", mode="before"
    )
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("public_paths")
    @classmethod
    def _are_paths(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        if not all(path.startswith("/") and "*" not in path[:-1] for path in paths):
            raise ValueError("must be paths that begin with /; * may stand at the end of one")
        return paths

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, rate: str) -> str:
        if rate and not re.fullmatch(
            r"[1-9]\d{0,5}/([1-9]\d{0,3} ?)?(second|minute|hour|day)s?", rate
        ):
            raise ValueError("must be requests per time, such as 60/minute or 5/10 seconds")
        return rate

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"\*|(\*\.)?[\w.-]+", host, re.ASCII) for host in hosts):
            raise ValueError("must be names without scheme and port; *.example.com for all below")
        return tuple(host.lower() for host in hosts)

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies if proxies != ("*",) else ():
            ip_network(proxy)  # raises ValueError
        return proxies

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The keys in API_KEY."""
        value = self.api_key.get_secret_value()
        return tuple(value.split(",")) if value else ()

    @property
    def queue_limit(self) -> int:
        """How many requests may wait for a slot."""
        return 2 * self.max_concurrent_requests if self.max_queue is None else self.max_queue

    @property
    def max_speech_bytes(self) -> int:
        """Largest body of a request for speech, which may carry a recording in base64."""
        return self.max_body_bytes + (4 * self.max_voice_bytes // 3 if self.voice_cloning else 0)

    @property
    def sets_max_speech_bytes(self) -> str:
        """The settings that `max_speech_bytes` comes from, for messages."""
        more = ", and MAX_VOICE_BYTES as base64" if self.voice_cloning else ""
        return f"MAX_BODY_BYTES{more}"

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded voice speaks, and not a Qwen checkpoint."""
        return self.model_name == EMBEDDED_VOICE


def is_header_word(key: str) -> bool:
    """Whether a key consists of ASCII characters that every client sends alike in a header."""
    return all("!" <= character <= "~" for character in key)


def worker_count() -> int:
    """WORKERS, which is needed when service.py is imported; 1 where it is wrong.

    What is wrong is said by `load_settings`, before any worker is started.
    """
    value = os.environ.get("WORKERS", "")
    return int(value) if value.isascii() and value.isdigit() and int(value) > 0 else 1


METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Where workers add up their metrics; only the supervisor sets it, of several workers."""
ROSTER = "QWEN_TTS_ROSTER"
"""Descriptor and size of the roster, as "3:2"; only the supervisor sets it."""


def shares_metrics() -> bool:
    """Whether this is one of several workers of a supervisor."""
    return ROSTER in os.environ and METRICS_DIRECTORY in os.environ


def inherited_roster() -> tuple[int, int] | None:
    """Descriptor and size of the roster, if a supervisor has started this process."""
    descriptor, _, size = os.environ.get(ROSTER, "").partition(":")
    return (int(descriptor), int(size)) if size else None


def cache_directory() -> Path:
    """Where files may be kept that can be made again."""
    home = os.environ.get("HOME") or gettempdir()  # a user of a container may have no home
    return Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "qwen-tts-service"


def load_settings(environ: dict[str, str] | None = None, **overrides: str | None) -> Settings:
    """Read the settings; an empty variable counts as unset, an override that is not None wins.

    Raises StartupError that names every variable that is wrong and what is allowed.
    """
    source = dict(os.environ if environ is None else environ)
    source.update({name.upper(): value for name, value in overrides.items() if value is not None})
    given: dict[str, Any] = {
        name: source[name.upper()] for name in Settings.model_fields if source.get(name.upper())
    }
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'][:1]).upper()}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise StartupError(
            f"settings are wrong: {wrong}. Change these environment variables and start again; "
            "README.md lists every setting."
        ) from None
