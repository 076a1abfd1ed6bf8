"""Arguments of the command line: the parser, and the settings and request body made of them.

The options of `say` are made from the fields of the HTTP request.
"""

import argparse
import sys
from collections.abc import Container
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

from pydantic import BaseModel, ValidationError

from qwen_tts_service import __version__
from qwen_tts_service.books.read import ENDINGS
from qwen_tts_service.errors import InvalidRequest, printable, shown
from qwen_tts_service.fields import SpeechBody, VoiceAttributesBody
from qwen_tts_service.settings import Settings, load_settings
from qwen_tts_service.speech.cloning import CloningOrder
from qwen_tts_service.speech.subtitles import SubtitleFormat
from qwen_tts_service.types import AudioFormat
from qwen_tts_service.validation import folded, from_validation, hint

EXAMPLES = (resources.files(__package__) / "examples.txt").read_text("utf-8")
STANDARD_IO = "-"
MODEL_PATH = "models"
MAX_SLOTS = 1024
_FORMATS = ", ".join(get_args(AudioFormat))
_FOLDERS = {"model_path": MODEL_PATH, "voices_path": "voices"}
"""Where checkpoints and kept voices are when nothing says so, as for scripts/serve."""
_NOT_OPTIONS = {"text", "tokens", "voice_attributes", "format", "pronunciations"}
_NOT_OPTIONS |= {"ref_audio", "ref_text"}
_NOT_OF_A_BOOK = {"input_type", "max_length", "timestamps", "lead_in_ms", "tail_ms", "split"}
_MEANINGS = {
    "max_length": "Longest audio, in frames of 80 ms; what is longer is cut there, and the exit "
    "code is 3. Default: to the end of the text."
}
"""Of options that mean something else than the field over HTTP."""


