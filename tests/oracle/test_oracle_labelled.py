"""A mixture with labels: its laws given any of the labels, against mixtures of the components that have them."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.cond import Cond
from softmix.data.toys import ToyMixture
from softmix.denoiser import ExactMixture
from softmix.oracle import LabelledProblem, two_labels
from softmix.process import VP, PerElement
from softmix.rng import Rng

F64 = torch.float64
# the labels that are given, and the components of `two_labels` that have them
GIVEN = [([-1, -1], range(6)), ([1, -1], (2, 3)), ([-1, 1], (1, 3, 5)), ([2, 0], (4,))]


def part_of(problem: LabelledProblem, components: list[int]) -> ToyMixture:
    law = problem.law
    weights = law.weights[components]
    return ToyMixture("part", weights / weights.sum(), law.means[components], law.factors[components])


@pytest.mark.parametrize(("given", "components"), GIVEN)
@pytest.mark.parametrize("process", [VP(), PerElement(VP(), torch.tensor([1.0, 2.0], dtype=F64))])
def test_given_labels_the_law_is_the_mixture_of_their_components(
    device: torch.device, given: list[int], components: range, process: VP
) -> None:
    problem = two_labels((2,), process)
    x, _ = problem.draw(5, Rng(0, 5, device=device))
    cond, law = Cond(label=torch.tensor([given], device=device).expand(5, 2)), part_of(problem, list(components))
    assert torch.allclose(problem.log_prob(x, cond), law.log_prob(x), atol=1e-12)
    assert torch.allclose(problem.surprisal(cond).cpu(), -problem.law.weights[list(components)].sum().log())
    right = ExactMixture(process, law.weights, law.means, law.covariances)
    for t in (0.2, 0.9):
        assert torch.allclose(problem.denoiser()(x, t, cond).mean, right(x, t).mean, atol=1e-12)


def test_each_item_has_its_own_labels(device: torch.device) -> None:
    problem = two_labels()
    x, _ = problem.draw(4, Rng(0, 4, device=device))
    cond = Cond(label=torch.tensor([given for given, _ in GIVEN], device=device))
    whole = problem.denoiser()(x, 0.4, cond).mean
    logs = problem.log_prob(x, cond)
    for k in range(4):
        one = slice(k, k + 1)
        assert torch.allclose(problem.denoiser()(x[one], 0.4, cond.take(one)).mean, whole[one], atol=1e-12)
        assert torch.allclose(problem.log_prob(x[one], cond.take(one)), logs[one], atol=1e-12)
    assert torch.allclose(problem.denoiser()(x[:1], 0.4).mean, whole[:1], atol=1e-12)


def test_the_labels_of_a_draw_are_those_of_its_component(device: torch.device) -> None:
    """20,000 items. The share of each pair of labels to four standard errors; the mean and sd of each element too."""
    n, problem = 20_000, two_labels()
    x, cond = problem.draw(n, Rng(1, n, device=device))
    assert cond.label is not None
    for k, labels in enumerate(problem.labels):
        own = (cond.label == labels.to(device)).all(1)
        share = float(problem.law.weights[k])
        assert float(own.double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))
        mean, sd = problem.law.means[k].to(device), problem.law.factors[k].diagonal().to(device)
        off = (x[own] - mean) / sd
        assert float(off.mean(0).abs().max()) < 4 / math.sqrt(int(own.sum()))
        assert float((off.square().mean(0) - 1).abs().max()) < 4 * math.sqrt(2 / int(own.sum()))


def test_labels_without_a_component_have_no_density_and_a_finite_mean() -> None:
    law = two_labels().law
    problem = LabelledProblem("pairs", law, torch.tensor([[k, k] for k in range(6)]), VP(), (2,))
    x, cond = torch.zeros(1, 2, dtype=F64), Cond(label=torch.tensor([[0, 1]]))
    assert math.isinf(float(problem.surprisal(cond))) and bool(problem.denoiser()(x, 0.5, cond).mean.isfinite().all())
    assert problem.cond.labels == (("label 0", 6), ("label 1", 6))


@pytest.mark.parametrize("cond", [torch.zeros(2, dtype=torch.long), Cond(value=torch.zeros(2, 2))])
def test_a_condition_other_than_its_labels_is_refused(cond: Cond) -> None:
    with pytest.raises(ValueError, match=r"two labels: the condition must be labels \[B, 2\]"):
        two_labels().denoiser()(torch.zeros(2, 2), 0.5, cond)


def test_sizes_that_do_not_fit_are_refused() -> None:
    law, labels = two_labels().law, two_labels().labels
    with pytest.raises(ValueError, match="a law of 2 dimensions"):
        LabelledProblem("wrong", law, labels, VP(), (3,))
    for bad in (labels[:5], labels[:, 0], labels - 1):
        with pytest.raises(ValueError, match="labels of 6 components were expected"):
            LabelledProblem("wrong", law, bad, VP(), (2,))
