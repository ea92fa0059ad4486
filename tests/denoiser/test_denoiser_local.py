"""Denoisers by neighbourhoods of pixels, against sums over all items and patches that are written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.cond import CondError
from softmix.denoiser import (
    ExactData,
    ExactMixture,
    LocalData,
    Network,
    PatchData,
    PointHead,
    correlated,
    jacobian,
    reach,
    wiener,
    windows,
)
from softmix.net import UNetSpec
from softmix.oracle import correlated as correlated_problem
from softmix.oracle import gaussian
from softmix.process import VP, Gaussian, PerElement
from softmix.rng import Rng

F64 = torch.float64
T = 0.6


def items(n: int = 12, shape: tuple[int, ...] = (2, 5, 5), seed: int = 0) -> Tensor:
    return Rng(seed, n).normal((n, *shape), F64)


def written_out(x: Tensor, y: Tensor, mask: Tensor, process: Gaussian, t: float) -> Tensor:
    """One item, pixel by pixel."""
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    found = torch.empty_like(x)
    for q in range(len(x)):
        logits = torch.stack([-((x - alpha * each)[mask[:, q]] ** 2).sum() / (2 * sigma**2) for each in y])
        found[q] = (logits.softmax(0) * y[:, q]).sum()
    return found


@pytest.mark.parametrize("block", [3, 512])
def test_each_pixel_has_the_mean_by_the_pixels_that_count_for_it(block: int) -> None:
    y, x = items(), items(4, seed=1)
    # not symmetric: which index is summed over shows
    mask = (Rng(2, 50).uniform((50, 50)) < 0.3) | torch.eye(50, dtype=torch.bool)
    found = LocalData(VP(), y, lambda t: mask, block=block)(x, T).mean
    right = torch.stack([written_out(each.flatten(), y.flatten(1), mask, VP(), T) for each in x])
    assert torch.allclose(found.flatten(1), right, atol=1e-10)


def test_with_all_pixels_it_is_the_mean_of_the_data() -> None:
    y, x = items(), items(4, seed=1)
    whole = LocalData(VP(), y, lambda t: torch.ones(50, 50, dtype=torch.bool))
    for t in (0.05, 0.5, 1.0):
        assert torch.allclose(whole(x, t).mean, ExactData(VP(), y)(x, t).mean, atol=1e-9)
    assert whole.shape == (2, 5, 5)


def test_parts_that_are_normalised_apart_are_averaged() -> None:
    """Three parts of unequal sizes, whatever the block."""
    y, x, support = items(), items(4, seed=1), windows((2, 5, 5), 3)
    parts = [LocalData(VP(), each, support)(x, 0.3).mean for each in (y[:5], y[5:10], y[10:])]
    right = torch.stack(parts).mean(0)
    for block in (2, 512):
        assert torch.allclose(LocalData(VP(), y, support, apart=5, block=block)(x, 0.3).mean, right, atol=1e-10)
    assert not torch.allclose(LocalData(VP(), y, support)(x, 0.3).mean, right, atol=1e-2)


def test_small_noise_does_not_overflow() -> None:
    y = items().float()
    x = VP().noise(y[:3], 0.002, Rng(0, 3)).xt
    for model in (LocalData(VP(), y, windows((2, 5, 5), 3)), PatchData(VP(), y, 3)):
        assert torch.allclose(model(x, 0.002).mean, y[:3], atol=0.05)


def test_windows_are_squares_in_all_channels() -> None:
    support = windows((2, 5, 5), lambda t: 3 if t < 0.5 else 5)
    near, far = support(0.2), support(0.7)
    centre, corner = 12, 0
    assert near[:, centre].sum() == 2 * 9 and near[:, corner].sum() == 2 * 4 and far[:, centre].sum() == 2 * 25
    assert near[6, centre] and near[25 + 6, centre] and not near[2, centre]
    with pytest.raises(ValueError, match="odd side, such as 3; 4 was asked for"):
        windows((2, 5, 5), 4)(0.2)


def test_the_support_of_the_best_linear_denoiser() -> None:
    """Two pixels that vary together, one apart, and one that never varies."""
    covariance = torch.tensor([[1, 0.9, 0, 0], [0.9, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=F64)
    found = correlated(VP(), covariance, 0.05)(0.5)
    right = torch.eye(4, dtype=torch.bool)
    right[0, 1] = right[1, 0] = True
    assert torch.equal(found, right)
    assert torch.equal(correlated(VP(), covariance, 2.0)(0.5), torch.eye(4, dtype=torch.bool))


def test_the_threshold_is_that_of_the_filter_over_its_diagonal() -> None:
    """Unequal variances, so that the division by the diagonal at n or at q differ."""
    root = torch.tensor([[1.0, 0, 0], [0.5, 2, 0], [0.2, 0.3, 0.4]], dtype=F64)
    covariance, t = root @ root.mT, 0.4
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    filter_of = alpha**2 * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=F64))
    scaled = (filter_of / filter_of.diagonal()[:, None]).abs()
    for threshold in scaled.flatten() / scaled.max() + 1e-6:
        right = (scaled >= threshold * scaled.max()) | torch.eye(3, dtype=torch.bool)
        assert torch.equal(correlated(VP(), covariance, float(threshold))(t), right)


def test_a_pixel_that_varies_little_keeps_its_neighbours_at_high_noise() -> None:
    """Its gain is below 1e-6 there, and so are those of all others."""
    covariance = torch.tensor([[1e-3, 0.9e-3], [0.9e-3, 1e-3]], dtype=F64)
    assert bool(correlated(VP(), covariance, 0.5)(float(VP().time(-8.0))).all())


# patches


def patches_written_out(x: Tensor, y: Tensor, size: int, circular: bool, t: float) -> Tensor:
    """One image [C, S, S] against all patches of y [N, C, S, S] that its place may have."""
    alpha, sigma, side, reach_of = float(VP().alpha(t)), float(VP().sigma(t)), x.shape[-1], size // 2

    def around(image: Tensor, r: int, c: int) -> Tensor:
        out = []
        for dr in range(-reach_of, reach_of + 1):
            for dc in range(-reach_of, reach_of + 1):
                i, j = r + dr, c + dc
                if circular:
                    out.append(image[:, i % side, j % side])
                else:
                    inside = 0 <= i < side and 0 <= j < side
                    out.append(image[:, i, j] if inside else torch.zeros(len(image), dtype=image.dtype))
        return torch.stack(out)

    def kind(r: int, c: int) -> tuple[int, ...]:
        return () if circular else tuple(min(each, reach_of) for each in (r, side - 1 - r, c, side - 1 - c))

    found = torch.empty_like(x)
    for r in range(side):
        for c in range(side):
            pool = [
                (k, i, j) for k in range(len(y)) for i in range(side) for j in range(side) if kind(i, j) == kind(r, c)
            ]
            own = around(x, r, c)
            logits = torch.stack([-((own - alpha * around(y[k], i, j)) ** 2).sum() for k, i, j in pool])
            values = torch.stack([y[k, :, i, j] for k, i, j in pool])
            found[:, r, c] = (logits / (2 * sigma**2)).softmax(0) @ values
    return found


@pytest.mark.parametrize("share", ["borders", "circular"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_patches_come_from_all_places_that_share_them(share: str, size: int) -> None:
    y, x = items(3, (2, 4, 4)), items(2, (2, 4, 4), seed=1)
    for block in (1, 16):
        found = PatchData(VP(), y, size, share, block)(x, T).mean  # type: ignore[arg-type]
        right = torch.stack([patches_written_out(each, y, size, share == "circular", T) for each in x])
        assert torch.allclose(found, right, atol=1e-10)


def test_circular_patches_do_not_know_where_they_are() -> None:
    """A shifted state has the shifted answer; with borders it has not."""
    y, x = items(4, (1, 6, 6)), items(2, (1, 6, 6), seed=1)
    moved = x.roll((2, 1), (2, 3))
    circular, borders = PatchData(VP(), y, 3, "circular"), PatchData(VP(), y, 3)
    assert torch.allclose(circular(moved, T).mean, circular(x, T).mean.roll((2, 1), (2, 3)), atol=1e-10)
    assert not torch.allclose(borders(moved, T).mean, borders(x, T).mean.roll((2, 1), (2, 3)), atol=1e-2)


def test_the_size_may_depend_on_the_time() -> None:
    y, x = items(4, (1, 6, 6)), items(2, (1, 6, 6), seed=1)
    model = PatchData(VP(), y, lambda t: 1 if t < 0.5 else 5)
    assert torch.equal(model(x, 0.4).mean, PatchData(VP(), y, 1)(x, 0.4).mean)
    assert torch.equal(model(x, 0.6).mean, PatchData(VP(), y, 5)(x, 0.6).mean)


def test_what_a_local_denoiser_cannot_do_is_refused() -> None:
    y = items()
    model = LocalData(VP(), y, windows((2, 5, 5), 3))
    with pytest.raises(ValueError, match="one time for the whole batch"):
        model(y[:2], torch.tensor([0.2, 0.4]))
    with pytest.raises(CondError, match="give it the items of one class"):
        model(y[:2], 0.2, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="odd side"):
        PatchData(VP(), y, 2)
    each = PerElement(VP(), torch.ones(1, 5, 5))
    for make in (
        lambda: LocalData(each, y, windows((2, 5, 5), 3)),
        lambda: PatchData(each, y, 3),
        lambda: correlated(each, torch.eye(50)),
    ):
        with pytest.raises(ValueError, match="one alpha for all elements, and PerElement has several"):
            make()
    with pytest.raises(ValueError, match="within 0 items"):
        LocalData(VP(), y, windows((2, 5, 5), 3), apart=0)
    with pytest.raises(ValueError, match=r"patches of images of shape \[2, 5, 5\] were asked for \[2, 4, 4\]"):
        PatchData(VP(), y, 3)(items(2, (2, 4, 4)), T)
    with pytest.raises(ValueError, match="square images"):
        PatchData(VP(), items(3, (1, 4, 5)), 3)
    with pytest.raises(ValueError, match="'borders' or 'circular'"):
        PatchData(VP(), y, 3, "none")  # type: ignore[arg-type]


def test_one_time_may_be_given_for_each_item() -> None:
    y = items()
    model = LocalData(VP(), y, windows((2, 5, 5), 3))
    assert torch.equal(model(y[:2], torch.tensor([T, T], dtype=F64)).mean, model(y[:2], T).mean)


# the Jacobian


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_the_jacobian_of_an_exact_posterior_is_its_covariance(t: float) -> None:
    problem = correlated_problem((3,))
    x = VP().noise(problem.sample(5, Rng(0, 5)), t, Rng(1, 5)).xt
    rows = jacobian(problem.denoiser(), x, t)
    scale = float(VP().alpha(t) / VP().sigma(t) ** 2)
    assert torch.allclose(rows, scale * problem.denoiser()(x, t).covariance, atol=1e-7)


def test_some_rows_are_those_of_all() -> None:
    problem = gaussian((1, 3, 3))
    x = problem.sample(2, Rng(0, 2))
    whole, some = jacobian(problem.denoiser(), x, T), jacobian(problem.denoiser(), x, T, [4, 0])
    assert whole.shape == (2, 9, 1, 3, 3) and torch.equal(some, whole[:, [4, 0]])
    # J of a Gaussian does not depend on x_t, and is symmetric
    assert torch.allclose(whole[0], whole[1]) and torch.allclose(whole[0].flatten(1), whole[0].flatten(1).mT)


def test_the_jacobian_of_a_network_is_its_slope(device: torch.device) -> None:
    net = Network(VP(), UNetSpec(width=8, mults=(1,), depth=1, patch=1, attention=False), PointHead(), (1, 4, 4))
    net = net.to(device).double()
    x = items(2, (1, 4, 4)).to(device)
    (row,) = jacobian(net, x, T, [5]).unbind(1)
    step = torch.zeros_like(x)
    step[:, 0, 2, 1] = 1e-5
    slope = (net(x + step, T).mean - net(x - step, T).mean).flatten(1)[:, 5] / 2e-5
    assert row.device == x.device and torch.allclose(row[:, 0, 2, 1], slope, atol=1e-7)


def test_the_reach_is_the_distance_from_the_pixel() -> None:
    field = torch.zeros(1, 5, 5)
    field[0, 2, 2] = field[0, 2, 4] = 1.0
    assert reach(field, 12) == pytest.approx(math.sqrt(2))
    assert reach(field, 14) == pytest.approx(math.sqrt(2)) and reach(field, 10) == pytest.approx(math.sqrt(10))
    two = torch.stack([field, 0 * field])
    assert reach(two, 12) == pytest.approx(math.sqrt(2))
    # the place in the second channel is that of the first
    assert reach(torch.cat([field, field]), 25 + 12) == pytest.approx(math.sqrt(2))


def test_local_denoisers_answer_on_the_device_of_the_state(device: torch.device) -> None:
    y, x = items(4, (1, 4, 4)).float(), items(2, (1, 4, 4), seed=1).float().to(device)
    covariance = torch.cov(y.flatten(1).T.double())
    for model in (LocalData(VP(), y, correlated(VP(), covariance)), PatchData(VP(), y, 3)):
        assert model(x, T).mean.device == x.device
    assert isinstance(wiener(VP(), torch.zeros(2), torch.eye(2)), ExactMixture)
