"""Break a server of one's own under load, faults and hostile input, and count what came of it.

    scripts/test_faults [--quick] [--parts overload,soak] [--checkpoint DIRECTORY] [--json FILE]

Starts the whole of `bentoml serve` with the embedded voice, or with a Qwen3-TTS checkpoint. Meant
for 15 minutes, --quick for two. Exits with 1 if anything failed. docs/reliability.md says what each
part shows, and what is still open.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

from bench_common import commit
from fault_parts import FULL, PARTS, QUICK, Size, Skipped
from fault_server import Failed, FaultServer, serve


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one part ended, and what it counted or why not."""

    part: str
    state: str
    detail: str


def run_part(name: str, server: FaultServer, size: Size) -> Outcome:
    """Run one part; whatever it raises is an outcome too."""
    began_s = time.monotonic()
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        outcome = Outcome(name, "passed", PARTS[name](server, size))
    except Skipped as reason:
        outcome = Outcome(name, "skipped", str(reason))
    except (Failed, ExceptionGroup, httpx.HTTPError, OSError, psutil.Error) as error:
        outcome = Outcome(name, "failed", f"{type(error).__name__}: {error}")
    took_s = time.monotonic() - began_s
    print(f"{name}: {outcome.state} after {took_s:.0f} s", file=sys.stderr, flush=True)
    return outcome


def table(outcomes: list[Outcome]) -> str:
    """The outcomes in Markdown."""
    rows = [f"| {one.part} | {one.state} | {one.detail} |" for one in outcomes]
    return "\n".join(["| Part | State | Counted |", "|---|---|---|", *rows])


def origin(given: argparse.Namespace) -> dict[str, str]:
    """What a figure must say of itself: command, commit, device, date."""
    voice = given.checkpoint.name if given.checkpoint else "the embedded voice"
    return {
        "command": " ".join(["scripts/test_faults", *sys.argv[1:]]),
        "commit": commit(),
        "device": f"{voice} on {platform.machine()}, {psutil.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Break a server in every way we know, and count.")
    parser.add_argument("--quick", action="store_true", help="fewer of everything: two minutes")
    parser.add_argument("--parts", default=",".join(PARTS), help="of these, with commas between")
    parser.add_argument(
        "--checkpoint", type=Path, help="of Qwen3-TTS, instead of the embedded voice"
    )
    parser.add_argument("--json", type=Path, help="write the outcomes here as well")
    given = parser.parse_args()
    given.parts = given.parts.split(",")
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    return given


def main() -> int:
    """Run the parts on one server and print the table."""
    given = parse()
    size = QUICK if given.quick else FULL
    with (
        tempfile.TemporaryDirectory() as home,
        serve(Path(home) / "server", given.checkpoint) as server,
    ):
        parts = [name for name in PARTS if name in given.parts]
        outcomes = [run_part(name, server, size) for name in parts]
    facts = origin(given)
    print(*(f"{key}: {value}" for key, value in facts.items()), "", table(outcomes), sep="\n")
    if given.json:
        record = {**facts, "parts": [asdict(outcome) for outcome in outcomes]}
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(outcome.state == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
