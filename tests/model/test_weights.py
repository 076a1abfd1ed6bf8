"""Loading is strict: a missing, extra or misshapen tensor is named."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.attention import RowwiseAttention
from qwen_tts_service.model.code_predictor import CodePredictor
from qwen_tts_service.model.codec.decoder import CodecDecoder
from qwen_tts_service.model.config import load_config
from qwen_tts_service.model.prompt_embeddings import PromptEmbedder
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.talker import Talker
from qwen_tts_service.model.weights import CheckpointError, CheckpointFile

MAIN = "model.safetensors"
CODEC = "speech_tokenizer/model.safetensors"


@pytest.fixture
def checkpoint(data, tmp_path):
    shutil.copytree(data / "tiny_1b7", tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (MAIN, "talker.model.layers.1.self_attn.q_norm.weight"),
        (MAIN, "talker.model.layers.0.mlp.up_proj.weight"),
        (MAIN, "talker.model.text_embedding.weight"),
        (MAIN, "talker.code_predictor.lm_head.14.weight"),
        (MAIN, "talker.code_predictor.small_to_mtp_projection.bias"),
        (CODEC, "decoder.decoder.6.conv.bias"),
        (CODEC, "decoder.quantizer.rvq_rest.vq.layers.14._codebook.cluster_usage"),
    ],
)
class TestEveryTensor:
    def test_missing_is_named(self, checkpoint, file, name):
        edit(checkpoint / file, lambda tensors: tensors.pop(name))
        with pytest.raises(CheckpointError, match=f"{file} does not fit: missing: {name}"):
            Qwen3TTS.load(checkpoint)

    def test_misshapen_is_named(self, checkpoint, file, name):
        def widen(tensors):
            tensors[name] = torch.zeros(*tensors[name].shape[:-1], tensors[name].shape[-1] + 1)

        edit(checkpoint / file, widen)
        with pytest.raises(CheckpointError, match=f"wrong shape: {name} is .* must be"):
            Qwen3TTS.load(checkpoint)


@pytest.mark.parametrize("file", [MAIN, CODEC])
def test_an_extra_tensor_is_named(checkpoint, file):
    edit(checkpoint / file, lambda tensors: tensors.update(stowaway=torch.zeros(2)))
    with pytest.raises(CheckpointError, match="not expected: stowaway"):
        Qwen3TTS.load(checkpoint)


def test_every_problem_of_a_file_is_named_at_once(checkpoint):
    def spoil(tensors):
        tensors.pop("talker.model.norm.weight")
        tensors["stowaway"] = torch.zeros(2)
        tensors["talker.codec_head.weight"] = torch.zeros(3, 3)

    edit(checkpoint / MAIN, spoil)
    with pytest.raises(CheckpointError) as caught:
        Qwen3TTS.load(checkpoint)
    for part in ("missing: talker.model.norm", "not expected: stowaway", "talker.codec_head"):
        assert part in str(caught.value)


def test_a_projection_too_many_is_named(checkpoint, data):
    """The 0.6B layout has no projection between talker and code predictor."""
    shutil.copy(data / "tiny_0b6" / "config.json", checkpoint)
    with pytest.raises(CheckpointError, match="small_to_mtp_projection"):
        Qwen3TTS.load(checkpoint)


def test_encoder_tensors_may_be_absent(checkpoint):
    def drop(tensors):
        for name in [name for name in tensors if name.startswith("encoder.")]:
            del tensors[name]

    edit(checkpoint / CODEC, drop)
    Qwen3TTS.load(checkpoint)


@pytest.mark.parametrize("file", [MAIN, CODEC])
def test_a_cut_file_is_a_startup_error_that_names_it(checkpoint, file):
    path = checkpoint / file
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{file} cannot be read as safetensors"):
        Qwen3TTS.load(checkpoint)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_tensor_in_the_wanted_dtype_lies_in_the_mapped_file(data):
    path = (data / "tiny_1b7" / MAIN).resolve()
    weights = CheckpointFile(path, device=torch.device("cpu"), dtype=torch.float32)
    place = weights.take("talker.model.text_embedding.weight", 512, 48).data_ptr()
    regions = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    mapped = [
        [int(edge, 16) for edge in region[0].split("-")]
        for region in regions
        if region[-1] == str(path)
    ]
    assert any(start <= place < end for start, end in mapped)


class Ledger:
    """Weights without values that note what they are asked for."""

    device = torch.device("meta")
    dtype = torch.float32
    arithmetic = "float"

    def __init__(self):
        self.taken = {}

    def take(self, name, *shape):
        assert name not in self.taken
        self.taken[name] = shape
        return torch.empty(shape, device="meta")

    take_raw = take


def write_configs(random_checkpoint, size, folder):
    (folder / "speech_tokenizer").mkdir()
    for name, values in (
        ("config.json", random_checkpoint.main_config(size)),
        ("speech_tokenizer/config.json", random_checkpoint.codec_config(size)),
    ):
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return load_config(folder)


@pytest.mark.parametrize(
    ("size", "counts"),
    [("1.7b", (404, 1_916_676_352)), ("0.6b", (402, 905_788_672))],
)
def test_the_published_main_tensors_are_all_asked_for(
    random_checkpoint, monkeypatch, tmp_path, size, counts
):
    monkeypatch.setattr(PromptEmbedder, "text_rows", lambda self, ids: torch.empty(3, 1))
    ledger, config = Ledger(), write_configs(random_checkpoint, size, tmp_path)
    talker = Talker(config, ledger, RowwiseAttention("test"))
    CodePredictor(config, ledger)
    PromptEmbedder(config, ledger, talker.embedding)
    parameters = sum(math.prod(shape) for shape in ledger.taken.values())
    assert (len(ledger.taken), parameters) == counts
    inventory = random_checkpoint.main_tensors(random_checkpoint.main_config(size))
    assert ledger.taken == dict(inventory)


def test_the_published_codec_tensors_are_asked_for_but_input_projections(
    random_checkpoint, tmp_path
):
    ledger, config = Ledger(), write_configs(random_checkpoint, "1.7b", tmp_path)
    CodecDecoder(config.codec, ledger)
    decoder = random_checkpoint.codec_config("1.7b")["decoder_config"]
    inventory = dict(random_checkpoint.codec_tensors(decoder))
    assert len(inventory) == 271
    assert sum(math.prod(shape) for shape in inventory.values()) == 114_323_137
    unused = {name for name in inventory if name not in ledger.taken}
    assert all(".input_proj." in name and ".rvq_" in name for name in unused)
    assert ledger.taken == {name: inventory[name] for name in ledger.taken}
    assert len(unused) == 2


def test_a_random_checkpoint_has_the_official_inventory(random_checkpoint, data, tmp_path):
    random_checkpoint.write_checkpoint("tiny", tmp_path, never_ends=False)
    for file in (MAIN, CODEC):
        shapes = [
            {name: (x.shape, x.dtype) for name, x in load_file(folder / file).items()}
            for folder in (tmp_path, data / "tiny_1b7")
        ]
        assert shapes[0] == shapes[1]
    Qwen3TTS.load(tmp_path)


# Configuration ------------------------------------------------------------------------


def edit_config(checkpoint, change, file="config.json"):
    values = json.loads((checkpoint / file).read_text(encoding="utf-8"))
    change(values)
    (checkpoint / file).write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("im_end_token_id"), "field im_end_token_id is missing"),
        (lambda c: c["talker_config"].pop("head_dim"), "talker_config: the field head_dim is m"),
        (lambda c: c["talker_config"].update(head_dim="x"), "head_dim must be an integer"),
        (lambda c: c["talker_config"].update(head_dim=True), "head_dim must be an integer"),
        (lambda c: c["talker_config"].update(spk_id=[]), "spk_id must be an object"),
        (
            lambda c: c.update(tts_model_type="base"),
            "tts_model_type must be 'custom_voice', not 'base'",
        ),
        (lambda c: c["talker_config"].update(attention_bias=True), "attention_bias must be False"),
        (
            lambda c: c["talker_config"]["code_predictor_config"].update(vocab_size=63),
            "code_predictor_config: vocab_size must be 64",
        ),
    ],
)
def test_a_wrong_configuration_is_named(checkpoint, change, said):
    edit_config(checkpoint, change)
    with pytest.raises(StartupError, match=said):
        load_config(checkpoint)


@pytest.mark.parametrize("rates", ["8543", [8, "5", 4, 3], [8, True, 4, 3]])
def test_rates_that_are_no_list_of_integers_are_named(checkpoint, rates):
    file = "speech_tokenizer/config.json"
    edit_config(checkpoint, lambda c: c["decoder_config"].update(upsample_rates=rates), file)
    with pytest.raises(StartupError, match="upsample_rates must be a list of integers"):
        load_config(checkpoint)


def test_a_broken_configuration_file_is_named(checkpoint):
    (checkpoint / "speech_tokenizer" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(StartupError, match=r"speech_tokenizer/config\.json cannot be read"):
        load_config(checkpoint)


def test_the_configuration_lists_speakers_and_languages(model, small_model):
    config = model.config
    assert len(config.speakers) == 9
    assert len(config.languages) == 10
    assert "beijing_dialect" not in config.languages
    assert config.codec.samples_per_frame == 1920
    assert config.obeys_instruct
    assert not small_model.config.obeys_instruct


def test_load_reports_progress_in_order(data):
    steps = []
    Qwen3TTS.load(data / "tiny_1b7", on_progress=lambda step, done: steps.append((done, step)))
    assert steps == sorted(steps)
    assert steps[0][0] == 0.0
    assert steps[-1] == (1.0, "loaded")


def test_each_file_has_its_share_of_the_progress(data):
    done = {}
    Qwen3TTS.load(data / "tiny_1b7", on_progress=lambda step, share: done.update({step: share}))
    assert list(done) == [
        "reading the configuration",
        "loading the networks",
        "loading the codec",
        "loaded",
    ]
    assert done["loading the networks"] == pytest.approx(0.7)
    assert 0.7 < done["loading the codec"] <= 1.0


def test_what_is_asked_of_load_reaches_its_parts(data):
    plain = Qwen3TTS.load(data / "tiny_1b7")
    other = Qwen3TTS.load(data / "tiny_1b7", use_flash_attention=False, split="mistral")
    assert plain.attention.reason == "flash-attn needs a CUDA device"
    assert other.attention.reason == "on the CPU"
    assert len(other.tokenizer.pieces("YouTube")) == 2
    assert (plain.dtype, plain.device.type) == (torch.float32, "cpu")


def test_an_error_while_loading_is_not_hidden_by_tensors_left(data):
    class Stop(Exception):
        pass

    path = data / "tiny_1b7" / MAIN
    with (
        pytest.raises(Stop),
        CheckpointFile(path, device=torch.device("cpu"), dtype=torch.float32),
    ):
        raise Stop


def test_tensors_come_in_the_dtype_asked_for_and_raw_ones_as_stored(data):
    name, shape = "talker.model.norm.weight", (64,)
    for take, dtype in (("take", torch.bfloat16), ("take_raw", torch.float32)):
        weights = CheckpointFile(
            data / "tiny_1b7" / MAIN, device=torch.device("cpu"), dtype=torch.bfloat16
        )
        assert getattr(weights, take)(name, *shape).dtype is dtype


def test_names_become_lower_case_and_false_is_no_dialect(checkpoint):
    def shout(values):
        talker = values["talker_config"]
        for key in ("spk_id", "spk_is_dialect", "codec_language_id"):
            talker[key] = {name.upper(): value for name, value in talker[key].items()}

    plain = load_config(checkpoint)
    edit_config(checkpoint, shout)
    assert load_config(checkpoint) == plain
    assert sorted(plain.speaker_dialects) == ["dylan", "eric"]


@pytest.mark.parametrize(
    ("size", "obeys"), [("1b7", True), ("0b6", False), ("0b", False), ("0b65", True)]
)
def test_instructions_are_for_every_size_but_the_small_one(checkpoint, size, obeys):
    edit_config(checkpoint, lambda c: c.update(tts_model_size=size))
    assert load_config(checkpoint).obeys_instruct is obeys


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(talker_config=[]), "talker_config must be a JSON object"),
        (lambda c: c.update(tts_model_size=3), "tts_model_size must be a text"),
        (lambda c: c["talker_config"].update(rope_theta="x"), "rope_theta must be a number"),
        (lambda c: c["talker_config"].update(rope_theta=True), "rope_theta must be a number"),
        (lambda c: c["talker_config"].update(hidden_size=64.0), "hidden_size must be an integer"),
        (lambda c: c["talker_config"].update(hidden_act="gelu"), "hidden_act must be 'silu'"),
        (
            lambda c: c["talker_config"]["code_predictor_config"].update(num_code_groups=15),
            "num_code_groups must be 16",
        ),
        (
            lambda c: c["talker_config"]["code_predictor_config"].update(hidden_act="gelu"),
            "code_predictor_config: hidden_act must be",
        ),
    ],
)
def test_another_wrong_field_is_named(checkpoint, change, said):
    edit_config(checkpoint, change)
    with pytest.raises(StartupError, match=said):
        load_config(checkpoint)


def test_a_codec_of_another_kind_is_refused(checkpoint):
    file = "speech_tokenizer/config.json"
    edit_config(checkpoint, lambda c: c["decoder_config"].update(hidden_act="gelu"), file)
    with pytest.raises(StartupError, match="decoder_config: hidden_act must be 'silu'"):
        load_config(checkpoint)


def test_a_configuration_that_is_no_object_is_named(checkpoint):
    (checkpoint / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(StartupError, match=r"config\.json must be a JSON object"):
        load_config(checkpoint)
