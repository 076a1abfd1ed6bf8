"""Import rules, who reads the environment, lengths of functions and rooms."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "qwen_tts_service"
SOURCE = ROOT / "src" / PACKAGE

LEAVES = {"types", "errors"}
# What each room of the package may import of ours. Arrows point down: a line names only rooms of
# lines above it. A room is a file or a folder directly below the package; "engine.channel" is one
# file of a room, for those who may know that file and no more.
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "validation": {"errors"},
    "text": LEAVES,
    "settings": LEAVES | {"text", "validation"},
    "voice": LEAVES,
    "audio": LEAVES,
    "telemetry": {"types"},
    "hub": LEAVES,
    "kernels": {"errors"},
    "model": LEAVES | {"kernels"},
    "engine": LEAVES | {"model", "kernels"},
    "espeak": LEAVES | {"text", "voice", "audio.stretch", "engine.channel"},
    "qwen": LEAVES | {"text", "voice", "engine", "model"},
    "speech": LEAVES | {"text", "audio"},
    "books": LEAVES | {"text", "audio"},
    "fields": LEAVES | {"settings", "validation", "text", "voice"},
    "api": LEAVES | {"settings", "validation", "fields", "speech", "voice", "audio", "telemetry"},
    "build": None,  # the one file that knows every concrete class
    "cli": LEAVES
    | {"settings", "validation", "fields", "speech", "build", "voice", "audio", "books"},
    "__main__": {"cli"},
    "__init__": set(),
}
TENSORS = {"kernels", "model", "engine"}
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
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


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_by(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, as an absolute dotted name."""
    package = [PACKAGE, *path.relative_to(SOURCE).parts[:-1]]
    tree = tree_of(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            # `from . import x` names the module only in its list.
            yield from (f"{name}.{a.name}" for a in node.names) if not node.module else [name]


def ours_imported_by(path: Path) -> set[str]:
    """Modules of other rooms that a file imports, such as "engine.channel"."""
    names = {name.partition(f"{PACKAGE}.")[2] for name in imported_by(path)}
    return {
        name for name in names if name and name.split(".")[0] not in (part_of(path), "__version__")
    }


def permissions_for(name: str) -> set[str]:
    """The permissions of which one is needed to import a module: its room, or just that file."""
    return {name.split(".", maxsplit=1)[0], ".".join(name.split(".")[:2])}


def test_imports_point_down() -> None:
    assert {part_of(path) for path in MODULES} == MAY_IMPORT.keys()
    for path in MODULES:
        allowed = MAY_IMPORT[part_of(path)]
        names = ours_imported_by(path) if allowed is not None else set()
        unknown = {name for name in names if not permissions_for(name) & (allowed or set())}
        assert not unknown, f"{path} must not import {unknown}"


@pytest.mark.parametrize("part", [part for part, allowed in MAY_IMPORT.items() if allowed])
def test_every_permission_is_used(part: str) -> None:
    used = [
        permissions_for(name)
        for path in MODULES
        if part_of(path) == part
        for name in ours_imported_by(path)
    ]
    assert MAY_IMPORT[part] <= set().union(*used)


def test_the_diagram_has_the_arrows_that_are_allowed() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    edges = re.findall(r"^ +(\w+)(?:\[.*?\])? -->(?:\|.*?\|)? (\w+)", text, re.MULTILINE)
    drawn = {(start, end) for start, end in edges if start not in {"service", "build"}}
    schema = LEAVES | {"settings", "fields", "validation"}
    left_out = dict.fromkeys(("api", "cli"), schema | {"voice", "audio"})
    rooms = {edge for edges in drawn for edge in edges}
    assert drawn == {
        (room, name.partition(".")[0])
        for room in rooms
        for name in (MAY_IMPORT[room] or set()) - left_out.get(room, schema)
    }


def test_only_kernels_model_and_engine_import_torch() -> None:
    for path in MODULES:
        used = {name.split(".")[0] for name in imported_by(path)} & HEAVY
        assert part_of(path) in TENSORS or not used, f"{path} must not import {used}"


def test_only_the_api_knows_the_web() -> None:
    for path in MODULES:
        used = {name.split(".")[0] for name in imported_by(path)} & WEB
        used -= {"httpx"} if part_of(path) == "cli" else set()  # a client of a server
        assert part_of(path) in {"api", "build"} or not used, f"{path} must not import {used}"


def test_model_and_engine_trust_their_values() -> None:
    for path in MODULES:
        is_pydantic = "pydantic" in {name.split(".")[0] for name in imported_by(path)}
        assert part_of(path) not in TENSORS or not is_pydantic, f"{path} must not import pydantic"


def test_only_settings_reads_the_environment() -> None:
    for path in [*MODULES, ROOT / "service.py"]:
        # Giving BentoML a default of ours is not reading.
        text = path.read_text().replace("os.environ.setdefault", "print")
        names = {
            node.attr if isinstance(node, ast.Attribute) else node.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute | ast.alias)
        }
        used = names & {"environ", "environb", "getenv"}
        assert path == SOURCE / "settings.py" or not used, f"{path} must not read the environment"


