#!/usr/bin/env python3
"""Compare this project's model with recorded outputs of the official package.

    scripts/parity.py CHECKPOINT GOLDEN.json [--linear float|half|int8] [--device cuda]
        [--fused] [--frames N]

GOLDEN.json is a list of cases: text, speaker, language, instruct, non_streaming_mode,
max_new_tokens, sampling, seed (for torch.manual_seed; null when greedy) and what the official
package made of them: input_ids, codes [frames][16], sample_rate, samples. The .npz beside it
holds the waveforms as `case_<i>`. Equal means: ids and codes identical, waveform within 1e-5.
Prints a line per case and `N/N cases equal`; exits with 1 if any differs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.sampling import FrameDraw
from qwen_tts_service.types import SamplingOptions

TOLERANCE = 1e-5
SAMPLES_PER_FRAME = 1920
REPETITION_PENALTY = 1.05
"""generation_config.json's value, in force unless a case says otherwise."""


class TorchDraw:
    """Draws with torch.multinomial from the global generator, as the reference implementation does.

    For comparing with it: one row at a time, since the order of draws matters. torch.multinomial
    uses up one random number per column, so codebook 0 is spread over the reference's columns.
    """

    def __init__(self, vocabulary: int, eos_id: int) -> None:
        self._vocabulary = vocabulary
        self._eos_id = eos_id

    def frame(self, _seed: Tensor, _frame: Tensor, _codebooks: int, _choices: int) -> FrameDraw:
        return self._draw

    def _draw(self, logits: Tensor, codebook: int) -> Tensor:
        if codebook:
            return _multinomial(logits)
        last = logits.shape[1] - 1
        wide = logits.new_full((logits.shape[0], self._vocabulary), float("-inf"))
        wide[:, :last] = logits[:, :last]
        wide[:, self._eos_id] = logits[:, last]
        drawn = _multinomial(wide)
        return torch.where(drawn == self._eos_id, last, drawn)


def _multinomial(logits: Tensor) -> Tensor:
    """Draw on the CPU, whose generator the cases were recorded with, on whatever device it is."""
    return torch.multinomial(logits.softmax(dim=1).cpu(), 1).squeeze(1).to(logits.device)


def main() -> int:
    """Run all cases of one golden file; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument(
        "--linear",
        choices=("float", "half", "bfloat16", "int8"),
        help="arithmetic; default: the device's",
    )
    parser.add_argument("--device", default="cpu", help="computes in float32 on any")
    parser.add_argument(
        "--fused", action="store_true", help="the fused kernels; on a CPU, their plain definitions"
    )
    parser.add_argument("--frames", type=int, help="compare at most so many of each case")
    arguments = parser.parse_args()
    model = Qwen3TTS.load(
        arguments.checkpoint,
        linear=arguments.linear,
        device=arguments.device,
        dtype=torch.float32,
        fused_kernels=arguments.fused or None,
    )
    cases = json.loads(arguments.golden.read_text(encoding="utf-8"))
    equal = 0
    with np.load(arguments.golden.with_suffix(".npz")) as waveforms:
        for index, case in enumerate(cases):
            waveform = waveforms[f"case_{index}"]
            if arguments.frames:
                waveform = shorten(case, waveform, arguments.frames)
            problem = compare(model, case, waveform)
            equal += problem is None
            print(f"case {index}: {problem or 'equal'} ({describe(case)})")
    print(f"{equal}/{len(cases)} cases equal")
    return 0 if equal == len(cases) else 1


def shorten(case: dict[str, Any], waveform: np.ndarray, frames: int) -> np.ndarray:
    """Cut a case down to its first frames; returns their waveform."""
    case["codes"] = case["codes"][:frames]
    case["max_new_tokens"] = min(case["max_new_tokens"], frames + 1)
    return waveform[: frames * SAMPLES_PER_FRAME]


def describe(case: dict[str, Any]) -> str:
    """Say in a few words what a case is about."""
    layout = "full text" if case["non_streaming_mode"] else "streaming text"
    how = "greedy" if case["seed"] is None else f"seed {case['seed']}"
    return f"{case['speaker']}, {case['language']}, {layout}, {how}, {len(case['codes'])} frames"


def compare(model: Qwen3TTS, case: dict[str, Any], waveform: np.ndarray) -> str | None:
    """Return where this project departs from a case, None if it does not."""
    ids = model.tokenizer.encode(case["text"])
    if ids != case["input_ids"]:
        return "input_ids differ"
    codes = speak(model, ids, case)
    if codes != case["codes"]:
        official = case["codes"]
        same = 0
        while codes[: same + 1] == official[: same + 1]:
            same += 1
        return f"codes differ from frame {same} on ({len(codes)} frames, not {len(official)})"
    made = decode(model, codes)
    if made.shape != waveform.shape:
        return f"{made.size} samples, official {waveform.size}"
    difference = float(np.abs(made - waveform).max())
    return None if difference <= TOLERANCE else f"waveform differs by {difference:.1e}"


def sampling_of(case: dict[str, Any], prefix: str) -> SamplingOptions:
    """Return the sampling of the talker ("") or the code predictor ("subtalker_")."""
    given = case["sampling"]
    is_sampled = given.get("do_sample" if not prefix else "subtalker_dosample", True)
    return SamplingOptions(
        temperature=given.get(f"{prefix}temperature", 0.9) if is_sampled else 0.0,
        top_k=given.get(f"{prefix}top_k", 50),
        top_p=given.get(f"{prefix}top_p", 1.0),
        repetition_penalty=given.get("repetition_penalty", REPETITION_PENALTY),
    )


def speak(model: Qwen3TTS, ids: list[int], case: dict[str, Any]) -> list[list[int]]:
    """Make a case's codes, one frame step at a time."""
    prompt = model.prompts.build(
        ids,
        speaker=case["speaker"],
        language=case["language"],
        instruct_ids=model.tokenizer.encode_instruct(case["instruct"]),
        layout="full_text" if case["non_streaming_mode"] else "streaming_text",
    )
    frames = case["max_new_tokens"] - 1  # the official package drops the last token it draws
    state = model.new_state(slots=1, max_positions=len(prompt.rows) + frames)
    if case["seed"] is not None:
        torch.manual_seed(case["seed"])
    model.begin(
        state,
        0,
        prompt,
        seed=0,
        sampling=sampling_of(case, ""),
        predictor_sampling=sampling_of(case, "subtalker_"),
    )
    model.read_prompt(state, 0, prompt)
    draw = TorchDraw(model.config.vocabulary, model.config.eos_id)
    slots = torch.tensor([0], device=model.device)
    made: list[list[int]] = []
    while len(made) < frames:
        codes, is_end = model.frame_step(state, slots, draw=draw)
        if is_end:
            break
        made.append(codes[0].tolist())
    return made


def decode(model: Qwen3TTS, codes: list[list[int]]) -> np.ndarray:
    """Decode frames [T][16] whole: float32 [T * 1920]."""
    state = model.codec.new_state(slots=1)
    frames = torch.tensor(codes, device=model.device).T[None]
    return model.codec.decode(frames, state)[0].cpu().numpy()


if __name__ == "__main__":
    sys.exit(main())
