"""The information plane: bins, bounds and draws of noise, and the curve of the bottleneck."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from softmix.info import (
    BottleneckCurve,
    binned_information,
    bottleneck,
    gaussian_bottleneck,
    gaussian_information,
    noise_bounds,
    noisy_information,
)
from softmix.oracle import sphere_patterns
from softmix.rng import Rng

F64 = torch.float64


def layer(n: int, dims: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values in [-1, 1], and p(y | x) of three labels."""
    hidden = 2 * Rng(0, n, device=device).uniform((n, dims), F64) - 1
    return hidden, Rng(1, n, device=device).uniform((n, 3), F64).softmax(1)


# bins


def test_bins_by_hand(device: torch.device) -> None:
    """Four inputs in two bins of [-1, 1]: -1 and -0.1 are in the first, and 0 and 1, the upper end, in the second."""
    hidden = torch.tensor([-1.0, -0.1, 0.0, 1.0], device=device)[:, None]
    for target, right in (([5, 5, 7, 7], 1.0), ([0, 1, 0, 1], 0.0), ([0, 0, 0, 1], 0.3112781)):
        found = binned_information(hidden, torch.tensor(target, device=device), bins=2)
        assert found.x == pytest.approx(1) and found.y == pytest.approx(right, abs=1e-6)
    assert binned_information(hidden, torch.tensor([0, 1, 2, 3], device=device), bins=200).y == pytest.approx(2)
    # in three bins between 0 and 1.2 the upper end is in the bin of 0.9
    own = binned_information(torch.tensor([[0.0], [0.5], [0.9], [1.2]], device=device), torch.arange(4), 3, None)
    assert own.x == pytest.approx(1.5)


def test_bins_are_those_of_a_histogram(device: torch.device) -> None:
    """Against numpy's histogram and scipy's entropy, with p(y | x) and with weights."""
    hidden, target = layer(200, 2, device)
    weights = Rng(2, 200).uniform((200,), F64)
    weights = (weights / weights.sum()).to(device)
    found = binned_information(hidden, target, 5, weights=weights)
    joint = np.stack(
        [
            np.histogramdd(hidden.cpu().numpy(), [np.linspace(-1, 1, 6)] * 2, weights=(weights * share).cpu().numpy())[
                0
            ].flatten()
            for share in target.T
        ]
    )
    of_t = entropy(joint.sum(0), base=2)
    assert found.x == pytest.approx(of_t)
    assert found.y == pytest.approx(of_t + entropy(joint.sum(1), base=2) - entropy(joint.flatten(), base=2))
    assert found.x_error == found.y_error == 0


def test_bins_obey_the_laws_of_information(device: torch.device) -> None:
    """At most log2 N and I(X; Y); bins that join others know less; scale and place do not matter in own ends."""
    hidden, target = layer(64, 3, device)
    fine, coarse = (binned_information(hidden, target, bins) for bins in (12, 4))
    assert coarse.x < 5.5 and fine.x == pytest.approx(6) and coarse.y < fine.y
    finest = binned_information(hidden, target, 10**6)
    mean = target.mean(0)
    both = float((torch.special.entr(mean).sum() - torch.special.entr(target).sum(1).mean()) / math.log(2))
    assert finest.x == pytest.approx(6) and finest.y == pytest.approx(both)
    own, moved = (binned_information(each, target, 4, None) for each in (hidden, 7 * hidden + 3))
    assert moved.x == pytest.approx(own.x) and moved.y == pytest.approx(own.y)
    assert binned_information(hidden / 10, target, 4).x < coarse.x - 1
    still = binned_information(torch.zeros(8, 3, device=device), target[:8], ends=None)
    assert still.x == still.y == 0


def test_an_input_of_twice_the_weight_is_an_input_twice(device: torch.device) -> None:
    hidden, target = layer(6, 2, device)
    weights = torch.tensor([1, 1, 1, 1, 2, 0], dtype=F64, device=device) / 6
    twice = torch.tensor([0, 1, 2, 3, 4, 4], device=device)
    for measure in (
        lambda h, t, w=None: binned_information(h, t, 4, weights=w),
        lambda h, t, w=None: noise_bounds(h, t, 0.3, w),
    ):
        one, other = measure(hidden, target, weights), measure(hidden[twice], target[twice])
        assert one.x == pytest.approx(other.x) and one.y == pytest.approx(other.y)


