"""Measure a CUDA device in eight parts and write their tables as Markdown.

    scripts/measure_device [--out DIR] [--parts 1,2,...] [--stop-after-s 1800] [--again]
                           [--size 1.7b] [--device cuda]

Needs a Python with torch, triton, numpy, transformers and safetensors, and no network. It makes a
checkpoint of random weights in DIR first, unless one is there, and runs each part in a process of
its own under a limit of its own, ten minutes at most and 30 together. A part leaves its figures in
DIR/part-N.json, also when it fails or runs out of time, and is not measured again unless --again
says so: where a command may not last for long, give --stop-after-s and repeat the command. In the
end DIR/tables.md has all tables, for docs/benchmarks.md. --size tiny --device cpu tries the script
itself.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from bench_common import commit, numbers
from device_parts import PARTS, title_of
from make_random_checkpoint import write_checkpoint

SCRIPTS = Path(__file__).resolve().parent


def main() -> int:
    """Measure the parts that are missing; 0 if all that were asked for are complete."""
    given = parse()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("This needs a CUDA device, and torch sees none.", file=sys.stderr)
        return 2
    deadline_s = time.monotonic() + given.stop_after_s
    given.out.mkdir(parents=True, exist_ok=True)
    checkpoint = given.out / f"random-{given.size}"
    if not (checkpoint / "is_complete").exists():
        print(f"Making random weights of the {given.size} shapes ...", flush=True)
        write_checkpoint(given.size, checkpoint, never_ends=True)
        (checkpoint / "is_complete").touch()
    is_complete = True
    for number in given.parts:
        is_complete &= run_part(number, checkpoint, given, deadline_s)
    tables = given.out / "tables.md"
    tables.write_text(markdown(given), encoding="utf-8")
    print(f"The tables are in {tables}.")
    return 0 if is_complete else 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = list(range(1, len(PARTS) + 1))
    parser.add_argument("--out", type=Path, default=Path("measured"))
    parser.add_argument("--parts", type=numbers, default=every)
    parser.add_argument("--stop-after-s", type=float, default=1800)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--size", choices=("1.7b", "0.6b", "tiny"), default="1.7b")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    given.parts = [int(number) for number in given.parts]
    if not set(given.parts) <= set(every):
        parser.error(f"--parts: there are parts 1 to {len(every)}")
    return given


def run_part(number: int, checkpoint: Path, given: argparse.Namespace, deadline_s: float) -> bool:
    """Run a part in its own process unless its figures are there; whether they are complete."""
    part, limit_s = PARTS[number - 1]
    out = given.out / f"part-{number}.json"
    print(f"Part {number} of {len(PARTS)}: {title_of(part)}", flush=True)
    if not given.again and read(out).get("is_complete"):
        print(f"is in {out} already; --again measures it anew")
        return True
    if time.monotonic() + limit_s > deadline_s:
        print(f"may take {limit_s} s, which --stop-after-s does not leave; repeat the command")
        return False
    scale = "tiny" if given.size == "tiny" else "full"
    command = [sys.executable, str(SCRIPTS / "device_parts.py"), str(number), str(checkpoint)]
    command += [f"--out={out}", f"--device={given.device}", f"--scale={scale}"]
    out.unlink(missing_ok=True)
    try:
        return subprocess.run(command, timeout=limit_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"stopped after {limit_s} s; what it had measured is kept")
        return False


def read(path: Path) -> dict[str, Any]:
    """Return the JSON of a part, {} if there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def markdown(given: argparse.Namespace) -> str:
    """Return the tables of all parts that have figures."""
    command = f"scripts/measure_device --size {given.size} --device {given.device}"
    lines = [f"`{command}`, commit {commit()}, {date.today().isoformat()}, random weights."]
    for number in range(1, len(PARTS) + 1):
        result = read(given.out / f"part-{number}.json")
        if not result:
            continue
        lines += ["", f"### {number}. {result['title']}"]
        if not result["is_complete"]:
            lines += ["", f"Not complete: {result.get('error', 'out of time')}"]
        for title, rows in result["tables"].items():
            lines += ["", f"**{title}**", "", *table(rows)]
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table with a column for every key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(column, "")).replace("|", "\\|") for column in columns] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *cells]]


if __name__ == "__main__":
    sys.exit(main())
