"""The best accuracy under bounds of disparity: known laws, concavity, a given classifier, and identities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.info import decompose, disparities, fair_accuracy
from softmix.rng import Rng

F64 = torch.float64


def law(label: object) -> Tensor:
    """p(z, s, y) of two fair independent bits z and s, with y = label(z, s)."""
    p = torch.zeros(2, 2, 2, dtype=F64)
    for z in range(2):
        for s in range(2):
            p[z, s, label(z, s)] += 0.25  # type: ignore[operator]
    return p


def entropy(share: float) -> float:
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def some(n: int = 1) -> Tensor:
    p = -Rng(n, 1).uniform((1, 2, 2, 2), F64)[0].log()
    return p / p.sum()


def test_a_label_that_is_the_attribute_can_be_told_as_far_as_the_bound_lets() -> None:
    """Accuracy a with 1 - H(a) = 0.05 bits: 0.6309. With no bits it is chance."""
    p = law(lambda z, s: z)
    found = fair_accuracy(p, 0.05, 1.0)
    assert found.accuracy == pytest.approx(0.6309, abs=1e-4) and 1 - entropy(found.accuracy) == pytest.approx(
        0.05, abs=1e-4
    )
    assert fair_accuracy(p, 0.0, 1.0).accuracy == pytest.approx(0.5, abs=1e-3)
    assert fair_accuracy(p, 1.0, 1.0).accuracy == pytest.approx(1, abs=1e-6)


def test_masked_and_redundant_disparity() -> None:
    """Y = Z xor S: fair over all and unfair in each client. Y = Z = S: the reverse."""
    masked = law(lambda z, s: z ^ s)
    assert fair_accuracy(masked, 0.0, 1.0).accuracy == pytest.approx(1, abs=1e-3)
    assert fair_accuracy(masked, 1.0, 0.0).accuracy == pytest.approx(0.5, abs=1e-3)
    redundant = torch.zeros(2, 2, 2, dtype=F64)
    redundant[0, 0, 0] = redundant[1, 1, 1] = 0.5
    assert fair_accuracy(redundant, 1.0, 0.0).accuracy == pytest.approx(1, abs=1e-3)
    assert fair_accuracy(redundant, 0.0, 1.0).accuracy == pytest.approx(0.5, abs=1e-3)


def test_the_solution_keeps_the_bounds_and_the_law() -> None:
    p = some()
    found = fair_accuracy(p, 0.02, 0.03)
    assert torch.allclose(found.joint.sum(3), p, atol=1e-6)
    whole, local = disparities(found.joint)
    assert whole <= 0.02 + 1e-5 and local <= 0.03 + 1e-5
    assert found.accuracy == pytest.approx(float(torch.einsum("zsyy->", found.joint)), abs=1e-5)
    assert max(whole / 0.02, local / 0.03) > 0.99


def test_accuracy_rises_with_the_bounds_and_is_concave_in_them() -> None:
    p = some(2)
    places = [(0.0, 0.02), (0.03, 0.05), (0.06, 0.08)]
    low, middle, high = (fair_accuracy(p, *bounds).accuracy for bounds in places)
    assert low < middle < high and middle >= (low + high) / 2 - 1e-5


def test_a_classifier_that_is_given_bounds_what_its_outputs_reach() -> None:
    """An output that is right in 80 %: at most 0.8, and less with bounds. A perfect one is the bound without one."""
    p = some(3)
    right = torch.eye(2, dtype=F64)
    noisy, perfect = (p[..., None] * each for each in (0.6 * right + 0.2, right))
    free = fair_accuracy(p, 1.0, 1.0, noisy).accuracy
    assert 0.8 - 1e-5 <= free < 0.95
    bounded = fair_accuracy(p, 0.005, 0.01, noisy)
    assert bounded.accuracy < free - 0.005 and bounded.accuracy <= fair_accuracy(p, 0.005, 0.01).accuracy + 1e-6
    assert torch.allclose(bounded.joint.sum(3), p, atol=1e-6)
    assert fair_accuracy(p, 0.02, 0.03, perfect).accuracy == pytest.approx(
        fair_accuracy(p, 0.02, 0.03).accuracy, abs=1e-4
    )


def test_disparities_are_unique_with_redundant_and_with_synergistic_information() -> None:
    """I(Z; H) = U + R and I(Z; H | S) = U + synergy of H and S on Z."""
    joint = -Rng(5, 1).uniform((1, 2, 2, 2, 2), F64)[0].log()
    joint = joint / joint.sum()
    whole, local = disparities(joint)
    for measure in ("broja", "mmi", "pm"):
        # p(h, s, z)
        parts = decompose(joint.sum(2).permute(2, 1, 0), measure)  # type: ignore[arg-type]
        assert whole == pytest.approx(float(parts.first + parts.redundant), abs=1e-6)
        assert local == pytest.approx(float(parts.first + parts.synergy), abs=1e-6)


def test_laws_that_do_not_fit_are_refused() -> None:
    p = some()
    with pytest.raises(ValueError, match="with sum 1 were expected"):
        fair_accuracy(2 * p, 0.1, 0.1)
    with pytest.raises(ValueError, match="at least 0 bits"):
        fair_accuracy(p, -0.1, 0.1)
    with pytest.raises(ValueError, match="another marginal"):
        fair_accuracy(p, 0.1, 0.1, torch.ones(2, 2, 2, 2, dtype=F64) / 16)
    empty = p.clone()
    empty[:, 1] = 0
    with pytest.raises(ValueError, match="a client without any probability"):
        fair_accuracy(empty / empty.sum(), 0.1, 0.1)
