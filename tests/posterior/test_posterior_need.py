"""Missing abilities, and the advice of each kind of posterior."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import softmix.posterior as room
from softmix.denoiser import Denoiser, adjusted, averaged, wiener
from softmix.denoiser.wrap import Wrapped
from softmix.posterior import (
    Categorical,
    Empirical,
    FullMixture,
    HasDensity,
    HasMean,
    HasNoise,
    HasVariance,
    Implicit,
    ImplicitMean,
    Joint,
    Mixture,
    Normal,
    Point,
    PointAndNoise,
    Posterior,
    ValuedCategorical,
    need,
)
from softmix.process import VP
from softmix.rng import Rng
from softmix.sampler import ddim, sample


def soft(items: int) -> Implicit:
    return Implicit(lambda eta: 2 * eta + 1, items, (4,), torch.zeros(items, 4))


def lone_item() -> Tensor:
    return torch.zeros(1, 2)


KINDS: dict[type[Posterior[Any]], Callable[[], Posterior[Any]]] = {
    Point: lambda: Point(lone_item()),
    PointAndNoise: lambda: PointAndNoise(lone_item(), lone_item()),
    Normal: lambda: Normal(lone_item(), torch.ones(1)),
    Mixture: lambda: Mixture(torch.zeros(1, 3), torch.zeros(1, 3, 2), torch.ones(1)),
    FullMixture: lambda: FullMixture(torch.zeros(1, 3), torch.zeros(1, 3, 2), torch.eye(2).expand(1, 3, 2, 2), (2,)),
    Empirical: lambda: Empirical(torch.zeros(1, 3), torch.zeros(3, 2)),
    Implicit: lambda: soft(1),
    ImplicitMean: lambda: soft(1).averaged(torch.zeros(1, 4)),
    Categorical: lambda: Categorical(torch.zeros(1, 3)),
    ValuedCategorical: lambda: ValuedCategorical(torch.zeros(1, 3), torch.arange(3)),
    Joint: lambda: Joint({"soft": soft(1), "label": Categorical(torch.zeros(1, 3))}),
}
HEADS = "Normal or Mixture head"
# the advice for each kind and each missing ability
REMEDIES: dict[tuple[type[Posterior[Any]], type[Posterior[Any]]], str] = {
    (Point, HasVariance): f"has no spread.*{HEADS}, or an exact denoiser",
    (Point, HasDensity): f"{HEADS}, or train the mean by the loss `Square`",
    (PointAndNoise, HasVariance): f"has no spread.*{HEADS}, or an exact denoiser",
    (PointAndNoise, HasDensity): f"{HEADS}, or train the mean by the loss `Square`",
    (Empirical, HasDensity): "Mixture with the points as its means and a variance",
    (Implicit, HasMean): r"averaged\(n\).*ancestral",
    (Implicit, HasVariance): rf"draws\(m, rng\)\.var\(0\).*{HEADS}, or an exact denoiser",
    (Implicit, HasDensity): f"{HEADS}.*energy score",
    (ImplicitMean, HasVariance): rf"draws\(m, rng\)\.var\(0\).*{HEADS}, or an exact denoiser",
    (ImplicitMean, HasDensity): f"{HEADS}.*energy score",
    (Categorical, HasMean): r"names have no mean.*with_values\(values\).*ancestral",
    (Categorical, HasVariance): r"names have no variance.*with_values\(values\).*entropy",
    (Joint, HasMean): r"part 'soft'.*averaged\(n\).*part 'label'.*with_values",
    (Joint, HasVariance): r"part 'soft'.*var\(0\).*part 'label'.*with_values",
    (Joint, HasDensity): f"part 'soft' is of type Implicit\\. Use a {HEADS}",
}
REMEDIES |= {
    (kind, HasNoise): "NoiseHead by the loss MeanAndNoise.*ancestral" for kind in KINDS.keys() - {PointAndNoise}
}
WORDS = {
    HasMean: "a mean",
    HasNoise: "the mean of the latent noise",
    HasVariance: "a variance",
    HasDensity: "a density",
}


def test_every_kind_of_posterior_is_covered() -> None:
    exported = {each for name in room.__all__ if isinstance(each := getattr(room, name), type)}
    assert exported == KINDS.keys() | {Posterior, *WORDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("ability", WORDS, ids=lambda ability: ability.__name__)
def test_need_returns_the_posterior_or_names_its_remedy(
    kind: type[Posterior[Any]], ability: type[Posterior[Any]]
) -> None:
    belief = KINDS[kind]()
    assert isinstance(belief, ability) == ((kind, ability) not in REMEDIES)
    if isinstance(belief, ability):
        assert need(belief, ability, "the test") is belief
        return
    words = (
        f"^the test needs {WORDS[ability]} of the posterior, and {kind.__name__} has none.*{REMEDIES[kind, ability]}"
    )
    with pytest.raises(TypeError, match=words):
        need(belief, ability, "the test")


def test_averaged_is_advised_for_implicit_posteriors_only() -> None:
    """`averaged(n)` does nothing for other posteriors, and is not named there."""
    for kind, ability in REMEDIES:
        if kind not in (Implicit, Joint):
            assert "averaged" not in KINDS[kind]().remedy(ability)


def test_the_advice_works() -> None:
    """A sampler that needs a mean runs after the advice for each kind of posterior without a mean."""

    def asked(belief: Callable[[int], Posterior], wrap: Callable[[Denoiser], Denoiser]) -> Tensor:
        believer = Wrapped(wiener(VP(), torch.zeros(4), torch.eye(4)), lambda inner, xt, t, cond: belief(len(xt)))
        return sample(wrap(believer), 2, 3, sampler=ddim, shape=(4,))

    def named(items: int) -> Posterior:
        return Categorical(torch.zeros(items, 3, 4))

    def numbered(belief: Posterior, xt: Tensor, t: Tensor | float) -> Posterior:
        return cast(Categorical, belief).with_values(torch.tensor([1.0, 2.0, 6.0]))

    for belief in (named, lambda items: soft(items)):
        with pytest.raises(TypeError, match="ddim needs a mean"):
            asked(belief, lambda denoiser: denoiser)
    assert torch.allclose(asked(named, adjusted(numbered)), torch.full((2, 4), 3.0))
    assert asked(lambda items: soft(items), averaged(4)).isfinite().all()


def test_a_custom_posterior_gets_general_advice() -> None:
    class Bare(Posterior):
        def sample(self, rng: Rng) -> Tensor:
            return lone_item()

    for ability, remedy in ((HasMean, "sampler that draws"), (HasVariance, HEADS), (HasDensity, HEADS)):
        with pytest.raises(TypeError, match=f"Bare has none.*{remedy}"):
            need(Bare(), ability, "the test")


def test_a_custom_posterior_may_give_its_own_advice() -> None:
    class Own(Point):
        remedies = MappingProxyType({HasDensity: "Ask its author."})

    with pytest.raises(TypeError, match=r"Own has none\. Ask its author\.$"):
        need(Own(lone_item()), HasDensity, "the test")
    with pytest.raises(TypeError, match=f"Own has none.*{HEADS}"):
        need(Own(lone_item()), HasVariance, "the test")


def test_a_custom_ability_is_named_by_its_class() -> None:
    with pytest.raises(TypeError, match=r"the test needs Empirical of the posterior, and Point has none"):
        need(Point(torch.zeros(1, 1)), Empirical, "the test")
