"""Bits per token: the log-probability for the exact posterior, and the enumerated bound for a model."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.info import bits_per_token
from softmix.oracle import eight
from softmix.posterior import Empirical
from softmix.process import Masked
from softmix.rng import Rng
from token_chain import LENGTH, SYMBOLS, TableDenoiser, code, drawn_rows, law, rows, table

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
COPIES = 2000


def enumerated(logits: Tensor, x0: Tensor) -> Tensor:
    """The bound of each row over all sets of masks, in bits per token, [B]."""
    total = torch.zeros(len(x0), dtype=F64)
    for n in range(1, LENGTH + 1):
        sets = list(combinations(range(LENGTH), n))
        for places in sets:
            xt = x0.clone()
            xt[:, list(places)] = SYMBOLS
            logs = logits.log_softmax(1)[code(xt, SYMBOLS + 1)].gather(1, x0[:, None])[:, 0]
            total -= logs[:, list(places)].sum(1) / n / len(sets) / LENGTH
    return total / math.log(2)


def wrong() -> Tensor:
    return table() + 0.7 * torch.randn(table().shape, generator=torch.Generator().manual_seed(0), dtype=F64)


def test_the_enumerated_bound_of_the_exact_posterior_is_the_log_probability_of_every_row() -> None:
    """The chain rule in every order: this is why a bound over random orders is tight."""
    assert torch.allclose(enumerated(table(), rows(SYMBOLS)), -law().log2() / LENGTH)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("draws", [1, 3, 8])
def test_the_estimate_is_unbiased_for_any_number_of_draws(draws: int, schedule: str) -> None:
    """2,000 copies of three rows, within 5 standard errors, for the exact posterior and for a wrong one."""
    x0 = rows(SYMBOLS)[[4, 40, 77]]
    for logits in (table(), wrong()):
        denoiser = TableDenoiser(logits, Masked(SYMBOLS, schedule))  # type: ignore[arg-type]
        found = bits_per_token(denoiser, x0.repeat(COPIES, 1), Rng(0, 3 * COPIES), draws, batch=3 * COPIES)
        found = found.reshape(COPIES, 3)
        error = found.std(0) / COPIES**0.5
        assert bool(((found.mean(0) - enumerated(logits, x0)).abs() < 5 * error + 1e-12).all())


def test_its_mean_over_the_data_is_the_entropy_and_a_wrong_model_is_above_it() -> None:
    entropy = float(-(law() * law().log2()).sum()) / LENGTH
    drawn = drawn_rows(6000)
    x0 = rows(SYMBOLS)[drawn]
    exact = bits_per_token(TableDenoiser(), x0, Rng(0, 6000), batch=6000)
    assert abs(float(exact.mean()) - entropy) < 5 * float(exact.std()) / 6000**0.5
    assert float((law() * enumerated(wrong(), rows(SYMBOLS))).sum()) > entropy + 0.05


def test_spread_draws_have_less_variance_than_independent_ones() -> None:
    """Eight draws over an even grid of n, against the variance of one draw divided by eight."""
    x0 = rows(SYMBOLS)[[5]].expand(COPIES, -1)
    one, eight_draws = (bits_per_token(TableDenoiser(), x0, Rng(0, COPIES), m, batch=COPIES) for m in (1, 8))
    assert float(eight_draws.var()) < 0.9 * float(one.var()) / 8


def test_the_denoiser_is_asked_at_the_time_of_its_share_of_masks() -> None:
    asked: list[tuple[float, int]] = []

    class Noting(TableDenoiser):
        def __call__(self, xt: Tensor, t: Tensor, cond: object = None) -> object:  # type: ignore[override]
            asked.extend(zip((1 - self.process.alpha(t)).tolist(), (xt == SYMBOLS).sum(1).tolist(), strict=True))
            return super().__call__(xt, t, cond)

    bits_per_token(Noting(process=Masked(SYMBOLS, "cosine")), rows(SYMBOLS), Rng(0, 81), 4)  # type: ignore[arg-type]
    assert all(share == pytest.approx(count / LENGTH) for share, count in asked)
    assert {count for _, count in asked} == {1, 2, 3, 4}


def test_an_item_does_not_depend_on_its_batch_and_keeps_its_condition() -> None:
    class ByLabel(TableDenoiser):
        """Another table for the label 1."""

        def __call__(self, xt: Tensor, t: Tensor, cond: Cond) -> object:  # type: ignore[override]
            assert cond.label is not None and len(cond.label) == len(xt)
            exact, other = TableDenoiser()(xt, t).log_probabilities, TableDenoiser(wrong())(xt, t).log_probabilities
            from softmix.posterior import Categorical

            return Categorical(torch.where(cond.label[:, None, None] == 1, other, exact))

    x0, cond = rows(SYMBOLS)[:7], Cond(label=torch.tensor([0, 1, 0, 1, 1, 0, 0]))
    whole = bits_per_token(ByLabel(), x0, Rng(0, 7), 4, cond)  # type: ignore[arg-type]
    assert torch.equal(bits_per_token(ByLabel(), x0, Rng(0, 7), 4, cond, batch=2), whole)  # type: ignore[arg-type]
    plain = bits_per_token(TableDenoiser(), x0, Rng(0, 7), 4)
    assert torch.equal(whole == plain, cond.label == 0)  # type: ignore[operator]


def test_other_models_are_refused() -> None:
    x0 = rows(SYMBOLS)[:2]
    with pytest.raises(TypeError, match="need the process Masked, and this model has VP"):
        bits_per_token(eight().denoiser(), x0, Rng(0, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 draws were asked for"):
        bits_per_token(TableDenoiser(), x0, Rng(0, 2), 0)

    class Whole(TableDenoiser):
        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Empirical:  # type: ignore[override]
            return Empirical(torch.zeros(len(xt), 81), rows(SYMBOLS))

    with pytest.raises(TypeError, match="need a Categorical posterior, and found a Empirical"):
        bits_per_token(Whole(), x0, Rng(0, 2))
    assert bits_per_token(TableDenoiser(), x0[:0], Rng(0, 0)).shape == (0,)
