"""The recipe of locality: the order of pixels, the measures, and one tiny run."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.denoiser import LocalData, PatchData, jacobian, wiener, windows
from softmix.posterior import Point
from softmix.process import VP
from softmix.recipe import locality as recipe
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng


def test_fields_of_permuted_items_are_those_of_the_items_in_their_places() -> None:
    """The linear denoiser of permuted digits looks at the same pixels."""
    plain, moved = (recipe.items("digits", 8, permuted) for permuted in (False, True))
    assert not torch.equal(plain.train, moved.train)
    assert torch.equal(moved.as_seen(moved.train[:5]), plain.train[:5])
    xt = VP().noise(plain.held_out[:2], 0.5, Rng(0, 2)).xt
    fields = []
    for own in (plain, moved):
        linear = wiener(VP(), own.train.flatten(1).mean(0), own.covariance.float())
        place = int((own.order == 27).nonzero())
        fields.append(own.as_seen(jacobian(linear, xt, 0.5, [place])[0]))
    assert torch.allclose(fields[0], fields[1], atol=1e-5)


def test_the_share_explained_is_that_of_the_variance() -> None:
    answers = Rng(0, 50).normal((50, 1, 4, 4), torch.float64)
    assert recipe.explained(answers, answers) == 1
    assert recipe.explained(answers.mean(0).expand_as(answers), answers) == pytest.approx(0, abs=1e-12)
    off = Rng(1, 50).normal((50, 1, 4, 4), torch.float64)
    right = 1 - 0.25 * off.square().sum() / (answers - answers.mean(0)).square().sum()
    assert recipe.explained(answers + 0.5 * off, answers) == pytest.approx(float(right))


def test_the_forms_are_those_of_the_items() -> None:
    own = recipe.items("digits", 8, False)
    known = recipe.forms(own, 20)
    assert {name: len(each) for name, each in known.items()} == {
        recipe.LOCAL: 1,
        recipe.APART: 1,
        recipe.AS_FEW: 1,
        recipe.SQUARES: 4,
        recipe.SHARED: 4,
        recipe.LINEAR: 1,
        recipe.WHOLE: 1,
    }
    xt = VP().noise(own.held_out[:2], 0.3, Rng(0, 2)).xt
    right = LocalData(VP(), own.train, windows(own.shape, 5))(xt, 0.3).mean
    assert torch.equal(recipe.mean_of(known[recipe.SQUARES][2], xt, 0.3), right)
    apart = known[recipe.APART][0]
    assert isinstance(apart, LocalData) and apart.apart == min(512, len(own.train) // 3)
    as_few, shared = known[recipe.AS_FEW][0], known[recipe.SHARED][0]
    assert isinstance(as_few, LocalData) and isinstance(shared, PatchData)
    assert len(as_few.points) == len(shared.points) == 20


def test_a_form_of_several_sizes_has_that_of_each_network_and_of_the_data() -> None:
    """R^2 by the size that suits the network, the error by the size that suits the data."""
    x0 = Rng(0, 6).normal((6, 1, 2, 2))
    near, far = x0 + 0.1, x0 + 2.0
    known = {"sizes": [Constant(near), Constant(far)], "one": [Constant(far)]}
    found = recipe._of_forms(known, {"net": far + 0.05}, x0, x0, 0.5, 0.0)
    assert found["sizes", "error@0"] == pytest.approx(0.01, rel=1e-4)
    assert found["sizes", "explains net@0"] == found["one", "explains net@0"] == recipe.explained(far, far + 0.05)


class Constant:
    """A denoiser of one answer."""

    process = VP()

    def __init__(self, answer: torch.Tensor):
        self.answer = answer

    def __call__(self, xt: torch.Tensor, t: object, cond: object = None) -> Point:
        return Point(self.answer)


def test_fields_are_compared_over_the_pixels_as_they_are() -> None:
    """A linear denoiser of permuted digits as a network: the likeness is 1, and the reach that of the digits."""
    plain, moved = (recipe.items("digits", 8, permuted) for permuted in (False, True))
    t, reaches = float(VP().time(0.0)), []
    for own, permuted in ((plain, False), (moved, True)):
        linear = wiener(VP(), own.train.flatten(1).double().mean(0).float(), own.covariance.float())
        x0 = own.held_out[:3]
        found = recipe._of_fields(own, {"net": linear}, {"net": x0 + 0.5}, x0, x0, t, 0.0, permuted)
        arm = f"net, {recipe.PERMUTED}" if permuted else "net"
        assert found[arm, "likeness@0"] == pytest.approx(1, abs=1e-5)
        assert found[arm, "error@0"] == pytest.approx(0.25)
        reaches.append(found[arm, "reach@0"])
    assert reaches[0] == pytest.approx(reaches[1], rel=1e-3)


def made_up(**changed: float) -> Numbers:
    """Rows of a claim that holds: 0.9 explained by correlated pixels, 0.8 by others, and the reach of the linear
    denoiser everywhere. `changed` replaces a metric of an arm, named by the first letters of both."""
    rows = []
    for level in recipe.LEVELS:
        for form in recipe.FORMS:
            ours = form in (recipe.LOCAL, recipe.APART, recipe.AS_FEW)
            for net in recipe.NETS:
                rows.append((form, f"explains {net}@{level:g}", 0.9 if ours else 0.8))
            rows.append((form, f"error@{level:g}", 0.1))
        for net in recipe.NETS:
            rows += [(net, f"reach@{level:g}", 2.0), (f"{net}, {recipe.PERMUTED}", f"reach@{level:g}", 2.0)]
        rows.append((recipe.LINEAR, f"reach@{level:g}", 2.0))
    values = [(arm, metric, changed.get(f"{arm}: {metric.split('@')[0]}", value)) for arm, metric, value in rows]
    return Numbers([row(f"{arm} (digits)", "ours", metric, [value], "x") for arm, metric, value in values])


@pytest.mark.parametrize(
    ("arm", "metric", "value", "failed"),
    [
        (recipe.SQUARES, "explains U-Net", 0.95, 0),
        (recipe.SHARED, "explains U-Net", 0.95, 1),
        ("DiT", "reach", 0.5, 2),
        ("MLP", "reach", 3.5, 2),
        ("U-Net", "reach", 3.5, 3),
        (f"MLP, {recipe.PERMUTED}", "reach", 3.5, 4),
        (f"U-Net, {recipe.PERMUTED}", "reach", 0.5, 5),
        (recipe.APART, "explains U-Net", 0.95, 6),
        (recipe.APART, "error", 0.05, 6),
    ],
)
def test_each_check_follows_its_numbers(arm: str, metric: str, value: float, failed: int) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**{f"{arm}: {metric}": value})).values())
    assert [k for k, true in enumerate(outcomes) if not true] == [failed]


@pytest.mark.slow
def test_a_tiny_run_has_all_numbers() -> None:
    values = recipe.measure("digits", 8, 0, 640, 8, 10)
    (arms,) = [each for each in recipe.run.arms if each.data.startswith("digits")]
    assert {name for name, _ in values} == set(arms.roles)
    assert all(math.isfinite(value) for value in values.values())
    for level in recipe.LEVELS:
        # permuted items have the same linear denoiser, which no training changes
        assert values[f"{recipe.LINEAR} (digits)", f"reach@{level:g}"] > 0.5
    recipe.checks(Numbers([row(arm, "ours", metric, [value], "x") for (arm, metric), value in values.items()]))
