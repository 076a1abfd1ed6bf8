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
    plain, instructed = build(model), build(model, instruct_ids=ids)
    assert torch.equal(instructed.rows[len(ids) :], plain.rows)
    assert torch.equal(instructed.rows[: len(ids)], model.prompts.text_rows(ids))


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


@pytest.mark.parametrize("layout", ["full_text", "streaming_text"])
@pytest.mark.parametrize("instruct", ["", "sad"])
def test_the_prefix_is_what_comes_before_the_text(model, layout, instruct):
    config = model.config
    instruct_ids = model.tokenizer.encode_instruct(instruct)
    prompt = build(model, layout=layout, instruct_ids=instruct_ids)
    tags = (config.think_id, config.think_bos_id, config.language_ids["english"])
    tags += (config.think_eos_id, config.speaker_ids["vivian"])
    role = model.tokenizer.encode("x")[:3]
    assert prompt.prefix == (*instruct_ids, *role, *tags)
    assert prompt.prefix_rows == len(instruct_ids) + 3 + 5 + 1
    other = build(model, text="b", layout=layout, instruct_ids=instruct_ids)
    assert torch.equal(prompt.rows[: prompt.prefix_rows], other.rows[: prompt.prefix_rows])
    assert not torch.equal(prompt.rows[prompt.prefix_rows], other.rows[prompt.prefix_rows])


def test_each_row_is_its_text_and_its_code(model):
    config, prompts = model.config, model.prompts
    ids = model.tokenizer.encode("ab")
    special = (config.tts_pad_text_id, config.tts_bos_text_id, config.tts_eos_text_id)
    pad, begin, end = prompts.text_rows(special).split(1)
    code = model.talker.embedding
    a_b = prompts.text_rows(ids[3:-5])
    tags = [config.nothink_id, config.think_bos_id, config.think_eos_id]
    tags.append(config.speaker_ids["vivian"])
    constant = (prompts.text_rows(ids[:3]), pad + code[tags], begin + code[config.pad_id])
    whole = build(model, text="ab", language="auto")
    body = torch.cat((a_b, end)) + code[config.pad_id]
    expected = torch.cat((*constant, body, pad + code[config.bos_id]))
    torch.testing.assert_close(whole.rows, expected)
    begun = build(model, text="ab", language="auto", layout="streaming_text")
    expected = torch.cat((*constant, a_b[:1] + code[config.bos_id]))
    torch.testing.assert_close(begun.rows, expected)
    torch.testing.assert_close(begun.text_rows, torch.cat((a_b[1:], end)))


def test_a_text_that_goes_on_is_not_ended(model):
    ended = build(model, layout="streaming_text")
    open_ = build(model, layout="streaming_text", is_open=True)
    assert torch.equal(open_.rows, ended.rows)
    assert torch.equal(open_.text_rows, ended.text_rows[:-1])


def test_another_role_is_not_taken_from_what_is_remembered(model):
    ids = model.tokenizer.encode("a")
    for role in (ids[:3], [*ids[:2], ids[3]]):
        prompt = model.prompts.build([*role, *ids[3:]], speaker="vivian")
        torch.testing.assert_close(prompt.rows[:3], model.prompts.text_rows(role))


