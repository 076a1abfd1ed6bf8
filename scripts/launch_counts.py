"""Count the kernels that one step launches on a GPU, without a GPU and without weights.

    scripts/count_launches [--json FILE]

The networks are built in the published shapes on torch's meta device, whose tensors have shapes
and no values, and each part of an utterance is run once; every operation that would launch a
kernel is counted. Whatever would make the device wait for the host, or has a shape that depends on
values, is an error: a CUDA graph could not record it.

frame   one frame step of B rows: talker, code predictor, sampling, bookkeeping
prompt  64 rows of prompts, of one or of several side by side
codec   decoding 4 frames of B rows
begin   starting an utterance in a slot: one graph, and the copies that fill its inputs

Counting rules: views and allocations 0, topk 2, sort 4, scatter 2, rms_norm 1 (2 where its input
is not contiguous), masked scaled_dot_product_attention 4, a convolution 2; any other operation,
and every custom operation, 1.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from make_random_checkpoint import codec_config, main_config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from qwen_tts_service.engine.options import EngineOptions
from qwen_tts_service.engine.slots import SlotTensors
from qwen_tts_service.kernels.attention import CachePositions, MaskedAttention
from qwen_tts_service.kernels.fused.choice import KernelChoice
from qwen_tts_service.kernels.fused.jit import KERNELS
from qwen_tts_service.kernels.linear import Arithmetic
from qwen_tts_service.model.code_predictor import CodePredictor
from qwen_tts_service.model.codec.decoder import CodecDecoder
from qwen_tts_service.model.config import ModelConfig, load_config
from qwen_tts_service.model.prompt_embeddings import PromptEmbedder
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.talker import Talker
from qwen_tts_service.model.tokenizer import Tokenizer

SIZES = ("1.7b", "0.6b")
FRAME_ROWS = (1, 16, 64)
CODEC_ROWS = (1, 8)
PROMPT_ROWS = 64
CODEC_FRAMES = 4
POSITIONS = 512
META = torch.device("meta")

# What an operation launches where it is neither one kernel nor none.
_LAUNCHES = {
    "topk": 2,
    "sort": 4,
    "scatter": 2,
    "scatter_": 2,
    "conv2d": 2,
    "scaled_dot_product_attention": 4,
}
# Kernels on CUDA, though torch also has them as several operations.
_WHOLE = {"rms_norm", "scaled_dot_product_attention", "linear", "matmul", "layer_norm", "conv2d"}
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "set_", "detach"}


@dataclass(frozen=True, slots=True)
class EmptyWeights:
    """Tensors of the right shapes without values; stands for a checkpoint."""

    dtype: torch.dtype
    device: torch.device = META
    arithmetic: Arithmetic = "float"

    def take(self, _name: str, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=self.dtype, device=self.device)

    def take_raw(self, name: str, *shape: int) -> Tensor:
        return self.take(name, *shape)


class LaunchCounter(TorchDispatchMode):
    """Counts, while it is entered, the kernels of every operation by its name.

    is_captured: whether a CUDA graph is to hold the work; then anything that touches the host's
    memory raises RuntimeError
    """

    def __init__(self, *, is_captured: bool) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self._is_captured = is_captured

    def __torch_dispatch__(
        self, operation: Any, _types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        name = operation.overloadpacket.__name__
        if name not in _WHOLE:
            with self:
                result = operation.decompose(*arguments, **options)
            if result is not NotImplemented:
                return result
        result = operation(*arguments, **options)
        tensors = [x for x in tree_leaves((arguments, options, result)) if isinstance(x, Tensor)]
        on_host = [x for x in tensors if x.device != META]
        if self._is_captured and any(x.dim() for x in on_host):
            raise RuntimeError(f"{operation} touches the host's memory: no graph can hold it")
        if len(on_host) < len(tensors):
            self.launches[name] += _launches(operation, arguments)
        return result

    @property
    def total(self) -> int:
        """Kernels launched."""
        return self.launches.total()


def _launches(operation: Any, arguments: Sequence[Any]) -> int:
    name = operation.overloadpacket.__name__
    if name in _FREE or operation.is_view:
        return 0
    if name == "rms_norm" and not cast("Tensor", arguments[0]).is_contiguous():
        return 2
    return KERNELS.get(name) or _LAUNCHES.get(name, 1)


def shapes(size: str) -> ModelConfig:
    """Return the published configuration of a model, "1.7b" or "0.6b"."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "speech_tokenizer").mkdir()
        (path / "config.json").write_text(json.dumps(main_config(size)))
        codec = path / "speech_tokenizer" / "config.json"
        codec.write_text(json.dumps(codec_config(size)))
        return load_config(path)


