#!/usr/bin/env python3
"""Write a checkpoint of random weights in the layout of the published ones.

    scripts/make_random_checkpoint.py SIZE DIRECTORY [--kind base] [--seed N] [--never-ends]

SIZE is 1.7b, 0.6b (the published shapes and ids: 4.5 and 2.5 GB) or tiny (3 MB, for tests). It
speaks noise, yet loads, runs and streams like the real one, for benchmarks and tests on machines
without the weights. Its tokenizer has the published special ids, and spells text byte by byte.
--never-ends makes the logit of end of speech 0, far below the best: with temperature 0 or top_k
up to 50 (tiny: 10, it has 65 choices only) every request then runs to its limit. Tensors are made
and written one by one, a few hundred MB at a time at most.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

Shape = tuple[int, ...]
Inventory = Iterator[tuple[str, Shape]]

PIECE_ELEMENTS = 1 << 25
"""Most elements made at once."""

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
]

LANGUAGE_IDS = {
    "chinese": 2055,
    "english": 2050,
    "german": 2053,
    "italian": 2070,
    "portuguese": 2071,
    "spanish": 2054,
    "japanese": 2058,
    "korean": 2064,
    "french": 2061,
    "russian": 2069,
    "beijing_dialect": 2074,
    "sichuan_dialect": 2062,
}
SPEAKER_IDS = {
    "serena": 3066,
    "vivian": 3065,
    "uncle_fu": 3010,
    "ryan": 3061,
    "aiden": 2861,
    "ono_anna": 2873,
    "sohee": 2864,
    "eric": 2875,
    "dylan": 2878,
}
DIALECTS = {"eric": "sichuan_dialect", "dylan": "beijing_dialect"}
CODEC_IDS = {
    "codec_pad_id": 2148,
    "codec_bos_id": 2149,
    "codec_eos_token_id": 2150,
    "codec_think_id": 2154,
    "codec_nothink_id": 2155,
    "codec_think_bos_id": 2156,
    "codec_think_eos_id": 2157,
}


def main() -> int:
    """Read the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=("1.7b", "0.6b", "tiny"))
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--kind", choices=("custom_voice", "voice_design", "base"), default="custom_voice"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--never-ends", action="store_true")
    arguments = parser.parse_args()
    write_checkpoint(
        arguments.size,
        arguments.directory,
        kind=arguments.kind,
        seed=arguments.seed,
        never_ends=arguments.never_ends,
    )
    return 0


