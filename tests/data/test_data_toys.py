"""Toys against their exact moments, densities and supports."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from scipy.stats import multivariate_normal  # type: ignore[import-untyped]
from torch import Tensor

from softmix.data import load, toys
from softmix.data.toys import TOYS, ToyMixture
from softmix.rng import Rng

MIXTURES = {
    "grid": toys.mode_grid(),
    "ring": toys.ring(),
    "correlated": toys.correlated(),
    "correlated 5-D": toys.correlated(dim=5, k=3, seed=2),
    "unequal": toys.unequal(),
    "unequal 3-D": toys.unequal(dim=3, k=5, seed=1),
    "unequal 1-D": toys.unequal(dim=1, k=3),
}


def deviations(x: Tensor, law: ToyMixture) -> float:
    """The largest deviation of the mean and the second moments of x from those of the toy, in standard errors."""
    law = law.to(x.device)
    off = x - law.mean
    products = torch.cat([off, (off[:, :, None] * off[:, None, :]).flatten(1)], dim=1)
    truth = torch.cat([torch.zeros_like(law.mean), law.covariance.flatten()])
    errors = (products.mean(0) - truth) / (products.std(0) / math.sqrt(len(x)))
    return float(errors.abs().max())


@pytest.mark.parametrize("name", MIXTURES)
def test_moments(name: str) -> None:
    law = MIXTURES[name]
    x = law.sample(20_000, Rng(1, 20_000))
    assert x.dtype == torch.float64
    assert x.shape == (20_000, law.dim)
    assert deviations(x, law) < 4.5


def test_moments_test_can_fail() -> None:
    law = MIXTURES["unequal"]
    x = law.sample(20_000, Rng(1, 20_000))
    assert deviations(1.04 * x, law) > 4.5
    assert deviations(x + 0.03, law) > 4.5


@pytest.mark.parametrize("name", MIXTURES)
def test_density_against_scipy(name: str) -> None:
    law = MIXTURES[name]
    x, on_host = law.sample(50, Rng(2, 50)) * 1.1, law.to(torch.device("cpu"))
    density = sum(
        float(weight) * multivariate_normal(mean.numpy(), covariance.numpy()).pdf(x.cpu().numpy())
        for weight, mean, covariance in zip(on_host.weights, on_host.means, on_host.covariances, strict=True)
    )
    assert torch.allclose(law.log_prob(x).exp(), torch.as_tensor(density).to(x).reshape(-1), rtol=1e-9)


@pytest.mark.parametrize("name", ["grid", "ring", "correlated", "unequal"])
def test_density_integrates_to_one(name: str) -> None:
    law = MIXTURES[name]
    assert law.dim == 2
    # A trapezoid rule is exact to rounding for Gaussians once its step is below their smallest sd.
    step = 0.8 * float(torch.linalg.eigvalsh(law.covariances).min().sqrt())
    reach = float(law.means.abs().max()) + 8 * float(torch.linalg.eigvalsh(law.covariances).max().sqrt())
    line = torch.arange(-reach, reach, step, dtype=torch.float64)
    total = sum(float(law.log_prob(part).exp().sum()) for part in torch.cartesian_prod(line, line).split(50_000))
    assert total * step**2 == pytest.approx(1, abs=1e-4)


def test_the_grid_has_the_promised_parameters(device: torch.device) -> None:
    law = toys.mode_grid().to(device)
    assert len(law.weights) == 49
    assert law.scale == pytest.approx(0.05)
    assert torch.allclose(law.covariance, 1.0025 * torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(law.mean, torch.zeros(2, dtype=torch.float64), atol=1e-12)
    assert float(torch.pdist(law.means).min()) == pytest.approx(0.5)


def test_ring_variance(device: torch.device) -> None:
    law = toys.ring(k=5, radius=2.0, sd=0.3).to(device)
    assert torch.allclose(law.covariance, (2 + 0.09) * torch.eye(2, dtype=torch.float64), atol=1e-12)


def test_correlated_is_correlated_and_unequal_is_unequal() -> None:
    correlated, unequal = toys.correlated(), toys.unequal()
    cov = correlated.covariances
    assert bool((cov[:, 0, 1].abs() / (cov[:, 0, 0] * cov[:, 1, 1]).sqrt() > 0.05).all())
    assert torch.linalg.eigvalsh(cov).sqrt()[0].tolist() == pytest.approx([0.04, 0.4])
    assert float(unequal.weights.max() / unequal.weights.min()) == pytest.approx(8)
    sizes = unequal.covariances.det()
    assert float(sizes.max() / sizes.min()) == pytest.approx(4**4)
    assert not torch.equal(toys.correlated(seed=1).means, correlated.means)
    assert torch.equal(toys.correlated(seed=0).means, correlated.means)


def test_nearest_counts_in_sds(device: torch.device) -> None:
    law = toys.unequal(dim=3, k=5, seed=1).to(device)
    direction = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    x = law.means + 0.01 * (law.factors @ direction)
    index, distance = law.nearest(x)
    assert index.tolist() == [0, 1, 2, 3, 4]
    assert torch.allclose(distance, torch.full((5,), 0.01, dtype=torch.float64))
    _, far = toys.mode_grid().nearest(torch.tensor([[1.5 + 0.15, 1.5]]))
    assert float(far) == pytest.approx(3, abs=1e-5)


def test_samples_share_components_by_weight() -> None:
    law = toys.unequal(dim=6, k=3)
    index, distance = law.nearest(law.sample(20_000, Rng(0, 20_000)))
    share = torch.bincount(index, minlength=3) / 20_000
    assert torch.allclose(share.double(), law.weights.to(share.device), atol=0.02)
    # The distance to the own component is chi with 6 degrees of freedom, and the nearest is at most that.
    assert float(distance.square().mean()) <= 6.1


@pytest.mark.parametrize("name", TOYS)
def test_an_item_does_not_depend_on_its_batch(name: str) -> None:
    law = TOYS[name]()
    whole = law.sample(260, Rng(5, 260))
    for k in (0, 1, 3, 100, 259):
        assert torch.equal(law.sample(1, Rng(5, [k]))[0], whole[k])
    assert torch.equal(law.sample(7, Rng(5, range(100, 107))), whole[100:107])
    assert not torch.equal(law.sample(260, Rng(6, 260)), whole)


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_about_unit_variance(name: str) -> None:
    x = TOYS[name]().sample(5_000, Rng(0, 5_000))
    assert x.shape == (5_000, TOYS[name]().dim)
    assert 0.3 < float(x.var(0).mean()) < 2


def test_rng_must_serve_n_items() -> None:
    for name in ("grid", "moons"):
        with pytest.raises(ValueError, match="serves 4 items"):
            TOYS[name]().sample(5, Rng(0, 4))


def test_rings_lie_on_their_circles() -> None:
    x = toys.rings(radii=(0.6, 1.2, 1.8), sd=0.01).sample(6_000, Rng(0, 6_000))
    radius = x.norm(dim=1)
    nearest = (radius[:, None] - torch.tensor([0.6, 1.2, 1.8])).abs().min(dim=1)
    assert float(nearest.values.max()) < 0.05
    assert bool(((torch.bincount(nearest.indices) - 2_000).abs() < 150).all())
    assert float(x.mean(0).abs().max()) < 0.06


def test_checkerboard_fills_half_of_its_cells_evenly() -> None:
    x = toys.checkerboard().sample(16_000, Rng(0, 16_000))
    cell = ((x + math.sqrt(3)) * (4 / (2 * math.sqrt(3)))).floor().long()
    assert bool((cell >= 0).all() and (cell < 4).all())
    assert bool((cell.sum(1) % 2 == 0).all())
    counts = torch.bincount(4 * cell[:, 0] + cell[:, 1], minlength=16)
    assert int((counts > 0).sum()) == 8
    assert bool(((counts[counts > 0] - 2_000).abs() < 200).all())
    assert x.var(0).tolist() == pytest.approx([1, 1], abs=0.03)
    with pytest.raises(ValueError, match="even"):
        toys.checkerboard(3)


def test_moons_lie_on_two_arcs() -> None:
    x = toys.moons(sd=1e-9).sample(4_000, Rng(0, 4_000))
    centre = torch.tensor([-0.6, -0.3], dtype=torch.float64)
    first = ((x - centre).norm(dim=1) - 1.2).abs() < 1e-6
    second = ((x + centre).norm(dim=1) - 1.2).abs() < 1e-6
    assert bool((first | second).all())
    assert abs(int(first.sum()) - 2_000) < 150
    assert bool((x[first, 1] >= -0.3 - 1e-6).all() and (x[second, 1] <= 0.3 + 1e-6).all())


def test_wrong_parameters_are_refused() -> None:
    law = toys.mode_grid()
    with pytest.raises(ValueError, match="sum 1"):
        ToyMixture("bad", 2 * law.weights, law.means, law.factors)
    with pytest.raises(ValueError, match="lower triangular"):
        ToyMixture("bad", law.weights, law.means, law.factors + 0.1)
    with pytest.raises(ValueError, match="float64"):
        ToyMixture("bad", law.weights.float(), law.means, law.factors)
    with pytest.raises(ValueError, match="were expected"):
        ToyMixture("bad", law.weights[1:], law.means, law.factors)


def test_load_draws_from_the_toy() -> None:
    data = load("toy:grid")
    assert len(data) == 20_000
    assert data.shape == (2,)
    assert not data.is_image
    assert data.values.dtype == torch.float32
    assert deviations(data.x0().double(), cast(ToyMixture, TOYS["grid"]())) < 4.5
    few, other = load("toy:grid", limit=10), load("toy:grid", split="test", limit=10)
    assert torch.equal(few.values, data.values[:10])
    assert not torch.equal(other.values, few.values)
