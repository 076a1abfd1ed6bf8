"""Write constraints.txt and requirements-*.txt from what is installed in this environment.

Run it with `.venv/bin/python scripts/lock.py` after the tests have passed with newer versions.
It pins what the extras pull in here, so a package for another platform only stays unpinned.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FILES = {
    "constraints.txt": (
        ("espeak", "qwen", "aac", "ru", "ru-stress", "books", "dev", "mutate"),
        "The exact versions that scripts/setup installs and the tests pass with.",
    ),
    "requirements-ci.txt": (
        ("espeak", "qwen", "aac", "dev"),
        "What CI installs: everything that the tests need, so that nothing has to be resolved.",
    ),
    "requirements-image.txt": (
        ("qwen",),
        "What goes into the image: the model, and no GPL package. See docs/adr/0003.",
    ),
}


def requirements_of(extras: Iterable[str]) -> list[str]:
    """What pyproject.toml asks for: the base and these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = [project["optional-dependencies"][extra] for extra in extras]
    return [*project["dependencies"], *(line for lines in chosen for line in lines)]


def closure(lines: Iterable[str]) -> Iterator[str]:
    """Yield `name==version` for these requirements and all that they require."""
    waiting = [(Requirement(line), "") for line in lines]
    seen = set()
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        found = distribution(wanted.name)
        # A local version (torch's builds have one) names a build, not a version.
        yield f"{re.sub('[-_.]+', '-', found.name).lower()}=={found.version.split('+')[0]}"
        for asked in {"", *wanted.extras} - {e for name, e in seen if name == found.name}:
            seen.add((found.name, asked))
            waiting += [(Requirement(line), asked) for line in found.requires or []]


def content(file: str) -> str:
    """The whole text of one of the FILES."""
    extras, purpose = FILES[file]
    pins = sorted(set(closure(requirements_of(extras))))
    return "\n".join([f"# {purpose}", "# Written by scripts/lock.py.", *pins, ""])


if __name__ == "__main__":
    for name in FILES:
        (ROOT / name).write_text(content(name))
        print(f"{name}: {len(content(name).splitlines()) - 2} pins")