def test_weights_and_labels_of_any_number(device: torch.device) -> None:
    """Three points far apart with the weights 1/2, 1/4, 1/4, and two labels: 1.5 bits, and 1 bit."""
    hidden = torch.tensor([[0.0], [50.0], [90.0]], device=device)
    target = torch.tensor([10**12, -3, -3], device=device)
    weights = torch.tensor([0.5, 0.25, 0.25], device=device)
    drawn = noisy_information(hidden, target, 0.5, Rng(0, 3, device=device), weights=weights)
    bounds = noise_bounds(hidden, target, 0.5, weights)
    bins = binned_information(hidden, target, 9, (0, 90), weights)
    assert (drawn.x, *bounds.x, bins.x) == pytest.approx((1.5,) * 4)
    assert (drawn.y, *bounds.y, bins.y) == pytest.approx((1.0,) * 4)


def test_values_beyond_the_ends_are_refused_and_other_numbers_out_of_range() -> None:
    hidden, target = torch.tensor([[0.5], [1.5]]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"from -1 to 1 were asked for, and the layer has values from 0\.5 to 1\.5"):
        binned_information(hidden, target)
    with pytest.raises(ValueError, match="values from -2"):
        binned_information(torch.tensor([[0.5], [-2.0]]), target)
    assert binned_information(hidden, target, ends=None).x == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one bin"):
        binned_information(hidden, target, 0)
    with pytest.raises(ValueError, match="to a larger one"):
        binned_information(hidden, target, 3, (1.0, 1.0))
    with pytest.raises(ValueError, match="a layer"):
        binned_information(hidden / 0, target)
    for wrong in (torch.tensor([0, 1, 2]), torch.tensor([0.2, 0.8]), torch.ones(3, 2) / 2):
        with pytest.raises(ValueError, match="2 whole numbers, or"):
            noise_bounds(hidden, wrong, 1.0)
    for wrong in (torch.ones(2, 2), torch.tensor([[1.5, -0.5], [0.5, 0.5]])):
        with pytest.raises(ValueError, match="with the sum 1 for each input"):
            noise_bounds(hidden, wrong, 1.0)
    for weights in (torch.ones(2), torch.ones(1), torch.tensor([2.0, -1.0])):
        with pytest.raises(ValueError, match="2 weights of at least 0"):
            noise_bounds(hidden, target, 1.0, weights)
    for noise in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="a standard deviation above 0"):
            noise_bounds(hidden, target, noise)
        with pytest.raises(ValueError, match="a standard deviation above 0"):
            noisy_information(hidden, target, noise, Rng(0, 2))
    with pytest.raises(ValueError, match="take two at least"):
        noisy_information(hidden, target, 1.0, Rng(0, 2), draws=1)


# noise


def test_bounds_are_exact_for_points_that_coincide_or_are_far_apart(device: torch.device) -> None:
    """Four clusters of four inputs: 2 bits, and of a label for each two clusters 1 bit."""
    centre = torch.tensor([[0.0, 0], [50, 0], [0, 50], [50, 50]], dtype=F64, device=device)
    hidden, target = centre.repeat_interleave(4, 0), torch.tensor([0, 0, 1, 1], device=device).repeat_interleave(4)
    found = noise_bounds(hidden, target, 0.5)
    assert found.x == pytest.approx((2, 2)) and found.y == pytest.approx((1, 1))
    drawn = noisy_information(hidden, target, 0.5, Rng(0, 16, device=device))
    assert drawn.x == pytest.approx(2) and drawn.y == pytest.approx(1) and drawn.x_error < 1e-9
    nothing = noise_bounds(torch.zeros(16, 2, device=device), target, 0.5)
    assert nothing.x == pytest.approx((0, 0), abs=1e-12) and nothing.y == pytest.approx((0, 0), abs=1e-12)


