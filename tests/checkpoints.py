"""Checkpoints for tests: the tiny ones of tests/data, and one that speaks several times as fast.

The quick one is for tests of what is around the networks: engine, voice, routes. What the networks
compute is tested with the tiny ones. Those of tests/data/voices share their talkers with tiny_1b7
and tiny_0b6, and one codec, so that they are put together here.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parent / "data"
VOICES = DATA / "voices"
CODEBOOKS = 4
END_OF_SPEECH = 166
NARROWER = 4
LATENT_WIDTH = 48
LEFT_OUT = re.compile(
    rf"talker\.code_predictor\.(lm_head|model\.codec_embedding)\.(?![0-{CODEBOOKS - 2}]\.)"
    rf"|decoder\.quantizer\.rvq_rest\.vq\.layers\.(?![0-{CODEBOOKS - 2}]\.)"
    r"|talker\.code_predictor\.model\.layers\.1\."
)
"""Names of tensors of the other codebooks and of the code predictor's second layer."""


def write_tiny_checkpoint(directory: Path, tiny: str) -> None:
    """Write one of tests/data: tiny_1b7, tiny_0b6, or a tiny_<kind>_<size> of tests/data/voices."""
    config, size = VOICES / f"{tiny}.json", tiny[-3:]
    shutil.copytree(DATA / f"tiny_{size}", directory)
    if not config.exists():
        return
    shutil.copy(config, directory / "config.json")
    shutil.copytree(VOICES / "speech_tokenizer", directory / "speech_tokenizer", dirs_exist_ok=True)
    tensors = load_file(directory / "model.safetensors")
    if "base" in tiny:
        tensors |= load_file(VOICES / f"speaker_encoder_{size}.safetensors")
    # Without metadata, as the official script for fine-tuning leaves it.
    save_file(tensors, directory / "model.safetensors")


def write_quick_checkpoint(
    directory: Path, tiny: str = "tiny_1b7", *, never_ends: bool = False
) -> None:
    """Write a tiny one with 4 codebooks, a code predictor of one layer and a narrow codec.

    never_ends: no speech with `top_k` up to 10 ends by itself
    """
    write_tiny_checkpoint(directory, tiny)
    config = directory / "config.json"
    talker = {"num_code_groups": CODEBOOKS}
    _change_json(config, "talker_config", talker)
    _change_json(
        config, "talker_config", "code_predictor_config", talker | {"num_hidden_layers": 1}
    )
    speech = directory / "speech_tokenizer"
    codec = {"num_quantizers": CODEBOOKS, "decoder_dim": 64 // NARROWER}
    _change_json(speech / "config.json", "decoder_config", codec)
    for file in (directory / "model.safetensors", speech / "model.safetensors"):
        kept = {name: t for name, t in load_file(file).items() if not LEFT_OUT.match(name)}
        if "base" not in tiny:
            kept = {name: t for name, t in kept.items() if not name.startswith("encoder.")}
        if file.parent == directory:  # in bfloat16 as the published ones
            kept = {name: tensor.bfloat16() for name, tensor in kept.items()}
            if never_ends:
                kept["talker.codec_head.weight"][END_OF_SPEECH] = 0
        save_file({name: _narrow(name, tensor) for name, tensor in kept.items()}, file)


def _narrow(name: str, tensor: Tensor) -> Tensor:
    """Keep some of the channels of the codec's convolutions, but for what goes in and comes out."""
    if not name.startswith("decoder.decoder."):
        return tensor
    for axis, size in enumerate(tensor.shape[:2]):
        if size not in (1, LATENT_WIDTH):
            tensor = tensor.narrow(axis, 0, size // NARROWER)
    return tensor.contiguous()


def _change_json(file: Path, *keys_and_changes: Any) -> None:
    """Update the object below the keys with the last argument."""
    *keys, changes = keys_and_changes
    values = section = json.loads(file.read_text(encoding="utf-8"))
    for key in keys:
        section = section[key]
    section.update(changes)
    file.write_text(json.dumps(values), encoding="utf-8")
