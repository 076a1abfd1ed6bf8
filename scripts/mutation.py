"""Mutation testing of one module: plants faults one at a time, in a copy; see scripts/mutate.

The faults are cosmic-ray's, and statements, keyword arguments and `await` left out. Libraries are
imported once and every fault gets a fork of this process, so that a fault costs its tests and
not the start of pytest. Without TEST arguments the test files that import the module are run,
which is quick but may be too few: before a fault counts as a gap, name the tests that ought to
notice it.
"""

import argparse
import ast
import contextlib
import difflib
import importlib
import importlib.util
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent
SOURCE = Path("src")
# What changes no behaviour: annotations are never evaluated, and decorators are tested by type.
DULL = ("core/RemoveDecorator", "core/ReplaceBinaryOperator_BitOr_")
SLOW_TO_IMPORT = ("torch", "transformers", "bentoml", "soundfile", "hypothesis.strategies")
# Some of those are pytest's plugins, and pytest complains that it has not imported them itself.
QUICKLY = ("-xq", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
STOP_S = 15.0
"""How long a test run that took too long has for stopping its servers."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One small change of a module; `source` returns the whole changed text, None for none."""

    kind: str
    source: Callable[[], str | None]


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("module", type=Path, help="a file under src/")
    parser.add_argument("tests", nargs="*", help="test files or folders; those that import it")
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="most faults (60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which sample (0)")
    parser.add_argument("--timeout", type=float, default=90.0, metavar="S", help="per fault (90)")
    parser.add_argument("--list", action="store_true", help="only list the tests it would run")
    return parser.parse_args()


def importing_tests(module: Path) -> list[str]:
    """The test files that name `module` in an import."""
    dotted = ".".join(module.relative_to(SOURCE).with_suffix("").parts)
    package, _, name = dotted.rpartition(".")
    wanted = (f"from {dotted} import", f"import {dotted}", f"from {package} import {name}")
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(t.relative_to(ROOT)) for t in tests if any(w in t.read_text() for w in wanted)]


@contextlib.contextmanager
def copied_checkout() -> Iterator[Path]:
    """A copy of the files that git knows or does not ignore, removed afterwards."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        yield Path(folder)


def operator_faults(source: str) -> Iterator[Fault]:
    """Every fault of cosmic-ray's operators: other comparisons, numbers, operators, loops."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        operator = get_operator(name)
        if name.startswith(DULL) or operator.arguments():
            continue
        searching = operator()
        positions = sum(1 for node in nodes for _ in searching.mutation_positions(node))
        for position in range(positions):
            yield Fault(name, lambda o=operator, n=position: mutate_code(source, o(), n))


def left_out_faults(source: str) -> Iterator[Fault]:
    """Every statement within a block, keyword argument and `await`, left out."""
    text = source.encode()
    lines = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
    for node in ast.walk(ast.parse(source)):
        start = lines[getattr(node, "lineno", 1) - 1] + getattr(node, "col_offset", 0)
        end = lines[getattr(node, "end_lineno", 1) - 1] + getattr(node, "end_col_offset", 0)
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr) and node.col_offset:
            kind, instead = "" if is_doc else "statement", b"pass"
        elif isinstance(node, ast.keyword):
            kind, instead = "keyword" if node.arg else "", b"**{}"
        else:
            kind, instead = "await" if isinstance(node, ast.Await) else "", b""
            end = start + len("await")
        if kind:
            changed = text[:start] + instead + text[end:].removeprefix(b" ")
            yield Fault(f"{kind} left out", changed.decode)


def compiles(source: str) -> bool:
    """Whether Python takes it without a warning, such as that of `is` with a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            compile(source, "", "exec")
        except SyntaxError:
            return False
    return True


def planted(source: str, size: int, seed: int) -> Iterator[tuple[Fault, str]]:
    """Up to `size` faults that compile, drawn with `seed`, and the module with each."""
    faults = [*operator_faults(source), *left_out_faults(source)]
    random.Random(seed).shuffle(faults)  # noqa: S311
    for fault in faults:
        if not size:
            return
        changed = fault.source()
        if changed and changed != source and compiles(changed):
            size -= 1
            yield fault, changed


def run_tests(tests: list[str], timeout_s: float) -> int | None:
    """Run pytest in a fork, in this folder; its exit code, None for one that took too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        with Path(os.devnull).open("w") as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
            os._exit(pytest.main([*QUICKLY, *tests]))
    for limit_s, sign in ((timeout_s, signal.SIGTERM), (STOP_S, signal.SIGKILL)):
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status) if sign == signal.SIGTERM else None
            time.sleep(0.02)
        os.killpg(child, sign)
    os.waitpid(child, 0)
    return None


def diff(old: str, new: str, name: str) -> str:
    """A fault as a patch."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, "", "", 1, "")
    return "\n".join(lines)


def enter(copy: Path) -> None:
    """Make this process, and what it starts, import the package from the copy."""
    os.chdir(copy)
    sys.path.insert(0, str(copy / SOURCE))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(copy / SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in SLOW_TO_IMPORT:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)


def main() -> None:
    """Run the tests once as they are, then once for each fault; exit code 1 if one lives."""
    asked = arguments()
    module = asked.module.resolve().relative_to(ROOT.resolve())
    tests = asked.tests or importing_tests(module)
    if asked.list or not tests:
        sys.exit("\n".join(tests) or f"No test imports {module}. Name the tests to run.")
    with copied_checkout() as copy:
        enter(copy)
        if run_tests(tests, asked.timeout * 10):
            sys.exit("The tests fail without a fault; fix them first.")
        source = module.read_text(encoding="utf-8")
        count = alive = 0
        for fault, changed in planted(source, asked.sample, asked.seed):
            module.write_text(changed, encoding="utf-8")
            count += 1
            if run_tests(tests, asked.timeout) == 0:
                alive += 1
                print(f"{fault.kind}\n{diff(source, changed, str(module))}", flush=True)
    print(f"{count - alive} of {count} faults caught, {alive} alive")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
