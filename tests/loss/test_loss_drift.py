"""`FeatureDrift` and the drift itself: against the sums of the paper written out, and by what the field does."""

from __future__ import annotations

import math

import pytest
import torch
from test_loss_feature import COUNT, F64, NONE, SHAPE, P, ask, eyes, given, pairs
from torch import Tensor

from softmix.cond import Cond, CondSpec
from softmix.loss import FeatureDrift, FeatureEnergy
from softmix.loss.drift import drift_loss, means_of_cells, other_class
from softmix.loss.pairs import all_pairs
from softmix.posterior import Implicit
from softmix.rng import Rng
from softmix.train import preset

RADII = (0.02, 0.05, 0.2)


def values(seed: int, *shape: int) -> Tensor:
    return Rng(seed, shape[0], "drift").normal(shape, F64)


def force_by_sums(g: Tensor, p: Tensor, radii: tuple[float, ...], apart: Tensor | None = None) -> tuple[Tensor, float]:
    """The sum over R of V / rms(V), and the unit of length, for one place: g [n, C], p [k, C]. One sum at a time."""
    n, k, width = len(g), len(p), g.shape[1]
    y = [*g, *p]
    d = [[math.dist(a, b) for b in y] for a in g.tolist() for y in [[*g.tolist(), *p.tolist()]]]
    out = [[j == i or (apart is not None and bool(apart[i, j])) for j in range(n + k)] for i in range(n)]
    used = [d[i][j] for i in range(n) for j in range(n + k) if not out[i][j]]
    mean = sum(used) / len(used)
    total = torch.zeros_like(g)
    for radius in radii:
        e = [[0.0 if out[i][j] else math.exp(-d[i][j] / mean / radius) for j in range(n + k)] for i in range(n)]
        rows, columns = [sum(row) for row in e], [sum(e[i][j] for i in range(n)) for j in range(n + k)]
        a = [[e[i][j] and e[i][j] / math.sqrt(rows[i] * columns[j]) for j in range(n + k)] for i in range(n)]
        field = torch.zeros_like(g)
        for i in range(n):
            to_draws, to_data = sum(a[i][:n]), sum(a[i][n:])
            for j in range(n + k):
                weight = -a[i][j] * to_data if j < n else a[i][j] * to_draws
                # the paper moves along y - g; the weights of both parts have the same sum
                field[i] += weight * (y[j] - g[i])
        total += field / field.square().mean().sqrt()
    return total, mean / math.sqrt(width)


@pytest.mark.parametrize("n, k, width", [(2, 1, 3), (5, 7, 4), (9, 4, 1)])
@pytest.mark.parametrize("radii", [(0.2,), (0.3, 0.1, 1.0)])
def test_the_gradient_is_the_field_of_the_paper(n: int, k: int, width: int, radii: tuple[float, ...]) -> None:
    """d L / d g = -2 force / (unit, numbers): the places are compared one by one, and have a unit of their own."""
    g, p = values(0, 2, n, width).requires_grad_(), 1 + 2 * values(1, 2, k, width)
    value = drift_loss(g, p, radii)
    value.backward()
    sums = [force_by_sums(a, b, radii) for a, b in zip(g.detach(), p, strict=True)]
    right = torch.stack([-2 * force / unit for force, unit in sums]) / g.numel()
    assert g.grad is not None and torch.allclose(g.grad, right, rtol=1e-9, atol=1e-12)
    assert float(value.detach()) == pytest.approx(float(torch.stack([f.square().mean() for f, _ in sums]).mean()))


def test_the_unit_of_length_does_not_matter_and_the_origin_neither() -> None:
    g, p = values(0, 3, 6, 4), values(1, 3, 8, 4)
    first = drift_loss(g, p, RADII)
    assert torch.allclose(first, drift_loss(100 * g + 7, 100 * p + 7, RADII), rtol=1e-9)


def test_data_get_no_gradient_and_their_order_does_not_matter() -> None:
    g, p = values(0, 1, 6, 4).requires_grad_(), values(1, 1, 8, 4).requires_grad_()
    value = drift_loss(g, p, RADII)
    assert torch.autograd.grad(value, p, allow_unused=True, retain_graph=True) == (None,)
    other = drift_loss(g, p[:, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])], RADII)
    for one, two in zip(torch.autograd.grad(value, g), torch.autograd.grad(other, g), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)


