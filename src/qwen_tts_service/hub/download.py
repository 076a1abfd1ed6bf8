"""Find a checkpoint on disk, or download it from the Hugging Face hub at a pinned revision.

huggingface_hub makes the requests, retries and resumes them. Each file is NAME.part until its
size and SHA-256 are those of published.json: a file of the right name is whole. docs/adr/0007
says why `hf_hub_download` is not used.
"""

import logging
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from qwen_tts_service.errors import StartupError
from qwen_tts_service.types import MODEL_KINDS, ReportProgress

from .published import RELEASES, PublishedFile, Release, identity

logger = logging.getLogger(__name__)

NEEDED_FILES = (
    *("config.json", "vocab.json", "merges.txt", "model.safetensors"),
    *("speech_tokenizer/config.json", "speech_tokenizer/model.safetensors"),
)
"""What a directory must hold to count as a checkpoint."""

LOCK_POLL_S = 10.0
"""How often a process that waits for the download of another one reports how far that is."""
RETRY_PAUSES_S = (0, 1, 2, 4, 8)
"""Waits before the further attempts to go on with a file while nothing new of it arrives."""

Step = Literal["looking for weights", "downloading weights", "verifying weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Where weights come from. The defaults are those of huggingface_hub and its variables."""

    is_offline: bool = False
    endpoint: str | None = None
    cache_dir: Path | None = None
    releases: Mapping[str, Release] = field(default_factory=lambda: RELEASES)


DEFAULT_HUB = Hub()


@dataclass(frozen=True, slots=True)
class Search:
    """The directory that counts as the checkpoint, or why none that was looked at does."""

    directory: Path | None
    rejected: tuple[str, ...]


def find_or_download(
    model_name: str,
    model_path: Path,
    *,
    hub: Hub = DEFAULT_HUB,
    on_progress: ReportProgress = lambda _step, _fraction: None,
) -> Path:
    """Return the directory of the checkpoint, downloaded to model_path/model_name if need be.

    Several processes may ask at once: one downloads, the others wait for it. Raises StartupError
    that says where it looked, why nothing there counts and how to get the weights.
    """
    on_progress("looking for weights", 0.0)
    return _find_or(_Download.run, model_name, model_path, hub, on_progress)


def require_available(model_name: str, model_path: Path, *, hub: Hub = DEFAULT_HUB) -> None:
    """Raise the StartupError of find_or_download unless it would find, or begin to download.

    Downloads nothing; asks the hub for the headers of one small file when nothing is on disk.
    """
    _find_or(_Download.check, model_name, model_path, hub)


# Finding ----------------------------------------------------------------------------


def find(model_name: str, model_path: Path, *, hub: Hub = DEFAULT_HUB) -> Search:
    """Look, in this order, for MODEL_PATH/MODEL_NAME, other directories under MODEL_PATH,
    MODEL_PATH itself and the Hugging Face cache. Makes no request.

    MODEL_PATH/MODEL_NAME may hold a checkpoint of any other name and of any kind, such as a
    fine-tuned one; everywhere else config.json must match a published name.
    """
    rejected: list[str] = []
    try:
        for candidate, reason in _candidates(model_name, model_path, hub):
            if reason is None:
                return Search(Path(candidate), ())
            rejected.append(f"{candidate}: {reason}")
    except OSError as error:
        rejected.append(f"{error.filename}: cannot be read ({error.strerror})")
    return Search(None, tuple(rejected))


_Candidate = tuple[Path | str, str | None]
"""A directory and why it does not count as the checkpoint; None if it does."""


def _candidates(model_name: str, model_path: Path, hub: Hub) -> Iterator[_Candidate]:
    named = model_path / model_name
    if (release := hub.releases.get(model_name)) is None:
        # A name that is not published may only name a directory, never a way out of MODEL_PATH.
        if re.fullmatch(r"[^/\\]*[^/\\.][^/\\]*", model_name):
            yield named, _why_not(named, None)
        return
    yield named, _why_not(named, release)
    yield from _others(model_path, named, release)
    yield model_path, _why_not(model_path, release)
    yield _cached(release, hub)


def _others(model_path: Path, named: Path, release: Release) -> Iterator[_Candidate]:
    """Yield the one other directory under model_path whose config.json names this checkpoint."""
    directories = sorted(model_path.iterdir()) if model_path.is_dir() else []
    alike = {
        path: _why_not(path, release)
        for path in directories
        if path != named and identity(path) == (release.size, release.kind)
    }
    whole = [path for path, reason in alike.items() if reason is None]
    if len(whole) > 1:
        names = ", ".join(path.name for path in whole)
        raise StartupError(
            f"{len(whole)} directories under {model_path} hold the model that is asked for: "
            f"{names}. Rename the one you mean to {named.name}."
        )
    if not alike:
        yield f"other directories under {model_path}", "none holds this model"
    yield from ((path, alike[path]) for path in whole or alike)


def _cached(release: Release, hub: Hub) -> _Candidate:
    library = _library()
    for revision in (release.revision, "main"):
        # It answers also where only a part was downloaded; so each size is compared.
        with suppress(library.errors.LocalEntryNotFoundError):
            directory = Path(
                library.snapshot_download(
                    release.repository,
                    revision=revision,
                    cache_dir=hub.cache_dir,
                    local_files_only=True,
                )
            )
            if all(_is_held(file, directory / file.name) for file in release.files):
                return directory, _why_not(directory, release)
    where = hub.cache_dir or library.constants.HF_HUB_CACHE
    return f"Hugging Face cache {where}", f"has not every file of {release.repository}"


def _is_held(file: PublishedFile, path: Path) -> bool:
    return path.is_file() and file.has_size(path.stat().st_size)


def _why_not(directory: Path, release: Release | None) -> str | None:
    """Say why the directory does not count as the checkpoint; None if it does."""
    if not directory.is_dir():
        return "no such directory"
    if not (directory / "config.json").is_file():
        return "has no config.json"
    found = identity(directory)
    if found is None:
        return "its config.json is not that of a Qwen3-TTS model"
    size, kind = found
    if kind not in MODEL_KINDS or (release is not None and found != (release.size, release.kind)):
        return f"its config.json is of another model (tts_model_size {size}, tts_model_type {kind})"
    if missing := [name for name in NEEDED_FILES if not (directory / name).is_file()]:
        return f"lacks {', '.join(missing)}"
    if pointers := [name for name in NEEDED_FILES if _is_lfs_pointer(directory / name)]:
        return f"holds Git LFS pointers instead of {', '.join(pointers)}; run `git lfs pull` there"
    return None


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(24) == b"version https://git-lfs."


# Downloading ------------------------------------------------------------------------


class _Refused(Exception):
    """The download cannot start or cannot go on; the text says why."""


def _release(model_name: str, hub: Hub) -> Release:
    if (release := hub.releases.get(model_name)) is None:
        raise _Refused(
            f"there is no published model of this name; known: {', '.join(hub.releases)}"
        )
    if hub.is_offline or _library().constants.HF_HUB_OFFLINE:
        raise _Refused("nothing is downloaded because offline use is asked for (HF_HUB_OFFLINE)")
    return release


@dataclass(frozen=True, slots=True)
class _Download:
    """Download of one checkpoint into one directory."""

    release: Release
    directory: Path
    hub: Hub
    on_progress: ReportProgress

    def run(self) -> None:
        """Download and verify what is missing; one process at a time."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                while not self._locks(stack):
                    self._report("downloading weights")  # by another process
                self._check_room()
                for file in self.release.files:
                    self._obtain(file)
        except OSError as error:
            raise _Refused(f"the download cannot be written: {error}") from error

    def _locks(self, stack: ExitStack) -> bool:
        """Whether this process may download, after a wait for another that does."""
        file = self.directory / ".download.lock"
        try:
            stack.enter_context(_library().utils.WeakFileLock(file, timeout=LOCK_POLL_S))
        except TimeoutError:
            return False
        return True

    def check(self) -> None:
        """Refuse what can be seen to fail without downloading anything."""
        self._check_room()
        self._check_offer(min(self.release.files, key=lambda file: file.size_bytes or 0))

    def _check_room(self) -> None:
        """Refuse if the disk has too little room for what is missing."""
        needed = self.release.total_bytes - self._held_bytes()
        directory = self.directory.absolute()
        disk = next(path for path in (directory, *directory.parents) if path.exists())
        if needed > (free := shutil.disk_usage(disk).free):
            raise _Refused(
                f"{in_gb(needed)} must still be downloaded, but {disk} has only {in_gb(free)} free"
            )

    def _check_offer(self, file: PublishedFile, *, retry: bool = False) -> PublishedFile:
        """Refuse if the hub does not offer this file in its published size; return it with one."""
        library, url = _library(), self._url(file)
        try:
            offered = library.get_hf_file_metadata(url, retry_on_errors=retry)
        except (library.errors.HTTPError, OSError) as error:
            raise _Refused(f"the hub does not offer {url}: {_one_line(error)}") from error
        if offered.size is not None and not file.has_size(offered.size):
            raise _Refused(
                f"the hub offers {file.name} with {offered.size:,} bytes, "
                f"published are {file.size_bytes:,}"
            )
        if (size := file.size_bytes or offered.size) is None:
            raise _Refused(f"the hub does not say how long {url} is")
        return replace(file, size_bytes=size)

    def _obtain(self, file: PublishedFile) -> None:
        final, part = self.directory / file.name, self._part(file)
        if final.exists():
            self._report("verifying weights")
            if difference := file.difference(final):
                raise _Refused(
                    f"{self.directory} is in the way: {difference}. Move it away or repair it; "
                    "files that are there are never overwritten"
                )
            return
        part.parent.mkdir(parents=True, exist_ok=True)
        file = self._check_offer(file, retry=True)
        self._fetch(file, part)
        self._report("verifying weights")
        if difference := file.difference(part):
            part.unlink()
            raise _Refused(
                f"what arrived is not the published file: {difference}. It was deleted; try "
                "again, and if HF_ENDPOINT names a mirror, try without it"
            )
        part.replace(final)

    def _fetch(self, file: PublishedFile, part: Path) -> None:
        """Append to the part until it is whole; the pauses begin anew when bytes have arrived."""
        assert file.size_bytes is not None
        pauses_s = iter(RETRY_PAUSES_S)
        while (held := _size(part)) < file.size_bytes:
            try:
                self._append(file, part, held)
            except (_library().errors.HTTPError, OSError) as error:
                if _size(part) > held:
                    pauses_s = iter(RETRY_PAUSES_S)
                pause_s = next(pauses_s, None) if _may_pass(error) else None
                if pause_s is None:
                    raise _Refused(
                        f"the download of {file.name} broke off after {_size(part):,} of "
                        f"{file.size_bytes:,} bytes: {_one_line(error)}. Start again: it continues "
                        "there"
                    ) from error
                logger.warning(
                    "%s broke off (%s); it continues in %d s", file.name, _one_line(error), pause_s
                )
                time.sleep(pause_s)

    def _append(self, file: PublishedFile, part: Path, held: int) -> None:
        """Request the bytes from `held` on and append them to the part."""
        library = _library()
        # Not compressed: only then are the bytes that arrive those that can be resumed.
        headers = library.utils.build_hf_headers(headers={"Accept-Encoding": "identity"})
        with part.open("ab") as out:
            library.file_download.http_get(
                self._url(file),
                out,
                resume_size=held,
                headers=headers,
                expected_size=file.size_bytes,
                tqdm_class=self._bar,
                _nb_retries=0,  # _fetch repeats; else both would, and their attempts multiply
            )

    def _bar(self, **_: Any) -> Any:
        """Stand in for the progress bar that http_get would draw."""
        return nullcontext(SimpleNamespace(update=lambda _: self._report("downloading weights")))

    def _report(self, step: Step) -> None:
        self.on_progress(step, min(1.0, self._held_bytes() / self.release.total_bytes))

    def _held_bytes(self) -> int:
        paths = [(self.directory / file.name, self._part(file)) for file in self.release.files]
        return sum(_size(final) or _size(part) for final, part in paths)

    def _part(self, file: PublishedFile) -> Path:
        return self.directory / f"{file.name}.part"

    def _url(self, file: PublishedFile) -> Any:
        return _library().hf_hub_url(
            self.release.repository,
            file.name,
            revision=self.release.revision,
            endpoint=self.hub.endpoint,
        )


def _library() -> Any:
    """Return huggingface_hub, imported only when the disk alone does not answer."""
    import huggingface_hub.file_download  # noqa: PLC0415 - see above; it imports the other modules

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # nothing is told without consent
    return huggingface_hub


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed; the library has repeated 408 and 429 already."""
    if (response := getattr(error, "response", None)) is not None:
        return bool(response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR)
    return getattr(error, "errno", None) is None  # else it comes from this machine's disk


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# Messages ---------------------------------------------------------------------------


def in_gb(count: int) -> str:
    """Write a number of bytes in decimal gigabytes, as disks and networks count."""
    return f"{count / 1e9:.2f} GB"


def _find_or(
    act: Callable[[_Download], None],
    model_name: str,
    model_path: Path,
    hub: Hub,
    on_progress: ReportProgress = lambda _step, _fraction: None,
) -> Path:
    """Find the checkpoint or act on its download; a _Refused becomes the StartupError."""
    search = find(model_name, model_path, hub=hub)
    if search.directory is not None:
        return search.directory
    directory = model_path / model_name
    try:
        act(_Download(_release(model_name, hub), directory, hub, on_progress))
    except _Refused as refused:
        name = model_name if model_name in hub.releases else next(iter(hub.releases))
        release, path = hub.releases[name], shlex.quote(str(model_path))
        files = " ".join(file.name for file in release.files)
        looked = [f"  - {reason}" for reason in search.rejected] or ["  - nowhere: no such model"]
        lines = [
            f"No weights for MODEL_NAME={model_name}. Looked in:",
            *looked,
            f"Download: {refused}.",
            f"To download {name} ({in_gb(release.total_bytes)}) ahead of time: "
            f"python scripts/download_model.py {name} --path {path}",
            f"By hand: hf download {release.repository} {files} --revision {release.revision} "
            f"--local-dir {shlex.quote(str(model_path / name))}",
            "To speak without any weights: MODEL_NAME=espeak-ng, the embedded voice.",
        ]
        raise StartupError("\n".join(lines)) from refused
    return directory
