"""A checkpoint that speaks several times as fast as the tiny ones of tests/data.

It is for tests of what is around the networks: engine, voice, routes. What the networks compute is
tested with tests/data.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parent / "data"
CODEBOOKS = 4
END_OF_SPEECH = 166
NARROWER = 4
LATENT_WIDTH = 48
LEFT_OUT = re.compile(
    rf"talker\.code_predictor\.(lm_head|model\.codec_embedding)\.(?![0-{CODEBOOKS - 2}]\.)"
    rf"|decoder\.quantizer\.rvq_rest\.vq\.layers\.(?![0-{CODEBOOKS - 2}]\.)"
    r"|talker\.code_predictor\.model\.layers\.1\."
    r"|encoder\."
)
"""Names of tensors of the other codebooks, the code predictor's second layer and the encoder."""


def write_quick_checkpoint(
    directory: Path, tiny: str = "tiny_1b7", *, never_ends: bool = False
) -> None:
    """Write a tiny one with 4 codebooks, a code predictor of one layer and a narrow codec.

    never_ends: no speech with `top_k` up to 10 ends by itself
    """
    shutil.copytree(DATA / tiny, directory)
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
