"""A process that speaks with the espeak-ng C library, in a fork of itself for every call.

libespeak-ng is one set of C variables per process. Some of them survive even `espeak_Terminate`
(the phase of the pitch flutter, the gain), so the same call twice gives different samples, and
every foreign word leaves a dictionary of up to 180 KB behind. A fork starts from the library as
`espeak_Initialize` left it, and takes its memory with it: docs/adr/0008-espeak-in-forks.md.

Run by `EspeakLibrary` as ``server.py SOCKET_FD LIMIT_S LIBRARY_PATH DATA_PATH``. Each byte on the
socket brings a connection. A fork receives (function, voice, *arguments) from it and sends chunks,
each of int16 samples as bytes and a list of (sample, character) at which words begin, then the
phonemes, a message that says what went wrong, or None; after LIMIT_S it is ended. It imports the
standard library only, so that it is small.
"""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

SAMPLE_RATE_HZ = 22050
CHUNK_MS = 100
"""Audio per chunk; also how soon a cancelled synthesis stops."""

# For espeak_Initialize: play nothing and return when done; do not end the process by itself.
_SYNCHRONOUS, _DO_NOT_EXIT_ON_ERROR = 2, 0x8000
# For espeak_Synth.
_POSITION_IN_CHARACTERS = 1
_UTF8, _PHONEME_INPUT, _PAUSE_AT_THE_END = 0x01, 0x100, 0x1000
_GO_ON = 0
_END_OF_EVENTS, _WORD = 0, 1

Send = Callable[[tuple[bytes, list[tuple[int, int]]]], None]


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def main(control_fd: str, limit_s: str, library_path: str, data_path: str) -> None:
    """Load the library and fork for each connection, until the other end of the socket closes."""
    lib = ctypes.CDLL(library_path)
    rate_hz = lib.espeak_Initialize(
        _SYNCHRONOUS, CHUNK_MS, data_path.encode(), _DO_NOT_EXIT_ON_ERROR
    )
    if rate_hz != SAMPLE_RATE_HZ:
        sys.exit(f"espeak-ng has sample rate {rate_hz}, not {SAMPLE_RATE_HZ}; data: {data_path}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that have ended need no wait()
    control = socket.socket(fileno=int(control_fd))
    while fds := socket.recv_fds(control, 1, 1)[1]:
        with Connection(fds[0]) as connection:
            try:
                pid = os.fork()
            except OSError as error:
                _refuse(connection, f"espeak-ng could not start a process: {error.strerror}")
                continue
            if pid == 0:
                control.close()  # or callers would still be taken after this server has died
                signal.alarm(int(limit_s))
                _answer(lib, connection)
                os._exit(0)  # at once: a copy has nothing to clean up


def _refuse(connection: "Connection[Any, Any]", reason: str) -> None:
    """Answer a call with a failure; a caller who has left is no failure of the server."""
    with suppress(OSError, EOFError):
        if connection.poll(1):  # or the caller would fail to send
            connection.recv()
        connection.send(reason)


def _answer(lib: ctypes.CDLL, connection: "Connection[Any, Any]") -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a caller who has left ends this fork
    name, voice, *arguments = connection.recv()
    status = lib.espeak_SetVoiceByName(voice.encode())
    if status != 0:
        answer = f"espeak-ng refused voice {voice!r}, status {status}"
    else:
        lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        answer = _FUNCTIONS[name](lib, connection.send, *arguments)
    connection.send(answer)


def _synthesise(
    lib: ctypes.CDLL, send: Send, text: str, parameters: Sequence[int], has_phonemes: bool
) -> str | None:
    """Speak a text, sending its samples; return what went wrong.

    parameters: rate, volume, pitch, range, which are numbers 1 to 4 for espeak-ng
    """

    def receive(
        wave: "ctypes._Pointer[ctypes.c_short]", length: int, events: "ctypes._Pointer[_Event]"
    ) -> int:
        if wave and length > 0:
            try:
                samples = ctypes.string_at(wave, length * ctypes.sizeof(ctypes.c_short))
                send((samples, list(_words(events))))
            except ConnectionResetError:  # the caller left with samples unread; then no SIGPIPE
                os._exit(0)
        return _GO_ON

    for parameter, value in enumerate(parameters, start=1):
        lib.espeak_SetParameter(parameter, value, 0)
    callback = _Callback(receive)
    lib.espeak_SetSynthCallback(callback)
    data = text.encode()
    size = ctypes.c_size_t(len(data) + 1)
    flags = _UTF8 | _PAUSE_AT_THE_END | (_PHONEME_INPUT if has_phonemes else 0)
    status = lib.espeak_Synth(data, size, 0, _POSITION_IN_CHARACTERS, 0, flags, None, None)
    return f"espeak-ng failed with status {status}" if status != 0 else None


def _words(events: "ctypes._Pointer[_Event]") -> Iterator[tuple[int, int]]:
    """List the words that begin in a chunk, by sample and character; both count from 0."""
    for event in map(events.__getitem__, count()) if events else ():
        if event.type == _END_OF_EVENTS:
            return
        if event.type == _WORD:
            yield event.sample, event.text_position - 1


def _phonemes(lib: ctypes.CDLL, _send: Send, texts: Sequence[str]) -> list[str]:
    """Show how each text would be read, in espeak-ng's phoneme names."""
    lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
    return [" ".join(_phonemes_of_clauses(lib, text)) for text in texts]


def _phonemes_of_clauses(lib: ctypes.CDLL, text: str) -> Iterator[str]:
    data = ctypes.create_string_buffer(text.encode())
    rest = ctypes.c_void_p(ctypes.addressof(data))
    while rest.value:  # NULL once the text is used up
        yield lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, 0).decode()


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"synthesise": _synthesise, "phonemes": _phonemes}

if __name__ == "__main__":
    main(*sys.argv[1:])