def write_checkpoint(
    size: str, directory: Path, *, kind: str = "custom_voice", seed: int = 0, never_ends: bool
) -> None:
    """Write all files of a checkpoint; the same size, kind and seed give the same bytes."""
    config, codec = main_config(size, kind), codec_config(size)
    (directory / "speech_tokenizer").mkdir(parents=True, exist_ok=True)
    for name, content in {
        "config.json": config,
        "generation_config.json": generation_config(),
        "preprocessor_config.json": preprocessor_config(),
        "tokenizer_config.json": tokenizer_config(config),
        "vocab.json": vocabulary(config)[0],
        "speech_tokenizer/config.json": codec,
        "speech_tokenizer/preprocessor_config.json": feature_config(),
    }.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (directory / name).write_text(text, encoding="utf-8")
    merges = ["#version: 0.2", *vocabulary(config)[1], ""]
    (directory / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if size == "tiny" else torch.bfloat16
    eos = config["talker_config"]["codec_eos_token_id"] if never_ends else None
    tensors = list(main_tensors(config))
    write_tensors(directory / "model.safetensors", tensors, dtype, generator, eos=eos)
    tensors = [*codec_tensors(codec["decoder_config"]), *encoder_tensors(codec["encoder_config"])]
    path = directory / "speech_tokenizer" / "model.safetensors"
    write_tensors(path, tensors, torch.float32, generator)


# Configuration files ------------------------------------------------------------------


def main_config(size: str, kind: str = "custom_voice") -> dict[str, Any]:
    """Return config.json: the published values, or tiny ones with the codec ids moved down."""
    first_special = 256 + len(merge_chains()) if size == "tiny" else 151643
    text_id = {token: first_special + index for index, token in enumerate(SPECIAL_TOKENS)}
    talker = talker_config(size)
    if kind != "custom_voice":
        talker |= {"spk_id": {}, "spk_is_dialect": {}}
        for dialect in DIALECTS.values():
            del talker["codec_language_id"][dialect]
    encoder = {"enc_dim": talker["hidden_size"], "sample_rate": 24000}
    return {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "assistant_token_id": merge_ids(first_special)["assistant"],
        "im_start_token_id": text_id["<|im_start|>"],
        "im_end_token_id": text_id["<|im_end|>"],
        "tts_bos_token_id": text_id["<tts_text_bos>"],
        "tts_eos_token_id": text_id["<tts_text_eod>"],
        "tts_pad_token_id": text_id["<tts_pad>"],
        "model_type": "qwen3_tts",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "tts_model_size": "0b6" if size == "0.6b" else "1b7",
        "tts_model_type": kind,
        "transformers_version": "4.57.3",
        "talker_config": talker,
        **({"speaker_encoder_config": encoder} if kind == "base" else {}),
    }


SHARED_CONFIG = {
    "attention_bias": False,
    "attention_dropout": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "num_code_groups": 16,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_cache": True,
    "use_sliding_window": False,
}


def talker_config(size: str) -> dict[str, Any]:
    """Return talker_config of config.json."""
    tiny = size == "tiny"
    hidden = {"tiny": 64, "0.6b": 1024, "1.7b": 2048}[size]

    def moved(ids: dict[str, int]) -> dict[str, int]:
        return {name: value - 2048 + 64 if tiny else value for name, value in ids.items()}

    return SHARED_CONFIG | {
        "model_type": "qwen3_tts_talker",
        "hidden_size": hidden,
        "intermediate_size": 128 if tiny else 3 * hidden,
        "num_hidden_layers": 2 if tiny else 28,
        "num_attention_heads": 4 if tiny else 16,
        "num_key_value_heads": 2 if tiny else 8,
        "head_dim": 16 if tiny else 128,
        "max_position_embeddings": 32768,
        "position_id_per_seconds": 13,
        "rope_scaling": {
            "interleaved": True,
            "mrope_section": [4, 2, 2] if tiny else [24, 20, 20],
            "rope_type": "default",
            "type": "default",
        },
        "text_hidden_size": 48 if tiny else 2048,
        "text_vocab_size": 512 if tiny else 151936,
        "vocab_size": 64 + 1024 if tiny else 3072,
        **moved(CODEC_IDS),
        "codec_language_id": moved(LANGUAGE_IDS),
        "spk_id": moved(SPEAKER_IDS),
        "spk_is_dialect": {name: DIALECTS.get(name, False) for name in SPEAKER_IDS},
        "code_predictor_config": predictor_config(tiny=tiny),
    }


def predictor_config(*, tiny: bool) -> dict[str, Any]:
    """Return code_predictor_config, the same for both published sizes."""
    layers = 2 if tiny else 5
    return SHARED_CONFIG | {
        "model_type": "qwen3_tts_talker_code_predictor",
        "vocab_size": 64 if tiny else 2048,
        "hidden_size": 32 if tiny else 1024,
        "intermediate_size": 64 if tiny else 3072,
        "num_hidden_layers": layers,
        "num_attention_heads": 2 if tiny else 16,
        "num_key_value_heads": 1 if tiny else 8,
        "head_dim": 16 if tiny else 128,
        "max_position_embeddings": 65536,
        "rope_scaling": None,
        "layer_types": ["full_attention"] * layers,
        "max_window_layers": 28,
    }


def codec_config(size: str) -> dict[str, Any]:
    """Return speech_tokenizer/config.json."""
    tiny = size == "tiny"
    decoder = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "latent_dim": 48 if tiny else 1024,
        "codebook_dim": 32 if tiny else 512,
        "codebook_size": 64 if tiny else 2048,
        "decoder_dim": 64 if tiny else 1536,
        "hidden_act": "silu",
        "hidden_size": 32 if tiny else 512,
        "intermediate_size": 40 if tiny else 1024,
        "layer_scale_initial_scale": 0.01,
        "max_position_embeddings": 8000,
        "head_dim": 16 if tiny else 64,
        "num_attention_heads": 3 if tiny else 16,
        "num_key_value_heads": 3 if tiny else 16,
        "num_hidden_layers": 2 if tiny else 8,
        "num_quantizers": 16,
        "num_semantic_quantizers": 1,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000,
        "sliding_window": 8 if tiny else 72,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
    }
    encoder = {
        "audio_channels": 1,
        "num_filters": 4 if tiny else 64,
        "hidden_size": 32 if tiny else 512,
        "num_hidden_layers": 1 if tiny else 8,
        "num_attention_heads": 2 if tiny else 8,
        "num_key_value_heads": 2 if tiny else 8,
        "head_dim": 16 if tiny else 64,
        "intermediate_size": 32 if tiny else 2048,
        "norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "codebook_size": 64 if tiny else 2048,
        "codebook_dim": 16 if tiny else 256,
        "num_quantizers": 32,
        "num_semantic_quantizers": 1,
        "vector_quantization_hidden_dimension": 16 if tiny else 256,
        "upsample_groups": 32 if tiny else 512,
        "upsampling_ratios": [8, 6, 5, 4],
        "sliding_window": 250,
        "sampling_rate": 24000,
        "use_causal_conv": True,
    }
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": 16,
        "input_sample_rate": 24000,
        "output_sample_rate": 24000,
        "decode_upsample_rate": 1920,
        "encode_downsample_rate": 1920,
        "decoder_config": decoder,
        "encoder_config": encoder,
    }