def test_importing_the_service_needs_no_model_and_loads_no_model_library() -> None:
    heavy = sorted(HEAVY | {"espeakng_loader", "pykakasi", "av"})
    code = f"import sys, service; print([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "MODEL_NAME": "no-such-model", "DEVICE": "cuda"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


def test_every_table_is_installed_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = [
        (SOURCE.parent / package.replace(".", "/"), pattern)
        for package, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
    ]
    installed = {path for folder, pattern in patterns for path in folder.glob(pattern)}
    kinds = (".toml", ".json", ".txt", ".js", ".html", ".css", ".svg")
    assert {path for path in SOURCE.rglob("*") if path.suffix in kinds} <= installed


def test_functions_stay_short() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in PYTHON_FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= 60
    ]
    assert not long


def test_the_model_stays_short_enough_to_read() -> None:
    files = (SOURCE / "model").rglob("*.py")
    assert sum(len(path.read_text().splitlines()) for path in files) < 3100


def test_class_names_and_type_aliases_are_unique() -> None:
    names = Counter(name for path in MODULES for name in names_defined(tree_of(path)))
    assert not [name for name, count in names.items() if count > 1]


def names_defined(tree: ast.Module) -> Iterator[str]:
    """Classes of a module, and the type aliases and type variables at its top level."""
    yield from (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and re.fullmatch("[A-Z][a-z]\\w*", target.id):
            yield target.id


# Lines of code a room may have: no blanks, comments or docstrings. A room that needs more gets it
# here, by someone who has looked for what could go.
MAX_LINES = {
    "": 1110,
    "api": 3270,
    "audio": 810,
    "books": 830,
    "cli": 890,
    "engine": 1380,
    "espeak": 1280,
    "hub": 350,
    "kernels": 1440,
    "model": 2020,
    "qwen": 370,
    "speech": 1770,
    "telemetry": 150,
    "text": 2750,
    "voice": 590,
}
MAX_LINES_OF_ALL = 18930


def lines_of_code(path: Path) -> int:
    """Count the lines that hold code: no blanks, comments or docstrings, attributes' included."""
    text = path.read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_every_room_stays_small() -> None:
    sizes: Counter[str] = Counter()
    for path in MODULES:
        parts = path.relative_to(SOURCE).parts
        sizes[parts[0] if len(parts) > 1 else ""] += lines_of_code(path)
    assert {room: size for room, size in sizes.items() if size > MAX_LINES[room]} == {}
    assert sizes.total() <= MAX_LINES_OF_ALL


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone knows its own files")
def test_the_repository_stands_alone() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    # Written in pieces, so that this file passes its own test: places and builds of one machine.
    forbidden = re.compile(r"(^|[^\w.])/wo[r]k/|\.\./sha[r]ed|torch==[\w.]+[+]c[p]u")
    found = [
        path.name
        for path in files
        if path.is_file() and forbidden.search(path.read_bytes().decode(errors="ignore"))
    ]
    assert not found
