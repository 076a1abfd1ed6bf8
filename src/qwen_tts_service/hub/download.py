"""Finds a checkpoint on disk or downloads it, and says where it looked when it cannot.

Files are fetched over plain HTTP with the client, the address and the token of huggingface_hub.
Its own `hf_hub_download` throws a cut file away (2.4), which costs up to 3.8 GB each time; here
the part stays as NAME.part, the next attempt or the next start continues it with Range, and the
name changes only once size and SHA-256 are right. It does not know settings, devices or torch,
and it never takes another model than the one that was asked for.
"""

import logging
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from qwen_tts_service.errors import StartupError

from .published import RELEASES, PublishedFile, Release, identity

logger = logging.getLogger(__name__)

NEEDED_FILES = (
    "config.json",
    "vocab.json",
    "merges.txt",
    "model.safetensors",
    "speech_tokenizer/config.json",
    "speech_tokenizer/model.safetensors",
)
"""What a directory must hold to count as a checkpoint."""

Step = Literal["looking for weights", "downloading weights", "verifying weights"]

_PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the weights are: bytes of all files together."""

    step: Step
    done_bytes: int = 0
    total_bytes: int = 0

    @property
    def fraction(self) -> float:
        """The share that is done, 0 to 1."""
        return self.done_bytes / self.total_bytes if self.total_bytes else 0.0


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Where weights come from. The defaults are those of huggingface_hub and its variables."""

    is_offline: bool = False
    endpoint: str | None = None
    cache_dir: Path | None = None
    releases: Mapping[str, Release] = field(default_factory=lambda: RELEASES)
    retry_waits_s: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    """Waits between attempts that brought nothing new; after the last one it gives up."""


@dataclass(frozen=True, slots=True)
class Search:
    """The directory that counts as the checkpoint, or why each place that was tried does not."""

    directory: Path | None
    rejected: tuple[str, ...]


