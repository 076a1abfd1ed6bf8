#!/usr/bin/env python3
"""Check that published weights speak here as they do elsewhere.

    scripts/verify_weights.py [CHECKPOINT] [--device cuda] [--dtype bfloat16]

Compares sizes and SHA-256 of the files with the published ones, and loads the checkpoint, which
asks for every tensor by name and shape; of every model in hub/published.json.

With Qwen3-TTS-12Hz-1.7B-CustomVoice it also runs one greedy sentence and compares ids, embeddings,
a hidden state, logits and the codes of two frames with values that an independent implementation
published and had itself compared with the official package in float32; of the others no such
values are published. In bfloat16 only ids and codebook 0 must be equal.

Says `equal`, or each place where it departs, and exits with 1.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.errors import StartupError
from qwen_tts_service.hub.published import RELEASES, identity
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import SamplingOptions

CHECKPOINT = Path("models/Qwen3-TTS-12Hz-1.7B-CustomVoice")
GREEDY = SamplingOptions(temperature=0.0, repetition_penalty=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What one greedy sentence gives: the first numbers of each stage."""

    first_ids: tuple[int, ...]
    id_count: int
    prompt_rows: int
    first_row: tuple[float, ...]
    pad_row: tuple[float, ...]
    hidden: tuple[float, ...]
    logits: tuple[float, ...]
    frames: tuple[tuple[int, ...], ...]


TEXT = (
    "qwentts.cpp is a minimal C++17 and GGML port of Qwen3-TTS "
    "for zero shot multilingual text to speech."
)
GOLDEN = Values(  # test logs of qwentts.cpp in F32: speaker vivian, english, full text, greedy
    first_ids=(151644, 77091, 198, 80),
    id_count=38,
    prompt_rows=41,
    first_row=(0.021550, -0.009399, 0.007126, -0.019719),
    pad_row=(-0.003715, 0.008406, -0.005009, -0.000409),
    hidden=(-0.0285, -0.7870, -0.0632, 0.7335),
    logits=(-0.71, -8.07, -2.79, -5.01),
    frames=(
        (1995, 1159, 355, 22, 1174, 1093, 625, 1814, 1058, 905, 1846, 1247, 1677, 889, 812, 901),
        (259, 259, 1160, 1605, 1191, 667, 1614, 943, 1177, 1907, 944, 126, 1711, 99, 1070, 194),
    ),
)
TOLERANCES = {"first_row": 2e-5, "pad_row": 2e-5, "hidden": 2e-3, "logits": 2e-2}
"""The published digits, and what another order of float32 sums may move."""


def main() -> int:
    """Load the checkpoint, compare, report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    try:
        model = Qwen3TTS.load(arguments.checkpoint, device=arguments.device, dtype=dtype)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 1
    problems = list(file_differences(arguments.checkpoint))
    if identity(arguments.checkpoint) == ("1b7", "custom_voice"):
        observed = observe(model, TEXT)
        problems += differences(GOLDEN, observed, is_exact=dtype == torch.float32)
    else:
        print("no values of a sentence are published for this model; its files were compared")
    for problem in problems:
        print(problem)
    print("differs from the published values" if problems else "equal")
    return 1 if problems else 0


def file_differences(checkpoint: Path) -> Iterator[str]:
    """Yield a line for each file that is not the published one of this kind and size."""
    found = identity(checkpoint)
    release = next((r for r in RELEASES.values() if (r.size, r.kind) == found), None)
    if release is None:
        yield f"no model of this size and kind is published: {found}"
        return
    for file in release.files:
        if difference := file.difference(checkpoint / file.name):
            yield difference


def observe(model: Qwen3TTS, text: str, *, frames: int = 2) -> Values:
    """Speak a text greedily (vivian, english, full text) and note the first numbers."""
    ids = model.tokenizer.encode(text)
    prompt = model.prompts.build(ids, speaker="vivian", language="english")
    state = model.new_state(slots=1, max_positions=len(prompt.rows) + frames)
    slots = torch.zeros(1, dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        piece = model.piece(slots, 0, len(prompt.rows))
        hidden = model.prefill(state, prompt.rows, [piece])[0]
    model.begin(state, 0, prompt, seed=0, sampling=GREEDY)
    model.read_prompt(state, 0, prompt)
    codes = []
    for frame in range(frames):
        made, _ = model.frame_step(state, slots)
        codes.append(tuple(made[0].tolist()))
        if frame == 0:
            logits = first_four(state.logits[0])
    return Values(
        first_ids=tuple(ids[:4]),
        id_count=len(ids),
        prompt_rows=len(prompt.rows),
        first_row=first_four(prompt.rows[0]),
        pad_row=first_four(model.prompts.pad_row[0]),
        hidden=first_four(hidden),
        logits=logits,
        frames=tuple(codes),
    )


def first_four(values: torch.Tensor) -> tuple[float, ...]:
    """Return the first four numbers."""
    return tuple(values[:4].float().tolist())


def differences(golden: Values, observed: Values, *, is_exact: bool) -> Iterator[str]:
    """Yield a line for each place where observed values depart; only the robust ones in bf16."""
    for name in ("first_ids", "id_count", "prompt_rows"):
        yield from unequal(name, getattr(golden, name), getattr(observed, name))
    if is_exact:
        for name, tolerance in TOLERANCES.items():
            expected, got = getattr(golden, name), getattr(observed, name)
            if not are_close(expected, got, tolerance):
                yield f"{name}: {rounded(got)}, expected {rounded(expected)} within {tolerance}"
    books = None if is_exact else 1
    for frame, (expected, got) in enumerate(zip(golden.frames, observed.frames, strict=True)):
        yield from unequal(f"frame {frame}", expected[:books], got[:books])


def unequal(name: str, expected: object, got: object) -> Iterator[str]:
    """Yield a line if two values differ."""
    if expected != got:
        yield f"{name}: {got}, expected {expected}"


def are_close(expected: Sequence[float], got: Sequence[float], tolerance: float) -> bool:
    """Say whether all numbers agree; a NaN agrees with nothing."""
    pairs = zip(expected, got, strict=True)
    return all(abs(a - b) <= tolerance for a, b in pairs)


def rounded(values: Sequence[float]) -> tuple[float, ...]:
    """Return numbers short enough to read."""
    return tuple(round(value, 6) for value in values)


if __name__ == "__main__":
    sys.exit(main())
