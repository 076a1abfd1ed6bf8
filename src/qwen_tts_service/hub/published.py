"""The published checkpoints: which files of which revision, how large, with which SHA-256.

Only the files that speaking needs. Every size and digest is that of the published revision in
full, so nothing that differs by one byte passes. It does not know where checkpoints lie nor how
they are fetched.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a checkpoint; `name` is its path inside the checkpoint."""

    name: str
    size_bytes: int
    sha256: str

    def difference(self, path: Path) -> str | None:
        """Say how the file at `path` differs from the published one; None if it does not.

        Reads the whole file when its size is right.
        """
        if not path.is_file():
            return f"{self.name} is missing"
        if (size := path.stat().st_size) != self.size_bytes:
            return f"{self.name} has {size:,} bytes, published are {self.size_bytes:,}"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            return f"{self.name} has SHA-256 {digest}, published is {self.sha256}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One checkpoint at one revision, and what its config.json says of itself."""

    repository: str
    revision: str
    size: str
    kind: str
    files: tuple[PublishedFile, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def identity(directory: Path) -> tuple[str, str] | None:
    """Return (tts_model_size, tts_model_type) of the checkpoint there; None if it is none."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, Mapping) or config.get("model_type") != "qwen3_tts":
        return None
    return str(config.get("tts_model_size")), str(config.get("tts_model_type"))


_COMMON_FILES = (
    PublishedFile(
        "generation_config.json",
        245,
        "f1b90b4513f3b34c62851049e2492d7b4c5940daf1276f89c82b8ef04127f3aa",
    ),
    PublishedFile(
        "vocab.json",
        2_776_833,
        "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910",
    ),
    PublishedFile(
        "merges.txt",
        1_671_839,
        "599bab54075088774b1733fde865d5bd747cbcc7a547c5bc12610e874e26f5e3",
    ),
    PublishedFile(
        "speech_tokenizer/config.json",
        2_336,
        "ee65bb901c876664ab8707c487157aa1a6ee57c65969b28fb5ec9dc211e68167",
    ),
    PublishedFile(
        "speech_tokenizer/model.safetensors",
        682_293_092,
        "836b7b357f5ea43e889936a3709af68dfe3751881acefe4ecf0dbd30ba571258",
    ),
)

RELEASES: Mapping[str, Release] = {
    "Qwen3-TTS-12Hz-1.7B-CustomVoice": Release(
        repository="Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice",
        revision="0c0e3051f131929182e2c023b9537f8b1c68adfe",
        size="1b7",
        kind="custom_voice",
        files=(
            PublishedFile(
                "config.json",
                4_908,
                "17a07f527a1c25ea30b4e023a184482a23d3e279d697b1dc81b1bde498d29cf9",
            ),
            *_COMMON_FILES,
            PublishedFile(
                "model.safetensors",
                3_833_402_552,
                "38b1d5971bdbd982b561cccec982669a53b0537c3cf5e9bd4778ed07bb2f5137",
            ),
        ),
    ),
    "Qwen3-TTS-12Hz-0.6B-CustomVoice": Release(
        repository="Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice",
        revision="85e237c12c027371202489a0ec509ded67b5e4b5",
        size="0b6",
        kind="custom_voice",
        files=(
            PublishedFile(
                "config.json",
                4_908,
                "81aca2b6fac304944d8acf345272d8a9a727d5fc2e2e66b222ab4729340c7455",
            ),
            *_COMMON_FILES,
            PublishedFile(
                "model.safetensors",
                1_811_626_576,
                "bc3c7e785eb961179c25450d1acff03f839e0002f2f3a5aeb67b5735c0fa2adb",
            ),
        ),
    ),
}
"""Every checkpoint that MODEL_NAME may name and that can be downloaded."""
