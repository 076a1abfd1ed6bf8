"""Fewer, larger kernels by torch.compile, with the roundings of the plain ones.

NOT MEASURED: no CUDA device was at hand. What is tested is that the code can be traced whole and
that the compiled functions, on the CPU, give the same codes. It does not know what it compiles.
"""

from collections.abc import Callable
from typing import Any

import torch

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]

_SHAPES = 256
"""Shapes that one function may be compiled for: sizes of batches and prompts, for two networks."""


def fused(function: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """Compile a pure function of tensors, anew for every shape that it is called with.

    What cannot be compiled is an error, never a plain call without a word.
    """
    torch._dynamo.config.recompile_limit = _SHAPES  # noqa: SLF001
    # Fused kernels keep float32 between steps where plain ones round to bfloat16: others lost
    # much of the voice's quality by that.
    options: dict[str, Any] = {"emulate_precision_casts": True} if backend == "inductor" else {}
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options)
