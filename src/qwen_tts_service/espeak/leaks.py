"""Gives back what espeak-ng 1.52 forgets to free when it ends.

A word of another language makes it load that language's dictionary beside the first, 180 KB
for English, into variables that `espeak_Terminate` does not know of; two buffers of 2 KB are
lost every time. None is exported, so they are found by name in the library's symbol table;
where there is none (not an ELF file, or a stripped one) nothing is freed and nothing else
changes. It knows nothing about speech.
"""

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

_EXPORTED = "espeak_Terminate"
_DELETE = "DeleteTranslator"
_TRANSLATORS = ("translator2", "translator3")
_BUFFERS = ("voices", "phon_out_buf")
_SYMBOL_TABLE = 2
_Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class ForgottenMemory:
    """Frees the forgotten dictionaries of one loaded copy of the library at `path`."""

    def __init__(self, path: Path) -> None:
        wanted = {_EXPORTED, _DELETE, *_TRANSLATORS, *_BUFFERS}
        self._offsets = {name: at for name, at in _symbols(path.read_bytes()) if name in wanted}
        self.can_free = self._offsets.keys() == wanted

    def free(self, lib: ctypes.CDLL) -> None:
        """Free them; the library must have been terminated and be unloaded next."""
        if not self.can_free:
            return
        exported_at = ctypes.cast(getattr(lib, _EXPORTED), ctypes.c_void_p).value or 0
        base = exported_at - self._offsets[_EXPORTED]
        delete = _Free(base + self._offsets[_DELETE])
        for name in _TRANSLATORS:
            delete(ctypes.c_void_p.from_address(base + self._offsets[name]))
        free = ctypes.cast(ctypes.CDLL(None).free, _Free)
        for name in _BUFFERS:
            free(ctypes.c_void_p.from_address(base + self._offsets[name]))


def _symbols(image: bytes) -> Iterator[tuple[str, int]]:
    """List names and offsets of a 64-bit little-endian ELF file's symbols; else nothing."""
    if image[:6] != b"\x7fELF\x02\x01":
        return
    (sections_at,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [
        # type, offset in the file, bytes, section with the names
        struct.unpack_from("<4xI16xQQI", image, sections_at + size * index)
        for index in range(count)
    ]
    for kind, at, length, names_index in sections:
        if kind == _SYMBOL_TABLE:
            names_at = sections[names_index][1]
            for name_at, offset in struct.iter_unpack("<I4xQ8x", image[at : at + length]):
                start = names_at + name_at
                name = image[start : image.index(0, start)].decode()
                yield name.partition(".")[0], offset  # a variable of a function is "name.123"
