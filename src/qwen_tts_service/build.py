"""Assemble the service: check the settings, load the voice they name, make the synthesizer.

The only file that knows every concrete class. What is heavy is imported when it is needed, so that
importing this file costs nothing and `check` can run in a process that never loads a model.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .audio.label import LABELLED
from .errors import StartupError
from .settings import EMBEDDED_VOICE, Settings, cache_directory
from .speech.cloning import CloningOrder, VoiceCloner
from .speech.lexicon_file import LexiconFile
from .speech.loudness import SpeakerGains
from .speech.loudness_file import LoudnessFile
from .speech.parts import TextOptions
from .speech.synthesizer import Synthesizer
from .telemetry.engine import EngineMetrics
from .text.accent import Accentor
from .types import MODEL_KINDS, KeptVoice, ModelKind, ReportProgress, Voice
from .voice.catalogue import SPEAKERS, Speaker, read_speakers
from .voice.library import LibraryEntry, VoiceLibrary

if TYPE_CHECKING:
    from .engine.memory import CapacityWish
    from .engine.options import EngineOptions
    from .qwen.limits import QwenOptions

_CAN_USE_CUDA = "import sys, torch; torch.zeros(1, device=sys.argv[1])"


def check(settings: Settings) -> None:
    """Check, before anything starts, whether these settings can be served.

    Raises StartupError that says where it looked and what to do.
    """
    if settings.russian_stress:
        _require("silero_stress", "ru-stress", "RUSSIAN_STRESS=1")
    _lexicon(settings)
    if settings.voice_cloning:
        _check_library(settings)
    if settings.is_embedded:
        _check_embedded(settings)
    else:
        _check_qwen(settings)


def build(settings: Settings, report: ReportProgress, worker: int) -> Synthesizer:
    """Load the voice that the settings name; raises StartupError.

    worker: the number of this process among the workers, from 0
    """
    kept = None
    if settings.is_embedded:
        voice = _load_espeak()
    else:
        voice, kept = _load_qwen(settings, report, worker)
    synthesizer = Synthesizer(
        voice,
        sample_rate_hz=settings.sampling_rate,
        text_options=_text_options(settings),
        labelled=LABELLED[settings.ai_label],
        gains=_gains(settings, voice, kept or {}),
    )
    if kept is not None:
        encode = partial(_encode_anew, synthesizer.cloner)
        synthesizer.fit = partial(kept.fit, encode=encode)
    return synthesizer


def _encode_anew(cloner: VoiceCloner, entry: LibraryEntry, recording: bytes) -> KeptVoice:
    order = CloningOrder(
        data=recording,
        transcript=entry.voice.transcript or None,
        language=entry.language,
        has_tail=entry.tail_s > 0,
    )
    return cloner.clone_now(order).voice


def speakers_of(settings: Settings) -> tuple[ModelKind, Mapping[str, Speaker | None]]:
    """The kind of a Qwen model, and its speakers with what is known of them; loads no weights.

    They are those of the checkpoint on disk, or else of the published one of this name.
    """
    from .hub.download import Hub, find  # noqa: PLC0415
    from .hub.published import RELEASES  # noqa: PLC0415
    from .model.config import load_config  # noqa: PLC0415

    name, path = settings.model_name, Path(settings.model_path)
    directory = None
    with suppress(ImportError):  # without the extra qwen there is no cache of the hub to look in
        directory = find(name, path, hub=Hub(is_offline=True)).directory
    if directory is not None:
        config, known = load_config(directory), read_speakers(directory / "speakers.json")
        return config.kind, {speaker: known.get(speaker) for speaker in config.speakers}
    if name not in RELEASES:
        raise StartupError(f"{path} has no checkpoint {name}, and none of this name is published")
    kind = next(kind for kind in MODEL_KINDS if kind == RELEASES[name].kind)
    return kind, SPEAKERS if kind == "custom_voice" else {}


def release(settings: Settings) -> None:
    """Give back to system and device what an unloaded voice has freed."""
    if not settings.is_embedded:
        from .kernels.device import return_memory  # noqa: PLC0415

        return_memory()


def _text_options(settings: Settings) -> TextOptions:
    return TextOptions(
        default_language=settings.default_language,
        lexicon=_lexicon(settings),
        accent=Accentor() if settings.russian_stress else None,
        pause_sentence_s=settings.pause_sentence_ms / 1000,
        pause_paragraph_s=settings.pause_paragraph_ms / 1000,
    )


def _lexicon(settings: Settings) -> LexiconFile | None:
    return LexiconFile(settings.lexicon) if settings.lexicon else None


def _gains(settings: Settings, voice: Voice, kept: Mapping[str, KeptVoice]) -> SpeakerGains | None:
    if settings.loudness_lufs is None:
        return None
    folders, identity = _origin(settings)
    return SpeakerGains(
        voice,
        LoudnessFile([*folders, cache_directory()]),
        target_lufs=settings.loudness_lufs,
        identity=f"{__version__} {identity}",
        kept=kept,
    )


def _origin(settings: Settings) -> tuple[list[Path], str]:
    """Where the voice's weights are, if it has any, and what tells it from others."""
    if settings.is_embedded:
        return [], version("espeakng_loader")
    from .hub.download import find  # noqa: PLC0415

    directory = find(settings.model_name, Path(settings.model_path)).directory
    assert directory is not None, "they have been loaded"
    states = {file.name: file.stat() for file in sorted(directory.glob("*.safetensors"))}
    return [directory], repr([(name, s.st_size, s.st_mtime_ns) for name, s in states.items()])


