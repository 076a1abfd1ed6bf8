#!/usr/bin/env python3
"""Download a model's weights ahead of time, or go on with a download that was cut.

    .venv/bin/python scripts/download_model.py [MODEL_NAME] [--path ./models] [--offline]

Run it after scripts/setup qwen. MODEL_NAME and MODEL_PATH are used where nothing is given;
HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

try:
    from tqdm import tqdm

    from qwen_tts_service.errors import StartupError
    from qwen_tts_service.hub import download as weights
    from qwen_tts_service.hub.published import Release
    from qwen_tts_service.settings import EMBEDDED_VOICE, load_settings
    from qwen_tts_service.types import ReportProgress
except ImportError as error:
    sys.exit(
        f"{error}. First: scripts/setup qwen. Then: .venv/bin/python scripts/download_model.py"
    )


def main(arguments: Sequence[str] | None = None, hub: weights.Hub | None = None) -> int:
    """Make the weights be there and say what comes next; return the exit code."""
    try:
        options, hub = _read(arguments, hub or weights.Hub())
        _obtain(options.model_name, options.path, hub)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        return 130
    command = f"MODEL_NAME={options.model_name} MODEL_PATH={options.path} ./scripts/serve"
    print(f"Next: {command}")
    return 0


def _read(
    arguments: Sequence[str] | None, hub: weights.Hub
) -> tuple[argparse.Namespace, weights.Hub]:
    settings = load_settings()
    is_path_set = "model_path" in settings.model_fields_set
    parser = argparse.ArgumentParser(description="Download a model's weights ahead of time.")
    parser.add_argument("model_name", nargs="?", metavar="MODEL_NAME", default=settings.model_name)
    parser.add_argument(
        "--path",
        type=Path,
        default=Path(settings.model_path if is_path_set else "./models"),
        help="where models lie (default: MODEL_PATH, or ./models)",
    )
    parser.add_argument("--offline", action="store_true", help="only look; download nothing")
    options = parser.parse_args(arguments)
    return options, replace(hub, is_offline=options.offline or settings.hf_hub_offline)


def _obtain(model_name: str, path: Path, hub: weights.Hub) -> None:
    if model_name == EMBEDDED_VOICE:
        print(f"{EMBEDDED_VOICE} speaks without weights.")
        return
    if (release := hub.releases.get(model_name)) is None:
        raise StartupError(
            f"There is no model of the name {model_name}. Known: {', '.join(hub.releases)}; "
            f"{EMBEDDED_VOICE} needs no weights."
        )
    search = weights.find(model_name, path, hub=hub)
    if search.directory is None:
        _announce(release, path / model_name)
        with _bar(release.total_bytes) as on_progress:
            directory = weights.find_or_download(model_name, path, hub=hub, on_progress=on_progress)
        print(f"{directory} is complete, every known size and SHA-256 as published.")
    else:
        _verify(release, search.directory)


def _announce(release: Release, directory: Path) -> None:
    print(f"{release.repository} at revision {release.revision}, to {directory}:")
    for file in release.files:
        size = "unknown" if file.size_bytes is None else f"{file.size_bytes:,}"
        print(f"  {size:>15} bytes  {file.name}")
    print(f"  {release.total_bytes:>15,} bytes  together ({weights.in_gb(release.total_bytes)})")


@contextmanager
def _bar(total_bytes: int) -> Iterator[ReportProgress]:
    with tqdm(total=total_bytes, unit="B", unit_scale=True, unit_divisor=1000) as bar:

        def show(step: str, fraction: float) -> None:
            bar.set_description(step, refresh=False)
            bar.update(round(fraction * total_bytes) - bar.n)

        yield show


def _verify(release: Release, directory: Path) -> None:
    print(f"{directory} is already there; verifying {weights.in_gb(release.total_bytes)} ...")
    found = (file.difference(directory / file.name) for file in release.files)
    if differences := [difference for difference in found if difference]:
        raise StartupError(
            f"{directory} would be served, but it is not what was published:\n"
            + "\n".join(f"  - {difference}" for difference in differences)
            + "\nIf that is not on purpose, move it away and run this again."
        )
    print("Every size and SHA-256 is as published.")


if __name__ == "__main__":
    sys.exit(main())
