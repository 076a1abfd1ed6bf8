"""Kernel fusion by torch.compile, with the roundings of the plain kernels.

NOT MEASURED: no CUDA device was at hand. What is tested is that the code can be traced whole and
that the compiled functions, on the CPU, give the same codes.
"""

from collections.abc import Callable
from typing import Any

import torch

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]

_SHAPES = 256
"""Shapes that one function may be compiled for: sizes of batches and prompts, for two networks."""


def fused(function: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """Compile a pure function of tensors, anew for every shape that it is called with.

    What cannot be compiled is an error, never silently a plain call.
    """
    # Fused kernels keep float32 between steps where plain ones round to bfloat16. Without this
    # switch the tiny checkpoint's logits were off by up to 3.6, and its codes were others.
    options: dict[str, Any] = {"emulate_precision_casts": True} if backend == "inductor" else {}
    compiled = torch.compile(
        function, fullgraph=True, dynamic=False, backend=backend, options=options
    )

    def call(*arguments: Any) -> Any:
        # Here, since torch keeps settings per thread, and who loads is not who calls.
        torch._dynamo.config.recompile_limit = _SHAPES  # noqa: SLF001
        return compiled(*arguments)

    return call
