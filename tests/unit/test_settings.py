"""Settings: defaults, ranges, and messages that name the variable."""

from pathlib import Path
from tempfile import gettempdir

import limits
import pytest
from pydantic import ValidationError

from qwen_tts_service.errors import StartupError
from qwen_tts_service.settings import (
    PUBLIC_PATHS,
    Settings,
    cache_directory,
    inherited_roster,
    load_settings,
    shares_metrics,
    worker_count,
)


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load_settings({})
    given = settings.model_dump()
    for key in ("api_key", "voices_api_key"):
        assert given.pop(key).get_secret_value() == ""
    assert given == {
        "model_name": "Qwen3-TTS-12Hz-1.7B-CustomVoice",
        "model_path": "/app/models",
        "device": None,
        "sampling_rate": 24000,
        "loudness_lufs": None,
        "max_concurrent_requests": 10,
        "use_flash_attention": True,
        "workers": 1,
        "cpu_threads": None,
        "cpu_weights": None,
        "codec_dtype": "float32",
        "torch_compile": False,
        "deterministic": False,
        "max_queue": None,
        "max_text_chars": 4096,
        "default_language": "english",
        "ai_label": "1",
        "pause_sentence_ms": 300,
        "pause_paragraph_ms": 600,
        "lexicon": None,
        "max_body_bytes": 1048576,
        "request_timeout_s": 1800,
        "stall_timeout_s": 120,
        "text_wait_s": 10,
        "utterance_timeout_s": 900,
        "header_timeout_s": 10,
        "body_timeout_s": 60,
        "max_connections": 1000,
        "grace_s": 30,
        "max_positions": 8192,
        "keep_alive_s": None,
        "runaway_factor": 4,
        "russian_stress": False,
        "stress_marks": "drop",
        "voice_cloning": False,
        "voices_path": Path("/app/voices"),
        "max_voices": 100,
        "voices_per_minute": 30,
        "max_voice_bytes": 10485760,
        "reference_tail": "silence",
        "api_keys_file": None,
        "public_paths": PUBLIC_PATHS,
        "rate_limit": "",
        "allowed_hosts": (),
        "forwarded_allow_ips": (),
        "cors_origins": (),
        "log_level": "info",
        "hf_hub_offline": False,
    }
    assert settings.queue_limit == 20
    assert not settings.is_embedded


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({"DEVICE": "", "MAX_QUEUE": ""}) == load_settings({})


