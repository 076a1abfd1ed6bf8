"""Checkpoint configuration: sizes, special ids, speakers and languages.

Reads config.json and speech_tokenizer/config.json of the official layout; each field below names
its key there. Class defaults of the official package are not relied on: a field that is missing
is an error that names it. The speaker encoder alone has its sizes from there, since no published
file names them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sized
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from qwen_tts_service.errors import StartupError
from qwen_tts_service.types import FRAME_S, MODEL_KINDS, ModelKind

SUPPRESSED_IDS = 1024
"""The last ids of the codec vocabulary are control, language and speaker rows, never audio."""

MOST_FILE_BYTES = 16 << 20
"""Of a file of JSON; the published vocabulary has 2.8 MB, a configuration 4 kB."""
MOST_LIST = 8
"""Entries of a list of numbers: factors of the sample rate, sizes of layers."""
MOST_NAMES = 10_000
"""Speakers or languages of one checkpoint."""

ConfigT = TypeVar("ConfigT")
Bounds = tuple[float, float]

_SIZE: Bounds = (1, 65_536)
_LAYERS: Bounds = (1, 256)
_EVEN_HEAD: Bounds = (2, 1024)
_VOCABULARY: Bounds = (1, 1 << 20)
_ID: Bounds = (0, (1 << 20) - 1)
_POSITIONS: Bounds = (1, 1 << 20)
_RATE: Bounds = (1, 64)
_CODEBOOKS: Bounds = (2, 64)
_HZ: Bounds = (8000, 192_000)
_THETA: Bounds = (1, 1e9)
_EPSILON: Bounds = (1e-12, 0.1)


def _key(*path: str, default: Any = MISSING, bounds: Bounds = _SIZE) -> Any:
    """Say where in the JSON file a field is read from, and what it is if it is not there.

    bounds: the least and the most of a number, or of each number of a list or of an object: well
    beyond what is published, and small enough that no file makes the start hang or fill the memory
    """
    return field(metadata={"path": path, "bounds": bounds}, default=default)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """The sizes of one stack of decoder layers.

    is_codec: the codec's layers have no norms of query and key heads, and a learned scale per
    channel on each branch
    """

    width: int = _key("hidden_size")
    feed_forward: int = _key("intermediate_size")
    layers: int = _key("num_hidden_layers", bounds=_LAYERS)
    heads: int = _key("num_attention_heads")
    kv_heads: int = _key("num_key_value_heads")
    head_size: int = _key("head_dim", bounds=_EVEN_HEAD)
    rope_theta: float = _key("rope_theta", bounds=_THETA)
    norm_eps: float = _key("rms_norm_eps", bounds=_EPSILON)
    is_codec: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """The codec decoder ("12Hz tokenizer"): codes to waveform."""

    transformer: TransformerConfig
    latent_width: int = _key("decoder_config", "latent_dim")
    codebook_width: int = _key("decoder_config", "codebook_dim")
    codes: int = _key("decoder_config", "codebook_size")
    codebooks: int = _key("decoder_config", "num_quantizers", bounds=_CODEBOOKS)
    decoder_width: int = _key("decoder_config", "decoder_dim")
    window_frames: int = _key("decoder_config", "sliding_window")
    upsample_rates: tuple[int, ...] = _key("decoder_config", "upsample_rates", bounds=_RATE)
    upsampling_ratios: tuple[int, ...] = _key("decoder_config", "upsampling_ratios", bounds=_RATE)
    sample_rate_hz: int = _key("output_sample_rate", bounds=_HZ)

    @property
    def samples_per_frame(self) -> int:
        """Samples that one frame of codes becomes; 1920 in the published checkpoints."""
        return math.prod(self.upsampling_ratios + self.upsample_rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerEncoderConfig:
    """The speaker encoder: a recording to one vector of the talker's width.

    channels, kernels, dilations: of the first layer, the three blocks and the last layer
    """

    width: int = _key("enc_dim")
    channels: tuple[int, ...] = _key("enc_channels", default=(512, 512, 512, 512, 1536))
    kernels: tuple[int, ...] = _key("enc_kernel_sizes", default=(5, 3, 3, 3, 1))
    dilations: tuple[int, ...] = _key("enc_dilations", default=(1, 2, 3, 4, 1))
    attention_channels: int = _key("enc_attention_channels", default=128)
    parts: int = _key("enc_res2net_scale", default=8)
    gate_channels: int = _key("enc_se_channels", default=128)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecEncoderConfig:
    """The codec's other half: waveform to codes. Kernel sizes are those of its tensors."""

    filters: int = _key("num_filters")
    ratios: tuple[int, ...] = _key("upsampling_ratios", bounds=_RATE)
    width: int = _key("hidden_size")
    feed_forward: int = _key("intermediate_size")
    layers: int = _key("num_hidden_layers", bounds=_LAYERS)
    heads: int = _key("num_attention_heads")
    head_size: int = _key("head_dim", bounds=_EVEN_HEAD)
    rope_theta: float = _key("rope_theta", bounds=_THETA)
    norm_eps: float = _key("norm_eps", bounds=_EPSILON)
    codes: int = _key("codebook_size")
    codebook_width: int = _key("codebook_dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A whole checkpoint. `*_text_id` is a token of the text, any other `*_id` of the codec.

    Names of languages, speakers and dialects are in lower case. speaker_encoder, codec_encoder:
    of the kind "base" alone, whatever else the file has. is_fine_tuned: made of a "base" by the
    official script, which leaves a part of its configuration behind
    """

    talker: TransformerConfig
    code_predictor: TransformerConfig
    codec: CodecConfig
    speaker_encoder: SpeakerEncoderConfig | None
    codec_encoder: CodecEncoderConfig | None
    kind: ModelKind
    is_fine_tuned: bool
    size: str = _key("tts_model_size")
    im_start_text_id: int = _key("im_start_token_id", bounds=_ID)
    im_end_text_id: int = _key("im_end_token_id", bounds=_ID)
    tts_pad_text_id: int = _key("tts_pad_token_id", bounds=_ID)
    tts_bos_text_id: int = _key("tts_bos_token_id", bounds=_ID)
    tts_eos_text_id: int = _key("tts_eos_token_id", bounds=_ID)
    codebooks: int = _key("talker_config", "num_code_groups", bounds=_CODEBOOKS)
    max_positions: int = _key("talker_config", "max_position_embeddings", bounds=_POSITIONS)
    vocabulary: int = _key("talker_config", "vocab_size", bounds=_VOCABULARY)
    text_vocabulary: int = _key("talker_config", "text_vocab_size", bounds=_VOCABULARY)
    text_width: int = _key("talker_config", "text_hidden_size")
    pad_id: int = _key("talker_config", "codec_pad_id", bounds=_ID)
    bos_id: int = _key("talker_config", "codec_bos_id", bounds=_ID)
    eos_id: int = _key("talker_config", "codec_eos_token_id", bounds=_ID)
    think_id: int = _key("talker_config", "codec_think_id", bounds=_ID)
    nothink_id: int = _key("talker_config", "codec_nothink_id", bounds=_ID)
    think_bos_id: int = _key("talker_config", "codec_think_bos_id", bounds=_ID)
    think_eos_id: int = _key("talker_config", "codec_think_eos_id", bounds=_ID)
    language_ids: Mapping[str, int] = _key("talker_config", "codec_language_id", bounds=_ID)
    speaker_ids: Mapping[str, int] = _key("talker_config", "spk_id", bounds=_ID)
    speaker_dialects: Mapping[str, str] = _key("talker_config", "spk_is_dialect")

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
        return tuple(self.speaker_ids)

    @property
    def languages(self) -> tuple[str, ...]:
        """Without "auto" and without the dialects."""
        return tuple(name for name in self.language_ids if "dialect" not in name)

    @property
    def follows_instruct(self) -> bool:
        """Whether instructions reach the model; the 0.6B checkpoint was not trained on them."""
        if self.kind == "custom_voice":
            return self.size not in "0b6"  # the official test is this very substring test
        return self.kind == "voice_design"


def load_config(directory: Path) -> ModelConfig:
    """Read both config files; StartupError names the file and the field that is wrong."""
    config = read_config(directory)
    for problem in _contradictions(config):
        raise StartupError(f"{directory}: config.json and speech_tokenizer/config.json: {problem}")
    return config


def read_config(directory: Path) -> ModelConfig:
    """`load_config` without a look at what only all numbers together show."""
    main = _Section.open(directory / "config.json")
    main.demand("the codec knows no other", tokenizer_type="qwen3_tts_tokenizer_12hz")
    kind = main.one_of("tts_model_type", MODEL_KINDS)
    speech = _Section.open(directory / "speech_tokenizer" / "config.json")
    talker = main.section("talker_config")
    predictor = talker.section("code_predictor_config")
    codec = _transformer(speech.section("decoder_config"), is_codec=True)
    config = main.build(
        ModelConfig,
        talker=_transformer(talker),
        code_predictor=_transformer(predictor),
        codec=speech.build(CodecConfig, transformer=codec),
        kind=kind,
        is_fine_tuned=kind == "custom_voice" and main.has("speaker_encoder_config"),
        **(_encoders(main, speech) if kind == "base" else _NO_ENCODERS),
    )
    if kind == "custom_voice" and not config.speakers:
        raise StartupError(f"{directory / 'config.json'}: talker_config: spk_id has no speakers")
    if config.speaker_encoder is not None:
        main.section("speaker_encoder_config").demand("the talker is so wide", enc_dim=config.width)
    predictor.demand(
        "the talker has it so", num_code_groups=config.codebooks, vocab_size=config.codes
    )
    return config


def _contradictions(config: ModelConfig) -> Iterator[str]:
    """What no single number shows: sizes that do not go together, ids that are nowhere."""
    codec = config.codec
    for name, stack in (
        ("talker_config", config.talker),
        ("code_predictor_config", config.code_predictor),
        ("decoder_config", codec.transformer),
    ):
        if stack.heads % stack.kv_heads:
            yield f"{name}: num_key_value_heads must divide num_attention_heads"
        if stack.head_size % 2:
            yield f"{name}: head_dim must be even"
    if codec.samples_per_frame != round(FRAME_S * codec.sample_rate_hz):
        yield (
            f"a frame of {codec.samples_per_frame} samples (upsample_rates, upsampling_ratios) "
            f"is not {FRAME_S} s of output_sample_rate {codec.sample_rate_hz}"
        )
    if codec.codes < config.codes or codec.codebooks != config.codebooks:
        yield "codebook_size and num_quantizers of the codec are not those of the talker"
    texts = [config.im_start_text_id, config.im_end_text_id]
    texts += [config.tts_pad_text_id, config.tts_bos_text_id, config.tts_eos_text_id]
    if max(texts) >= config.text_vocabulary:
        yield f"a token id of the text is not below text_vocab_size {config.text_vocabulary}"
    named = (*config.language_ids.values(), *config.speaker_ids.values())
    codecs = [config.pad_id, config.bos_id, config.eos_id, config.think_id, config.nothink_id]
    codecs += [config.think_bos_id, config.think_eos_id, *named]
    if max(codecs) >= config.vocabulary:
        yield f"an id of the codec is not below vocab_size {config.vocabulary}"
    if unknown := set(config.speaker_dialects.values()) - set(config.language_ids):
        yield f"spk_is_dialect names no language of codec_language_id: {min(unknown)[:40]!r}"


def read_text(path: Path) -> str:
    """Read a text file of a checkpoint; raises OSError or ValueError, whatever it is."""
    if not path.is_file():
        raise FileNotFoundError("it is no file" if path.exists() else "there is no such file")
    if (size := path.stat().st_size) > MOST_FILE_BYTES:
        raise ValueError(f"it has {size} bytes; at most {MOST_FILE_BYTES} are allowed")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file of a checkpoint; raises OSError or ValueError, whatever it is."""
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its objects or lists are nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


_NO_ENCODERS: dict[str, Any] = {"speaker_encoder": None, "codec_encoder": None}


def _encoders(main: "_Section", speech: "_Section") -> dict[str, Any]:
    """Read what only a checkpoint that clones has."""
    return {
        "speaker_encoder": main.section("speaker_encoder_config").build(SpeakerEncoderConfig),
        "codec_encoder": speech.section("encoder_config").build(CodecEncoderConfig),
    }


def _transformer(section: "_Section", *, is_codec: bool = False) -> TransformerConfig:
    section.demand("the layers know no other", hidden_act="silu", attention_bias=False)
    return section.build(TransformerConfig, is_codec=is_codec)


_KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a text"),
    int: (int, "an integer"),
    float: ((int, float), "a number"),
    tuple[int, ...]: (list, "a list of integers"),
    Mapping[str, int]: (dict, "an object"),
    Mapping[str, str]: (dict, "an object"),
}
"""What JSON must hold for a field of some type."""