def moved(g: Tensor, p: Tensor, drift: float, energy: float) -> Tensor:
    """Points [n, C] after 300 steps of one size along the gradient of both losses."""
    for _ in range(300):
        g = g.detach().requires_grad_()
        loss = drift * drift_loss(g[None], p[None], RADII) + energy * all_pairs(g[:, :, None], p[:, :, None])
        (slope,) = torch.autograd.grad(loss, g)
        g = g - 0.05 * slope / slope.square().mean().sqrt()
    return g.detach()


def energy_distance(a: Tensor, b: Tensor) -> float:
    def apart(x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y).mean()

    return float(2 * apart(a, b) - apart(a, a) - apart(b, b))


def two_clusters() -> Tensor:
    """300 points: a third at -2 and two thirds at 2."""
    return 0.2 * values(1, 300, 2) + torch.where(torch.arange(300) < 100, -2.0, 2.0)[:, None]


STARTS = {
    "in the middle": lambda z: 0.1 * z,
    "far away": lambda z: 6 + 0.5 * z,
    "in one cluster": lambda z: 2 + 0.2 * z,
}


@pytest.mark.parametrize("start", STARTS)
def test_with_the_energy_score_points_reach_two_clusters_in_their_shares(start: str) -> None:
    """The drift alone does not. Measured: 0.006 at most, and 0.317 of the points at least."""
    data, first = two_clusters(), STARTS[start](values(3, 300, 2))
    after = moved(first, data, 0.02, 1.0)
    assert energy_distance(first, data) > 1 and energy_distance(after, data) < 0.02
    assert float((after[:, 0] < 0).double().mean()) == pytest.approx(1 / 3, abs=0.05)


def test_drift_alone_does_not_find_a_cluster_far_from_all_draws() -> None:
    """Near pairs decide alone. The points stay where they are, though the laws differ: the loss is not proper."""
    data = two_clusters()
    reached = {name: moved(start(values(3, 300, 2)), data, 1.0, 0.0) for name, start in STARTS.items()}
    assert energy_distance(reached["in the middle"], data) < 0.1
    assert float((reached["in one cluster"][:, 0] < 0).double().mean()) < 0.02


def test_half_precision_is_summed_in_single() -> None:
    g, p = values(0, 2, 20, 8).half(), values(1, 2, 30, 8).half()
    assert torch.equal(drift_loss(g, p, RADII), drift_loss(g.float(), p.float(), RADII))
    assert drift_loss(g.double(), p.double(), RADII).dtype == F64


def test_equal_draws_have_no_direction_and_give_no_nan() -> None:
    g = torch.ones(1, 4, 3, dtype=F64, requires_grad=True)
    value = drift_loss(g, torch.ones(1, 5, 3, dtype=F64), RADII)
    value.backward()
    assert float(value.detach()) == 0 and g.grad is not None and not g.grad.any()


# the grid of means


@pytest.mark.parametrize("side, cells", [(8, 4), (7, 4), (5, 2), (28, 4)])
def test_cells_are_those_of_adaptive_pooling(side: int, cells: int) -> None:
    h = values(0, 3, side * side, 6)
    maps = h.transpose(1, 2).unflatten(2, (side, side))
    right = torch.nn.functional.adaptive_avg_pool2d(maps, cells).flatten(2).transpose(1, 2)
    assert torch.allclose(means_of_cells(h, cells), right, atol=1e-12)


def test_small_maps_and_places_that_are_no_square_stay() -> None:
    for places in (16, 9, 12, 50):
        h = values(0, 2, places, 3)
        assert means_of_cells(h, 4) is h


# the loss


def test_the_defaults_are_the_documented_ones() -> None:
    loss = FeatureDrift()
    assert (loss.drift, loss.radii, loss.cells) == (0.02, RADII, 4)
    assert (loss.share, loss.blank, loss.high, loss.m, loss.pixels) == (0.5, 0.8, 0.05, 2, 0.1)
    assert not loss.proper


