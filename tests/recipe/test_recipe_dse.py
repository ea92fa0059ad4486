"""The recipe of diffusion spectral entropy: its points, its baselines, its networks, and its checks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from softmix.data import Data, load
from softmix.denoiser import Network, PointHead
from softmix.evaluate.classifier import build
from softmix.info import relative_width, spectral_entropy, spectral_information
from softmix.net import UNetSpec
from softmix.process import VP
from softmix.recipe import dse as recipe
from softmix.recipe import dse_nets as nets
from softmix.recipe.frame import Numbers, row
from softmix.recipe.images import base
from softmix.rng import Rng
from softmix.train import Run, facts_of
from softmix.train import build as build_modules

F64 = torch.float64


# points


def test_the_limits_are_met_by_both_operators() -> None:
    found = recipe.limits(0, 160)
    kinds = [f"{kind}, {operator}" for operator in ("released", "published") for kind in ("clusters", "narrow", "wide")]
    assert list(found) == kinds and max(found.values()) < 1e-4


def test_a_limit_that_is_missed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entropy that is 0.5 bits too small for wide kernels and narrow ones, and 0.25 for clusters."""

    def wrong(x: Tensor, width: float, operator: str) -> float:
        return spectral_entropy(x, width, operator=operator) - (0.25 if width == 1.0 else 0.5)  # type: ignore[arg-type]

    monkeypatch.setattr(recipe, "spectral_entropy", wrong)
    found = recipe.limits(0, 96)
    assert found["clusters, released"] == pytest.approx(0.25, abs=1e-4)
    assert found["narrow, published"] == pytest.approx(0.5, abs=1e-6)
    assert found["wide, published"] == pytest.approx(0.5, abs=1e-6)


def test_the_clusters_are_as_many_as_asked_for_tight_and_far_apart() -> None:
    x = recipe.clusters(3, 31, 0)
    near = torch.cdist(x, x) < 0.01
    assert sorted(near.sum(1).unique().tolist()) == [10, 11] and len(near.unique(dim=0)) == 3
    assert float(torch.cdist(x, x)[~near].min()) > 1000


def test_half_circles_have_their_variance_and_span_a_plane_for_each_dimension() -> None:
    """A half circle has the variance 1 - 4 / pi^2. Spread over ten seeds of 1,000 points in three dimensions: 0.021."""
    x = recipe.manifold(3, 1000, 0, 0.0, recipe.GROWING)
    assert x.shape == (1000, 100)
    assert float(x.square().sum(1).mean()) == pytest.approx(3 * (1 - 4 / math.pi**2), abs=0.1)
    values = torch.linalg.svdvals(x)
    assert float(values[5]) > 1 and float(values[6]) < 1e-9
    # turned: no coordinate is left out
    assert float(x.std(0).min()) > 0.01
    # the turn keeps all distances
    angle = math.pi * (Rng(0, 1000, "dimension 3").uniform((1000, 3), F64) - 0.5)
    flat = torch.cat([angle.sin(), angle.cos()], 1)
    assert torch.allclose(torch.pdist(x[:50]), torch.pdist(flat[:50]), atol=1e-9)


def test_points_of_equal_variance_have_it_in_each_dimension_and_noise_its_own() -> None:
    """Noise of variance 0.3 over 100 directions. Spread over ten seeds of 1,000 points: 0.0015."""
    for dimension in (1, 8):
        x = recipe.manifold(dimension, 1000, 0, 0.0, recipe.EQUAL)
        assert float(x.square().sum(1).mean()) == pytest.approx(1)
        noise = recipe.manifold(dimension, 1000, 0, 0.3, recipe.EQUAL) - x
        assert float(noise.square().sum(1).mean()) == pytest.approx(0.3, abs=0.006)
        assert float((noise.square().mean(0) - 0.003).abs().max()) < 0.001


