"""Set the stress of Russian words by silero-stress, a model that its package ships (MIT, 56 MB).

It also tells "замок" from "замок" and "все" from "всё" by the words around. Needs the extra
`ru-stress`; the package imports torch, and at that sets torch's threads to one.
"""

import re
import threading
from collections.abc import Callable
from typing import cast

from .split import split_sentences
from .stress import STRESS, mark_stress

_MARKED_WORD = re.compile(rf"[\w+]+{STRESS}[\w+{STRESS}]*")


class Accentor:
    """Sets stress marks, U+0301, sentence by sentence; what the writer marked stays as it is."""

    def __init__(self) -> None:
        from silero_stress import load_accentor  # noqa: PLC0415  (optional, seconds)

        self._accent = cast("Callable[..., str]", load_accentor())
        self._lock = threading.Lock()

    def __call__(self, text: str) -> str:
        """Mark the stress of every Cyrillic word of more than one vowel."""
        return "".join(map(self._mark, split_sentences(text)))

    def _mark(self, sentence: str) -> str:
        with self._lock:
            marked = self._accent(sentence, stress_single_vowel=False)
        return mark_stress(_MARKED_WORD.sub(lambda word: word[0].replace("+", ""), marked))
