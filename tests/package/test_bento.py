"""The Bento: built from bentofile.yaml, complete, and served from anywhere."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from tests.conftest import StartServer

ROOT = Path(__file__).parent.parent.parent
BENTOML = [sys.executable, "-m", "bentoml"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME in which the Bento has been built, without any setting of ours."""
    home = tmp_path_factory.mktemp("bentoml")
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    environment.pop("MODEL_NAME", None)
    subprocess.run([*BENTOML, "build"], cwd=ROOT, env=environment, check=True, timeout=240)
    return home


@pytest.fixture(scope="module")
def bento(store: Path) -> Path:
    (manifest,) = store.glob("bentos/qwen_tts/*/bento.yaml")
    return manifest.parent


def test_bento_holds_the_whole_package(bento: Path) -> None:
    def modules(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*.py")}

    assert modules(bento / "src" / "src") == modules(ROOT / "src")


def test_bento_holds_nothing_but_the_service(bento: Path) -> None:
    inside = {path.name for path in (bento / "src").iterdir()}
    assert inside == {"service.py", "src", "README.md", "LICENSE", "bentofile.yaml"} & inside
    assert not list(bento.rglob("*.egg-info"))


def test_image_gets_the_locked_versions(bento: Path) -> None:
    listed = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    locked = (ROOT / "requirements-image.txt").read_text().splitlines()
    assert {line for line in locked if "==" in line} <= set(listed)


def test_image_needs_no_system_packages_and_is_told_its_paths(bento: Path) -> None:
    manifest = yaml.safe_load((bento / "bento.yaml").read_text())
    assert manifest["spec"] == 2
    assert {"name": "MODEL_PATH", "value": "/app/models"}.items() <= manifest["envs"][0].items()
    assert "ffmpeg" not in (bento / "env" / "docker" / "Dockerfile").read_text()


def test_image_has_the_compiler_that_triton_needs(bento: Path) -> None:
    assert "build-essential" in (bento / "env" / "docker" / "Dockerfile").read_text()


def test_bento_serves_from_outside_the_checkout(
    start_server: StartServer, store: Path, tmp_path: Path
) -> None:
    command = " ".join([f"cd {tmp_path} && exec", *BENTOML, "serve qwen_tts:latest --port $PORT"])
    with start_server(command=["bash", "-c", command], BENTOML_HOME=str(store)) as server:
        request = urllib.request.Request(
            f"{server.base_url}/tts",
            data=b'{"text": "Good morning."}',
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read(4) == b"RIFF"
