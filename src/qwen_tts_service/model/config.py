"""What a Qwen3-TTS checkpoint says about itself: sizes, special ids, speakers and languages.

Reads config.json and speech_tokenizer/config.json of the official layout. Class defaults of the
official package are never relied on: a field that is missing is an error that names it. It does
not know weights, devices or torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_tts_service.errors import StartupError

SUPPRESSED_IDS = 1024
"""The last ids of the codec vocabulary are control, language and speaker rows, never audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """The sizes of one stack of Qwen3 decoder layers."""

    width: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    rope_theta: float
    norm_eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """The codec decoder ("12Hz tokenizer"): codes to waveform."""

    transformer: TransformerConfig
    latent_width: int
    codebook_width: int
    codes: int
    codebooks: int
    decoder_width: int
    window_frames: int
    upsample_rates: tuple[int, ...]
    upsampling_ratios: tuple[int, ...]
    sample_rate_hz: int

    @property
    def samples_per_frame(self) -> int:
        """Samples that one frame of codes becomes; 1920 in the published checkpoints."""
        product = 1
        for rate in self.upsampling_ratios + self.upsample_rates:
            product *= rate
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A whole checkpoint. `*_text_id` is a token of the text, any other `*_id` of the codec."""

    size: str
    talker: TransformerConfig
    code_predictor: TransformerConfig
    codec: CodecConfig
    codebooks: int
    max_positions: int
    vocabulary: int
    text_vocabulary: int
    text_width: int
    im_start_text_id: int
    im_end_text_id: int
    tts_pad_text_id: int
    tts_bos_text_id: int
    tts_eos_text_id: int
    pad_id: int
    bos_id: int
    eos_id: int
    think_id: int
    nothink_id: int
    think_bos_id: int
    think_eos_id: int
    language_ids: Mapping[str, int]
    speaker_ids: Mapping[str, int]
    speaker_dialects: Mapping[str, str]

    @property
    def width(self) -> int:
        """Width of the talker's hidden states."""
        return self.talker.width

    @property
    def codes(self) -> int:
        """Audio codes of codebook 0, the first rows of the codec vocabulary."""
        return self.vocabulary - SUPPRESSED_IDS

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names in lower case."""
        return tuple(self.speaker_ids)

    @property
    def languages(self) -> tuple[str, ...]:
        """Names in lower case, without "auto" and without the dialects."""
        return tuple(name for name in self.language_ids if "dialect" not in name)

    @property
    def obeys_instruct(self) -> bool:
        """Whether instructions reach the model; the 0.6B checkpoint was not trained on them."""
        return self.size not in "0b6"  # the official test is this very substring test


def load_config(directory: Path) -> ModelConfig:
    """Read both config files; StartupError names the file and the field that is wrong."""
    main = _Section.read(directory / "config.json")
    if (kind := main.text("tts_model_type")) != "custom_voice":
        raise StartupError(
            f"{main.name}: tts_model_type is {kind!r}; only 'custom_voice' checkpoints are served"
        )
    talker = main.section("talker_config")
    dialects = talker.mapping("spk_is_dialect")
    return ModelConfig(
        size=main.text("tts_model_size"),
        talker=_transformer(talker),
        code_predictor=_code_predictor(talker),
        codec=_codec(_Section.read(directory / "speech_tokenizer" / "config.json")),
        codebooks=talker.integer("num_code_groups"),
        max_positions=talker.integer("max_position_embeddings"),
        vocabulary=talker.integer("vocab_size"),
        text_vocabulary=talker.integer("text_vocab_size"),
        text_width=talker.integer("text_hidden_size"),
        im_start_text_id=main.integer("im_start_token_id"),
        im_end_text_id=main.integer("im_end_token_id"),
        tts_pad_text_id=main.integer("tts_pad_token_id"),
        tts_bos_text_id=main.integer("tts_bos_token_id"),
        tts_eos_text_id=main.integer("tts_eos_token_id"),
        pad_id=talker.integer("codec_pad_id"),
        bos_id=talker.integer("codec_bos_id"),
        eos_id=talker.integer("codec_eos_token_id"),
        think_id=talker.integer("codec_think_id"),
        nothink_id=talker.integer("codec_nothink_id"),
        think_bos_id=talker.integer("codec_think_bos_id"),
        think_eos_id=talker.integer("codec_think_eos_id"),
        language_ids=_lower(talker.mapping("codec_language_id")),
        speaker_ids=_lower(talker.mapping("spk_id")),
        speaker_dialects=_lower({who: name for who, name in dialects.items() if name}),
    )


def _lower(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): value for name, value in mapping.items()}


def _code_predictor(talker: "_Section") -> TransformerConfig:
    section = talker.section("code_predictor_config")
    for field, expected in (
        ("num_code_groups", talker.integer("num_code_groups")),
        ("vocab_size", talker.integer("vocab_size") - SUPPRESSED_IDS),
    ):
        if section.integer(field) != expected:
            raise StartupError(f"{section.name}: {field} must be {expected}, as the talker has it")
    return _transformer(section)


def _transformer(section: "_Section") -> TransformerConfig:
    for field, only in (("hidden_act", "silu"), ("attention_bias", False)):
        if section.get(field) != only:
            raise StartupError(f"{section.name}: {field} must be {only!r}")
    return TransformerConfig(
        width=section.integer("hidden_size"),
        feed_forward=section.integer("intermediate_size"),
        layers=section.integer("num_hidden_layers"),
        heads=section.integer("num_attention_heads"),
        kv_heads=section.integer("num_key_value_heads"),
        head_size=section.integer("head_dim"),
        rope_theta=section.number("rope_theta"),
        norm_eps=section.number("rms_norm_eps"),
    )


def _codec(section: "_Section") -> CodecConfig:
    decoder = section.section("decoder_config")
    return CodecConfig(
        transformer=_transformer(decoder),
        latent_width=decoder.integer("latent_dim"),
        codebook_width=decoder.integer("codebook_dim"),
        codes=decoder.integer("codebook_size"),
        codebooks=decoder.integer("num_quantizers"),
        decoder_width=decoder.integer("decoder_dim"),
        window_frames=decoder.integer("sliding_window"),
        upsample_rates=decoder.integers("upsample_rates"),
        upsampling_ratios=decoder.integers("upsampling_ratios"),
        sample_rate_hz=section.integer("output_sample_rate"),
    )


class _Section:
    """A JSON object that says which file and which field is wrong."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self._values = values

    @classmethod
    def read(cls, path: Path) -> "_Section":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StartupError(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(values, dict):
            raise StartupError(f"{path} holds no JSON object")
        return cls(str(path), values)

    def get(self, field: str) -> Any:
        if field not in self._values:
            raise StartupError(f"{self.name}: the field {field} is missing")
        return self._values[field]

    def _typed(self, field: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self.get(field)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise StartupError(f"{self.name}: the field {field} must be {what}")
        return value

    def text(self, field: str) -> str:
        return str(self._typed(field, (str,), "a text"))

    def integer(self, field: str) -> int:
        return int(self._typed(field, (int,), "an integer"))

    def number(self, field: str) -> float:
        return float(self._typed(field, (int, float), "a number"))

    def integers(self, field: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self._typed(field, (list,), "a list of integers"))

    def mapping(self, field: str) -> Mapping[str, Any]:
        return dict(self._typed(field, (dict,), "an object"))

    def section(self, field: str) -> "_Section":
        return _Section(f"{self.name}: {field}", self.mapping(field))
