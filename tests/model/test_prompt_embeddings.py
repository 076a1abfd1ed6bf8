"""How many rows a prompt has, and what is refused."""

import pytest
import torch

from qwen_tts_service.errors import InvalidRequest


def build(model, text="hello the world", **options):
    options = {"speaker": "vivian", "language": "english"} | options
    return model.prompts.build(model.tokenizer.encode(text), **options)


N = 9  # tokens of "hello the world" on the tiny checkpoints


@pytest.mark.parametrize(
    ("options", "rows", "text_rows"),
    [
        ({}, 3 + 5 + 1 + N + 2, 0),
        ({"language": "auto"}, 3 + 4 + 1 + N + 2, 0),
        ({"language": "auto", "speaker": "eric"}, 3 + 5 + 1 + N + 2, 0),
        ({"language": "chinese", "speaker": "dylan"}, 3 + 5 + 1 + N + 2, 0),
        ({"layout": "streaming_text"}, 3 + 5 + 1 + 1, N),
        ({"layout": "streaming_text", "language": "auto"}, 3 + 4 + 1 + 1, N),
    ],
)
def test_a_prompt_has_its_rows(model, options, rows, text_rows):
    prompt = build(model, **options)
    assert prompt.rows.shape == (rows, model.config.width)
    assert len(prompt.text_rows) == text_rows


def test_an_instruction_comes_first(model):
    ids = model.tokenizer.encode_instruct("sad")
    plain, told = build(model), build(model, instruct_ids=ids)
    assert torch.equal(told.rows[len(ids) :], plain.rows)
    assert torch.equal(told.rows[: len(ids)], model.prompts.text_rows(ids))


def test_the_small_model_drops_an_instruction(small_model):
    ids = small_model.tokenizer.encode_instruct("sad")
    assert torch.equal(build(small_model, instruct_ids=ids).rows, build(small_model).rows)


def test_a_dialect_speaker_speaks_it_under_chinese_and_auto_only(model):
    def tags(language):
        return build(model, speaker="dylan", language=language).rows[3:8]

    assert torch.equal(tags("auto"), tags("chinese"))
    vivian = build(model, speaker="vivian", language="chinese").rows[3:8]
    assert not torch.equal(tags("chinese")[2], vivian[2])
    english = build(model, speaker="vivian", language="english").rows[3:8]
    assert torch.equal(tags("english")[2], english[2])


def test_names_may_be_written_in_any_case(model):
    assert torch.equal(build(model, speaker="VIVIAN", language="English").rows, build(model).rows)


def test_constant_rows_are_made_once_per_speaker_and_language(model):
    first, second = build(model, text="a"), build(model, text="b")
    before = dict(model.prompts._constants)
    build(model, text="c")
    assert model.prompts._constants.keys() == before.keys()
    assert torch.equal(first.rows[:9], second.rows[:9])


def test_text_being_written_has_the_rows_of_the_whole_text(model):
    """First token in the prompt, the others and the end in the text rows."""
    ids = model.tokenizer.encode("hello the world")[3:-5]
    prompt = build(model, layout="streaming_text")
    expected = torch.cat((model.prompts.text_rows(ids[1:]), model.prompts.end_row))
    torch.testing.assert_close(prompt.text_rows, expected)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"speaker": "nobody"}, "speaker"),
        ({"speaker": ""}, "speaker"),
        ({"language": "klingon"}, "language"),
        ({"language": "beijing_dialect"}, "language"),
        ({"text": "", "layout": "streaming_text"}, "text"),
    ],
)
def test_what_cannot_be_is_refused_by_name(model, options, param):
    with pytest.raises(InvalidRequest) as caught:
        build(model, **options)
    assert caught.value.param == param


@pytest.mark.parametrize("token", [-1, 512])
def test_tokens_outside_the_vocabulary_are_refused(model, token):
    ids = model.tokenizer.wrap([token])
    with pytest.raises(InvalidRequest, match=r"0\.\.511") as caught:
        model.prompts.build(ids, speaker="vivian")
    assert caught.value.param == "tokens"


def test_no_text_is_a_prompt_of_its_own_in_the_full_layout(model):
    assert len(build(model, text="").rows) == 3 + 5 + 1 + 0 + 2