@pytest.mark.parametrize("noise", [0.6, 1.0, 2.0])
def test_two_points_by_hand_and_by_quadrature(noise: float) -> None:
    """-log2( (1 + exp(-d^2 / c s^2)) / 2 ) with c of 8 and 2; the value of the binary channel lies between."""
    hidden, target = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    low, high = (1 - math.log2(1 + math.exp(-4 / (c * noise**2))) for c in (8, 2))
    found = noise_bounds(hidden, target, noise)
    # a label for each input: both informations are one
    assert found.x == pytest.approx((low, high)) and found.y == pytest.approx((low, high))
    e = torch.linspace(-12, 12, 20_001, dtype=F64)
    loss = torch.nn.functional.softplus(-2 / noise**2 - 2 / noise * e) * (-(e**2) / 2).exp()
    right = 1 - float(torch.trapezoid(loss, e)) / math.sqrt(2 * math.pi) / math.log(2)
    assert low < right < high
    drawn = noisy_information(hidden, target, noise, Rng(0, 2), draws=1000)
    assert drawn.x == pytest.approx(right, abs=4 * drawn.x_error) and 0 < drawn.x_error < 0.04
    assert drawn.y == pytest.approx(right, abs=4 * drawn.y_error) and 0 < drawn.y_error < drawn.x_error


@pytest.mark.parametrize("noise", [0.1, 0.4, 1.5])
def test_the_bounds_hold_the_value_between_them(device: torch.device, noise: float) -> None:
    hidden, target = layer(100, 3, device)
    bounds, drawn = noise_bounds(hidden, target, noise), noisy_information(hidden, target, noise, Rng(0, 100), 50)
    assert bounds.x[0] < drawn.x - 4 * drawn.x_error and drawn.x + 4 * drawn.x_error < bounds.x[1]
    assert bounds.y[0] < drawn.y < bounds.y[1]
    assert 0 < drawn.y < drawn.x


def test_the_bounds_of_the_label_part_the_information_of_the_input() -> None:
    """I(X; T + N) - sum_y p(y) I(X; T + N | Y = y), each term by its own bound; labels of unequal shares."""
    hidden = layer(30, 2, torch.device("cpu"))[0]
    target = (torch.arange(30) >= 8).long()
    found, parts = (
        noise_bounds(hidden, target, 0.5),
        [noise_bounds(hidden[target == k], torch.zeros(n, dtype=torch.int64), 0.5) for k, n in ((0, 8), (1, 22))],
    )
    low, high = (8 / 30 * parts[0].x[side] + 22 / 30 * parts[1].x[side] for side in (0, 1))
    assert found.y == pytest.approx((found.x[0] - high, found.x[1] - low))
    assert parts[0].y[0] == pytest.approx(parts[0].x[0] - parts[0].x[1])


def test_chunks_do_not_matter_and_standard_errors_are_right() -> None:
    """Over 60 seeds the errors divided by the standard errors have a spread of 1, within 0.25, for X and for Y."""
    hidden, target = layer(40, 2, torch.device("cpu"))
    for measure in (
        lambda chunk: noise_bounds(hidden, target, 0.4, chunk=chunk).x,
        lambda chunk: (noisy_information(hidden, target, 0.4, Rng(0, 40), chunk=chunk).x,),
    ):
        assert measure(7) == pytest.approx(measure(512), abs=1e-12)
    known = noisy_information(hidden, target, 0.4, Rng(99, 40), 3000)
    found = [noisy_information(hidden, target, 0.4, Rng(seed, 40), 10) for seed in range(60)]
    for axis in ("x", "y"):
        z = [(getattr(each, axis) - getattr(known, axis)) / getattr(each, f"{axis}_error") for each in found]
        assert 0.75 < float(np.std(z)) < 1.3 and abs(float(np.mean(z))) < 0.5


