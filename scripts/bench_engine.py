#!/usr/bin/env python3
"""Measure the engine: milliseconds per frame by part, for batches of several sizes.

    scripts/bench_engine.py CHECKPOINT [--batch 1,2,4,8,16] [--frames 48] [--device cpu]
                            [--threads N] [--layout full_text] [--linear half] [--json FILE]

CHECKPOINT may come from scripts/make_random_checkpoint.py: what is measured does not depend on
the weights, as every utterance is made to last for exactly the frames asked for. For each batch
so many utterances start together. `talker`, `predictor`, `other` (sampling, embeddings) and
`codec` are means per step over the steps in which all rows advanced and no prompt was read;
`own` is the CPU time of the engine's
thread outside these, that is of its Python. `prompt` is what reading one prompt takes,
`first` and `last` when the first and the last of them got audio, and `x real` all audio made by
all the time taken, prompts included. `roofline` compares the time that the weights of a frame
need at the bandwidth of a large copy, measured here, with the time the frame took.

On CUDA a frame is one graph, so its parts cannot be told apart: all of it is `talker`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.engine.engine import Engine, EngineOptions, EngineStatistics, choose_runner
from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.threads import on_a_thread_that_ends
from qwen_tts_service.model.config import ModelConfig, TransformerConfig
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import FRAME_S, SamplingOptions

ROOT = Path(__file__).resolve().parent.parent
TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why it does."
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
COPY_BYTES = 1 << 28
PARTS = ("talker", "predictor", "other", "codec", "own")


class Clock:
    """Seconds spent in each part of the step that is under way, and in each finished step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: Counter[str] = Counter()
        self._busy = 0.0
        self.steps: list[tuple[int, dict[str, float]]] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of this block for a part."""
        started, busy = time.perf_counter(), time.thread_time()
        yield
        self._spent[name] += time.perf_counter() - started
        self._spent[f"{name} busy"] += time.thread_time() - busy

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted for a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def end_step(self, statistics: EngineStatistics) -> None:
        """Keep what was spent in the step that has just ended."""
        spent, self._spent = self._spent, Counter()
        busy, self._busy = time.thread_time() - self._busy, time.thread_time()
        spent["step"] = statistics.step_s
        spent["own"] = busy - sum(spent[f"{name} busy"] for name in ("frame", "codec", "prompt"))
        self.steps.append((statistics.rows, dict(spent)))


class TimedRunner:
    """A runner whose calls are timed and whose speeches do not end by themselves."""

    def __init__(self, inner: Any, clock: Clock) -> None:
        self.run_ahead = inner.run_ahead
        self._inner = inner
        self._clock = clock
        self.begin = clock.timed("prompt", inner.begin)
        self.prefill = clock.timed("prompt", inner.prefill)
        self.clear = inner.clear

    def frame(self, slots: Sequence[int], **how: Any) -> Any:
        with self._clock.part("frame"):
            ends = self._inner.frame(slots, **how)
        wait = ends.wait
        ends.wait = self._clock.timed("frame", lambda: [False] * len(wait()))
        return ends

    def sound(self, *what: Any) -> Any:
        with self._clock.part("codec"):
            sound = self._inner.sound(*what)
        sound.wait = self._clock.timed("codec", sound.wait)
        return sound


@dataclass(frozen=True)
class Row:
    """One line of the table; times in ms."""

    batch: int
    step: float
    talker: float
    predictor: float
    other: float
    codec: float
    own: float
    own_us_per_row: float
    prompt: float
    first: float
    last_first: float
    x_real_time: float
    roofline: float


def main() -> int:
    """Run all batches and print the table."""
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, facts = on_a_thread_that_ends(load, arguments)
    for name, value in facts.items():
        print(f"{name}: {value}")
    clock = Clock(model.device)
    if model.device.type == "cpu":
        model.talker.step = clock.timed("talker", model.talker.step)  # type: ignore[method-assign]
        forward = clock.timed("predictor", model.code_predictor.forward)
        model.code_predictor.forward = forward  # type: ignore[method-assign]
    print_line(
        ["batch", "step", *PARTS, "own/row", "prompt", "first", "last", "x real", "roofline"]
    )
    rows = []
    for batch in arguments.batch:
        rows.append(measure(model, clock, batch, arguments, facts["copy_bandwidth_gb_s"]))
        print_row(rows[-1])
    facts["peak_memory_mib"] = peak_memory_mib(model.device)
    print(f"peak memory: {facts['peak_memory_mib']:.0f} MiB")
    references = []
    for row in rows if arguments.reference else ():
        references.append(measure_reference(row.batch, arguments))
        print_reference(row, references[-1])
    if arguments.json:
        result = {"facts": facts, "rows": [asdict(row) for row in rows], "references": references}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def load(arguments: argparse.Namespace) -> tuple[Qwen3TTS, dict[str, Any]]:
    """Load the checkpoint and say what is measured, where and when."""
    model = Qwen3TTS.load(
        arguments.checkpoint,
        device=arguments.device,
        linear=arguments.linear,
        codec_dtype=getattr(torch, arguments.codec_dtype),
    )
    return model, describe(model)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batch", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--layout", choices=["full_text", "streaming_text"], default="full_text")
    parser.add_argument("--linear", choices=["float", "packed", "half", "int8"])
    parser.add_argument("--codec-dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--reference", help="the Python of .venv-reference: time the official too")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    """Read "1,2,4"."""
    return [int(part) for part in text.split(",")]


def measure(
    model: Qwen3TTS, clock: Clock, batch: int, arguments: argparse.Namespace, copy_gb_s: float
) -> Row:
    """Speak `batch` utterances at once and average the steps in which all advanced."""
    options = EngineOptions(
        slots=batch,
        max_positions=min(model.config.max_positions, arguments.frames + 128),
        silence_rms=0.0,
        max_lead_s=3600,
    )
    plain = on_a_thread_that_ends(choose_runner, model, options, lambda _step, _done: None)
    runner = TimedRunner(plain, clock)
    engine = Engine(model, options, on_step=clock.end_step, runner=runner)
    try:
        asyncio.run(speak(engine, [make_job(model, 99, arguments)]))
        clock.steps.clear()
        started = time.perf_counter()
        jobs = [make_job(model, seed, arguments) for seed in range(batch)]
        first = asyncio.run(speak(engine, jobs))
        whole_s = time.perf_counter() - started
    finally:
        engine.close()
    steps = [spent for rows, spent in clock.steps if rows == batch and "prompt" not in spent]
    mean = {
        name: sum(spent.get(name, 0.0) for spent in steps) / len(steps)
        for name in ("step", "frame", "talker", "predictor", "codec", "own")
    }
    if not mean["talker"]:
        mean["talker"] = mean["frame"]
    return Row(
        batch=batch,
        step=1e3 * mean["step"],
        talker=1e3 * mean["talker"],
        predictor=1e3 * mean["predictor"],
        other=1e3 * (mean["frame"] - mean["talker"] - mean["predictor"]),
        codec=1e3 * mean["codec"],
        own=1e3 * mean["own"],
        own_us_per_row=1e6 * mean["own"] / batch,
        prompt=1e3 * sum(spent.get("prompt", 0.0) for _, spent in clock.steps) / batch,
        first=1e3 * min(first),
        last_first=1e3 * max(first),
        x_real_time=batch * arguments.frames * FRAME_S / whole_s,
        roofline=weight_bytes(model) / (copy_gb_s * 1e9) / mean["frame"],
    )


def measure_reference(batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the official package make as many frames of the same text, in its own process."""
    command = [arguments.reference, str(ROOT / "scripts/reference/speak.py")]
    command += [str(arguments.checkpoint), "--text", TEXT, "--batch", str(batch)]
    command += ["--frames", str(arguments.frames), "--threads", str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the official package failed; is it set up?\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"batch": batch}


