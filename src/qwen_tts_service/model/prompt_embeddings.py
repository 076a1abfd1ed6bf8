"""Prompt embeddings: token ids to the input rows of the talker.

Each row is a text-side vector T(id) = fc2(silu(fc1(text_embedding[id]))) plus a codec-side vector
C(id) = codec_embedding[id], in the order of the Qwen3-TTS reference implementation, qwen-tts 0.1.1:
instruction, role, tags (think, language, speaker), begin of text, then either the whole text and
its end ("full_text", the reference's default) or only its first token ("streaming_text", the rest
comes with the frames). The text embedding stays on the host, where the checkpoint is mapped.

Letters: P prompt rows, R text rows, N text tokens, M tag rows, C width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.kernels.device import upload
from qwen_tts_service.types import Layout

from .config import ModelConfig
from .tokenizer import ROLE_TOKENS, SUFFIX_TOKENS
from .weights import Weights, read_linear


@dataclass(frozen=True, slots=True)
class PromptEmbeddings:
    """What the talker reads before and while it speaks.

    rows:        [P, C]; the last row is the first frame's input
    text_rows:   [R, C]; added to the inputs after frames 0, 1, ...; tts_pad is added after the last
    prefix_rows: so many of the first rows do not depend on the text, but on `prefix` alone
    """

    rows: Tensor
    text_rows: Tensor
    prefix_rows: int
    prefix: tuple[int, ...]


class PromptEmbedder(nn.Module):
    """Builds prompts; remembers the rows that depend on speaker and language alone."""

    def __init__(self, config: ModelConfig, weights: Weights, codec_embedding: Tensor) -> None:
        super().__init__()
        text_width, name = config.text_width, "talker.text_projection"
        self.config = config
        self._codec_embedding = codec_embedding
        self._text_embedding = weights.take_raw(
            "talker.model.text_embedding.weight", config.text_vocabulary, text_width
        )
        # Once per utterance is not worth the rounding of int8.
        arithmetic = "half" if weights.arithmetic == "int8" else weights.arithmetic

        def projection(part: str, rows: int) -> nn.Module:
            parts = [(f"{name}.linear_{part}", rows)]
            return read_linear(weights, parts, text_width, bias=True, arithmetic=arithmetic)

        self.fc1, self.fc2 = projection("fc1", text_width), projection("fc2", config.width)
        self._constants: dict[tuple[int, ...], Tensor] = {}
        special = (config.tts_pad_text_id, config.tts_bos_text_id, config.tts_eos_text_id)
        rows = self.text_rows(special)
        self.pad_row, self._begin_row, self.end_row = rows[:1], rows[1:2], rows[2:]

    def text_rows(self, ids: Sequence[int], *, one_by_one: bool = False) -> Tensor:
        """Return T(ids) [N, C]; raises InvalidRequest for ids outside the vocabulary.

        one_by_one: no row's last bits depend on which others are asked for with it
        """
        count = self._text_embedding.shape[0]
        if any(not 0 <= token < count for token in ids):
            raise InvalidRequest(f"token ids must be in 0..{count - 1}", param="tokens")
        rows = self._text_embedding[torch.tensor(ids, dtype=torch.int64)]
        like = self._codec_embedding
        rows = upload(rows, like.device).to(like.dtype)
        parts = rows.tensor_split(max(1, len(rows))) if one_by_one else (rows,)
        return torch.cat([self.fc2(silu(self.fc1(part))) for part in parts])

    def build(
        self,
        ids: Sequence[int],
        *,
        speaker: str,
        language: str = "auto",
        instruct_ids: Sequence[int] = (),
        layout: Layout = "full_text",
        is_open: bool = False,
    ) -> PromptEmbeddings:
        """Lay out a prompt; raises InvalidRequest that names the field.

        ids: a whole utterance, three ids before the text and five after it; instruct_ids: a
        whole instruction, dropped when the checkpoint does not follow instructions; is_open: the
        text goes on, so "streaming_text" does not end it
        """
        config = self.config
        text_ids = ids[ROLE_TOKENS:-SUFFIX_TOKENS]
        instruct_ids = instruct_ids if config.follows_instruct else ()
        tags = self._tags(speaker, language)
        constant = self._constant_rows(ids[:ROLE_TOKENS], tags)
        start = torch.cat((self.text_rows(instruct_ids), constant))
        prefix = (*instruct_ids, *ids[:ROLE_TOKENS], *tags)
        bos = self._codec_embedding[config.bos_id]
        text = self.text_rows(text_ids)
        if layout == "streaming_text":
            if not len(text_ids):
                raise InvalidRequest("there is no text to start with", param="text")
            rows = torch.cat((start, text[:1] + bos))
            rest = text[1:] if is_open else torch.cat((text[1:], self.end_row))
            return PromptEmbeddings(rows, rest, len(start), prefix)
        pad = self._codec_embedding[config.pad_id]
        body = torch.cat((text, self.end_row)) + pad
        rows = torch.cat((start, body, self.pad_row + bos))
        return PromptEmbeddings(rows, self.pad_row[:0], len(start), prefix)

    def prepare(self, role_ids: Sequence[int]) -> None:
        """Make the rows that all utterances of a voice and a language share, before the first."""
        for speaker in self.config.speakers:
            for language in ("auto", *self.config.languages):
                self._constant_rows(role_ids, self._tags(speaker, language))

    def _constant_rows(self, role_ids: Sequence[int], tags: tuple[int, ...]) -> Tensor:
        """Role, tags and begin of text: [3 + M + 1, C]."""
        key = (*role_ids, *tags)
        if key not in self._constants:
            codec = self._codec_embedding[[*tags, self.config.pad_id]]
            text = torch.cat((self.pad_row.expand(len(tags), -1), self._begin_row))
            self._constants[key] = torch.cat((self.text_rows(role_ids), text + codec))
        return self._constants[key]

    def _tags(self, speaker: str, language: str) -> tuple[int, ...]:
        """Return the codec ids of thinking, language and speaker, in the order of the prompt."""
        config = self.config
        voice = speaker.lower()
        if voice not in config.speaker_ids:
            raise InvalidRequest(
                f"unknown speaker; known: {', '.join(config.speakers)}", param="speaker"
            )
        language_id = self._language_id(voice, language.lower())
        think = (
            (config.nothink_id, config.think_bos_id)
            if language_id is None
            else (config.think_id, config.think_bos_id, language_id)
        )
        return (*think, config.think_eos_id, config.speaker_ids[voice])

    def _language_id(self, voice: str, language: str) -> int | None:
        config = self.config
        if language not in {"auto", *config.languages}:
            allowed = ", ".join(("auto", *config.languages))
            raise InvalidRequest(f"unknown language; known: {allowed}", param="language")
        # A dialect speaker speaks the dialect under Chinese and auto, never otherwise.
        if language in {"chinese", "auto"} and voice in config.speaker_dialects:
            return config.language_ids[config.speaker_dialects[voice]]
        return None if language == "auto" else config.language_ids[language]
