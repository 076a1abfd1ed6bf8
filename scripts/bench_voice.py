#!/usr/bin/env python3
"""Measure what making a voice of a recording takes, by part.

    scripts/bench_voice.py CHECKPOINT [--seconds 3,10,30] [--repeats 5] [--threads N] [--json FILE]

CHECKPOINT is a Base one, or one of scripts/make_random_checkpoint.py with --kind base: what is
measured does not depend on the weights. The recordings are noise of 44.1 kHz in FLAC. `read`
decodes and resamples it, `embed` is the speaker encoder, `encode` the codec's encoder; medians in
milliseconds, of wall time. They run on the CPU whatever the device of the rest, and only when a
voice is made: a kept voice needs none of them. Run it on an idle machine: the load is printed.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from datetime import date
from io import BytesIO
from os import getloadavg
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch

from bench_common import commit, numbers
from bench_engine import cpu_flags, cpu_name
from qwen_tts_service.audio.recording import read_recording
from qwen_tts_service.model.config import load_config
from qwen_tts_service.model.voice_encoder import VoiceEncoder

RATE_HZ = 44100
PARTS = ("read", "embed", "encode")


def main() -> int:
    """Measure every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seconds", type=numbers, default=[3, 10, 30], help="of the recordings")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    facts = {
        "command": shlex.join(["scripts/bench_voice.py", *sys.argv[1:]]),
        "commit": commit(),
        "date": date.today().isoformat(),
        "device": cpu_name(),
        "cpu_flags": cpu_flags(),
        "threads": torch.get_num_threads(),
        "load_average": getloadavg()[0],
        "torch": torch.__version__.split("+")[0],
    }
    for name, value in facts.items():
        print(f"{name}: {value}")
    encoder = VoiceEncoder.load(arguments.checkpoint, load_config(arguments.checkpoint))
    print("| recording, s | " + " | ".join(f"{part}, ms" for part in PARTS) + " |")
    print("|---" * (1 + len(PARTS)) + "|")
    rows = []
    for seconds in arguments.seconds:
        rows.append({"seconds": seconds, **measure(encoder, seconds, arguments.repeats)})
        print(f"| {seconds:g} | " + " | ".join(f"{rows[-1][part]:.0f}" for part in PARTS) + " |")
    facts["peak_memory_mib"] = getrusage(RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory: {facts['peak_memory_mib']:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    return 0


def measure(encoder: VoiceEncoder, seconds: float, repeats: int) -> dict[str, float]:
    """Milliseconds of each part; once before for what happens at the first time only."""
    file = BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE_HZ))
    soundfile.write(file, noise, RATE_HZ, format="FLAC")
    samples = read_recording(file.getvalue()).samples
    works: dict[str, Callable[[], Any]] = {
        "read": lambda: read_recording(file.getvalue()),
        "embed": lambda: encoder.embed(samples),
        "encode": lambda: encoder.encode(samples),
    }
    return {name: median_ms(work, repeats) for name, work in works.items()}


def median_ms(work: Callable[[], Any], repeats: int) -> float:
    """The median of what it takes, without the first time."""
    work()
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        spent.append(1e3 * (time.perf_counter() - started))
    return median(spent)


if __name__ == "__main__":
    sys.exit(main())
