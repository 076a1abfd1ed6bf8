#!/usr/bin/env python3
"""Compare this project's model with recorded outputs of the official package.

    scripts/parity.py CHECKPOINT GOLDEN.json [--linear float|half|int8] [--device cuda]
        [--fused] [--frames N]

GOLDEN.json is a list of cases: text, language, non_streaming_mode, max_new_tokens, sampling, seed
(for torch.manual_seed; null when greedy); speaker, instruct, ref (a recording) and ref_text as far
as the case has them; and what the official package made of them: input_ids, ref_ids, codes
[frames][16], sample_rate, samples. The .npz beside it holds the waveforms as `case_<i>` and, where
they were recorded, the rows that the talker reads as `prompt_<i>` and those that come with the
frames as `text_rows_<i>`.

Recordings are `references/<ref>.*` beside GOLDEN.json. What the official encoders made of them is
in references.json (codes, also of the first samples of one) and `references_<checkpoint>.npz`
(`<ref>_embedding`, `<ref>_mel`, `<ref>_24k`); each is compared that is there.

Equal means: ids and codes identical; rows, mel, embedding and waveform within 1e-5. The official
waveform of a cloned voice may begin with the last sample of the recording; its end is compared.
Prints a line per recording and per case, and `N/N cases equal`; exits with 1 if any differs.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.audio import recording
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.sampling import FrameDraw
from qwen_tts_service.model.speaker_encoder import mel_spectrogram
from qwen_tts_service.types import KeptVoice, Samples, SamplingOptions, VoiceReference

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
    is_equal = compare_recordings(model, arguments.golden.parent, arguments.checkpoint.name)
    cases = json.loads(arguments.golden.read_text(encoding="utf-8"))
    equal = 0
    with np.load(arguments.golden.with_suffix(".npz")) as arrays:
        for index, case in enumerate(cases):
            recorded = {
                name: arrays[f"{name}_{index}"]
                for name in ("case", "prompt", "text_rows")
                if f"{name}_{index}" in arrays
            }
            if arguments.frames:
                shorten(case, recorded, arguments.frames)
            problem = compare(model, case, recorded, arguments.golden.parent)
            equal += problem is None
            print(f"case {index}: {problem or 'equal'} ({describe(case)})")
    print(f"{equal}/{len(cases)} cases equal")
    return 0 if is_equal and equal == len(cases) else 1


def compare_recordings(model: Qwen3TTS, folder: Path, checkpoint: str) -> bool:
    """Compare what a Base checkpoint hears in each recording; prints a line for each."""
    if model.encoder is None or not (folder / "references.json").exists():
        return True
    arrays: Mapping[str, Any] = {}
    if (file := folder / f"references_{checkpoint}.npz").exists():
        arrays = np.load(file)
    is_equal = True
    for row in json.loads((folder / "references.json").read_text(encoding="utf-8")):
        length = row.get("first_samples")
        problems = list(recording_problems(model, read_recording(folder, row["ref"]), row, arrays))
        name = f"{row['ref']}, first {length} samples" if length else row["ref"]
        print(f"{name}: {'; '.join(problems) or 'equal'} ({len(row['codes'])} frames)")
        is_equal = is_equal and not problems
    return is_equal


def recording_problems(
    model: Qwen3TTS, samples: Samples, row: dict[str, Any], arrays: Mapping[str, Any]
) -> Iterator[str]:
    """Yield where what is heard in a recording departs."""
    assert model.encoder is not None
    name, length = row["ref"], row.get("first_samples")
    if model.encoder.encode(samples[:length]) != row["codes"]:
        yield "codes differ"
    if length is not None:
        return
    heard = {
        "24k": samples,
        "mel": mel_spectrogram(torch.from_numpy(samples)).numpy(),
        "embedding": np.array(model.encoder.embed(samples), np.float32),
    }
    for what, made in heard.items():
        if f"{name}_{what}" in arrays:
            problem = departure(made, arrays[f"{name}_{what}"])
            yield from [f"{what} {problem}"] if problem else []


@cache
def read_recording(folder: Path, name: str) -> Samples:
    """Read a recording as the service does; its samples are compared with the official ones."""
    path = next((folder / "references").glob(f"{name}.*"))
    return recording.read_recording(path.read_bytes()).samples


def clone(model: Qwen3TTS, case: dict[str, Any], folder: Path) -> KeptVoice | None:
    """Make the voice of a case's recording, if it has one."""
    if model.encoder is None or not case.get("ref"):
        return None
    samples = read_recording(folder, case["ref"])
    transcript = case["ref_text"] if case["mode"] == "icl" else None
    return model.encoder.keep(VoiceReference(samples=samples, transcript=transcript))


