"""What the Qwen voice asks of the engine for described and cloned voices, and what it refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.model.test_qwen_voice import CONFIG, TEXT, TOKENIZER, TOKENS, make_voice

from qwen_tts_service.errors import CannotSpeak, InvalidRequest, MisfitVoice
from qwen_tts_service.model.config import ModelConfig, load_config
from qwen_tts_service.types import (
    CloningVoice,
    KeptVoice,
    OpenVoice,
    SpeechRequest,
    VoiceAttributes,
    VoiceReference,
)
from qwen_tts_service.voice.catalogue import read_speakers

NO_SPEAKERS: dict[str, Any] = {"speaker_ids": {}, "speaker_dialects": {}}
DESIGN = replace(CONFIG, kind="voice_design", **NO_SPEAKERS)
BASE = replace(CONFIG, kind="base", **NO_SPEAKERS)
EMBEDDING = (0.5,) * CONFIG.width
ANNA = KeptVoice(embedding=EMBEDDING, codes=((1,) * 16, (63,) * 16), transcript="the user")
BARE = ANNA.without_recording()
REFERENCE = VoiceReference(samples=np.zeros(24000, np.float32), transcript="the user")


class FakeEncoder:
    """Says what it was given to hear."""

    def keep(self, reference: VoiceReference) -> KeptVoice:
        self.heard = reference
        return ANNA


def base(config: ModelConfig = BASE, **limits: Any) -> Any:
    return make_voice(config, encoder=FakeEncoder(), about={"kept": {"Anna": ANNA}}, **limits)


def ask(**fields: Any) -> SpeechRequest:
    return SpeechRequest(request_id="r", seed=7, text=TEXT, **{"language": "english", **fields})


# Described ---------------------------------------------------------------------------


def test_a_description_is_the_instruction() -> None:
    job = make_voice(DESIGN).prepare(ask(instruct="A calm deep male voice.")).job
    assert job.instruct_ids == tuple(TOKENIZER.encode_instruct("A calm deep male voice."))
    assert (job.speaker, job.voice, job.layout) == (None, None, "full_text")


def test_wishes_become_a_description() -> None:
    wishes = VoiceAttributes(gender="female", age=25, emotion="happy")
    utterance = make_voice(DESIGN).prepare(ask(attributes=wishes))
    said = "The voice of a young woman aged 25. Speak in a very happy, cheerful tone."
    assert utterance.job.instruct_ids == tuple(TOKENIZER.encode_instruct(said))
    assert utterance.choice.applied == ("gender", "age", "emotion")


def test_a_described_voice_has_no_speakers_and_refuses_them() -> None:
    voice = make_voice(DESIGN)
    assert voice.speakers == ()
    with pytest.raises(InvalidRequest, match="has no speakers"):
        voice.prepare(ask(speaker="vivian"))
    open_text = voice.open(replace(ask(instruct="Deep."), text=None))
    assert open_text._job.speaker is None


# Cloned ------------------------------------------------------------------------------


def test_a_kept_voice_speaks_by_its_name() -> None:
    voice = base()
    assert voice.speakers == ("Anna",)
    utterance = voice.prepare(ask(speaker="Anna"))
    assert utterance.job.voice is ANNA
    assert utterance.job.speaker is None
    assert utterance.job.reference_ids == tuple(TOKENIZER.encode_reference("the user"))
    assert utterance.job.layout == "streaming_text", "the official package's own for clones"
    assert utterance.choice.speaker == "Anna"


def test_a_voice_of_the_request_speaks_without_a_name() -> None:
    job = base().prepare(ask(voice=BARE)).job
    assert (job.voice, job.reference_ids, job.instruct_ids) == (BARE, (), ())


def test_a_voice_kept_later_is_found() -> None:
    kept: dict[str, KeptVoice] = {}
    voice: Any = make_voice(BASE, encoder=FakeEncoder(), about={"kept": kept})
    with pytest.raises(InvalidRequest, match="none yet"):
        voice.choose(ask(speaker="Boris"))
    kept["Boris"] = BARE
    assert voice.prepare(ask(speaker="Boris")).job.voice is BARE
    assert voice.speakers == ("Boris",)


def test_without_a_voice_a_model_that_clones_says_what_it_needs() -> None:
    with pytest.raises(InvalidRequest) as caught:
        base().prepare(ask())
    assert caught.value.code == "voice_required"


def test_stress_marks_are_dropped_from_a_transcript_as_from_a_text() -> None:
    marked = replace(ANNA, transcript="за\u0301мок")
    job = base().prepare(ask(voice=marked)).job
    assert job.reference_ids == tuple(TOKENIZER.encode_reference("замок"))
    kept = base(keeps_stress=True).prepare(ask(voice=marked)).job
    assert kept.reference_ids == tuple(TOKENIZER.encode_reference("за\u0301мок"))


@pytest.mark.parametrize(
    "voice",
    [
        replace(ANNA, embedding=EMBEDDING[1:]),
        replace(ANNA, embedding=(*EMBEDDING[1:], float("nan"))),
        replace(ANNA, codes=((1,) * 15,)),
        replace(ANNA, codes=((-1,) + (1,) * 15,)),
        replace(ANNA, codes=((1,) * 15 + (64,),)),
    ],
    ids=["width", "no number", "codebooks", "negative", "too large"],
)
def test_a_voice_of_another_model_is_refused(voice: KeptVoice) -> None:
    with pytest.raises(InvalidRequest, match="made by another model"):
        base().prepare(ask(voice=voice))


def test_a_kept_voice_of_another_size_is_named() -> None:
    wide = {"Anna": replace(ANNA, embedding=EMBEDDING[1:])}
    voice: Any = make_voice(BASE, encoder=FakeEncoder(), about={"kept": wide})
    with pytest.raises(MisfitVoice, match=r'"Anna".*keep it again') as caught:
        voice.prepare(ask(speaker=" Anna"))
    assert caught.value.name == "Anna"


@pytest.mark.parametrize("config", [CONFIG, DESIGN], ids=["custom_voice", "voice_design"])
def test_other_models_say_which_ones_clone(config: ModelConfig) -> None:
    voice = make_voice(config)
    for act in (lambda: voice.prepare(ask(voice=BARE)), lambda: voice.clone(REFERENCE)):
        with pytest.raises(CannotSpeak, match=r"Qwen3-TTS-12Hz-1\.7B-Base") as caught:
            act()
        assert (caught.value.code, caught.value.param) == ("cloning_not_supported", "ref_audio")


def test_a_recording_is_heard_by_the_encoder() -> None:
    voice = base()
    assert isinstance(voice, CloningVoice)
    assert isinstance(voice, OpenVoice)
    assert voice.clone(REFERENCE) is ANNA
    assert voice._model.encoder.heard is REFERENCE


def test_a_text_that_is_still_written_is_spoken_without_the_recording_and_that_is_said() -> None:
    utterance = base().open(replace(ask(speaker="Anna"), text=None))
    assert utterance._job.voice == BARE
    assert (utterance._job.reference_ids, utterance._job.layout) == ((), "streaming_text")
    assert "still being written" in utterance.choice.not_applied["transcript"]
    bare = base().open(replace(ask(voice=BARE), text=None))
    assert bare.choice.not_applied == {}


def test_a_recording_takes_positions() -> None:
    frames = 10
    reference = len(TOKENIZER.encode_reference("the user")) + len(ANNA.codes)
    fits = TOKENS + 8 + reference + 8 + frames
    request = ask(speaker="Anna", max_frames=frames)
    assert base(max_positions=fits).prepare(request)
    with pytest.raises(InvalidRequest, match=f"may need {fits} positions"):
        base(max_positions=fits - 1).prepare(request)


def test_the_cap_of_a_runaway_counts_without_the_recording() -> None:
    long = replace(ANNA, codes=ANNA.codes * 100)
    jobs = [base().prepare(ask(voice=voice)).job for voice in (long, BARE)]
    assert jobs[0].runaway_frames == jobs[1].runaway_frames


def test_a_model_that_clones_warms_up_without_anyones_voice() -> None:
    voice = base()
    voice.warm_up()
    (job,) = voice._engine.whole
    assert job.voice == KeptVoice(embedding=(0.0,) * CONFIG.width)
    custom = make_voice()
    custom.warm_up()
    assert custom._engine.whole[0].voice is None


# Fine-tuned --------------------------------------------------------------------------


def test_what_is_known_of_own_speakers_is_used(tmp_path: Any) -> None:
    (tmp_path / "speakers.json").write_text('{"Speaker_Test": {"gender": "female"}}')
    config = replace(CONFIG, speaker_ids={"speaker_test": 3}, speaker_dialects={})
    known = read_speakers(tmp_path / "speakers.json")
    wishes = ask(attributes=VoiceAttributes(gender="female"), speaker="SPEAKER TEST")
    told = make_voice(config, about={"known": known}).prepare(wishes)
    assert (told.job.speaker, told.job.layout) == ("speaker_test", "full_text")
    assert told.choice.applied == ("speaker", "gender")
    assert told.job.language == "english"
    untold = make_voice(config).choose(wishes)
    assert untold.not_applied == {"gender": "the gender of this speaker is not known"}


def test_a_fine_tuned_checkpoint_speaks_without_the_tag_of_a_language(tiny_voices: Any) -> None:
    config = load_config(tiny_voices / "tiny_finetuned_0b6")
    assert config.is_fine_tuned
    utterance = make_voice(config).prepare(ask(speaker="speaker_test"))
    assert (utterance.job.language, utterance.choice.language) == ("auto", "english")
    for other in ("tiny_base_0b6", "tiny_design_1b7"):
        assert not load_config(tiny_voices / other).is_fine_tuned
    assert not CONFIG.is_fine_tuned
