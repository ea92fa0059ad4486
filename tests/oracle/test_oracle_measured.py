"""Tokens of a chain with a measurement, against sums and integrals that are written out."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise, product

import pytest
import torch

from softmix.cond import Cond
from softmix.oracle import MeasuredTokens, TokenProblem, measured_tokens, tokens
from softmix.process import Masked
from softmix.rng import Rng
from softmix.sampler import sample, unmask

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
VALUES, LENGTH, MASK = 3, 3, 3


def small(count: int = 2) -> MeasuredTokens:
    return measured_tokens(Masked(VALUES), VALUES, LENGTH, count, sd=0.7)


def by_hand(measured: MeasuredTokens, y: list[float]) -> dict[tuple[int, ...], float]:
    """p(x0, y) of every sequence, by loops."""
    first, steps = measured.problem.first.tolist(), measured.problem.steps.tolist()
    matrix = measured.matrix.tolist()
    found = {}
    for x0 in product(range(VALUES), repeat=LENGTH):
        p = first[x0[0]]
        for a, b in pairwise(x0):
            p *= steps[a][b]
        for row, value in zip(matrix, y, strict=True):
            clean = sum(row[place * VALUES + token] for place, token in enumerate(x0))
            p *= math.exp(-((value - clean) ** 2) / (2 * 0.49)) / (0.7 * math.sqrt(2 * math.pi))
        found[x0] = p
    return found


@pytest.mark.parametrize("y", [[0.3, -1.0], [2.0, 0.5]])
def test_the_law_given_y_is_bayes_rule(y: list[float]) -> None:
    measured, right = small(), by_hand(small(), y)
    given, total = measured.given(torch.tensor([y], dtype=F64)), sum(right.values())
    assert measured.sequences.tolist() == [list(x0) for x0 in right]
    assert given.probabilities[0].tolist() == pytest.approx([p / total for p in right.values()])
    assert float(measured.log_evidence(torch.tensor([y], dtype=F64))) == pytest.approx(math.log(total))
    assert measured.sequences[given.mode[0]].tolist() == list(max(right, key=lambda x0: right[x0]))


@pytest.mark.parametrize("xt", [[MASK] * 3, [0, MASK, MASK], [MASK, 2, 0], [1, 2, 0]])
def test_the_denoiser_is_bayes_rule_for_x_t_and_y(xt: list[int]) -> None:
    measured, y = small(), [0.3, -1.0]
    right = torch.zeros(VALUES, LENGTH, dtype=F64)
    for x0, p in by_hand(measured, y).items():
        if all(seen in (MASK, token) for seen, token in zip(xt, x0, strict=True)):
            for place, token in enumerate(x0):
                right[token, place] += p
    # the second item has another y
    ys = torch.tensor([y, [5.0, 5.0]], dtype=F64)
    found = measured.denoiser()(torch.tensor([xt, xt]), 0.5, Cond(value=ys)).probabilities
    assert torch.allclose(found[0], right / right.sum(0))


def test_the_law_of_y_has_the_sum_one() -> None:
    """The integral of the evidence over a fine grid of y, for one measured number."""
    grid = torch.linspace(-15, 15, 3001, dtype=F64)
    assert float(small(1).log_evidence(grid[:, None]).exp().sum()) * 0.01 == pytest.approx(1, abs=1e-9)


def test_a_measurement_has_the_mean_and_the_noise_of_its_equation() -> None:
    """20,000 measurements of one sequence: means to within 5 standard errors, and the variance to 5 %."""
    measured, n = small(), 20_000
    x0 = torch.tensor([[2, 0, 1]]).expand(n, -1)
    y = measured.observe(x0, Rng(0, n))
    clean = torch.stack([measured.matrix[:, place * VALUES + token] for place, token in enumerate([2, 0, 1])]).sum(0)
    assert bool(((y.mean(0) - clean).abs() < 5 * 0.7 / math.sqrt(n)).all())
    assert y.var(0).tolist() == pytest.approx([0.49] * 2, rel=0.05)


def test_the_likelihood_is_that_of_the_vectors_and_has_a_gradient() -> None:
    measured, y = small(), torch.tensor([[0.3, -1.0]], dtype=F64)
    p = torch.full((1, LENGTH, VALUES), 1 / VALUES, dtype=F64, requires_grad=True)
    log_p = measured.likelihood(y)(p)
    clean = measured.matrix.sum(1) / VALUES
    assert float(log_p.detach()) == pytest.approx(float(torch.distributions.Normal(clean, 0.7).log_prob(y[0]).sum()))
    (slope,) = torch.autograd.grad(log_p.sum(), p)
    assert torch.allclose(slope.flatten(), (y[0] - clean) @ measured.matrix / 0.49)
    joint = measured.likelihood(y)(measured.vectors(measured.sequences)) + measured.problem.log_prob(measured.sequences)
    assert torch.allclose(joint.logsumexp(0), measured.log_evidence(y)[0])


def test_numbers_of_sequences_are_their_places() -> None:
    assert small().number(small().sequences).tolist() == list(range(VALUES**LENGTH))


def test_unmasking_one_token_a_step_with_the_denoiser_given_y_has_the_law_given_y() -> None:
    """20,000 draws of 27 sequences. TV of exact draws in 20 sets: 0.008 on average, 0.012 at most."""
    measured, n = small(), 20_000
    y = torch.tensor([[0.3, -1.0]], dtype=F64)
    right = measured.given(y).probabilities[0]
    cond, order = Cond(value=y.expand(n, -1)), partial(unmask, confidence="random")
    x = sample(measured.denoiser(), n, LENGTH, sampler=order, cond=cond, seed=0, batch=n)
    found = measured.number(x).bincount(minlength=len(right)).double() / n
    assert 0.5 * float((found - right).abs().sum()) < 0.014
    assert 0.5 * float((measured.problem.log_prob(measured.sequences).exp() - right).abs().sum()) > 0.3


def test_wrong_sizes_and_a_missing_y_are_refused() -> None:
    chain = tokens(Masked(VALUES), VALUES, LENGTH)
    with pytest.raises(ValueError, match=r"a matrix \[M, 9\] and a noise above 0 were expected, not \[2, 8\] and 0.5"):
        MeasuredTokens(chain, torch.zeros(2, 8, dtype=F64), 0.5)
    with pytest.raises(ValueError, match=r"not .* and 0\.0"):
        MeasuredTokens(chain, torch.zeros(2, 9, dtype=F64), 0.0)
    with pytest.raises(ValueError, match=r"4\^9 sequences cannot be enumerated"):
        measured_tokens(Masked(4), 4, 9)
    for cond in (None, Cond(value=torch.zeros(1, 3, dtype=F64)), Cond(label=torch.zeros(1, dtype=torch.int64))):
        with pytest.raises(ValueError, match=r"the condition must be y, 2 numbers an item, as Cond\(value=y\); found"):
            small().denoiser()(torch.zeros(1, LENGTH, dtype=torch.int64), 0.5, cond)
    one_way = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=F64)
    stuck = TokenProblem("no way back", torch.full((2,), 0.5, dtype=F64), one_way, 2, Masked(2))
    with pytest.raises(ValueError, match="x_t has probability 0"):
        MeasuredTokens(stuck, torch.zeros(1, 4, dtype=F64), 1.0).denoiser()(
            torch.tensor([[1, 0]]), 0.5, Cond(value=torch.zeros(1, 1, dtype=F64))
        )


def test_the_measured_chain_is_the_same_in_every_call_and_its_matrix_has_no_order() -> None:
    one, other = measured_tokens(Masked(4)), measured_tokens(Masked(4))
    assert torch.equal(one.matrix, other.matrix) and one.matrix.shape == (3, 24)
    assert len(one.sequences) == 4096 and one.name == "tokens, 3 measured" and one.shape == (6,)
    assert torch.linalg.matrix_rank(one.matrix) == 3