def departure(made: np.ndarray, official: np.ndarray) -> str | None:
    """Say how far one array is from another, None if it is near enough."""
    if made.shape != official.shape:
        return f"has shape {made.shape}, official {official.shape}"
    difference = float(np.abs(made - official).max(initial=0.0))
    return None if difference <= TOLERANCE else f"differs by {difference:.1e}"


def shorten(case: dict[str, Any], recorded: dict[str, np.ndarray], frames: int) -> None:
    """Cut a case down to its first frames."""
    left_out = max(0, len(case["codes"]) - frames)
    case["codes"] = case["codes"][:frames]
    case["max_new_tokens"] = min(case["max_new_tokens"], frames + 1)
    if left_out and "case" in recorded:
        recorded["case"] = recorded["case"][: -left_out * SAMPLES_PER_FRAME]


def describe(case: dict[str, Any]) -> str:
    """Say in a few words what a case is about."""
    layout = "full text" if case["non_streaming_mode"] else "streaming text"
    how = "greedy" if case["seed"] is None else f"seed {case['seed']}"
    mode = case.get("mode", "custom")
    who = case.get("speaker") or f"{mode} {case.get('ref') or ''}".strip()
    return f"{who}, {case['language']}, {layout}, {how}, {len(case['codes'])} frames"


def compare(
    model: Qwen3TTS, case: dict[str, Any], recorded: dict[str, np.ndarray], folder: Path
) -> str | None:
    """Return where this project departs from a case, None if it does not.

    recorded: the official `case` (waveform), `prompt` and `text_rows`, as far as they are there
    """
    ids = model.tokenizer.encode(case["text"])
    if ids != case["input_ids"]:
        return "input_ids differ"
    voice = clone(model, case, folder)
    if case.get("ref_ids") and reference_ids(model, voice) != case["ref_ids"]:
        return "ref_ids differ"
    prompt = build_prompt(model, ids, case, voice)
    # The official rows end with tts_pad where ours leave off: it is added from there on anyway.
    text_rows = prompt.text_rows if len(prompt.text_rows) else model.prompts.pad_row
    for name, rows in (("prompt", prompt.rows), ("text_rows", text_rows)):
        problem = name in recorded and departure(rows.cpu().numpy(), recorded[name])
        if problem:
            return f"{name} {problem}"
    codes = speak(model, prompt, case)
    if codes != case["codes"]:
        official = case["codes"]
        same = 0
        while codes[: same + 1] == official[: same + 1]:
            same += 1
        return f"codes differ from frame {same} on ({len(codes)} frames, not {len(official)})"
    if "case" not in recorded:
        return None
    waveform, made = recorded["case"], decode(model, codes, voice)
    if voice is not None and waveform.size == made.size + 1:
        waveform = waveform[1:]
    problem = departure(made, waveform)
    return problem and f"waveform {problem}"


def reference_ids(model: Qwen3TTS, voice: KeptVoice | None) -> list[int]:
    """Return the ids of what is said in a voice's recording; none without codes."""
    has_recording = voice is not None and voice.codes
    return model.tokenizer.encode_reference(voice.transcript) if has_recording else []


def build_prompt(
    model: Qwen3TTS, ids: list[int], case: dict[str, Any], voice: KeptVoice | None
) -> PromptEmbeddings:
    """Lay out a case's prompt."""
    return model.prompts.build(
        ids,
        speaker=case.get("speaker"),
        voice=voice,
        reference_ids=reference_ids(model, voice),
        language=case["language"],
        instruct_ids=model.tokenizer.encode_instruct(case.get("instruct") or ""),
        layout="full_text" if case["non_streaming_mode"] else "streaming_text",
    )


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


def speak(model: Qwen3TTS, prompt: PromptEmbeddings, case: dict[str, Any]) -> list[list[int]]:
    """Make a case's codes, one frame step at a time."""
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


def decode(model: Qwen3TTS, codes: list[list[int]], voice: KeptVoice | None = None) -> np.ndarray:
    """Decode frames [T][16] whole, behind a voice's recording: float32 [T * 1920]."""
    has_recording = voice is not None and voice.codes
    state = model.hear(voice) if has_recording else model.codec.new_state(slots=1)
    frames = torch.tensor(codes, device=model.device).T[None]
    return model.codec.decode(frames, state)[0].cpu().numpy()


if __name__ == "__main__":
    sys.exit(main())
