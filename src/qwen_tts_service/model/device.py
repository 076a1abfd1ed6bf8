"""Which device a worker's model lives on, and number formats by name.

It does not know settings, workers' processes or memory.
"""

from typing import Literal

import torch


def choose_device(asked: str | None, worker: int) -> torch.device:
    """Return the device for worker number `worker`, from 0.

    asked: "cpu", "cuda:N": that one; "cuda": the workers share the GPUs out among themselves;
    None: CUDA if torch can use it, and otherwise the CPU
    """
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda":
        return torch.device("cuda", worker % max(1, torch.cuda.device_count()))
    return torch.device(asked)


def dtype_named(name: Literal["float32", "bfloat16"]) -> torch.dtype:
    """Return torch's number format of this name."""
    return torch.float32 if name == "float32" else torch.bfloat16