def print_reference(row: Row, reference: dict[str, Any]) -> None:
    """Say what the official package took, and how many times as much that is."""
    ours = row.batch * FRAME_S / row.step * 1e3
    print(
        f"{reference['package']} ({reference['dtype']}) at batch {row.batch}: "
        f"{reference['ms_per_frame']:.0f} ms per frame, "
        f"{reference['audio_s_per_s']:.2f} audio-s per s, "
        f"first audio {reference['first_audio_s']:.1f} s; "
        f"ours makes {ours / reference['audio_s_per_s']:.1f} times as much audio"
    )


async def speak(engine: Engine, jobs: list[Job]) -> list[float]:
    """Speak all at once; returns for each the seconds until its first audio."""
    started = time.perf_counter()

    async def one(job: Job) -> float:
        first = 0.0
        async for _ in engine.submit(job):
            first = first or time.perf_counter() - started
        return first

    return await asyncio.gather(*[one(job) for job in jobs])


def make_job(model: Qwen3TTS, seed: int, arguments: argparse.Namespace) -> Job:
    """Return an utterance of the usual kind."""
    return Job(
        ids=tuple(model.tokenizer.encode(TEXT)),
        speaker=model.config.speakers[0],
        language="english",
        layout=arguments.layout,
        seed=seed,
        sampling=SamplingOptions(),
        max_frames=arguments.frames,
        runaway_frames=arguments.frames,
    )


