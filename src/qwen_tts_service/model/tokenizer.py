"""Tokenizer: text to token ids and back, by the Qwen2 byte-level BPE.

The Qwen2 byte-level BPE of the transformers library, built from vocab.json and merges.txt. Text
written by users is always plain text: `<|im_end|>` in it becomes the ids of its characters, never
the control token.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, pre_tokenizers
from transformers import Qwen2Tokenizer

from qwen_tts_service.errors import StartupError

from .config import ModelConfig, read_json, read_text

Split = Literal["qwen2", "mistral"]
"""How text is cut before BPE. The checkpoint was trained with "qwen2". The official package, when
it loads from a local directory under transformers 4.57.3, replaces it by "mistral"."""

SPLIT_REGEX: dict[Split, str] = {
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "mistral": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""Qwen2's and Mistral's published pre-tokeniser patterns."""

ROLE_TOKENS = 3
"""Ids before the text in an utterance: `<|im_start|>`, "assistant", newline."""
SUFFIX_TOKENS = 5
"""Ids after it: `<|im_end|>`, newline, and the three of the prefix again."""


REFERENCE_SUFFIX_TOKENS = 2
"""Ids after the text of a recording: `<|im_end|>` and newline."""


_PROBE = "assistant user\nHello."


class Tokenizer:
    """Turns an utterance or an instruction into ids; raises StartupError if its files are bad."""

    def __init__(self, directory: Path, config: ModelConfig, split: Split = "qwen2") -> None:
        vocabulary, merges = _read_vocabulary(directory)
        # The annotations of transformers allow texts only, its BPE wants the pairs.
        try:
            qwen2 = Qwen2Tokenizer(vocab=vocabulary, merges=merges)  # type: ignore[arg-type]
        except Exception as error:  # the library raises bare ones
            raise _unreadable(directory, f"its merges do not fit: {error}") from error
        self._backend: Any = qwen2.backend_tokenizer
        self._backend.encode_special_tokens = True  # special strings are text like any other
        self._split: Any = pre_tokenizers.Split(Regex(SPLIT_REGEX[split]), behavior="isolated")
        self._backend.pre_tokenizer = pre_tokenizers.Sequence(
            [self._split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        self.text_tokens = len(vocabulary)
        """Ids below this are text; control tokens follow."""
        self._im_start = config.im_start_text_id
        self._im_end = config.im_end_text_id
        if self.text_tokens > config.text_vocabulary:
            said = f"{self.text_tokens} tokens, but text_vocab_size {config.text_vocabulary}"
            raise _unreadable(directory, f"it has {said}")
        if self.decode(self.plain_ids(_PROBE)) != _PROBE:
            raise _unreadable(directory, "it has no token for every byte")

    def encode(self, text: str) -> list[int]:
        """Return the ids of an utterance as the model was trained on it.

        It is `<|im_start|>assistant`, newline, the text, `<|im_end|>`, newline,
        `<|im_start|>assistant`, newline.
        """
        # Role and text are one piece to BPE, as in the official package: a text that starts
        # with a newline merges with the role's.
        return self._close(self.plain_ids(f"assistant\n{text}"))

    def wrap(self, tokens: Sequence[int]) -> list[int]:
        """Return the ids of an utterance whose text is already tokens."""
        return self._close([*self.plain_ids("assistant\n"), *tokens])

    def _close(self, body: list[int]) -> list[int]:
        newline, role = self.plain_ids("\n"), self.plain_ids("assistant\n")
        return [self._im_start, *body, self._im_end, *newline, self._im_start, *role]

    def encode_instruct(self, instruct: str) -> list[int]:
        """Return the ids of an instruction; none for an empty one.

        It is `<|im_start|>user`, newline, the instruction, `<|im_end|>`, newline.
        """
        return self._turn("user", instruct) if instruct else []

    def encode_reference(self, transcript: str) -> list[int]:
        """Return the ids of what is said in a recording, as an instruction of the assistant's."""
        return self._turn("assistant", transcript)

    def _turn(self, role: str, text: str) -> list[int]:
        body = self.plain_ids(f"{role}\n{text}")
        return [self._im_start, *body, self._im_end, *self.plain_ids("\n")]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids that are all text."""
        text: str = self._backend.decode(list(tokens))
        return text

    def pieces(self, text: str) -> list[str]:
        """Return the text cut as BPE sees it, each piece in byte-level symbols."""
        normal = self._backend.normalizer.normalize_str(text)
        return [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(normal)]

    def settled_chars(self, text: str) -> int:
        """Return how many first characters of a normal text have ids that no more text changes.

        BPE never joins two pieces, and more text can change a piece only where it touches the
        text's end, or the space there, of which a line end takes all.
        """
        spoken = len(text.rstrip())
        if spoken == len(text):
            # Marks may yet come and be composed with the last letter.
            spoken = max(
                (at for at, c in enumerate(text) if not unicodedata.combining(c)), default=0
            )
        pieces = self._split.pre_tokenize_str(text)
        return max((end for _, (_, end) in pieces if end <= spoken), default=0)

    def normal(self, text: str) -> str:
        """Return the text as BPE gets it: composed."""
        normal: str = self._backend.normalizer.normalize_str(text)
        return normal

    def plain_ids(self, text: str) -> list[int]:
        """Return the ids of a text alone, without the frame of an utterance."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _unreadable(directory: Path, reason: str) -> StartupError:
    return StartupError(f"the tokenizer in {directory} cannot be used: {reason}")


def _read_vocabulary(directory: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    file = directory / "vocab.json"
    try:
        vocabulary = read_json(file)
        file = directory / "merges.txt"
        lines = read_text(file).split("\n")
    except (OSError, ValueError) as error:
        raise StartupError(f"{file}, of the tokenizer, cannot be read: {error}") from error
    is_table = isinstance(vocabulary, dict) and all(type(i) is int for i in vocabulary.values())
    if not is_table or sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise _unreadable(directory, "vocab.json must be an object of ids from 0 on, without gaps")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise _unreadable(directory, f"merges.txt must have pairs, not {' '.join(wrong)[:40]!r}")
    return vocabulary, [(pair[0], pair[1]) for pair in pairs]
