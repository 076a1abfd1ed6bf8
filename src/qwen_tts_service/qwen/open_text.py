"""Speak a text that is still being written: its token ids, and the utterance they feed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.engine.job import Job, TextFeed
from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.model.tokenizer import Tokenizer
from qwen_tts_service.text.stress import drop_stress
from qwen_tts_service.types import FinishReason, Samples, VoiceChoice

from .limits import QwenOptions, runaway_frames


class OpenTokenizer:
    """Tokenize a text that is still being written; gives out ids as soon as they are certain.

    All ids together are those of the whole text without the space around it, whatever the pieces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held = ""
        self._has_begun = False

    def feed(self, text: str) -> list[int]:
        """Take the next piece of text; return the ids that are now certain, often none."""
        held = self._tokenizer.normal(self._held + text)
        self._held = held if self._has_begun else held.lstrip()
        return self._give(self._tokenizer.settled_chars(self._held))

    def finish(self) -> list[int]:
        """Return the ids of what is left."""
        return self._give(len(self._held.rstrip()))

    def _give(self, chars: int) -> list[int]:
        ready, self._held = self._held[:chars], self._held[chars:]
        self._has_begun = self._has_begun or bool(ready)
        return self._tokenizer.plain_ids(ready) if ready else []


class QwenOpenUtterance:
    """An `OpenUtterance`: submits its job once it is read and has its first token."""

    def __init__(
        self,
        submit: Callable[[Job], PcmChannel],
        tokenizer: Tokenizer,
        job: Job,
        choice: VoiceChoice,
        options: QwenOptions,
    ) -> None:
        self.choice = choice
        self._submit = submit
        self._tokenizer = tokenizer
        self._job = job
        self._options = options
        self._text = OpenTokenizer(tokenizer)
        self._feed = TextFeed()
        self._last_char = ""
        self._tokens = 0
        self._has_news = asyncio.Event()
        self._is_read = False
        self._channel: PcmChannel | None = None
        self._end: FinishReason | None = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._end or (self._channel.finish_reason if self._channel else None)

    @property
    def waits_for_text(self) -> bool:
        """Whether it is read, and all the text so far has been spoken."""
        return self._is_read and (self._channel is None or self._feed.is_awaited)

    def feed(self, text: str) -> None:
        """Add text; raises InvalidRequest when it has too many tokens."""
        self._take(self._text.feed(text if self._options.keeps_stress else self._drop_stress(text)))

    def _drop_stress(self, text: str) -> str:
        """Take marks off; one may come in the piece behind its vowel's."""
        bare = drop_stress(self._last_char + text)[len(self._last_char) :]
        self._last_char = text[-1:] or self._last_char
        return bare

    def finish(self) -> None:
        """Say that the text is complete."""
        self._take(self._text.finish())
        self._feed.finish(
            min(
                runaway_frames(self._tokens, self._options.runaway_factor), self._job.runaway_frames
            )
        )
        self._has_news.set()

    def _take(self, ids: list[int]) -> None:
        if not ids:
            return
        if self._tokens == 0:
            first = tuple(self._tokenizer.wrap(ids[:1]))
            self._job = replace(self._job, ids=first, feed=self._feed)
        self._feed.put(ids[1:] if self._tokens == 0 else ids)
        self._tokens += len(ids)
        if self._tokens > self._options.max_text_tokens:
            raise InvalidRequest(
                f"text has more than {self._options.max_text_tokens} tokens without the end of a "
                "sentence; send shorter sentences",
                param="text",
            )
        self._has_news.set()

    async def __aiter__(self) -> AsyncIterator[Samples]:
        self._is_read = True
        await self._has_news.wait()
        if self._end is None and not self._tokens:
            self._end = "stop"
        if self._end is not None:
            return
        self._channel = self._submit(self._job)
        async for samples in self._channel:
            yield samples

    async def aclose(self) -> None:
        """Stop speaking; harmless when repeated."""
        if self._channel is not None:
            await self._channel.aclose()
        elif self._end is None:
            self._end = "cancelled"
        self._has_news.set()
