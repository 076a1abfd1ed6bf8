"""The command `read`: a book read aloud into a folder."""

import argparse
import asyncio
import hashlib
import secrets
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from qwen_tts_service.audio.formats import check_format, rate_of
from qwen_tts_service.audio.label import LABELLED, label_of
from qwen_tts_service.books.book import Book, language_of
from qwen_tts_service.books.folder import MANIFEST, BookFolder, KeptPart
from qwen_tts_service.books.narrator import (
    Narration,
    NarrationOptions,
    Narrator,
    PartSynthesizer,
    SubtitleWriter,
    seed_before,
)
from qwen_tts_service.books.parts import PartPauses
from qwen_tts_service.books.read import read_book
from qwen_tts_service.fields import SpeechBody
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.cloning import CloningOrder
from qwen_tts_service.speech.subtitles import subtitles
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import MAX_SEED, KeptVoice

from .arguments import CommandError, named_format, order_of, settings_of, speech_body
from .codes import CUT, DONE
from .loading import load, notes_on
from .progress import BookProgressBar, SpeechProgressBar

_HEARD = {"russian_stress", "stress_marks", "pause_sentence_ms", "pause_paragraph_ms"}
_HEARD |= {"loudness_lufs"}
"""Settings that change how a text is spoken."""
MOST_NOTES = 3
"""Warnings of parts that are shown; the manifest has all."""


def read(arguments: argparse.Namespace) -> int:
    """Read a book into a folder; what is there from an earlier run is kept."""
    if arguments.url and (arguments.model or arguments.model_path or arguments.device):
        raise CommandError("--model, --model-path and --device are the server's where --url is")
    settings = settings_of(arguments)
    timestamps = "sentence" if arguments.subtitles else None
    fields = {"format": named_format(arguments.format), "timestamps": timestamps}
    body = speech_body(arguments, fields)
    order = order_of(arguments, settings)
    book = read_book(arguments.book)
    folder = BookFolder(arguments.out)
    with folder.locked():
        body = _decided(body, book, folder, settings)
        run = _BookRun(arguments, settings, body, order=order, book=book, folder=folder)
        try:
            result = asyncio.run(run.by_url()) if arguments.url else run.here()
        except KeyboardInterrupt:
            run.note("stopped; the same command goes on from here")
            raise
    run.report(result)
    return CUT if result.cut else DONE


def _decided(body: SpeechBody, book: Book, folder: BookFolder, settings: Settings) -> SpeechBody:
    """Decide what must be the same for all parts: the seed and the language."""
    seed = seed_before(folder) if body.seed is None else body.seed
    if seed is None:
        seed = secrets.randbelow(MAX_SEED + 1)
    language = language_of(book, body.language, settings.default_language)
    return body.model_copy(update={"seed": seed, "language": language})


class LocalSynthesizer:
    """Speaks parts in this process; the engine batches them."""

    def __init__(
        self,
        synthesizer: Synthesizer,
        body: SpeechBody,
        settings: Settings,
        voice: KeptVoice | None,
    ) -> None:
        self._synthesizer = synthesizer
        self._body = body
        self._settings = settings
        self._voice = voice

    async def speak(self, text: str, seed: int) -> KeptPart:
        """Speak a part. Raises TTSError."""
        body = self._body.model_copy(update={"text": text, "seed": seed})
        request = body.to_request("read", self._settings)
        if self._voice is not None:
            request = replace(request, voice=self._voice, speaker=None)
        audio, speech = await self._synthesizer.speak_whole(request, "flac")
        return KeptPart(
            audio=audio,
            speaker="/".join(speech.info.speakers),
            seed=seed,
            is_cut=speech.finish_reason == "length",
            warning=speech.info.warning,
            timestamps=tuple(speech.timestamps),
        )


