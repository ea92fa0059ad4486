"""Patterns on a sphere: their powers against harmonics, the rotations, and the information of the label."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y
from torch import Tensor

from softmix.info import binned_information
from softmix.oracle import sphere, sphere_patterns

F64 = torch.float64


def rotations() -> list[Tensor]:
    """The orders of the corners, one for each rotation of the icosahedron.

    A rotation is known by the images of two neighbours: three axes of a corner, a neighbour and their cross product.
    """
    v = sphere.corners()
    near = [(i, j) for i in range(12) for j in range(12) if float((v[i] - v[j]).norm()) < 1.06 and i != j]

    def frame(i: int, j: int) -> Tensor:
        return torch.stack([v[i], v[j], torch.linalg.cross(v[i], v[j])], 1)

    first = frame(*near[0])
    return [((v @ (frame(*pair) @ torch.linalg.inv(first)).T) @ v.T).argmax(1) for pair in near]


def test_the_corners_are_those_of_an_icosahedron() -> None:
    v = sphere.corners()
    cosines = (v @ v.T).sort(1).values
    right = torch.tensor([-1, *[-1 / math.sqrt(5)] * 5, *[1 / math.sqrt(5)] * 5, 1]).double()
    assert torch.allclose(cosines, right.expand(12, 12)) and len(rotations()) == 60


def test_all_patterns_are_there_once() -> None:
    task = sphere_patterns()
    assert len(torch.unique(task.bits, dim=0)) == len(task.bits) == 4096
    # full patterns have the most power
    assert float(task.given[-1, 1]) == pytest.approx(1) and float(task.given[0, 0]) == pytest.approx(1)
    assert task.bits[5].tolist() == [0] * 9 + [1, 0, 1]
    assert float(task.joint.sum()) == pytest.approx(1) and torch.allclose(
        task.joint.sum(1), torch.tensor(1 / 4096).double()
    )


def test_powers_are_those_of_spherical_harmonics() -> None:
    """scipy's harmonics of all degrees and orders, at all corners."""
    v, task = sphere.corners().numpy(), sphere_patterns()
    polar, around = np.arccos(v[:, 2]), np.arctan2(v[:, 1], v[:, 0])
    for degree in range(6):
        size = sum(
            np.abs(task.bits.numpy() @ sph_harm_y(degree, order, polar, around)) ** 2
            for order in range(-degree, degree + 1)
        )
        assert np.allclose(size, task.powers[:, degree].numpy(), atol=1e-10)


def test_a_turned_pattern_has_the_same_label() -> None:
    """And the powers part the patterns into the 64 classes that the paper counts."""
    task = sphere_patterns()
    place = 2 ** torch.arange(11, -1, -1)
    for order in rotations():
        turned = (task.bits[:, order].long() * place).sum(1)
        assert torch.allclose(task.given[turned], task.given, atol=1e-6)
        assert torch.allclose(task.powers[turned], task.powers, atol=1e-9)
    assert len(torch.unique((task.powers * 1e6).round(), dim=0)) == 64
    # the sum of all bits does not decide
    counts = task.bits.sum(1)
    assert all(float(task.given[counts == k, 1].std()) > 0.2 for k in (6, 7))


@pytest.mark.parametrize("bits", [0.3, 0.9, 0.99, 0.998])
def test_the_label_has_the_information_that_was_asked_for(bits: float) -> None:
    task = sphere_patterns(bits)
    assert binned_information(task.bits, task.given, 2, (0, 1)).y == pytest.approx(bits, abs=1e-6)
    assert float(task.given[:, 1].mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.allclose(task.given.sum(1), torch.ones(4096, dtype=F64))


def test_the_degrees_decide_the_rule() -> None:
    """Of degree 0 alone the label follows the number of bits."""
    none, two = sphere_patterns(degrees=0), sphere_patterns()
    counts = none.bits.sum(1)
    assert all(float(none.given[counts == k, 1].std()) < 1e-9 for k in range(1, 12))
    assert float((none.given - two.given).abs().max()) > 0.9


def test_numbers_out_of_range_are_refused() -> None:
    for information, degrees in ((0.0, 2), (0.9995, 2), (0.9, 6), (0.9, -1)):
        with pytest.raises(ValueError, match=r"between 0 and 0\.999 bits"):
            sphere_patterns(information, degrees)
