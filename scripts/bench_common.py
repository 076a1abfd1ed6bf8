"""What the benchmarks share: loads, players that run dry, tables, and where a figure comes from.

A `Load` says when to ask, a `Collector` asks and keeps what came back. It does not know servers or
engines.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer; times in seconds."""

    first_audio_s: float
    total_s: float
    audio_s: float
    underruns: int


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One line of the table."""

    load: str
    requests: int
    errors: int
    first_audio_p50_ms: float
    first_audio_p95_ms: float
    first_audio_p99_ms: float
    real_time_factor_p50: float
    underrun_share: float
    audio_s_per_s: float


class Player:
    """Hears one answer as it comes, and counts how often it would have run dry."""

    def __init__(self, samples_per_s: float) -> None:
        self._samples_per_s = samples_per_s
        self._began_s = time.perf_counter()
        self._first_s = 0.0
        self._samples = self._underruns = 0

    def hear(self, samples: int) -> None:
        """Take the next samples, which have just come."""
        now_s = time.perf_counter()
        if not self._samples:
            self._first_s = now_s
        elif now_s - self._first_s > self._samples / self._samples_per_s:
            self._underruns += 1
        self._samples += samples

    def end(self) -> Sample:
        """Sum up."""
        audio_s, began_s = self._samples / self._samples_per_s, self._began_s
        total_s = time.perf_counter() - began_s
        return Sample(self._first_s - began_s, total_s, audio_s, self._underruns)


class Collector(ABC):
    """Asks, and collects what came back."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.errors: dict[str, int] = {}

    @abstractmethod
    async def ask(self) -> None:
        """Have one answer spoken to its end."""

    def count(self, player: Player) -> None:
        """Count an answer that came to its end."""
        if (sample := player.end()).audio_s:
            self.samples.append(sample)
        else:
            self.count_error("no audio")

    def count_error(self, kind: str) -> None:
        """Count a failure."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def row(self, load: str, wall_s: float) -> LoadRow:
        """Sum up what was collected in `wall_s` seconds."""
        firsts = sorted(sample.first_audio_s * 1000 for sample in self.samples)
        factors = sorted(s.total_s / s.audio_s for s in self.samples if s.audio_s)
        count = max(1, len(self.samples))
        return LoadRow(
            load=load,
            requests=len(self.samples),
            errors=sum(self.errors.values()),
            first_audio_p50_ms=percentile(firsts, 50),
            first_audio_p95_ms=percentile(firsts, 95),
            first_audio_p99_ms=percentile(firsts, 99),
            real_time_factor_p50=percentile(factors, 50),
            underrun_share=sum(s.underruns > 0 for s in self.samples) / count,
            audio_s_per_s=sum(s.audio_s for s in self.samples) / wall_s,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of `streams` at all times, or Poisson arrivals at `per_s`; the other is 0."""

    streams: int = 0
    per_s: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.streams} streams" if self.streams else f"{self.per_s:g} requests/s"

    async def run(self, collector: Collector, requests: int) -> LoadRow:
        """Ask so many times, and sum up."""
        began_s = time.perf_counter()
        await (self._closed if self.streams else self._open)(collector, requests)
        return collector.row(self.name, time.perf_counter() - began_s)

    async def _closed(self, collector: Collector, requests: int) -> None:
        left = iter(range(requests))

        async def stream() -> None:
            for _ in left:
                await collector.ask()

        await asyncio.gather(*(stream() for _ in range(self.streams)))

    async def _open(self, collector: Collector, requests: int) -> None:
        rng = random.Random(1)  # noqa: S311 - arrival times, the same at every run
        asked = []
        for _ in range(requests):
            asked.append(asyncio.create_task(collector.ask()))
            await asyncio.sleep(rng.expovariate(self.per_s))
        await asyncio.gather(*asked)


def loads(streams: list[float], rates: list[float]) -> list[Load]:
    """Closed loops first."""
    return [Load(streams=int(n)) for n in streams] + [Load(per_s=rate) for rate in rates]


def percentile(ordered: list[float], percent: int) -> float:
    """The value that `percent` of the ordered values do not exceed."""
    if len(ordered) < 2:
        return ordered[0] if ordered else float("nan")
    return quantiles(ordered, n=100, method="inclusive")[percent - 1]


def load_table(rows: list[LoadRow]) -> str:
    """The rows as Markdown."""
    head = (
        "| load | requests | errors | first audio p50 / p95 / p99, ms | real-time factor p50 "
        "| streams with underruns | audio-s per s |\n|---|---|---|---|---|---|---|"
    )
    lines = [
        f"| {r.load} | {r.requests} | {r.errors} "
        f"| {r.first_audio_p50_ms:.0f} / {r.first_audio_p95_ms:.0f} / {r.first_audio_p99_ms:.0f} "
        f"| {r.real_time_factor_p50:.2f} | {r.underrun_share:.0%} | {r.audio_s_per_s:.2f} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def numbers(text: str) -> list[float]:
    """Read "1,4,16"; an empty text is none."""
    return [float(part) for part in text.split(",") if part]


def commit() -> str:
    """Name the commit, and say whether files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown"


def measure_reference(python: str, checkpoint: Path, **options: object) -> dict[str, Any]:
    """Let the official package speak in its own process; `options` are those of its script.

    python: the one of the environment that scripts/reference/setup makes
    """
    command = [python, str(ROOT / "scripts/reference/speak.py"), str(checkpoint)]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the official package failed; is it set up?\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found | options


def reference_line(reference: dict[str, Any], ours_audio_s_per_s: float) -> str:
    """Say what the official package took, and how much more audio ours made."""
    return (
        f"{reference['package']} ({reference['dtype']}) at batch {reference['batch']}: "
        f"{reference['ms_per_frame']:.0f} ms per frame, "
        f"{reference['audio_s_per_s']:.2f} audio-s per s, "
        f"first audio {reference['first_audio_s']:.1f} s; "
        f"ours makes {ours_audio_s_per_s / reference['audio_s_per_s']:.1f} times as much audio"
    )
