"""Loading is strict: a missing, extra or misshapen tensor is named."""

import json
import math
import shutil
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels.attention import RowwiseAttention
from qwen_tts_service.kernels.linear import HalfLinear, Linear, PackedLinear, can_pack
from qwen_tts_service.model.code_predictor import CodePredictor
from qwen_tts_service.model.codec.decoder import CodecDecoder
from qwen_tts_service.model.codec.encoder import CodecEncoder
from qwen_tts_service.model.config import (
    CodecEncoderConfig,
    SpeakerEncoderConfig,
    load_config,
    read_config,
)
from qwen_tts_service.model.prompt_embeddings import PromptEmbedder
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.speaker_encoder import SpeakerEncoder
from qwen_tts_service.model.talker import Talker
from qwen_tts_service.model.weights import (
    CheckpointError,
    CheckpointFile,
    placed,
    read_linear,
    stack_rows,
)

MAIN = "model.safetensors"
CODEC = "speech_tokenizer/model.safetensors"


@pytest.fixture
def checkpoint(data, tmp_path: Path) -> Path:
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
    address = weights.take("talker.model.text_embedding.weight", 512, 48).data_ptr()
    regions = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    mapped = [
        [int(edge, 16) for edge in region[0].split("-")]
        for region in regions
        if region[-1] == str(path)
    ]
    assert any(start <= address < end for start, end in mapped)


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
    ("size", "counts"), [("1.7b", (404, 1_916_676_352)), ("0.6b", (402, 905_788_672))]
)
def test_the_published_main_tensors_are_all_asked_for(
    random_checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size, counts
):
    monkeypatch.setattr(PromptEmbedder, "text_rows", lambda self, ids: torch.empty(3, 1))
    ledger, config = Ledger(), write_configs(random_checkpoint, size, tmp_path)
    talker = Talker(config, ledger, RowwiseAttention("test"))
    predictor = CodePredictor(config, ledger)
    PromptEmbedder(config, ledger, talker.embedding, predictor.embed)
    parameters = sum(math.prod(shape) for shape in ledger.taken.values())
    assert (len(ledger.taken), parameters) == counts
    inventory = random_checkpoint.main_tensors(random_checkpoint.main_config(size))
    assert ledger.taken == dict(inventory)


@pytest.mark.parametrize(("width", "parameters"), [(2048, 12_001_088), (1024, 8_854_336)])
def test_the_published_speaker_encoder_is_all_asked_for(width, parameters):
    ledger = Ledger()
    SpeakerEncoder(SpeakerEncoderConfig(width=width), ledger)
    assert len(ledger.taken) == 76
    assert sum(math.prod(shape) for shape in ledger.taken.values()) == parameters
    assert all(name.startswith(SpeakerEncoder.PREFIXES) for name in ledger.taken)


def test_the_published_codec_encoder_is_asked_for_but_what_it_has_no_use_for():
    sizes = {"filters": 64, "ratios": (8, 6, 5, 4), "width": 512, "feed_forward": 2048, "layers": 8}
    heads = {"heads": 8, "head_size": 64, "rope_theta": 1e4, "norm_eps": 1e-5}
    ledger = Ledger()
    CodecEncoder(CodecEncoderConfig(**sizes, **heads, codes=2048, codebook_width=256), 16, ledger)
    unused = CodecEncoder.unused(16)
    assert not any(name.startswith(unused) for name in ledger.taken)
    # All of it, less the other 16 codebooks, two projections and the flags of 16 codebooks.
    assert len(ledger.taken) == 225 - 16 * 3 - 2 - 16
    parameters = 56_234_304 - 16 * (2048 * 256 + 2048 + 1) - 2 * 512 * 256 - 16
    assert sum(math.prod(shape) for shape in ledger.taken.values()) == parameters


