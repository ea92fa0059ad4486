"""`Target`: a density without items."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.cond import CondSpec
from softmix.data import DataError, Source, Target
from softmix.rng import Rng


def well(x: Tensor) -> Tensor:
    return -(x.square().sum(1) - 1).square()


def test_a_target_has_no_items() -> None:
    target = Target((2,), well)
    assert isinstance(target, Source)
    assert len(target) == 0
    assert target.name == "target well"
    assert target.cond == CondSpec()
    assert not target.is_image
    assert target.shape == (2,)
    with pytest.raises(DataError, match="a target density has none"):
        target.batch(torch.arange(2), Rng(0, 2))


def test_another_density_has_another_fingerprint() -> None:
    assert Target((2,), well).fingerprint == Target((2,), well).fingerprint
    others = [Target((3,), well), Target((2,), lambda x: 2 * well(x), "target well"), Target((2,), well, "other")]
    assert len({Target((2,), well).fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    ("density", "reason"),
    [
        (lambda x: x, r"gave \[16, 2\] for 16 points; give one number for each"),
        (lambda x: 0.0, "gave float for 16 points"),
        (lambda x: x.sum(1) * math.nan, "is not a number, or infinite"),
        (lambda x: x.sum(1).abs() + math.inf, "is not a number, or infinite"),
    ],
)
def test_invalid_densities_are_refused(density: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Target((2,), density)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="give sizes of 1 or more"):
        Target((), well)


def test_a_density_may_be_zero_somewhere() -> None:
    assert len(Target((2,), lambda x: torch.where(x[:, 0] > 0, 0.0, -math.inf))) == 0
