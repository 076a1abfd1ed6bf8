"""Penalties, filters and draws against a plain reference, one row and one choice at a time."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tts_service.kernels.fused import noise as noise_module
from qwen_tts_service.model.sampling import MAX_TOP_K, CounterDraw, Sampler, penalise
from qwen_tts_service.model.state import SamplingState, SlotState, StartNumbers
from qwen_tts_service.types import SamplingOptions


def plain_scores(logits, history, frame, settings):
    """Process one row as specified: a list of scores, excluded ones are -inf."""
    scores = [float(x) for x in logits]
    for token in set(history):
        x, penalty = scores[token], settings.repetition_penalty
        scores[token] = x * penalty if x < 0 else x / penalty
    if frame < 2:
        scores[-1] = -math.inf
    if settings.temperature == 0:
        return scores
    scores = [x / settings.temperature for x in scores]
    if settings.top_k:
        worst = sorted(scores, reverse=True)[: settings.top_k][-1]
        scores = [x if x >= worst else -math.inf for x in scores]
    if settings.top_p < 1:
        weights = [math.exp(x - max(scores)) for x in scores]
        total, ascending = 0.0, sorted(range(len(scores)), key=lambda i: scores[i])
        for token in ascending[:-1]:
            total += weights[token] / sum(weights)
            if total <= 1 - settings.top_p:
                scores[token] = -math.inf
    return scores


def state_of(rows):
    return SamplingState(
        torch.tensor([row.temperature for row in rows]),
        torch.tensor([row.top_k for row in rows]),
        torch.tensor([row.top_p for row in rows], dtype=torch.float64),
    )


def empty_state(slots):
    none = torch.zeros(0)
    return SlotState(
        keys=none,
        values=none,
        next_input=torch.zeros(slots, 2),
        logits=none,
        text_rows=none,
        seen=torch.zeros(slots, 4, dtype=torch.bool),
        integers=torch.full((6, slots), 7),
        reals=torch.ones(5, slots, dtype=torch.float64),
    )


def processed(logits, histories, frames, rows, *, full_sort=True):
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for row, history in enumerate(histories):
        seen[row, list(history)] = True
    penalty = torch.tensor([row.repetition_penalty for row in rows])
    logits = penalise(logits, seen, penalty, torch.tensor(frames))
    return filter_logits(logits, state_of(rows), full_sort=full_sort)


def filter_logits(logits, sampling, *, full_sort=True):
    return Sampler(sampling, draw=None, full_sort=full_sort).filter(logits)


def row_settings(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0):
    return SimpleNamespace(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty
    )


ROWS = st.builds(
    row_settings,
    temperature=st.sampled_from([0.0, 0.6, 1.0, 1.3]),
    top_k=st.sampled_from([0, 1, 5, 50, 64, 100]),
    top_p=st.sampled_from([0.05, 0.55, 0.8, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.05, 1.5]),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=4), seed=st.integers(0, 1000), frame=st.integers(0, 3)
)
def test_every_row_is_processed_as_the_plain_reference_does(rows, seed, frame):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(rows), 65, generator=generator) * 3
    histories = [torch.randint(0, 64, (frame,), generator=generator).tolist() * 2 for _ in rows]
    frames = [frame] * len(rows)
    got = processed(logits, histories, frames, rows)
    for row, settings_ in enumerate(rows):
        expected = torch.tensor(plain_scores(logits[row], histories[row], frame, settings_))
        torch.testing.assert_close(got[row], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_the_cheap_way_gives_the_same_bits(rows, seed):
    for row in rows:
        row.top_p, row.top_k = 1.0, min(row.top_k, MAX_TOP_K)
    logits = torch.randn(len(rows), 2049, generator=torch.Generator().manual_seed(seed))
    sampling = state_of(rows)
    assert torch.equal(
        filter_logits(logits, sampling, full_sort=True),
        filter_logits(logits, sampling, full_sort=False),
    )


def test_a_row_is_processed_the_same_alone_and_among_others():
    rows = [row_settings(0.7, 50, 0.8), row_settings(0.0), row_settings(1.2, 0, 0.3)]
    logits = torch.randn(3, 2049, generator=torch.Generator().manual_seed(0))
    together = filter_logits(logits, state_of(rows))
    for row, settings_ in enumerate(rows):
        alone = filter_logits(logits[row : row + 1], state_of([settings_]))
        assert torch.equal(alone[0], together[row])


def test_ties_with_the_kth_best_stay():
    logits = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0]])
    for full_sort in (True, False):
        kept = filter_logits(logits, state_of([row_settings(top_k=2)]), full_sort=full_sort)
        assert kept.isfinite().tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("top_k", [0, 2])
def test_the_smallest_top_p_keeps_the_best_alone(top_k):
    logits = torch.tensor([[1.0, 20.0, 1.0, 0.0], [5.0, 1.0, 30.0, 29.0]])
    kept = filter_logits(logits, state_of([row_settings(top_p=1e-9, top_k=top_k)] * 2))
    assert kept.isfinite().tolist() == [[False, True, False, False], [False, False, True, False]]


def test_a_top_p_next_to_1_is_not_rounded_to_1():
    state = state_of([row_settings(top_k=0, top_p=top_p) for top_p in (1 - 1e-8, 1.0)])
    # The second choice has a probability of 2e-9.
    kept = filter_logits(torch.tensor([[20.0, 0.0, -200.0]] * 2), state)
    assert kept.isfinite().tolist() == [[True, False, False], [True, True, True]]


def test_a_probability_of_exactly_what_top_p_spares_is_dropped():
    kept = filter_logits(torch.zeros(1, 4), state_of([row_settings(top_p=0.75)]))
    assert kept.isfinite().tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("full_sort", [True, False])
def test_top_k_may_exceed_the_number_of_choices(full_sort):
    logits = torch.tensor([[3.0, 1.0, 2.0]])
    kept = filter_logits(logits, state_of([row_settings(top_k=50)]), full_sort=full_sort)
    assert torch.equal(kept, logits)


def test_what_is_filtered_is_drawn_with_the_codebooks_draw():
    calls = []

    def last(logits, codebook):
        calls.append((logits.isfinite().tolist(), codebook))
        return torch.full((len(logits),), 2)

    rows = state_of([row_settings(top_k=1), row_settings(0.0)])
    logits = torch.tensor([[3.0, 1.0, 2.0], [9.0, 1.0, 2.0]])
    assert Sampler(rows, last)(logits, 7).tolist() == [2, 0]
    assert calls == [([[True, False, False], [True, True, True]], 7)]


def test_a_slot_keeps_its_own_sampling():
    state = empty_state(slots=3)
    talker = SamplingOptions(temperature=0.5, top_k=7, top_p=0.8, repetition_penalty=1.5)
    predictor = SamplingOptions(temperature=0.25, top_k=9, top_p=0.6)
    before = [state.integers.clone(), state.reals.clone()]
    prompt = SimpleNamespace(rows=range(6), text_rows=range(2))
    start = StartNumbers.of(1, prompt, seed=-3, talker=talker, predictor=predictor)
    state.begin(*start.tensors(), torch.zeros_like(state.next_input[1]))
    drawn = [state.talker_sampling, state.predictor_sampling]
    rows = [sampling.rows(torch.tensor([1])) for sampling in drawn]
    assert [row.temperature.tolist() for row in rows] == [[0.5], [0.25]]
    assert [row.top_k.tolist() for row in rows] == [[7], [9]]
    assert [row.top_p.tolist() for row in rows] == [[0.8], [0.6]]
    numbers = (state.length, state.frame, state.seed, state.text_length, state.repetition_penalty)
    assert [float(x[1]) for x in numbers] == [5, 0, -3, 2, 1.5]
    for table, old in zip((state.integers, state.reals), before, strict=True):
        assert torch.equal(table[:, [0, 2]], old[:, [0, 2]])


def test_the_penalty_counts_a_token_once_and_pushes_negative_logits_down():
    logits = torch.tensor([[2.0, -2.0, 2.0, 0.0]])
    rows = [row_settings(repetition_penalty=2.0)]
    got = processed(logits, [[0, 0, 0, 1]], [5], rows)
    assert got.tolist() == [[1.0, -4.0, 2.0, 0.0]]


@pytest.mark.parametrize(("frame", "is_open"), [(0, False), (1, False), (2, True)])
def test_the_end_cannot_come_before_two_frames(frame, is_open):
    logits = torch.tensor([[0.0, 9.0]])
    assert bool(processed(logits, [[]], [frame], [row_settings()])[0, 1].isfinite()) is is_open


def test_temperature_0_takes_the_first_of_the_best():
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0], [7.0, 1.0, 7.0, 7.0]])
    sampling = state_of([row_settings(0.0, 1, 0.01), row_settings(0.0)])
    draw = CounterDraw().frame(torch.tensor([1, 2]), torch.tensor([0, 0]), 16, 4)
    assert Sampler(sampling, draw)(logits, 3).tolist() == [1, 0]


# The counter draw ------------------------------------------------------------------------


def noise(seed, frame, codebook, choices=2049):
    seeds, frames = torch.tensor([seed]), torch.tensor([frame])
    return CounterDraw.noise(seeds, frames, 16, choices)[0, codebook]


def test_a_draw_depends_on_seed_frame_codebook_and_choice_alone():
    seeds, frames = torch.tensor([7, 2**62 + 5, 7, -3]), torch.tensor([0, 3, 9, 3])
    together = CounterDraw.noise(seeds, frames, 5, 2049)[:, 4]
    for row in range(4):
        assert torch.equal(together[row], noise(int(seeds[row]), int(frames[row]), 4))
    assert torch.equal(noise(7, 3, 4, 65), noise(7, 3, 4)[:65])


@pytest.mark.parametrize(
    "other",
    [(8, 3, 4), (7 + 2**32, 3, 4), (7 - 2**63, 3, 4), (7, 4, 4), (7, 3, 5), (7, 67, 4), (7, 3, 0)],
)
def test_another_seed_frame_or_codebook_draws_anew(other):
    a, b = noise(7, 3, 4).double(), noise(*other).double()
    # 2049 pairs of independent values: their correlation stays below 5/sqrt(2049).
    assert abs(float(torch.corrcoef(torch.stack((a, b)))[0, 1])) < 0.11


def test_each_codebook_is_drawn_with_its_own_noise():
    seeds, frames = torch.tensor([3, 4]), torch.tensor([8, 9])
    draw = CounterDraw().frame(seeds, frames, 6, 40)
    noise = CounterDraw.noise(seeds, frames, 6, 40)
    for book in range(6):
        expected = (-noise[:, book, :30]).argmax(dim=1)
        assert torch.equal(draw(torch.zeros(2, 30), book), expected)


@pytest.mark.parametrize("word", [0, 0xFFFFFFFF])
def test_noise_is_finite_for_every_hash(monkeypatch, word):
    monkeypatch.setattr(noise_module, "mix", lambda x: torch.full_like(x, word))
    zero = torch.zeros(1, dtype=torch.int64)
    # The hash of a choice is the exclusive or of two words.
    monkeypatch.setattr(torch.Tensor, "bitwise_xor_", lambda x, _: x)
    assert CounterDraw.noise(zero, zero, 2, 3).isfinite().all()


def test_noise_is_the_log_of_exponential_values():
    values = CounterDraw.noise(torch.arange(64), torch.zeros(64, dtype=torch.int64), 1, 2048)
    energy = values.double().exp().flatten()
    # Kolmogorov-Smirnov against 1 - exp(-x), 131,072 values: 1.95 / sqrt(n) is p = 0.001.
    cdf = 1 - torch.exp(-energy.sort().values)
    steps = torch.arange(1, len(energy) + 1) / len(energy)
    assert (cdf - steps).abs().max() < 1.95 / math.sqrt(len(energy))
    assert values.isfinite().all()


def test_tokens_fall_as_often_as_their_probabilities_say():
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0])
    n = 20_000
    logits = probabilities.log().expand(n, -1)
    drawn = CounterDraw().frame(torch.full((n,), 5), torch.arange(n), 3, 5)(logits, 2)
    counts = torch.bincount(drawn, minlength=5).double()
    assert counts[4] == 0
    expected = probabilities[:4].double() * n
    chi_square = ((counts[:4] - expected) ** 2 / expected).sum()
    assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001


def test_draws_of_neighbouring_frames_are_independent():
    n = 20_000
    logits = torch.zeros(n, 4)
    drawn = CounterDraw().frame(torch.full((n,), 11), torch.arange(n), 1, 4)(logits, 0)
    pairs = torch.bincount(drawn[:-1] * 4 + drawn[1:], minlength=16).double()
    expected = (n - 1) / 16
    assert ((pairs - expected) ** 2 / expected).sum() < 37.7  # 15 degrees of freedom, p = 0.001


def test_the_noise_of_a_seed_never_changes():
    """A seed given out once must give the same audio in later releases."""
    values = noise(1234567890123, 17, 5, 4)
    torch.testing.assert_close(values, torch.tensor(PINNED), rtol=0, atol=1e-6)


PINNED = [-0.4177884, -0.9129325, -3.0101614, 0.8613662]


def test_the_torch_draw_uses_up_one_number_per_column_of_the_reference(parity):
    logits = torch.randn(1, 65, generator=torch.Generator().manual_seed(0))
    wide = torch.full((1, 1088), -math.inf)
    wide[:, :64], wide[:, 166] = logits[:, :64], logits[:, 64]
    nothing = torch.zeros(1, dtype=torch.int64)
    draw = parity.TorchDraw(1088, 166).frame(nothing, nothing, 16, 65)
    for seed in range(50):
        torch.manual_seed(seed)
        expected = int(torch.multinomial(wide.softmax(1), 1))
        torch.manual_seed(seed)
        got = int(draw(logits, 0))
        assert got == (64 if expected == 166 else expected)
