"""The scheduler: what the next step prefills, advances by a frame, and decodes to audio.

Pure: the same sequences, limits and time give the same plan, and planning changes nothing.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
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
    def unread(self) -> int:
        """Rows of the prompt that are left to read."""
        return self.prompt_rows - self.prefilled

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


@dataclass(frozen=True, slots=True)
class DecodeGroup(Generic[SequenceT]):
    """Sequences whose next `frames` frames are decoded in one call; is_first: their first ones."""

    frames: int
    is_first: bool
    sequences: list[SequenceT] = field(default_factory=list)


def prompts_per_step(
    sequences: Collection[SequenceState], waiting: int, options: EngineOptions
) -> int:
    """Return how many prompts a step reads at least; `waiting`: utterances without a slot.

    So many that all who are there can begin within `start_steps` steps. Of those who come together
    nobody then waits longer than twice the mean for the first audio, if a prompt costs no less than
    a row of a frame: with fewer at a time, the frames of ever more others add up before the last.
    With more at a time the first ones wait longer, and so do those who speak already.
    """
    return -(-min(len(sequences) + waiting, options.slots) // options.start_steps)


def may_join(sequences: Collection[SequenceState], waiting: int, options: EngineOptions) -> bool:
    """Whether the next of `waiting` utterances may take a slot: when a step may read its prompt."""
    unread = [sequence.unread for sequence in sequences if not sequence.is_ready]
    is_short = sum(unread) < options.prefill_rows_per_step
    return is_short or len(unread) < prompts_per_step(sequences, waiting, options)


def plan_step(
    sequences: Sequence[SequenceT], waiting: int, options: EngineOptions
) -> StepPlan[SequenceT]:
    """Plan the prompts to read, in order of arrival, and one frame for every other sequence.

    Beyond `prompts_per_step`, short prompts are read as long as the rows of one step hold them.
    A sequence whose prompt is complete after this step's reading advances in the same step; one
    whose reader or writer does not keep up, or that has begun its last frame, does not.
    """
    plan: StepPlan[SequenceT] = StepPlan()
    unread = [s for s in sequences if s.end is None and not s.is_ready]
    short = bisect_right(list(accumulate(s.unread for s in unread)), options.prefill_rows_per_step)
    for sequence in unread[: max(short, prompts_per_step(sequences, waiting, options))]:
        plan.prefill.extend((sequence, *piece) for piece in _pieces(sequence, options))
    read = {sequence: start + rows for sequence, start, rows in plan.prefill}
    for sequence in sequences:
        row = read.get(sequence, sequence.prefilled)
        if sequence.end is None and row >= sequence.prompt_rows and sequence.may_advance:
            plan.advance.append(sequence)
    return plan


def _pieces(sequence: SequenceState, options: EngineOptions) -> Iterator[tuple[int, int]]:
    """Yield the first row and the rows of each piece of a prompt that a step reads."""
    row, most = sequence.prefilled, sequence.prefilled + options.prefill_rows_per_step
    while row < min(most, sequence.prompt_rows):
        end = sequence.prefix_rows if row < sequence.prefix_rows else sequence.prompt_rows
        rows = min(options.prefill_piece_rows, end - row)
        yield row, rows
        row += rows


def end_of(sequence: SequenceState, *, drew_end: bool) -> FinishReason | None:
    """How a sequence ends after the frame it has just made, or None if it goes on."""
    if drew_end:
        return "stop"
    if sequence.frames >= sequence.max_frames:
        return "length"
    return "runaway" if sequence.frames >= sequence.runaway_frames else None


def plan_decode(
    sequences: Iterable[SequenceT], options: EngineOptions, *, now_s: float, step_s: float
) -> list[DecodeGroup[SequenceT]]:
    """Group the sequences whose codes are decoded now: those without any audio yet first.

    step_s: how long a step takes at present
    """
    groups: dict[tuple[bool, int], DecodeGroup[SequenceT]] = {}
    for sequence in sequences:
        if sequence.frames > sequence.decoded and sequence.has_room:
            frames = chunk_frames(sequence, options, now_s=now_s, step_s=step_s)
            if frames:
                is_first = sequence.chunks == 0
                group = groups.setdefault((is_first, frames), DecodeGroup(frames, is_first))
                group.sequences.append(sequence)
    return sorted(groups.values(), key=lambda group: not group.is_first)


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