@pytest.mark.parametrize("wrong", [{"drift": 0.0}, {"cells": 0}, {"radii": ()}, {"radii": (0.1, 0.0)}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="FeatureDrift needs a weight"):
        FeatureDrift(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("pixels", [0.0, 0.3])
def test_draws_at_t_1_drift_in_three_views_of_each_block(m: int, pixels: float) -> None:
    noised, look = given(dtype=F64), eyes().double()
    loss = FeatureDrift(blank=0.2, high=0.0, mean=NONE, m=m, pixels=pixels, features=0.0, drift=0.7, radii=(0.2, 1.0))
    found, believing = ask(loss, noised, look)
    at_1 = float(P.alpha(1.0)) * noised.x0 + float(P.sigma(1.0)) * noised.z
    eta = Implicit(lambda eta: eta, 4, SHAPE, noised.x0).draws(m, Rng(2, COUNT).take(torch.arange(4)))
    draws = (at_1[:4] / 2 + eta).flatten(0, 1)
    blocks = []
    for a, b in zip(look(draws), look(noised.x0), strict=True):
        views = [
            [(a[..., place], b[..., place]) for place in range(a.shape[-1])],
            [(a.mean(-1), b.mean(-1))],
            [(a.transpose(1, 2).flatten(1), b.transpose(1, 2).flatten(1))],
        ]
        sizes = [
            torch.stack([force_by_sums(x, y, (0.2, 1.0))[0].square().mean() for x, y in view]).mean() for view in views
        ]
        blocks.append(torch.stack(sizes).mean())
    right = pixels * pairs(draws.flatten(1), noised.x0.flatten(1)) + 0.7 * torch.stack(blocks).mean()
    assert torch.allclose(found[:4], right.expand(4), rtol=1e-5) and not found[4:].any()
    assert len(believing.asked) == 1


# the side of the image of features and the channels of three blocks
BLOCKS = ((0, 6, 2), (1, 3, 2), (2, 7, 5))

# labels


def test_pairs_of_different_classes_are_left_out() -> None:
    """Two draws of each of the first 3 of 5 items. The third has no label: it is compared with all x0."""
    apart = other_class(torch.tensor([0, 1, -1, 1, 2]), 3, 2)
    own = ["0", "1", "none"] * 2
    same = [[a == b for b in own] for a in own]
    data = {"0": [1, 0, 0, 0, 0], "1": [0, 1, 0, 1, 0], "none": [1, 1, 1, 1, 1]}
    right = [[*row, *map(bool, data[name])] for row, name in zip(same, own, strict=True)]
    assert torch.equal(~apart, torch.tensor(right))


def test_of_several_labels_all_must_agree() -> None:
    apart = other_class(torch.tensor([[0, 1], [0, 2], [0, -1]]), 3, 1)
    assert apart[:, 3:].tolist() == [[False, True, True], [True, False, True], [False, False, False]]
    assert torch.equal(apart[:, :3], ~torch.eye(3, dtype=torch.bool))


@pytest.mark.parametrize("labels", [[0, 1, -1, 1, 2], [0, 1, 1, 2, 2]])
def test_the_field_of_a_class_is_that_of_its_own_pairs(labels: list[int]) -> None:
    """By the sums written out. In the second case no draw is compared with the data of class 2."""
    g, p, radii = values(0, 1, 6, 3).requires_grad_(), values(1, 1, 5, 3), (0.3, 1.0)
    apart = other_class(torch.tensor(labels), 3, 2)
    (slope,) = torch.autograd.grad(drift_loss(g, p, radii, apart), g)
    force, unit = force_by_sums(g.detach()[0], p[0], radii, apart)
    assert torch.allclose(slope[0], -2 * force / unit / g.numel(), rtol=1e-9, atol=1e-12)


def test_draws_of_a_class_go_to_the_data_of_their_class() -> None:
    """The classes lie at -2 and 2, and all draws begin at 0. Measured: each gets 0.72 of the way at least."""
    labels = torch.arange(40) % 2
    data, g = 0.2 * values(1, 40, 2) + 4.0 * labels[:, None] - 2, 0.1 * values(3, 80, 2)
    for _ in range(200):
        g = g.detach().requires_grad_()
        (slope,) = torch.autograd.grad(drift_loss(g[None], data[None], (0.2, 1.0), other_class(labels, 40, 2)), g)
        g = g - 0.05 * slope / slope.square().mean().sqrt()
    for label, where in ((0, -2.0), (1, 2.0)):
        reached = g.detach()[labels.repeat(2) == label]
        assert bool((reached.mean(1) / where > 0.5).all())


@pytest.mark.parametrize("joined", [False, True])
def test_equal_labels_change_nothing_but_the_pairs_of_pixels(joined: bool) -> None:
    labels = torch.zeros(COUNT, dtype=torch.int64)
    shares = {"blank": 0.4, "high": 0.1, "mean": 0.5, "pixels": 0.0}
    plain, _ = ask(FeatureDrift(**shares), given(dtype=F64), eyes().double())  # type: ignore[arg-type]
    cond = Cond(label=labels) if joined else labels
    found, believing = ask(FeatureDrift(**shares), given(cond, F64), eyes().double())  # type: ignore[arg-type]
    assert torch.allclose(found, plain) and bool((believing.asked[0][1][10:18] == 1).all())
    score, _ = ask(FeatureDrift(**{**shares, "pixels": 0.3}), given(cond, F64), eyes().double())  # type: ignore[arg-type]
    both, _ = ask(FeatureEnergy(blank=0.0, high=0.4, mean=0.5, pixels=0.3, features=0.0), given(cond, F64))
    assert both[:8].shape == (8,) and bool((score[:8] != found[:8]).all())


def test_with_other_conditions_no_item_is_drawn_at_t_1() -> None:
    cond = Cond(value=torch.ones(COUNT, 1))
    found, believing = ask(FeatureDrift(blank=0.4, high=0.1, mean=NONE), given(cond))
    right, _ = ask(FeatureEnergy(blank=0.4, high=0.1, mean=NONE), given(cond))
    assert torch.equal(found, right) and bool((believing.asked[0][1] < 1).all())


@pytest.mark.parametrize("spec", [CondSpec(image=1), CondSpec(values=2), CondSpec((("class", 3),), context=4)])
def test_a_training_with_other_conditions_is_refused(spec: CondSpec) -> None:
    """No draw would drift, and the settings of drift would have no effect."""

    class Offers:
        name, shape, is_image, vocabulary, cond = "data", (1, 8, 8), True, 0, spec

    config = preset("smd", (1, 8, 8)).but(classes=bool(spec.labels))
    with pytest.raises(ValueError, match=r"FeatureDrift compares the items of a batch, and with .* take FeatureEnergy"):
        config.task.cond_spec(Offers())  # type: ignore[arg-type]
    given = preset("smd", (1, 8, 8), spec).but(classes=bool(spec.labels))
    assert given.task.cond_spec(Offers()) == spec  # type: ignore[arg-type]
    Offers.cond = CondSpec((("class", 3),))
    assert config.but(classes=True).task.cond_spec(Offers()) == Offers.cond  # type: ignore[arg-type]


def test_other_times_keep_the_energy_scores() -> None:
    noised = given()
    shares = {"blank": 0.0, "high": 0.4, "mean": 0.5}
    drift, _ = ask(FeatureDrift(**shares), noised)  # type: ignore[arg-type]
    energy, _ = ask(FeatureEnergy(**shares), noised)
    assert torch.equal(drift, energy) and bool(drift[:8].all())


def test_each_view_of_each_block_counts_once() -> None:
    """The cells, the mean over the image and the whole grid of three blocks, two of which have as many channels. A mean
    over cells that overlap is not the mean over the image."""
    loss = FeatureDrift()
    features = [
        (values(seed, 2, 3, side**2, width), values(seed + 9, 5, side**2, width)) for seed, side, width in BLOCKS
    ]
    right = []
    for drawn, truth in features:
        g, p = drawn.flatten(0, 1), truth
        a, b = means_of_cells(g, 4), means_of_cells(p, 4)
        pairs = [(a.transpose(0, 1), b.transpose(0, 1)), (g.mean(1)[None], p.mean(1)[None])]
        pairs.append((a.flatten(1)[None], b.flatten(1)[None]))
        right += [float(drift_loss(one, other, loss.radii)) for one, other in pairs]
    assert float(loss._drifts(features, None)) == pytest.approx(sum(right) / len(right), rel=1e-9)
