"""Kernels fused by torch.compile give the codes of plain ones, compiled once for all blocks."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from qwen_tts_service.engine.threads import on_a_thread_that_ends
from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.fuse import fused
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import SamplingOptions

FRAMES = 6


@torch.inference_mode()  # as the engine's thread is; tensors of the other kind compile once more
def speak(model, rows):
    """Codes and last logits of a few utterances, spoken together."""
    prompt = model.prompts.build(model.tokenizer.encode("hello the world"), speaker="ryan")
    state = model.new_state(slots=rows, max_positions=64)
    for slot in range(rows):
        model.begin(state, slot, prompt, seed=slot, sampling=SamplingOptions())
        model.read_prompt(state, slot, prompt)
    slots = torch.arange(rows)
    codes = [model.frame_step(state, slots)[0] for _ in range(FRAMES)]
    return torch.stack(codes), state.logits.clone()


def fuse(model, backend):
    torch._dynamo.reset()
    counters.clear()
    for stack in (model.talker.stack, model.code_predictor.stack):
        stack.fuse(lambda function: fused(function, backend))


def test_one_thread_may_load_and_another_capture(quick_checkpoint):
    # torch allows eight shapes, and keeps its settings per thread: an engine has more of both.
    model = on_a_thread_that_ends(load_fused, quick_checkpoint)
    sizes = range(1, 4)
    codes = on_a_thread_that_ends(lambda: [speak(model, rows)[0] for rows in sizes])
    assert counters["stats"]["unique_graphs"] > 2 * 8
    assert [code.shape[1] for code in codes] == list(sizes)


def load_fused(quick_checkpoint):
    model = Qwen3TTS.load(quick_checkpoint, linear="float")
    fuse(model, "aot_eager")
    return model


def test_the_code_is_traced_whole_and_gives_the_same_bits(data):
    model = Qwen3TTS.load(data / "tiny_1b7", linear="float")
    plain = [speak(model, rows) for rows in (1, 3)]
    fuse(model, "aot_eager")
    for (codes, logits), expected in zip(
        [speak(model, rows) for rows in (1, 3)], plain, strict=True
    ):
        assert torch.equal(codes, expected[0])
        assert torch.equal(logits, expected[1])
    # Two functions for: the prompt, and one and three rows of talker, of the predictor's first two
    # positions and of its others.
    assert counters["stats"]["unique_graphs"] == 2 * (1 + 2 * 3)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor itself, torch 2.13
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for the CPU with g++ only")
def test_compiled_kernels_round_bfloat16_as_the_plain_ones_do(data):
    # One block and one shape: what inductor needs longest for is the C++ compiler, per graph.
    model = Qwen3TTS.load(data / "tiny_1b7", linear="float", dtype=torch.bfloat16)
    block, sizes = model.talker.stack.blocks[0], model.talker.stack.sizes
    rotary = model.talker.stack.rotary(torch.tensor([[7]]))
    torch.manual_seed(0)
    inputs = torch.randn(20, 1, 1, sizes.width).bfloat16()
    attended = torch.randn(20, 1, 1, sizes.heads, sizes.head_size).bfloat16()

    def run():
        before = [torch.cat(block.queries_keys_values(x, rotary), 2) for x in inputs]
        after = [block.after_attention(x, y) for x, y in zip(inputs, attended, strict=True)]
        return torch.stack(before), torch.stack(after)

    plain = run()
    fuse(model, "inductor")
    for compiled, expected in zip(run(), plain, strict=True):
        assert torch.equal(compiled, expected)
    assert counters["stats"]["unique_graphs"] == 2


def test_what_cannot_be_traced_whole_is_an_error():
    def broken(values):
        torch._dynamo.graph_break()
        return values + 1

    with pytest.raises(torch._dynamo.exc.Unsupported):
        fused(broken, "eager")(torch.ones(2))


def test_it_is_refused_where_it_cannot_be(data):
    with pytest.raises(StartupError, match=r"TORCH_COMPILE=1.* need CUDA, and this is cpu"):
        Qwen3TTS.load(data / "tiny_1b7", fuse=True)
