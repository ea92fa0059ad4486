"""Anchored posterior sampling: its inner loop against minima, its order, its traps, and its law on a measured chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.denoiser import Denoiser
from softmix.measure import anchored, gaussian_likelihood, quantised
from softmix.oracle import MeasuredTokens, measured_tokens
from softmix.posterior import Categorical, Point
from softmix.process import VP, Masked
from softmix.rng import Rng
from softmix.sampler import Sampler, SamplerError, Step, ancestral, drive, label, sample, traits, unmask
from softmix.sampler.drive import finish

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
SIGNS = [[1.0], [-1.0]]


def codes(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=F64)


class Fixed:
    """The same probabilities [K, *places] for every state, at visible places too."""

    def __init__(self, probabilities: list[Any]):
        self.logits = torch.tensor(probabilities, dtype=F64).log()
        self.process, self.shape = Masked(len(self.logits)), tuple(self.logits.shape[1:])

    def __call__(self, xt: Tensor, t: Tensor | float, cond: object = None) -> Categorical:
        return Categorical(self.logits.expand(len(xt), *self.logits.shape))


def steps_of(
    denoiser: Denoiser, sampler: Sampler, n: int, steps: int, x: Tensor | None = None
) -> tuple[list[Step], Tensor]:
    """Every step, and the end."""
    process, seen = denoiser.process, []
    x = process.prior((n, *denoiser.shape), Rng(0, n)) if x is None else x  # type: ignore[attr-defined]
    end = finish(drive(denoiser, sampler, x, process.grid(steps), Rng(1, n)), seen.append)  # type: ignore[attr-defined]
    return seen, end


def frequencies(x: Tensor, count: int) -> Tensor:
    return x.flatten().bincount(minlength=count).double() / x.numel()


def within(found: Tensor, right: Tensor, n: int, errors: float = 5) -> bool:
    """Whether frequencies of n draws are within so many standard errors of a law."""
    return bool(((found - right).abs() < errors * (right * (1 - right) / n).sqrt() + 2e-3).all())


# the inner loop


@pytest.mark.parametrize("prior", [0.0, 0.3, 1.0, 5.0])
def test_the_fitted_law_is_the_minimum_of_the_bound(prior: float) -> None:
    """One token with the codes 1 and -1, y = 0.3 with noise 0.5: the derivative in the logit is 0 at p, by bisection.

    The sum (y - e)^2 / (2 sd^2) + prior KL has e = 2 p - 1. Frequencies of 20,000 draws within 5 standard errors.
    """
    own, n = 0.2, 20_000

    def slope(p: float) -> float:
        return -(0.3 - (2 * p - 1)) * 2 / 0.25 + prior * (math.log(p / own) - math.log((1 - p) / (1 - own)))

    low, high = 1e-6, 1 - 1e-6
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    likelihood = gaussian_likelihood(torch.tensor([[[0.3]]], dtype=F64), 0.5)
    sampler = anchored(likelihood, codes(SIGNS), prior=prior, at="expected", inner=200)
    x = sample(Fixed([[own], [1 - own]]), n, 1, sampler=sampler, batch=n)
    assert within(frequencies(x, 2), torch.tensor([low, 1 - low], dtype=F64), n)


def test_without_steps_of_the_inner_loop_it_is_unmask() -> None:
    """Bit for bit, with the probability under the model as confidence, and in a random order."""
    model = measured_tokens(Masked(4)).problem.denoiser()
    eye = torch.eye(4, dtype=F64)
    for confidence, own in (("prior", "probability"), ("anchored", "probability"), ("random", "random")):
        sampler = anchored(lambda x: x.sum((1, 2)), eye, inner=0, confidence=confidence)  # type: ignore[arg-type]
        assert torch.equal(
            sample(model, 60, 4, sampler=sampler), sample(model, 60, 4, sampler=partial(unmask, confidence=own))
        )


def test_a_flat_likelihood_changes_no_law_and_a_weight_of_0_keeps_impossible_tokens_impossible() -> None:
    """The KL has its minimum at the model. The likelihood of the second test is for the impossible token alone."""
    model, n = Fixed([[0.5], [0.3], [0.2], [0.0]]), 20_000
    flat = anchored(lambda x: 0 * x.sum((1, 2)), torch.eye(4, dtype=F64), inner=50)
    assert within(frequencies(sample(model, n, 1, sampler=flat, batch=n), 4), model.logits.exp()[:, 0], n)
    for at in ("expected", "quantised"):
        pulled = anchored(lambda x: 100 * x[:, 0, 3], torch.eye(4, dtype=F64), inner=50, prior=0.0, at=at)  # type: ignore[arg-type]
        x = sample(model, 2000, 1, sampler=pulled, batch=2000)
        assert not bool((x == 3).any())
        assert bool(torch.isfinite(frequencies(x, 4)).all())


def test_the_first_step_moves_each_logit_by_the_rate_and_more_steps_come_nearer_to_the_minimum() -> None:
    """The first step of Adam is the rate times the sign of the gradient: a share of sigmoid(2 rate) of the token that y
    asks for. Ten steps move at most ten times as far, and less, as the gradient becomes smaller."""
    n, likelihood = 20_000, gaussian_likelihood(torch.tensor([[[1.0]]], dtype=F64), 0.1)

    def share(inner: int, rate: float) -> Tensor:
        sampler = anchored(likelihood, codes(SIGNS), inner=inner, rate=rate, prior=0.0, at="expected")
        return frequencies(sample(Fixed([[0.5], [0.5]]), n, 1, sampler=sampler, batch=n), 2)

    for rate in (0.1, 0.5):
        right = torch.tensor([2 * rate, 0.0], dtype=F64).softmax(0)
        assert within(share(1, rate), right, n)
    assert 0.8 < float(share(10, 0.1)[0]) < 1 / (1 + math.exp(-2))


# quantisation


def test_the_quantised_vector_is_the_nearest_code_with_the_gradient_of_the_vector() -> None:
    table = Rng(0, 7, "codes").normal((7, 2, 3), F64)
    vectors = (0.7 * Rng(0, 5, "vectors").normal((5, 4, 2, 3), F64)).requires_grad_()
    found = quantised(vectors, table)
    right = torch.cdist(vectors.detach().reshape(20, 6), table.reshape(7, 6)).argmin(1)
    assert torch.allclose(found.detach().reshape(20, 6), table.reshape(7, 6)[right])
    assert len(set(right.tolist())) > 3
    weights = Rng(0, 5, "weights").normal((5, 4, 2, 3), F64)
    (slope,) = torch.autograd.grad((weights * found).sum(), vectors)
    assert torch.allclose(slope, weights)


def test_between_two_codes_it_is_one_of_them() -> None:
    """At 0 between -1 and 1 the sign is 0, and a vector of signs has no 0."""
    assert quantised(torch.zeros(1, 1, 1, dtype=F64), codes(SIGNS)).tolist() == [[[1.0]]]
    assert quantised(torch.tensor([[[-1e-9]]], dtype=F64), codes(SIGNS)).tolist() == [[[-1.0]]]


def test_the_code_next_to_the_mean_of_two_antipodal_tokens_is_a_third_token_that_is_never_drawn() -> None:
    """Codes 1, -1 and 0.2, of which the third is impossible, and y = 0.2 with noise 0.3: by Bayes' rule the odds are
    85 to 1. The code next to the mean 0 fits y exactly, so that nothing is learned of y. Without the third code the
    mean itself is pulled to 0.2."""
    own, y, n = [[0.5], [0.5], [0.0]], torch.tensor([[[0.2]]], dtype=F64), 20_000
    table = codes([*SIGNS, [0.2]])
    assert quantised(torch.zeros(1, 1, 1, dtype=F64), table).tolist() == [[[0.2]]]
    law = {}
    for at in ("quantised", "expected"):
        sampler = anchored(gaussian_likelihood(y, 0.3), table, at=at, prior=0.0)  # type: ignore[arg-type]
        law[at] = frequencies(sample(Fixed(own), n, 1, sampler=sampler, batch=n), 3)
    assert within(law["quantised"], torch.tensor([0.5, 0.5, 0.0], dtype=F64), n)
    assert within(law["expected"], torch.tensor([0.6, 0.4, 0.0], dtype=F64), n)
    bayes = 1 / (1 + math.exp((0.8**2 - 1.2**2) / (2 * 0.09)))
    assert bayes > 0.98


# visible tokens, counts and order


@pytest.mark.parametrize("confidence", ["anchored", "prior", "random"])
@pytest.mark.parametrize("process", [Masked(4), Masked(4, "cosine")], ids=str)
def test_counts_are_those_of_the_schedule_and_visible_tokens_never_change(confidence: Any, process: Masked) -> None:
    """y asks for token 3 everywhere. The likelihood sees the code of each visible token, although the model gives
    other tokens a probability there."""
    model, seen = Fixed([[0.4] * 6, [0.3] * 6, [0.2] * 6, [0.1] * 6]), []
    model.process = process

    def likelihood(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return 5 * x[:, :, 3].sum(1)

    start = torch.tensor([[4, 0, 4, 4, 1, 4], [4, 2, 2, 4, 2, 4]])
    sampler = anchored(likelihood, torch.eye(4, dtype=F64), inner=4, confidence=confidence, at="expected")
    found, end = steps_of(model, sampler, 2, 3, start)
    states = [*(step.x for step in found), end]
    for t, now, later in zip(process.grid(3), states, states[1:], strict=False):
        assert (now == 4).sum(1).tolist() == [round(k * float(1 - process.alpha(t))) for k in (4, 3)]
        assert torch.equal(later[now != 4], now[now != 4])
    for k, x in enumerate(seen):
        now = states[k // 4]
        assert torch.equal(x[now != 4], torch.eye(4, dtype=F64)[now[now != 4]])
    assert bool((end < 4).all()) and len(seen) == 12


@pytest.mark.parametrize(("confidence", "place"), [("anchored", 0), ("prior", 1)])
def test_the_anchor_decides_the_place_that_is_unmasked_first(confidence: Any, place: int) -> None:
    """y makes the first token nearly certain, which the model alone finds the least certain. The others are not
    measured: 0.9 and 0.7. Under phi the first token comes first, under the model the second."""
    model, n = Fixed([[0.55, 0.9, 0.7], [0.45, 0.1, 0.3]]), 400
    likelihood = gaussian_likelihood(torch.tensor([[1.0]], dtype=F64), 0.1, lambda x: x[:, 0])
    sampler = anchored(likelihood, codes(SIGNS), at="expected", prior=0.01, inner=150, confidence=confidence)
    (_, second, _), _ = steps_of(model, sampler, n, 3)
    first = (second.x != 2).long().argmax(1)
    # a token of probability 0.1 is not confident
    assert float((first == place).double().mean()) > 0.85


def test_a_random_order_takes_each_place_equally_often() -> None:
    model, n = Fixed([[0.55, 0.9, 0.7], [0.45, 0.1, 0.3]]), 3000
    likelihood = gaussian_likelihood(torch.tensor([[1.0]], dtype=F64), 0.1, lambda x: x[:, 0])
    sampler = anchored(likelihood, codes(SIGNS), inner=2, confidence="random")
    (_, second, _), _ = steps_of(model, sampler, n, 3)
    first = (second.x != 2).long().argmax(1)
    assert within(frequencies(first, 3), torch.full((3,), 1 / 3, dtype=F64), n)


def test_tokens_of_one_step_are_independent_and_those_of_two_steps_are_not() -> None:
    """y = 0 is the sum of two signs: they must differ. The mean 0 fits y already, so that one step draws each alone:
    half of the pairs are equal. In two steps the second token sees the first."""
    likelihood = gaussian_likelihood(torch.zeros(1, 1, dtype=F64), 0.1, lambda x: x.sum(1))
    sampler, n = anchored(likelihood, codes(SIGNS), at="expected", inner=60, prior=0.1), 2000
    model = Fixed([[0.5, 0.5], [0.5, 0.5]])
    one = sample(model, n, 1, sampler=sampler, batch=n)
    two = sample(model, n, 2, sampler=sampler, batch=n)
    assert within(frequencies((one[:, 0] == one[:, 1]).long(), 2), torch.tensor([0.5, 0.5], dtype=F64), n)
    assert float((two[:, 0] == two[:, 1]).double().mean()) < 0.05


# conformance


@pytest.mark.parametrize("at", ["quantised", "expected"])
@pytest.mark.parametrize("confidence", ["anchored", "prior", "random"])
def test_a_row_does_not_depend_on_its_batch(at: Any, confidence: Any) -> None:
    """Each item has its own y."""
    measured = measured_tokens(Masked(3), 3, 4)
    y = measured.draw(7, Rng(2, 7))[1].value
    assert y is not None

    def drawn(part: slice) -> Tensor:
        sampler = anchored(
            measured.likelihood(y[part]), torch.eye(3, dtype=F64), inner=20, at=at, confidence=confidence
        )
        numbers = range(7)[part]
        return sample(measured.problem.denoiser(), len(numbers), 3, sampler=sampler, seed=3, first=list(numbers))

    several = drawn(slice(0, 7))
    assert len(several.unique(dim=0)) > 3
    for k in range(7):
        assert torch.equal(drawn(slice(k, k + 1))[0], several[k])


def test_places_of_an_image_and_vectors_with_axes_are_those_of_a_row() -> None:
    """2 x 3 places, codes of 2 x 2: the same tokens as 6 places with codes of 4 numbers."""
    table = Rng(0, 3, "codes").normal((3, 4), F64)
    p = Rng(0, 3, "law").uniform((3, 6), F64) + 0.1
    y = Rng(0, 1, "y").normal((1, 24), F64)
    row, image = Fixed((p / p.sum(0)).tolist()), Fixed((p / p.sum(0)).reshape(3, 2, 3).tolist())
    for at in ("quantised", "expected"):
        flat = anchored(gaussian_likelihood(y, 0.5, lambda x: x.flatten(1)), table, inner=20, at=at)  # type: ignore[arg-type]
        whole = anchored(gaussian_likelihood(y.reshape(1, 2, 3, 2, 2), 0.5), table.reshape(3, 2, 2), inner=20, at=at)  # type: ignore[arg-type]
        x = sample(row, 20, 3, sampler=flat)
        assert torch.equal(sample(image, 20, 3, sampler=whole), x.reshape(20, 2, 3))


def test_it_runs_in_the_number_format_of_the_model_and_inside_autocast() -> None:
    measured = measured_tokens(Masked(3), 3, 4)
    y = measured.draw(1, Rng(2, 1))[1].value
    assert y is not None
    model = measured.problem.denoiser()

    class Single(Fixed):
        def __call__(self, xt: Tensor, t: Tensor | float, cond: object = None) -> Categorical:
            return Categorical(model(xt, t).log_probabilities.float())

    single = Single(torch.full((3, 4), 1 / 3).tolist())
    sampler = anchored(measured.likelihood(y), torch.eye(3), inner=20)
    whole = sample(model, 50, 4, sampler=anchored(measured.likelihood(y), torch.eye(3, dtype=F64), inner=20))
    assert float((sample(single, 50, 4, sampler=sampler) == whole).double().mean()) > 0.9
    with torch.autocast(whole.device.type, torch.bfloat16):
        assert torch.equal(sample(single, 50, 4, sampler=sampler), sample(single, 50, 4, sampler=sampler))


def test_its_traits_are_those_of_a_sampler_of_tokens() -> None:
    sampler = anchored(lambda x: x.sum((1, 2)), torch.eye(3), confidence="prior")
    known = traits(sampler)
    assert known.name == "anchored" and known.tokens and not known.numbers and known.cites == ("aps",)
    assert "confidence prior" in label(sampler) and "inner 100" in label(sampler)
    assert traits(ancestral).tokens


# the law on a measured chain


def apart(measured: MeasuredTokens, x: Tensor, right: Tensor) -> float:
    found = measured.number(x).bincount(minlength=len(right)).double() / len(x)
    return 0.5 * float((found - right).abs().sum())


def test_on_a_chain_with_twelve_measured_numbers_the_law_is_twice_as_near_as_without_y() -> None:
    """1,000 draws of 4,096 sequences in 6 steps, y of three items with noise of 1. TV of exact draws at most 0.01, of
    the prior 0.87 to 1.00. At the expected codes: anchored 0.32 to 0.49, in a random order 0.69 to 0.87."""
    measured, n = measured_tokens(Masked(4), count=12, sd=1.0), 1000
    near, far, best, probable = [], [], [], []
    for item in range(3):
        y = measured.draw(1, Rng(item, 1))[1].value
        assert y is not None
        right = measured.given(y).probabilities[0]
        for confidence, found in (("anchored", near), ("random", far)):
            sampler = anchored(
                measured.likelihood(y), torch.eye(4, dtype=F64), inner=50, at="expected", confidence=confidence
            )  # type: ignore[arg-type]
            x = sample(measured.problem.denoiser(), n, 6, sampler=sampler, seed=1, batch=n)
            found.append(apart(measured, x, right))
            if confidence == "anchored":
                best.append(float((measured.number(x) == right.argmax()).double().mean()))
        prior = measured.problem.log_prob(measured.sequences).exp()
        probable.append(0.5 * float((prior - right).abs().sum()))
    without = sum(probable) / 3
    assert sum(near) / 3 < 0.5 * without < 0.6 * without < sum(far) / 3
    # the most probable sequence: p(x | y) of 0.91 and more, and below 0.1 without y
    assert sum(best) / 3 > 0.5


# what is refused


def run_on(model: object, sampler: Sampler) -> Tensor:
    return sample(model, 2, 2, sampler=sampler)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [{"at": "mean"}, {"confidence": "entropy"}, {"inner": -1}, {"rate": 0.0}, {"prior": -0.1}, {"prior": math.nan}],
    ids=str,
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"quantised, expected and anchored, prior, random|give at least 0, above 0"):
        anchored(lambda x: x.sum((1, 2)), torch.eye(3), **bad)


def test_codes_without_an_axis_of_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"codes of shape \[3\] were given; give a vector for each token"):
        anchored(lambda x: x.sum((1, 2)), torch.ones(3))


@pytest.mark.parametrize(
    ("likelihood", "sentence"),
    [
        (lambda x: x.detach().sum((1, 2)), "has no gradient in x0: use token_particles"),
        (lambda x: x.sum(), r"the likelihood gave shape \[\] for 2 items"),
        (lambda x: (x - x).sum((1, 2)).sqrt(), "the gradient of log p.* is not finite"),
    ],
)
def test_a_likelihood_that_cannot_serve_is_refused(likelihood: Callable[[Tensor], Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run_on(Fixed([[0.5], [0.5]]), anchored(likelihood, codes(SIGNS), inner=3))


def test_models_of_numbers_and_of_other_tokens_are_refused() -> None:
    sampler = anchored(lambda x: x.sum((1, 2)), torch.eye(3))
    with pytest.raises(SamplerError, match="needs the probabilities of 3 tokens, one for each code, and found a Categ"):
        run_on(Fixed([[0.5], [0.5]]), sampler)

    class Whole(Fixed):
        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Point:  # type: ignore[override]
            return Point(xt.double())

    with pytest.raises(SamplerError, match="found a Point: give a model of tokens"):
        run_on(Whole([[0.5], [0.25], [0.25]]), sampler)
    gauss = Fixed([[0.5], [0.5]])
    gauss.process = VP()  # type: ignore[assignment]
    with pytest.raises(SamplerError, match="anchored unmasks tokens, and VP adds noise to numbers"):
        run_on(gauss, sampler)
    with pytest.raises(SamplerError, match="anchored unmasks tokens, and VP has none"):
        next(sampler(VP(), torch.zeros(1, 2), torch.tensor([1.0, 0.0]), Rng(0, 1)))
