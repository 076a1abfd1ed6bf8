"""The memory plan: how many slots of how many positions fit, before anything is allocated.

Weights are counted by the headers of the checkpoint's files, state by its sizes; what torch and
CUDA need besides is an estimate.

Counted: weights with the codec's, KV caches and all other state of the slots in full (on the CPU,
too, where their memory is taken page by page as it is written), the prefix cache, the largest
tensors of a step, CUDA graphs, and 10 % of all that. Not counted: what the process had taken
before, and the text embedding, which stays in the mapped file.

NOT MEASURED: no CUDA device was at hand. The estimates are marked.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.attention import MaskedAttention
from qwen_tts_service.kernels.device import free_memory
from qwen_tts_service.kernels.linear import Arithmetic
from qwen_tts_service.model.codec.decoder import CodecDecoder
from qwen_tts_service.model.qwen3_tts import ModelSetup

from .graphs import GraphSizes
from .options import EngineOptions

logger = logging.getLogger(__name__)

GIB = 2**30
HEADROOM = 1.1
LEAST_POSITIONS = 2048
"""A slot is not made shorter than this by itself: about 150 s of speech and its prompt."""
SHORTEST_POSITIONS = 256
"""The least that MAX_POSITIONS may be."""
POSITIONS_PER_TEXT_ROW = 4
"""Speech has four frames and more to a token: more tokens than this could not be said."""
CODEC_STATE_VALUES = 1_300_000
"""What the codec remembers of a slot, and its latest codes; 1,298,498 were counted."""
CODEC_TENSORS = 6
"""Tensors of the codec's last stage that live at once; 5 were counted on the meta device."""
ROW_BYTES = 2 * 2**20
"""Logits, noise and what else a frame makes for one row: an estimate."""
CUDA_BYTES = 256 * 2**20
"""Workspaces of cuBLAS and cuDNN, and loaded kernels: an estimate."""
GRAPH_KERNEL_BYTES = 32 * 2**10
"""Device memory of one kernel in a captured graph: an estimate, see docs/log.md, 2026-12-01."""
FUSED_KERNELS, PLAIN_KERNELS = (1000, 350, 300), (3500, 850, 630)
"""Most kernels of a frame, a prompt piece and a codec call, by scripts/count_launches."""

