"""Mutation testing of one module with cosmic-ray, in a copy of the checkout; see scripts/mutate.

Without TEST arguments the test files that import the module are run, which is quick but may be
too few: before a mutant counts as a gap, name the tests that ought to notice it.
"""

import argparse
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = Path("src")
CONFIG = """\
[cosmic-ray]
module-path = {module!r}
timeout = {timeout_s}
excluded-modules = []
test-command = {command!r}
[cosmic-ray.distributor]
name = "local"
"""
# What changes no behaviour: annotations are never evaluated, and decorators are tested by type.
DULL = ("core/RemoveDecorator", "core/ReplaceBinaryOperator_BitOr_%")


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("module", type=Path, help="a file under src/")
    parser.add_argument("tests", nargs="*", help="test files or folders; those that import it")
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="most mutants (60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which sample (0)")
    parser.add_argument("--timeout", type=float, default=90.0, metavar="S", help="per mutant (90)")
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


def sample(session: Path, size: int, seed: int) -> int:
    """Leave `size` of the session's mutants, drawn with `seed`; returns how many there are."""
    with contextlib.closing(sqlite3.connect(session)) as database, database:
        dull = " OR ".join(["operator_name LIKE ?"] * len(DULL))
        database.execute(f"DELETE FROM mutation_specs WHERE {dull}", DULL)  # noqa: S608
        jobs = [job for (job,) in database.execute("SELECT job_id FROM mutation_specs")]
        kept = random.Random(seed).sample(sorted(jobs), min(size, len(jobs)))  # noqa: S311
        held = ",".join("?" * len(kept))
        for table in ("mutation_specs", "work_items"):
            unsampled = f"DELETE FROM {table} WHERE job_id NOT IN ({held})"  # noqa: S608
            database.execute(unsampled, kept)
    return len(kept)


def report(session: Path) -> int:
    """Print each mutant that lived as a patch, and the count; returns how many lived."""
    query = "SELECT test_outcome, diff FROM work_results"
    with contextlib.closing(sqlite3.connect(session)) as database:
        rows = database.execute(query).fetchall()
    alive = [diff for outcome, diff in rows if outcome == "SURVIVED"]
    print("\n".join(alive))
    print(f"{len(rows) - len(alive)} of {len(rows)} mutants caught, {len(alive)} alive")
    return len(alive)


def main() -> None:
    """Run the tests once as they are, then once for each mutant; exit code 1 if one lives."""
    asked = arguments()
    module = asked.module.resolve().relative_to(ROOT.resolve())
    tests = asked.tests or importing_tests(module)
    if asked.list or not tests:
        sys.exit("\n".join(tests) or f"No test imports {module}. Name the tests to run.")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    with copied_checkout() as copy:
        environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        if subprocess.run(command, check=False, cwd=copy, env=environment).returncode:
            sys.exit("The tests fail without a fault injected; fix them first.")
        config, session = copy / "cosmic-ray.toml", copy / "session.sqlite"
        joined = subprocess.list2cmdline(command)
        config.write_text(
            CONFIG.format(module=str(module), timeout_s=asked.timeout, command=joined)
        )
        tool = [sys.executable, "-m", "cosmic_ray.cli"]
        subprocess.run([*tool, "init", config, session], cwd=copy, check=True)
        count = sample(session, asked.sample, asked.seed)
        print(f"{count} mutants of {module}, {len(tests)} test files each ...", flush=True)
        subprocess.run([*tool, "exec", config, session], cwd=copy, env=environment, check=True)
        sys.exit(1 if report(session) else 0)


if __name__ == "__main__":
    main()