def test_values_are_read_from_their_variables() -> None:
    settings = load_settings(
        {
            "MODEL_NAME": "espeak-ng",
            "DEVICE": "cpu",
            "MAX_QUEUE": "0",
            "USE_FLASH_ATTENTION": "0",
            "CORS_ORIGINS": "https://a.example, https://b.example",
            "LOG_LEVEL": "DEBUG",
        }
    )
    assert settings.is_embedded
    assert settings.queue_limit == 0
    assert not settings.use_flash_attention
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.log_level == "debug"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAMPLING_RATE", "fast"),
        ("SAMPLING_RATE", "4000"),
        ("MAX_CONCURRENT_REQUESTS", "0"),
        ("MAX_QUEUE", "-1"),
        ("DEVICE", "tpu"),
        ("LOG_LEVEL", "loud"),
        ("DEFAULT_LANGUAGE", "klingon"),
        ("DEFAULT_LANGUAGE", "auto"),
        ("DEFAULT_LANGUAGE", " "),
        ("REQUEST_TIMEOUT_S", "nan"),
        ("STALL_TIMEOUT_S", "0"),
        ("CPU_THREADS", "0"),
        ("CPU_WEIGHTS", "fp4"),
        ("CODEC_DTYPE", "half"),
        ("DETERMINISTIC", "perhaps"),
        ("USE_FLASH_ATTENTION", "maybe"),
        ("API_KEY", "ключ"),
        ("API_KEY", "two words"),
        ("API_KEY", ","),
        ("API_KEY", "one,,two"),
        ("PUBLIC_PATHS", "health"),
        ("PUBLIC_PATHS", "/a*b"),
        ("RATE_LIMIT", "60"),
        ("RATE_LIMIT", "0/minute"),
        ("RATE_LIMIT", "many/minute"),
        ("RATE_LIMIT", "5/0 seconds"),
        ("ALLOWED_HOSTS", "https://tts.example.com"),
        ("ALLOWED_HOSTS", "tts.example.com:8188"),
        ("ALLOWED_HOSTS", "*example.com"),
        ("FORWARDED_ALLOW_IPS", "proxy"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
        ("FORWARDED_ALLOW_IPS", "*,10.0.0.1"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=name):
        load_settings({name: value})


@pytest.mark.parametrize(
    ("name", "last", "beyond"),
    [
        ("SAMPLING_RATE", 8000, 7999),
        ("LOUDNESS_LUFS", -40, -40.1),
        ("MAX_CONCURRENT_REQUESTS", 1, 0),
        ("WORKERS", 1, 0),
        ("CPU_THREADS", 1, 0),
        ("MAX_QUEUE", 0, -1),
        ("MAX_TEXT_CHARS", 1, 0),
        ("MAX_BODY_BYTES", 1024, 1023),
        ("REQUEST_TIMEOUT_S", 0.001, 0),
        ("STALL_TIMEOUT_S", 0.001, 0),
        ("TEXT_WAIT_S", 0.001, 0),
        ("UTTERANCE_TIMEOUT_S", 0.001, 0),
        ("MAX_POSITIONS", 256, 255),
        ("RUNAWAY_FACTOR", 1, 0.999),
        ("KEEP_ALIVE_S", 0.001, 0),
        ("MAX_VOICES", 1, 0),
        ("VOICES_PER_MINUTE", 1, 0),
        ("MAX_VOICE_BYTES", 1024, 1023),
        ("SAMPLING_RATE", 48000, 48001),
        ("LOUDNESS_LUFS", -10, -9.9),
        ("MAX_CONCURRENT_REQUESTS", 1024, 1025),
        ("WORKERS", 64, 65),
        ("CPU_THREADS", 1024, 1025),
        ("REQUEST_TIMEOUT_S", 3600, 3600.001),
        ("STALL_TIMEOUT_S", 3600, 3600.001),
        ("TEXT_WAIT_S", 3600, 3600.001),
        ("UTTERANCE_TIMEOUT_S", 3600, 3600.001),
        ("RUNAWAY_FACTOR", 100, 100.001),
        ("KEEP_ALIVE_S", 2592000, 2592000.1),
    ],
)
def test_the_least_and_the_most_of_a_setting_are_taken_and_what_is_beyond_is_not(
    name: str, last: float, beyond: float
) -> None:
    assert getattr(load_settings({name: str(last)}), name.lower()) == last
    with pytest.raises(StartupError, match=name):
        load_settings({name: str(beyond)})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("CPU_WEIGHTS", ["half", "bfloat16", "int8", "float"]),
        ("CODEC_DTYPE", ["float32", "tf32", "bfloat16"]),
        ("REFERENCE_TAIL", ["silence", "none"]),
        ("LOG_LEVEL", ["debug", "info", "warning", "error"]),
        ("DEVICE", ["cpu", "cuda", "cuda:0", "cuda:12"]),
    ],
)
def test_every_word_that_is_allowed_is_taken(name: str, values: list[str]) -> None:
    assert [getattr(load_settings({name: v}), name.lower()) for v in values] == values


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("CPU_WEIGHTS", " Half", "half"),
        ("CODEC_DTYPE", "BFloat16", "bfloat16"),
        ("LOG_LEVEL", "INFO ", "info"),
        ("DEVICE", "CUDA:1 ", "cuda:1"),
        ("DETERMINISTIC", " True ", True),
        ("MODEL_NAME", "ESpeak-NG ", "espeak-ng"),
        ("MODEL_NAME", "My-Checkpoint", "My-Checkpoint"),
    ],
)
def test_a_listed_word_is_taken_in_any_case_and_with_blanks(
    name: str, value: str, meant: object
) -> None:
    assert getattr(load_settings({name: value}), name.lower()) == meant


@pytest.mark.parametrize(
    "rate", ["60/minute", "1/second", "5/10 seconds", "5/10seconds", "999999/30 days", "3/hours"]
)
def test_every_rate_that_is_allowed_is_one_that_can_be_counted(rate: str) -> None:
    assert limits.parse(load_settings({"RATE_LIMIT": rate}).rate_limit).amount > 0


@pytest.mark.parametrize("value", ["127.0.0.1", "10.0.0.0/8, ::1", "*"])
def test_proxies_are_addresses_and_networks_or_all(value: str) -> None:
    proxies = load_settings({"FORWARDED_ALLOW_IPS": value}).forwarded_allow_ips
    assert ", ".join(proxies) == value


@pytest.mark.parametrize("device", ["cpu:0", "cuda:", "cuda:x", "xcpu", "cuda:1 x"])
def test_a_device_is_named_as_torch_names_it(device: str) -> None:
    with pytest.raises(StartupError, match="DEVICE"):
        load_settings({"DEVICE": device})


