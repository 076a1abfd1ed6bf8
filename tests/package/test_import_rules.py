"""The rules of the house: who may import whom, who reads the environment, how long things get."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "qwen_tts_service"
SOURCE = ROOT / "src" / PACKAGE

LEAVES = {"types", "errors"}
VALUES = LEAVES | {"channel"}
# What each part of the package may import of ours. Arrows point down: a line names only parts
# of lines above it. A part is a file or a folder directly below the package.
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "settings": {"errors"},
    "channel": LEAVES,
    "admission": LEAVES,
    "text": LEAVES,
    "voice": LEAVES,
    "audio": LEAVES,
    "telemetry": LEAVES,
    "espeak": LEAVES | {"text", "voice", "engine"},
    "hub": LEAVES,
    "kernels": LEAVES,
    "model": LEAVES | {"kernels"},
    "growing_text": LEAVES | {"model"},
    "engine": VALUES | {"model", "kernels"},
    "qwen": VALUES | {"text", "voice", "engine", "model", "growing_text"},
    "script": LEAVES | {"text"},
    "script_stream": LEAVES | {"text"},
    "open_stream": LEAVES | {"text"},
    "synthesizer": VALUES
    | {
        "script",
        "script_stream",
        "open_stream",
        "text",
        "voice",
        "audio",
        "telemetry",
        "admission",
    },
    "fields": LEAVES | {"settings", "text"},
    "api": VALUES
    | {"settings", "fields", "synthesizer", "text", "voice", "audio", "telemetry", "admission"},
    "build": None,  # the one file that knows every concrete class
    "cli": VALUES | {"settings", "fields", "synthesizer", "build", "audio", "voice"},
    "__main__": {"cli"},
    "__init__": set(),
}
TENSORS = {"kernels", "model", "engine"}
HEAVY = {"torch", "transformers", "safetensors", "flash_attn"}
WEB = {"bentoml", "_bentoml_sdk", "starlette", "fastapi", "uvicorn", "aiohttp", "httpx"}
MODULES = sorted(SOURCE.rglob("*.py"))
PYTHON_FILES = sorted(
    path
    for path in [
        *MODULES,
        *ROOT.glob("*.py"),
        *ROOT.glob("scripts/*.py"),
        *ROOT.glob("tests/**/*.py"),
    ]
)


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_by(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, as an absolute dotted name."""
    package = [PACKAGE, *path.relative_to(SOURCE).parts[:-1]]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            # `from . import x` names the module only in its list.
            yield from (f"{name}.{a.name}" for a in node.names) if not node.module else [name]


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_module = pytest.mark.parametrize("path", MODULES, ids=id_of)


@each_module
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what {part} may import"
    allowed = MAY_IMPORT[part]
    ours = [name.split(".") for name in imported_by(path) if name.split(".")[0] == PACKAGE]
    used = {name[1] for name in ours if len(name) > 1} - {part, "__version__"}
    assert allowed is None or used <= allowed, f"{part} must not know {used - allowed}"


@each_module
def test_only_kernels_model_and_engine_import_torch(path: Path) -> None:
    used = {name.split(".")[0] for name in imported_by(path)}
    if part_of(path) not in TENSORS:
        assert not used & HEAVY


@each_module
def test_only_the_api_knows_the_web(path: Path) -> None:
    used = {name.split(".")[0] for name in imported_by(path)}
    if part_of(path) not in {"api", "build"}:
        assert not used & WEB


@each_module
def test_model_and_engine_trust_their_values(path: Path) -> None:
    if part_of(path) in TENSORS:
        assert "pydantic" not in {name.split(".")[0] for name in imported_by(path)}


@pytest.mark.parametrize("path", [*MODULES, ROOT / "service.py"], ids=id_of)
def test_only_settings_reads_the_environment(path: Path) -> None:
    # Giving BentoML a default of ours is not reading.
    text = path.read_text().replace("os.environ.setdefault", "print")
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute | ast.alias)
    }
    if path != SOURCE / "settings.py":
        assert not names & {"environ", "environb", "getenv"}


def test_importing_the_service_loads_no_model_library() -> None:
    heavy = sorted(HEAVY | {"espeakng_loader", "pykakasi", "av"})
    code = f"import sys, service; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=id_of)
def test_functions_stay_short(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    long = {f.name for f in functions if (f.end_lineno or f.lineno) - f.lineno >= 60}
    assert not long


def test_the_model_stays_short_enough_to_read() -> None:
    files = (SOURCE / "model").rglob("*.py")
    assert sum(len(path.read_text().splitlines()) for path in files) < 2000


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone knows its own files")
def test_the_repository_stands_alone() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    # Written in pieces, so that this file obeys itself: places and builds of one machine.
    forbidden = re.compile(r"(^|[^\w.])/wo[r]k/|\.\./sha[r]ed|torch==[\w.]+[+]c[p]u")
    found = [
        path.name
        for path in files
        if path.is_file() and forbidden.search(path.read_bytes().decode(errors="ignore"))
    ]
    assert not found
