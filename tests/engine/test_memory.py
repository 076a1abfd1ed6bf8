"""What fits is planned from sizes alone, and what does not is refused with what would."""

import itertools
import logging
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.engine.harness import OPTIONS

from qwen_tts_service.engine import memory
from qwen_tts_service.engine.driver import EagerDriver
from qwen_tts_service.engine.graphs import GraphRunner
from qwen_tts_service.engine.memory import (
    GIB,
    GRAPH_KERNEL_BYTES,
    CapacityWish,
    MemoryNeeds,
    MemoryPlan,
    MemoryPlanner,
    count_needs,
    elements_of,
    needs_of,
    plan_memory,
)
from qwen_tts_service.engine.slots import RING_FRAMES, SlotTensors, tensor_bytes
from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.attention import MaskedAttention, RowwiseAttention
from qwen_tts_service.kernels.fused.choice import KernelChoice
from qwen_tts_service.model.qwen3_tts import ModelSetup, Qwen3TTS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import launch_counts  # noqa: E402
import make_random_checkpoint  # noqa: E402

MIB = 2**20
# 1.1 x (1000 + slots x (10 + positions / 10)) MiB
NEEDS = MemoryNeeds(weights=900 * MIB, fixed=100 * MIB, slot=0, position=MIB // 10, row=10 * MIB)


@pytest.mark.parametrize(
    ("free_mib", "asked", "slots", "positions"),
    [
        pytest.param(20_000, {}, 10, 8192, id="all that is wanted"),
        pytest.param(6_000, {}, 10, 4096, id="shorter first"),
        pytest.param(3_600, {}, 10, 2048, id="as short as it gets by itself"),
        pytest.param(3_000, {}, 8, 2048, id="then fewer"),
        pytest.param(1_400, {}, 1, 2048, id="down to one"),
        pytest.param(6_000, {"is_positions_asked": True}, 5, 8192, id="long ones, so fewer"),
        pytest.param(6_000, {"is_slots_asked": True}, 10, 4096, id="many, so shorter"),
        pytest.param(3_600, {"slots": 4, "is_slots_asked": True}, 4, 4096, id="four, so longer"),
        pytest.param(1_400, {"slots": 4, "positions": 256}, 4, 256, id="short by wish"),
    ],
)
def test_what_fits_is_chosen(
    free_mib: int, asked: dict[str, Any], slots: int, positions: int
) -> None:
    wish = replace(CapacityWish(slots=10, positions=8192), **asked)
    plan = plan_memory(NEEDS, free_mib * MIB, wish)
    assert (plan.slots, plan.positions) == (slots, positions)
    assert plan.needed_bytes == NEEDS.total(slots, positions) <= plan.free_bytes == free_mib * MIB


@pytest.mark.parametrize(
    ("free_mib", "wish", "said"),
    [
        pytest.param(
            5_000,
            CapacityWish(slots=16, positions=8192, is_slots_asked=True, is_positions_asked=True),
            "MAX_CONCURRENT_REQUESTS=16 with MAX_POSITIONS=8192 needs 15.3 GiB of memory, and "
            "4.9 GiB are free. This fits: MAX_CONCURRENT_REQUESTS=4 with MAX_POSITIONS=8192, or "
            "MAX_CONCURRENT_REQUESTS=16 with MAX_POSITIONS=2048.",
            id="both asked for",
        ),
        pytest.param(
            2_000,
            CapacityWish(slots=10, positions=8192, is_positions_asked=True),
            "MAX_CONCURRENT_REQUESTS=10 with MAX_POSITIONS=8192 needs 10.0 GiB of memory, and "
            "2.0 GiB are free. This fits: MAX_CONCURRENT_REQUESTS=10 with MAX_POSITIONS=512.",
            id="too long for one",
        ),
        pytest.param(
            1_200,
            CapacityWish(slots=64, positions=4096, is_slots_asked=True),
            "MAX_CONCURRENT_REQUESTS=64 with MAX_POSITIONS=4096 needs 29.9 GiB of memory, and "
            "1.2 GiB are free. This fits: MAX_CONCURRENT_REQUESTS=2 with MAX_POSITIONS=256.",
            id="too many and too long",
        ),
        pytest.param(
            1_000,
            CapacityWish(slots=10, positions=8192),
            "MAX_CONCURRENT_REQUESTS=10 with MAX_POSITIONS=8192 needs 10.0 GiB of memory, and "
            "1.0 GiB are free. Even one slot of 256 positions needs 1.1 GiB, most of it weights: "
            "take the 0.6B model or another device.",
            id="nothing fits",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    free_mib: int, wish: CapacityWish, said: str
) -> None:
    with pytest.raises(StartupError) as caught:
        plan_memory(NEEDS, free_mib * MIB, wish)
    assert str(caught.value) == said


def test_every_kind_of_need_is_in_the_total() -> None:
    needs = MemoryNeeds(
        weights=1,
        fixed=20,
        slot=300,
        position=4000,
        row=50_000,
        row_position=600_000,
        spare=1,
        graph_kernels=lambda slots, positions: slots * positions,
    )
    state = 3 * (300 + 5 * 4000)
    work = 2 * (50_000 + 5 * 600_000)
    assert needs.total(2, 5) == int(1.1 * (21 + state + work + 10 * GRAPH_KERNEL_BYTES))


def test_a_plan_says_what_it_is() -> None:
    plan = MemoryPlan(4, 2048, 7 * GIB, 8 * GIB)
    assert str(plan) == "8.0 GiB free: 4 slots of 2,048 positions, which need 7.0 GiB at most"
    assert "1 slot of" in str(replace(plan, slots=1))


# What a model needs ------------------------------------------------------------------


def setup_of(size: str, **changes: Any) -> ModelSetup:
    """A checkpoint of published shapes on CUDA."""
    setup = ModelSetup(
        path=Path("/nowhere"),
        config=launch_counts.shapes(size),
        device=torch.device("cuda", 0),
        dtype=torch.bfloat16,
        codec_dtype=torch.float32,
        linear="float",
        attention=MaskedAttention("test"),
        is_fused=True,
    )
    return replace(setup, **changes)


def needs(setup: ModelSetup, size: str) -> MemoryNeeds:
    main, codec = (
        make_random_checkpoint.main_config(size),
        make_random_checkpoint.codec_config(size),
    )
    speech = [*make_random_checkpoint.codec_tensors(codec["decoder_config"])]
    speech += make_random_checkpoint.encoder_tensors(codec["encoder_config"])
    elements = [
        {name: math.prod(shape) for name, shape in tensors}
        for tensors in (make_random_checkpoint.main_tensors(main), speech)
    ]
    return count_needs(setup, OPTIONS, *elements)


@pytest.mark.parametrize("size", ["1.7b", "0.6b"])
def test_published_weights_are_counted_to_three_in_a_hundred(size: str) -> None:
    setup = setup_of(size)
    model = launch_counts.empty_model(setup.config, is_fused=True)
    networks = (model.talker, model.code_predictor, model.prompts, model.codec)
    true = sum(
        {
            t.untyped_storage()._cdata: t.nbytes for part in networks for t in part.parameters()
        }.values()
    )
    counted = needs(setup, size)
    assert 0.97 < counted.weights / true < 1.01
    codec = tensor_bytes(model.codec.new_state(slots=1).tensors())
    ring = RING_FRAMES * model.config.codebooks * 8
    assert codec + ring <= counted.slot < 1.1 * (codec + ring)


@pytest.mark.parametrize(("linear", "share"), [("half", 0.5), ("int8", 0.25), ("packed", 1)])
def test_packed_weights_are_counted_as_they_are_packed(linear: Any, share: float) -> None:
    cpu: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
    of = {
        kind: needs(setup_of("0.6b", linear=kind, **cpu), "0.6b").weights
        for kind in ("float", linear)
    }
    elements = {
        n: math.prod(s)
        for n, s in make_random_checkpoint.main_tensors(make_random_checkpoint.main_config("0.6b"))
    }
    kept = [n for n in elements if "text_embedding" not in n and "codec_embedding" not in n]
    matrices = 4 * sum(elements[name] for name in kept)
    assert of["float"] - of[linear] == pytest.approx(matrices * (1 - share))


def test_the_state_of_slots_is_counted_as_it_is_allocated(model: Qwen3TTS) -> None:
    setup = ModelSetup(
        path=Path("/nowhere"),
        config=model.config,
        device=model.device,
        dtype=model.dtype,
        codec_dtype=torch.float32,
        linear=model.linear,
        attention=RowwiseAttention("test"),
        is_fused=False,
    )
    needed = count_needs(setup, OPTIONS, {}, {})
    sizes = [
        tensor_bytes(
            SlotTensors(model, replace(OPTIONS, max_positions=n, max_text_rows=n // 4)).state
        )
        for n in (256, 512)
    ]
    assert sizes[1] - sizes[0] == OPTIONS.slots * 256 * needed.position
    assert needed.fixed == OPTIONS.prefix_cache_rows * (needed.position - model.config.width)


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("deterministic", [True, False])
def test_as_many_graphs_are_counted_as_are_captured(
    model: Qwen3TTS, monkeypatch: pytest.MonkeyPatch, is_fused: bool, deterministic: bool
) -> None:
    options = replace(
        OPTIONS, slots=3, max_positions=300, prefill_piece_rows=32, deterministic=deterministic
    )
    one = (1_000_000, 1_000, 1)
    monkeypatch.setattr(memory, "FUSED_KERNELS", one)
    monkeypatch.setattr(memory, "PLAIN_KERNELS", one)
    setup = SimpleNamespace(is_fused=is_fused)
    counted = memory._graph_counter(setup, options, not is_fused)(3, 300)
    monkeypatch.setattr(model.talker, "attention", MaskedAttention("test"))
    like_cuda = replace(model, kernels=KernelChoice(is_fused, "test"))
    captured: list[str] = []

    class Pools(EagerDriver):
        def capture(self, work: Any, pool: str) -> Any:
            captured.append(pool)
            return work

    runner = GraphRunner(like_cuda, options, Pools())
    frames, prompts, sounds = len(runner._frames), len(runner._prefills), len(runner._audio)
    assert counted == frames * one[0] + prompts * one[1] + sounds * one[2]
    beginning = 1  # of a few kernels, which the headroom covers
    assert len(captured) == frames + prompts + sounds + beginning


def test_a_file_is_counted_by_its_header(quick_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    file = quick_checkpoint / "model.safetensors"
    assert elements_of(file) == {name: t.numel() for name, t in load_file(file).items()}
    broken = tmp_path / "broken"
    for content in (b"", b"\x08\0\0\0\0\0\0\0rubbish!"):
        broken.write_bytes(content)
        with pytest.raises(StartupError, match="broken cannot be read as safetensors"):
            elements_of(broken)


# The planner -------------------------------------------------------------------------


def load_with(planner: MemoryPlanner, checkpoint: Path) -> Any:
    return Qwen3TTS.load(checkpoint, before_weights=planner)


def plan_with(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, **wish: Any
) -> MemoryPlan:
    asked: list[Any] = []

    def free(device: Any, *, sharers: int) -> int:
        asked.append((str(device), sharers))
        return free_bytes

    monkeypatch.setattr(memory, "free_memory", free)
    wished = CapacityWish(**{"slots": 10, "positions": 8192, **wish})
    planner = MemoryPlanner(wished, deterministic=False, sharers=2)
    load_with(planner, checkpoint)
    assert asked == [("cpu", 2)]
    return planner.plan


def test_a_checkpoint_is_planned_before_its_weights_are_read(
    quick_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)
    caplog.set_level(logging.INFO)
    plan = plan_with(quick_checkpoint, monkeypatch, 20 * GIB)
    assert (plan.slots, plan.positions) == (10, 8192)
    assert f"memory of cpu: {plan}" in caplog.messages
    with pytest.raises(StartupError, match="Even one slot"):
        plan_with(quick_checkpoint, monkeypatch, MIB)


def test_the_default_is_cut_to_what_a_model_has_and_more_is_refused(
    quick_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan_with(quick_checkpoint, monkeypatch, 20 * GIB, positions=40_000).positions == 32_768
    monkeypatch.setattr(memory, "needs_of", lambda *_: pytest.fail("it is too early to count"))
    with pytest.raises(StartupError, match=r"MAX_POSITIONS=32769 .* 32768 at most"):
        plan_with(
            quick_checkpoint, monkeypatch, 20 * GIB, positions=32_769, is_positions_asked=True
        )


def test_what_a_checkpoint_needs_is_read_from_both_files(
    quick_checkpoint: Path, model: Qwen3TTS
) -> None:
    setups: list[ModelSetup] = []
    Qwen3TTS.load(quick_checkpoint, before_weights=setups.append)
    speech = quick_checkpoint / "speech_tokenizer"
    files = (quick_checkpoint / "model.safetensors", speech / "model.safetensors")
    expected = count_needs(setups[0], OPTIONS, *map(elements_of, files))
    assert needs_of(setups[0], OPTIONS).weights == expected.weights > model.weight_bytes / 2


# What the documents say --------------------------------------------------------------

CONTEXT_BYTES = 0.6 * GIB
"""What the CUDA context takes of a device before anything is planned, by the documents."""
MEAN_POSITIONS = 544
"""Blocks of 32 positions for a mean utterance of 30 s with its prompt, by the ADR."""


def rows_of(document: str, head: str) -> list[list[str]]:
    """The table below the line that is its head."""
    lines = (ROOT / document).read_text().partition(head)[2].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def planned(needed: MemoryNeeds, free_bytes: float) -> str:
    try:
        plan = plan_memory(needed, int(free_bytes), CapacityWish(slots=10, positions=8192))
    except StartupError:
        return "does not fit"
    return f"{plan.slots} x {plan.positions:,}"


def most_slots(needed: MemoryNeeds, free_bytes: float, positions: int) -> str:
    fitting = (n for n in range(1024, 0, -1) if needed.total(n, positions) <= free_bytes)
    return str(next(fitting))


def on_cpu(size: str) -> MemoryNeeds:
    cpu = {"device": torch.device("cpu"), "dtype": torch.float32, "linear": "half"}
    setup = setup_of(size, attention=RowwiseAttention("test"), is_fused=False, **cpu)
    return needs(setup, size)


def test_the_tables_for_operators_are_the_plans() -> None:
    large, small = (needs(setup_of(size), size) for size in ("1.7b", "0.6b"))
    rows = rows_of("docs/deploy.md", "| GPU | 1.7B")
    assert [row[0] for row in rows] == ["8 GB", "16 GB", "24 GB", "48 GB", "80 GB"]
    for name, *told in rows:
        free = int(name.split()[0]) * GIB - CONTEXT_BYTES
        both = ((f(needed, free)) for needed in (large, small) for f in (planned, _at_2048))
        assert told == list(both), name
    rows = rows_of("docs/deploy.md", "| Free memory | 1.7B")
    assert len(rows) == 4
    for name, *told in rows:
        free = int(name.split()[0]) * GIB
        assert told == [planned(on_cpu(size), free) for size in ("1.7b", "0.6b")], name


def _at_2048(needed: MemoryNeeds, free_bytes: float) -> str:
    return most_slots(needed, free_bytes, 2048)


@pytest.mark.parametrize("size", ["1.7B", "0.6B"])
def test_the_table_of_the_decision_is_the_plans(size: str) -> None:
    needed = needs(setup_of(size.lower()), size.lower())
    rows = rows_of("docs/adr/0012-fixed-slots.md", f"| {size} |")
    assert len(rows) == 5
    for name, *told in rows:
        free = int(name.split()[0]) * GIB - CONTEXT_BYTES
        lengths = (8192, 2048, 1024, MEAN_POSITIONS)
        assert told == [most_slots(needed, free, length) for length in lengths], name
