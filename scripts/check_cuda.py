#!/usr/bin/env python3
"""Check on a CUDA device what tests on a CPU can only check with a stand-in for it.

    scripts/check_cuda.py CHECKPOINT [--compile]

CHECKPOINT may come from scripts/make_random_checkpoint.py. It prints a line for each check and
`N/N checks passed`, and exits with 1 if any failed. It needs torch, transformers and safetensors,
and no network; afterwards scripts/bench_engine.py measures.
"""

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.engine.driver import CudaDriver, Driver, EagerDriver, choose_driver
from qwen_tts_service.engine.engine import Engine, EngineOptions
from qwen_tts_service.engine.graphs import MIN_BOUND, GraphRunner
from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.threads import on_a_thread_that_ends
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import Samples, SamplingOptions

JOBS = 8
OPTIONS = EngineOptions(
    slots=JOBS,
    max_positions=2 * MIN_BOUND,
    silence_rms=0.0,
    margin_s=-3600.0,  # chunks by the ramp alone, whatever a step takes: other chunks, other bits
)
CODEC_TOLERANCE = 1e-5
"""What a stream may differ from a whole decode in float32: design, not measurement."""
FLOAT32_TOLERANCE, BFLOAT16_TOLERANCE = 1e-3, 2e-2
"""Of the norm of the first logits; guesses, to be replaced by what the first device shows."""

Outcome = tuple[bool, str]
Load = Callable[..., Qwen3TTS]


def main() -> int:
    """Run all checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="check TORCH_COMPILE=1 as well")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("This needs a CUDA device, and torch sees none.", file=sys.stderr)
        return 2

    def load(**options: Any) -> Qwen3TTS:
        options = {"device": given.device} | options
        return on_a_thread_that_ends(lambda: Qwen3TTS.load(given.checkpoint, **options))

    model = load()
    name = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "no GPU"
    print(f"torch {torch.__version__}, {name}, {model.dtype}, attention {model.attention.name}")
    checks = [
        codec_stream,
        graphs_are_plain_calls,
        bits_in_any_company,
        a_known_prefix,
        lambda model: the_cpus_arithmetic(model, load),
        lambda model: other_attention(model, load),
        lambda model: fused_kernels(model, load),
    ]
    if given.compile:
        checks.append(lambda _model: compiled_kernels(load))
    passed = [run(check, model) for check in checks]
    print(f"{sum(passed)}/{len(passed)} checks passed")
    return 0 if all(passed) else 1


def run(check: Callable[[Qwen3TTS], Outcome], model: Qwen3TTS) -> bool:
    """Run a check and print what came of it; an error is a failure, and the others still run."""
    began_s = time.perf_counter()
    try:
        is_passed, report = check(model)
    except Exception as error:  # noqa: BLE001 - reported with its traceback
        traceback.print_exc()
        is_passed, report = False, repr(error)
    took_s = time.perf_counter() - began_s
    print(f"{'ok' if is_passed else 'FAILED'}  {report} ({took_s:.1f} s)", flush=True)
    return is_passed


def graphs_of(model: Qwen3TTS) -> Driver:
    """Return CUDA's graphs; on the CPU, where only this script is tried, plain calls."""
    return choose_driver(model.device)


@torch.inference_mode()
def codec_stream(model: Qwen3TTS) -> Outcome:
    """Decode whole and in chunks."""
    codec, chunks = model.codec, (1, 1, 2, 4, 8, 3, 8, 8, 8, 8, 8, 8, 8, 9)
    generator = torch.Generator().manual_seed(1)
    shape = (2, codec.config.codebooks, sum(chunks))
    codes = torch.randint(0, codec.config.codes, shape, generator=generator).to(model.device)
    whole = codec.decode(codes, codec.new_state(slots=2))
    state = codec.new_state(slots=2)
    parts = [codec.decode(part, state) for part in torch.split(codes, chunks, dim=2)]
    error, peak = float((torch.cat(parts, dim=1) - whole).abs().max()), float(whole.abs().max())
    report = f"codec: a stream is {error:.1e} off the whole decode, whose peak is {peak:.2f}"
    return error <= CODEC_TOLERANCE < peak, report


def graphs_are_plain_calls(model: Qwen3TTS) -> Outcome:
    """Speak each job alone, by graphs and by the same steps without them, for every batch size.

    With one size of batch in the deterministic mode, alone is in the company of idle rows; by
    default alone is one row, and the bounds of positions are several.
    """
    jobs, same, total = make_jobs(model), 0, 0
    sizes = [replace(OPTIONS, slots=slots, deterministic=True) for slots in (2, 4, JOBS)]
    for options in (OPTIONS, *sizes):
        spoken = []
        for driver in (lambda: graphs_of(model), EagerDriver):
            with engine_with(model, driver, options) as engine:
                spoken.append([engine.run_whole(job) for job in jobs])
        same, total = same + equal(*spoken), total + JOBS
    return same == total, f"graphs: {same}/{total} utterances have the bits of plain calls"


def bits_in_any_company(model: Qwen3TTS) -> Outcome:
    """Speak each job alone and all at once, in the deterministic mode and by default."""
    exact = equal(*alone_and_together(model, replace(OPTIONS, deterministic=True)))
    usual = equal(*alone_and_together(model, OPTIONS), within=1e-2)
    report = f"company: {exact}/{JOBS} utterances keep their bits in the deterministic mode"
    return exact == JOBS, f"{report}, by default {usual} keep their samples within 0.01"


