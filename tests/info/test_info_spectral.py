"""Spectral entropies: limits, clusters, operators, and the information of labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.info import relative_width, spectral, spectral_entropy, spectral_information
from softmix.rng import Rng

F64 = torch.float64


def clusters(count: int, each: int, spread: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Points in the plane around far corners, and their clusters."""
    label = torch.arange(count).repeat_interleave(each)
    turn = 2 * math.pi * label.double() / count
    centre = 1000 * torch.stack([turn.cos(), turn.sin()], 1)
    return centre + spread * Rng(0, len(label)).normal((len(label), 2), F64), label


@pytest.mark.parametrize("operator", ["released", "published"])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_tight_clusters_far_apart_have_the_bits_of_their_number(count: int, operator: str) -> None:
    x, _ = clusters(count, 12)
    assert spectral_entropy(x, 1.0, operator=operator) == pytest.approx(math.log2(count), abs=1e-6)  # type: ignore[arg-type]


def test_the_width_takes_the_entropy_from_one_end_to_the_other() -> None:
    x = Rng(1, 60).normal((60, 5), F64)
    assert spectral_entropy(x, 1e-3) == pytest.approx(math.log2(60), abs=1e-9)
    assert spectral_entropy(x, 1e5) == pytest.approx(0, abs=1e-6)
    middle = [spectral_entropy(x, width) for width in (0.3, 1.0, 3.0)]
    assert math.log2(60) > middle[0] > middle[1] > middle[2] > 0


def test_turned_and_moved_points_have_the_same_entropy_and_scaled_ones_at_a_scaled_width() -> None:
    x = Rng(1, 40).normal((40, 3), F64)
    turn = torch.linalg.qr(Rng(2, 1).normal((1, 3, 3), F64)[0]).Q
    known = spectral_entropy(x, 0.8)
    assert spectral_entropy(x @ turn + 5, 0.8) == pytest.approx(known, abs=1e-9)
    assert spectral_entropy(7 * x, 7 * 0.8) == pytest.approx(known, abs=1e-9) != spectral_entropy(7 * x, 0.8)
    assert relative_width(7 * x, 0.5) == pytest.approx(7 * relative_width(x, 0.5))
    distances = torch.pdist(x).sort().values
    assert relative_width(x, 2.0) == pytest.approx(2 * float(distances[(len(distances) - 1) // 2]))


def test_the_operators_are_the_random_walk_and_the_one_without_density() -> None:
    """Spectra by the definitions, without symmetry, for two densities."""
    x = torch.cat([0.3 * Rng(1, 30).normal((30, 2), F64), 2 + 2 * Rng(2, 30).normal((30, 2), F64)])
    kernel = (-(torch.cdist(x, x) ** 2) / (2 * 2.0**2)).exp()
    degree = kernel.sum(1)
    walk = torch.linalg.eigvals(kernel / degree[:, None]).abs()
    between = kernel / (degree[:, None] * degree).sqrt()
    blind = torch.linalg.eigvals(between / between.sum(1)[:, None]).abs()
    for power in (1.0, 2.0):
        found = []
        for operator, values in (("released", walk), ("published", blind)):
            p = values**power / (values**power).sum()
            found.append(float(torch.special.entr(p).sum()) / math.log(2))
            assert spectral_entropy(x, 2.0, power, operator) == pytest.approx(found[-1], abs=1e-6)  # type: ignore[arg-type]
        assert abs(found[0] - found[1]) > 0.05


def test_labels_of_clusters_tell_all_and_others_nothing() -> None:
    """Four clusters of 25: given the label one cluster is left, log2 4 bits less than 25 of all points."""
    x, label = clusters(4, 25)
    assert spectral_information(x, label, 1.0, Rng(0, 1)) == pytest.approx(2, abs=0.1)
    mixed = label[torch.argsort(Rng(3, 100).uniform((100,), F64))]
    assert abs(spectral_information(x, mixed, 1.0, Rng(0, 1))) < 0.1


def test_the_draws_differ_from_class_to_class_and_repeat_for_one_seed() -> None:
    x, label = clusters(3, 10, spread=300.0)
    found = [spectral_information(x, label, 100.0, Rng(seed, 1), draws=1) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_a_class_is_compared_with_as_many_points_of_all_drawn_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a width below all distances every set has log2 of its size, so that nothing is left."""
    x, label = Rng(1, 30).normal((30, 2), F64), torch.tensor([0] * 12 + [1] * 12 + [2] * 6)
    assert spectral_information(x, label, 1e-6, Rng(0, 1)) == pytest.approx(0, abs=1e-9)
    seen: list[Tensor] = []

    def recorded(points: Tensor, *settings: object) -> float:
        seen.append(points)
        return 0.0

    monkeypatch.setattr(spectral, "spectral_entropy", recorded)
    spectral_information(x, label, 1.0, Rng(0, 1), draws=2)
    own, first, second, other, third, _ = seen[:6]
    assert torch.equal(own, x[:12]) and torch.equal(other, x[12:24])
    assert len(first) == len(second) == len(third) == 12
    assert not torch.equal(first, second) and not torch.equal(first, third)


def test_classes_of_one_point_are_left_out() -> None:
    x, label = clusters(2, 10)
    more = torch.cat([x, x[:1]]), torch.cat([label, torch.tensor([9])])
    assert spectral_information(*more, 1.0, Rng(0, 1), draws=20) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="no class has two points"):
        spectral_information(x, torch.arange(20), 1.0, Rng(0, 1))


def test_numbers_out_of_range_are_refused() -> None:
    x = torch.zeros(3, 2)
    for width, power, points in ((0.0, 1.0, x), (1.0, 0.0, x), (1.0, 1.0, x[:1])):
        with pytest.raises(ValueError, match="an entropy needs two points"):
            spectral_entropy(points, width, power)
    with pytest.raises(ValueError, match="the operator 'other' was asked for"):
        spectral_entropy(x, 1.0, operator="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one draw"):
        spectral_information(x, torch.zeros(3, dtype=torch.int64), 1.0, Rng(0, 1), draws=0)
    with pytest.raises(ValueError, match="one whole number for each of 3 points"):
        spectral_information(x, torch.zeros(2, dtype=torch.int64), 1.0, Rng(0, 1))