def _check_library(settings: Settings) -> None:
    path = settings.voices_path
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise StartupError(
            f"VOICE_CLONING=1 keeps voices in VOICES_PATH={path}, which cannot be written: "
            f"{error}. Set VOICES_PATH to a folder that can."
        ) from None


def _threads(settings: Settings) -> int | None:
    """Threads of the engine; silero-stress sets torch's own default to one."""
    is_changed = settings.russian_stress and settings.cpu_threads is None
    return len(os.sched_getaffinity(0)) if is_changed else settings.cpu_threads


def _check_embedded(settings: Settings) -> None:
    if settings.device not in (None, "cpu"):
        raise StartupError(
            f"DEVICE={settings.device} is set, but the embedded voice {EMBEDDED_VOICE} "
            "runs on the CPU only. Unset DEVICE or set DEVICE=cpu."
        )
    _require("espeakng_loader", "espeak", f"MODEL_NAME={EMBEDDED_VOICE}")


def _check_qwen(settings: Settings) -> None:
    from .hub.download import Hub, require_available  # noqa: PLC0415

    device = settings.device or ""
    if settings.torch_compile and device == "cpu":
        raise StartupError("TORCH_COMPILE=1 needs CUDA, but DEVICE=cpu. Unset one of them.")
    if settings.codec_dtype == "tf32" and device == "cpu":
        raise StartupError("CODEC_DTYPE=tf32 needs CUDA, but DEVICE=cpu. Unset one of them.")
    if device.startswith("cuda") and settings.cpu_weights not in (None, "float"):
        raise StartupError(
            f"CPU_WEIGHTS={settings.cpu_weights} is for the CPU only, but DEVICE={device}. "
            "Unset CPU_WEIGHTS."
        )
    for package in ("huggingface_hub", "torch", "transformers", "safetensors"):
        _require(package, "qwen", f"MODEL_NAME={settings.model_name}")
    require_available(
        settings.model_name, Path(settings.model_path), hub=Hub(is_offline=settings.hf_hub_offline)
    )
    if settings.device is not None and settings.device != "cpu" and not _can_use(settings.device):
        raise StartupError(
            f"DEVICE={settings.device} is set, but torch cannot use it. Check "
            "nvidia-smi and `python -c 'import torch; print(torch.version.cuda)'`, "
            "or set DEVICE=cpu."
        )


