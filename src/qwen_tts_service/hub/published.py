"""Published checkpoints: their files at one pinned revision, with sizes and SHA-256 digests.

The table is published.json: only the files that speaking needs, with the sizes and digests of
the whole published files.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a checkpoint; `name` is its path inside the checkpoint.

    size_bytes, sha256: None where they are not known to us, and nothing can be compared
    """

    name: str
    size_bytes: int | None
    sha256: str | None

    def difference(self, path: Path) -> str | None:
        """Say how the file at `path` differs from the published one; None if it does not.

        Reads the whole file when its size is right.
        """
        if not path.is_file():
            return f"{self.name} is missing"
        if not self.has_size(size := path.stat().st_size):
            return f"{self.name} has {size:,} bytes, published are {self.size_bytes:,}"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.sha256 not in (None, digest):
            return f"{self.name} has SHA-256 {digest}, published is {self.sha256}"
        return None

    def has_size(self, size: int) -> bool:
        """Whether a file of this size may be it."""
        return self.size_bytes in (None, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One checkpoint at one revision.

    size, kind: tts_model_size and tts_model_type of its config.json
    """

    repository: str
    revision: str
    size: str
    kind: str
    files: tuple[PublishedFile, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes or 0 for file in self.files)


_MOST_CONFIG_BYTES = 16 << 20


def identity(directory: Path) -> tuple[str, str] | None:
    """Read (tts_model_size, tts_model_type) from config.json; None if no Qwen3-TTS checkpoint."""
    try:
        file = directory / "config.json"
        if file.stat().st_size > _MOST_CONFIG_BYTES:
            return None
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, Mapping) or config.get("model_type") != "qwen3_tts":
        return None
    return str(config.get("tts_model_size")), str(config.get("tts_model_type"))


def _release(row: dict[str, Any]) -> Release:
    listed = tuple(PublishedFile(**file) for file in row.pop("files"))
    return Release(files=listed, **row)


RELEASES: Mapping[str, Release] = {
    name: _release(row)
    for name, row in json.loads((files(__package__) / "published.json").read_bytes()).items()
}
"""Every checkpoint that MODEL_NAME may name and that can be downloaded, by that name."""