def test_a_noise_level_has_the_plane_of_its_channel() -> None:
    """Three signs with noise: three times the bits of one, by quadrature, and a label that is the first sign."""
    signs = 2 * (torch.arange(8)[:, None] >> torch.arange(3) & 1).double() - 1
    label = (signs[:, 0] > 0).long()
    e = torch.linspace(-12, 12, 20_001, dtype=F64)
    loss = torch.nn.functional.softplus(-2 / 0.49 - 2 / 0.7 * e) * (-(e**2) / 2).exp()
    one = 1 - float(torch.trapezoid(loss, e)) / math.sqrt(2 * math.pi) / math.log(2)
    found = noisy_information(signs, label, 0.7, Rng(0, 8), 1000)
    assert found.x == pytest.approx(3 * one, abs=4 * found.x_error) and found.x_error < 0.04
    assert found.y == pytest.approx(one, abs=4 * found.y_error) and found.y_error < 0.02


# the bottleneck


def two_labels(one: list[float], weights: list[int]) -> Tensor:
    """p(x, y) from p(y = 1 | x) and the weights of x."""
    share, of_x = torch.tensor(one, dtype=F64), torch.tensor(weights, dtype=F64)
    return of_x[:, None] / of_x.sum() * torch.stack([1 - share, share], 1)


EIGHT = two_labels([0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.9, 0.97], [1, 2, 3, 2, 1, 3, 2, 2])


def above_the_optimum(p: Tensor, curve: BottleneckCurve) -> list[float]:
    """How far I(X; T) - beta I(T; Y) may be above its minimum at each beta, in bits, for two labels.

    The bottleneck is the rate distortion of KL( p(y | x) || r ) with every r as a reproduction. For each g(x) > 0 with
    sum_x p(x) g(x) exp(-beta KL(p(y | x) || r)) <= 1 at all r, the minimum of I + beta E KL is at least E log2 g. g
    comes from the convex problem on a fine grid of r.
    """
    of_x = p.sum(1)
    given = p / of_x[:, None]
    one = torch.cat([torch.linspace(0, 1, 2001, dtype=F64)[1:-1], torch.linspace(-25, 25, 801).double().sigmoid()])
    divergence = torch.xlogy(given, given).sum(1, keepdim=True) - given @ torch.stack([1 - one, one], 1).log().T
    gaps = []
    for beta, x, y in zip(curve.beta.tolist(), curve.x.tolist(), curve.y.tolist(), strict=True):
        near = (-beta * divergence).exp()
        q = torch.full_like(one, 1 / len(one))
        for _ in range(700):
            q = q * ((of_x / (near @ q)) @ near)
        z = near @ q
        least = -(of_x * z.log()).sum() - ((of_x / z) @ near).max().log()
        gaps.append(x + beta * (curve.limit - y) - float(least) / math.log(2))
    return gaps


def test_no_other_t_is_better_at_any_beta() -> None:
    """Within 0.0005 bits of the dual bound, and 0.0001 with more iterations of the bound."""
    betas = [1.5, 3.0, 7.0, 15.0]
    gaps = above_the_optimum(EIGHT, bottleneck(EIGHT, betas))
    assert max(gaps) < 5e-4 and min(gaps) > -1e-9
    task = sphere_patterns().joint
    kept = torch.unique((task * 1e13).round(), dim=0, return_counts=True)
    merged = kept[0] / 1e13 * kept[1][:, None]
    gaps = above_the_optimum(merged / merged.sum(), bottleneck(task, [1.1, 30.0]))
    assert max(gaps) < 5e-4 and min(gaps) > -1e-6


def test_dit_finds_no_better_t() -> None:
    """IBCurve of dit 2.3, its numerical optimiser ("sp") with three states, for four values of X and two of Y.

    At a beta of 9 a fourth state helps, and dit is 0.004 bits worse.
    """
    curve = bottleneck(two_labels([0.05, 0.3, 0.6, 0.9], [1, 3, 2, 2]), [3.0, 6.0, 9.0])
    dit = torch.tensor([[0.0, 0.0], [0.604271538, 0.157427413], [0.934768268, 0.201652334]], dtype=F64)
    ours = torch.stack([curve.x, curve.y], 1)
    assert torch.allclose(ours[:2], dit[:2], atol=2e-4)
    ours_best, dit_best = (each[:, 0] - curve.beta * each[:, 1] for each in (ours, dit))
    assert bool((ours_best < dit_best + 1e-6).all()) and torch.allclose(ours_best, dit_best, atol=5e-3)