class Counting(torch.nn.Module):
    """A layer that notes how many rows it is given at once."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.rows = layer, []

    def forward(self, x):
        self.rows.append(len(x))
        return self.layer(x)


@pytest.mark.parametrize(
    ("ids", "one_by_one", "rows"), [([5, 6, 7], True, [1, 1, 1]), ([5, 6, 7], False, [3])]
)
def test_text_rows_are_made_together_or_one_by_one(model, monkeypatch, ids, one_by_one, rows):
    counting = Counting(model.prompts.fc1)
    monkeypatch.setitem(model.prompts._modules, "fc1", counting)
    made = model.prompts.text_rows(ids, one_by_one=one_by_one)
    assert counting.rows == rows
    monkeypatch.undo()
    torch.testing.assert_close(made, model.prompts.text_rows(ids))


@pytest.mark.parametrize("one_by_one", [True, False])
def test_no_ids_are_no_rows(model, one_by_one):
    rows = model.prompts.text_rows((), one_by_one=one_by_one)
    assert rows.shape == (0, model.config.width)


def test_names_may_be_written_in_any_case(model):
    assert torch.equal(build(model, speaker="VIVIAN", language="English").rows, build(model).rows)


def test_constant_rows_are_made_once_per_speaker_and_language(model):
    first, second = build(model, text="a"), build(model, text="b")
    before = model.prompts._constant_rows.cache_info()
    build(model, text="c")
    after = model.prompts._constant_rows.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
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
        ({"language": "beijing_dialect", "speaker": "dylan"}, "language"),
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


def test_a_text_that_goes_on_has_no_end_yet(model):
    closed = build(model, layout="streaming_text")
    open_ = build(model, layout="streaming_text", is_open=True)
    assert torch.equal(closed.rows, open_.rows)
    assert len(open_.text_rows) == len(closed.text_rows) - 1 == N - 1
    assert torch.equal(open_.text_rows, closed.text_rows[:-1])


def test_a_whole_text_has_its_end_even_if_marked_open(model):
    assert torch.equal(build(model, is_open=True).rows, build(model).rows)


def test_the_prefix_is_what_does_not_depend_on_the_text(model):
    ids = model.tokenizer.encode_instruct("sad")
    prompts = [
        build(model, text=text, layout=layout, instruct_ids=ids)
        for text in ("one", "another text")
        for layout in ("full_text", "streaming_text")
    ]
    assert {prompt.prefix_rows for prompt in prompts} == {len(ids) + 3 + 5 + 1}
    assert len({prompt.prefix for prompt in prompts}) == 1
    shared = [prompt.rows[: prompt.prefix_rows] for prompt in prompts]
    assert all(torch.equal(rows, shared[0]) for rows in shared)


@pytest.mark.parametrize("other", [{"speaker": "eric"}, {"language": "auto"}, {"instruct": "sad"}])
def test_another_prefix_has_another_key(model, other):
    ids = model.tokenizer.encode_instruct(other.pop("instruct", ""))
    assert build(model, instruct_ids=ids, **other).prefix != build(model).prefix


def test_an_instruction_that_is_dropped_is_not_in_the_key(small_model):
    ids = small_model.tokenizer.encode_instruct("sad")
    assert build(small_model, instruct_ids=ids).prefix == build(small_model).prefix


def test_another_role_has_rows_of_its_own(model):
    ids = model.tokenizer.encode("x")
    user = [ids[0], ids[1] - 1, *ids[2:]]
    first, second = (model.prompts.build(x, speaker="vivian") for x in (ids, user))
    assert not torch.equal(first.rows[1], second.rows[1])


def test_rows_asked_for_one_by_one_are_made_one_by_one(model):
    prompts, sizes = model.prompts, []
    hook = prompts.fc1.register_forward_hook(lambda layer, rows, out: sizes.append(len(rows[0])))
    try:
        together, apart = (
            prompts.text_rows([5, 6, 7]),
            prompts.text_rows([5, 6, 7], one_by_one=True),
        )
        none = prompts.text_rows([], one_by_one=True)
    finally:
        hook.remove()
    assert sizes == [3, 1, 1, 1, 0]
    torch.testing.assert_close(apart, together)
    assert none.shape == (0, model.config.width)


def test_the_first_and_the_last_token_may_be_spoken(model):
    assert len(model.prompts.text_rows([0, 511])) == 2


@pytest.mark.parametrize(
    ("wrong", "known"),
    [({"speaker": "nobody"}, "known: .*vivian"), ({"language": "x"}, "known: auto, .*english")],
)
def test_a_refusal_names_what_is_known(model, wrong, known):
    with pytest.raises(InvalidRequest, match=known):
        build(model, **wrong)
