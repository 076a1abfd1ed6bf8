#!/usr/bin/env python3
"""Check on a CUDA device what tests on a CPU can only check with a stand-in for it.

    scripts/check_cuda.py CHECKPOINT [--compile]

CHECKPOINT may come from scripts/make_random_checkpoint.py. It prints a line for each check and
`N/N checks passed`, and exits with 1 if any failed. What only tells is marked `info`. It needs
torch, transformers and safetensors, and no network; afterwards scripts/bench_engine.py measures.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.engine.engine import Engine, EngineOptions
from qwen_tts_service.engine.graphs import CudaDriver, Driver, EagerDriver, GraphRunner
from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.threads import on_a_thread_that_ends
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import Samples, SamplingOptions

JOBS = 8
OPTIONS = EngineOptions(slots=JOBS, max_positions=512, silence_rms=0.0)
CODEC_TOLERANCE = 1e-5
"""What a stream may differ from a whole decode in float32: design, not measurement."""


def main() -> int:
    """Run all checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="compare TORCH_COMPILE=1 as well")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("This needs a CUDA device, and torch sees none.", file=sys.stderr)
        return 2
    model = on_a_thread_that_ends(Qwen3TTS.load, given.checkpoint, device=given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    print(f"torch {torch.__version__}, {name}, {model.dtype}, attention {model.attention.name}")
    checks = [codec_stream, graphs_are_plain_calls, bits_in_any_company, read_once, company]
    passed = [run(check, model) for check in checks]
    if given.compile:
        other = on_a_thread_that_ends(
            Qwen3TTS.load, given.checkpoint, device=given.device, fuse=True
        )
        passed.append(run(lambda plain: fused_kernels(plain, other), model))
    print(f"{sum(passed)}/{len(passed)} checks passed")
    return 0 if all(passed) else 1


def run(check: Callable[[Qwen3TTS], str], model: Qwen3TTS) -> bool:
    """Run a check and print what came of it."""
    began_s = time.perf_counter()
    try:
        told, is_passed = check(model), True
    except AssertionError as error:
        told, is_passed = str(error), False
    took_s = time.perf_counter() - began_s
    print(f"{'ok' if is_passed else 'FAILED'}  {told} ({took_s:.1f} s)", flush=True)
    return is_passed


@torch.inference_mode()
def codec_stream(model: Qwen3TTS) -> str:
    """Decode whole and in chunks."""
    codec, chunks = model.codec, (1, 1, 2, 4, 8, 3, 8, 8, 8, 8, 8, 8, 8, 9)
    generator = torch.Generator().manual_seed(1)
    shape = (2, codec.config.codebooks, sum(chunks))
    codes = torch.randint(0, codec.config.codes, shape, generator=generator).to(model.device)
    whole = codec.decode(codes, codec.new_state(slots=2))
    state = codec.new_state(slots=2)
    parts = [codec.decode(part, state) for part in torch.split(codes, chunks, dim=2)]
    error = float((torch.cat(parts, dim=1) - whole).abs().max())
    assert error <= CODEC_TOLERANCE, f"codec: a stream is {error:.1e} off the whole decode"
    return f"codec: a stream is {error:.1e} off the whole decode, whose peak is {whole.max():.2f}"


def graphs_are_plain_calls(model: Qwen3TTS) -> str:
    """Speak each job alone, by graphs and by the same steps without them."""
    jobs = make_jobs(model)
    spoken = []
    for driver in (CudaDriver(model.device), EagerDriver()):
        with engine_with(model, driver, OPTIONS) as engine:
            spoken.append([engine.run_whole(job) for job in jobs])
    same = equal(*spoken)
    assert same == JOBS, f"graphs: {same}/{JOBS} utterances have the bits of plain calls"
    return f"graphs: {same}/{JOBS} utterances have the bits of plain calls"


def bits_in_any_company(model: Qwen3TTS) -> str:
    """Speak each job alone and all at once in the deterministic mode."""
    options = replace(OPTIONS, deterministic=True)
    alone, together = alone_and_together(model, options)
    same = equal(alone, together)
    assert same == JOBS, f"deterministic: {same}/{JOBS} utterances have the same bits in company"
    return f"deterministic: {same}/{JOBS} utterances have the same bits in company"


def read_once(model: Qwen3TTS) -> str:
    """Speak a job whose beginning has been read before."""
    with engine_with(model, CudaDriver(model.device), OPTIONS) as engine:
        job = make_jobs(model)[0]
        first, again = engine.run_whole(job), engine.run_whole(job)
    assert np.array_equal(first, again), "shared beginnings: a known one gives other bits"
    return "shared beginnings: a known one gives the same bits"


def company(model: Qwen3TTS) -> str:
    """Tell how many utterances keep their samples in company without the deterministic mode."""
    same = equal(*alone_and_together(model, OPTIONS), within=1e-2)
    return f"info: {same}/{JOBS} utterances keep their codes in company, by default"


@torch.inference_mode()
def fused_kernels(plain: Qwen3TTS, fused: Qwen3TTS) -> str:
    """Compare the first logits and the greedy codes of two models."""
    logits, codes = [], []
    for model in (plain, fused):
        prompt = model.prompts.build(model.tokenizer.encode("One, two, three."), speaker="ryan")
        state = model.new_state(slots=1, max_positions=256)
        model.join(state, 0, prompt, seed=0, sampling=SamplingOptions(temperature=0.0))
        slots = torch.zeros(1, dtype=torch.int64, device=model.device)
        codes.append([model.frame_step(state, slots)[0].cpu()])
        logits.append(state.logits[0].float().cpu())
        codes[-1] += [model.frame_step(state, slots)[0].cpu() for _ in range(15)]
    error = float((logits[1] - logits[0]).norm() / logits[0].norm())
    same = sum(torch.equal(a, b) for a, b in zip(*codes, strict=True))
    told = f"fused kernels: first logits {error:.1e} off, {same}/16 greedy frames equal"
    assert error < 2e-2, told  # bfloat16 has three digits
    return told


def make_jobs(model: Qwen3TTS) -> list[Job]:
    """Utterances of several lengths, voices, layouts and ways of drawing."""
    text = "One two three four five six seven eight nine ten. "
    return [
        Job(
            ids=tuple(model.tokenizer.encode(text[: 9 + 6 * number])),
            instruct_ids=tuple(model.tokenizer.encode_instruct("Slowly." if number % 3 else "")),
            speaker=model.config.speakers[number % len(model.config.speakers)],
            language="english",
            layout=("full_text", "streaming_text")[number % 2],
            seed=number,
            sampling=SamplingOptions(top_p=0.9 if number % 4 == 3 else 1.0),
            max_frames=12 + 5 * number,
            runaway_frames=100,
        )
        for number in range(JOBS)
    ]


@contextmanager
def engine_with(model: Qwen3TTS, driver: Driver, options: EngineOptions) -> Iterator[Engine]:
    """An engine that runs its steps through a driver."""
    runner = on_a_thread_that_ends(GraphRunner, model, options, driver)
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
    with engine_with(model, CudaDriver(model.device), options) as engine:

        async def read(job: Job) -> Samples:
            return np.concatenate([chunk async for chunk in engine.submit(job)])

        async def at_once() -> list[Samples]:
            return await asyncio.gather(*map(read, jobs))

        return [engine.run_whole(job) for job in jobs], asyncio.run(at_once())


def equal(some: list[Samples], others: list[Samples], within: float = 0.0) -> int:
    """Count the pairs of the same length and, up to `within`, the same samples."""
    return sum(
        a.shape == b.shape and float(np.abs(a - b).max(initial=0.0)) <= within
        for a, b in zip(some, others, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
