"""Time the official package on a checkpoint; runs in .venv-reference, prints one JSON line.

    .venv-reference/bin/python scripts/reference/speak.py CHECKPOINT --frames 48 [--batch 1]

It makes the frames asked for (the checkpoint must never end by itself), `--repeats` times after a
warm-up, and reports the fastest. It does not stream, so its first audio comes with its last.
"""

import argparse
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "stubs"))

import torch
from qwen_tts import Qwen3TTSModel


def main() -> None:
    """Load, warm up, and time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--text", required=True)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = Qwen3TTSModel.from_pretrained(
        given.checkpoint, device_map=device, dtype=dtype, attn_implementation="sdpa"
    )

    def speak(frames: int) -> float:
        began_s = time.perf_counter()
        audio, rate_hz = model.generate_custom_voice(
            text=[given.text] * given.batch,
            speaker=["Ryan"] * given.batch,
            language=["English"] * given.batch,
            do_sample=False,
            subtalker_dosample=False,
            max_new_tokens=frames + 1,
        )
        took_s = time.perf_counter() - began_s
        made = len(audio[0]) * 12.5 / rate_hz
        assert round(made) == frames, f"{made} frames and not {frames}: the speech ended by itself"
        return took_s

    speak(4)
    took_s = min(speak(given.frames) for _ in range(given.repeats))
    print(
        json.dumps(
            {
                "package": f"qwen-tts {version('qwen-tts')}, torch {torch.__version__}",
                "dtype": str(dtype),
                "ms_per_frame": took_s * 1000 / given.frames,
                "audio_s_per_s": given.batch * given.frames * 0.08 / took_s,
                "first_audio_s": took_s,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