def _require(package: str, extra: str, reason: str) -> None:
    if find_spec(package) is None:
        raise StartupError(f"{reason} needs the package {package}; run ./scripts/setup {extra}")


def _can_use(device: str) -> bool:
    """Try in a process of its own: a process that has touched CUDA holds on to its memory."""
    command = [sys.executable, "-c", _CAN_USE_CUDA, device]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own words
    return done.returncode == 0


def _load_espeak() -> Voice:
    from .espeak.voice import EspeakVoice  # noqa: PLC0415

    return EspeakVoice()


def _load_qwen(
    settings: Settings, report: ReportProgress, worker: int
) -> tuple[Voice, VoiceLibrary | None]:
    """The voice, and the kept voices that it may speak with."""
    from .engine.engine import Engine  # noqa: PLC0415
    from .engine.memory import POSITIONS_PER_TEXT_ROW, MemoryPlanner  # noqa: PLC0415
    from .engine.options import EngineOptions  # noqa: PLC0415
    from .engine.threads import on_a_thread_that_ends  # noqa: PLC0415
    from .hub.download import Hub, find_or_download  # noqa: PLC0415
    from .kernels.device import choose_device, dtype_named  # noqa: PLC0415
    from .kernels.linear import fastest_arithmetic  # noqa: PLC0415
    from .model.qwen3_tts import Qwen3TTS  # noqa: PLC0415
    from .qwen.voice import NO_VOICES, QwenVoice  # noqa: PLC0415

    directory = find_or_download(
        settings.model_name,
        Path(settings.model_path),
        hub=Hub(is_offline=settings.hf_hub_offline),
        on_progress=report,
    )
    device = choose_device(settings.device, worker)
    devices = [choose_device(settings.device, other) for other in range(settings.workers)]
    planner = MemoryPlanner(
        _capacity_wish(settings),
        deterministic=settings.deterministic,
        sharers=max(1, devices.count(device)),
    )
    model = on_a_thread_that_ends(
        Qwen3TTS.load,
        directory,
        device=device,
        codec_dtype=dtype_named(settings.codec_dtype),
        codec_tf32=settings.codec_dtype == "tf32",
        linear=settings.cpu_weights or fastest_arithmetic(device),
        use_flash_attention=settings.use_flash_attention,
        fuse=settings.torch_compile,
        before_weights=planner,
        on_progress=report,
    )
    plan = planner.plan
    options = EngineOptions(
        slots=plan.slots,
        max_positions=plan.positions,
        max_text_rows=plan.positions // POSITIONS_PER_TEXT_ROW,
        threads=_threads(settings),
        deterministic=settings.deterministic,
    )
    limits = _limits(settings, options)
    engine = Engine(model, options, on_step=EngineMetrics().observe, on_progress=report)
    known = read_speakers(directory / "speakers.json")
    library = _library(settings, model.config.width) if model.config.kind == "base" else None
    kept = NO_VOICES if library is None else library
    return QwenVoice(model, engine, settings.model_name, limits, kept=kept, known=known), library


def _limits(settings: Settings, options: "EngineOptions") -> "QwenOptions":
    from .qwen.limits import QwenOptions  # noqa: PLC0415

    return QwenOptions(
        slots=options.slots,
        max_positions=options.max_positions,
        max_text_tokens=options.max_text_rows,
        runaway_factor=settings.runaway_factor,
        default_language=settings.default_language,
        keeps_stress=settings.stress_marks == "keep",
    )


def _library(settings: Settings, width: int) -> VoiceLibrary:
    return VoiceLibrary(settings.voices_path, most=settings.max_voices, width=width)


def _capacity_wish(settings: Settings) -> "CapacityWish":
    from .engine.memory import CapacityWish  # noqa: PLC0415

    asked = settings.model_fields_set
    return CapacityWish(
        slots=settings.max_concurrent_requests,
        positions=settings.max_positions,
        is_slots_asked="max_concurrent_requests" in asked,
        is_positions_asked="max_positions" in asked,
    )
