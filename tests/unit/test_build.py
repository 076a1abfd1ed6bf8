"""Settings that exclude each other are refused before anything is searched or loaded."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_tts_service import build as build_module
from qwen_tts_service.audio.label import LABELLED
from qwen_tts_service.build import build, check
from qwen_tts_service.errors import StartupError
from qwen_tts_service.hub import download
from qwen_tts_service.settings import load_settings


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param(
            {"TORCH_COMPILE": "1", "DEVICE": "cpu"},
            "TORCH_COMPILE=1 needs CUDA, but DEVICE=cpu",
            id="compile on a CPU",
        ),
        pytest.param(
            {"CODEC_DTYPE": "tf32", "DEVICE": "cpu"},
            "CODEC_DTYPE=tf32 needs CUDA, but DEVICE=cpu",
            id="TF32 on a CPU",
        ),
        pytest.param(
            {"CPU_WEIGHTS": "int8", "DEVICE": "cuda:1"},
            "CPU_WEIGHTS=int8 is for the CPU only, but DEVICE=cuda:1",
            id="weights of a CPU on CUDA",
        ),
        pytest.param(
            {"MODEL_NAME": "espeak-ng", "DEVICE": "cuda"},
            "the embedded voice espeak-ng runs on the CPU only.*DEVICE=cpu",
            id="embedded voice on CUDA",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_named(environ, said):
    with pytest.raises(StartupError, match=said):
        check(load_settings(environ))


@pytest.fixture
def looked_for(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was looked for: the checkpoint, packages, devices; all of it is found."""
    asked: list[Any] = []

    def require(name: str, path: Path, *, hub: Any) -> None:
        asked.append((name, path, hub.is_offline))

    monkeypatch.setattr(download, "require_available", require)
    monkeypatch.setattr(build_module, "find_spec", lambda name: asked.append(name) or object())
    monkeypatch.setattr(build_module, "_can_use", lambda device: asked.append(device) or True)
    return asked


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        ({}, []),
        ({"DEVICE": "cpu", "CPU_WEIGHTS": "int8"}, []),
        ({"DEVICE": "cuda:1", "CPU_WEIGHTS": "float", "TORCH_COMPILE": "1"}, ["cuda:1"]),
        ({"CPU_WEIGHTS": "half", "TORCH_COMPILE": "1"}, []),
    ],
)
def test_a_checkpoint_is_looked_for_with_its_packages_and_the_device_that_was_named(
    environ: dict[str, str], devices: list[str], looked_for: list[Any]
) -> None:
    check(load_settings({"MODEL_NAME": "m", "MODEL_PATH": "/p", "HF_HUB_OFFLINE": "1", **environ}))
    packages = ["huggingface_hub", "torch", "transformers", "safetensors"]
    assert looked_for == [*packages, ("m", Path("/p"), True), *devices]


def test_a_wrong_lexicon_is_reported_before_weights_are_searched(
    tmp_path: Path, looked_for: list[Any]
) -> None:
    lexicon = tmp_path / "lexicon.tsv"
    lexicon.write_text("GPU\tcard\nbroken")
    with pytest.raises(StartupError, match=r"LEXICON=.*lexicon.tsv: line 2: a word, a tab"):
        check(load_settings({"MODEL_NAME": "espeak-ng", "LEXICON": str(lexicon)}))
    assert looked_for == []


@pytest.mark.parametrize("device", [{}, {"DEVICE": "cpu"}])
def test_the_embedded_voice_needs_its_package_and_nothing_else(
    device: dict[str, str], looked_for: list[Any]
) -> None:
    check(load_settings({"MODEL_NAME": "espeak-ng", **device}))
    assert looked_for == ["espeakng_loader"]


@pytest.mark.parametrize(
    ("model", "package", "extra"),
    [
        ("espeak-ng", "espeakng_loader", "espeak"),
        ("m", "huggingface_hub", "qwen"),
        ("m", "torch", "qwen"),
        ("m", "transformers", "qwen"),
        ("m", "safetensors", "qwen"),
    ],
)
@pytest.mark.usefixtures("looked_for")
def test_a_package_that_is_missing_is_named_with_how_to_install_it(
    model: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "find_spec", lambda n: None if n == package else object())
    said = f"MODEL_NAME={model} needs the package {package}; run ./scripts/setup {extra}"
    with pytest.raises(StartupError) as caught:
        check(load_settings({"MODEL_NAME": model}))
    assert str(caught.value) == said


@pytest.mark.usefixtures("looked_for")
def test_a_device_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "_can_use", lambda _device: False)
    with pytest.raises(StartupError, match="DEVICE=cuda:3 is set, but torch cannot use it"):
        check(load_settings({"DEVICE": "cuda:3"}))
    check(load_settings({"DEVICE": "cpu"}))


@pytest.mark.parametrize(("code", "can_use"), [(0, True), (1, False), (-9, False)])
def test_a_device_is_tried_in_a_process_of_its_own(
    code: int, can_use: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        ran.append((command, options))
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(build_module.subprocess, "run", run)
    assert build_module._can_use("cuda:2") is can_use
    ((command, options),) = ran
    assert command[:2] == [sys.executable, "-c"]
    assert command[2] == "import sys, torch; torch.zeros(1, device=sys.argv[1])"
    assert command[3:] == ["cuda:2"]
    assert options == {"capture_output": True, "check": False}


def test_the_settings_choose_the_voice_and_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(build_module, "_load_espeak", lambda: "espeak")
    monkeypatch.setattr(
        build_module, "_load_qwen", lambda *args: loaded.append(args) or ("qwen", None)
    )

    def report(_step: str, _done: float) -> None: ...

    embedded = build(load_settings({"MODEL_NAME": "espeak-ng"}), report, 0)
    assert (embedded.voice, embedded.sample_rate_hz, loaded) == ("espeak", 24000, [])
    settings = load_settings({"SAMPLING_RATE": "16000", "AI_LABEL": "All"})
    qwen = build(settings, report, 3)
    assert (qwen.voice, qwen.sample_rate_hz) == ("qwen", 16000)
    assert [s._labelled for s in (embedded, qwen)] == [LABELLED["1"], LABELLED["all"]]
    assert loaded == [(settings, report, 3)]


@pytest.mark.usefixtures("looked_for")
def test_stress_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"silero_stress"}
    monkeypatch.setattr(build_module, "find_spec", lambda n: None if n in missing else object())
    with pytest.raises(StartupError, match=r"RUSSIAN_STRESS=1 needs .* ./scripts/setup ru-stress"):
        check(load_settings({"MODEL_NAME": "espeak-ng", "RUSSIAN_STRESS": "1"}))


def test_a_library_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    own = {"MODEL_NAME": "espeak-ng", "VOICE_CLONING": "1", "VOICES_PATH": str(file / "voices")}
    with pytest.raises(StartupError, match=f"VOICES_PATH={file}/voices, which cannot be written"):
        check(load_settings(own))
    check(load_settings(own | {"VOICE_CLONING": "0"}))
    check(load_settings(own | {"VOICES_PATH": str(tmp_path / "new" / "voices")}))
    assert (tmp_path / "new" / "voices").is_dir()
