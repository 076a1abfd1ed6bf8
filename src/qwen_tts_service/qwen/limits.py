"""How many frames and tokens an utterance of the Qwen voice may take."""

from dataclasses import dataclass

from qwen_tts_service.types import Language

PROMPT_FRAME_TOKENS = 8
"""Ids of an utterance that are not its text."""
FRAMES_PER_TOKEN = 5.0
"""Frames a text token takes in ordinary speech: 12.5 a second at two to three tokens a second."""
SHORTEST_FRAMES = 12
"""Frames of silence and of getting started, whatever the text."""
RAMBLE_FRAMES = 125
"""Frames that even a short text may take in a slow style: 10 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenOptions:
    """What an utterance may need.

    max_positions: prompt and frames together; runaway_factor: see `runaway_frames`
    max_text_tokens: of a text that is still being written
    default_language: of token ids without letters
    keeps_stress: whether the model gets the stress marks of Russian words
    """

    max_positions: int
    max_text_tokens: int
    runaway_factor: float
    default_language: Language = "english"
    keeps_stress: bool = False


def expected_frames(tokens: int) -> float:
    """Frames that an ordinary reading of so many text tokens takes."""
    return SHORTEST_FRAMES + FRAMES_PER_TOKEN * tokens


def runaway_frames(tokens: int, factor: float) -> int:
    """Frames after which a speech has lost its end: `factor` ordinary readings and 10 s."""
    return int(RAMBLE_FRAMES + factor * expected_frames(tokens))