def empty_model(config: ModelConfig, *, is_fused: bool) -> Qwen3TTS:
    """Build the networks as they are on CUDA without flash-attn, with no values in them."""
    weights = EmptyWeights(torch.bfloat16, arithmetic="ordered" if is_fused else "float")
    talker = Talker(config, weights, MaskedAttention("counted"), is_fused=is_fused)
    code_predictor = CodePredictor(config, weights, is_fused=is_fused)
    return Qwen3TTS(
        config=config,
        tokenizer=cast("Tokenizer", None),
        prompts=PromptEmbedder(config, weights, talker.embedding, code_predictor.embed),
        talker=talker,
        code_predictor=code_predictor,
        codec=CodecDecoder(config.codec, EmptyWeights(torch.float32), is_fused=is_fused),
        device=META,
        dtype=torch.bfloat16,
        linear="float",
        kernels=KernelChoice(is_fused, "counted"),
    )


def count(work: Callable[[], object], *, is_captured: bool = True) -> LaunchCounter:
    """Run `work` and count what it launches."""
    with torch.inference_mode(), LaunchCounter(is_captured=is_captured) as counter:
        work()
    return counter


@dataclass(frozen=True, slots=True)
class Counts:
    """The kernels of each part: by rows of the batch for frame and codec."""

    frame: dict[int, int]
    prompt: int
    codec: dict[int, int]
    begin: int


def count_model(size: str, *, is_fused: bool = True) -> Counts:
    """Count the parts of one model; the costlier kind of sorting counts."""
    model = empty_model(shapes(size), is_fused=is_fused)
    options = EngineOptions(slots=max(FRAME_ROWS), max_positions=POSITIONS)
    slots = SlotTensors(model, options, spare=1)
    return Counts(
        frame={rows: count_frame(slots, rows, full_sort=True) for rows in FRAME_ROWS},
        prompt=count_prompt(slots),
        codec={rows: count_codec(slots, rows) for rows in CODEC_ROWS},
        begin=count_begin(slots),
    )


def _numbers(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.int64, device=META)


def count_frame(slots: SlotTensors, rows: int, *, full_sort: bool) -> int:
    """Count one frame of so many rows."""
    numbers = _numbers(rows)
    return count(lambda: slots.frame(numbers, full_sort=full_sort, bound=POSITIONS)).total


def count_prompt(slots: SlotTensors) -> int:
    """Count one call for rows of prompts, of one or of several."""
    model, where = slots.model, _numbers(PROMPT_ROWS)
    rows = torch.empty(PROMPT_ROWS, model.config.width, dtype=model.dtype, device=META)

    def work() -> None:
        model.prefill(slots.state, rows, [CachePositions(where, where, POSITIONS)])

    return count(work).total


def count_codec(slots: SlotTensors, rows: int) -> int:
    """Count one call of the codec for so many rows."""
    numbers = torch.zeros(3, rows, dtype=torch.int64, device=META)

    def work() -> None:
        slots.decode(numbers[0], numbers[1], CODEC_FRAMES, active=numbers[2].bool())

    return count(work).total


def count_begin(slots: SlotTensors) -> int:
    """Count what starting an utterance launches."""
    integers, reals = _numbers(7), torch.zeros(5, dtype=torch.float64, device=META)
    row = torch.empty(slots.model.config.width, dtype=slots.model.dtype, device=META)
    copies = len((integers, reals, row))
    return copies + count(lambda: slots.restart(integers, reals, row)).total


def main() -> int:
    """Count both models, print the table and write what was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/count_launches")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    counts = {size: count_model(size) for size in SIZES}
    print("| kernels | " + " | ".join(SIZES) + " |\n|---|--:|--:|")
    rows: list[tuple[str, list[int]]] = [
        *((f"frame, B = {B}", [c.frame[B] for c in counts.values()]) for B in FRAME_ROWS),
        ("prompt piece", [c.prompt for c in counts.values()]),
        *((f"codec call, B = {B}", [c.codec[B] for c in counts.values()]) for B in CODEC_ROWS),
        ("begin", [c.begin for c in counts.values()]),
    ]
    for name, numbers in rows:
        print(f"| {name} | " + " | ".join(f"{n:,}" for n in numbers) + " |")
    if arguments.json:
        table = {
            size: {"frame": c.frame, "prompt": c.prompt, "codec": c.codec, "begin": c.begin}
            for size, c in counts.items()
        }
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