def generation_config() -> dict[str, Any]:
    """Return the published generation_config.json."""
    return {
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.9,
        "top_p": 1.0,
        "top_k": 50,
        "subtalker_dosample": True,
        "subtalker_temperature": 0.9,
        "subtalker_top_p": 1.0,
        "subtalker_top_k": 50,
        "max_new_tokens": 8192,
    }


def preprocessor_config() -> dict[str, Any]:
    """Return the published preprocessor_config.json."""
    return {
        "padding_side": "left",
        "padding_value": 0.0,
        "processor_class": "Qwen3TTSProcessor",
        "return_attention_mask": True,
    }


def feature_config() -> dict[str, Any]:
    """Return the published speech_tokenizer/preprocessor_config.json."""
    return {
        "chunk_length_s": None,
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": 1,
        "overlap": None,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": 24000,
    }


# Tokenizer ----------------------------------------------------------------------------


def byte_symbols() -> list[str]:
    """Return GPT-2's visible symbol for each id 0..255: printable bytes first, then the others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(hidden))]


def merge_chains() -> list[str]:
    """Return the merges that make one token each of the two role names."""
    return [
        f"{word[:end]} {word[end]}" for word in ("assistant", "user") for end in range(1, len(word))
    ]


def merge_ids(first_special: int) -> dict[str, int]:
    """Return ids of merged tokens; the role names have the published ones where there is room."""
    published = {"assistant": 77091, "user": 872} if first_special > 77091 else {}
    words = [merge.replace(" ", "") for merge in merge_chains()]
    return {word: published.get(word, 256 + index) for index, word in enumerate(words)}


def vocabulary(config: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Return vocab.json and the lines of merges.txt; unused ids get names no text spells."""
    first_special = config["im_start_token_id"] - 1
    tokens = {symbol: index for index, symbol in enumerate(byte_symbols())}
    tokens |= merge_ids(first_special)
    taken = set(tokens.values())
    tokens |= {f"<unused {n}>": n for n in range(first_special) if n not in taken}
    return dict(sorted(tokens.items(), key=lambda item: item[1])), merge_chains()


def tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return tokenizer_config.json with the special tokens in their published order."""
    first = config["im_start_token_id"] - 1
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(first + index): {"content": token, **plain, "special": True}
            for index, token in enumerate(SPECIAL_TOKENS)
        },
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


# Which tensors there are --------------------------------------------------------------


def main_tensors(config: dict[str, Any]) -> Inventory:
    """Yield names and shapes of model.safetensors."""
    talker = config["talker_config"]
    predictor = talker["code_predictor_config"]
    width, text_width = talker["hidden_size"], talker["text_hidden_size"]
    small, books = predictor["hidden_size"], talker["num_code_groups"] - 1
    yield "talker.model.text_embedding.weight", (talker["text_vocab_size"], text_width)
    yield "talker.model.codec_embedding.weight", (talker["vocab_size"], width)
    for layer, rows in (("linear_fc1", text_width), ("linear_fc2", width)):
        yield f"talker.text_projection.{layer}.weight", (rows, text_width)
        yield f"talker.text_projection.{layer}.bias", (rows,)
    yield from decoder_layers("talker.model", talker, head_norms=True)
    yield "talker.codec_head.weight", (talker["vocab_size"], width)
    name = "talker.code_predictor"
    if small != width:
        yield f"{name}.small_to_mtp_projection.weight", (small, width)
        yield f"{name}.small_to_mtp_projection.bias", (small,)
    for book in range(books):
        yield f"{name}.model.codec_embedding.{book}.weight", (predictor["vocab_size"], width)
        yield f"{name}.lm_head.{book}.weight", (predictor["vocab_size"], small)
    yield from decoder_layers(f"{name}.model", predictor, head_norms=True)
    if "speaker_encoder_config" in config:
        yield from speaker_encoder_tensors(width)


def speaker_encoder_tensors(width: int) -> Inventory:
    """Yield names and shapes of the speaker encoder, whose inner sizes are the same for all."""
    name, channels, wide, narrow = "speaker_encoder", 512, 1536, 128
    yield from layer(f"{name}.blocks.0.conv", (channels, 128, 5))
    for block in range(1, 4):
        prefix, part = f"{name}.blocks.{block}", channels // 8
        yield from layer(f"{prefix}.tdnn1.conv", (channels, channels, 1))
        for step in range(7):
            yield from layer(f"{prefix}.res2net_block.blocks.{step}.conv", (part, part, 3))
        yield from layer(f"{prefix}.tdnn2.conv", (channels, channels, 1))
        yield from layer(f"{prefix}.se_block.conv1", (narrow, channels, 1))
        yield from layer(f"{prefix}.se_block.conv2", (channels, narrow, 1))
    yield from layer(f"{name}.mfa.conv", (wide, wide, 1))
    yield from layer(f"{name}.asp.tdnn.conv", (narrow, 3 * wide, 1))
    yield from layer(f"{name}.asp.conv", (wide, narrow, 1))
    yield from layer(f"{name}.fc", (width, 2 * wide, 1))


def decoder_layers(name: str, config: dict[str, Any], *, head_norms: bool) -> Inventory:
    """Yield a stack of decoder layers and its final norm."""
    width, ffn, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    for layer in range(config["num_hidden_layers"]):
        prefix = f"{name}.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (width,)
        yield f"{prefix}.post_attention_layernorm.weight", (width,)
        yield f"{prefix}.self_attn.q_proj.weight", (queries, width)
        yield f"{prefix}.self_attn.k_proj.weight", (keys, width)
        yield f"{prefix}.self_attn.v_proj.weight", (keys, width)
        yield f"{prefix}.self_attn.o_proj.weight", (width, queries)
        yield f"{prefix}.mlp.gate_proj.weight", (ffn, width)
        yield f"{prefix}.mlp.up_proj.weight", (ffn, width)
        yield f"{prefix}.mlp.down_proj.weight", (width, ffn)
        if head_norms:
            yield f"{prefix}.self_attn.q_norm.weight", (size,)
            yield f"{prefix}.self_attn.k_norm.weight", (size,)
        else:
            yield f"{prefix}.self_attn_layer_scale.scale", (width,)
            yield f"{prefix}.mlp_layer_scale.scale", (width,)
    yield f"{name}.norm.weight", (width,)


def codec_tensors(config: dict[str, Any]) -> Inventory:
    """Yield names and shapes of the codec's decoder."""
    outer, latent, width = config["codebook_dim"], config["latent_dim"], config["hidden_size"]
    inner = outer // 2
    for group, books in (("first", 1), ("rest", config["num_quantizers"] - 1)):
        name = f"decoder.quantizer.rvq_{group}"
        yield f"{name}.input_proj.weight", (inner, outer, 1)
        yield f"{name}.output_proj.weight", (outer, inner, 1)
        for book in range(books):
            codebook = f"{name}.vq.layers.{book}._codebook"
            yield f"{codebook}.embedding_sum", (config["codebook_size"], inner)
            yield f"{codebook}.cluster_usage", (config["codebook_size"],)
    yield from layer("decoder.pre_conv.conv", (latent, outer, 3))
    yield from layer("decoder.pre_transformer.input_proj", (width, latent))
    yield from decoder_layers("decoder.pre_transformer", config, head_norms=False)
    yield from layer("decoder.pre_transformer.output_proj", (latent, width))
    for index, ratio in enumerate(config["upsampling_ratios"]):
        name = f"decoder.upsample.{index}"
        yield f"{name}.0.conv.weight", (latent, latent, ratio)
        yield f"{name}.0.conv.bias", (latent,)
        yield from layer(f"{name}.1.dwconv.conv", (latent, 1, 7))
        yield from layer(f"{name}.1.norm", (latent,))
        yield from layer(f"{name}.1.pwconv1", (4 * latent, latent))
        yield from layer(f"{name}.1.pwconv2", (latent, 4 * latent))
        yield f"{name}.1.gamma", (latent,)
    yield from vocoder_tensors(config)


