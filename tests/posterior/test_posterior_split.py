"""An implicit posterior, split into consecutive groups of its items."""

from __future__ import annotations

import pytest
import torch

from softmix.posterior import Implicit, ImplicitMean
from softmix.rng import Rng


def test_any_implicit_posterior_can_be_split() -> None:
    """Without a function of its own, a group runs the head of the whole batch."""
    x = Rng(0, 5).normal((5, 2))
    whole = ImplicitMean(lambda eta: x + x * eta, 5, (2,), x, lambda: 3 * x)
    eta = whole.latents(3, Rng(1, 5))
    first, second = whole.split([2, 3])
    assert torch.equal(first.head(eta[:, :2]), whole.head(eta)[:, :2])
    assert torch.equal(second.head(eta[:, 2:]), whole.head(eta)[:, 2:])
    assert isinstance(second, ImplicitMean) and torch.equal(second.mean, 3 * x[2:])
    assert not isinstance(Implicit(whole.head, 5, (2,), x).split([5])[0], ImplicitMean)


@pytest.mark.parametrize("sizes", [[2, 2], [6], []])
def test_groups_of_another_sum_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"a posterior of 5 items was to be split"):
        Implicit(lambda eta: eta, 5, (2,), torch.zeros(5, 2)).split(sizes)