@pytest.mark.parametrize("key", ["!", "~", "sesame!~"])
def test_a_key_may_be_any_visible_ascii(key: str) -> None:
    assert load_settings({"API_KEY": key}).api_key.get_secret_value() == key


def test_every_wrong_variable_is_named_at_once_and_nothing_else() -> None:
    with pytest.raises(StartupError) as caught:
        load_settings({"MAX_QUEUE": "many", "WORKERS": "0", "DEVICE": "cpu"})
    assert "WORKERS: " in str(caught.value)
    assert "MAX_QUEUE: " in str(caught.value)
    assert "DEVICE" not in str(caught.value)


def test_origins_lose_their_spaces_and_empty_ones() -> None:
    origins = load_settings({"CORS_ORIGINS": " a , ,b,"}).cors_origins
    assert origins == ("a", "b")
    assert load_settings({"CORS_ORIGINS": ","}).cors_origins == ()
    assert Settings(cors_origins=("a",)).cors_origins == ("a",)


def test_an_override_wins_unless_it_is_none() -> None:
    environ = {"MODEL_NAME": "a", "DEVICE": "cpu"}
    settings = load_settings(environ, model_name="b", device=None)
    assert (settings.model_name, settings.device) == ("b", "cpu")
    assert load_settings(environ, device="").device is None
    assert environ == {"MODEL_NAME": "a", "DEVICE": "cpu"}


def test_the_environment_is_read_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_QUEUE", "17")
    assert load_settings().max_queue == 17
    assert load_settings({}).max_queue is None


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings({}).workers = 2


@pytest.mark.parametrize(
    ("value", "workers"),
    [(None, 1), ("", 1), ("0", 1), ("1", 1), ("3", 3), ("-2", 1), ("many", 1), ("²", 1), ("٣", 1)],
)
def test_the_number_of_workers_is_known_before_the_settings_are_checked(
    value: str | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKERS", raising=False)
    if value is not None:
        monkeypatch.setenv("WORKERS", value)
    assert worker_count() == workers


def test_the_supervisor_says_what_workers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROMETHEUS_MULTIPROC_DIR", "QWEN_TTS_ROSTER"):
        monkeypatch.delenv(name, raising=False)
    assert not shares_metrics()
    assert inherited_roster() is None
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/shared")
    monkeypatch.setenv("QWEN_TTS_ROSTER", "7:2")
    assert shares_metrics()
    assert inherited_roster() == (7, 2)


@pytest.mark.parametrize("wrong", [{"MAX_QUEUE": "-1"}, {"API_KEY": "hunter2 "}])
def test_a_wrong_setting_never_shows_the_key(wrong: dict[str, str]) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings({"API_KEY": "hunter2", **wrong})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["russian", "ru", "RU", "ru-RU", "русский", "Russian"])
def test_the_default_language_is_taken_by_any_of_its_names(value: str) -> None:
    assert load_settings({"DEFAULT_LANGUAGE": value}).default_language == "russian"


def test_a_wrong_default_language_is_refused_with_the_languages_there_are() -> None:
    with pytest.raises(StartupError, match=r"DEFAULT_LANGUAGE.*chinese, english.*italian.*ru"):
        load_settings({"DEFAULT_LANGUAGE": "klingon"})


@pytest.mark.parametrize(
    ("cache", "home", "place"),
    [
        ("/c", "/h", "/c"),
        ("", "/h", "/h/.cache"),
        (None, "/h", "/h/.cache"),
        (None, None, f"{gettempdir()}/.cache"),
    ],
)
def test_what_can_be_made_again_is_kept_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, cache: str | None, home: str | None, place: str
) -> None:
    for name, value in (("XDG_CACHE_HOME", cache), ("HOME", home)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cache_directory() == Path(place, "qwen-tts-service")


@pytest.mark.parametrize(
    ("cloning", "limit", "source"),
    [
        ("0", 2000, "MAX_BODY_BYTES"),
        ("1", 2000 + 4000, "MAX_BODY_BYTES, and MAX_VOICE_BYTES as base64"),
    ],
)
def test_a_speech_may_carry_a_recording_where_cloning_is_on(cloning, limit, source):
    sizes = {"MAX_BODY_BYTES": "2000", "MAX_VOICE_BYTES": "3000"}
    settings = load_settings({**sizes, "VOICE_CLONING": cloning})
    assert (settings.max_speech_bytes, settings.sets_max_speech_bytes) == (limit, source)