def test_other_seeds_and_dimensions_have_other_points() -> None:
    first, again, other = (recipe.manifold(2, 20, seed, 0.1, recipe.EQUAL) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_binned_entropies_of_known_points() -> None:
    """Four corners in equal shares; whole numbers in bins; and points that share no cell of 100 dimensions."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 5.0], [2.0, 0.0], [2.0, 5.0]]).repeat(3, 1)
    assert recipe.joint_entropy(corners) == pytest.approx(2)
    assert recipe.joint_entropy(corners[[0, 1, 1, 1]] + corners[[0, 3, 3, 3]]) == pytest.approx(0.8113, abs=1e-4)
    line = torch.arange(60.0)[:, None]
    assert recipe.coordinate_entropy(line) == pytest.approx(math.log2(30), abs=0.01)
    assert recipe.coordinate_entropy(torch.cat([line, -line], 1), bins=2) == pytest.approx(2)
    assert recipe.joint_entropy(torch.cat([line, -line], 1)) == pytest.approx(1)
    assert recipe.joint_entropy(Rng(0, 64).normal((64, 100), F64)) == pytest.approx(6)


def test_the_number_of_principal_components_of_known_points() -> None:
    axes = torch.cat([torch.eye(5, dtype=F64), -torch.eye(5, dtype=F64)])
    assert recipe.principal_dimension(axes + 3) == pytest.approx(5)
    # variances 4 and 1: 25 / 17
    assert recipe.principal_dimension(torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]])) == pytest.approx(25 / 17)


def test_the_measures_have_their_widths_and_operators() -> None:
    x = recipe.manifold(2, 60, 0, 0.3, recipe.GROWING)
    found = recipe.measures(x)
    own = relative_width(x, 0.5)
    assert list(found) == list(recipe.MEASURES)
    assert found[recipe.OURS] == spectral_entropy(x, 1.0)
    assert found[recipe.PUBLISHED] == spectral_entropy(x, 1.0, operator="published") != found[recipe.OURS]
    assert found[recipe.OWN_WIDTH] == spectral_entropy(x, own)
    assert found[recipe.OWN_PUBLISHED] == spectral_entropy(x, own, operator="published")
    assert found[recipe.JOINT] == recipe.joint_entropy(x) and found[recipe.EACH] == recipe.coordinate_entropy(x)
    assert recipe.measures(math.e * x)[recipe.VARIANCE] == pytest.approx(found[recipe.VARIANCE] + 2, abs=1e-6)


def test_the_variance_of_points_of_equal_variance_ranks_nothing() -> None:
    """Without noise. Its rounding errors would rank them."""
    found = [recipe.measures(recipe.manifold(k, 60, 0, 0.0, recipe.EQUAL))[recipe.VARIANCE] for k in (1, 2, 3)]
    assert nets.rank_correlation(found, (1, 2, 3)) == 0


def test_ranks_and_moves_of_known_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measure is dimension + 14 noise, another falls with the dimension, and others are 1 or 2."""

    def values(point: Tensor) -> dict[str, float]:
        dimension, noise = point.tolist()
        known = dict.fromkeys(recipe.MEASURES, 1.0 + (dimension > 4))
        return known | {recipe.OURS: dimension + 14 * noise, recipe.OWN_WIDTH: -dimension, recipe.LINEAR: dimension}

    def point(dimension: int, n: int, seed: int, noise: float, family: str) -> Tensor:
        assert (n, seed, family) == (50, 3, "family")
        return torch.tensor([dimension, noise], dtype=F64)

    monkeypatch.setattr(recipe, "measures", values)
    monkeypatch.setattr(recipe, "manifold", point)
    found = recipe.dimensions("family", 3, 50)
    name = recipe.on(recipe.OURS, "family")
    assert all(found[name, f"rank@{noise:g}"] == pytest.approx(1) for noise in recipe.NOISES)
    # 14 bits of the strongest noise, over a range of 7
    assert found[name, "moved"] == pytest.approx(2)
    assert 0.3 < found[name, "rank, all"] < 0.9
    assert found[recipe.on(recipe.OWN_WIDTH, "family"), "rank, all"] == pytest.approx(-1)
    assert found[recipe.on(recipe.OWN_WIDTH, "family"), "moved"] == 0
    assert (recipe.on(recipe.LINEAR, "family"), "moved") not in found
    assert found[recipe.on(recipe.JOINT, "family"), "rank@1"] == pytest.approx(0.8729, abs=1e-4)


# numbers of states


def test_the_information_by_neighbours_is_that_of_scikit_learn_in_one_dimension(device: torch.device) -> None:
    from sklearn.feature_selection import mutual_info_classif

    labels = torch.arange(120) % 3
    x = 0.7 * labels[:, None] + Rng(0, 120).normal((120, 1), F64)
    for k in (1, 3, 5):
        known = mutual_info_classif(x.numpy(), labels.numpy(), discrete_features=False, n_neighbors=k, random_state=0)
        found = nets.neighbour_information(x.to(device), labels.to(device), k) * math.log(2)
        assert found == pytest.approx(float(known[0]), abs=1e-6)


def test_the_information_by_neighbours_of_far_clusters_is_that_of_the_labels() -> None:
    """psi(N) - <psi(N_i)>, as all neighbours within the radius have the label: 1 bit, and 0 for shuffled labels.

    Spread over ten seeds for shuffled labels: 0.06 bits."""
    labels = torch.arange(200) % 2
    x = 100.0 * labels[:, None] + Rng(0, 200).normal((200, 8), F64)
    known = float(torch.digamma(torch.tensor(200.0)) - torch.digamma(torch.tensor(100.0))) / math.log(2)
    assert nets.neighbour_information(x, labels) == pytest.approx(known, abs=1e-5)
    mixed = (torch.arange(200) // 2) % 2
    assert abs(nets.neighbour_information(x, mixed)) < 0.25
    assert math.isfinite(nets.neighbour_information(torch.zeros(40, 2), labels[:40]))
    with pytest.raises(ValueError, match="more than 3 points of each label are needed; label 1 has 3"):
        nets.neighbour_information(x[:7], labels[:7])


def test_rank_correlations_of_known_numbers() -> None:
    assert nets.rank_correlation([1, 2, 5], [0.1, 7, 8]) == pytest.approx(1)
    assert nets.rank_correlation([1, 2, 5], [8, 7, 0.1]) == pytest.approx(-1)
    assert nets.rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert nets.rank_correlation([1, 1], [1, 2]) == nets.rank_correlation([1, 2], [1, 1]) == 0


def test_the_rise_is_that_of_the_line_of_least_squares() -> None:
    assert nets.rise([1.0, 3.0, 5.0, 7.0]) == pytest.approx(6)
    # symmetric: a value in the middle does not turn the line
    assert nets.rise([1.0, 9.0, 1.0]) == pytest.approx(0)
    assert nets.rise([0.0, 0.0, 3.0]) == pytest.approx(3)


def test_only_the_fixed_width_sees_the_scale_of_states() -> None:
    labels = torch.arange(60) % 3
    h = Rng(1, 60).normal((60, 4), F64) + 2 * torch.eye(4, dtype=F64)[labels]
    flat_width = relative_width(nets.standardised(h), 0.5)
    one, large = (nets.informations(each, labels, flat_width, 0) for each in (h, 50 * h))
    rng = Rng(0, 1, "draws")
    assert one[nets.FIXED] == spectral_information(h, labels, 10.0, rng)
    assert one[nets.RELATIVE] == spectral_information(h, labels, relative_width(h, 0.5), rng)
    assert one[nets.STANDARD] == spectral_information(nets.standardised(h), labels, flat_width, rng)
    for name in (nets.RELATIVE, nets.STANDARD, nets.NEIGHBOURS):
        assert large[name] == pytest.approx(one[name], abs=1e-4)
    assert abs(large[nets.FIXED] - one[nets.FIXED]) > 0.1
    small, wide = (nets.entropies(each, flat_width) for each in (h, 64 * h))
    assert small[nets.ENTROPY] == spectral_entropy(h, 10.0) < wide[nets.ENTROPY] - 1
    assert small[nets.ENTROPY_RELATIVE] == spectral_entropy(h, relative_width(h, 0.5))
    assert small[nets.ENTROPY_STANDARD] == spectral_entropy(nets.standardised(h), flat_width)
    for name in (nets.ENTROPY_RELATIVE, nets.ENTROPY_STANDARD):
        assert wide[name] == pytest.approx(small[name], abs=1e-4)
    assert wide[nets.SCALE] == pytest.approx(small[nets.SCALE] + 6)
    assert small[nets.SCALE] == pytest.approx(math.log2(float(torch.pdist(h).median())))


def test_standardised_features_have_mean_0_and_variance_1_and_constant_ones_stay() -> None:
    h = torch.cat([Rng(0, 50).normal((50, 3), F64) * torch.tensor([1, 10, 0.1]) + 4, torch.ones(50, 1)], 1)
    flat = nets.standardised(h)
    assert torch.allclose(flat.mean(0), torch.zeros(4, dtype=F64), atol=1e-9)
    assert torch.allclose(flat.std(0), torch.tensor([1.0, 1, 1, 0], dtype=F64), atol=1e-4)


# a classifier


def digits() -> tuple[Data, Data]:
    return load("digits"), load("digits", split="test")


def test_a_classifier_is_seen_before_its_training_and_after_some_epochs() -> None:
    train = digits()[0]
    x0, labels = nets._chosen(train, 400)
    untrained = build(1, 10, 8, 5)
    right = []
    for k, net in enumerate(nets.classifiers(x0, labels, 5, [0, 1, 4])):
        assert not net.training
        right.append(nets._share(net(x0).argmax(1) == labels))
        if not k:
            pairs = zip(net.parameters(), untrained.parameters(), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
            norm = net.body[1]
            # the norms know the data: their means are no longer 0
            assert isinstance(norm, nn.BatchNorm2d) and float(norm.running_mean.abs().max()) > 0.01  # type: ignore[union-attr]
    assert len(right) == 3 and right[0] < 0.4 < right[1] < right[2] and right[2] > 0.95


def test_the_chosen_images_are_spread_over_the_data() -> None:
    train = digits()[0]
    x, labels = nets._chosen(train, 10)
    assert train.labels is not None and labels[1] == train.labels[len(train) // 10]
    assert torch.equal(x[9], train.x0(slice(9 * (len(train) // 10), 9 * (len(train) // 10) + 1))[0])


def test_true_and_random_labels_begin_alike_and_end_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over four seeds the shares of right answers at the end are 0.96 to 0.97 and 0.05 to 0.17, for held-out images,
    and 1.00 and 0.88 to 0.91 for those that were learned."""
    monkeypatch.setattr(nets, "_images", digits)
    found = nets.learning(0, 300, 150, 3)
    held_out = [name for name in nets.LEARNING if name != nets.NETWORK]
    for name in held_out:
        assert found[name, "true: first"] == found[name, "random: first"], name
    assert found[nets.NETWORK, "true: last"] > 0.8 > 0.3 > found[nets.NETWORK, "random: last"]
    assert found[nets.NETWORK, "true, own: last"] > 0.95
    assert found[nets.NETWORK, "random, own: last"] > 0.7 > 0.3 > found[nets.NETWORK, "random, own: first"]
    assert found[nets.PROBE, "true: last"] > found[nets.PROBE, "random: last"]
    assert found[nets.RELATIVE, "true: last"] > found[nets.RELATIVE, "random: last"] + 0.2
    # before the training states tell of classes, and not of random labels
    assert found[nets.NEIGHBOURS, "true: first"] > 1 > 0.4 > abs(found[nets.NEIGHBOURS, "random, own: first"])
    assert {name for name, _ in found} == set(nets.LEARNING)
    assert all(math.isfinite(value) for value in found.values())


def test_first_last_and_rise_are_over_doubled_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale of the states is 2^k at the k-th look, so that its log2 rises by 1 each. At the last look of random
    labels all features are equal."""
    seen: list[list[int]] = []
    cloud = Rng(0, 150).normal((150, 5), torch.float32)
    flat = cloud[:, :1].expand(-1, 5).contiguous()

    class Fake:
        def __init__(self, k: int):
            self.h = flat if k == 4 and len(seen) == 2 else 2.0**k * cloud

        def features(self, x0: Tensor) -> Tensor:
            return self.h[: len(x0)]

        def head(self, h: Tensor) -> Tensor:
            return torch.eye(10)[torch.zeros(len(h), dtype=torch.int64)]

    def classifiers(x0: Tensor, labels: Tensor, seed: int, epochs: list[int]) -> list[Fake]:
        seen.append(epochs)
        return [Fake(k) for k in range(len(epochs))]

    monkeypatch.setattr(nets, "_images", digits)
    monkeypatch.setattr(nets, "classifiers", classifiers)
    found = nets.learning(0, 150, 120, 3)
    assert seen == [[0, 1, 2, 4, 8]] * 2
    assert found[nets.SCALE, "true: rise"] == pytest.approx(4, abs=1e-5)
    assert found[nets.SCALE, "true: last"] - found[nets.SCALE, "true: first"] == pytest.approx(4, abs=1e-5)
    assert found[nets.ENTROPY_STANDARD, "true: rise"] == pytest.approx(0, abs=1e-5)
    # the width of standardised features is that of the first look
    width = relative_width(nets.standardised(cloud[:120].double()), 0.5)
    known = nets.informations(flat[:120].double(), digits()[1].labels[_spread(120)], width, 0)  # type: ignore[index]
    assert found[nets.STANDARD, "random: last"] == pytest.approx(known[nets.STANDARD], abs=1e-9)
    assert found[nets.ENTROPY_STANDARD, "random: last"] == pytest.approx(
        spectral_entropy(nets.standardised(flat[:120].double()), width), abs=1e-9
    )


def _spread(n: int) -> Tensor:
    return torch.arange(n) * (len(digits()[1]) // n)


# a diffusion model


def test_states_are_means_over_places_and_do_not_depend_on_the_batch() -> None:
    network = Network(VP(), UNetSpec(width=8, depth=1, patch=1), PointHead(), (1, 8, 8)).eval()
    x0 = digits()[0].x0(slice(0, 260))
    found = nets.states(network, x0, 0.3, 2, "part")
    assert [tuple(h.shape) for h in found] == [(260, 8), (260, 16), (260, 16), (260, 16), (260, 8), (260, 8)]
    noised = VP().noise(x0[252:254], 0.3, Rng(2, range(252, 254), "noise part 0.3"))
    with torch.no_grad():
        side = network.with_side(noised.xt, noised.t, hidden=(1, 4))[1]
    for block in (1, 4):
        assert torch.allclose(found[block][252:254], side.hidden[block].mean((2, 3)).double(), atol=1e-5)


def test_a_block_that_knows_the_class_is_above_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise falls from block to block, and rises with the time."""

    def states(network: object, x0: Tensor, t: float, seed: int, part: str) -> list[Tensor]:
        labels = x0.flatten().long()
        means = 4 * torch.eye(10, dtype=F64)[labels]
        return [
            means + (1 + 3 * t) * spread * Rng(seed, len(x0), part).normal((len(x0), 10), F64) for spread in (6, 2, 0.5)
        ]

    monkeypatch.setattr(nets, "states", states)
    images = [(torch.arange(n)[:, None] % 10, torch.arange(n) % 10) for n in (300, 200)]
    network = Network(VP(), UNetSpec(width=8, depth=1, patch=1), PointHead(), (1, 8, 8))
    dsmi, neighbours, probe = nets.levels_of(network, *images, 0)
    for table in (dsmi, neighbours, probe):
        assert len(table) == len(nets.TIMES)
        assert all(line[0] < line[1] <= line[2] for line in table) and table[0][0] > table[-1][0]
    assert probe[0][2] == 1.0 and nets.ranks(dsmi, probe)["rank over all"] > 0.8


def test_ranks_over_cells_times_and_blocks_of_known_tables() -> None:
    probe = [[3.0, 4.0], [1.0, 2.0]]
    same = nets.ranks(probe, probe)
    assert list(same) == ["rank over all", "rank over noise", "rank over blocks"]
    assert list(same.values()) == pytest.approx([1, 1, 1])
    # the blocks the other way round
    turned = nets.ranks([[4.0, 3.0], [2.0, 1.0]], probe)
    assert list(turned.values()) == pytest.approx([0.6, 1, -1])
    # the times the other way round
    assert list(nets.ranks([[1.0, 2.0], [3.0, 4.0]], probe).values()) == pytest.approx([-0.6, -1, 1])
    alone = nets.ranks([[2.0, 2.0], [1.0, 1.0]], probe)
    assert alone["rank over noise"] == pytest.approx(1) and alone["rank over blocks"] == 0


def test_the_tables_of_both_networks_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(nets.TIMES)
    tables = [
        # trained: DSMI follows the probe; neighbours the other way round in the blocks
        (
            [[10.0 - k, 9.5 - k, 9.25 - k] for k in range(count)],
            [[9.25 - k, 9.5 - k, 10.0 - k] for k in range(count)],
            [[10.0 - k, 9.5 - k, 9.25 - k] for k in range(count)],
        ),
        # untrained: DSMI rises with the noise
        ([[1.0 * k] * 3 for k in range(count)], [[0.0] * 3] * count, [[-1.0 * k] * 3 for k in range(count)]),
    ]
    networks, sizes = [], []

    def levels_of(network: Network, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int) -> object:
        networks.append(network)
        sizes.append((len(train[0]), len(test[0]), seed))
        return tables[len(networks) - 1]

    spec = UNetSpec(width=8, depth=1, patch=1)
    monkeypatch.setattr(nets, "_images", digits)
    monkeypatch.setitem(nets.DATA_SETS, nets.DATA, ("digits", 8, spec))
    monkeypatch.setattr(nets, "levels_of", levels_of)
    found = nets.over_noise(4, 640, 20, 30)
    assert sizes == [(30, 20, 4)] * 2 and not any(network.training for network in networks)
    trained, start = (dict(network.named_parameters()) for network in networks)
    train = digits()[0]
    config = base(train.shape, spec, 640, 4)
    weights = build_modules(Run(config, facts_of(train, config)))["model"].state_dict()
    assert all(torch.equal(start[name], weights[name]) for name in start)
    assert any(not torch.allclose(trained[name], start[name], atol=1e-3) for name in trained)
    assert {name for name, _ in found} == set(nets.RANKED)
    assert found[nets.BY_DSMI, "rank over all"] == pytest.approx(1)
    assert found[nets.BY_NEIGHBOURS, "rank over blocks"] == pytest.approx(-1)
    assert found[nets.BY_NOISE, "rank over noise"] == pytest.approx(1) and found[nets.BY_NOISE, "rank over blocks"] == 0
    assert found[nets.UNTRAINED, "rank over noise"] == pytest.approx(-1)
    # the block in the middle, at the second time
    assert found[nets.BY_DSMI, "bits@0.1"] == 8.25 and found[nets.BY_NEIGHBOURS, "bits@0.1"] == 9.0
    assert found[nets.ANSWER, "accuracy@0.1"] == 8.25 and found[nets.UNTRAINED, "bits@0.1"] == 1.0


# checks


def made_up(spread: float = 0.0, **changed: float) -> Numbers:
    """Rows of a claim that holds; `changed` replaces a number. spread : of each rise."""
    numbers: dict[tuple[str, str], float] = {(recipe.CLUSTERS, "wide, released"): 1e-6}
    for family in (recipe.EQUAL, recipe.GROWING):
        for noise in recipe.NOISES:
            for name in recipe.MEASURES:
                rank = {recipe.JOINT: 0.1, recipe.LINEAR: 0.9}.get(name, 0.95)
                numbers[recipe.on(name, family), f"rank@{noise:g}"] = rank
        numbers[recipe.on(recipe.OURS, family), "moved"] = 0.3
    for name in nets.LEARNING:
        for label, rise in (("true", 1.0), ("random", 0.1), ("random, own", 0.1)):
            numbers |= {
                (name, f"{label}: first"): 0.0,
                (name, f"{label}: last"): rise,
                (name, f"{label}: rise"): rise,
            }
    for name in (nets.BY_DSMI, nets.BY_NEIGHBOURS, nets.BY_NOISE, nets.UNTRAINED):
        ours = name == nets.BY_DSMI
        numbers |= {(name, "rank over all"): 0.95 if ours else 0.9, (name, "rank over blocks"): 0.8 if ours else 0.7}
    numbers = {key: changed.get("/".join(key), value) for key, value in numbers.items()}
    return Numbers(
        [
            row(name, "ours", metric, [value - (moved := spread if "rise" in metric else 0), value, value + moved], "x")
            for (name, metric), value in numbers.items()
        ]
    )


EQUAL, GROWING = recipe.EQUAL, recipe.GROWING


@pytest.mark.parametrize(
    ("change", "value", "failed"),
    [
        (f"{recipe.on(recipe.OURS, EQUAL)}/rank@0.3", 0.85, {0, 1}),
        (f"{recipe.on(recipe.PUBLISHED, EQUAL)}/rank@1", 0.85, {0}),
        (f"{recipe.on(recipe.LINEAR, EQUAL)}/rank@1", 0.8, set()),
        (f"{recipe.on(recipe.OWN_WIDTH, GROWING)}/rank@1", 0.85, {2}),
        (f"{recipe.on(recipe.OWN_WIDTH, EQUAL)}/rank@1", 0.85, set()),
        (f"{recipe.on(recipe.OURS, EQUAL)}/moved", 0.6, {3}),
        (f"{recipe.CLUSTERS}/wide, released", 0.01, {4}),
        (f"{nets.FIXED}/true: rise", -0.1, {5, 7}),
        (f"{nets.RELATIVE}/true: rise", -0.1, {6, 8}),
        (f"{nets.FIXED}/random: rise", 0.3, {7}),
        (f"{nets.RELATIVE}/random: rise", 0.3, {8}),
        (f"{nets.ENTROPY}/true: rise", -0.1, {9}),
        (f"{nets.ENTROPY_RELATIVE}/true: rise", -0.1, {10}),
        (f"{nets.NEIGHBOURS}/random, own: last", 0.3, {11}),
        (f"{nets.BY_DSMI}/rank over all", 0.89, {12}),
        (f"{nets.BY_NOISE}/rank over all", 0.96, {12}),
        (f"{nets.BY_NEIGHBOURS}/rank over blocks", 0.9, {13}),
    ],
)
def test_each_check_follows_its_number(change: str, value: float, failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values()) and len(recipe.checks(made_up())) == 14
    outcomes = list(recipe.checks(made_up(**{change: value})).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed


def test_joint_bins_that_rank_as_well_deny_the_claim() -> None:
    changed = {f"{recipe.on(recipe.JOINT, EQUAL)}/rank@{noise:g}": 0.95 for noise in recipe.NOISES}
    outcomes = list(recipe.checks(made_up(**changed)).values())
    assert [k for k, true in enumerate(outcomes) if not true] == [0]


def test_a_rise_counts_only_beyond_the_interval_of_its_seeds() -> None:
    """Half the interval is 1.2415 standard deviations: Student's t of four degrees of freedom, 2.776, over 5^0.5."""
    assert pytest.approx(1.2415, abs=1e-4) == recipe.INTERVAL
    small, wide = (list(recipe.checks(made_up(spread)).values()) for spread in (0.1, 0.3))
    assert all(small) and [k for k, true in enumerate(wide) if not true] == [7, 8]
    wider = list(recipe.checks(made_up(1.1)).values())
    assert [k for k, true in enumerate(wider) if not true] == [5, 6, 7, 8, 9, 10]
    text = " ".join(recipe.checks(made_up(0.1)))
    assert "1.00 ± 0.12 bits" in text


def test_without_images_the_points_are_judged_alone() -> None:
    rows = [each for key, each in made_up()._rows.items() if key[0] not in (*nets.LEARNING, *nets.RANKED)]
    assert len(recipe.checks(Numbers(rows))) == 5
