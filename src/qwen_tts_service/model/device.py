"""Which device a worker's model lives on.

It does not know settings, workers' processes or memory.
"""

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
