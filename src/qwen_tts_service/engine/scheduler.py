"""The scheduler: what the next step prefills, advances by a frame, and decodes to audio.

Pure: the same sequences, limits and time give the same plan, and planning changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qwen_tts_service.types import FRAME_S, FinishReason

from .options import EngineOptions


@dataclass(slots=True, kw_only=True, eq=False)
class SequenceState:
    """What planning needs to know of one job in a slot.

    prompt_rows, prefilled: rows to read before the first frame, and how many have been read
    prefix_rows: so many of them are read by themselves, as others may have them too
    max_frames, runaway_frames: see `Job`
    started: frame steps begun, of which the last ones may still be under way
    frames:  frames made whose codes are known to be speech
    decoded: frames handed to the codec, in `chunks` calls
    silent:  frames of silence at the end of what was decoded
    text_rows: text rows that are there while the text is still being written; None: all are
    first_sent_s: when the reader got the first chunk
    has_room: whether the reader keeps up
    end:     how the speech ended, as soon as that is known
    """

    slot: int
    prompt_rows: int
    max_frames: int
    runaway_frames: int
    prefix_rows: int = 0
    needs_full_sort: bool = False
    prefilled: int = 0
    started: int = 0
    frames: int = 0
    decoded: int = 0
    chunks: int = 0
    silent: int = 0
    text_rows: int | None = None
    first_sent_s: float | None = None
    has_room: bool = True
    end: FinishReason | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the whole prompt has been read."""
        return self.prefilled >= self.prompt_rows

    @property
    def has_text(self) -> bool:
        """Whether the text row that the next frame ends with is there."""
        return self.text_rows is None or self.started < self.text_rows

    @property
    def can_move(self) -> bool:
        """Whether there is work to do for it, given its reader and writer."""
        return self.has_room and (self.has_text or not self.is_ready)

    @property
    def may_advance(self) -> bool:
        """Whether reader, text and limits let it make another frame."""
        return self.has_room and self.has_text and self.started < self.frame_limit

    @property
    def frame_limit(self) -> int:
        """Frames after which it is ended."""
        return min(self.max_frames, self.runaway_frames)

    @property
    def positions(self) -> int:
        """Cache positions that its next frame step leaves filled."""
        return self.prompt_rows + self.started + 1

    @property
    def is_spoken(self) -> bool:
        """Whether all its frames have been handed to the codec."""
        return self.end is not None and self.decoded == self.frames


SequenceT = TypeVar("SequenceT", bound=SequenceState)


@dataclass(frozen=True, slots=True)
class StepPlan(Generic[SequenceT]):
    """prefill: (sequence, first row, rows) to read now; advance: sequences that make one frame."""

    prefill: list[tuple[SequenceT, int, int]] = field(default_factory=list)
    advance: list[SequenceT] = field(default_factory=list)


def may_join(sequences: Iterable[SequenceState], options: EngineOptions) -> bool:
    """Whether another utterance may take a slot: not while earlier prompts fill the next step."""
    unread = sum(sequence.prompt_rows - sequence.prefilled for sequence in sequences)
    return unread < options.prefill_tokens_per_step


def plan_step(sequences: Sequence[SequenceT], options: EngineOptions) -> StepPlan[SequenceT]:
    """Plan prompts, in order of arrival and bounded, and one frame for every other sequence.

    A sequence whose prompt is complete after this step's reading advances in the same step; one
    whose reader or writer does not keep up, or that has begun its last frame, does not.
    """
    plan: StepPlan[SequenceT] = StepPlan()
    left = options.prefill_tokens_per_step
    for sequence in sequences:
        if sequence.end is not None:
            continue
        row = sequence.prefilled
        while row < sequence.prompt_rows and (left > 0 or not plan.prefill):
            end = sequence.prefix_rows if row < sequence.prefix_rows else sequence.prompt_rows
            rows = min(options.prefill_piece_rows, end - row)
            plan.prefill.append((sequence, row, rows))
            row += rows
            left -= rows
        if row >= sequence.prompt_rows and sequence.may_advance:
            plan.advance.append(sequence)
    return plan


def end_of(sequence: SequenceState, *, drew_end: bool) -> FinishReason | None:
    """How a sequence ends after the frame it has just made, or None if it goes on."""
    if drew_end:
        return "stop"
    if sequence.frames >= sequence.max_frames:
        return "length"
    return "runaway" if sequence.frames >= sequence.runaway_frames else None


def plan_decode(
    sequences: Iterable[SequenceT], options: EngineOptions, *, now_s: float, step_s: float
) -> dict[int, list[SequenceT]]:
    """Group the sequences whose codes become sound now by how many frames they decode.

    step_s: how long a step takes at present
    """
    groups: dict[int, list[SequenceT]] = {}
    for sequence in sequences:
        if sequence.frames > sequence.decoded and sequence.has_room:
            frames = chunk_frames(sequence, options, now_s=now_s, step_s=step_s)
            if frames:
                groups.setdefault(frames, []).append(sequence)
    return groups


def chunk_frames(
    sequence: SequenceState, options: EngineOptions, *, now_s: float, step_s: float
) -> int:
    """Return how many frames to decode now; 0 to wait for more.

    A chunk is as large as the ramp allows, since large ones cost less per frame. It is sent
    earlier, with the largest size of the ramp that is there, if the reader would otherwise run
    dry. Where frames take longer than they last the reader runs dry anyway, and small chunks
    would only make it worse.
    """
    ramp = options.chunk_frames
    full = ramp[min(sequence.chunks, len(ramp) - 1)]
    there = sequence.frames - sequence.decoded
    if there >= full or sequence.end is not None:
        return min(there, full)
    if options.deterministic or step_s >= FRAME_S or sequence.first_sent_s is None:
        return 0
    lead_s = sequence.decoded * FRAME_S - (now_s - sequence.first_sent_s)
    if lead_s > options.margin_s + 2 * step_s:
        return 0
    return max((size for size in ramp if size <= there), default=0)