def test_a_symmetric_channel_has_the_curve_of_its_cascade(device: torch.device) -> None:
    """Even X and Y that differ with a chance of 0.1: T is X through another such channel."""
    p = torch.tensor([[0.45, 0.05], [0.05, 0.45]], dtype=F64, device=device)
    curve = bottleneck(p, [1.2, 1.8, 2.5, 4.0, 20.0])

    def known(x: float) -> float:
        def bits(d: float) -> float:
            return 1 + (d * math.log2(d) + (1 - d) * math.log2(1 - d) if 0 < d < 1 else 0)

        low, high = 0.0, 0.5
        for _ in range(100):
            d = (low + high) / 2
            low, high = (d, high) if bits(d) > x else (low, d)
        return bits(0.9 * d + 0.1 * (1 - d))

    for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True):
        assert y == pytest.approx(known(x), abs=1e-6)
    # a state appears at beta = 1 / (1 - 2 * 0.1)^2 = 1.5625
    assert float(curve.x[0]) == pytest.approx(0, abs=1e-6) and float(curve.x[1]) > 0.1
    assert float(curve.bound(0.5)) == pytest.approx(known(0.5), abs=0.01) and float(curve.bound(0.5)) > known(0.5)


def test_the_gaussian_curve_is_reached_on_a_fine_grid() -> None:
    """Correlation 0.8 on 51 x 51 points up to 5 standard deviations."""
    place = torch.linspace(-5, 5, 51, dtype=F64)
    covariance = torch.tensor([[1, 0.8], [0.8, 1]], dtype=F64)
    inverse = torch.linalg.inv(covariance)
    pairs = torch.cartesian_prod(place, place)
    p = (-(pairs @ inverse * pairs).sum(1) / 2).exp().reshape(51, 51)
    betas = [1.4, 2.0, 3.0, 6.0]
    found, known = bottleneck(p / p.sum(), betas, most=3000), gaussian_bottleneck(covariance, [0], [1], betas)
    assert torch.allclose(found.x, known.x, atol=0.01)
    assert torch.allclose(found.x - found.beta * found.y, known.x - known.beta * known.y, atol=0.002)
    assert found.limit == pytest.approx(known.limit, abs=0.002)
    assert float(known.x[0]) == 0 and float(known.x[1]) > 0.1


def test_the_gaussian_curve_is_that_of_the_best_noisy_copies(device: torch.device) -> None:
    """T = A X + noise along the canonical axes, the best of many gains of each; and I(X; Y) at a large beta."""
    covariance = torch.tensor([[2, 0.3, 1.2, 0.1], [0.3, 1, 0.2, 0.7], [1.2, 0.2, 1.5, 0], [0.1, 0.7, 0, 1]], dtype=F64)
    covariance, x, y = covariance.to(device), [0, 1], [2, 3]
    betas = [1.5, 2.5, 6.0, 1e7]
    curve = gaussian_bottleneck(covariance, x, y, betas)
    limit = float(gaussian_information(covariance, x, y))
    assert curve.limit == pytest.approx(limit) and float(curve.y[-1]) == pytest.approx(limit, abs=1e-6)
    own, cross, other = covariance[:2, :2], covariance[:2, 2:], covariance[2:, 2:]
    told = torch.linalg.eigvals(torch.linalg.inv(own) @ cross @ torch.linalg.inv(other) @ cross.T).real
    for k, beta in enumerate(betas[:3]):
        share = torch.linspace(0, 1, 100_001, dtype=F64, device=device)[:-1]
        # a gain g of one axis keeps the share g / (1 + g) of its squared correlation
        rate = -torch.log2(1 - share) / 2
        kept = [-torch.log2(1 - share * part) / 2 for part in told]
        best = [int((rate - beta * each).argmin()) for each in kept]
        assert float(curve.x[k]) == pytest.approx(sum(float(rate[place]) for place in best), abs=1e-3)
        assert float(curve.y[k]) == pytest.approx(sum(float(e[b]) for e, b in zip(kept, best, strict=True)), abs=1e-3)


