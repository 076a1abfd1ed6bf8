"""Prompt embeddings: token ids to the input rows of the talker.

Each row is a text-side vector T(id) = fc2(silu(fc1(text_embedding[id]))) plus a codec-side vector
C(id) = codec_embedding[id], in the order of the Qwen3-TTS reference implementation, qwen-tts 0.1.1:
instruction, role, tags (think, language, speaker), begin of text, then either the whole text and
its end ("full_text") or only its first token ("streaming_text", the rest comes with the frames).
A cloned voice has its embedding in the speaker's row, and what is said in its recording before the
text; the recording's frames follow the whole text, or run beside the first of it. The text
embedding stays on the host, where the checkpoint is mapped.

Letters: P prompt rows, R text rows, N text tokens, M tag rows, T frames of a recording, C width.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.kernels.device import upload
from qwen_tts_service.types import KeptVoice, Layout

from .code_predictor import sum_embeddings
from .config import ModelConfig
from .tokenizer import REFERENCE_SUFFIX_TOKENS, ROLE_TOKENS, SUFFIX_TOKENS
from .weights import Weights, read_linear

_REMEMBERED = 256
"""Combinations of speaker and language whose rows are kept, and cloned voices."""


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
    prefix: tuple[Hashable, ...]


class PromptEmbedder(nn.Module):
    """Builds prompts; remembers the rows that depend on speaker, voice and language alone."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        codec_embedding: Tensor,
        embed_rest: Callable[[Tensor], Tensor],
    ) -> None:
        """Build; embed_rest: codes int64 [T, Q-1] of all codebooks but the first -> [T, Q-1, C]."""
        super().__init__()
        text_width, name = config.text_width, "talker.text_projection"
        self.config = config
        self._codec_embedding = codec_embedding
        self._embed_rest = embed_rest
        self._text_embedding = weights.take_raw(
            "talker.model.text_embedding.weight", config.text_vocabulary, text_width
        )
        # Once per utterance is not worth the rounding of int8.
        arithmetic = "half" if weights.arithmetic == "int8" else weights.arithmetic

        def projection(part: str, rows: int) -> nn.Module:
            parts = [(f"{name}.linear_{part}", rows)]
            return read_linear(weights, parts, text_width, bias=True, arithmetic=arithmetic)

        self.fc1, self.fc2 = projection("fc1", text_width), projection("fc2", config.width)
        self._constant_rows = lru_cache(_REMEMBERED)(self._make_constant_rows)
        self._recording_rows = lru_cache(_REMEMBERED)(self._make_recording_rows)
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
        speaker: str | None = None,
        voice: KeptVoice | None = None,
        reference_ids: Sequence[int] = (),
        language: str = "auto",
        instruct_ids: Sequence[int] = (),
        layout: Layout = "full_text",
        is_open: bool = False,
    ) -> PromptEmbeddings:
        """Lay out a prompt; raises InvalidRequest that names the field.

        ids: a whole utterance, three ids before the text and five after it; speaker: of a
        checkpoint that has some; voice: for one that clones; reference_ids: the transcript of the
        voice's recording, three ids before it and two after it; instruct_ids: a whole
        instruction, dropped when the checkpoint does not follow instructions; is_open: the text
        goes on, so "streaming_text" does not end it
        """
        instruct_ids = instruct_ids if self.config.follows_instruct else ()
        role_ids = tuple(ids[:ROLE_TOKENS])
        tags = self._tags(speaker, voice, language)
        constant = self._constant_rows(role_ids, tags, voice)
        start = torch.cat((self.text_rows(instruct_ids), constant))
        said, frames = start[:0], start[:0]
        if voice is not None and voice.codes:
            said, frames = self._recording_rows(tuple(reference_ids), voice)
        text = torch.cat((said, self.text_rows(ids[ROLE_TOKENS:-SUFFIX_TOKENS])))
        if layout == "streaming_text":
            body, rest = self._beside(text, frames, is_open=is_open)
            shared = min(len(said), len(frames))
        else:
            body, rest, shared = self._one_after_another(text, frames), text[:0], len(said)
        key: tuple[Hashable, ...] = (*instruct_ids, *role_ids, *tags)
        if voice is not None:
            key = (*key, voice, layout, *reference_ids)
        return PromptEmbeddings(torch.cat((start, body)), rest, len(start) + shared, key)

    def prepare(self, role_ids: Sequence[int]) -> None:
        """Make the rows that all utterances of a speaker and a language share, before the first."""
        is_designed = self.config.kind == "voice_design"
        for speaker in (None,) if is_designed else self.config.speakers:
            for language in ("auto", *self.config.languages):
                self._constant_rows(tuple(role_ids), self._tags(speaker, None, language), None)

    def _one_after_another(self, text: Tensor, frames: Tensor) -> Tensor:
        """The text [N, C] and its end, begin of speech, and the frames [T, C] of a recording."""
        codec = self._codec_embedding
        body = torch.cat((text, self.end_row)) + codec[self.config.pad_id]
        return torch.cat((body, self.pad_row + codec[self.config.bos_id], self.pad_row + frames))

    def _beside(self, text: Tensor, frames: Tensor, *, is_open: bool) -> tuple[Tensor, Tensor]:
        """Begin of speech and frames [T, C] with the first text at their side; the rest of it."""
        if not len(text):
            raise InvalidRequest("there is no text to start with", param="text")
        codec = torch.cat((self._codec_embedding[self.config.bos_id, None], frames))
        text = text if is_open else torch.cat((text, self.end_row))
        padding = self.pad_row.expand(max(0, len(codec) - len(text)), -1)
        return torch.cat((text[: len(codec)], padding)) + codec, text[len(codec) :]

    def _make_constant_rows(
        self, role_ids: tuple[int, ...], tags: tuple[int, ...], voice: KeptVoice | None
    ) -> Tensor:
        """Role, tags, a cloned voice and begin of text: [3 + M + 1, C]."""
        codec, like = self._codec_embedding[[*tags, self.config.pad_id]], self._codec_embedding
        if voice is not None:
            embedding = torch.tensor([voice.embedding], device=like.device).to(like.dtype)
            codec = torch.cat((codec[:-1], embedding, codec[-1:]))
        text = torch.cat((self.pad_row.expand(len(codec) - 1, -1), self._begin_row))
        return torch.cat((self.text_rows(role_ids), text + codec))

    def _make_recording_rows(
        self, reference_ids: tuple[int, ...], voice: KeptVoice
    ) -> tuple[Tensor, Tensor]:
        """What is said in the recording [n, C], without the codec's side, and its frames [T, C]."""
        codes = torch.tensor(voice.codes, device=self._codec_embedding.device)
        first, rest = self._codec_embedding[codes[:, :1]], self._embed_rest(codes[:, 1:])
        said = self.text_rows(reference_ids[ROLE_TOKENS:-REFERENCE_SUFFIX_TOKENS])
        return said, sum_embeddings(torch.cat((first, rest), dim=1))

    def _tags(self, speaker: str | None, voice: KeptVoice | None, language: str) -> tuple[int, ...]:
        """Return the codec ids of thinking, language and speaker, in the order of the prompt."""
        config = self.config
        name = speaker.lower() if speaker is not None else ""
        if config.kind == "custom_voice" and name not in config.speaker_ids:
            raise InvalidRequest(
                f"unknown speaker; known: {', '.join(config.speakers)}", param="speaker"
            )
        if (config.kind == "base") != (voice is not None):
            needs = "needs a cloned voice" if voice is None else "cannot speak with a cloned voice"
            raise InvalidRequest(f"this model {needs}", param="speaker")
        language_id = self._language_id(name, language.lower())
        think = (
            (config.nothink_id, config.think_bos_id)
            if language_id is None
            else (config.think_id, config.think_bos_id, language_id)
        )
        row = (config.speaker_ids[name],) if config.kind == "custom_voice" else ()
        return (*think, config.think_eos_id, *row)

    def _language_id(self, voice: str, language: str) -> int | None:
        config = self.config
        if language not in {"auto", *config.languages}:
            allowed = ", ".join(("auto", *config.languages))
            raise InvalidRequest(f"unknown language; known: {allowed}", param="language")
        # A dialect speaker speaks the dialect under Chinese and auto, never otherwise.
        if language in {"chinese", "auto"} and voice in config.speaker_dialects:
            return config.language_ids[config.speaker_dialects[voice]]
        return None if language == "auto" else config.language_ids[language]
