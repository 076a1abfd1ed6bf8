"""The locked versions: complete, agreeing with pyproject.toml, and the same in the image."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, str]:
    """Canonical name -> exact version, as a file of requirements pins them."""
    lines = (ROOT / name).read_text().splitlines()
    split = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): version for package, version in split}


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize("extra", ["", "espeak", "qwen", "aac", "books", "dev"])
def test_every_requirement_is_locked_within_its_bounds(extra: str) -> None:
    locked = pins("constraints.txt")
    for line in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate():
            assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), line


def test_locked_versions_name_no_build() -> None:
    assert not [version for version in pins("constraints.txt").values() if "+" in version]


def test_the_image_gets_the_versions_the_tests_ran_with() -> None:
    assert pins("requirements-image.txt").items() <= pins("constraints.txt").items()


def test_ci_installs_the_versions_that_are_locked_and_all_it_needs() -> None:
    installed = pins("requirements-ci.txt")
    assert installed.items() <= pins("constraints.txt").items()
    lines = [line for extra in ("espeak", "qwen", "aac", "dev") for line in EXTRAS[extra]]
    needed = [line for line in lines if Requirement(line).marker is None]
    assert names([*PROJECT["dependencies"], *needed]) <= installed.keys()


def test_the_image_has_the_model_and_no_gpl_package() -> None:
    image = set(pins("requirements-image.txt"))
    assert names([*PROJECT["dependencies"], *EXTRAS["qwen"]]) <= image
    assert not names([*EXTRAS["espeak"], *EXTRAS["aac"]]) & image