WEIGHTS_FILE = "model.safetensors"
_PACKED_BYTES: dict[Arithmetic, int] = {"half": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeeds:
    """Bytes that a model takes.

    weights, fixed: of the networks; of prefix cache and libraries
    slot, position: of each slot, and of each of its positions, kept from step to step
    row, row_position: of each row and position that a step works on
    spare:          slots beside those that are asked for
    graph_kernels:  kernels in all graphs, for so many slots of so many positions
    """

    weights: int
    fixed: int
    slot: int
    position: int
    row: int
    row_position: int = 0
    spare: int = 0
    graph_kernels: Callable[[int, int], int] = lambda _slots, _positions: 0

    def total(self, slots: int, positions: int) -> int:
        """Return all that so many slots take, headroom included."""
        state = (slots + self.spare) * (self.slot + positions * self.position)
        work = slots * (self.row + positions * self.row_position)
        graphs = GRAPH_KERNEL_BYTES * self.graph_kernels(slots, positions)
        return int(HEADROOM * (self.weights + self.fixed + state + work + graphs))


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityWish:
    """Slots and positions of each that are wanted; those that are `asked` for may not be fewer."""

    slots: int
    positions: int
    is_slots_asked: bool = False
    is_positions_asked: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What is going to be allocated; needed_bytes includes the headroom."""

    slots: int
    positions: int
    needed_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        slots = f"{self.slots} slot{'s' * (self.slots > 1)} of {self.positions:,} positions"
        need = _gib(self.needed_bytes)
        return f"{_gib(self.free_bytes)} free: {slots}, which need {need} at most"


def plan_memory(needs: MemoryNeeds, free_bytes: int, wish: CapacityWish) -> MemoryPlan:
    """Choose the capacity nearest to a wish that fits. Pure.

    Slots that nobody asked for a length of get shorter, down to LEAST_POSITIONS, before they get
    fewer. Raises StartupError that says what would fit.
    """
    for slots, positions in _choices(wish):
        needed = needs.total(slots, positions)
        if needed <= free_bytes:
            return MemoryPlan(slots, positions, needed, free_bytes)
    raise StartupError(_refusal(needs, free_bytes, wish))


def _choices(wish: CapacityWish) -> Iterator[tuple[int, int]]:
    lengths = [wish.positions]
    while not wish.is_positions_asked and lengths[-1] >= 2 * LEAST_POSITIONS:
        lengths.append(lengths[-1] // 2)
    yield from ((wish.slots, length) for length in lengths)
    if not wish.is_slots_asked:
        yield from ((slots, lengths[-1]) for slots in range(wish.slots - 1, 0, -1))


def _refusal(needs: MemoryNeeds, free_bytes: int, wish: CapacityWish) -> str:
    """Say what was wanted, what there is, and what fits: fewer slots, or shorter ones, or both."""

    def first(tries: Iterable[tuple[int, int]]) -> str | None:
        fitting = (_settings(*way) for way in tries if needs.total(*way) <= free_bytes)
        return next(fitting, None)

    counts = range(wish.slots, 0, -1)
    lengths = [wish.positions >> n for n in range(wish.positions.bit_length())]
    fewer = first((slots, wish.positions) for slots in counts)
    shorter = first((wish.slots, n) for n in lengths if n >= SHORTEST_POSITIONS)
    both = first((slots, SHORTEST_POSITIONS) for slots in counts)
    ways = [way for way in (fewer, shorter) if way] or [way for way in (both,) if way]
    wanted = _settings(wish.slots, wish.positions)
    needed = _gib(needs.total(wish.slots, wish.positions))
    least = _gib(needs.total(1, SHORTEST_POSITIONS))
    said = f"{wanted} needs {needed} of memory, and {_gib(free_bytes)} are free. "
    if ways:
        return f"{said}This fits: {', or '.join(ways)}."
    return (
        f"{said}Even one slot of {SHORTEST_POSITIONS} positions needs {least}, most of it weights: "
        "take the 0.6B model or another device."
    )


def _settings(slots: int, positions: int) -> str:
    return f"MAX_CONCURRENT_REQUESTS={slots} with MAX_POSITIONS={positions}"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


class MemoryPlanner:
    """Makes the plan when it is called with how a checkpoint is going to run.

    sharers: processes that share the device alike
    """

    plan: MemoryPlan

    def __init__(self, wish: CapacityWish, *, deterministic: bool, sharers: int) -> None:
        self._wish = wish
        self._options = EngineOptions(
            slots=wish.slots, max_positions=wish.positions, deterministic=deterministic
        )
        self._sharers = sharers

    def __call__(self, setup: ModelSetup) -> None:
        """Plan and say it; raises StartupError for what the model or the memory does not allow."""
        most = setup.config.max_positions
        wish = self._wish
        if wish.is_positions_asked and wish.positions > most:
            raise StartupError(
                f"MAX_POSITIONS={wish.positions} is more than this model supports: {most} at most"
            )
        wish = replace(wish, positions=min(wish.positions, most))
        free_bytes = free_memory(setup.device, sharers=self._sharers)
        self.plan = plan_memory(needs_of(setup, self._options), free_bytes, wish)
        logger.info("memory of %s: %s", setup.device, self.plan)


# What a model needs ------------------------------------------------------------------


def needs_of(setup: ModelSetup, options: EngineOptions) -> MemoryNeeds:
    """Count what a checkpoint takes; slots and positions of `options` do not matter."""
    speech = setup.path / "speech_tokenizer"
    files = (setup.path / WEIGHTS_FILE, speech / WEIGHTS_FILE)
    return count_needs(setup, options, *(elements_of(file) for file in files))


def elements_of(file: Path) -> dict[str, int]:
    """Return how many numbers each tensor of a safetensors file has, by its header alone."""
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            return {name: math.prod(opened.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError, MemoryError) as error:
        raise StartupError(f"{file} cannot be read as safetensors: {error}") from error


def count_needs(
    setup: ModelSetup, options: EngineOptions, networks: Mapping[str, int], codec: Mapping[str, int]
) -> MemoryNeeds:
    """Count what tensors of such sizes take; names as in the files of a checkpoint."""
    talker, sizes, is_cuda = setup.config.talker, setup.config.codec, setup.device.type == "cuda"
    position = 2 * talker.layers * talker.kv_heads * talker.head_size * setup.dtype.itemsize
    is_masked = isinstance(setup.attention, MaskedAttention) and not setup.is_fused
    text_rows = setup.config.width * setup.dtype.itemsize // POSITIONS_PER_TEXT_ROW
    samples = max(options.chunk_frames) * sizes.samples_per_frame
    channels = sizes.decoder_width >> len(sizes.upsample_rates)
    return MemoryNeeds(
        weights=_weight_bytes(setup, networks)
        + sum(_kept(codec, CodecDecoder.IGNORED)) * setup.codec_dtype.itemsize,
        fixed=options.prefix_cache_rows * position + is_cuda * CUDA_BYTES,
        slot=CODEC_STATE_VALUES * setup.codec_dtype.itemsize,
        position=position + text_rows,
        row=ROW_BYTES + CODEC_TENSORS * samples * channels * setup.codec_dtype.itemsize,
        row_position=position // talker.layers if is_cuda and is_masked else 0,
        spare=1 if is_cuda else 0,
        graph_kernels=_graph_counter(setup, options, is_masked) if is_cuda else _no_graphs,
    )


def _weight_bytes(setup: ModelSetup, networks: Mapping[str, int]) -> int:
    size = setup.dtype.itemsize
    packed = _PACKED_BYTES.get(setup.linear, size)
    tables = sum(count for name, count in networks.items() if "codec_embedding" in name)
    matrices = sum(_kept(networks, ("talker.model.text_embedding",))) - tables
    rotary = 2 * setup.config.max_positions * setup.config.talker.head_size
    return (tables + rotary) * size + matrices * packed


def _kept(elements: Mapping[str, int], ignored: tuple[str, ...]) -> list[int]:
    return [count for name, count in elements.items() if not name.startswith(ignored)]


def _no_graphs(_slots: int, _positions: int) -> int:
    return 0


def _graph_counter(
    setup: ModelSetup, options: EngineOptions, is_masked: bool
) -> Callable[[int, int], int]:
    frame, prompt, codec = FUSED_KERNELS if setup.is_fused else PLAIN_KERNELS

    def kernels(slots: int, positions: int) -> int:
        asked = replace(options, slots=slots, max_positions=positions)
        sizes = GraphSizes.of(asked, is_fused=setup.is_fused, is_masked=is_masked)
        graphs = (len(sizes.frames), len(sizes.prompts), len(sizes.sounds))
        return graphs[0] * frame + graphs[1] * prompt + graphs[2] * codec

    return kernels