class CommandError(Exception):
    """The command ends with this message and code 1."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see {self.prog} --help")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments. Raises CommandError, and SystemExit on --help and --version."""
    parser = _Parser(
        prog="qwen-tts",
        description="Text and a voice in, speech out: without a server.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qwen-tts {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="say | read | voices")
    _add_say(commands)
    _add_read(commands)
    voices = commands.add_parser("voices", help="list the speakers of a model, or of a server")
    voices.add_argument("--url", help="of a server, such as http://localhost:8188")
    _add_settings(voices)
    arguments, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if word.startswith("-"):
            name = word.partition("=")[0]
            said = hint(name.strip("-"), SpeechBody, spell=_option)
            where = f"{parser.prog} {arguments.command} --help"
            raise CommandError(f"unknown option {printable(name)}.{said} See {where}")
    if unknown:
        parser.error(f"unrecognized arguments: {printable(' '.join(unknown))}")
    return arguments


def _add_say(commands: Any) -> None:
    say = commands.add_parser(
        "say",
        help="say a text",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --voice is no --voice-from
    )
    text = say.add_argument_group("what to say, one of")
    text.add_argument("text", nargs="*", help="words; - reads standard input")
    text.add_argument("--file", type=Path, help="a text file in UTF-8")
    sound = say.add_argument_group("where to, one of")
    sound.add_argument("--out", help="an audio file; - writes to standard output as it is made")
    sound.add_argument("--play", action="store_true", help="play it as it is made")
    for kind in get_args(SubtitleFormat):
        say.add_argument(
            f"--{kind}",
            type=Path,
            metavar="FILE",
            help=f"write {kind.upper()} subtitles too: one for each sentence, or --timestamps word",
        )
    say.add_argument("--format", help=f"{_FORMATS}; by the file's name unless given, else wav")
    _add_voice(say, _NOT_OPTIONS)
    _add_settings(say)


def _add_read(commands: Any) -> None:
    read = commands.add_parser(
        "read",
        help="read a book into a file for each chapter",
        description="Read a book aloud, many parts at once. The same command again goes on where\n"
        "it stopped, and speaks again only what has changed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    read.add_argument("book", type=Path, help=f"a book: {', '.join(ENDINGS)}")
    read.add_argument("--out", type=Path, required=True, help="a folder for all that is made")
    read.add_argument("--format", default="mp3", help=f"{_FORMATS}. Default: mp3")
    read.add_argument(
        "--url",
        help="a running server, such as http://localhost:8188, which speaks instead of this "
        "process; API_KEY is its key",
    )
    read.add_argument(
        "--parallel",
        type=_slots,
        metavar="N",
        help="parts to speak at once. Default: as many as the server or the voice has slots",
    )
    read.add_argument(
        "--m4b",
        action="store_true",
        help="write the whole book as one audiobook with chapters too; needs the extra aac",
    )
    read.add_argument(
        "--subtitles",
        choices=get_args(SubtitleFormat),
        help="write a file of subtitles for each chapter too; sentences are then spoken one by one",
    )
    _add_voice(read, _NOT_OPTIONS | _NOT_OF_A_BOOK)
    _add_settings(read)


def _slots(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MAX_SLOTS:
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_SLOTS}; got {shown(text)}")
    return number


def _add_voice(parser: Any, left_out: Container[str]) -> None:
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    voice = parser.add_argument_group("the voice")
    _add_fields(voice, VoiceAttributesBody, left_out)
    _add_fields(voice, SpeechBody, left_out)
    voice.add_argument(
        "--voice-from",
        type=Path,
        metavar="FILE",
        help="a recording of 1 to 30 s to clone the voice from; overrides the speaker. Needs a "
        "Base model, and the consent of whoever speaks in it",
    )
    voice.add_argument(
        "--transcript",
        help="exactly what is said in --voice-from, all of it: then its manner is cloned too",
    )
    voice.add_argument(
        "--pronounce",
        "--pronunciations",
        dest="pronunciations",
        action="append",
        metavar="WORD=READING",
        help=f"may be repeated: {SpeechBody.model_fields['pronunciations'].description}",
    )


def _add_fields(parser: Any, schema: type[BaseModel], left_out: Container[str]) -> None:
    for name, field in schema.model_fields.items():
        if name in left_out:
            continue
        kinds = {field.annotation, *get_args(field.annotation)}
        kind: Any = next((kind for kind in (int, float) if kind in kinds), str)
        default = "" if field.default is None else f" Default: {field.default}."
        text = _MEANINGS.get(name, f"{field.description}{default}").replace("%", "%%")
        parser.add_argument(_option(name), type=kind, metavar=kind.__name__.upper(), help=text)


def _add_settings(parser: Any) -> None:
    settings = parser.add_argument_group("settings; unset, the environment variable counts")
    settings.add_argument("--model", help="a checkpoint's name, or espeak-ng (MODEL_NAME)")
    settings.add_argument("--model-path", help=f"where it lies (MODEL_PATH, else {MODEL_PATH})")
    settings.add_argument("--device", help="cpu, cuda or cuda:N (DEVICE)")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Settings of the environment and of the arguments. Raises StartupError.

    One text needs one slot. What bounds the requests to a server does not bound a person's text.
    """
    slots = getattr(arguments, "parallel", 1)
    given: dict[str, str | None] = {
        "model_name": arguments.model,
        "model_path": arguments.model_path,
        "device": arguments.device,
        "max_concurrent_requests": None if slots is None else str(slots),
        "max_text_chars": str(sys.maxsize),
    }
    settings = load_settings(None, **given)
    unset = {n: path for n, path in _FOLDERS.items() if n not in settings.model_fields_set}
    return load_settings(None, **given | unset)


def body_of(arguments: argparse.Namespace) -> SpeechBody:
    """The body of a request to `say`, every field checked. Raises CommandError, InvalidRequest."""
    fields: dict[str, Any] = {"text": read_text(arguments), "format": format_of(arguments)}
    if subtitle_files(arguments):
        fields["timestamps"] = arguments.timestamps or "sentence"
    elif arguments.timestamps is not None:
        raise CommandError("--timestamps goes with --srt or --vtt, whose subtitles it chooses")
    return speech_body(arguments, fields)


def speech_body(arguments: argparse.Namespace, fields: dict[str, Any]) -> SpeechBody:
    """A request body with fields and the options of the voice.

    Raises CommandError and InvalidRequest.
    """
    fields = {
        **_given(arguments, SpeechBody),
        "voice_attributes": _given(arguments, VoiceAttributesBody) or None,
        "pronunciations": _pronunciations(arguments.pronunciations),
        **fields,
    }
    try:
        return SpeechBody(**fields)
    except ValidationError as error:
        refusal = from_validation(error, SpeechBody)
        field = refusal.param or ""
        raise InvalidRequest(refusal.message.replace(field, _option(field), 1)) from None


def subtitle_files(arguments: argparse.Namespace) -> dict[SubtitleFormat, Path]:
    """The subtitle files to write."""
    paths = {kind: getattr(arguments, kind) for kind in get_args(SubtitleFormat)}
    return {kind: path for kind, path in paths.items() if path is not None}


def order_of(arguments: argparse.Namespace, settings: Settings) -> CloningOrder | None:
    """The recording of --voice-from, to be cloned. Raises CommandError."""
    if arguments.voice_from is None:
        if arguments.transcript is not None:
            raise CommandError("--transcript goes with --voice-from, whose words it is")
        return None
    try:
        data = arguments.voice_from.read_bytes()
    except OSError as error:
        raise CommandError(f"--voice-from: {error.strerror}: {arguments.voice_from}") from None
    has_tail = settings.reference_tail == "silence"
    return CloningOrder(data=data, transcript=arguments.transcript, has_tail=has_tail)


def _pronunciations(entries: list[str] | None) -> dict[str, str] | None:
    if entries is None:
        return None
    if not all("=" in entry for entry in entries):
        raise CommandError('--pronounce: a word, = and its reading are needed: GPU="gee pee you"')
    return dict(entry.split("=", maxsplit=1) for entry in entries)


def _given(arguments: argparse.Namespace, schema: type[BaseModel]) -> dict[str, Any]:
    asked = {name: getattr(arguments, name, None) for name in schema.model_fields}
    return {
        name: value
        for name, value in asked.items()
        if value is not None and name not in _NOT_OPTIONS
    }


def _option(field: str) -> str:
    return "--" + field.rpartition(".")[2].replace("_", "-")


def format_of(arguments: argparse.Namespace) -> str:
    """The audio format: --format, else by the suffix of --out, else wav. Raises CommandError."""
    if arguments.play and arguments.format:
        raise CommandError("--format goes with --out; a player takes what it can")
    if arguments.format:
        return named_format(arguments.format)
    if arguments.play or arguments.out == STANDARD_IO:
        return "wav"
    suffix = Path(arguments.out).suffix.lower().removeprefix(".")
    if suffix in get_args(AudioFormat):
        return suffix
    raise CommandError(
        f"the file's name does not say a format; end it with .wav or another of "
        f"{', '.join(get_args(AudioFormat))}, or give --format"
    )


def named_format(name: str) -> str:
    """A format in any case; what is none is named as it was written."""
    wanted = folded(name)
    return wanted if wanted in get_args(AudioFormat) else name


def read_text(arguments: argparse.Namespace) -> str:
    """The text: words, standard input or --file, exactly one of them. Raises CommandError."""
    if bool(arguments.text) == bool(arguments.file):
        raise CommandError("say what: give words, - for standard input, or --file")
    try:
        if arguments.file:
            return cast("str", arguments.file.read_text(encoding="utf-8-sig"))
        if arguments.text == [STANDARD_IO]:
            return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("the text is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise CommandError(f"--file: {error.strerror}: {arguments.file}") from None
    return " ".join(arguments.text)
