"""Every implementation of attention gives the same values, and the choice has a reason."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from qwen_tts_service.kernels import attention as attention_module
from qwen_tts_service.kernels.attention import (
    CachePositions,
    FlashAttention,
    FlashTrial,
    MaskedAttention,
    RowwiseAttention,
    choose_attention,
    prefill,
    try_flash,
)
from qwen_tts_service.model.code_predictor import _FrameCache

S, L, H, K, D = 4, 24, 4, 2, 16
SIZES = SimpleNamespace(heads=H, kv_heads=K, head_size=D)


def plain(q, keys, values):
    """q [H, D] over keys and values [n, K, D], head by head."""
    out = []
    for head in range(H):
        k, v = keys[:, head * K // H], values[:, head * K // H]
        weights = (k @ q[head] / D**0.5).softmax(0)
        out.append(weights @ v)
    return torch.stack(out)


@pytest.fixture
def cache():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(S, L, K, D, generator=generator) for _ in range(2))


def new_rows(B, T=1):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(B, T, heads, D, generator=generator) for heads in (H, K, K))


@pytest.mark.parametrize("kind", [RowwiseAttention, MaskedAttention])
def test_each_row_sees_its_own_positions_and_no_more(kind, cache):
    q, k, v = new_rows(3)
    slots, positions = torch.tensor([2, 0, 3]), torch.tensor([5, 0, 19])
    rows = CachePositions(slots, positions, 20)
    before = [x.clone() for x in cache]
    out = kind("test").decode(q, k, v, cache, rows)
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        keys, values = (x[slot, :position] for x in before)
        keys, values = torch.cat((keys, k[row])), torch.cat((values, v[row]))
        torch.testing.assert_close(out[row, 0], plain(q[row, 0], keys, values))
        for stored, old, new in zip(cache, before, (k, v), strict=True):
            assert torch.equal(stored[slot, position], new[row, 0])
            assert torch.equal(stored[slot, position + 1 :], old[slot, position + 1 :])
    assert torch.equal(cache[0][1], before[0][1])


def test_a_rows_bits_do_not_depend_on_its_neighbours(cache):
    q, k, v = new_rows(4)
    slots, positions = torch.arange(4), torch.tensor([3, 17, 9, 22])
    together = RowwiseAttention("test").decode(
        q, k, v, tuple(x.clone() for x in cache), CachePositions(slots, positions, L)
    )
    for row in range(4):
        at = slice(row, row + 1)
        one = CachePositions(slots[at], positions[at], L)
        copies = tuple(x.clone() for x in cache)
        alone = RowwiseAttention("test").decode(q[at], k[at], v[at], copies, one)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("start", [0, 7])
def test_prefill_sees_what_lies_before_and_itself(cache, start):
    q, k, v = new_rows(1, T=5)
    before = [x.clone() for x in cache]
    piece = CachePositions(torch.tensor([3]), torch.arange(start, start + 5), start + 5)
    out = prefill(q, k, v, cache, [piece])
    for step in range(5):
        keys, values = (
            torch.cat((old[3, :start], new[0, : step + 1]))
            for old, new in zip(before, (k, v), strict=True)
        )
        torch.testing.assert_close(out[0, step], plain(q[0, step], keys, values))
    assert torch.equal(cache[0][3, start : start + 5], k[0])
    assert torch.equal(cache[1][3, start : start + 5], v[0])


def test_a_piece_has_the_same_bits_beside_others_and_sees_those_before_it(cache):
    q, k, v = new_rows(1, T=12)
    places = [(3, 0, 5), (1, 4, 3), (3, 5, 4)]  # slot, first position, rows
    pieces = [
        CachePositions(torch.tensor([s]), torch.arange(a, a + n), a + n) for s, a, n in places
    ]
    other = tuple(x.clone() for x in cache)
    together = prefill(q, k, v, cache, pieces)
    alone = [
        prefill(*(x[:, first : first + len(piece.positions)] for x in (q, k, v)), other, [piece])
        for first, piece in zip((0, 5, 8), pieces, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone, dim=1))
    assert all(torch.equal(a, b) for a, b in zip(cache, other, strict=True))


class FakeLibrary:
    """Stands for flash-attn: answers from the cache with plain arithmetic."""

    def flash_attn_with_kvcache(
        self, q, keys, values, *, cache_seqlens, cache_batch_idx, causal, num_splits
    ):
        assert cache_seqlens.dtype == cache_batch_idx.dtype == torch.int32
        assert causal
        assert num_splits == 1
        rows = zip(q, cache_batch_idx, cache_seqlens, strict=True)
        return torch.stack(
            [plain(x[0], keys[slot, :n], values[slot, :n])[None] for x, slot, n in rows]
        )


def test_flash_attention_gets_the_position_of_each_row(cache):
    q, k, v = new_rows(2)
    rows = CachePositions(torch.tensor([2, 0]), torch.tensor([5, 11]), L)
    copies = tuple(x.clone() for x in cache)
    flash = FlashAttention("test", FakeLibrary().flash_attn_with_kvcache).decode(
        q, k, v, copies, rows
    )
    torch.testing.assert_close(flash, RowwiseAttention("test").decode(q, k, v, cache, rows))


@pytest.mark.parametrize(
    ("device", "dtype", "use_flash", "reason"),
    [
        ("cpu", torch.float32, True, "flash-attn needs a CUDA device"),
        ("cpu", torch.float32, False, "on the CPU"),
        ("cuda", torch.bfloat16, False, "USE_FLASH_ATTENTION is 0"),
        ("cuda", torch.float32, True, "flash-attn needs bfloat16 or float16, not torch.float32"),
        ("cuda", torch.bfloat16, True, "flash-attn cannot be imported"),
    ],
)
def test_the_choice_has_a_reason(monkeypatch, device, dtype, use_flash, reason):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    chosen = choose_attention(
        torch.device(device), dtype, SIZES, use_flash=use_flash, is_fused=True
    )
    assert chosen.name == "sdpa"
    assert chosen.reason.startswith(reason)


def choose_flash(monkeypatch: pytest.MonkeyPatch, library: object, capability=(8, 0), hip=None):
    monkeypatch.setitem(sys.modules, "flash_attn", library)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    tried = []
    monkeypatch.setattr(attention_module, "try_flash", lambda *args: tried.append(args) or "tried")
    chosen = choose_attention(
        torch.device("cuda"), torch.bfloat16, SIZES, use_flash=True, is_fused=True
    )
    return chosen, tried


def test_flash_attention_is_tried_where_the_device_may(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    chosen, tried = choose_flash(monkeypatch, library)
    assert chosen == "tried"
    ((attend, trial),) = tried
    assert attend == library.flash_attn_with_kvcache
    assert (trial.device, trial.dtype) == (torch.device("cuda"), torch.bfloat16)
    assert (trial.sizes, trial.is_fused) == (SIZES, True)


@pytest.mark.parametrize(
    ("library", "how", "reason"),
    [
        (FakeLibrary(), {"capability": (7, 5)}, "flash-attn needs compute capability 8.0"),
        (FakeLibrary(), {"hip": "6.2"}, "flash-attn was never tried on ROCm"),
        # Version 4 has a module of this name without the function.
        (ModuleType("flash_attn"), {}, "flash-attn cannot be imported: .*flash_attn_with_kvcache"),
    ],
)
def test_flash_attention_that_cannot_run_is_not_tried(monkeypatch, library, how, reason):
    chosen, tried = choose_flash(monkeypatch, library, **how)
    assert isinstance(chosen, MaskedAttention)
    assert re.match(reason, chosen.reason)
    assert tried == []


CPU = torch.device("cpu")


def trial_with(flash_s: float, own_s: float, *, is_fused: bool = True) -> FlashTrial:
    """A trial on the CPU whose clock says this of flash-attn and of what runs without it."""
    times = iter((flash_s, own_s))

    def seconds(work):
        assert work().shape == (16, H * D)
        return next(times)

    return FlashTrial(CPU, torch.float32, SIZES, is_fused=is_fused, seconds=seconds)


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize(
    ("flash_s", "own_s", "kind", "reason"),
    [
        (8.9e-5, 1e-4, FlashAttention, "flash-attn helps: 89 µs a step, 100 without it"),
        (9.1e-5, 1e-4, MaskedAttention, "flash-attn does not help: 91 µs a step, 100 without it"),
    ],
)
def test_flash_attention_is_used_where_it_is_clearly_faster(is_fused, flash_s, own_s, kind, reason):
    attend = FakeLibrary().flash_attn_with_kvcache
    chosen = try_flash(attend, trial_with(flash_s, own_s, is_fused=is_fused))
    assert type(chosen) is kind
    assert chosen.reason == reason
    assert getattr(chosen, "attend", attend) == attend


def test_flash_attention_that_fails_or_is_wrong_is_not_used():
    def fails(*_args, **_options):
        raise RuntimeError("no kernel image is available\nfor this device")

    def doubles(*args, **options):
        return 2 * FakeLibrary().flash_attn_with_kvcache(*args, **options)

    def not_a_number(*args, **options):
        return doubles(*args, **options) * float("nan")

    for attend, reason in (
        (fails, "flash-attn fails on this device: no kernel image is available$"),
        (doubles, "flash-attn is wrong by 0.* on this device$"),
        (not_a_number, "flash-attn is wrong by nan on this device$"),
    ):
        chosen = try_flash(attend, trial_with(1e-6, 1.0))
        assert isinstance(chosen, MaskedAttention)
        assert re.match(reason, chosen.reason)


def test_the_model_speaks_the_same_with_either_sdpa(model, monkeypatch):
    """The batched attention for CUDA, run here on the CPU, gives the same greedy codes."""
    from qwen_tts_service.types import SamplingOptions

    prompt = model.prompts.build(model.tokenizer.encode("hello"), speaker="ryan")
    spoken = []
    for attention in (RowwiseAttention("test"), MaskedAttention("test")):
        monkeypatch.setattr(model.talker, "attention", attention)
        state = model.new_state(slots=2, max_positions=64)
        model.begin(state, 1, prompt, seed=0, sampling=SamplingOptions(temperature=0.0))
        model.read_prompt(state, 1, prompt)
        steps = [model.frame_step(state, torch.tensor([1]), bound=48) for _ in range(8)]
        spoken.append(torch.stack([codes for codes, _ in steps]))
    assert torch.equal(*spoken)


def test_predictor_attends_to_each_row_as_if_it_were_alone():
    # Real head sizes: with small ones all numbers of rows get the same kernels.
    heads, kv_heads, size, rows = 16, 8, 128, 5
    generator = torch.Generator().manual_seed(1)
    passes = [
        torch.randn(rows, steps, heads + 2 * kv_heads, size, generator=generator)
        for steps in (2, 1, 1, 1)
    ]

    def attend(part):
        split = (heads, kv_heads, kv_heads)
        sizes = SimpleNamespace(layers=1, kv_heads=kv_heads, head_size=passes[0].shape[3])
        cache = _FrameCache(sizes, 8, passes[0][part][:, 0, 0])
        return [cache._attend(0, *x[part].split(split, dim=2)) for x in passes]

    together = attend(slice(0, rows))
    for row in range(rows):
        for whole, alone in zip(together, attend(slice(row, row + 1)), strict=True):
            assert torch.equal(whole[row], alone[0])
