"""Joint posteriors: they have exactly the abilities that all parts have."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.posterior import (
    Categorical,
    Empirical,
    HasDensity,
    HasMean,
    HasVariance,
    Implicit,
    Joint,
    Normal,
    Point,
    Posterior,
    ValuedCategorical,
    combined,
    need,
)
from softmix.rng import Rng

F64 = torch.float64
ABILITIES = (HasMean, HasVariance, HasDensity)


def normal(items: int = 3) -> Normal:
    return Normal(
        Rng(0, items, "mean").normal((items, 2, 4), F64), Rng(0, items, "var").normal((items, 1, 1), F64).exp()
    )


def label(items: int = 3) -> Categorical:
    return Categorical(Rng(0, items, "label").normal((items, 5), F64))


def levels(items: int = 3) -> ValuedCategorical:
    return ValuedCategorical(Rng(0, items, "levels").normal((items, 5, 7), F64), torch.arange(5))


def soft(items: int = 3) -> Implicit:
    return Implicit(lambda eta: 2 * eta + 1, items, (4,), torch.zeros(items, 4, dtype=F64))


def known(items: int = 3) -> Empirical:
    return Empirical(Rng(0, items, "known").normal((items, 6), F64), torch.arange(6.0, dtype=F64)[:, None])


def point(items: int = 3) -> Point:
    return Point(torch.ones(items, 2, dtype=F64))


PARTS = (normal, label, levels, soft, known, point)


@pytest.mark.parametrize("first, second", list(product(PARTS, PARTS)), ids=lambda make: make.__name__)
def test_a_joint_has_the_abilities_of_all_its_parts(first: Any, second: Any) -> None:
    belief = Joint({"a": first(), "b": second()})
    for ability in ABILITIES:
        assert isinstance(belief, ability) == (isinstance(first(), ability) and isinstance(second(), ability))
    assert hasattr(belief, "mean") == isinstance(belief, HasMean)
    assert hasattr(belief, "var") == isinstance(belief, HasVariance)
    assert hasattr(belief, "log_prob") == isinstance(belief, HasDensity)
    assert isinstance(belief, Joint) and type(belief).__name__ == "Joint"


def test_parts_are_sampled_in_order_from_one_rng() -> None:
    belief, rng = Joint({"image": normal(), "label": label()}), Rng(1, 3)
    drawn, again = belief.sample(rng), Rng(1, 3)
    assert list(drawn) == ["image", "label"] and rng.draws == 2
    assert torch.equal(drawn["image"], normal().sample(again))
    assert torch.equal(drawn["label"], label().sample(again))


def test_a_second_draw_differs() -> None:
    belief, rng = Joint({"image": normal(), "label": label()}), Rng(1, 3)
    assert not torch.equal(belief.sample(rng)["image"], belief.sample(rng)["image"])


def test_several_draws_are_mappings_of_several_draws() -> None:
    drawn = Joint({"image": normal(), "soft": soft()}).draws(4, Rng(1, 3))
    again = Rng(1, 3)
    assert torch.equal(drawn["image"], normal().draws(4, again))
    assert torch.equal(drawn["soft"], soft().draws(4, again))


def test_parts_are_independent_given_xt() -> None:
    """Two coins: each side half of the time, and equal half of the time, of 20,000 (5 standard errors)."""
    coin = Categorical(torch.zeros(20_000, 2))
    drawn = Joint({"a": coin, "b": coin}).sample(Rng(0, 20_000))
    for share in (drawn["a"].double().mean(), (drawn["a"] == drawn["b"]).double().mean()):
        assert abs(float(share) - 0.5) < 5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize("items", [1, 2, 3, 7, 260])
def test_a_batch_of_k_is_k_batches_of_one(items: int) -> None:
    logits = Rng(0, items).normal((items, 5), F64)
    mean = Rng(0, items).normal((items, 2), F64)

    def belief(of: slice) -> Joint:
        return Joint({"label": Categorical(logits[of]), "point": Normal(mean[of], torch.ones(1, 1, dtype=F64))})

    several = belief(slice(None)).sample(Rng(4, items))
    for k in {0, items // 2, items - 1}:
        alone = belief(slice(k, k + 1)).sample(Rng(4, [k]))
        assert all(torch.equal(several[name][k], alone[name][0]) for name in several)


def test_means_and_variances_are_those_of_the_parts() -> None:
    belief = Joint({"image": normal(), "levels": levels()})
    assert isinstance(belief, HasVariance)
    assert torch.equal(belief.mean["image"], normal().mean) and torch.equal(belief.mean["levels"], levels().mean)
    assert torch.equal(belief.var["image"], normal().var) and torch.equal(belief.var["levels"], levels().var)


def test_densities_multiply() -> None:
    belief = Joint({"image": normal(), "label": label()})
    x0 = {"label": torch.tensor([1, 0, 4]), "image": torch.zeros(3, 2, 4, dtype=F64)}
    right = normal().log_prob(x0["image"]) + label().log_prob(x0["label"])
    assert isinstance(belief, HasDensity) and torch.allclose(belief.log_prob(x0), right, rtol=1e-12)


def test_a_part_may_be_joint() -> None:
    inner = Joint({"image": normal(), "label": label()})
    belief = Joint({"first": inner, "second": levels()})
    x0 = belief.sample(Rng(0, 3))
    assert isinstance(belief, HasDensity) and not isinstance(belief, HasMean)
    right = normal().log_prob(x0["first"]["image"]) + label().log_prob(x0["first"]["label"])
    assert torch.allclose(belief.log_prob(x0), right + levels().log_prob(x0["second"]), rtol=1e-12)


def test_a_copy_has_the_same_abilities() -> None:
    belief = Joint({"image": normal(), "levels": levels()})
    other = copy.deepcopy(belief)
    assert type(other) is type(belief) and torch.equal(other.parts["levels"].mean, levels().mean)  # type: ignore[attr-defined]


def test_parts_are_read_only() -> None:
    """The abilities are determined at construction."""
    given: dict[str, Posterior[Any]] = {"image": normal()}
    belief = Joint(given)
    given["label"] = label()
    assert list(belief.parts) == ["image"]
    with pytest.raises(TypeError):
        belief.parts["label"] = label()  # type: ignore[index]


# combinations


def difference(first: Tensor, second: Tensor) -> Tensor:
    return 3 * first - 2 * second


def test_two_joints_are_combined_part_by_part() -> None:
    """Labels by their log-probabilities, latents by their draws, all others by their means."""
    first = Joint({"image": normal(), "label": label(), "soft": soft()})
    logits = Rng(1, 3).normal((3, 5), F64)
    other = Joint(
        {
            "soft": Implicit(lambda eta: eta, 3, (4,), torch.zeros(3, 4, dtype=F64)),
            "image": point_like(),
            "label": Categorical(logits),
        }
    )
    both = combined(first, other, difference, "the test")
    assert isinstance(both, Joint) and list(both.parts) == ["image", "label", "soft"]
    image, named, latent = both.parts["image"], both.parts["label"], both.parts["soft"]
    assert isinstance(image, Point) and torch.equal(image.mean, 3 * normal().mean - 2)
    right = difference(label().log_probabilities, logits.log_softmax(1)).log_softmax(1)
    assert isinstance(named, Categorical) and torch.allclose(named.log_probabilities, right, atol=1e-12)
    assert isinstance(latent, Implicit)
    eta = latent.latents(2, Rng(0, 3))
    assert torch.allclose(latent.draws(2, Rng(0, 3)), 3 * (2 * eta + 1) - 2 * eta)


def point_like() -> Point:
    return Point(torch.ones(3, 2, 4, dtype=F64))


def test_joints_with_other_parts_are_not_combined() -> None:
    for other in (Joint({"label": label()}), label()):
        with pytest.raises(ValueError, match=r"\['image', 'label'\] is combined with one of .*give the same parts"):
            combined(Joint({"image": normal(), "label": label()}), other, difference, "the test")


def test_the_error_names_a_part_that_cannot_be_combined() -> None:
    with pytest.raises(TypeError, match=r"^part 'a' needs a mean of the posterior, and Categorical has none"):
        combined(Joint({"a": label()}), Joint({"a": Categorical(torch.zeros(3, 9))}), difference, "the test")


# refusals


def test_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="without parts"):
        Joint({})


def test_a_part_that_is_no_posterior_is_refused() -> None:
    with pytest.raises(TypeError, match="part 'label' of a Joint is of type Tensor; give a posterior"):
        Joint({"image": normal(), "label": torch.zeros(3, 5)})  # type: ignore[dict-item]


@pytest.mark.parametrize("names", [("image",), ("image", "label", "more"), ("image", "lable")], ids=str)
def test_items_with_other_parts_are_refused(names: tuple[str, ...]) -> None:
    belief = Joint({"image": normal(), "label": label()})
    assert isinstance(belief, HasDensity)
    with pytest.raises(ValueError, match=r"this posterior \['image', 'label'\]; give the same"):
        belief.log_prob({name: torch.zeros(3, dtype=torch.int64) for name in names})


def test_parts_of_unequal_numbers_of_items_are_refused() -> None:
    """A part with a single item would be added to all items of the other part."""
    belief = Joint({"image": normal(), "label": label(1)})
    assert isinstance(belief, HasDensity)
    with pytest.raises(ValueError, match=r"\{'image': 3, 'label': 1\}; give equal ones"):
        belief.log_prob({"image": torch.zeros(3, 2, 4, dtype=F64), "label": torch.zeros(1, dtype=torch.int64)})
    with pytest.raises(ValueError, match="serves 3 items"):
        belief.sample(Rng(0, 3))


def test_the_error_names_the_lacking_part_and_its_remedy() -> None:
    with pytest.raises(TypeError) as refused:
        need(Joint({"image": normal(), "label": label(), "soft": soft()}), HasMean, "ddim")
    said = str(refused.value)
    assert said.startswith("ddim needs a mean of the posterior, and Joint has none. Its part 'label' is of type Categ")
    assert "with_values" in said and "Its part 'soft' is of type Implicit" in said and "averaged(n)" in said
    assert "'image'" not in said
