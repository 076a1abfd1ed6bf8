"""The eight parts of scripts/measure_device: what each measures on a CUDA device.

A part yields rows of tables, (title, cells), as it goes, so that what was measured before a failure
or the end of its time is kept. On the CPU the same code runs with a stand-in for CUDA's graphs and
streams; its figures then say that the script works, and nothing else.

    scripts/device_parts.py NUMBER CHECKPOINT --out FILE [--device cuda] [--scale full|tiny]
"""

import argparse
import gc
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fused_cases
from bench_engine import frame_work

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.engine.driver import CudaDriver, Driver, EagerDriver
from qwen_tts_service.engine.engine import EngineOptions
from qwen_tts_service.engine.graphs import GraphRunner
from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.threads import on_a_thread_that_ends
from qwen_tts_service.kernels.fused import jit
from qwen_tts_service.kernels.fused.choice import choose_kernels
from qwen_tts_service.kernels.fused.noise import race_noise
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import SamplingOptions

SCRIPTS = Path(__file__).resolve().parent
Cells = dict[str, Any]
Rows = Iterator[tuple[str, Cells]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: rows, positions and frames of the calls, and the loads of part 8."""

    rows: tuple[int, ...]
    positions: tuple[int, ...]
    prompts: tuple[int, ...]
    codec_frames: tuple[int, ...]
    slots: int
    max_positions: int
    load: tuple[str, ...]
    repeats: int = 20


SCALES = {
    "full": Scale(
        rows=(1, 8, 16, 32, 64),
        positions=(64, 300, 1000, 4000),
        prompts=(16, 32, 64),
        codec_frames=(1, 2, 4, 8),
        slots=10,
        max_positions=2048,
        load=("--batch=1", "--closed=1,64", "--open=1,20", "--requests=64"),
    ),
    "tiny": Scale(
        rows=(1, 2),
        positions=(40,),
        prompts=(16,),
        codec_frames=(1, 2),
        slots=2,
        max_positions=256,
        load=("--batch=1", "--frames=4", "--closed=2", "--requests=2"),
        repeats=2,
    ),
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What a part works on."""

    checkpoint: Path
    device: torch.device
    scale: Scale

    def load(self, **options: Any) -> Qwen3TTS:
        """Load the checkpoint on the device."""
        options = {"device": self.device} | options
        return on_a_thread_that_ends(lambda: Qwen3TTS.load(self.checkpoint, **options))

    def driver(self) -> Driver:
        """CUDA's graphs, or plain calls."""
        return CudaDriver(self.device) if self.is_cuda else EagerDriver()

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronise(self) -> None:
        """Wait for all work that the device has been given."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def call_ms(self, work: Callable[[], Any]) -> float:
        """Milliseconds of one call, the mean of some in a row, by the device's own events."""
        work()
        self.synchronise()
        if not self.is_cuda:
            return self.host_ms(work)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(self.scale.repeats):
            work()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / self.scale.repeats

    def host_ms(self, work: Callable[[], Any]) -> float:
        """Milliseconds of this thread for one call, which the device may still be working on."""
        began_s = time.perf_counter()
        for _ in range(self.scale.repeats):
            work()
        spent_s = time.perf_counter() - began_s
        self.synchronise()
        return 1e3 * spent_s / self.scale.repeats


# 1 ------------------------------------------------------------------------------------


def checks(setup: Setup) -> Rows:
    """What there is to work with, and scripts/check_cuda.py."""
    yield "Device", environment(setup)
    command = [sys.executable, str(SCRIPTS / "check_cuda.py"), str(setup.checkpoint)]
    is_over = False
    with subprocess.Popen(
        [*command, "--device", str(setup.device)], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if found := re.match(r"(ok|FAILED|\d+/\d+ checks passed) *(.*)", line):
                yield "Checks", {"result": found[1], "check": found[2]}
                is_over = found[1].endswith("passed")
    if not is_over:
        raise RuntimeError(f"check_cuda.py ended early, with status {process.returncode}")


def environment(setup: Setup) -> Cells:
    """Return versions, compilers and the device's own figures."""
    kernels = choose_kernels(setup.device, asked=None)
    facts = {
        "torch": torch.__version__.split("+")[0],
        "CUDA of torch": torch.version.cuda or "none",
        "Triton": jit.is_installed,
        "C compiler": next(filter(shutil.which, ("cc", "gcc", "clang")), "none"),
        "flash-attn": importlib.util.find_spec("flash_attn") is not None,
        "kernels": f"{kernels.name} ({kernels.reason})",
        "cores": os.cpu_count(),
    }
    if setup.is_cuda:
        free, total = torch.cuda.mem_get_info(setup.device)
        facts |= {
            "device": torch.cuda.get_device_name(setup.device),
            "capability": "{}.{}".format(*torch.cuda.get_device_capability(setup.device)),
            "free GiB": round(free / 2**30, 1),
            "total GiB": round(total / 2**30, 1),
        }
    return facts


# 2 ------------------------------------------------------------------------------------


@torch.inference_mode()
def census(setup: Setup) -> Rows:
    """Kernels of one replay of a frame: how many, their sum, the gaps, and the longest."""
    model = setup.load()
    for rows in setup.scale.rows[:: 2 if setup.is_cuda else 1]:
        replay = frame_parts(setup, model, rows, setup.scale.positions[0])["frame"]
        kernels = profiled(setup, replay)
        busy_us = sum(end - start for _name, start, end in kernels)
        span_us = max(end for *_, end in kernels) - min(start for _, start, _ in kernels)
        counted = {"rows": rows, "kernels": len(kernels), "sum ms": round(busy_us / 1e3, 3)}
        yield "Kernels of a frame", counted | {"gaps ms": round((span_us - busy_us) / 1e3, 3)}
        spent, count = Counter[str](), Counter(name for name, *_ in kernels)
        for name, start, end in kernels:
            spent[name] += end - start
        for name, us in spent.most_common(30):
            cells = {"rows": rows, "kernel": name[:80], "times": count[name], "us": round(us, 1)}
            yield "The longest kernels of a frame", cells


def profiled(setup: Setup, work: Callable[[], Any]) -> list[tuple[str, float, float]]:
    """Run it once; (name, first and last microsecond) of everything that ran on the device."""
    kinds = torch.profiler.ProfilerActivity
    activity = kinds.CUDA if setup.is_cuda else kinds.CPU
    work()
    setup.synchronise()
    with torch.profiler.profile(activities=[activity]) as profile:
        work()
        setup.synchronise()
    device = torch.autograd.DeviceType.CUDA if setup.is_cuda else torch.autograd.DeviceType.CPU
    return [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profile.events() or ()
        if event.device_type == device and (setup.is_cuda or event.cpu_parent is None)
    ]


# 3 ------------------------------------------------------------------------------------


@torch.inference_mode()
def replays(setup: Setup) -> Rows:
    """Times of captured frames and of their parts, of each kind of kernels, and of prompts."""
    kinds: dict[str, dict[str, Any]] = {
        "as installed": {},
        "torch, SDPA": {"fused_kernels": False, "use_flash_attention": False},
    }
    if importlib.util.find_spec("flash_attn"):
        kinds["torch, flash-attn"] = {"fused_kernels": False}
    for kind, options in kinds.items():
        model = setup.load(**options)
        for rows in setup.scale.rows:
            for positions in setup.scale.positions:
                cells = {"kernels": kind, "rows": rows, "positions": positions}
                yield "A frame, ms", cells | frame_times(setup, model, rows, positions)
        for rows in setup.scale.prompts:
            cells = {"kernels": kind, "rows": rows}
            yield "A piece of a prompt, ms", cells | {"ms": prompt_ms(setup, model, rows)}
        del model
        release()


def frame_times(setup: Setup, model: Qwen3TTS, rows: int, positions: int) -> Cells:
    """Return milliseconds of a frame and its parts; what does not fit into memory says so."""
    try:
        parts = frame_parts(setup, model, rows, positions)
        times = {name: round(setup.call_ms(part), 3) for name, part in parts.items()}
    except torch.OutOfMemoryError:
        return dict.fromkeys(("frame", "talker", "predictor", "sampler"), "out of memory")
    finally:
        release()
    times["sampler"] = round(times["frame"] - times["talker"] - times["predictor"], 3)
    return times


def frame_parts(
    setup: Setup, model: Qwen3TTS, rows: int, positions: int
) -> dict[str, Callable[[], Any]]:
    """Capture a frame, its talker and its predictor for slots that hold so many positions."""
    driver = setup.driver()
    work = frame_work(model, rows, positions=positions, bound=positions + 1)
    return {name: driver.capture(part, "frames") for name, part in work.items()}


def prompt_ms(setup: Setup, model: Qwen3TTS, rows: int) -> float:
    """Milliseconds of reading one piece of a prompt as a graph."""
    state = model.new_state(slots=1, max_positions=256, max_text_rows=64)
    slot = torch.zeros(1, dtype=torch.int64, device=model.device)
    inputs = torch.zeros(rows, model.config.width, dtype=model.dtype, device=model.device)

    def read() -> None:
        model.prefill(state, inputs, [model.piece(slot, 0, rows, bound=256)])

    return round(setup.call_ms(setup.driver().capture(read, "frames")), 3)


# 4 ------------------------------------------------------------------------------------


@torch.inference_mode()
def codecs(setup: Setup) -> Rows:
    """Times of codec calls by number format, and how far each is from float32."""
    exact: dict[tuple[int, int], Tensor] = {}
    for name in ("float32", "tf32", "bfloat16"):
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        model = setup.load(codec_dtype=dtype)
        use_tf32(name == "tf32")
        for rows in setup.scale.rows[:: 2 if setup.is_cuda else 1]:
            for frames in setup.scale.codec_frames:
                codes = some_codes(model, rows, frames)
                fresh = model.codec.decode(codes, model.codec.new_state(slots=rows))
                off = fresh - exact.setdefault((rows, frames), fresh)
                cells = {"format": name, "rows": rows, "frames": frames}
                cells["ms"] = round(setup.call_ms(codec_graph(setup, model, codes)), 3)
                cells["rms error"] = float(f"{off.square().mean().sqrt():.1e}")
                yield "A codec call", cells | {"max error": float(f"{off.abs().max():.1e}")}
        use_tf32(False)
        del model
        release()


def use_tf32(is_allowed: bool) -> None:
    """Let float32 matrices and convolutions round their inputs to 10 bits, or not."""
    torch.backends.cudnn.allow_tf32 = is_allowed
    torch.backends.cuda.matmul.allow_tf32 = is_allowed


def some_codes(model: Qwen3TTS, rows: int, frames: int) -> Tensor:
    """Return random codes int64 [B, Q, T], the same every time."""
    generator = torch.Generator().manual_seed(1)
    shape = (rows, model.config.codebooks, frames)
    codes = torch.randint(0, model.config.codec.codes, shape, generator=generator)
    return codes.to(model.device)


def codec_graph(setup: Setup, model: Qwen3TTS, codes: Tensor) -> Callable[[], Any]:
    """Capture a codec call on these codes."""
    state = model.codec.new_state(slots=len(codes))
    return setup.driver().capture(lambda: model.codec.decode(codes, state), "bulk")


# 5 ------------------------------------------------------------------------------------


def bits(setup: Setup) -> Rows:
    """Compare every fused kernel with its plain definition, and the noise with the CPU's.

    Part 1 compares graphs with plain calls, and an utterance alone with one in company.
    """
    torch.manual_seed(0)
    with setup.device:
        for name, operation, arguments, written in fused_cases.cases():
            differing, values, largest = fused_cases.compare(operation, arguments, written)
            cells = {"kernel": name, "differing": differing, "of": values}
            yield "Kernels against their definitions", cells | {"largest": float(f"{largest:.1e}")}
    seeds, frames = torch.arange(16) * 977 + 5, torch.arange(16)
    here = race_noise(seeds.to(setup.device), frames.to(setup.device), 16, 2049).cpu()
    there = race_noise.plain(seeds, frames, 16, 2049)
    cells = {"differing": int((here != there).sum()), "of": here.numel()}
    yield "Noise against the CPU's", cells


# 6 ------------------------------------------------------------------------------------


@torch.inference_mode()
def side_by_side(setup: Setup) -> Rows:
    """A frame beside bulk codec calls at both priorities, and the host's time per call."""
    model, rows = setup.load(), setup.scale.rows[-1]
    replay = frame_parts(setup, model, rows, setup.scale.positions[0])["frame"]
    alone_ms = setup.call_ms(replay)
    codes = some_codes(model, rows, setup.scale.codec_frames[-1])
    state = model.codec.new_state(slots=rows)
    for name, priority in (("low", 0), ("high", -1)):
        bulk = on_stream(setup, lambda: model.codec.decode(codes, state), priority)
        cells = {"rows": rows, "codec priority": name, "alone ms": round(alone_ms, 3)}
        together_ms = setup.call_ms(lambda bulk=bulk: (bulk(), replay()))
        yield "A frame beside a codec call", cells | {"both ms": round(together_ms, 3)}
    yield "The host's time", {"call": "replay", "rows": rows, "us": us(setup, replay)}
    runner = graph_runner(setup, model)
    begin_us = us(setup, lambda: runner.begin(0, a_job(model)))
    yield "The host's time", {"call": "begin", "rows": 1, "us": begin_us}


def on_stream(setup: Setup, work: Callable[[], Any], priority: int) -> Callable[[], Any]:
    """Capture work on a stream of its own of this priority; returns what starts it there."""
    if not setup.is_cuda:
        return work
    cuda: Any = torch.cuda
    stream, graph = cuda.Stream(setup.device, priority=priority), cuda.CUDAGraph()
    with cuda.stream(stream):
        work()
    setup.synchronise()
    with cuda.graph(graph, stream=stream):
        work()

    def start() -> None:
        with cuda.stream(stream):
            graph.replay()

    return start


def us(setup: Setup, work: Callable[[], Any]) -> float:
    """Microseconds of the host for one call."""
    work()
    setup.synchronise()
    return round(1e3 * setup.host_ms(work), 1)


def graph_runner(setup: Setup, model: Qwen3TTS) -> GraphRunner:
    """Capture all graphs of an engine."""
    scale = setup.scale
    options = EngineOptions(slots=scale.slots, max_positions=scale.max_positions)
    return on_a_thread_that_ends(lambda: GraphRunner(model, options, setup.driver()))


def a_job(model: Qwen3TTS) -> Job:
    """Return a short utterance of the usual kind."""
    return Job(
        ids=tuple(model.tokenizer.encode("One, two, three.")),
        speaker=model.config.speakers[0],
        language="english",
        seed=1,
        sampling=SamplingOptions(),
        max_frames=8,
        runaway_frames=8,
    )


# 7 ------------------------------------------------------------------------------------


@torch.inference_mode()
def readiness(setup: Setup) -> Rows:
    """Seconds and memory of loading and of capturing."""
    began_s = time.perf_counter()
    model = setup.load()
    yield "Time to ready", step_cells(setup, "load", began_s)
    began_s = time.perf_counter()
    runner = graph_runner(setup, model)
    cells = step_cells(setup, "capture", began_s)
    yield "Time to ready", cells | {"slots": setup.scale.slots, "of": setup.scale.max_positions}
    began_s = time.perf_counter()
    runner.begin(0, a_job(model))
    runner.frame([0], full_sort=False, positions=32).wait()
    yield "Time to ready", step_cells(setup, "the first frame", began_s)


def step_cells(setup: Setup, step: str, began_s: float) -> Cells:
    """Return how long a step took, and the device memory that is taken after it."""
    setup.synchronise()
    taken = torch.cuda.memory_reserved(setup.device) if setup.is_cuda else 0
    seconds = round(time.perf_counter() - began_s, 2)
    return {"step": step, "seconds": seconds, "GiB": round(taken / 2**30, 2)}


# 8 ------------------------------------------------------------------------------------


def loads(setup: Setup) -> Rows:
    """First audio and throughput under load, by scripts/bench_engine.py."""
    path = setup.checkpoint.parent / "bench_engine.json"
    command = [sys.executable, str(SCRIPTS / "bench_engine.py"), str(setup.checkpoint)]
    given = [f"--device={setup.device.type}", *setup.scale.load, f"--json={path}"]
    subprocess.run([*command, *given], check=True)
    figures = json.loads(path.read_text(encoding="utf-8"))
    for title, rows in (("Steps, ms", figures["rows"]), ("Loads", figures["loads"])):
        for row in rows:
            yield title, {key: round(x, 3) if type(x) is float else x for key, x in row.items()}


Part = Callable[[Setup], Rows]
PARTS: Sequence[tuple[Part, int]] = (
    (checks, 300),
    (census, 240),
    (replays, 360),
    (codecs, 240),
    (bits, 150),
    (side_by_side, 120),
    (readiness, 120),
    (loads, 240),
)
"""Every part, and the seconds that it may take: 30 minutes together."""


def title_of(part: Part) -> str:
    """Return what a part measures, in a line."""
    return (part.__doc__ or "").split("\n")[0]


def release() -> None:
    """Give memory back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(number: int, setup: Setup, out: Path) -> bool:
    """Run a part and write its JSON anew after every row; returns whether it came to its end."""
    part = PARTS[number - 1][0]
    result: Cells = {"part": number, "title": title_of(part), "is_complete": False, "tables": {}}
    began_s = time.perf_counter()
    try:
        for title, cells in part(setup):
            print(f"{title}: {', '.join(f'{k} {v}' for k, v in cells.items())}", flush=True)
            result["tables"].setdefault(title, []).append(cells)
            write_json(out, result | {"took_s": round(time.perf_counter() - began_s, 1)})
        result["is_complete"] = True
    except Exception as error:  # noqa: BLE001 - kept with what was measured before it
        traceback.print_exc()
        result["error"] = repr(error)[:500]
    write_json(out, result | {"took_s": round(time.perf_counter() - began_s, 1)})
    return bool(result["is_complete"])


def write_json(path: Path, value: object) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def main() -> int:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("number", type=int, choices=range(1, len(PARTS) + 1))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=SCALES, default="full")
    given = parser.parse_args()
    setup = Setup(given.checkpoint, torch.device(given.device), SCALES[given.scale])
    return 0 if measure(given.number, setup, given.out) else 1


if __name__ == "__main__":
    sys.exit(main())