class _BookRun:
    """One run of the command."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        settings: Settings,
        body: SpeechBody,
        *,
        order: CloningOrder | None,
        book: Book,
        folder: BookFolder,
    ) -> None:
        self._arguments = arguments
        self._settings = settings
        self._body = body
        self._order = order
        self._book = book
        self._folder = folder

    def here(self) -> Narration:
        """Speak in this process, if there is anything left to speak."""
        settings = self._settings
        self._decide_rate(settings.sampling_rate)
        narrator = self._narrator(settings.model_name, self._local_options())
        if narrator.has_all:
            return asyncio.run(narrator.write())
        progress = SpeechProgressBar(is_quiet=self._arguments.quiet)
        with closing(load(settings, progress)) as synthesizer:
            local = LocalSynthesizer(synthesizer, self._body, settings, self._clone(synthesizer))
            slots = synthesizer.voice.slots or settings.max_concurrent_requests
            return asyncio.run(self._read(narrator, local, slots))

    def _decide_rate(self, server_rate_hz: int) -> None:
        """Decide the sample rate of the parts and of what is made of them.

        Raises InvalidRequest for one that a format does not carry.
        """
        rate_hz = rate_of(self._body.format, self._body.sample_rate, server_rate_hz)
        if self._arguments.m4b:
            check_format("aac", rate_hz)
        self._body = self._body.model_copy(update={"sample_rate": rate_hz})

    @property
    def _fields(self) -> dict[str, Any]:
        """The fields of a request that all parts have."""
        return self._body.model_dump(
            mode="json",
            exclude={"text", "seed", "format", "max_length"},
            exclude_unset=True,
            exclude_none=True,
        )

    def _clone(self, synthesizer: Synthesizer) -> KeptVoice | None:
        if self._order is None:
            return None
        clone = synthesizer.cloner.clone_now(self._order)
        self.note(*notes_on(clone))
        return clone.voice

    def _local_options(self) -> dict[str, Any]:
        """What of the settings decides how a text is spoken."""
        settings = self._settings
        options = {name: getattr(settings, name) for name in _HEARD & settings.model_fields_set}
        if settings.lexicon is not None and settings.lexicon.is_file():
            options["lexicon"] = hashlib.sha256(settings.lexicon.read_bytes()).hexdigest()
        return options

    async def by_url(self) -> Narration:
        """Have a server speak."""
        # Its HTTP client takes a while to import.
        from .remote import RemoteSynthesizer, health_of, open_client  # noqa: PLC0415 - see above

        async with open_client(self._arguments.url, self._settings) as client:
            state = await health_of(client)
            self._decide_rate(state["sampling_rate"])
            narrator = self._narrator(state["model"], {})
            remote = RemoteSynthesizer(client, self._fields, self._order)
            slots = self._arguments.parallel or state["slots"]["total"]
            return await self._read(narrator, remote, slots)

    def _narrator(self, model: str, options: dict[str, Any]) -> Narrator:
        assert self._body.seed is not None
        settings, format = self._settings, self._body.format
        recording = {} if self._order is None else {"recording": self._order.key.hex()}
        narrator = Narrator(
            self._book,
            self._folder,
            NarrationOptions(
                seed=self._body.seed,
                format=format,
                speech={"model": model, **self._fields, **options, **recording},
                pauses=PartPauses(
                    sentence_s=settings.pause_sentence_ms / 1000,
                    paragraph_s=settings.pause_paragraph_ms / 1000,
                ),
                comment=label_of(model) if format in LABELLED[settings.ai_label] else None,
                subtitles=self._subtitles(),
                has_m4b=self._arguments.m4b,
            ),
        )
        self.note(*filter(None, [narrator.change]))
        return narrator

    async def _read(
        self, narrator: Narrator, synthesizer: PartSynthesizer, slots: int
    ) -> Narration:
        with BookProgressBar(*narrator.chars, is_quiet=self._arguments.quiet) as bar:
            return await narrator.read(
                synthesizer, at_once=slots, on_spoken=lambda part: bar.add(len(part.text))
            )

    def _subtitles(self) -> SubtitleWriter | None:
        ending = self._arguments.subtitles
        return SubtitleWriter(ending, partial(subtitles, format=ending)) if ending else None

    def note(self, *lines: str) -> None:
        """Write to standard error, unless that is to be quiet."""
        if not self._arguments.quiet:
            sys.stderr.writelines(f"{line}\n" for line in lines)

    def report(self, result: Narration) -> None:
        """Say what was made. Raises CommandError if chapters are missing."""
        minutes, seconds = divmod(round(result.duration_s), 60)
        self.note(
            f"{self._arguments.out}: {result.chapters} chapters, {minutes}:{seconds:02} of speech, "
            f"{self._body.language}, seed {self._body.seed}; parts spoken: {result.spoken}, "
            f"already there: {result.kept}",
            *result.notes[:MOST_NOTES],
        )
        if len(result.notes) > MOST_NOTES:
            self.note(f"{len(result.notes)} warnings in all: {self._arguments.out / MANIFEST}")
        if result.cut:
            self.note(f"{result.cut} parts lack their end: {self._arguments.out / MANIFEST}")
        if result.refused:
            title, why = next(iter(result.refused.items()))
            raise CommandError(
                f"{len(result.refused)} chapters are missing; {title}: {why}. "
                "--on-unspeakable silence leaves out what has no reading"
            )