def test_the_published_codec_tensors_are_asked_for_but_input_projections(
    random_checkpoint, tmp_path: Path
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


def test_a_random_checkpoint_has_the_official_inventory(random_checkpoint, data, tmp_path: Path):
    random_checkpoint.write_checkpoint("tiny", tmp_path, never_ends=False)
    for file in (MAIN, CODEC):
        shapes = [
            {name: (x.shape, x.dtype) for name, x in load_file(folder / file).items()}
            for folder in (tmp_path, data / "tiny_1b7")
        ]
        assert shapes[0] == shapes[1]
    Qwen3TTS.load(tmp_path)


@pytest.mark.parametrize(
    ("size", "kind", "counts"),
    [
        ("1.7b", "voice_design", (404, 1_916_676_352)),
        ("1.7b", "base", (480, 1_928_677_440)),
        ("0.6b", "base", (478, 914_643_008)),
    ],
)
def test_a_random_checkpoint_of_every_kind_has_the_published_inventory(
    random_checkpoint, tmp_path: Path, size, kind, counts
):
    (tmp_path / "speech_tokenizer").mkdir()
    main = random_checkpoint.main_config(size, kind)
    (tmp_path / "config.json").write_text(json.dumps(main))
    codec = random_checkpoint.codec_config(size)
    (tmp_path / "speech_tokenizer" / "config.json").write_text(json.dumps(codec))
    config = load_config(tmp_path)
    assert (config.kind, config.speakers, len(config.languages)) == (kind, (), 10)
    inventory = dict(random_checkpoint.main_tensors(main))
    assert (len(inventory), sum(map(math.prod, inventory.values()))) == counts
    if kind == "base":
        ledger = Ledger()
        SpeakerEncoder(config.speaker_encoder, ledger)
        CodecEncoder(config.codec_encoder, config.codebooks, ledger)
        both = inventory | dict(random_checkpoint.encoder_tensors(codec["encoder_config"]))
        assert ledger.taken == {name: both[name] for name in ledger.taken}


# One file ------------------------------------------------------------------------------

ROUGH = torch.bfloat16


@pytest.fixture
def opened(tmp_path):
    """A file of four float32 tensors, read as bfloat16, and the fractions it reports."""
    tensors = {
        "a.weight": torch.tensor([[1.001, 2.0]]),
        "a.bias": torch.tensor([7.0]),
        "b.weight": torch.tensor([[3.0, 4.0], [5.0, 6.0]]),
        "encoder.x": torch.ones(1),
    }
    save_file(tensors, tmp_path / "file.safetensors")
    fractions = []
    file = CheckpointFile(
        tmp_path / "file.safetensors",
        device=torch.device("cpu"),
        dtype=ROUGH,
        ignored=("encoder.",),
        on_take=fractions.append,
    )
    return file, tensors, fractions


def test_a_tensor_comes_in_the_wanted_dtype_or_raw_as_it_is_stored(opened):
    file, tensors, _ = opened
    assert torch.equal(file.take("a.weight", 1, 2), tensors["a.weight"].to(ROUGH))
    assert torch.equal(file.take_raw("b.weight", 2, 2), tensors["b.weight"])
    assert torch.equal(placed(tensors["a.weight"], file), tensors["a.weight"].to(ROUGH))


def test_matrices_are_stacked_in_order_and_in_the_wanted_dtype(opened):
    file, tensors, _ = opened
    stacked = stack_rows(file, [("b.weight", 2), ("a.weight", 1)], 2)
    expected = torch.cat((tensors["b.weight"], tensors["a.weight"])).to(ROUGH)
    assert stacked.dtype == ROUGH
    assert torch.equal(stacked, expected)


def test_a_layer_has_its_weight_and_bias_in_the_wanted_dtype(opened):
    file, tensors, _ = opened
    layer = read_linear(file, [("a", 1)], 2, bias=True)
    assert isinstance(layer, Linear)
    assert torch.equal(layer.weight, tensors["a.weight"].to(ROUGH))
    assert torch.equal(layer.bias, tensors["a.bias"].to(ROUGH))
    other = read_linear(file, [("b", 2)], 2, arithmetic="float")
    assert other.bias is None


def test_each_tensor_moves_the_progress_and_can_be_taken_once(opened):
    file, _, fractions = opened
    file.take("a.weight", 1, 2)
    file.take_raw("a.bias", 1)
    file.take("b.weight", 2, 2)
    assert fractions == [0.25, 0.5, 0.75]
    file.close()
    assert file.take("a.bias", 1).dtype == ROUGH
    with pytest.raises(CheckpointError, match=r"missing: a.bias \[1\]$"):
        file.close()


def test_problems_are_listed_by_name_and_in_order(opened):
    file, _, _ = opened
    assert file.take("nothing", 3, 2).shape == (3, 2)
    assert file.take("a.bias", 2).shape == (2,)
    with pytest.raises(CheckpointError) as caught:
        file.close()
    assert str(caught.value).endswith(
        "does not fit: missing: nothing [3, 2]; wrong shape: a.bias is [1], must be [2]; "
        "not expected: a.weight; not expected: b.weight"
    )


def test_many_tensors_not_asked_for_are_listed_in_order(tmp_path):
    names = [f"x{number}" for number in range(9)]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")
    file = CheckpointFile(
        tmp_path / "x.safetensors", device=torch.device("cpu"), dtype=torch.float32
    )
    with pytest.raises(CheckpointError) as caught:
        file.close()
    expected = "; ".join(f"not expected: {name}" for name in names)
    assert str(caught.value).endswith(f"does not fit: {expected}")


def test_leaving_a_file_complains_but_not_over_another_error(opened):
    file, _, _ = opened
    with pytest.raises(ZeroDivisionError), file:
        raise ZeroDivisionError
    with pytest.raises(CheckpointError), file:
        pass


@pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")
def test_a_weight_that_the_arithmetic_cannot_hold_is_named(tmp_path):
    save_file({"big.weight": torch.full((2, 2), 1e6)}, tmp_path / "x.safetensors")
    file = CheckpointFile(
        tmp_path / "x.safetensors", device=torch.device("cpu"), dtype=torch.float32
    )
    with pytest.raises(CheckpointError, match=r"^big: .*too large.*must be float"):
        read_linear(file, [("big", 2)], 2, arithmetic="half")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors cannot be read"):
        CheckpointFile(
            tmp_path / "none.safetensors", device=torch.device("cpu"), dtype=torch.float32
        )


# The whole model -----------------------------------------------------------------------


def test_plain_arithmetic_is_plain_everywhere(data):
    model = Qwen3TTS.load(
        data / "tiny_1b7", linear="float", split="mistral", use_flash_attention=False
    )
    assert (model.dtype, model.codec.dtype) == (torch.float32, torch.float32)
    assert model.linear == "float"
    assert model.attention.reason == "on the CPU"
    assert model.tokenizer.pieces("YouTube") == ["You", "Tube"]
    parts = (model.talker, model.code_predictor, model.prompts, model.codec)
    layers = [type(x) for part in parts for x in part.modules() if "Linear" in type(x).__name__]
    assert set(layers) == {Linear}
    # Talker and prompts share a table, which counts once.
    shared = {id(model.talker.embedding): model.talker.embedding}
    shared |= {id(x): x for part in parts for x in part.parameters()}
    assert model.weight_bytes == sum(4 * x.numel() for x in shared.values())


@pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")
def test_on_the_cpu_the_networks_are_half_and_the_codec_is_packed(model):
    assert (model.dtype, model.linear) == (torch.float32, "half")
    assert model.attention.reason == "flash-attn needs a CUDA device"
    networks = (model.talker, model.code_predictor, model.prompts)
    packed = 0
    for parts, kind in ((networks, HalfLinear), ((model.codec,), PackedLinear)):
        layers = [x for part in parts for x in part.modules() if "Linear" in type(x).__name__]
        assert {type(x) for x in layers} == {kind}
        packed += sum(x.packed_bytes for x in layers)
    parts = (*networks, model.codec)
    plain = {id(x): x.nbytes for part in parts for x in part.parameters()}
    assert model.weight_bytes == packed + sum(plain.values())


@pytest.mark.skipif(not can_pack(), reason="this torch has no FBGEMM (not x86)")
def test_int8_is_not_for_the_prompt(data):
    model = Qwen3TTS.load(data / "tiny_1b7", linear="int8")
    assert {type(model.prompts.fc1), type(model.prompts.fc2)} == {HalfLinear}
    assert type(model.talker.head).__name__ == "Int8Linear"
    assert type(model.codec.transformer.enter) is PackedLinear


def test_torch_is_prepared_for_the_device_before_anything_is_read(data, monkeypatch):
    prepared = []
    monkeypatch.setattr(
        "qwen_tts_service.model.qwen3_tts.prepare",
        lambda device, **asked: prepared.append((device, asked)),
    )
    with pytest.raises(StartupError):
        Qwen3TTS.load(data / "nothing", fuse=True, codec_tf32=True)
    assert prepared == [(torch.device("cpu"), {"fuse": True, "tf32": True})]


def test_rotary_tables_reach_the_last_position(model):
    def rows(stack):
        return [len(table) for table in stack.tables]

    config = model.config
    assert rows(model.talker.stack) == [config.max_positions] * 2
    assert rows(model.code_predictor.stack) == [config.codebooks] * 2
    assert rows(model.codec.transformer.stack) == []  # a stream has no last frame


# Configuration ------------------------------------------------------------------------


def edit_config(checkpoint, change, file="config.json"):
    values = json.loads((checkpoint / file).read_text(encoding="utf-8"))
    change(values)
    (checkpoint / file).write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("im_end_token_id"), "field im_end_token_id is missing"),
        (
            lambda c: c["talker_config"].pop("head_dim"),
            r"config\.json: talker_config: the field head_dim is m",
        ),
        (lambda c: c["talker_config"].update(head_dim="x"), "head_dim must be an integer"),
        (lambda c: c["talker_config"].update(head_dim=True), "head_dim must be an integer"),
        (lambda c: c["talker_config"].update(spk_id=[]), "spk_id must be an object"),
        (lambda c: c["talker_config"].update(spk_id={}), "spk_id has no speakers"),
        (
            lambda c: c.update(tts_model_type="music"),
            "tts_model_type must be one of custom_voice, voice_design, base, not 'music'",
        ),
        (
            lambda c: c.update(tts_model_type="base"),
            "config.json: the field speaker_encoder_config is missing",
        ),
        (
            lambda c: c.update(tokenizer_type="qwen3_tts_tokenizer_25hz"),
            "tokenizer_type must be 'qwen3_tts_tokenizer_12hz'",
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


def test_every_field_is_read_from_its_own_key(checkpoint):
    """All numbers differ, so that a field read from another key is seen."""
    main = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    speech = json.loads((checkpoint / CODEC_CONFIG).read_text(encoding="utf-8"))
    talker, decoder = main["talker_config"], speech["decoder_config"]
    predictor = talker["code_predictor_config"]
    numbers, few = iter(range(8000, 9000)), iter(range(3, 64))  # both within all bounds
    expected = {}
    for part, fields_ in (("", MAIN_FIELDS), ("codec.", CODEC_FIELDS)):
        for name, (where, key) in fields_.items():
            section = {"main": main, "talker": talker, "decoder": decoder, "speech": speech}[where]
            section[key] = expected[part + name] = next(few if name in FEW else numbers)
    for part, section in (
        ("talker.", talker), ("code_predictor.", predictor), ("codec.transformer.", decoder),
    ):  # fmt: skip
        for name, key in STACK_FIELDS.items():
            section[key] = expected[part + name] = next(few if name in FEW else numbers)
        section["rms_norm_eps"] = expected[part + "norm_eps"] = next(few) / 1000
    predictor["num_code_groups"] = expected["codebooks"]
    predictor["vocab_size"] = expected["vocabulary"] - 1024
    for file, values in (("config.json", main), (CODEC_CONFIG, speech)):
        (checkpoint / file).write_text(json.dumps(values), encoding="utf-8")
    config = read_config(checkpoint)
    got = {name: attrgetter(name)(config) for name in expected}
    assert got == expected
    assert config.codes == expected["vocabulary"] - 1024
    assert config.codec.transformer.is_codec
    assert not config.talker.is_codec
    assert not config.code_predictor.is_codec
    for stack in (config.talker, config.code_predictor, config.codec.transformer):
        assert type(stack.rope_theta) is float


CODEC_CONFIG = "speech_tokenizer/config.json"
FEW = ("codebooks", "layers", "head_size")
MAIN_FIELDS = {
    "im_start_text_id": ("main", "im_start_token_id"),
    "im_end_text_id": ("main", "im_end_token_id"),
    "tts_pad_text_id": ("main", "tts_pad_token_id"),
    "tts_bos_text_id": ("main", "tts_bos_token_id"),
    "tts_eos_text_id": ("main", "tts_eos_token_id"),
    "codebooks": ("talker", "num_code_groups"),
    "max_positions": ("talker", "max_position_embeddings"),
    "vocabulary": ("talker", "vocab_size"),
    "text_vocabulary": ("talker", "text_vocab_size"),
    "text_width": ("talker", "text_hidden_size"),
    "pad_id": ("talker", "codec_pad_id"),
    "bos_id": ("talker", "codec_bos_id"),
    "eos_id": ("talker", "codec_eos_token_id"),
    "think_id": ("talker", "codec_think_id"),
    "nothink_id": ("talker", "codec_nothink_id"),
    "think_bos_id": ("talker", "codec_think_bos_id"),
    "think_eos_id": ("talker", "codec_think_eos_id"),
}
CODEC_FIELDS = {
    "latent_width": ("decoder", "latent_dim"),
    "codebook_width": ("decoder", "codebook_dim"),
    "codes": ("decoder", "codebook_size"),
    "codebooks": ("decoder", "num_quantizers"),
    "decoder_width": ("decoder", "decoder_dim"),
    "window_frames": ("decoder", "sliding_window"),
    "sample_rate_hz": ("speech", "output_sample_rate"),
}
STACK_FIELDS = {
    "width": "hidden_size",
    "feed_forward": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "rope_theta": "rope_theta",
}


@pytest.mark.parametrize("section", ["talker_config", "code_predictor_config", "decoder_config"])
@pytest.mark.parametrize(("key", "value"), [("hidden_act", "gelu"), ("attention_bias", True)])
def test_another_kind_of_layer_is_refused(checkpoint, section, key, value):
    def change(config):
        parts = {"talker_config": config.get("talker_config")}
        parts["code_predictor_config"] = (parts["talker_config"] or {}).get("code_predictor_config")
        parts["decoder_config"] = config.get("decoder_config")
        parts[section][key] = value

    edit_config(checkpoint, change, CODEC_CONFIG if "decoder" in section else "config.json")
    with pytest.raises(StartupError, match=f"{section}: {key} must be"):
        load_config(checkpoint)


def test_code_groups_of_talker_and_predictor_must_agree(checkpoint):
    edit_config(
        checkpoint, lambda c: c["talker_config"]["code_predictor_config"].update(num_code_groups=9)
    )
    with pytest.raises(StartupError, match="num_code_groups must be 16, not 9: the talker has it"):
        load_config(checkpoint)


@pytest.mark.parametrize(
    ("size", "follows"), [("1b7", True), ("0b6", False), ("b6", False), ("0.6b", True)]
)
def test_only_the_size_0b6_drops_instructions_as_officially_tested(checkpoint, size, follows):
    edit_config(checkpoint, lambda c: c.update(tts_model_size=size))
    assert load_config(checkpoint).follows_instruct is follows


def test_names_become_lower_case_and_false_is_no_dialect(checkpoint):
    def change(config):
        config["talker_config"]["spk_is_dialect"] = {"Eric": "dialect_of_x", "Ryan": False}
        config["talker_config"]["codec_language_id"] = {"English": 50, "Dialect_of_X": 74}

    edit_config(checkpoint, change)
    config = load_config(checkpoint)
    assert dict(config.speaker_dialects) == {"eric": "dialect_of_x"}
    assert config.languages == ("english",)


def test_a_configuration_that_is_no_object_is_named(checkpoint):
    (checkpoint / CODEC_CONFIG).write_text("[]", encoding="utf-8")
    with pytest.raises(StartupError, match=r"speech_tokenizer/config\.json must be a JSON object"):
        load_config(checkpoint)


def test_a_missing_configuration_file_is_named(checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(StartupError, match=r"config\.json cannot be read as JSON"):
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
    assert config.follows_instruct
    assert not small_model.config.follows_instruct


def test_load_reports_progress_in_order(data):
    steps = []
    Qwen3TTS.load(data / "tiny_1b7", on_progress=lambda step, done: steps.append((done, step)))
    assert steps == sorted(steps)
    assert steps[0] == (0.0, "reading the configuration")
    assert steps[-1] == (1.0, "loaded")
    networks = [done for done, step in steps if step == "loading the networks"]
    codec = [done for done, step in steps if step == "loading the codec"]
    assert 0.05 < networks[0] < 0.06
    assert networks[-1] == pytest.approx(0.7)
    assert 0.7 < codec[0] < 0.71
    # What only the encoder has is not read.
    names = load_file(data / "tiny_1b7" / CODEC).keys()
    read = [name for name in names if not name.startswith(CodecDecoder.IGNORED)]
    assert codec[-1] == pytest.approx(0.7 + 0.3 * len(read) / len(names))


def test_weights_that_no_cache_holds_are_moved_into_large_pages(data, monkeypatch):
    moves = []
    monkeypatch.setattr("qwen_tts_service.model.qwen3_tts.use_large_pages", lambda: moves.append(1))
    Qwen3TTS.load(data / "tiny_1b7", linear="float")
    assert moves == []
    monkeypatch.setattr("qwen_tts_service.model.qwen3_tts._MANY_BYTES", 1)
    Qwen3TTS.load(data / "tiny_1b7", linear="float")
    assert moves == [1]