def vocoder_tensors(config: dict[str, Any]) -> Inventory:
    """Yield names and shapes of the codec's last part."""
    channels = config["decoder_dim"]
    yield from layer("decoder.decoder.0.conv", (channels, config["latent_dim"], 7))
    for index, rate in enumerate(config["upsample_rates"]):
        name, out = f"decoder.decoder.{1 + index}.block", channels // 2
        yield from snake(f"{name}.0", channels)
        yield f"{name}.1.conv.weight", (channels, out, 2 * rate)
        yield f"{name}.1.conv.bias", (out,)
        for unit in (2, 3, 4):
            yield from snake(f"{name}.{unit}.act1", out)
            yield from layer(f"{name}.{unit}.conv1.conv", (out, out, 7))
            yield from snake(f"{name}.{unit}.act2", out)
            yield from layer(f"{name}.{unit}.conv2.conv", (out, out, 1))
        channels = out
    last = 1 + len(config["upsample_rates"])
    yield from snake(f"decoder.decoder.{last}", channels)
    yield from layer(f"decoder.decoder.{last + 1}.conv", (1, channels, 7))


def encoder_tensors(config: dict[str, Any]) -> Inventory:
    """Yield names and shapes of the codec's encoder, which speaking does not need."""
    width, filters, ffn = config["hidden_size"], config["num_filters"], config["intermediate_size"]
    name = "encoder.encoder.layers"
    yield from layer(f"{name}.0.conv", (filters, config["audio_channels"], 7))
    for index, stride in enumerate(reversed(config["upsampling_ratios"])):
        yield from layer(f"{name}.{1 + 3 * index}.block.1.conv", (filters // 2, filters, 3))
        yield from layer(f"{name}.{1 + 3 * index}.block.3.conv", (filters, filters // 2, 1))
        yield from layer(f"{name}.{3 + 3 * index}.conv", (2 * filters, filters, 2 * stride))
        filters *= 2
    yield from layer(f"{name}.{2 + 3 * len(config['upsampling_ratios'])}.conv", (width, filters, 3))
    for index in range(config["num_hidden_layers"]):
        prefix = f"encoder.encoder_transformer.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield from layer(f"{prefix}.{norm}", (width,))
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{part}.weight", (width, width)
        yield f"{prefix}.mlp.fc1.weight", (ffn, width)
        yield f"{prefix}.mlp.fc2.weight", (width, ffn)
        for branch in ("self_attn", "mlp"):
            yield f"{prefix}.{branch}_layer_scale.scale", (width,)
    yield "encoder.downsample.conv.weight", (width, width, 4)
    inner, codes = config["codebook_dim"], config["codebook_size"]
    for kind, books in (("semantic", 1), ("acoustic", config["num_quantizers"] - 1)):
        prefix = f"encoder.quantizer.{kind}_residual_vector_quantizer"
        yield f"{prefix}.input_proj.weight", (inner, width, 1)
        yield f"{prefix}.output_proj.weight", (width, inner, 1)
        for book in range(books):
            yield f"{prefix}.layers.{book}.codebook.embed_sum", (codes, inner)
            yield f"{prefix}.layers.{book}.codebook.cluster_usage", (codes,)
            yield f"{prefix}.layers.{book}.codebook.initialized", (1,)


def layer(name: str, shape: Shape) -> Inventory:
    """Yield a weight and its bias of as many values as the weight has rows."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def snake(name: str, channels: int) -> Inventory:
    """Yield the two parameters of an activation."""
    yield f"{name}.alpha", (channels,)
    yield f"{name}.beta", (channels,)


# What is in them ----------------------------------------------------------------------

SCALES: tuple[tuple[str, float, float], ...] = (
    # (pattern of the name, mean, deviation); the first that fits. Random matrices keep the size
    # of their input. The vocoder's are smaller: sin() of large values makes rounding audible.
    (r"norm\.weight$|layernorm\.weight$", 1.0, 0.1),
    (r"\.initialized$", 1.0, 0.0),
    (r"\.(alpha|beta)$", 0.0, 0.1),
    (r"layer_scale\.scale$|\.gamma$", 0.0, 0.5),
    (r"embed(ding)?_sum$", 0.0, 2.0),
    (r"embedding[.\d]*\.weight$", 0.0, 0.5),
    (r"\.bias$", 0.0, 0.02),
)


def random_piece(name: str, shape: Shape, rows: int, generator: torch.Generator) -> Tensor:
    """Make `rows` rows of a tensor, float32."""
    noise = torch.randn(rows, *shape[1:], generator=generator)
    if name.endswith("cluster_usage"):
        return 1.0 + 3.0 * noise.abs()
    for pattern, mean, deviation in SCALES:
        if re.search(pattern, name):
            return noise.mul_(deviation).add_(mean)
    fan_in = math.prod(shape[1:])
    if re.search(r"block\.1\.conv\.weight$|upsample\.\d\.0\.conv\.weight$", name):
        fan_in = shape[0] * (2 if ".block." in name else 1)  # transposed: [in, out, kernel]
    gain = 1.0
    if name.startswith("decoder.decoder."):
        gain = 0.3 if ".conv2." in name else 0.5 if shape[0] == 1 else 0.6
    return noise.mul_(gain / math.sqrt(fan_in))


def random_pieces(name: str, shape: Shape, generator: torch.Generator) -> Iterator[Tensor]:
    """Make a tensor in pieces of at most PIECE_ELEMENTS, one below another."""
    step = max(1, PIECE_ELEMENTS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield random_piece(name, shape, min(step, shape[0] - start), generator)


def write_tensors(
    path: Path,
    tensors: list[tuple[str, Shape]],
    dtype: torch.dtype,
    generator: torch.Generator,
    *,
    eos: int | None = None,
) -> None:
    """Write a safetensors file: length of the header, header, then every tensor in turn.

    eos: row of codec_head that becomes zero, None for none
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    names = {torch.bfloat16: "BF16", torch.float32: "F32"}
    offset = 0
    for name, shape in tensors:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            cleared = eos if name == "talker.codec_head.weight" else None
            write_tensor(file, random_pieces(name, shape, generator), dtype, cleared)


def write_tensor(
    file: BinaryIO, pieces: Iterator[Tensor], dtype: torch.dtype, cleared: int | None
) -> None:
    """Write one tensor; `cleared` is a row of its first piece to be zero."""
    for piece in pieces:
        if cleared is not None:
            piece[cleared] = 0.0
        file.write(piece.to(dtype).view(torch.uint8).numpy().tobytes())


if __name__ == "__main__":
    sys.exit(main())
