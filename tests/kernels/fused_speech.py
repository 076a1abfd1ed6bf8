"""Speak a few frames with Triton's kernels in its interpreter, and by torch's own; print both.

Started by test_fused_speech.py with TRITON_INTERPRET=1, which Triton reads when it is imported:
python fused_speech.py CHECKPOINT DTYPE. One line of JSON: whether the codes are equal, and how far
apart the samples are.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fused_cases import start_interpreter
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import SamplingOptions

FRAMES = 2


@torch.inference_mode()
def speak(model: Qwen3TTS) -> tuple[Tensor, Tensor]:
    """Codes int64 [2, Q, T] of two speeches side by side, drawn with top_p in use, and samples."""
    texts = [model.tokenizer.encode(text) for text in ("One.", "One, two.")]
    prompts = [model.prompts.build(ids, speaker="ryan", language="english") for ids in texts]
    state, slots = model.new_state(slots=3, max_positions=32), torch.tensor([2, 1])
    pieces = []
    for slot, prompt in zip(slots, prompts, strict=True):
        sampling = SamplingOptions(temperature=0.9, top_p=0.9)
        model.begin(state, int(slot), prompt, seed=5, sampling=sampling)
        pieces.append(model.piece(slot[None], 0, len(prompt.rows) - 1))
    model.prefill(state, torch.cat([prompt.rows[:-1] for prompt in prompts]), pieces)
    codes = torch.stack([model.frame_step(state, slots)[0] for _ in range(FRAMES)], dim=2)
    heard, active = model.codec.new_state(slots=3), torch.tensor([True, False])
    first = model.codec.decode(codes[:, :, :1], heard, slots, active)
    return codes, torch.cat((first, model.codec.decode(codes, heard, slots)), dim=1)


def main() -> None:
    start_interpreter()
    torch.set_num_threads(1)
    path, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
    (codes, samples), (own_codes, own_samples) = (
        speak(Qwen3TTS.load(path, dtype=dtype, linear="float", fused_kernels=fused))
        for fused in (True, False)
    )
    apart = float((samples - own_samples).abs().max())
    print(json.dumps({"equal": torch.equal(codes, own_codes), "apart": apart}))


if __name__ == "__main__":
    main()
