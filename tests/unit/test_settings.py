"""Settings: defaults, ranges, and messages that name the variable."""

import pytest

from qwen_tts_service.errors import StartupError
from qwen_tts_service.settings import load_settings


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load_settings({})
    assert settings.model_name == "Qwen3-TTS-12Hz-1.7B-CustomVoice"
    assert settings.model_path == "/app/models"
    assert settings.device is None
    assert settings.sampling_rate == 24000
    assert settings.max_concurrent_requests == 10
    assert settings.use_flash_attention
    assert settings.queue_limit == 20
    assert settings.max_text_chars == 4096
    assert settings.max_body_bytes == 1024 * 1024
    assert settings.api_key.get_secret_value() == ""
    assert settings.cors_origins == ()
    assert settings.log_level == "info"


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
        ("REQUEST_TIMEOUT_S", "nan"),
        ("STALL_TIMEOUT_S", "0"),
        ("CPU_THREADS", "0"),
        ("CPU_WEIGHTS", "fp4"),
        ("CODEC_DTYPE", "half"),
        ("DETERMINISTIC", "perhaps"),
        ("USE_FLASH_ATTENTION", "maybe"),
        ("API_KEY", "ключ"),
        ("API_KEY", "two words"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=name):
        load_settings({name: value})


@pytest.mark.parametrize("wrong", [{"MAX_QUEUE": "-1"}, {"API_KEY": "hunter2 "}])
def test_a_wrong_setting_never_shows_the_key(wrong: dict[str, str]) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings({"API_KEY": "hunter2", **wrong})
    assert "hunter2" not in str(caught.value)
