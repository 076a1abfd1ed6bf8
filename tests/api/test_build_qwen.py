"""Every setting of a checkpoint reaches the part that it is for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwen_tts_service import build as build_module
from qwen_tts_service.engine import engine, memory
from qwen_tts_service.hub import download
from qwen_tts_service.kernels import device as device_module
from qwen_tts_service.kernels import linear
from qwen_tts_service.model import qwen3_tts
from qwen_tts_service.qwen import voice as qwen
from qwen_tts_service.settings import load_settings
from qwen_tts_service.voice.catalogue import SPEAKERS
from qwen_tts_service.voice.library import VoiceLibrary

SETTINGS = {
    "MODEL_NAME": "m",
    "MODEL_PATH": "/p",
    "HF_HUB_OFFLINE": "1",
    "DEVICE": "cpu",
    "CODEC_DTYPE": "bfloat16",
    "CPU_WEIGHTS": "int8",
    "USE_FLASH_ATTENTION": "0",
    "TORCH_COMPILE": "1",
    "MAX_CONCURRENT_REQUESTS": "5",
    "MAX_POSITIONS": "2000",
    "CPU_THREADS": "5",
    "DETERMINISTIC": "1",
    "RUNAWAY_FACTOR": "7",
    "DEFAULT_LANGUAGE": "de",
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each part was made of; the plan is for 3 slots of 1022 positions."""
    made: dict[str, Any] = {}

    def find(name: str, path: Path, *, hub: Any, on_progress: Any) -> Path:
        made["find"] = (name, path, hub.is_offline)
        on_progress("download", 0.25)
        return Path("/found")

    def load(directory: Path, **options: Any) -> Any:
        options.pop("before_weights")("setup")
        made["load"] = (directory, options)
        return SimpleNamespace(
            config=SimpleNamespace(kind=made.get("kind", "custom_voice"), width=64)
        )

    class FakePlanner:
        plan = SimpleNamespace(slots=3, positions=1022)

        def __init__(self, wish: Any, **options: Any) -> None:
            made["wish"], made["planner"] = wish, options

        def __call__(self, setup: str) -> None:
            made["setup"] = setup

    def start(*args: Any, **options: Any) -> str:
        made["engine"] = (args, options)
        return "engine"

    monkeypatch.setattr(download, "find_or_download", find)
    monkeypatch.setattr(device_module, "choose_device", lambda *args: ("device", *args))
    monkeypatch.setattr(linear, "fastest_arithmetic", lambda device: ("fastest", device))
    monkeypatch.setattr(device_module, "dtype_named", lambda name: ("dtype", name))
    monkeypatch.setattr(qwen3_tts.Qwen3TTS, "load", load)
    monkeypatch.setattr(engine, "Engine", start)
    monkeypatch.setattr(memory, "MemoryPlanner", FakePlanner)
    monkeypatch.setattr(qwen, "QwenVoice", lambda *args, kept, known: (*args, kept, known))
    monkeypatch.setattr(build_module, "EngineMetrics", lambda: SimpleNamespace(observe="observe"))
    return made


def test_every_setting_reaches_the_part_that_it_is_for(parts: dict[str, Any]) -> None:
    reported: list[tuple[str, float]] = []

    def report(step: str, done: float) -> None:
        reported.append((step, done))

    synthesizer = build_module.build(load_settings(SETTINGS), report, 2)
    voice: Any = synthesizer.voice
    assert synthesizer.text_options.default_language == "german"
    assert parts["find"] == ("m", Path("/p"), True)
    assert reported == [("download", 0.25)]
    assert parts["load"] == (
        Path("/found"),
        {
            "device": ("device", "cpu", 2),
            "codec_dtype": ("dtype", "bfloat16"),
            "codec_tf32": False,
            "linear": "int8",
            "use_flash_attention": False,
            "fuse": True,
            "on_progress": report,
        },
    )
    assert (parts["setup"], parts["planner"]) == ("setup", {"deterministic": True, "sharers": 1})
    assert parts["wish"] == memory.CapacityWish(
        slots=5, positions=2000, is_slots_asked=True, is_positions_asked=True
    )
    (model, options), watchers = parts["engine"]
    assert watchers == {"on_step": "observe", "on_progress": report}
    assert options == engine.EngineOptions(
        slots=3, max_positions=1022, max_text_rows=255, threads=5, deterministic=True
    )
    limits = qwen.QwenOptions(
        slots=3,
        max_positions=1022,
        max_text_tokens=255,
        runaway_factor=7,
        default_language="german",
    )
    assert voice == (model, "engine", "m", limits, qwen.NO_VOICES, SPEAKERS)


def test_linear_layers_are_the_fastest_unless_settings_choose(parts: dict[str, Any]) -> None:
    build_module.build(load_settings({}), print, 0)
    assert parts["load"][1]["linear"] == ("fastest", ("device", None, 0))


def test_only_a_model_that_clones_speaks_with_kept_voices(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    parts["kind"] = "base"
    settings = load_settings(SETTINGS | {"VOICES_PATH": str(tmp_path)})
    voice: Any = build_module.build(settings, lambda *_: None, 0).voice
    assert isinstance(voice[-2], VoiceLibrary)


def test_what_a_checkpoint_says_of_its_speakers_is_read_beside_it(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "speakers.json").write_text('{"Vera": {"gender": "female", "age": 30}}')
    monkeypatch.setattr(download, "find_or_download", lambda *_, **__: tmp_path)
    voice: Any = build_module.build(load_settings(SETTINGS), lambda *_: None, 0).voice
    assert (voice[-1]["vera"].gender, voice[-1]["vera"].ages) == ("female", ("young",))


@pytest.mark.parametrize(
    ("device", "worker", "sharers"),
    [("cpu", 0, 3), ("cuda", 0, 2), ("cuda", 1, 1), ("cuda:1", 0, 3)],
)
def test_workers_of_one_device_share_its_memory(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, device: str, worker: int, sharers: int
) -> None:
    def choose(asked: str, number: int) -> torch.device:
        return torch.device(f"cuda:{number % 2}" if asked == "cuda" else asked)

    monkeypatch.setattr(device_module, "choose_device", choose)
    build_module.build(load_settings({"DEVICE": device, "WORKERS": "3"}), print, worker)
    assert parts["planner"]["sharers"] == sharers
    assert parts["wish"] == memory.CapacityWish(slots=10, positions=8192)


def test_tf32_reaches_the_codec(parts: dict[str, Any]) -> None:
    build_module.build(load_settings({"CODEC_DTYPE": "TF32"}), print, 0)
    options = parts["load"][1]
    assert (options["codec_dtype"], options["codec_tf32"]) == (("dtype", "tf32"), True)
