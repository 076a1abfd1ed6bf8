"""Measure any running server of this API: first audio, real-time factor, underruns, throughput.

    .venv/bin/python scripts/bench_http.py [URL] --closed 1,4,16 --open 1,5 --requests 32
                     [--reference .venv-reference/bin/python --checkpoint DIRECTORY]

Closed loop: so many streams at all times, each asking again as soon as its answer is complete.
Open loop: requests arrive by a Poisson process at so many a second, whatever the server does.
First audio is counted from the request to the first complete sample at the client; an underrun is
a moment at which a player that started with the first sample would have run dry. --reference has
the official package speak as much at once as each closed loop has streams, on the checkpoint that
the server has; both take the machine for themselves, one after the other.
"""

import argparse
import asyncio
import json
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench_common import (
    Collector,
    Load,
    LoadRow,
    Player,
    commit,
    load_table,
    loads,
    measure_reference,
    numbers,
    reference_line,
)

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of a tree."
SAMPLE_BYTES = 2
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Speech:
    """What every request asks for."""

    text: str
    max_length: int
    speaker: str | None
    language: str | None


class Client(Collector):
    """Asks one server."""

    def __init__(self, client: httpx.AsyncClient, speech: Speech, sample_rate_hz: int) -> None:
        super().__init__()
        self._client = client
        self._body = {k: v for k, v in asdict(speech).items() if v is not None} | {"format": "pcm"}
        self._sample_rate_hz = sample_rate_hz
        self._seed = 0

    async def ask(self) -> None:
        self._seed += 1
        player, left = Player(self._sample_rate_hz), 0
        try:
            async with self._client.stream(
                "POST", "/stream-tts", json=self._body | {"seed": self._seed}
            ) as response:
                if response.status_code != 200:
                    self.count_error(f"status {response.status_code}")
                    return
                async for part in response.aiter_raw():
                    samples, left = divmod(left + len(part), SAMPLE_BYTES)
                    if samples:
                        player.hear(samples)
        except httpx.HTTPError as error:
            self.count_error(type(error).__name__)
        else:
            self.count(player)


async def measure(
    url: str, speech: Speech, load: Load, requests: int, headers: dict[str, str]
) -> LoadRow:
    """Run one load against the server and sum it up."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=TIMEOUT_S, limits=limits, headers=headers
    ) as client:
        rate_hz = (await client.get("/health")).json()["sampling_rate"]
        await Client(client, speech, rate_hz).ask()
        collector = Client(client, speech, rate_hz)
        row = await load.run(collector, requests)
    if collector.errors:
        print(f"  errors at {load.name}: {collector.errors}", file=sys.stderr)
    return row


def origin(url: str) -> dict[str, str]:
    """What a figure must say of itself: command, commit, device, date."""
    state = httpx.get(f"{url}/health", timeout=TIMEOUT_S).json()
    return {
        "command": " ".join(["scripts/bench_http.py", *sys.argv[1:]]),
        "commit": commit(),
        "server": f"{state['model']} on {state['device']}, {state['slots']['total']} slots",
        "client": f"{platform.machine()}, {platform.system()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
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
    parser.add_argument("--reference", help="the Python of .venv-reference: time the official too")
    parser.add_argument("--checkpoint", type=Path, help="what the official package then loads")
    parser.add_argument("--threads", type=int, default=0, help="of the official package")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    if given.reference and not given.checkpoint:
        parser.error("--reference needs --checkpoint, the directory that the server has loaded")
    return given


def main() -> None:
    """Measure each load in turn and print the table."""
    given = parse()
    speech = Speech(given.text, given.max_length, given.speaker, given.language)
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    rows, references, lines = [], [], []
    for load in loads(given.closed, given.open):
        print(f"measuring {load.name} ...", file=sys.stderr)
        rows.append(asyncio.run(measure(given.url, speech, load, given.requests, headers)))
        if given.reference and load.streams:
            options: dict[str, Any] = {"text": given.text, "frames": given.max_length}
            options |= {"batch": load.streams, "threads": given.threads}
            references.append(measure_reference(given.reference, given.checkpoint, **options))
            lines.append(reference_line(references[-1], rows[-1].audio_s_per_s))
    facts = origin(given.url)
    print(
        "\n".join(f"{key}: {value}" for key, value in facts.items()), load_table(rows), sep="\n\n"
    )
    print("\n".join(lines))
    if given.json:
        record = {**facts, "rows": [asdict(row) for row in rows], "references": references}
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