def find_or_download(
    model_name: str,
    model_path: Path,
    *,
    hub: Hub | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Path:
    """Return the directory of the checkpoint, downloaded to model_path/model_name if need be.

    Several processes may ask at once: one downloads, the others wait for it. Raises StartupError
    that says where it looked, why nothing there counts and how to get the weights.
    """
    hub = hub or Hub()
    on_progress(Progress("looking for weights"))
    search = find(model_name, model_path, hub=hub)
    if search.directory is not None:
        return search.directory
    try:
        release = _downloadable(model_name, hub)
        _Download(release, model_path / model_name, hub, on_progress).run()
    except _Refused as refused:
        raise _no_weights(model_name, model_path, search, str(refused), hub) from refused
    return model_path / model_name


def require_available(model_name: str, model_path: Path, *, hub: Hub | None = None) -> None:
    """Raise the StartupError of find_or_download unless it would find, or begin to download.

    Downloads nothing; asks the hub for the headers of one small file when nothing is on disk.
    """
    hub = hub or Hub()
    search = find(model_name, model_path, hub=hub)
    if search.directory is not None:
        return
    try:
        release = _downloadable(model_name, hub)
        download = _Download(release, model_path / model_name, hub, lambda _: None)
        download.check_room()
        download.check_reachable()
    except _Refused as refused:
        raise _no_weights(model_name, model_path, search, str(refused), hub) from refused


# Finding ----------------------------------------------------------------------------


def find(model_name: str, model_path: Path, *, hub: Hub | None = None) -> Search:
    """Look, in this order, for MODEL_PATH/MODEL_NAME, other directories under MODEL_PATH,
    MODEL_PATH itself and the Hugging Face cache. Makes no request.

    MODEL_PATH/MODEL_NAME may hold a CustomVoice checkpoint of any other name, such as a
    fine-tuned one; everywhere else config.json must match a published name.
    """
    hub = hub or Hub()
    release = hub.releases.get(model_name)
    rejected: list[str] = []
    try:
        for place in _places(model_name, model_path, release, rejected, hub):
            if (reason := _why_not(place, release)) is None:
                return Search(place, ())
            rejected.append(f"{place}: {reason}")
    except OSError as error:
        rejected.append(f"{error.filename}: cannot be read ({error.strerror})")
    return Search(None, tuple(rejected))


def _places(
    model_name: str, model_path: Path, release: Release | None, rejected: list[str], hub: Hub
) -> Iterator[Path]:
    if release is None:
        # A name that is not published may only name a directory, never a way out of MODEL_PATH.
        if re.fullmatch(r"[^/\\]*[^/\\.][^/\\]*", model_name):
            yield model_path / model_name
        return
    named = model_path / model_name
    yield named
    yield from _others(model_path, named, release, rejected)
    yield model_path
    yield from _cached(release, rejected, hub)


def _others(model_path: Path, named: Path, release: Release, rejected: list[str]) -> Iterator[Path]:
    """Yield the one other directory under model_path that says it is this checkpoint."""
    directories = model_path.iterdir() if model_path.is_dir() else ()
    others = [path for path in sorted(directories) if path != named]
    alike = [path for path in others if identity(path) == (release.size, release.kind)]
    whole = [path for path in alike if _why_not(path, release) is None]
    if len(whole) > 1:
        names = ", ".join(path.name for path in whole)
        raise StartupError(
            f"{len(whole)} directories under {model_path} hold the model that is asked for: "
            f"{names}. Rename the one you mean to {named.name}."
        )
    if not alike:
        rejected.append(f"other directories under {model_path}: none holds this model")
    yield from whole or alike


def _cached(release: Release, rejected: list[str], hub: Hub) -> Iterator[Path]:
    library = _library()
    for revision in (release.revision, "main"):
        paths = [
            library.try_to_load_from_cache(
                release.repository, file.name, cache_dir=hub.cache_dir, revision=revision
            )
            for file in release.files
        ]
        if all(
            isinstance(path, str) and Path(path).stat().st_size == file.size_bytes
            for path, file in zip(paths, release.files, strict=True)
        ):
            yield Path(str(paths[0])).parent
            return
    where = hub.cache_dir or library.constants.HF_HUB_CACHE
    rejected.append(f"Hugging Face cache {where}: has not every file of {release.repository}")


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
    if kind != "custom_voice" or (release is not None and size != release.size):
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
    """The download cannot be, or not go on; the text says why."""


class _Cut(Exception):
    """The transfer broke off or the hub is busy; another attempt may go on."""


def _downloadable(model_name: str, hub: Hub) -> Release:
    if (release := hub.releases.get(model_name)) is None:
        raise _Refused(
            f"there is no published model of this name; known: {', '.join(hub.releases)}"
        )
    if hub.is_offline or _library().constants.HF_HUB_OFFLINE:
        raise _Refused("nothing is downloaded because offline use is asked for (HF_HUB_OFFLINE)")
    return release


class _Download:
    """One checkpoint on its way into one directory."""

    def __init__(
        self, release: Release, directory: Path, hub: Hub, on_progress: OnProgress
    ) -> None:
        self._release = release
        self._directory = directory
        self._hub = hub
        self._on_progress = on_progress

    def run(self) -> None:
        """Fetch and verify what is missing; one process at a time."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with _library().utils.WeakFileLock(self._directory / ".download.lock"):
                self.check_room()
                for file in self._release.files:
                    self._obtain(file)
        except OSError as error:
            raise _Refused(f"the download cannot be written: {error}") from error

    def check_room(self) -> None:
        """Refuse if the disk cannot take the rest."""
        needed = self._release.total_bytes - self._held_bytes()
        directory = self._directory.absolute()
        disk = next(path for path in (directory, *directory.parents) if path.exists())
        if needed > (free := shutil.disk_usage(disk).free):
            raise _Refused(
                f"{in_gb(needed)} must still be downloaded, but {disk} has only {in_gb(free)} free"
            )

    def check_reachable(self) -> None:
        """Refuse if the hub does not hand out the smallest file."""
        smallest = min(self._release.files, key=lambda file: file.size_bytes)
        try:
            with self._request(smallest, 0):
                pass
        except _Cut as cut:
            raise _Refused(f"the hub cannot be reached: {cut}") from cut

    def _obtain(self, file: PublishedFile) -> None:
        final, part = self._directory / file.name, self._part(file)
        if final.exists():
            self._report("verifying weights")
            if difference := file.difference(final):
                raise _Refused(
                    f"{self._directory} is in the way: {difference}. Move it away or repair it; "
                    "files that are there are never overwritten"
                )
            return
        part.parent.mkdir(parents=True, exist_ok=True)
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
        """Fetch until the part is whole; waits are counted anew whenever bytes arrived."""
        waits_s = iter(self._hub.retry_waits_s)
        while (before := _size(part)) < file.size_bytes:
            try:
                self._append(file, part)
            except _Cut as cut:
                if _size(part) > before:
                    waits_s = iter(self._hub.retry_waits_s)
                if (wait_s := next(waits_s, None)) is None:
                    raise _Refused(
                        f"the download of {file.name} broke off after {_size(part):,} of "
                        f"{file.size_bytes:,} bytes: {cut}. Start again: it continues there"
                    ) from cut
                logger.warning("%s broke off (%s); it continues in %g s", file.name, cut, wait_s)
                time.sleep(wait_s)

    def _append(self, file: PublishedFile, part: Path) -> None:
        """Make one request and write what it brings behind what is there."""
        held = _size(part)
        others = self._held_bytes() - held
        with self._request(file, held) as response:
            if response.status_code == HTTPStatus.OK:
                held = 0  # Range was not asked for, or not honoured: the file from its start
            _require_size(response, file, held)
            with part.open("ab" if held else "wb") as out:
                # No chunk size: with one, what waits for a full chunk is lost when the line is cut.
                for chunk in response.iter_bytes():
                    held += len(chunk)
                    if held > file.size_bytes:
                        raise _Refused(f"{file.name} is longer than the published file")
                    out.write(chunk)
                    self._report("downloading weights", others + held)
        if held < file.size_bytes:
            raise _Cut("the answer ended early")

    @contextmanager
    def _request(self, file: PublishedFile, start: int) -> Iterator[Any]:
        """Give the hub's answer from byte `start` on; _Cut when the line fails, even later."""
        library = _library()
        url = library.hf_hub_url(
            self._release.repository,
            file.name,
            revision=self._release.revision,
            endpoint=self._hub.endpoint,
        )
        # Not build_hf_headers: it makes a request of its own (2.4).
        headers = {"Accept-Encoding": "identity", "User-Agent": "qwen-tts-service"}
        if token := library.get_token():
            headers["Authorization"] = f"Bearer {token}"
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout_s = library.constants.HF_HUB_DOWNLOAD_TIMEOUT
        try:
            with library.get_session().stream(
                "GET", url, headers=headers, timeout=timeout_s
            ) as response:
                _require_success(response, url, start)
                yield response
        except (
            library.errors.HTTPError
        ) as error:  # httpx's or httpx2's, whichever the hub's client uses
            raise _Cut(f"{url}: {str(error) or type(error).__name__}") from error

    def _report(self, step: Step, done_bytes: int | None = None) -> None:
        done_bytes = self._held_bytes() if done_bytes is None else done_bytes
        self._on_progress(Progress(step, done_bytes, self._release.total_bytes))

    def _held_bytes(self) -> int:
        paths = [(self._directory / file.name, self._part(file)) for file in self._release.files]
        return sum(_size(final) or _size(part) for final, part in paths)

    def _part(self, file: PublishedFile) -> Path:
        return self._directory / f"{file.name}.part"


def _library() -> Any:
    """Return huggingface_hub, imported only when the disk alone does not answer."""
    import huggingface_hub.constants  # noqa: PLC0415 - see above
    import huggingface_hub.errors  # noqa: PLC0415
    import huggingface_hub.utils  # noqa: PLC0415

    return huggingface_hub


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _require_success(response: Any, url: str, start: int) -> None:
    status = response.status_code
    if status in _PASSING_STATUSES:
        raise _Cut(f"{url} answered {status}")
    if status == HTTPStatus.PARTIAL_CONTENT:
        if response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return
        raise _Refused(f"{url} answered with other bytes than those asked for")
    if status != HTTPStatus.OK:
        raise _Refused(f"{url} answered {status}")


def _require_size(response: Any, file: PublishedFile, held: int) -> None:
    """Refuse before the first byte when the announced size is not the published one."""
    length = response.headers.get("Content-Length")
    if length is None or "Content-Encoding" in response.headers:
        return
    if (offered := held + int(length)) != file.size_bytes:
        raise _Refused(
            f"the hub offers {file.name} with {offered:,} bytes, published are {file.size_bytes:,}"
        )


# Saying it --------------------------------------------------------------------------


def in_gb(count: int) -> str:
    """Write a number of bytes in decimal gigabytes, as disks and networks count."""
    return f"{count / 1e9:.2f} GB"


def manual_command(release: Release, directory: Path) -> str:
    """Return the shell command that fetches the same files with the hub's own tool."""
    names = " ".join(file.name for file in release.files)
    return (
        f"hf download {release.repository} {names} --revision {release.revision} "
        f"--local-dir {shlex.quote(str(directory))}"
    )


def _no_weights(
    model_name: str, model_path: Path, search: Search, refusal: str, hub: Hub
) -> StartupError:
    name = model_name if model_name in hub.releases else next(iter(hub.releases))
    release, path = hub.releases[name], shlex.quote(str(model_path))
    looked = [f"  - {reason}" for reason in search.rejected] or ["  - nowhere: no such model"]
    return StartupError(
        "\n".join(
            [
                f"No weights for MODEL_NAME={model_name}. Looked in:",
                *looked,
                f"Download: {refusal}.",
                f"To download {name} ({in_gb(release.total_bytes)}) ahead of time: "
                f"python scripts/download_model.py {name} --path {path}",
                f"By hand: {manual_command(release, model_path / name)}",
                "To speak without any weights: MODEL_NAME=espeak-ng, the embedded voice.",
            ]
        )
    )
