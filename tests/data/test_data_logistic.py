"""A Bayesian logistic regression as a target."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.data import Target, logistic_regression
from softmix.data.logistic import logistic_density, regression_data
from softmix.rng import Rng

F64 = torch.float64


@pytest.mark.parametrize(("data", "shape"), [("breast-cancer", (569, 31)), ("iris", (100, 5))])
def test_the_features_are_standardised_and_have_a_one_in_front(data: str, shape: tuple[int, int]) -> None:
    rows, labels = regression_data(data)  # type: ignore[arg-type]
    assert rows.shape == shape and set(labels.tolist()) == {0.0, 1.0}
    assert torch.equal(rows[:, 0], torch.ones(len(rows), dtype=F64))
    assert torch.allclose(rows[:, 1:].mean(0), torch.zeros(shape[1] - 1, dtype=F64), atol=1e-12)
    assert torch.allclose(rows[:, 1:].square().mean(0), torch.ones(shape[1] - 1, dtype=F64))


def test_the_density_is_the_prior_times_the_probability_of_the_labels() -> None:
    rows, labels = regression_data("iris")
    w = Rng(0, 4).normal((4, 5), F64)
    found = logistic_density("iris")(w)
    for k in range(4):
        p = 1 / (1 + (-(rows @ w[k])).exp())
        likelihood = float((labels * p.log() + (1 - labels) * (1 - p).log()).sum())
        prior = float(-(w[k] ** 2).sum() / 2) - 5 / 2 * math.log(2 * math.pi)
        assert float(found[k]) == pytest.approx(likelihood + prior)
    # at w = 0 every label has the probability 1/2
    start = logistic_density("iris")(torch.zeros(1, 5))
    assert float(start) == pytest.approx(100 * math.log(0.5) - 5 / 2 * math.log(2 * math.pi), rel=1e-6)


def test_it_is_a_target_of_its_data() -> None:
    one, other = logistic_regression(), logistic_regression("iris")
    assert isinstance(one, Target) and one.shape == (31,) and other.shape == (5,)
    assert one.fingerprint == logistic_regression().fingerprint != other.fingerprint