def test_the_slope_of_the_curve_is_beta_and_its_tangents_bound_it() -> None:
    betas = [2.5 + 0.05 * k for k in range(60)]
    curve = bottleneck(EIGHT, betas)
    middle = [(a + b) / 2 for a, b in pairwise(betas)]
    slope = curve.x.diff() / curve.y.diff()
    assert torch.allclose(slope, torch.tensor(middle).double(), atol=0.06)
    assert torch.allclose(curve.bound(curve.x), curve.y, atol=1e-5)
    assert bool((curve.bound(curve.x + 0.01) >= curve.y - 1e-9).all())
    assert float(curve.bound(0.0)) == 0 and float(curve.bound(100.0)) == pytest.approx(curve.limit)
    assert float(curve.bound(0.03)) <= 0.03 / 2.4


def test_the_order_of_betas_is_kept_and_does_not_matter() -> None:
    one, other = (bottleneck(EIGHT, betas, tolerance=1e-6) for betas in ([9.0, 3.0, 5.0], [3.0, 5.0, 9.0]))
    assert torch.equal(one.x, other.x[[2, 0, 1]]) and one.beta.tolist() == [9, 3, 5]
    assert (
        bottleneck(EIGHT, [1.1]).beta.tolist()
        == [1.1]
        == gaussian_bottleneck(torch.eye(2), [0], [1], [1.1]).beta.tolist()
    )


def test_a_label_that_is_sure_has_a_straight_curve() -> None:
    """Y is a function of X: nothing below a beta of 1, and Y above it; 1.5 bits of Y."""
    p = torch.zeros(6, 3, dtype=F64)
    for k in range(6):
        p[k, (0, 0, 0, 1, 1, 2)[k]] = (1 / 6, 1 / 6, 1 / 6, 1 / 8, 1 / 8, 1 / 4)[k]
    curve = bottleneck(p, [0.5, 1.5, 50.0])
    right = float(torch.special.entr(p.sum(0)).sum()) / math.log(2)
    assert torch.allclose(curve.x, torch.tensor([0, right, right]).double(), atol=1e-4)
    assert torch.allclose(curve.y, curve.x, atol=1e-6) and curve.limit == pytest.approx(right)
    # the chances of other labels become exactly 0
    longer = bottleneck(p, [50.0], tolerance=0.0, most=20)
    assert float(longer.x) == pytest.approx(right) and float(longer.y) == pytest.approx(right)


def test_values_of_x_with_one_law_of_y_are_one_value() -> None:
    """And values without a chance are none; with few states less is kept."""
    twice = torch.cat([EIGHT * 0.3, EIGHT * 0.7, torch.zeros(2, 2, dtype=F64)])
    one, other = (bottleneck(p, [3.0, 9.0], tolerance=1e-8) for p in (EIGHT, twice))
    assert torch.allclose(one.x, other.x, atol=1e-6) and torch.allclose(one.y, other.y, atol=1e-6)
    full, pair, single = (bottleneck(EIGHT, [300.0], states, most=2000) for states in (8, 2, 1))
    assert float(full.y) > float(pair.y) + 0.02 > 0.2 and float(pair.x) <= 1 + 1e-9
    assert float(single.x) == pytest.approx(0, abs=1e-9)
    assert float(full.x) > 2 and float(full.y) == pytest.approx(full.limit, abs=1e-3)


def test_a_bottleneck_of_no_law_is_refused() -> None:
    for wrong in (
        torch.ones(2, 2),
        torch.tensor([[1.5, -0.5]]),
        torch.ones(4) / 4,
        torch.ones(2, 2, dtype=torch.int64),
    ):
        with pytest.raises(ValueError, match="joint probabilities"):
            bottleneck(wrong, [2.0])
    for betas in ([], [0.0], [2.0, -1.0], [math.inf]):
        with pytest.raises(ValueError, match="each beta is a finite number above 0"):
            bottleneck(EIGHT, betas)
        with pytest.raises(ValueError, match="each beta is a finite number above 0"):
            gaussian_bottleneck(torch.eye(2), [0], [1], betas)
    with pytest.raises(ValueError, match="0 states were asked for, of 8"):
        bottleneck(EIGHT, [2.0], 0)
    with pytest.raises(ValueError, match="with 3 labels"):
        bottleneck(torch.rand(4, 3).softmax(0) / 3, [2.0], 2)