def a_known_prefix(model: Qwen3TTS) -> Outcome:
    """Speak a job whose prefix has been read before."""
    with engine_with(model, lambda: graphs_of(model), OPTIONS) as engine:
        job = make_jobs(model)[0]
        first, again = engine.run_whole(job), engine.run_whole(job)
    same = len(first) > 0 and np.array_equal(first, again)
    return same, f"prefix: one that is known gives {'the same' if same else 'other'} bits"


def the_cpus_arithmetic(model: Qwen3TTS, load: Load) -> Outcome:
    """Compare the device with the CPU, both in float32."""
    on_cpu = load(device="cpu", linear="float")
    on_device = load(device=str(model.device), dtype=torch.float32, linear="float")
    return near(on_cpu, on_device, FLOAT32_TOLERANCE, "float32 on the CPU and here")


def other_attention(model: Qwen3TTS, load: Load) -> Outcome:
    """Compare flash-attn, if it is in use, with SDPA."""
    if model.attention.name == "sdpa":
        return True, "attention: only SDPA is here, nothing to compare"
    sdpa = load(use_flash_attention=False)
    return near(model, sdpa, BFLOAT16_TOLERANCE, f"{model.attention.name} and SDPA")


def fused_kernels(model: Qwen3TTS, load: Load) -> Outcome:
    """Compare the fused kernels with torch's own, whichever are in use."""
    other = load(fused_kernels=not model.is_fused)
    in_use = f"{model.kernels.name} kernels in use ({model.kernels.reason})"
    return near(model, other, BFLOAT16_TOLERANCE, f"{in_use}, fused and torch's own")


def compiled_kernels(load: Load) -> Outcome:
    """Compare kernels fused by torch.compile with torch's own, and capture them."""
    compiled, plain = load(fuse=True), load(fused_kernels=False)
    with engine_with(compiled, lambda: CudaDriver(compiled.device), OPTIONS) as engine:
        length = len(engine.run_whole(make_jobs(compiled)[0]))
    is_near, report = near(plain, compiled, BFLOAT16_TOLERANCE, "compiled and torch's own kernels")
    return is_near and length > 0, report


@torch.inference_mode()
def near(one: Qwen3TTS, other: Qwen3TTS, most: float, what: str) -> Outcome:
    """Compare the first logits and the greedy codes of two models."""
    logits, codes = [], []
    for model in (one, other):
        prompt = model.prompts.build(model.tokenizer.encode("One, two, three."), speaker="ryan")
        state = model.new_state(slots=1, max_positions=MIN_BOUND)
        model.begin(state, 0, prompt, seed=0, sampling=SamplingOptions(temperature=0.0))
        model.read_prompt(state, 0, prompt)
        slots = torch.zeros(1, dtype=torch.int64, device=model.device)
        codes.append([model.frame_step(state, slots)[0].cpu()])
        logits.append(state.logits[0].float().cpu())
        codes[-1] += [model.frame_step(state, slots)[0].cpu() for _ in range(15)]
    error = float((logits[1] - logits[0]).norm() / logits[0].norm())
    same = sum(torch.equal(a, b) for a, b in zip(*codes, strict=True))
    return error <= most, f"{what}: first logits {error:.1e} off, {same}/16 greedy frames equal"


def make_jobs(model: Qwen3TTS) -> list[Job]:
    """Utterances of several lengths, voices, layouts and ways of drawing; the last is long."""
    text = "One two three four five six seven eight nine ten. "
    texts = [text[: 9 + 6 * number] for number in range(JOBS - 1)]
    pieces = MIN_BOUND // len(model.tokenizer.encode(text)) + 1
    return [
        Job(
            ids=tuple(model.tokenizer.encode(said)),
            instruct_ids=tuple(model.tokenizer.encode_instruct("Slowly." if number % 3 else "")),
            speaker=model.config.speakers[number % len(model.config.speakers)],
            language="english",
            layout=("full_text", "streaming_text")[number % 2 if number < JOBS - 1 else 0],
            seed=number,
            sampling=SamplingOptions(top_p=0.9 if number % 4 == 3 else 1.0),
            max_frames=12 + 5 * number,
            runaway_frames=100,
        )
        for number, said in enumerate([*texts, text * pieces])
    ]


@contextmanager
def engine_with(
    model: Qwen3TTS, make_driver: Callable[[], Driver], options: EngineOptions
) -> Iterator[Engine]:
    """An engine that runs its steps through a driver, which is made where graphs are captured."""
    runner = on_a_thread_that_ends(lambda: GraphRunner(model, options, make_driver()))
    engine = Engine(model, options, runner=runner)
    try:
        yield engine
    finally:
        engine.close()


def alone_and_together(
    model: Qwen3TTS, options: EngineOptions
) -> tuple[list[Samples], list[Samples]]:
    """Speak all jobs one after another, and then at once."""
    jobs = make_jobs(model)
    with engine_with(model, lambda: graphs_of(model), options) as engine:

        async def read(job: Job) -> Samples:
            return np.concatenate([chunk async for chunk in engine.submit(job)])

        async def at_once() -> list[Samples]:
            return await asyncio.gather(*map(read, jobs))

        return [engine.run_whole(job) for job in jobs], asyncio.run(at_once())


def equal(some: list[Samples], others: list[Samples], within: float = 0.0) -> int:
    """Count the pairs of the same length, not empty, and, up to `within`, the same samples."""
    return sum(
        a.shape == b.shape and a.size > 0 and float(np.abs(a - b).max()) <= within
        for a, b in zip(some, others, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
