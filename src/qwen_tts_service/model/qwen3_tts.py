"""The Qwen3-TTS model: load a checkpoint of any kind, prefill, make frames, decode audio.

`load` reads the official directory as it is published. `begin` gives a slot to an utterance,
`frame_step` makes the next 16 codes of any set of slots, `codec.decode` turns codes into audio.
State is passed in (`SlotState`, `CodecState`).

Letters: S slots, B rows, R prompt rows, Q codebooks, C width, V = codes + 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.kernels.attention import Attention, CachePositions, choose_attention
from qwen_tts_service.kernels.device import network_dtype, prepare, upload, with_number
from qwen_tts_service.kernels.fused.choice import KernelChoice, choose_kernels
from qwen_tts_service.kernels.fused.choose import choose_code, penalise_logits
from qwen_tts_service.kernels.fused.finish import finish_frame
from qwen_tts_service.kernels.fused.noise import race_noise
from qwen_tts_service.kernels.large_pages import use_large_pages
from qwen_tts_service.kernels.linear import Arithmetic, choose_arithmetic, describe_arithmetic
from qwen_tts_service.types import KeptVoice, ReportProgress, SamplingOptions

from .code_predictor import CodePredictor, sum_embeddings
from .codec.decoder import CodecDecoder
from .codec.state import CodecState
from .config import ModelConfig, load_config
from .prompt_embeddings import PromptEmbedder, PromptEmbeddings
from .sampling import MIN_FRAMES, CounterDraw, Draw, Sampler, penalise
from .speaker_encoder import SpeakerEncoder
from .state import SlotState, StartNumbers, allocate_slots
from .talker import Talker
from .tokenizer import ROLE_TOKENS, Split, Tokenizer
from .voice_encoder import VoiceEncoder
from .weights import CheckpointFile, check_finite

_MANY_BYTES = 256 << 20
"""Weights that no cache holds: from here on large pages pay."""


@dataclass(frozen=True, slots=True)
class ModelSetup:
    """How the checkpoint in `path` is going to run, known before its weights are read."""

    path: Path
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    codec_dtype: torch.dtype
    linear: Arithmetic
    attention: Attention
    is_fused: bool


def _load_codec(setup: ModelSetup, has_tf32: bool, on_progress: ReportProgress) -> CodecDecoder:
    with CheckpointFile(
        setup.path / "speech_tokenizer" / "model.safetensors",
        device=setup.device,
        dtype=setup.codec_dtype,
        arithmetic="float" if setup.linear == "float" else "packed",
        ignored=CodecDecoder.IGNORED,
        on_take=lambda taken: on_progress("loading the codec", 0.7 + 0.3 * taken),
    ) as weights:
        return CodecDecoder(setup.config.codec, weights, is_fused=setup.is_fused, has_tf32=has_tf32)


@dataclass(frozen=True, slots=True)
class Qwen3TTS:
    """The networks, the tokenizer and the configuration of one checkpoint, on one device.

    encoder: makes voices of recordings; None where the checkpoint cannot
    """

    config: ModelConfig
    tokenizer: Tokenizer
    prompts: PromptEmbedder
    talker: Talker
    code_predictor: CodePredictor
    codec: CodecDecoder
    device: torch.device
    dtype: torch.dtype
    linear: Arithmetic
    kernels: KernelChoice
    encoder: VoiceEncoder | None = None

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        codec_dtype: torch.dtype = torch.float32,
        codec_tf32: bool = False,
        linear: Arithmetic | None = None,
        use_flash_attention: bool = True,
        fuse: bool = False,
        fused_kernels: bool | None = None,
        split: Split = "qwen2",
        before_weights: Callable[[ModelSetup], object] = lambda _setup: None,
        on_progress: ReportProgress = lambda _step, _fraction: None,
    ) -> "Qwen3TTS":
        """Read a checkpoint; raises StartupError that names every file, field or tensor amiss.

        dtype, linear: of talker and code predictor; None: by `network_dtype`, `choose_arithmetic`
        codec_dtype, codec_tf32: of the codec, published in float32; whether it multiplies in TF32
        fuse, fused_kernels: compile the networks (for CUDA); run kernels/fused, None: if it can
        before_weights: called before any weight is read; what it raises ends the loading
        """
        device = with_number(torch.device(device))
        prepare(device, fuse=fuse, tf32=codec_tf32)
        dtype = dtype or network_dtype(device)
        linear = choose_arithmetic(linear, device, dtype)
        on_progress("reading the configuration", 0.0)
        tokenizer = Tokenizer(path, config := load_config(path), split)
        fused = (kernels := choose_kernels(device, asked=False if fuse else fused_kernels)).is_fused
        attention = choose_attention(
            device, dtype, config.talker, use_flash=use_flash_attention, is_fused=fused
        )
        setup = ModelSetup(path, config, device, dtype, codec_dtype, linear, attention, fused)
        before_weights(setup)
        with CheckpointFile(
            path / "model.safetensors",
            device=device,
            dtype=dtype,
            arithmetic="ordered" if fused and linear == "float" else linear,
            ignored=SpeakerEncoder.PREFIXES,  # of a Base, or left in one that was fine-tuned
            on_take=lambda taken: on_progress("loading the networks", 0.05 + 0.65 * taken),
        ) as weights:
            talker = Talker(config, weights, attention, is_fused=fused)
            code_predictor = CodePredictor(config, weights, is_fused=fused)
            for stack in (talker.stack, code_predictor.stack) if fuse else ():
                stack.fuse()
            prompts = PromptEmbedder(config, weights, talker.embedding, code_predictor.embed)
        codec = _load_codec(setup, codec_tf32, on_progress)
        encoder = VoiceEncoder.load(path, config) if config.kind == "base" else None
        check_finite(path, talker=talker, code_predictor=code_predictor, codec=codec)
        networks = (prompts, talker, code_predictor, codec)
        model = cls(config, tokenizer, *networks, device, dtype, linear, kernels, encoder)
        if device.type == "cpu" and model.weight_bytes >= _MANY_BYTES:
            use_large_pages()
        on_progress("loaded", 1.0)
        return model

    @property
    def attention(self) -> Attention:
        """The attention in use: `name` and `reason` are for people."""
        return self.talker.attention

    @property
    def linear_layers(self) -> str:
        """What linear layers compute in, for people."""
        return describe_arithmetic(self.linear)

    @property
    def is_fused(self) -> bool:
        """Whether the fused kernels of kernels/fused run."""
        return self.kernels.is_fused

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights on the device, packed ones included.

        The text embedding is not in it: it stays in the mapped file, on the host.
        """
        parts = (self.talker, self.code_predictor, self.prompts, self.codec)
        # By address: talker and prompts share a table.
        plain = {t.data_ptr(): t.nbytes for part in parts for t in part.parameters()}
        packed = [getattr(layer, "packed_bytes", 0) for part in parts for layer in part.modules()]
        return sum(plain.values()) + sum(packed)

    def new_state(self, *, slots: int, max_positions: int, max_text_rows: int = 1024) -> SlotState:
        """Allocate state for S slots of at most `max_positions` prompt rows and frames each."""
        assert max_positions <= self.config.max_positions
        return allocate_slots(
            self.config,
            slots=slots,
            max_positions=max_positions,
            max_text_rows=max_text_rows,
            dtype=self.dtype,
            device=self.device,
        )

    def hear(self, voice: KeptVoice) -> CodecState:
        """Return the codec's state of one slot in which a voice's recording has been decoded.

        What continues from it follows the recording without a seam, and has none of it.
        """
        return self.codec.hear(torch.tensor(voice.codes, device=self.device).T[None])

    @torch.inference_mode()
    def prepare(self) -> None:
        """Do now what the first use would wait for: prompt rows of every voice and language.

        And, of a model that clones voices, what kernels have to be compiled for a recording.
        """
        self.prompts.prepare(self.tokenizer.encode("")[:ROLE_TOKENS])
        if self.encoder is not None and self.is_fused:
            self.codec.warm_up()

    @torch.inference_mode()
    def begin(
        self,
        state: SlotState,
        slot: int,
        prompt: PromptEmbeddings,
        *,
        seed: int,
        sampling: SamplingOptions,
        predictor_sampling: SamplingOptions | None = None,
    ) -> None:
        """Reset a slot for a prompt whose rows, but for the last, `prefill` will read.

        seed: any integer of 64 bits; predictor_sampling: None is the talker's own
        raises InvalidRequest for a prompt longer than the slot
        """
        if len(prompt.rows) > state.max_positions:
            longest = state.max_positions
            raise InvalidRequest(
                f"text and instruct need more than {longest} positions", param="text"
            )
        self._check_text_rows(state, len(prompt.text_rows))
        numbers = StartNumbers.of(
            slot, prompt, seed=seed, talker=sampling, predictor=predictor_sampling or sampling
        )
        integers, reals = (upload(part, self.device) for part in numbers.tensors())
        state.begin(integers, reals, prompt.rows[-1])
        state.text_rows[slot, : len(prompt.text_rows)] = prompt.text_rows

    def read_prompt(self, state: SlotState, slot: int, prompt: PromptEmbeddings) -> None:
        """Read at once all rows of a prompt that its slot has begun, but for the last."""
        slots, rows = torch.tensor([slot], device=self.device), prompt.rows[:-1]
        self.prefill(state, rows, [self.piece(slots, 0, len(rows))])

    def piece(
        self, slot: Tensor, start: int, rows: int, *, bound: int | None = None
    ) -> CachePositions:
        """Say where `rows` prompt rows go: to a slot int64 [1], from position `start` on."""
        positions = torch.arange(start, start + rows, device=self.device)
        return CachePositions(slot, positions, bound or start + rows)

    @torch.inference_mode()
    def append_text(self, state: SlotState, slot: int, rows: Tensor, *, start: int) -> None:
        """Add text rows [n, C] behind the `start` that a slot has; InvalidRequest if too many."""
        self._check_text_rows(state, start + len(rows))
        state.text_rows[slot, start : start + len(rows)] = rows
        # `x[slot] = number` would copy from the host and wait for it; `fill_` does not.
        state.text_length[slot].fill_(start + len(rows))

    @staticmethod
    def _check_text_rows(state: SlotState, rows: int) -> None:
        most = state.text_rows.shape[1]
        if rows > most:
            raise InvalidRequest(f"streamed text is too long; {most} tokens at most", param="text")

    @torch.inference_mode()
    def prefill(self, state: SlotState, rows: Tensor, pieces: Sequence[CachePositions]) -> Tensor:
        """Read rows [R, C] of one or more prompts, side by side; normed hidden states [R, C].

        pieces: where they go, in their order: consecutive rows of one slot each, as `piece` says;
        with fused kernels also any rows, with a slot for each
        """
        return self.talker.prefill(rows, state, pieces)

    @torch.inference_mode()
    def frame_step(
        self,
        state: SlotState,
        slots: Tensor,
        *,
        draw: Draw = CounterDraw(),  # noqa: B008 - it has no state
        full_sort: bool = True,
        bound: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Make the next frame of each of the slots int64 [B], without a wait for the device.

        draw: how codes are drawn; full_sort: see `Sampler`; bound: a bound above
        `state.length` of all rows, None for the whole cache
        returns: codes int64 [B, Q], and is_end bool [B]: the row drew end of speech, and its
        codes (in range, but meaningless) are no frame
        """
        if self.is_fused and isinstance(draw, CounterDraw):
            return self._fused_frame(state, slots)
        seed, frame = state.seed[slots], state.frame[slots]
        hidden, logits = self._talk(state, slots, bound)
        draws = draw.frame(seed, frame, self.config.codebooks, logits.shape[1])
        seen, penalty = state.seen[slots], state.repetition_penalty[slots].float()
        choose = Sampler(state.talker_sampling.rows(slots), draws, full_sort=full_sort)
        first = choose(penalise(logits, seen, penalty, frame), 0)
        is_end = first == self.config.codes
        first = first.masked_fill(is_end, 0)
        embedded = self.talker.embedding[first]
        choose = Sampler(state.predictor_sampling.rows(slots), draws, full_sort=full_sort)
        rest = self.code_predictor(hidden, embedded, choose)
        state.seen[slots] = seen.scatter(1, first[:, None], True)
        state.next_input[slots] = self._next_input(state, slots, embedded, rest, frame)
        state.frame[slots] = frame + 1
        return torch.cat((first[:, None], rest), dim=1), is_end

    def _fused_frame(self, state: SlotState, slots: Tensor) -> tuple[Tensor, Tensor]:
        """`frame_step` with fused kernels, which read each slot's parameters where they lie."""
        frames, end = state.frame[slots], self.config.codes
        positions = state.length[slots].clamp(max=state.max_positions - 1)
        at = CachePositions(slots, positions, state.max_positions)
        hidden, logits = self.talker.step(state.next_input[slots], state, at)
        state.length.index_put_((slots,), positions + 1)
        noise = race_noise(state.seed[slots], frames, self.config.codebooks, logits.shape[1])
        codes = slots.new_empty(len(slots), self.config.codebooks)
        logits = penalise_logits(
            logits, slots, state.repetition_penalty, frames, state.seen, state.logits, MIN_FRAMES
        )

        def choose(
            logits: Tensor, book: int, table: Tensor, first_row: int, end: int = -1
        ) -> Tensor:
            sampling = state.predictor_sampling if book else state.talker_sampling
            options = (sampling.temperature, sampling.top_k, sampling.top_p)
            return choose_code(logits, noise, slots, *options, table, first_row, codes, book, end)

        embedded = choose(logits, 0, self.talker.embedding, 0, end)
        is_end = codes[:, 0] == end
        codes[:, 0].masked_fill_(is_end, 0)
        self.code_predictor.draw_fused(hidden, embedded, choose)
        finish_frame(
            codes, slots, frames, self.talker.embedding, self.code_predictor.embedding,
            state.text_rows, state.text_length, self.prompts.pad_row,
            state.next_input, state.frame, state.seen,
        )  # fmt: skip
        return codes, is_end

    def _talk(self, state: SlotState, slots: Tensor, bound: int | None) -> tuple[Tensor, Tensor]:
        """Feed the talker what each slot has waiting; hidden [B, C], logits float32 [B, V]."""
        # A row that runs on after its end stays inside its own slot.
        positions = state.length[slots].clamp(max=state.max_positions - 1)
        at = CachePositions(slots, positions, bound or state.max_positions)
        hidden, logits = self.talker.step(state.next_input[slots], state, at)
        state.logits[slots] = logits
        state.length[slots] = positions + 1
        return hidden, logits

    def _next_input(
        self, state: SlotState, slots: Tensor, embedded: Tensor, rest: Tensor, frame: Tensor
    ) -> Tensor:
        """Sum the frame's Q embeddings and its text row: [B, C]."""
        codes = torch.cat((embedded[:, None], self.code_predictor.embed(rest)), dim=1)
        last = state.text_rows.shape[1] - 1
        text = state.text_rows[slots, frame.clamp(max=last)]
        has_text = (frame < state.text_length[slots])[:, None]
        return sum_embeddings(codes) + torch.where(has_text, text, self.prompts.pad_row)
