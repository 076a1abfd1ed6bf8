"""The ids of a text that is still being written.

It does not know who writes, or how tokens are spoken.
"""

from qwen_tts_service.model.tokenizer import Tokenizer


class GrowingText:
    """Gives out the ids of a text that is still being written as soon as they are certain.

    All ids together are those of the whole text without the space around it, whatever the pieces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held = ""
        self._has_begun = False

    def append(self, text: str) -> list[int]:
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
