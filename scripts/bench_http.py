"""Measure any running server of this API: first audio, real-time factor, underruns, throughput.

    .venv/bin/python scripts/bench_http.py [URL] --closed 1,4,16 --open 1,5 --requests 32

Closed loop: so many streams at all times, each asking again as soon as its answer is complete.
Open loop: requests arrive by a Poisson process at so many a second, whatever the server does.
First audio is counted from the request to the first complete sample at the client; an underrun is
a moment at which a player that started with the first sample would have run dry.
"""

import argparse
import asyncio
import json
import platform
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

import httpx

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of a tree."
SAMPLE_BYTES = 2
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What every request asks for."""

    text: str
    max_length: int
    speaker: str | None
    language: str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request; times in seconds."""

    first_audio_s: float
    total_s: float
    audio_s: float
    underruns: int


@dataclass(frozen=True, slots=True)
class Row:
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


class Bench:
    """Asks one server and collects what came back."""

    def __init__(self, client: httpx.AsyncClient, load: Load, sample_rate_hz: int) -> None:
        self._client = client
        self._body = {k: v for k, v in asdict(load).items() if v is not None} | {"format": "pcm"}
        self._bytes_per_s = sample_rate_hz * SAMPLE_BYTES
        self._seed = 0
        self.samples: list[Sample] = []
        self.errors: dict[str, int] = {}

    async def ask(self) -> None:
        """Stream one answer to its end; a failure is counted by its kind."""
        self._seed += 1
        began_s = time.perf_counter()
        try:
            async with self._client.stream(
                "POST", "/stream-tts", json=self._body | {"seed": self._seed}
            ) as response:
                if response.status_code != 200:
                    self._count_error(f"status {response.status_code}")
                    return
                self.samples.append(await self._listen(response, began_s))
        except httpx.HTTPError as error:
            self._count_error(type(error).__name__)

    def _count_error(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1

    async def _listen(self, response: httpx.Response, began_s: float) -> Sample:
        received = underruns = 0
        first_s = now_s = 0.0
        async for part in response.aiter_raw():
            now_s = time.perf_counter()
            if received < SAMPLE_BYTES:
                first_s = now_s
            elif now_s - first_s > received / self._bytes_per_s:
                underruns += 1
            received += len(part)
        return Sample(first_s - began_s, now_s - began_s, received / self._bytes_per_s, underruns)

    def row(self, load: str, wall_s: float) -> Row:
        """Sum up what was collected in `wall_s` seconds."""
        firsts = sorted(sample.first_audio_s * 1000 for sample in self.samples)
        factors = sorted(s.total_s / s.audio_s for s in self.samples if s.audio_s)
        count = max(1, len(self.samples))
        return Row(
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


def percentile(ordered: list[float], percent: int) -> float:
    """The value that `percent` of the ordered values do not exceed."""
    if len(ordered) < 2:
        return ordered[0] if ordered else float("nan")
    return quantiles(ordered, n=100, method="inclusive")[percent - 1]


async def closed_loop(bench: Bench, streams: int, requests: int) -> None:
    """Keep `streams` requests under way until `requests` have been asked."""
    left = iter(range(requests))

    async def stream() -> None:
        for _ in left:
            await bench.ask()

    await asyncio.gather(*(stream() for _ in range(streams)))


async def open_loop(bench: Bench, per_s: float, requests: int) -> None:
    """Ask at the times of a Poisson process, the same at every run."""
    rng = random.Random(1)  # noqa: S311 - arrival times, not secrets
    asked = []
    for _ in range(requests):
        asked.append(asyncio.create_task(bench.ask()))
        await asyncio.sleep(rng.expovariate(per_s))
    await asyncio.gather(*asked)


async def measure(
    url: str,
    load: Load,
    name: str,
    run: Callable[[Bench], Awaitable[None]],
    headers: dict[str, str],
) -> Row:
    """Run one load against the server and sum it up."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=TIMEOUT_S, limits=limits, headers=headers
    ) as client:
        state = (await client.get("/health")).json()
        warm = Bench(client, load, state["sampling_rate"])
        await warm.ask()
        bench = Bench(client, load, state["sampling_rate"])
        began_s = time.perf_counter()
        await run(bench)
        row = bench.row(name, time.perf_counter() - began_s)
    if bench.errors:
        print(f"  errors at {name}: {bench.errors}", file=sys.stderr)
    return row


def table(rows: list[Row]) -> str:
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


def origin(url: str) -> dict[str, str]:
    """What a figure must say of itself: command, commit, device, date."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    state = httpx.get(f"{url}/health", timeout=TIMEOUT_S).json()
    return {
        "command": " ".join(["scripts/bench_http.py", *sys.argv[1:]]),
        "commit": git.stdout.strip() or "unknown",
        "server": f"{state['model']} on {state['device']}, {state['slots']['total']} slots",
        "client": f"{platform.machine()}, {platform.system()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def numbers(value: str) -> list[float]:
    """Read `1,4,16`; an empty string is none."""
    return [float(part) for part in value.split(",") if part]


def main() -> None:
    """Measure each load in turn and print the table."""
    parser = argparse.ArgumentParser(description="Measure a running server.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8188")
    parser.add_argument("--closed", type=numbers, default=[1, 4, 16], help="streams at all times")
    parser.add_argument("--open", type=numbers, default=[], help="requests per second, Poisson")
    parser.add_argument("--requests", type=int, default=32, help="of each load")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--max-length", type=int, default=56, help="frames of each answer at most")
    parser.add_argument("--speaker")
    parser.add_argument("--language", default="english")
    parser.add_argument("--key", default="", help="the API key, if set")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    load = Load(given.text, given.max_length, given.speaker, given.language)
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    runs: list[tuple[str, Callable[[Bench], Awaitable[None]]]] = [
        (f"{int(n)} streams", lambda b, n=n: closed_loop(b, int(n), given.requests))
        for n in given.closed
    ]
    runs += [
        (f"{rate:g} requests/s", lambda b, rate=rate: open_loop(b, rate, given.requests))
        for rate in given.open
    ]
    rows = []
    for name, run in runs:
        print(f"measuring {name} ...", file=sys.stderr)
        rows.append(asyncio.run(measure(given.url, load, name, run, headers)))
    facts = origin(given.url)
    print("\n".join(f"{key}: {value}" for key, value in facts.items()), table(rows), sep="\n\n")
    if given.json:
        record = {**facts, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
