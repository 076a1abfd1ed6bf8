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

    slots: utterances that are spoken at once
    max_positions: prompt and frames together; runaway_factor: see `runaway_frames`
    max_text_tokens: of a text that is still being written
    default_language: of token ids without letters
    keeps_stress: whether the model gets the stress marks of Russian words
    """

    slots: int
    max_positions: int
    max_text_tokens: int
    runaway_factor: float
    default_language: Language = "english"
    keeps_stress: bool = False


LONGEST_PART_CHARS = 800
"""About a minute of speech, three in Chinese: the model keeps its voice and finds the end."""
LONGEST_PART_FRAMES = 4096
"""Of one part, however long the request may be; `ROOMY_POSITIONS` counts on it."""
SHORTEST_PART_CHARS = 40
ROOMY_POSITIONS = 5000
"""Room for the longest part, its prompt and its frames."""
PROMPT_ROWS = 60
"""Of a prompt that are not its text: the tags and an ordinary instruct."""
LEAST_FACTOR = 2.0
"""A slot must have room for this many ordinary readings of a text; with less, it is refused."""


def expected_frames(tokens: int) -> float:
    """Frames that an ordinary reading of so many text tokens takes."""
    return SHORTEST_FRAMES + FRAMES_PER_TOKEN * tokens


def runaway_frames(tokens: int, factor: float) -> int:
    """Frames after which a speech has lost its end: `factor` ordinary readings and 10 s."""
    return int(RAMBLE_FRAMES + factor * expected_frames(tokens))


def part_chars(positions: int) -> int:
    """Characters of the longest part that slots of so many positions have room for.

    As many tokens, as in Japanese, and in frames what LEAST_FACTOR asks for.
    """
    frames_per_char = LEAST_FACTOR * FRAMES_PER_TOKEN
    besides = PROMPT_ROWS + RAMBLE_FRAMES + LEAST_FACTOR * SHORTEST_FRAMES
    room = int((positions - besides) / (1 + frames_per_char))
    is_roomy = positions >= ROOMY_POSITIONS
    return LONGEST_PART_CHARS if is_roomy else max(SHORTEST_PART_CHARS, room)
