"""The gate of SwiGLU ("GLU Variants Improve Transformer")."""

from torch import Tensor
from torch.nn import functional

from .jit import fused, jit, rounded, tl

_BLOCK = 1024


@jit
def _kernel(gate_up, out, F, BLOCK: tl.constexpr):
    """One program per row and block of columns."""
    row, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < F
    dtype: tl.constexpr = out.dtype.element_ty
    gate = tl.load(gate_up + row * 2 * F + c, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * F + F + c, mask=inside, other=0.0).to(tl.float32)
    silu = rounded(gate / (1.0 + tl.exp(-gate)), dtype)
    tl.store(out + row * F + c, rounded(silu * up, dtype).to(dtype), mask=inside)


def _launch(gate_up: Tensor) -> Tensor:
    gate_up = gate_up.contiguous()
    out, F = _like(gate_up), gate_up.shape[-1] // 2
    _kernel[(out.numel() // F, -(-F // _BLOCK))](gate_up, out, F, BLOCK=_BLOCK)
    return out


def _like(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


@fused(_launch, _like, strided=("gate_up",))
def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) ⊙ up of [..., 2F], the gate first: [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
