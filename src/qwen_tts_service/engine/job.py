"""What the engine is asked to speak: ids and numbers, no text.

It does not know tensors, slots or who asked.
"""

from dataclasses import dataclass
from typing import Literal

from qwen_tts_service.types import SamplingOptions

Layout = Literal["full_text", "streaming_text"]
"""Where the text stands: all of it before the first frame, or along with the frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One utterance.

    ids: a whole utterance in the tokenizer's ids; instruct_ids: a whole instruction or nothing
    language: a language of the checkpoint, or "auto"
    max_frames: what the caller allows; the speech then ends as "length"
    runaway_frames: what the text can need at most; the speech then ends as "runaway"
    """

    ids: tuple[int, ...]
    instruct_ids: tuple[int, ...] = ()
    speaker: str
    language: str
    layout: Layout = "full_text"
    seed: int
    sampling: SamplingOptions
    max_frames: int
    runaway_frames: int