def weight_bytes(model: Qwen3TTS) -> float:
    """Return the bytes of weights that one frame step reads at least once per use."""
    config: ModelConfig = model.config
    books = config.codebooks - 1
    talker = block_weights(config.talker) + config.width * (config.codes + 1)
    predictor = config.code_predictor
    per_pass = block_weights(predictor) + predictor.width * config.codes
    if predictor.width != config.width:
        per_pass += predictor.width * config.width
    size = {"half": 2, "int8": 1}.get(model.linear, model.dtype.itemsize)
    return float(size * (talker + books * per_pass))


def block_weights(sizes: TransformerConfig) -> int:
    """Return how many weights the layers of a stack have."""
    attention = sizes.head_size * (2 * sizes.heads + 2 * sizes.kv_heads)
    return sizes.layers * sizes.width * (attention + 3 * sizes.feed_forward)


def copy_bandwidth_gb_s(device: torch.device) -> float:
    """Measure reading plus writing of a large copy, the best of five."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * COPY_BYTES / min(times[1:]) / 1e9


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory used so far: of the device, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def describe(model: Qwen3TTS) -> dict[str, Any]:
    """Say what was measured, where and when."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    is_cuda = model.device.type == "cuda"
    return {
        "command": shlex.join(["scripts/bench_engine.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if is_cuda else cpu_name(),
        "cpu_flags": cpu_flags(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "versions": f"python {platform.python_version()}, torch {torch.__version__.split('+')[0]}",
        "arithmetic": f"{model.dtype}, linear layers {model.linear}".removeprefix("torch."),
        "codec": str(model.codec.dtype).removeprefix("torch."),
        "attention": f"{model.attention.name} ({model.attention.reason})",
        "copy_bandwidth_gb_s": round(copy_bandwidth_gb_s(model.device), 1),
    }


def cpu_name() -> str:
    """Return the processor's name as the kernel tells it."""
    return next((line for line in cpu_lines("model name")), platform.machine())


def cpu_flags() -> str:
    """Return those of the CPU's flags that decide how fast matmuls are."""
    flags = next((line for line in cpu_lines("flags")), "").split()
    return " ".join(flag for flag in FLAGS if flag in flags) or "unknown"


def cpu_lines(key: str) -> Iterator[str]:
    """Yield the values of a key in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.partition(":")[0].strip() == key:
            yield line.partition(":")[2].strip()


def print_line(cells: Sequence[str]) -> None:
    """Print one line of the table."""
    print(" ".join(f"{cell:>9}" for cell in cells), flush=True)


def print_row(row: Row) -> None:
    """Print one batch."""
    times = [row.step, *[getattr(row, part) for part in PARTS]]
    print_line(
        [
            str(row.batch),
            *[f"{value:.1f}" for value in times],
            f"{row.own_us_per_row:.0f} us",
            f"{row.prompt:.0f}",
            f"{row.first:.0f}",
            f"{row.last_first:.0f}",
            f"{row.x_real_time:.2f}",
            f"{100 * row.roofline:.0f} %",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
