"""Every checkpoint that cannot be served is refused with one message, whatever is wrong with it.

The whole start is run as the service does it, in this process: check, load, first word.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import write_quick_checkpoint

from qwen_tts_service.build import build, check
from qwen_tts_service.errors import StartupError
from qwen_tts_service.settings import load_settings

Spoil = Callable[[Path], object]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SPEECH_CONFIG, SPEECH_WEIGHTS = f"speech_tokenizer/{CONFIG}", f"speech_tokenizer/{WEIGHTS}"
NEEDED = (CONFIG, WEIGHTS, "vocab.json", "merges.txt", SPEECH_CONFIG, SPEECH_WEIGHTS)


def removed(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def written(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def a_directory(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def a_loop(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)

    return spoil


def a_device(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return spoil


def cut(name: str, keep: float) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])

    return spoil


def header(name: str, content: bytes, length: int | None = None) -> Spoil:
    size = (len(content) if length is None else length).to_bytes(8, "little")
    return written(name, size + content)


def field(name: str, *keys: str, value: Any) -> Spoil:
    """Set a field of a JSON file."""

    def spoil(folder: Path) -> None:
        values = section = json.loads((folder / name).read_text("utf-8"))
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
        (folder / name).write_text(json.dumps(values), "utf-8")

    return spoil


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        kept = load_file(folder / name)
        change(kept)
        save_file(kept, folder / name)

    return spoil


def filled(name: str, tensor: str, value: float) -> Spoil:
    return tensors(name, lambda kept: kept[tensor].fill_(value))


def one_number(name: str, tensor: str, value: float) -> Spoil:
    return tensors(name, lambda kept: kept[tensor].view(-1)[0].fill_(value))


def every(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    return tensors(name, lambda kept: kept.update({key: change(t) for key, t in kept.items()}))


def vocabulary(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / "vocab.json").read_text("utf-8"))
        (folder / "vocab.json").write_text(json.dumps(change(values)), "utf-8")

    return spoil


TALKER, PREDICTOR = ("talker_config",), ("talker_config", "code_predictor_config")
DECODER = ("decoder_config",)
DEEP = b"[" * 100_000 + b"]" * 100_000
HUGE = b" " * (17 << 20) + b"{}"

FILES: Mapping[str, Spoil] = {
    **{f"no-{name}": removed(name) for name in NEEDED},
    **{f"empty-{name}": written(name, b"") for name in NEEDED if name != "merges.txt"},
    **{f"directory-{name}": a_directory(name) for name in NEEDED},
    **{f"loop-{name}": a_loop(name) for name in NEEDED},
    **{f"device-{name}": a_device(name) for name in NEEDED},
    **{
        f"not-utf8-{name}": written(name, b"\xff\xfe\0{") for name in NEEDED if name != "merges.txt"
    },
    **{f"deep-{name}": written(name, DEEP) for name in NEEDED if name.endswith("json")},
    **{f"huge-{name}": written(name, HUGE) for name in NEEDED if name.endswith("json")},
    **{f"list-{name}": written(name, b"[]") for name in NEEDED if name.endswith("json")},
    **{f"null-{name}": written(name, b"null") for name in NEEDED if name.endswith("json")},
    "cut-config": cut(CONFIG, 0.5),
    "cut-weights": cut(WEIGHTS, 0.5),
    "cut-codec": cut(SPEECH_WEIGHTS, 0.999),
    "header-of-2**63": header(WEIGHTS, b"{}", (1 << 63) - 1),
    "header-of-2**40": header(WEIGHTS, b"{}", 1 << 40),
    "header-is-a-list": header(WEIGHTS, b"[]"),
    "header-of-numbers": header(WEIGHTS, b'{"a": 1}'),
    "header-shape-is-a-text": header(
        SPEECH_WEIGHTS, b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}'
    ),
    "header-deep": header(WEIGHTS, b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "no-tensors": header(WEIGHTS, b"{}"),
}
NUMBERS: Mapping[str, Spoil] = {
    "layers-1e9": field(CONFIG, *TALKER, "num_hidden_layers", value=10**9),
    "layers-0": field(CONFIG, *TALKER, "num_hidden_layers", value=0),
    "layers-256": field(CONFIG, *TALKER, "num_hidden_layers", value=256),
    "layers-predictor": field(CONFIG, *PREDICTOR, "num_hidden_layers", value=-1),
    "layers-codec": field(SPEECH_CONFIG, *DECODER, "num_hidden_layers", value=10**9),
    "width-1e400": field(CONFIG, *TALKER, "hidden_size", value=10**400),
    "width-65536": field(CONFIG, *TALKER, "hidden_size", value=65_536),
    "wide-everywhere": field(CONFIG, *TALKER, "intermediate_size", value=65_536),
    "heads-3-of-2": field(CONFIG, *TALKER, "num_attention_heads", value=3),
    "head-odd": field(CONFIG, *PREDICTOR, "head_dim", value=15),
    "positions-1e12": field(CONFIG, *TALKER, "max_position_embeddings", value=10**12),
    "theta-0": field(CONFIG, *TALKER, "rope_theta", value=0),
    "theta-text": field(CONFIG, *TALKER, "rope_theta", value="1e6"),
    "epsilon-nan": written(CONFIG, b'{"model_type": "qwen3_tts", "a": NaN}'),
    "rate-0": field(SPEECH_CONFIG, "output_sample_rate", value=0),
    "rate-1e9": field(SPEECH_CONFIG, "output_sample_rate", value=10**9),
    "rate-48000": field(SPEECH_CONFIG, "output_sample_rate", value=48_000),
    "rates-none": field(SPEECH_CONFIG, *DECODER, "upsample_rates", value=[]),
    "rates-0": field(SPEECH_CONFIG, *DECODER, "upsample_rates", value=[8, 5, 4, 0]),
    "rates-1e9": field(SPEECH_CONFIG, *DECODER, "upsample_rates", value=[10**9, 5, 4, 3]),
    "rates-many": field(SPEECH_CONFIG, *DECODER, "upsample_rates", value=[2] * 1000),
    "window-0": field(SPEECH_CONFIG, *DECODER, "sliding_window", value=0),
    "codebooks-1e6": field(SPEECH_CONFIG, *DECODER, "num_quantizers", value=10**6),
    "codebooks-differ": field(SPEECH_CONFIG, *DECODER, "num_quantizers", value=8),
    "vocabulary-0": field(CONFIG, *TALKER, "vocab_size", value=0),
    "id-beyond": field(CONFIG, *TALKER, "codec_eos_token_id", value=5000),
    "id-negative": field(CONFIG, "im_end_token_id", value=-1),
    "speaker-beyond": field(CONFIG, *TALKER, "spk_id", value={"ryan": 10**6}),
    "speaker-text": field(CONFIG, *TALKER, "spk_id", value={"ryan": "1"}),
    "speaker-list": field(CONFIG, *TALKER, "spk_id", value={"ryan": [1]}),
    "dialect-unknown": field(CONFIG, *TALKER, "spk_is_dialect", value={"ryan": "klingon"}),
    "text-ids-beyond": field(CONFIG, *TALKER, "text_vocab_size", value=100),
    "kind-unknown": field(CONFIG, "tts_model_type", value="music"),
    "kind-list": field(CONFIG, "tts_model_type", value=[]),
    "kind-base-of-nothing": field(CONFIG, "tts_model_type", value="base"),
    "section-list": field(CONFIG, "talker_config", value=[]),
    "size-number": field(CONFIG, "tts_model_size", value=7),
}
HEAD, CONVOLUTION = "talker.codec_head.weight", "decoder.decoder.0.conv.weight"
CONTENTS: Mapping[str, Spoil] = {
    "no-tokens": written("vocab.json", b"{}"),
    "tokens-text": vocabulary(lambda ids: dict.fromkeys(ids, "1")),
    "tokens-same": vocabulary(lambda ids: dict.fromkeys(ids, 1)),
    "tokens-gap": vocabulary(lambda ids: ids | {"zzz": 10**9}),
    "tokens-few": vocabulary(lambda ids: dict(list(ids.items())[:3])),
    "merges-rubbish": written("merges.txt", b"one two three\nfour"),
    "merges-unknown": written("merges.txt", "ў ў\n".encode()),
    "speakers-list": written("speakers.json", b"[]"),
    "speakers-deep": written("speakers.json", DEEP),
    "tensor-missing": tensors(WEIGHTS, lambda kept: kept.pop(HEAD)),
    "tensor-extra": tensors(WEIGHTS, lambda kept: kept.update(more=torch.zeros(2))),
    "tensor-of-no-axes": tensors(WEIGHTS, lambda kept: kept.update({HEAD: torch.zeros(())})),
    "codec-missing": tensors(SPEECH_WEIGHTS, lambda kept: kept.pop(CONVOLUTION)),
    "integers": every(WEIGHTS, lambda tensor: tensor.to(torch.int8)),
    "booleans": every(SPEECH_WEIGHTS, lambda tensor: tensor.bool()),
    "nan-everywhere": every(WEIGHTS, lambda tensor: torch.full_like(tensor, float("nan"))),
    "nan-once": one_number(WEIGHTS, HEAD, float("nan")),
    "nan-in-the-predictor": one_number(
        WEIGHTS, "talker.code_predictor.lm_head.0.weight", float("nan")
    ),
    "inf-once": one_number(WEIGHTS, "talker.model.norm.weight", float("inf")),
    "nan-in-the-codec": one_number(SPEECH_WEIGHTS, CONVOLUTION, float("nan")),
    "inf-in-the-codec": one_number(SPEECH_WEIGHTS, CONVOLUTION, float("inf")),
    "codec-of-zeros": every(SPEECH_WEIGHTS, torch.zeros_like),
    "weights-too-large": every(WEIGHTS, lambda tensor: torch.full_like(tensor, 3e38)),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "mine"
    write_quick_checkpoint(folder)
    return folder


@pytest.fixture
def mine(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "mine"))


def start(models: Path) -> None:
    """Start as the service does: in the supervisor, then in the worker."""
    settings = load_settings(
        {
            "MODEL_NAME": "mine",
            "MODEL_PATH": str(models),
            "HF_HUB_OFFLINE": "1",
            "DEVICE": "cpu",
            "MAX_CONCURRENT_REQUESTS": "1",
        }
    )
    check(settings)
    synthesizer = build(settings, lambda _step, _done: None, 0)
    try:
        synthesizer.voice.warm_up()
    finally:
        synthesizer.close()


def test_what_is_spoiled_below_starts_when_it_is_sound(mine: Path) -> None:
    start(mine.parent)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(spoil, id=name)
        for table in (FILES, NUMBERS, CONTENTS)
        for name, spoil in table.items()
    ],
)
def test_a_broken_checkpoint_is_refused_with_a_message(mine: Path, spoil: Spoil) -> None:
    spoil(mine)
    with pytest.raises(StartupError) as caught:
        start(mine.parent)
    assert re.search(r"mine|checkpoint|json|weight", str(caught.value))
    assert len(str(caught.value)) < 8000


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, where tests run as root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("name", [".", "speech_tokenizer", *NEEDED])
def test_what_the_user_may_not_read_is_named(sound: Path, name: str) -> None:
    start(sound.parent)  # imports are done before the rights are given up
    with TemporaryDirectory() as models:  # not below pytest's own, which is for its user alone
        Path(models).chmod(0o755)
        shutil.copytree(sound, Path(models, "mine"))
        unreadable = Path(models, "mine", name)
        unreadable.chmod(0)
        with as_nobody(), pytest.raises(StartupError, match=rf"{models}.*"):
            start(Path(models))
        unreadable.chmod(0o755)
