"""The command `read`: a book read aloud into a folder."""

import argparse
import asyncio
import secrets
import sys
from base64 import b64encode
from contextlib import closing
from dataclasses import replace
from typing import Any

from qwen_tts_service.audio.formats import check_format
from qwen_tts_service.books.book import Book
from qwen_tts_service.books.folder import BookFolder, KeptPart
from qwen_tts_service.books.parts import digest
from qwen_tts_service.books.read import read_book
from qwen_tts_service.books.reading import (
    BookReader,
    PartSpeaker,
    ReadingOptions,
    ReadingResult,
    seed_before,
)
from qwen_tts_service.fields import SpeechBody
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.cloning import CloningOrder
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.text.language import detect_language, parse_language
from qwen_tts_service.types import MAX_SEED, KeptVoice

from .arguments import CommandError, named_format, order_of, settings_of, speech_body
from .codes import CUT, DONE
from .loading import load, notes_on
from .progress import BookProgressBar, SpeechProgressBar

JUDGED_CHARS = 2000
"""Of the middle of a book, by which its language is told."""


def read(arguments: argparse.Namespace) -> int:
    """Read a book into a folder; what is there from an earlier run is kept."""
    if arguments.url and (arguments.model or arguments.model_path or arguments.device):
        raise CommandError("--model, --model-path and --device are the server's where --url is")
    settings = settings_of(arguments)
    body = speech_body(arguments, text=None, format=named_format(arguments.format))
    order = order_of(arguments, settings)
    book = read_book(arguments.book)
    folder = BookFolder(arguments.out)
    with folder.locked():
        run = _BookRun(arguments, settings, _decided(body, book, folder, settings), order)
        try:
            result = run.by_url(book, folder) if arguments.url else run.here(book, folder)
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
    start = max(0, (len(book.text) - JUDGED_CHARS) // 2)
    judged = book.text[start : start + JUDGED_CHARS]
    language = None if body.language is None else parse_language(body.language)
    language = language or detect_language(judged, settings.default_language)
    return body.model_copy(update={"seed": seed, "language": language})


class _LocalSpeaker:
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
        )


class _BookRun:
    """One run of the command."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        settings: Settings,
        body: SpeechBody,
        order: CloningOrder | None,
    ) -> None:
        self._arguments = arguments
        self._settings = settings
        self._body = body
        self._order = order
        self._fields = body.model_dump(
            mode="json",
            exclude={"text", "seed", "format", "max_length"},
            exclude_unset=True,
            exclude_none=True,
        )

    def here(self, book: Book, folder: BookFolder) -> ReadingResult:
        """Speak in this process."""
        settings = self._settings
        check_format(self._body.format, settings.sampling_rate)
        options = self._local_options()
        progress = SpeechProgressBar(is_quiet=self._arguments.quiet)
        with closing(load(settings, progress)) as synthesizer:
            voice = None
            if self._order is not None:
                clone = synthesizer.cloner.clone_now(self._order)
                voice = clone.voice
                self.note(*notes_on(clone))
            speaker = _LocalSpeaker(synthesizer, self._body, settings, voice)
            slots = synthesizer.voice.slots or settings.max_concurrent_requests
            return asyncio.run(self._read(book, folder, speaker, slots, options))

    def by_url(self, book: Book, folder: BookFolder) -> ReadingResult:
        """Have a server speak."""
        return asyncio.run(self._by_url(book, folder))

    async def _by_url(self, book: Book, folder: BookFolder) -> ReadingResult:
        # Its HTTP client takes a while to import.
        from .remote import RemoteSpeaker, health_of, open_client  # noqa: PLC0415 - see above

        async with open_client(self._arguments.url, self._settings) as client:
            state = await health_of(client)
            check_format(self._body.format, state["sampling_rate"])
            fields = dict(self._fields)
            if self._order is not None:
                fields["ref_audio"] = b64encode(self._order.data).decode()
                fields |= {"ref_text": self._order.transcript} if self._order.transcript else {}
            slots = self._arguments.parallel or state["slots"]["total"]
            options = {"model": state["model"], "sampling_rate": state["sampling_rate"]}
            return await self._read(book, folder, RemoteSpeaker(client, fields), slots, options)

    def _local_options(self) -> dict[str, Any]:
        """What of the settings decides how a text is spoken."""
        settings = self._settings
        options = {"model": settings.model_name, "sampling_rate": settings.sampling_rate}
        if settings.lexicon is not None:
            options["lexicon"] = digest(settings.lexicon.read_text("utf-8"))
        return options | ({"russian_stress": True} if settings.russian_stress else {})

    async def _read(
        self,
        book: Book,
        folder: BookFolder,
        speaker: PartSpeaker,
        slots: int,
        options: dict[str, Any],
    ) -> ReadingResult:
        assert self._body.seed is not None
        if self._order is not None:
            options = {**options, "recording": self._order.key.hex()}
        reader = BookReader(
            book,
            folder,
            ReadingOptions(
                seed=self._body.seed,
                format=self._body.format,
                at_once=slots,
                speech={**self._fields, **options},
            ),
        )
        if reader.change:
            self.note(reader.change)
        with BookProgressBar(*reader.chars, is_quiet=self._arguments.quiet) as bar:
            return await reader.read(speaker, lambda part: bar.add(len(part.text)))

    def note(self, *lines: str) -> None:
        """Write to standard error, unless that is to be quiet."""
        if not self._arguments.quiet:
            sys.stderr.writelines(f"{line}\n" for line in lines)

    def report(self, result: ReadingResult) -> None:
        """Say what was made. Raises CommandError if chapters are missing."""
        minutes, seconds = divmod(round(result.duration_s), 60)
        self.note(
            f"{self._arguments.out}: {result.chapters} chapters, {minutes}:{seconds:02} of speech, "
            f"{self._fields['language']}, seed {self._body.seed}; {result.spoken} parts spoken, "
            f"{result.kept} were there",
            *result.notes,
        )
        if result.refused:
            title, why = next(iter(result.refused.items()))
            raise CommandError(
                f"{len(result.refused)} chapters are missing; {title}: {why}. "
                "--on-unspeakable silence leaves out what cannot be spoken"
            )