class _Section:
    """A JSON object that says which file and which field is wrong."""

    def __init__(self, name: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise StartupError(f"{name} must be a JSON object")
        self._name = name
        self._values = values

    @classmethod
    def open(cls, path: Path) -> "_Section":
        try:
            return cls(str(path), read_json(path))
        except (OSError, ValueError) as error:
            raise StartupError(f"{path} cannot be read as JSON: {error}") from error

    def section(self, key: str) -> "_Section":
        return _Section(f"{self._name}: {key}", self._get(key))

    def has(self, key: str) -> bool:
        return key in self._values

    def demand(self, reason: str, **only: object) -> None:
        """Raise StartupError, with the reason, unless each key has its one value."""
        for key, value in only.items():
            if (found := self._get(key)) != value:
                said = f"{key} must be {value!r}, not {found!r}: {reason}"
                raise StartupError(f"{self._name}: {said}")

    def one_of(self, key: str, allowed: tuple[ConfigT, ...]) -> ConfigT:
        """Return a value that must be one of these."""
        if (found := self._get(key)) not in allowed:
            known = ", ".join(map(str, allowed))
            raise StartupError(f"{self._name}: {key} must be one of {known}, not {found!r}")
        return allowed[allowed.index(found)]

    def build(self, kind: type[ConfigT], /, **rest: object) -> ConfigT:
        """Make a dataclass of its fields that name their keys, and of the rest.

        `pad_id: int = _key("talker_config", "codec_pad_id")` is read as an integer from that key
        of that section of this one. Names, which are keys of objects, become lower case.
        """
        for item in fields(kind):  # type: ignore[arg-type]
            if "path" in item.metadata:
                *outer, key = item.metadata["path"]
                section = self.section(outer[0]) if outer else self
                bounds = item.metadata["bounds"]
                rest[item.name] = section.read(key, item.type, bounds, item.default)
        return kind(**rest)

    def read(self, key: str, kind: Any, bounds: Bounds, default: Any = MISSING) -> Any:
        value = self._get(key) if default is MISSING else self._values.get(key, default)
        allowed, what = _KINDS[kind]
        if value is default:
            return default
        is_right = isinstance(value, allowed) and not isinstance(value, bool)
        if isinstance(value, list):
            is_right = is_right and all(type(entry) is int for entry in value)
        if not is_right:
            raise StartupError(f"{self._name}: the field {key} must be {what}")
        if isinstance(value, dict):
            return self._names(key, value, kind, bounds)
        if isinstance(value, list):
            self._check_length(key, value, MOST_LIST)
        for number in value if isinstance(value, list) else [value]:
            self._check_bounds(key, number, bounds)
        return tuple(value) if isinstance(value, list) else kind(value)

    def _names(self, key: str, values: dict[str, Any], kind: Any, bounds: Bounds) -> dict[str, Any]:
        """An object of names, in lower case, without those that have false instead of a value."""
        self._check_length(key, values, MOST_NAMES, least=0)
        kept = {name.lower(): entry for name, entry in values.items() if entry is not False}
        wanted = int if kind == Mapping[str, int] else str
        for entry in kept.values():
            if type(entry) is not wanted:
                raise StartupError(f"{self._name}: {key} must be an object of {wanted.__name__}")
            self._check_bounds(key, entry, bounds)
        return {name: e.lower() if isinstance(e, str) else e for name, e in kept.items()}

    def _check_length(self, key: str, values: Sized, most: int, *, least: int = 1) -> None:
        if not least <= len(values) <= most:
            said = f"{key} must have {least} to {most} entries, not {len(values)}"
            raise StartupError(f"{self._name}: {said}")

    def _check_bounds(self, key: str, value: float | str, bounds: Bounds) -> None:
        least, most = bounds
        if not isinstance(value, str) and not least <= value <= most:
            said = f"{key} must be {least:g} to {most:g}, not {str(value)[:20]}"
            raise StartupError(f"{self._name}: {said}")

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise StartupError(f"{self._name}: the field {key} is missing")
        return self._values[key]
