#!/usr/bin/env python3
"""Measure the engine: milliseconds per frame by part, and first audio under load.

    scripts/bench_engine.py CHECKPOINT [--batch 1,2,4,8,16] [--frames 48] [--device cpu]
                            [--threads N] [--layout full_text] [--linear half] [--compile]
                            [--recording 10] [--start-steps 3]
                            [--closed 1,64] [--open 1,20] [--requests 64] [--json FILE]

CHECKPOINT may come from scripts/make_random_checkpoint.py: what is measured does not depend on
the weights, as every utterance is made to last for exactly the frames asked for. For each batch
so many utterances start together. `talker`, `predictor`, `other` (sampling, embeddings) and
`codec` are means per step over the steps in which all rows advanced and no prompt was read; `own`
is the CPU time of the engine's thread outside these, that is of its Python. `prompt` is what
reading one prompt takes, `first`, `mean` and `last` when the first, the mean and the last of them
got audio, `last/mean` how much longer than the mean the last one waits, and `x real` all audio made
by all the time taken, prompts included. `roofline` compares the time that
the weights of a frame need at the bandwidth of a large copy, measured here, with the time the
frame took.

The second prompt of a voice is measured: its prefix has been read, as in a service that runs.

A Base checkpoint (--kind base) is measured with two cloned voices: one without its recording, which
has the prompt of a speaker, and one whose recording lasts for --recording seconds. How long it
takes to make that voice, and the codec to hear its recording, once each, is printed before.

On CUDA a frame is one graph; `talker`, `predictor` and, for `other` and `roofline`, the frame are
then captured and timed by themselves, and `prompt` is what launching takes.

--closed and --open are the loads of scripts/bench_http.py, without HTTP: first audio is counted
from the job's submission until the engine hands over its first samples.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench_common import (
    Collector,
    LoadRow,
    Player,
    commit,
    load_table,
    loads,
    measure_reference,
    numbers,
    reference_line,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.engine.driver import CudaDriver, Driver
from qwen_tts_service.engine.engine import Engine, EngineOptions, EngineStatistics, choose_runner
from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.threads import on_a_thread_that_ends
from qwen_tts_service.errors import TTSError
from qwen_tts_service.kernels.attention import CachePositions
from qwen_tts_service.kernels.fused.choose import choose_code
from qwen_tts_service.model.config import ModelConfig, TransformerConfig
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.sampling import CounterDraw, Sampler
from qwen_tts_service.model.state import SlotState
from qwen_tts_service.types import FRAME_S, KeptVoice, SamplingOptions, VoiceReference

TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why it does."
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
COPY_BYTES = 1 << 28
PARTS = ("talker", "predictor", "other", "codec", "own")


class Clock:
    """Seconds spent in each part of the step that is under way, and in each finished step."""

    def __init__(self) -> None:
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

    def decode(self, *what: Any, **how: Any) -> Any:
        with self._clock.part("codec"):
            sound = self._inner.decode(*what, **how)
        sound.wait = self._clock.timed("codec", sound.wait)
        return sound


@dataclass(frozen=True)
class Row:
    """One line of the table; times in ms."""

    voice: str
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
    mean_first: float
    last_first: float
    last_to_mean: float
    x_real_time: float
    roofline: float


def main() -> int:
    """Run all batches and print the table."""
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, facts = on_a_thread_that_ends(load_model, arguments)
    for name, value in facts.items():
        print(f"{name}: {value}")
    clock = Clock()
    if model.device.type == "cpu":
        model.talker.step = clock.timed("talker", model.talker.step)  # type: ignore[method-assign]
        forward = clock.timed("predictor", model.code_predictor.forward)
        model.code_predictor.forward = forward  # type: ignore[method-assign]
    voices = make_voices(model, arguments.recording, facts)
    waits = ("first", "mean", "last", "last/mean")
    print_line(
        ("voice", "batch", "step", *PARTS, "own/row", "prompt", *waits, "x real", "roofline")
    )
    rows, references = [], []
    for batch in map(int, arguments.batch):
        for who in voices:
            copy_gb_s = facts["copy_bandwidth_gb_s"]
            rows.append(measure(model, clock, batch, arguments, who, copy_gb_s=copy_gb_s))
            print_row(rows[-1])
    under_load = measure_loads(model, arguments, voices[-1])
    facts["peak_memory_mib"] = peak_memory_mib(model.device)
    print(f"peak memory: {facts['peak_memory_mib']:.0f} MiB")
    for row in rows if arguments.reference else ():
        options = {"batch": row.batch, "frames": arguments.frames, "threads": arguments.threads}
        found = measure_reference(arguments.reference, arguments.checkpoint, text=TEXT, **options)
        references.append(found)
        print(reference_line(found, row.batch * FRAME_S / row.step * 1e3))
    if arguments.json:
        result = {"facts": facts, "rows": [asdict(row) for row in rows], "references": references}
        result["loads"] = [asdict(row) for row in under_load]
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def load_model(arguments: argparse.Namespace) -> tuple[Qwen3TTS, dict[str, Any]]:
    """Load the checkpoint and say what is measured, where and when."""
    model = Qwen3TTS.load(
        arguments.checkpoint,
        device=arguments.device,
        linear=arguments.linear,
        fuse=arguments.compile,
        codec_dtype=getattr(torch, arguments.codec_dtype),
    )
    return model, describe(model)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batch", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--closed", type=numbers, default=[], help="streams at all times")
    parser.add_argument("--open", type=numbers, default=[], help="requests per second, Poisson")
    parser.add_argument("--requests", type=int, default=64, help="of each load")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--start-steps", type=int, default=3, help="as in EngineOptions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--recording", type=float, default=10.0, help="seconds, of a cloned voice")
    parser.add_argument("--layout", choices=["full_text", "streaming_text"], default="full_text")
    parser.add_argument("--linear", choices=["float", "packed", "half", "bfloat16", "int8"])
    parser.add_argument("--compile", action="store_true", help="TORCH_COMPILE=1, on CUDA")
    parser.add_argument("--codec-dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--reference", help="the Python of .venv-reference: time the official too")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


Who = tuple[str, KeptVoice | None]
"""What a voice is called in the table, and the voice itself if it is cloned."""


def make_voices(model: Qwen3TTS, recording_s: float, facts: dict[str, Any]) -> list[Who]:
    """Return the voices to measure; of a Base checkpoint two, and what making one has taken."""
    if model.encoder is None:
        return [("speaker", None)]
    noise = np.random.default_rng(0).normal(0, 0.1, round(recording_s * 24000))
    reference = VoiceReference(samples=noise.astype(np.float32), transcript=TEXT)
    voice = model.encoder.keep(reference)  # once for what happens at the first time only
    started = time.perf_counter()
    voice = model.encoder.keep(reference)
    encoded = time.perf_counter()
    model.hear(voice).memory[0, 0].item()
    facts["encode_ms"] = 1e3 * (encoded - started)
    facts["hear_ms"] = 1e3 * (time.perf_counter() - encoded)
    print(
        f"a recording of {recording_s:g} s: encoded in {facts['encode_ms']:.0f} ms, heard by the "
        f"codec in {facts['hear_ms']:.0f} ms"
    )
    return [("clone", voice.without_recording()), (f"{recording_s:g} s", voice)]


def measure(
    model: Qwen3TTS,
    clock: Clock,
    batch: int,
    arguments: argparse.Namespace,
    who: Who,
    *,
    copy_gb_s: float,
) -> Row:
    """Speak `batch` utterances at once and average the steps in which all advanced."""
    options = engine_options(model, batch, arguments)
    plain = on_a_thread_that_ends(choose_runner, model, options, lambda _step, _done: None)
    runner = TimedRunner(plain, clock)
    engine = Engine(model, options, on_step=clock.end_step, runner=runner)
    try:
        asyncio.run(speak(engine, [make_job(model, 99, arguments, who)]))
        clock.steps.clear()
        started = time.perf_counter()
        jobs = [make_job(model, seed, arguments, who) for seed in range(batch)]
        first = asyncio.run(speak(engine, jobs))
        whole_s = time.perf_counter() - started
    finally:
        engine.close()
    steps = [spent for rows, spent in clock.steps if rows == batch and "prompt" not in spent]
    if not steps:
        raise SystemExit(
            f"all {batch} never spoke together: ask for more than {arguments.frames} frames"
        )
    mean = {
        name: sum(spent.get(name, 0.0) for spent in steps) / len(steps)
        for name in ("step", "frame", "talker", "predictor", "codec", "own")
    }
    if model.device.type == "cuda":
        mean |= captured_parts(model, CudaDriver(model.device), batch, options)
    return Row(
        voice=who[0],
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
        mean_first=1e3 * sum(first) / batch,
        last_first=1e3 * max(first),
        last_to_mean=max(first) * batch / sum(first),
        x_real_time=batch * arguments.frames * FRAME_S / whole_s,
        roofline=frame_bytes(model) / (copy_gb_s * 1e9) / mean["frame"],
    )


@torch.inference_mode()
def captured_parts(
    model: Qwen3TTS, driver: Driver, batch: int, options: EngineOptions
) -> dict[str, float]:
    """Seconds that the device takes for a frame and for its parts, each as a graph of its own."""
    bound = options.max_positions
    parts = frame_parts(model, driver, batch, filled=bound // 2, bound=bound)
    return {name: mean_s(part) for name, part in parts.items()}


@torch.inference_mode()
def frame_parts(
    model: Qwen3TTS, driver: Driver, rows: int, *, filled: int, bound: int
) -> dict[str, Callable[[], Any]]:
    """Capture a frame, its talker and its predictor for slots with `filled` of `bound` positions.

    The last position of a slot is its bound: a frame that has filled it stays there.
    """
    state = model.new_state(slots=rows, max_positions=bound, max_text_rows=64)
    state.length.fill_(filled)
    slots = torch.arange(rows, device=model.device)
    at = CachePositions(slots, state.length[slots], bound)
    hidden = torch.zeros(rows, model.config.width, dtype=model.dtype, device=model.device)
    work: dict[str, Callable[[], Any]] = {
        "talker": lambda: model.talker.step(hidden, state, at),
        "predictor": predictor_work(model, state, slots, hidden),
        "frame": lambda: model.frame_step(state, slots, full_sort=False, bound=bound),
    }
    return {name: driver.capture(part, "frames") for name, part in work.items()}


def predictor_work(
    model: Qwen3TTS, state: SlotState, slots: torch.Tensor, hidden: torch.Tensor
) -> Callable[[], Any]:
    """Return what runs the code predictor as a frame does, with the kernels that are in use."""
    sampling, codebooks = state.predictor_sampling, model.config.codebooks
    if not model.is_fused:
        draws = CounterDraw().frame(state.seed, state.frame, codebooks, model.config.codes)
        choose = Sampler(sampling.rows(slots), draws, full_sort=False)
        return lambda: model.code_predictor(hidden, hidden, choose)
    noise = CounterDraw.noise(state.seed, state.frame, codebooks, model.config.codes)
    codes = torch.zeros(len(slots), codebooks, dtype=torch.int64, device=model.device)
    options = (sampling.temperature, sampling.top_k, sampling.top_p)

    def choose_fused(
        logits: torch.Tensor, book: int, table: torch.Tensor, row: int
    ) -> torch.Tensor:
        return choose_code(logits, noise, slots, *options, table, row, codes, book, -1)

    return lambda: model.code_predictor.draw_fused(hidden, hidden, choose_fused)


def mean_s(work: Callable[[], Any]) -> float:
    """Seconds of one call, the mean of twenty."""

    def synchronise() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    work()
    synchronise()
    began_s = time.perf_counter()
    for _ in range(20):
        work()
    synchronise()
    return (time.perf_counter() - began_s) / 20


class EngineClient(Collector):
    """Asks an engine for utterances that differ in their seed."""

    def __init__(self, engine: Engine, job: Job, sample_rate_hz: int) -> None:
        super().__init__()
        self._engine = engine
        self._job = job
        self._sample_rate_hz = sample_rate_hz

    async def ask(self) -> None:
        self._job = replace(self._job, seed=self._job.seed + 1)
        player = Player(self._sample_rate_hz)
        try:
            async for chunk in self._engine.submit(self._job):
                player.hear(len(chunk))
        except TTSError as error:
            self.count_error(error.code)
        else:
            self.count(player)


def measure_loads(model: Qwen3TTS, arguments: argparse.Namespace, who: Who) -> list[LoadRow]:
    """Run the loads on one engine with as many slots as the largest needs, and print a table."""
    runs = loads(arguments.closed, arguments.open)
    if not runs:
        return []
    slots = max(64 if arguments.open else 1, *(load.streams for load in runs))
    engine = on_a_thread_that_ends(Engine, model, engine_options(model, slots, arguments))
    rate_hz, rows = model.config.codec.sample_rate_hz, []
    try:
        for load in runs:
            job = make_job(model, 0, arguments, who)
            asyncio.run(EngineClient(engine, job, rate_hz).ask())
            collector = EngineClient(engine, job, rate_hz)
            rows.append(asyncio.run(load.run(collector, arguments.requests)))
    finally:
        engine.close()
    print("\n" + load_table(rows) + "\n")
    return rows


def engine_options(model: Qwen3TTS, slots: int, arguments: argparse.Namespace) -> EngineOptions:
    """Options under which every utterance runs for the frames asked for."""
    recording = 0 if model.encoder is None else 128 + round(arguments.recording / FRAME_S)
    return EngineOptions(
        slots=slots,
        max_positions=min(model.config.max_positions, arguments.frames + 128 + recording),
        silence_rms=0.0,
        max_lead_s=3600,
        start_steps=arguments.start_steps,
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


def make_job(model: Qwen3TTS, seed: int, arguments: argparse.Namespace, who: Who) -> Job:
    """Return an utterance of the usual kind."""
    voice = who[1]
    said = model.tokenizer.encode_reference(voice.transcript) if voice and voice.codes else ()
    return Job(
        ids=tuple(model.tokenizer.encode(TEXT)),
        speaker=model.config.speakers[0] if model.config.speakers else None,
        voice=voice,
        reference_ids=tuple(said),
        language="english",
        layout=arguments.layout,
        seed=seed,
        sampling=SamplingOptions(),
        max_frames=arguments.frames,
        runaway_frames=arguments.frames,
    )


def frame_bytes(model: Qwen3TTS) -> float:
    """Return the bytes of weights that one frame step reads at least once per use."""
    config: ModelConfig = model.config
    books = config.codebooks - 1
    talker = block_weights(config.talker) + config.width * (config.codes + 1)
    predictor = config.code_predictor
    per_pass = block_weights(predictor) + predictor.width * config.codes
    if predictor.width != config.width:
        per_pass += predictor.width * config.width
    size = {"half": 2, "bfloat16": 2, "int8": 1}.get(model.linear, model.dtype.itemsize)
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
    is_cuda = model.device.type == "cuda"
    return {
        "command": shlex.join(["scripts/bench_engine.py", *sys.argv[1:]]),
        "commit": commit(),
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
    """Return the processor's name as the kernel reports it."""
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
            row.voice,
            str(row.batch),
            *[f"{value:.1f}" for value in times],
            f"{row.own_us_per_row:.0f} us",
            f"{row.prompt:.0f}",
            f"{row.first:.0f}",
            f"{row.mean_first:.0f}",
            f"{row.last_first:.0f}",
            f"{row.last_to_mean:.2f}",
            f"{row.x_real_time:.2f}",
            f"{100 * row.roofline:.0f} %",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
