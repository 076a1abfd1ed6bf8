"""scripts/bench_http.py measures what it says it measures; the figures are not tested."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, Server


def bench(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/bench_http.py", url, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_both_loops_are_measured_and_name_their_origin(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = bench(
        server.base_url, "--closed", "1,3", "--open", "20", "--requests", "6", "--json", str(out)
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert {"command", "commit", "server", "date"} <= set(figures)
    assert [row["load"] for row in figures["rows"]] == ["1 streams", "3 streams", "20 requests/s"]
    for row in figures["rows"]:
        assert (row["requests"], row["errors"]) == (6, 0)
        assert 0 < row["first_audio_p50_ms"] <= row["first_audio_p95_ms"]
        assert row["audio_s_per_s"] > 0
    assert "| 3 streams | 6 | 0 |" in done.stdout


def test_refused_requests_are_counted_as_errors(slow: Server) -> None:
    done = bench(slow.base_url, "--closed", "4", "--requests", "8", "--text", "5")
    assert "status 429" in done.stderr
    assert "| 4 streams |" in done.stdout
