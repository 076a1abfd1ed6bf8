"""The espeak-ng C library, made safe to use from Python: checked names, one caller at a time.

libespeak-ng is one set of C globals per process, and some of them (the phase of the pitch
flutter, the gain) survive even `espeak_Terminate`, so the same call twice gives different
samples. Here every call loads the library afresh and unloads it afterwards, which costs 0.7 ms
and makes each call depend on its arguments alone. It does not know requests, attributes or
what makes a text readable.
"""

import ctypes
import threading
from _ctypes import dlclose
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen_tts_service.errors import StartupError, SynthesisFailed
from qwen_tts_service.types import Samples

from .leaks import ForgottenMemory

SAMPLE_RATE_HZ = 22050
CHUNK_MS = 100
"""Audio per callback; also how soon a cancelled synthesis stops."""

_SYNCHRONOUS = 2
_DO_NOT_EXIT_ON_ERROR = 0x8000
_UTF8 = 0x01
_PHONEME_INPUT = 0x100
_PAUSE_AT_THE_END = 0x1000
_POSITION_IN_CHARACTERS = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_STOP, _GO_ON = 1, 0
# Files beside the voices that are not voices: `fast` is a test of the rate limit.
_NOT_VOICES = frozenset({"fast"})

_LOCK = threading.Lock()
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class _VoiceRecord(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Everything that shapes the sound of a text.

    language_code: one of `EspeakLibrary.language_codes`, such as ``"en-us"``
    variant: one of `EspeakLibrary.variants`, such as ``"f2"``
    rate_wpm: words per minute, 80 to 450; pitch, pitch_range: 0 to 99; volume: 0 to 200
    """

    language_code: str
    variant: str
    rate_wpm: int = 175
    pitch: int = 50
    pitch_range: int = 50
    volume: int = 100


class EspeakLibrary:
    """Speak texts and show their phonemes; any thread, one at a time.

    Raises StartupError when the package with the library is missing or broken.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader  # noqa: PLC0415 -- an optional extra
        except ImportError:
            raise StartupError(
                "the embedded voice needs espeakng-loader, which is not installed; "
                "run: pip install 'qwen-tts-service[espeak]'"
            ) from None
        self._library_path: str = espeakng_loader.get_library_path()
        self._data_path: str = espeakng_loader.get_data_path()
        variants_path = Path(self._data_path) / "voices" / "!v"
        names = {path.name for path in variants_path.iterdir()} - _NOT_VOICES
        self.variants: tuple[str, ...] = tuple(sorted(names, key=str.casefold))
        self._forgotten = ForgottenMemory(Path(self._library_path))
        with self._loaded() as lib:
            self._files_by_code = dict(_list_languages(lib))
        self.language_codes: frozenset[str] = frozenset(self._files_by_code)

    def synthesise(
        self,
        text: str,
        delivery: Delivery,
        on_chunk: Callable[[Samples], bool],
        *,
        is_phoneme_input: bool = False,
    ) -> None:
        """Speak, handing over float32 [N] chunks of at most `CHUNK_MS` as they are made.

        on_chunk: returns False to stop; it is then not called again
        is_phoneme_input: read ``[[...]]`` in the text as espeak-ng phoneme names
        raises: SynthesisFailed for a voice that does not exist, and for a failure inside
        """
        data = text.encode()
        flags = _UTF8 | _PAUSE_AT_THE_END | (_PHONEME_INPUT if is_phoneme_input else 0)

        def receive(wave: "ctypes._Pointer[ctypes.c_short]", length: int, _events: int) -> int:
            if not wave or length <= 0:
                return _GO_ON
            chunk = np.ctypeslib.as_array(wave, (length,)).astype(np.float32) / np.float32(32768)
            return _GO_ON if on_chunk(chunk) else _STOP

        callback = _Callback(receive)
        with self._speaking_as(delivery) as lib:
            lib.espeak_SetSynthCallback(callback)
            status = _synthesise(lib, data, flags)
        if status != 0:
            raise SynthesisFailed(f"espeak-ng failed with status {status}")

    def phonemes(self, texts: Sequence[str], language_code: str) -> list[str]:
        """Show how each text would be read, in espeak-ng's own phoneme names.

        A part that is read in another language is preceded by its code, as in ``"(en)"``.
        """
        delivery = Delivery(language_code=language_code, variant=self.variants[0])
        with self._speaking_as(delivery) as lib:
            lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
            phonemes = [_phonemes(lib, text) for text in texts]
            _synthesise(lib, b" ", _UTF8)  # or the voice, which waits to be used, is never freed
            return phonemes

    @contextmanager
    def _speaking_as(self, delivery: Delivery) -> Iterator[ctypes.CDLL]:
        # espeak-ng takes an unknown variant in silence, and keeps the voice it had when it
        # does not know the language: hence the checks before, and of its answer.
        if delivery.language_code not in self.language_codes:
            raise SynthesisFailed(f"espeak-ng has no language {delivery.language_code!r}")
        if delivery.variant not in self.variants:
            raise SynthesisFailed(f"espeak-ng has no variant {delivery.variant!r}")
        with self._loaded() as lib:
            # By its file, because by its name espeak-ng first lists all voices, for 5 ms. (It
            # still does for the two whose files have capitals, American and Brazilian.)
            file = self._files_by_code[delivery.language_code]
            status = lib.espeak_SetVoiceByName(f"{file}+{delivery.variant}".encode())
            if status != 0:
                raise SynthesisFailed(f"espeak-ng refused language file {file!r}, status {status}")
            for parameter, value in (
                (_RATE, delivery.rate_wpm),
                (_VOLUME, delivery.volume),
                (_PITCH, delivery.pitch),
                (_RANGE, delivery.pitch_range),
            ):
                lib.espeak_SetParameter(parameter, value, 0)
            lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
            yield lib

    @contextmanager
    def _loaded(self) -> Iterator[ctypes.CDLL]:
        with _LOCK:
            lib = ctypes.CDLL(self._library_path)
            try:
                rate_hz = lib.espeak_Initialize(
                    _SYNCHRONOUS, CHUNK_MS, self._data_path.encode(), _DO_NOT_EXIT_ON_ERROR
                )
                if rate_hz != SAMPLE_RATE_HZ:
                    raise StartupError(
                        f"espeak-ng could not start: sample rate {rate_hz}, "
                        f"expected {SAMPLE_RATE_HZ}; data at {self._data_path}"
                    )
                yield lib
            finally:
                lib.espeak_Terminate()
                self._forgotten.free(lib)
                dlclose(lib._handle)  # noqa: SLF001 -- ctypes has no public way to unload


def _list_languages(lib: ctypes.CDLL) -> Iterator[tuple[str, str]]:
    """List each language code with the file of its voice."""
    lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceRecord))
    for record in lib.espeak_ListVoices(None):
        if not record:
            return
        for code in _codes_at(record.contents.languages):
            yield code, record.contents.identifier.decode()


def _codes_at(address: int) -> Iterator[str]:
    """Read pairs of a priority byte and a NUL-terminated code, up to a zero priority."""
    while pair := ctypes.string_at(address):
        yield pair[1:].decode()
        address += len(pair) + 1


def _synthesise(lib: ctypes.CDLL, text: bytes, flags: int) -> int:
    size = ctypes.c_size_t(len(text) + 1)
    status: int = lib.espeak_Synth(
        ctypes.c_char_p(text), size, 0, _POSITION_IN_CHARACTERS, 0, flags, None, None
    )
    return status


def _phonemes(lib: ctypes.CDLL, text: str) -> str:
    data = ctypes.create_string_buffer(text.encode())
    rest = ctypes.c_void_p(ctypes.addressof(data))
    clauses = []
    while rest.value:  # one clause at a time; NULL once the text is used up
        clauses.append(lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, 0).decode())
    return " ".join(clauses)
