"""Unmasking by confidence: its counts, its order, its law, and the samplers that refuse tokens."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import pytest
import torch
from torch import Tensor

from softmix.posterior import Empirical
from softmix.process import VP, Masked
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, SamplerError, ancestral, ddim, drive, noised, sample, traits, unmask
from softmix.sampler.unmask import Confidence
from token_chain import LENGTH, SYMBOLS, TableDenoiser, code, distance, floor, law, rows, table

pytestmark = pytest.mark.usefixtures("on_device")
MASK, DRAWN = SYMBOLS, 20_000
EVERY: tuple[Confidence, ...] = ("probability", "entropy", "random")
tokens = partial(sample, batch=DRAWN)


def by(confidence: Confidence, **more: float) -> partial:  # type: ignore[type-arg]
    return partial(unmask, confidence=confidence, **more)


@pytest.mark.parametrize("confidence", EVERY)
@pytest.mark.parametrize("process", [Masked(SYMBOLS), Masked(SYMBOLS, "cosine")], ids=str)
def test_the_number_of_masks_is_that_of_the_schedule(confidence: Confidence, process: Masked) -> None:
    """Of every item, after every step; and a visible token never changes."""
    grid, before = process.grid(6), torch.full((50, LENGTH), MASK)
    run = drive(TableDenoiser(process=process), by(confidence), before, grid, Rng(0, 50))
    for t, step in zip(grid, run, strict=False):
        assert bool(((step.x == MASK).sum(1) == round(LENGTH * float(1 - process.alpha(t)))).all())
        assert torch.equal(step.x[before != MASK], before[before != MASK])
        before = step.x


def test_the_counts_are_shares_of_the_masks_at_the_start() -> None:
    """An item with two masks at t = 1/2 has one after a step to 1/4, and one with none keeps none."""
    x = torch.tensor([[MASK, 0, 1, MASK], [0, 1, 2, 0], [MASK] * 4])
    run = drive(TableDenoiser(), by("random"), x, torch.tensor([0.5, 0.25, 0.0]), Rng(0, 3))
    counts = [(step.x == MASK).sum(1).tolist() for step in run]
    assert counts == [[2, 0, 4], [1, 0, 2]]


@pytest.mark.parametrize("confidence", ["entropy", "random"])
def test_one_token_a_step_in_an_order_without_the_drawn_values_has_the_law_of_the_data(confidence: Confidence) -> None:
    x = tokens(TableDenoiser(), DRAWN, LENGTH, sampler=by(confidence))
    assert distance(x, law()) < floor(law(), DRAWN)


def test_an_order_by_drawn_values_makes_probable_rows_too_frequent() -> None:
    x = tokens(TableDenoiser(), DRAWN, LENGTH, sampler=unmask)
    assert distance(x, law()) > 5 * floor(law(), DRAWN)
    logs = law().log()
    assert float(logs[code(x, SYMBOLS)].mean()) > float((law() * logs).sum()) + 0.2


def law_of_two_steps() -> Tensor:
    """A pair of places, equally likely any, from the masks; then the other pair given the first: [81]."""
    belief, clean = table().exp(), rows(SYMBOLS)
    total, start = torch.zeros(len(clean), dtype=torch.float64), belief[-1]
    for pair in combinations(range(LENGTH), 2):
        others = [place for place in range(LENGTH) if place not in pair]
        middle = clean.clone()
        middle[:, others] = MASK
        first = torch.stack([start[clean[:, place], place] for place in pair]).prod(0)
        given = belief[code(middle, SYMBOLS + 1)]
        second = torch.stack([given[torch.arange(len(clean)), clean[:, place], place] for place in others]).prod(0)
        total += first * second / 6
    return total


def test_a_random_order_with_two_tokens_a_step_has_its_enumerated_law() -> None:
    right = law_of_two_steps()
    assert float(right.sum()) == pytest.approx(1)
    x = tokens(TableDenoiser(), DRAWN, 2, sampler=by("random"))
    assert distance(x, right) < floor(right, DRAWN)
    assert 0.5 * float((right - law()).abs().sum()) > 3 * floor(law(), DRAWN)


def fixed(probabilities: Tensor) -> TableDenoiser:
    """The same law at each masked place for every state: probabilities [K, L]."""
    states = rows(SYMBOLS + 1)
    values = torch.arange(SYMBOLS)[None, :, None]
    sure = torch.where(states[:, None] == values, 0.0, -torch.inf)
    return TableDenoiser(torch.where(states[:, None] == MASK, probabilities.log()[None].float(), sure))


LAW = torch.tensor([[0.5, 0.9, 0.34, 0.6], [0.25, 0.05, 0.33, 0.39], [0.25, 0.05, 0.33, 0.01]])


def first_places(denoiser: TableDenoiser, sampler: object, n: int) -> Tensor:
    """The place of each item that the first of four steps unmasks, [n]."""
    run = drive(denoiser, sampler, torch.full((n, LENGTH), MASK), Masked(SYMBOLS).grid(4), Rng(0, n))  # type: ignore[arg-type]
    next(run)
    x = next(run).x
    assert bool(((x != MASK).sum(1) == 1).all())
    return (x != MASK).long().argmax(1)


@pytest.mark.parametrize(("confidence", "order"), [("probability", [1, 3, 0, 2]), ("entropy", [1, 3, 0, 2])])
def test_the_most_confident_place_comes_first(confidence: Confidence, order: list[int]) -> None:
    """By the most probable token (temperature 0) and by entropy: 0.9 before 0.6, 0.5 and 0.34."""
    run = drive(
        fixed(LAW), by(confidence, temperature=0.0), torch.full((1, LENGTH), MASK), Masked(SYMBOLS).grid(4), Rng(0, 1)
    )
    seen: list[int] = []
    for step in run:
        seen += [place for place in range(LENGTH) if step.x[0, place] != MASK and place not in seen]
    assert seen == order[:3]


def test_confidence_and_entropy_are_not_the_same() -> None:
    """Two symbols of one half have less entropy than 0.55 and two of 0.225, and a lower probability."""
    other = torch.tensor([[0.5, 0.55, 1 / 3, 1 / 3], [0.499, 0.225, 1 / 3, 1 / 3], [0.001, 0.225, 1 / 3, 1 / 3]])
    assert int(first_places(fixed(other), by("entropy", temperature=0.0), 1)) == 0
    assert int(first_places(fixed(other), by("probability", temperature=0.0), 1)) == 1


def test_a_temperature_changes_the_draws_by_a_power() -> None:
    """Frequencies of the last place to within 5 standard errors, for 1/2; and 0 takes the most probable token."""
    x = tokens(fixed(LAW), DRAWN, 1, sampler=by("random", temperature=0.5))
    right = LAW[:, 0] ** 2 / (LAW[:, 0] ** 2).sum()
    found = x[:, 0].bincount(minlength=3).double() / DRAWN
    assert bool(((found - right).abs() < 5 * (right * (1 - right) / DRAWN).sqrt()).all())
    assert bool((tokens(fixed(LAW), 5, 1, sampler=by("random", temperature=0.0)) == LAW.argmax(0)).all())


def test_gumbel_noise_makes_the_order_random_in_the_right_shares() -> None:
    """With noise 1 at 1 - alpha = 3/4 the first place is drawn by exp(c / 0.75): within 5 standard errors."""
    places = first_places(fixed(LAW), by("probability", temperature=0.0, noise=1.0), DRAWN)
    weights = LAW.amax(0) ** (1 / 0.75)
    right = weights / weights.sum()
    found = places.bincount(minlength=LENGTH).double() / DRAWN
    assert bool(((found - right).abs() < 5 * (right * (1 - right) / DRAWN).sqrt()).all())


@pytest.mark.parametrize("confidence", EVERY)
def test_a_row_does_not_depend_on_its_batch(confidence: Confidence) -> None:
    chosen = by(confidence, noise=0.5)
    several = sample(TableDenoiser(), 7, 3, sampler=chosen, seed=3)
    for k in range(7):
        assert torch.equal(sample(TableDenoiser(), 1, 3, sampler=chosen, seed=3, first=k)[0], several[k])


def test_a_start_between_is_completed_without_a_change_of_visible_tokens() -> None:
    x0 = rows(SYMBOLS)[:40]
    grid = torch.tensor([0.5, 0.2, 0.0])
    x = sample(TableDenoiser(), 40, sampler=unmask, grid=grid, start=noised(x0), at=0.5)
    same = (x == x0).double().mean()
    assert bool((x < MASK).all()) and 0.5 < float(same) < 1


def test_wrong_settings_and_other_posteriors_are_refused() -> None:
    for bad in ({"confidence": "margin"}, {"temperature": -1.0}, {"noise": -0.1}):
        with pytest.raises(ValueError, match="probability, entropy, random, and both numbers are at least 0"):
            sample(TableDenoiser(), 2, 2, sampler=partial(unmask, **bad))  # type: ignore[arg-type]

    class Whole(TableDenoiser):
        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Empirical:  # type: ignore[override]
            return Empirical(torch.zeros(len(xt), 81), rows(SYMBOLS))

    with pytest.raises(SamplerError, match="found a Empirical: take ancestral"):
        sample(Whole(), 2, 2, sampler=unmask)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda each: traits(each).name)
def test_samplers_of_numbers_refuse_tokens_and_those_that_draw_take_them(sampler: object) -> None:
    if traits(sampler).tokens:
        x = sample(TableDenoiser(), 8, 8, sampler=sampler)  # type: ignore[arg-type]
        assert bool((x < MASK).all())
        return
    with pytest.raises(SamplerError, match="the states of Masked are tokens: take ancestral, renoise, unmask"):
        sample(TableDenoiser(), 8, 30, sampler=sampler)  # type: ignore[arg-type]


def test_the_samplers_that_take_tokens_are_those_that_only_draw() -> None:
    assert [traits(each).name for each in SAMPLERS if traits(each).tokens] == ["ancestral", "renoise"]
    assert not traits(ddim).tokens and traits(ancestral).tokens and not traits(unmask).numbers


def test_renoising_exact_rows_keeps_their_law() -> None:
    """The joint posterior of rows, masked again and again."""
    agrees = ((rows(SYMBOLS + 1)[:, None] == rows(SYMBOLS)) | (rows(SYMBOLS + 1)[:, None] == MASK)).all(-1)
    logs = torch.where(agrees, law().log(), -torch.inf)

    class Rows(TableDenoiser):
        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Empirical:  # type: ignore[override]
            return Empirical(logs[code(xt, SYMBOLS + 1)], rows(SYMBOLS))

    x = tokens(Rows(), DRAWN, 3, sampler=next(s for s in SAMPLERS if traits(s).name == "renoise"))  # type: ignore[arg-type]
    assert distance(x, law()) < floor(law(), DRAWN)


def test_a_gaussian_model_refuses_to_unmask() -> None:
    class Gauss:
        process, shape = VP(), (2,)

    with pytest.raises(SamplerError, match="unmask unmasks tokens, and VP adds noise to numbers"):
        sample(Gauss(), 2, 2, sampler=unmask)  # type: ignore[arg-type]
