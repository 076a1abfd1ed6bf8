"""Commands of the command line: `say` a text, `read` a book, list the `voices`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from qwen_tts_service.audio.formats import rate_of
from qwen_tts_service.books.book import BookError
from qwen_tts_service.errors import StartupError, TTSError
from qwen_tts_service.speech.subtitles import subtitles
from qwen_tts_service.speech.synthesizer import Output, Speech, Synthesizer
from qwen_tts_service.types import SpeechRequest

from .arguments import (
    STANDARD_IO,
    CommandError,
    body_of,
    order_of,
    parse,
    settings_of,
    subtitle_files,
)
from .codes import CUT, DONE, FAILED, INTERRUPTED
from .loading import load, notes_on
from .progress import SpeechProgressBar
from .read import read
from .sink import Sink, check_file, new_file, sink_of, write_file
from .voices import voices_of_model, voices_of_server

UNLIMITED_FRAMES = 10**9
"""Two and a half years of speech, where --max-length is not given."""
_IN_OPTIONS = {
    "voice_required": "this model speaks with cloned voices alone: --speaker names a kept one, "
    "--voice-from clones one"
}
"""Messages of errors, by their code, that would name fields which are no options."""


def run(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one line on standard error."""
    try:
        arguments = parse(argv)
        return {"say": say, "read": read, "voices": list_voices}[arguments.command](arguments)
    except (CommandError, BookError, TTSError, StartupError) as error:
        message = _IN_OPTIONS.get(getattr(error, "code", ""), error)
        sys.stderr.write(f"error: {message}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def say(arguments: argparse.Namespace) -> int:
    """Say a text of any length into a file, to standard output or to a player."""
    sink, subtitle_paths = sink_of(arguments), subtitle_files(arguments)
    for kind, path in subtitle_paths.items():
        check_file(path, f"--{kind}")
    body = body_of(arguments)
    settings = settings_of(arguments)
    rate_of(body.format, body.sample_rate, settings.sampling_rate)
    request = body.to_request("say", settings)
    if arguments.max_length is None:
        request = replace(request, max_frames=UNLIMITED_FRAMES)
    order = order_of(arguments, settings)
    progress = SpeechProgressBar(is_quiet=arguments.quiet)
    synthesizer = load(settings, progress)
    output, target = Output(body.format, is_stream=True), sink or Path(arguments.out)
    notes = []
    try:
        if order is not None:
            clone = synthesizer.cloner.clone_now(order)
            request = replace(request, voice=clone.voice, speaker=None)
            notes = notes_on(clone)
        speech = asyncio.run(_say(synthesizer, request, output, target, progress))
        for kind, path in subtitle_paths.items():
            write_file(path, subtitles(speech.timestamps, kind).encode(), f"--{kind}")
    finally:
        progress.end()
        synthesizer.close()
    if not arguments.quiet:
        sys.stderr.write(_report(speech, synthesizer, arguments.out, notes))
    return CUT if speech.finish_reason == "length" else DONE


def list_voices(arguments: argparse.Namespace) -> int:
    """List the speakers of a server, or of a model without loading its checkpoint."""
    if arguments.url is not None:
        lines = list(voices_of_server(arguments.url))
    elif (settings := settings_of(arguments)).is_embedded:
        synthesizer = load(settings, SpeechProgressBar(is_quiet=True))
        lines = list(synthesizer.voice.speakers)
        synthesizer.close()
    else:
        lines = list(voices_of_model(settings))
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in lines)
    return DONE


async def _say(
    synthesizer: Synthesizer,
    request: SpeechRequest,
    output: Output,
    target: Sink | Path,
    progress: SpeechProgressBar,
) -> Speech:
    """Write a whole file, or send the audio on while it is made."""
    if isinstance(target, Path):
        with new_file(target) as file:
            return await synthesizer.speak_into(
                file, request, output.format, on_begin=progress.watch
            )
    with target() as pipe:
        async with aclosing(await synthesizer.speak(request, output)) as speech:
            progress.watch(speech)
            async for part in speech:
                pipe.write(part)
                pipe.flush()
            speech.check_ending()
    return speech


def _report(speech: Speech, synthesizer: Synthesizer, out: str | None, notes: Sequence[str]) -> str:
    """Report what was made, and warnings about it."""
    choice = speech.info.choice
    where = {None: "played", STANDARD_IO: "standard output"}.get(out, out)
    notes = [
        *notes,
        *(f"{name} was not applied: {why}" for name, why in choice.not_applied.items()),
    ]
    if speech.info.warning:
        notes.append(speech.info.warning)
    if speech.finish_reason == "length":
        notes.append("cut at --max-length")
    voices = "/".join(speech.info.speakers)
    facts = (synthesizer.voice.model_name, voices, choice.language, f"seed {speech.seed}")
    lines = [f"{where}: {speech.audio_s:.1f} s, {', '.join(facts)}", *notes]
    return "\n".join(lines) + "\n"
