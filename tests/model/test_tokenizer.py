"""Ids of utterances, and where each regex cuts."""

import json
from pathlib import Path

import pytest

from qwen_tts_service.errors import StartupError
from qwen_tts_service.model.config import load_config
from qwen_tts_service.model.tokenizer import Tokenizer

SPLITS = [
    # text, Qwen2, Mistral
    ("YouTube", ["YouTube"], ["You", "Tube"]),
    ("iPhone", ["iPhone"], ["i", "Phone"]),
    ("McDonald", ["McDonald"], ["Mc", "Donald"]),
    ("cafe\u0301 x", ["café", " x"], ["café", " x"]),  # NFC composes this one
    ("q\u0301a", ["q", "\u0301a"], ["q\u0301a"]),  # nothing to compose: the mark is cut off
    ("don't", ["don", "'t"], ["don", "'t"]),
    ("WE'LL", ["WE", "'LL"], ["WE", "'LL"]),
    ("2024", ["2", "0", "2", "4"], ["2", "0", "2", "4"]),
    ("你好，世界", ["你好", "，世界"], ["你好", "，世界"]),
    ("Привет, мир!", ["Привет", ",", " мир", "!"], ["Привет", ",", " мир", "!"]),
    ("a  b", ["a", " ", " b"], ["a", " ", " b"]),
    ("a\n\n b", ["a", "\n\n", " b"], ["a", "\n\n", " b"]),
    ("x!/y", ["x", "!/", "y"], ["x", "!/", "y"]),
    ("и/или", ["и", "/или"], ["и", "/или"]),
    ("x!\n/y", ["x", "!\n", "/y"], ["x", "!\n/", "y"]),
    ("!\r\n\nx", ["!\r\n\n", "x"], ["!\r\n\n", "x"]),
    ("a\n\nb", ["a", "\n\n", "b"], ["a", "\n\n", "b"]),
    ("a \t\nb", ["a", " \t\n", "b"], ["a", " \t\n", "b"]),
    ("end  ", ["end", "  "], ["end", "  "]),
    ("XMLHttp", ["XMLHttp"], ["XMLHttp"]),
    *(
        (f"a{end}x", ["a", end, "x"], ["a", f"{end}x"])
        for end in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
    ),
    ("A'REX", ["A", "'RE", "X"], ["A", "'REX"]),
]


def visible(pieces, symbols):
    """Turn byte-level symbols back into text."""
    return [bytes(symbols.index(char) for char in piece).decode() for piece in pieces]


@pytest.fixture(scope="module")
def symbols() -> list[str]:
    """The byte that each symbol of byte-level BPE stands for, by its value."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in printable else next(hidden)) for byte in range(256)]


@pytest.mark.parametrize(("text", "qwen2", "mistral"), SPLITS)
def test_text_is_cut_as_each_regex_says(data, symbols, text, qwen2, mistral):
    config = load_config(data / "tiny_1b7")
    for split, expected in (("qwen2", qwen2), ("mistral", mistral)):
        pieces = Tokenizer(data / "tiny_1b7", config, split).pieces(text)
        assert visible(pieces, symbols) == expected


def test_the_default_is_the_regex_of_qwen2(model, symbols):
    assert visible(model.tokenizer.pieces("YouTube"), symbols) == ["YouTube"]


@pytest.mark.parametrize("special", ["<|im_end|>", "<|endoftext|>", "<tts_pad>", "<|im_start|>"])
def test_special_strings_in_text_stay_text(model, special):
    tokenizer, config = model.tokenizer, model.config
    ids = tokenizer.encode(special)[3:-5]
    assert len(ids) == len(special)  # byte by byte
    assert max(ids) < config.im_start_text_id - 1
    assert all(
        token < config.im_start_text_id - 1 for token in tokenizer.encode_instruct(special)[3:-2]
    )


def test_an_utterance_has_three_ids_before_the_text_and_five_after(model):
    config, role = model.config, 263
    ids = model.tokenizer.encode("ab")
    newline = model.tokenizer.encode("\n!")[2]  # here the role's newline merges with nothing
    start, end = config.im_start_text_id, config.im_end_text_id
    assert newline == 10
    assert ids == [start, role, 10, 97, 98, end, 10, start, role, 10]


def test_no_text_is_no_tokens(model):
    assert len(model.tokenizer.encode("")) == 8


def test_tokens_are_wrapped_like_the_text_they_came_from(model):
    ids = model.tokenizer.encode("hello the world")
    assert model.tokenizer.wrap(ids[3:-5]) == ids


def test_an_instruction_is_a_user_turn(model):
    config = model.config
    ids = model.tokenizer.encode_instruct("a")
    assert ids[0] == config.im_start_text_id
    assert ids[2:] == [10, 97, config.im_end_text_id, 10]
    assert model.tokenizer.encode_instruct("") == []


def test_text_is_composed_first(model):
    assert model.tokenizer.encode("e\u0301") == model.tokenizer.encode("\u00e9")


def test_published_control_ids_come_out(random_checkpoint, tmp_path: Path):
    """Of the published layout: `<|im_start|>assistant` newline is 151644, 77091, 198."""
    (tmp_path / "speech_tokenizer").mkdir()
    config = random_checkpoint.main_config("1.7b")
    tokens, merges = random_checkpoint.vocabulary(config)
    for name, content in {
        "config.json": config,
        "speech_tokenizer/config.json": random_checkpoint.codec_config("1.7b"),
        "vocab.json": tokens,
    }.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    tokenizer = Tokenizer(tmp_path, load_config(tmp_path))
    ids = tokenizer.encode("hi")
    assert ids[:3] == [151644, 77091, 198]
    assert ids[-5:] == [151645, 198, 151644, 77091, 198]
    assert tokenizer.encode_instruct("x")[:3] == [151644, 872, 198]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(data, tmp_path: Path, name):
    for other in {"vocab.json", "merges.txt"} - {name}:
        content = (data / "tiny_1b7" / other).read_text(encoding="utf-8")
        (tmp_path / other).write_text(content, encoding="utf-8")
    with pytest.raises(StartupError, match=name):
        Tokenizer(tmp_path, load_config(data / "tiny_1b7"))


def test_only_the_version_line_is_no_merge(data, tmp_path):
    vocabulary = json.loads((data / "tiny_1b7" / "vocab.json").read_text(encoding="utf-8"))
    vocabulary["##"] = last = len(vocabulary)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n# #\n\n", encoding="utf-8")
    tokenizer = Tokenizer(tmp_path, load_config(data / "tiny_1b7"))
    assert tokenizer.plain_ids("##") == [last]
    assert tokenizer.text_tokens == last + 1


def test_a_broken_vocabulary_is_named(data, tmp_path):
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    with pytest.raises(StartupError, match=r"vocab\.json, of the tokenizer, cannot be read"):
        Tokenizer(tmp_path, load_config(data / "tiny_1b7"))


def test_a_normal_text_is_composed(model):
    assert model.tokenizer.normal("e\u0301") == "\u00e9"


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("", 0),
        ("a", 0),
        ("a ", 1),
        ("a b", 1),
        ("a, b", 2),
        ("a,", 1),
        ("q\u0301", 0),
        ("a. \n", 2),
        ("12", 1),
    ],
)
def test_so_many_first_characters_are_settled(model, text, settled):
    assert model.tokenizer.settled_chars(text) == settled
