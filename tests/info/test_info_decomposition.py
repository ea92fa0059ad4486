"""Partial information decomposition: gates, identities, bounds, Gaussians, and pointwise parts."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from softmix.info import Measure, decompose, decompose_pointwise, gaussian_information
from softmix.rng import Rng

F64 = torch.float64
MEASURES: tuple[Measure, ...] = get_args(Measure)


def gate(target: Callable[[int, int], Any]) -> Tensor:
    """p(a, b, t) of two fair bits and a function of both."""
    names = sorted({target(a, b) for a in range(2) for b in range(2)})
    p = torch.zeros(2, 2, len(names), dtype=F64)
    for a in range(2):
        for b in range(2):
            p[a, b, names.index(target(a, b))] += 0.25
    return p


def law_of(*events: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    """Equal probabilities of some events."""
    p = torch.zeros(size, dtype=F64)
    for event in events:
        p[event] = 1 / len(events)
    return p


GATES = {
    "xor": gate(lambda a, b: a ^ b),
    "rdn": law_of((0, 0, 0), (1, 1, 1), size=(2, 2, 2)),
    "copy": gate(lambda a, b: (a, b)),
    "and": gate(lambda a, b: a & b),
    "pwunq": law_of((0, 1, 0), (1, 0, 0), (0, 2, 1), (2, 0, 1), size=(3, 3, 2)),
}
# redundant, first, second, synergy in bits, as in the table of the package dit
AND_PM, AND_CCS = (0.5613, -0.25, -0.25, 0.75), (0.1038, 0.2075, 0.2075, 0.2925)
TABLE: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "xor": dict.fromkeys(MEASURES, (0, 0, 0, 1)),
    "rdn": dict.fromkeys(MEASURES, (1, 0, 0, 0)),
    "copy": dict.fromkeys(("min", "mmi", "pm"), (1, 0, 0, 1)) | dict.fromkeys(("broja", "ccs"), (0, 1, 1, 0)),
    "and": dict.fromkeys(("min", "mmi", "broja"), (0.3113, 0, 0, 0.5)) | {"pm": AND_PM, "ccs": AND_CCS},
    "pwunq": dict.fromkeys(("min", "mmi", "broja"), (0.5, 0, 0, 0.5)) | dict.fromkeys(("pm", "ccs"), (0, 0.5, 0.5, 0)),
}


def joints(n: int, *size: int) -> Tensor:
    p = -Rng(0, n).uniform((n, *size), F64).log()
    return p / p.sum((1, 2, 3), keepdim=True)


def information(p: Tensor) -> Tensor:
    """I of [..., S, T] by the definition, in bits."""
    product = p.sum(-1, keepdim=True) * p.sum(-2, keepdim=True)
    return torch.special.xlogy(p, p / product).sum((-2, -1)) / math.log(2)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", GATES)
def test_gates_have_the_parts_of_the_table(name: str, measure: Measure) -> None:
    found = decompose(GATES[name], measure)
    parts = [float(part) for part in (found.redundant, found.first, found.second, found.synergy)]
    assert parts == pytest.approx(TABLE[name][measure], abs=1e-4) and found.measure == measure


@pytest.mark.parametrize("measure", MEASURES)
def test_the_parts_add_up_to_the_informations(measure: Measure) -> None:
    p = joints(20, 3, 2, 4)
    found = decompose(p, measure)
    first, second, both = information(p.sum(2)), information(p.sum(1)), information(p.flatten(1, 2))
    assert torch.allclose(found.redundant + found.first, first, atol=1e-8)
    assert torch.allclose(found.redundant + found.second, second, atol=1e-8)
    assert torch.allclose(found.redundant + found.first + found.second + found.synergy, both, atol=1e-8)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_sources_may_change_places(measure: Measure) -> None:
    p = joints(10, 3, 2, 2)
    found, other = decompose(p, measure), decompose(p.transpose(1, 2), measure)
    assert torch.allclose(found.redundant, other.redundant, atol=1e-6)
    assert torch.allclose(found.first, other.second, atol=1e-6)


def test_broja_has_no_part_below_zero_and_no_better_law() -> None:
    """Laws with the same marginals (a, t) and (b, t) give I(A; T | B) at least that of the unique part."""
    p = joints(15, 2, 2, 2)
    found = decompose(p, "broja")
    assert all(float(part.min()) > -1e-6 for part in (found.redundant, found.first, found.second, found.synergy))
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=F64)
    least = torch.full((15,), math.inf, dtype=F64)
    # for each target q = p + e sign keeps both marginals
    for e in torch.linspace(-0.2, 0.2, 41, dtype=F64):
        for f in torch.linspace(-0.2, 0.2, 41, dtype=F64):
            q = p + torch.stack([e * sign, f * sign], -1)
            inside = q.amin((1, 2, 3)) >= 0
            value = information(q.clamp(min=1e-15).flatten(1, 2)) - information(q.clamp(min=1e-15).sum(1))
            least = torch.where(inside, torch.minimum(least, value), least)
    assert bool((found.first <= least + 1e-6).all()) and float((least - found.first).abs().max()) < 0.01


def test_mmi_is_the_lesser_information_and_bounds_broja() -> None:
    p = joints(15, 2, 3, 2)
    lesser = torch.minimum(information(p.sum(2)), information(p.sum(1)))
    assert torch.allclose(decompose(p, "mmi").redundant, lesser)
    assert bool((decompose(p, "broja").redundant <= lesser + 1e-6).all())
    assert bool((decompose(p, "min").redundant <= lesser + 1e-9).all())


def test_with_equal_surprisals_pm_is_the_mean_of_the_larger_pointwise_information() -> None:
    """Uniform sources: R = E max(i_A, i_B), so that no unique part is above 0."""
    p = Rng(1, 30).uniform((30, 2, 2, 3), F64)
    # uniform sources, independent of each other, and any law of the target
    p = 0.25 * p / p.sum(-1, keepdim=True)
    found = decompose(p, "pm")
    t = p.sum((1, 2))[:, None, None, :]
    at, bt = p.sum(2, keepdim=True), p.sum(1, keepdim=True)
    larger = torch.maximum((at / (0.5 * t)).log2(), (bt / (0.5 * t)).log2())
    assert torch.allclose(found.redundant, (p * larger).sum((1, 2, 3)))
    assert float(found.first.max()) <= 1e-9 and float(found.second.max()) <= 1e-9


def test_the_law_of_most_entropy_keeps_every_pair() -> None:
    """For bits, and for more values; the two ways agree on bits."""
    from softmix.info import decomposition

    for p in (joints(10, 2, 2, 2), joints(10, 3, 2, 2)):
        q = decomposition._most_entropy(p, 2000)
        assert all(torch.allclose(q.sum(axis), p.sum(axis), atol=1e-9) for axis in (1, 2, 3))
        assert bool((torch.special.entr(q) - torch.special.entr(p)).sum((1, 2, 3)).min() > -1e-9)
    bits = joints(10, 2, 2, 2)
    # a third value of no probability takes the general way
    wide = torch.cat([bits, torch.zeros(10, 2, 2, 1, dtype=F64)], -1)
    ways = [decomposition._most_entropy(each, 5000)[..., :2] for each in (bits, wide)]
    assert torch.allclose(*ways, atol=1e-7)


def test_ccs_counts_events_at_which_the_whole_agrees_too() -> None:
    """The value of the package dit; without the sign of i(a, b; t) it would be -0.0852."""
    counts = torch.tensor([[[0, 9, 1], [0, 0, 8]], [[0, 0, 10], [11, 0, 1]]], dtype=F64)
    p = (counts + 0.5) / (counts + 0.5).sum()
    assert float(decompose(p, "ccs").redundant) == pytest.approx(0.056984, abs=1e-5)


@pytest.mark.parametrize("measure", [each for each in MEASURES if each != "broja"])
def test_ten_thousand_binary_joints_take_less_than_a_second(measure: Measure) -> None:
    """0.01 s, and 0.05 s for ccs, on one core."""
    p = joints(10_000, 2, 2, 2)
    began = time.perf_counter()
    decompose(p, measure)
    assert time.perf_counter() - began < 1


def test_a_gaussian_has_the_closed_form() -> None:
    """x = y1 + y2 + n with a correlation of 0.6: 0.6783 bits each, 1.0352 together, so that 0.3568 are synergy."""
    covariance = torch.tensor([[1.0, 0.6, 1.6], [0.6, 1.0, 1.6], [1.6, 1.6, 4.2]], dtype=F64)
    each, both = gaussian_information(covariance, [0], [2]), gaussian_information(covariance, [0, 1], [2])
    assert float(each) == pytest.approx(0.6783, abs=1e-4) and float(both) == pytest.approx(1.0352, abs=1e-4)
    assert float(both - each) == pytest.approx(0.3568, abs=1e-4)
    many = gaussian_information(covariance.expand(4, 3, 3), [2], [0, 1])
    assert torch.allclose(many, both.expand(4))


def test_pointwise_parts_follow_from_the_priors() -> None:
    first, second, both = (torch.tensor(each) for each in ([1.0, -0.5, 2.0], [0.5, 1.0, 2.0], [2.0, 1.0, 3.0]))
    found = decompose_pointwise(first, second, both, (3.0, 3.0))
    assert torch.allclose(found.redundant, torch.maximum(first, second))
    assert float(found.first.max()) <= 0 and float(found.second.max()) <= 0
    # h = 1 and 4: min h = 1; less what is left, min(1 - i_1, 4 - i_2)
    other = decompose_pointwise(first, second, both, (1.0, 4.0))
    assert other.redundant.tolist() == pytest.approx([1.0, -0.5, 2.0])
    total = other.redundant + other.first + other.second + other.synergy
    assert torch.allclose(total, both) and torch.allclose(other.redundant + other.second, second)


def test_what_is_no_joint_law_is_refused() -> None:
    for bad in (torch.ones(2, 2, 2), torch.zeros(2, 2), torch.tensor([[[1.5, -0.5]]])):
        with pytest.raises(ValueError, match="joint probabilities"):
            decompose(bad)
    with pytest.raises(ValueError, match="the measure 'best' was asked for"):
        decompose(GATES["xor"], "best")  # type: ignore[arg-type]


def test_without_the_solver_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r"softmix\[pid\]"):
        decompose(GATES["and"], "broja")
    assert decompose(GATES["and"], "mmi").measure == "mmi"
