"""What is heard in a recording: by the recorded outputs, by another implementation, and at edges.

The official encoders' outputs of every recording and edge length are compared in test_parity.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import write_tiny_checkpoint
from tests.model.conftest import VOICES

from qwen_tts_service.audio.resample import resampled
from qwen_tts_service.errors import InvalidRequest, StartupError
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.model.speaker_encoder import SHORTEST_SAMPLES, mel_spectrogram
from qwen_tts_service.types import KeptVoice, VoiceReference


def noise(samples, seed=3):
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def keep(model, samples, transcript=None):
    return model.encoder.keep(VoiceReference(samples=samples, transcript=transcript))


def test_with_a_transcript_the_recording_is_kept_and_without_it_the_speaker(base_model):
    samples = noise(5000)
    spoken, bare = keep(base_model, samples, "the user"), keep(base_model, samples)
    assert keep(base_model, samples, "") == bare
    assert bare == spoken.without_recording() == KeptVoice(embedding=spoken.embedding)
    assert len(spoken.embedding) == base_model.config.width
    assert [len(frame) for frame in spoken.codes] == [16, 16, 16]
    assert spoken.transcript == "the user"


def test_a_kept_voice_survives_json(base_model):
    """Numbers and names come back as they were, float32 to the bit."""
    voice = keep(base_model, noise(5000), "the user")
    text = json.dumps([voice.embedding, voice.codes])
    embedding, codes = json.loads(text)
    assert (
        KeptVoice(embedding=tuple(embedding), codes=tuple(map(tuple, codes)), transcript="the user")
        == voice
    )
    assert np.array_equal(np.float32(embedding), np.array(embedding))


@pytest.mark.parametrize(
    "samples",
    [
        noise(SHORTEST_SAMPLES - 1),
        noise(0),
        np.append(noise(5000), np.float32("nan")),
        np.append(noise(5000), np.float32("-inf")),
    ],
    ids=["short", "empty", "nan", "infinite"],
)
def test_what_cannot_be_heard_is_refused(base_model, samples):
    with pytest.raises(InvalidRequest, match="at least 1280 samples") as caught:
        keep(base_model, samples)
    assert caught.value.param == "ref_audio"


def test_the_shortest_recording_is_heard(base_model):
    assert np.isfinite(keep(base_model, noise(SHORTEST_SAMPLES)).embedding).all()


def test_both_encoders_stay_in_float32_on_the_cpu(tiny_voices):
    model = Qwen3TTS.load(tiny_voices / "tiny_base_0b6", dtype=torch.bfloat16)
    parts = (model.encoder.speaker, model.encoder.codec)
    kinds = {(tensor.dtype, str(tensor.device)) for part in parts for tensor in part.parameters()}
    assert kinds == {(torch.float32, "cpu")}


def test_of_another_rate_the_official_filter_is_used(parity):
    """Bit for bit what the official package's encoders were given."""
    with np.load(VOICES / "references_tiny_base_1b7.npz") as arrays:
        official = arrays["ref_c_24k"]
    assert np.array_equal(parity.read_recording(VOICES, "ref_c"), official)
    assert resampled(official, 24000, 24000) is official


def test_the_mel_bank_is_that_of_transformers():
    from transformers.audio_utils import mel_filter_bank

    from qwen_tts_service.model.speaker_encoder import _mel_bank

    theirs = mel_filter_bank(513, 128, 0.0, 12000.0, 24000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(_mel_bank().numpy(), theirs.T, atol=1e-8)


@pytest.mark.parametrize(("samples", "frames"), [(1280, 5), (1535, 5), (1536, 6)])
def test_the_spectrogram_has_a_frame_for_every_256_samples(samples, frames):
    assert mel_spectrogram(torch.from_numpy(noise(samples))).shape == (128, frames)


@pytest.fixture(scope="module")
def mimi():
    """The codec's encoder in transformers, without the window that it has since 5.5."""
    from transformers import MimiConfig, MimiModel

    config = json.loads((VOICES / "speech_tokenizer" / "config.json").read_text(encoding="utf-8"))
    sizes = config["encoder_config"] | {"sliding_window": 10**6, "decoder_config": None}
    tensors = load_file(VOICES / "speech_tokenizer" / "model.safetensors")
    state = {
        name.removeprefix("encoder."): tensor
        for name, tensor in tensors.items()
        if name.startswith("encoder.")
    }
    return MimiModel.from_pretrained(None, config=MimiConfig(**sizes), state_dict=state).eval()


@pytest.mark.parametrize("samples", [1280, 1919, 1921, 24000, 100_000])
def test_codes_are_those_of_another_implementation(base_model, mimi, samples):
    wave = noise(samples, seed=samples)
    with torch.inference_mode():
        theirs = mimi.encode(torch.from_numpy(wave)[None, None], num_quantizers=16).audio_codes
    assert base_model.encoder.encode(wave) == theirs[0].T.tolist()


def test_only_a_model_that_clones_has_encoders(tiny_voices, design_model):
    assert design_model.encoder is None
    assert Qwen3TTS.load(tiny_voices / "tiny_finetuned_0b6").encoder is None


def test_a_fine_tuned_checkpoint_may_have_kept_the_speaker_encoder(tmp_path):
    write_tiny_checkpoint(tmp_path / "kept", "tiny_finetuned_0b6")
    weights = tmp_path / "kept" / "model.safetensors"
    encoder = load_file(VOICES / "speaker_encoder_0b6.safetensors")
    save_file(load_file(weights) | encoder, weights)
    assert Qwen3TTS.load(tmp_path / "kept").config.speakers == ("speaker_test",)


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("model.safetensors", "speaker_encoder.fc.weight"),
        ("speech_tokenizer/model.safetensors", "encoder.downsample.conv.weight"),
    ],
)
def test_a_tensor_that_an_encoder_lacks_is_named(tmp_path, file, tensor):
    write_tiny_checkpoint(tmp_path / "bad", "tiny_base_0b6")
    tensors = load_file(tmp_path / "bad" / file)
    del tensors[tensor]
    save_file(tensors, tmp_path / "bad" / file)
    with pytest.raises(StartupError, match=f"missing: {tensor}"):
        Qwen3TTS.load(tmp_path / "bad")
