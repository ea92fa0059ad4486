"""Weights against target spaces, losses against closed forms, and the losses that can learn a mixture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, distributions

from softmix.denoiser import MixtureHead, Network, NormalHead, Output, PointHead, SoftHead, affine
from softmix.loss import (
    LOSSES,
    WEIGHTS,
    Energy,
    Importance,
    Likelihood,
    Loss,
    PublishedSquare,
    Square,
    Weight,
    mixture_gain,
    mixture_learnable,
    weight,
)
from softmix.loss.likelihood import step_variance
from softmix.net import MLPSpec, UNetSpec
from softmix.posterior import FullMixture, Implicit, ImplicitMean, Mixture, Normal, Point, Posterior
from softmix.process import PROCESSES, VE, VP, Flow, Gaussian, Noised
from softmix.rng import Rng
from softmix.shape import column

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
SHAPES = pytest.mark.parametrize("shape", [(3,), (3, 3, 3), (2, 1, 3)], ids=str)


def noised(shape: tuple[int, ...], process: Gaussian | None = None, n: int = 3) -> Noised:
    """n items, each at its own time."""
    x0 = 0.6 * Rng(0, n, "x0").normal((n, *shape), F64)
    return (process or VP()).noise(x0, torch.linspace(0.2, 0.9, n, dtype=F64), Rng(1, n))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


# weights


@SHAPES
@pytest.mark.parametrize(
    ("name", "output", "process", "sd"),
    [
        ("x0", "x0", VE(), 1.0),
        ("eps", "eps", VP(), 1.0),
        ("eps", "eps", Flow(), 1.0),
        ("v", "v", VP("linear"), 1.0),
        ("flow", "flow", Flow(), 1.0),
        ("edm", "edm", VE(), 0.5),
        ("edm", "edm", VP("sigmoid"), 0.5),
    ],
)
def test_a_weight_is_the_error_in_the_target_space(
    shape: tuple[int, ...], name: Weight, output: Output, process: Gaussian, sd: float
) -> None:
    """w (x0_hat - x0)^2 = (F_hat - F)^2 with F = (x0 - a x_t) / b, exactly under the condition of the table.

    alpha + sigma of Flow is 1 up to the 4.5e-5 by which its alpha is scaled.
    """
    data = noised(shape, process)
    guess = data.x0 + 0.3 * Rng(2, 3).normal(data.x0.shape, F64)
    a, b = (column(part, guess) for part in affine(output, process.alpha(data.t), process.sigma(data.t), sd))
    truth = flat((((guess - a * data.xt) - (data.x0 - a * data.xt)) / b) ** 2)
    ours = Square(name)(Point(guess), data, Rng(0, 3))
    assert (ours / truth - 1).abs().max() < (1e-4 if name == "flow" else 1e-9)


def test_the_other_weights_and_names() -> None:
    logsnr = torch.tensor([-4.0, 0.0, 4.0], dtype=F64)
    assert torch.allclose(weight("min-snr", logsnr), torch.tensor([math.exp(-4), 1, 5], dtype=F64))
    assert torch.allclose(weight("snr-half", logsnr) ** 2, weight("eps", logsnr))
    assert get_args(Weight) == WEIGHTS and all(weight(name, logsnr).shape == (3,) for name in WEIGHTS)
    with pytest.raises(ValueError, match=r"'snr'.*there are x0, eps"):
        weight("snr", logsnr)  # type: ignore[arg-type]


# squared errors


def spread_out(data: Noised, sd: float, shift: float = 0.1) -> Implicit:
    """Draws data.x0 + shift + sd eta."""
    size = data.x0[0].numel()
    return Implicit(
        lambda eta: data.x0 + shift + sd * eta.reshape(len(eta), *data.x0.shape), len(data.x0), (size,), data.x0
    )


def test_the_published_loss_is_the_error_of_the_mean_plus_the_variance_of_the_draws() -> None:
    """E_eta |x0 - f(eta)|^2 = |x0 - E f|^2 + tr Cov f, over 20,000 draws, within 4 standard errors."""
    one = noised((3,), n=1)
    n = 20_000
    data = Noised(*(part.expand(n, *part.shape[1:]) for part in (one.x0, one.xt, one.t, one.z)), process=one.process)
    for sd in (0.0, 0.3, 1.0):
        values = PublishedSquare("eps")(spread_out(data, sd), data, Rng(0, n))
        truth = float(weight("eps", one.logsnr)) * (0.1**2 + sd**2)
        error = (values.mean() - truth) / (values.std() / math.sqrt(n) + 1e-9)
        assert abs(float(error)) < 4
        assert abs(float((values.mean() - 1.1 * truth - 0.01) / (values.std() / math.sqrt(n) + 1e-9))) > 4


def test_the_published_loss_is_smallest_without_a_mixture() -> None:
    data = noised((2,), n=5000)
    means = [float(PublishedSquare("x0")(spread_out(data, sd, 0), data, Rng(0, 5000)).mean()) for sd in (0, 0.1, 0.3)]
    assert means[0] == 0 and means[0] < means[1] < means[2]


# the energy score


def coin(n: int, where: float, share: float, like: Tensor) -> Implicit:
    """x0 = `where` with probability `share`, and -`where` otherwise."""
    threshold = float(distributions.Normal(0.0, 1.0).icdf(torch.tensor(share, dtype=F64)))
    return Implicit(lambda eta: where * torch.where(eta < threshold, 1.0, -1.0).to(like), n, (1,), like)


CANDIDATES = [(1.0, 0.7), (1.0, 0.5), (1.0, 0.9), (0.6, 0.7), (1.3, 0.7), (0.0, 0.5), (0.4, 0.9999)]


def scores(loss: Loss, n: int = 20_000) -> list[tuple[float, float]]:
    """x0 = 1 with probability 0.7, else -1: the advantage of the truth, the first candidate, over each other one, as
    mean and standard error over n items, with the same latents.
    """
    x0 = torch.where(Rng(0, n).uniform((n, 1), F64) < 0.7, 1.0, -1.0).to(F64)
    data = VP().noise(x0, 0.5, Rng(1, n))
    values = [loss(coin(n, where, share, x0), data, Rng(2, n)) for where, share in CANDIDATES]
    gaps = [other - values[0] for other in values[1:]]
    return [(float(gap.mean()), float(gap.std() / math.sqrt(n))) for gap in gaps]


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_the_energy_score_is_smallest_at_the_truth(beta: float) -> None:
    """Two points: wrong shares, too near, too far, collapsed at 0 or at the mean.

    Each is worse by 5 standard errors.
    """
    for gap, se in scores(Energy(beta, m=4)):
        assert gap > 5 * se
    assert Energy(beta, m=4).proper


def test_without_repulsion_or_with_beta_two_the_mixture_collapses() -> None:
    """lam = 0 prefers a point. beta = 2 cannot distinguish the truth (mean 0.4) from a point at 0.4."""
    point_gap, se = scores(Energy(1.5, m=4, lam=0.0))[-1]
    assert point_gap < -5 * se
    gap, se = scores(Energy(2.0, m=4))[-1]
    assert abs(gap) < 4 * se
    assert not Energy(2.0).proper and not Energy(lam=0.5).proper


def test_the_energy_score_is_unbiased_in_the_number_of_draws() -> None:
    """Means over 20,000 items at m = 2, 4, 8 agree within 4 standard errors.

    The biased form, over m^2 pairs, does not.
    """
    n = 20_000
    data = VP().noise(0.5 * Rng(0, n).normal((n, 2), F64), 0.5, Rng(1, n))
    law = Implicit(lambda eta: 0.8 * eta, n, (2,), data.x0)
    values = {m: Energy(1.0, m=m, mean=0)(law, data, Rng(m, n)) for m in (2, 4, 8)}
    se = float(values[2].std()) / math.sqrt(n)
    means = {m: float(value.mean()) for m, value in values.items()}
    assert all(abs(means[m] - means[8]) < 4 * se for m in (2, 4))
    biased = float(Energy(1.0, m=2, lam=0.5, mean=0)(law, data, Rng(2, n)).mean())
    assert abs(biased - means[8]) > 10 * se


def test_the_energy_score_by_hand() -> None:
    """Root mean square over elements as the norm, w^(beta/2), and the squared error of the mean."""
    data = noised((2, 3))
    draws = Rng(5, 3).normal((3, 3, 2, 3), F64)
    law = ImplicitMean(lambda eta: draws, 3, (1,), data.x0, lambda: data.x0 + 0.5)
    fixed = 0.5 * torch.ones(3, dtype=F64)
    for beta in (0.7, 1.0, 2.0):

        def norm(x: Tensor, beta: float = beta) -> Tensor:
            return (flat(x**2) + 1e-8) ** (beta / 2)

        fit = sum(norm(draws[j] - data.x0) for j in range(3)) / 3
        apart = sum(norm(draws[j] - draws[k]) for j in range(3) for k in range(3) if j != k)
        truth = weight("v", data.logsnr) ** (beta / 2) * (fit - 0.8 * apart / (2 * 3 * 2))
        ours = Energy(beta, m=3, lam=0.8, weight="v", mean=0)(law, data, Rng(0, 3))
        assert (ours - truth).abs().max() < 1e-10
        both = Energy(beta, m=3, lam=0.8, weight="v", mean=2.0)(law, data, Rng(0, 3))
        assert (both - truth - 2 * weight("v", data.logsnr) * fixed**2).abs().max() < 1e-10


@pytest.mark.parametrize(("m", "beta"), [(1, 1.0), (4, 0.0), (4, 2.1)])
def test_an_invalid_energy_score_is_refused(m: int, beta: float) -> None:
    with pytest.raises(ValueError, match="m >= 2"):
        Energy(beta, m=m)


# likelihoods


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_the_variance_of_a_step(process: Gaussian) -> None:
    t = torch.tensor([0.1, 0.5, 1.0], dtype=F64)
    for ratio in (0.5, 0.9):
        gap = process.logsnr(ratio * t).exp() - process.logsnr(t).exp()
        assert (step_variance(process, t, ratio) * gap - 1).abs().max() < 1e-9


def seen(loss: Likelihood | Importance, data: Noised, seed: int) -> Tensor:
    """y = x0 + N(0, 1 / dSNR), with the draws of the loss."""
    sd = step_variance(data.process, data.t, loss.ratio).sqrt()
    return data.x0 + column(sd, data.x0) * Rng(seed, len(data.x0)).normal(data.x0.shape, F64)


@THREE
@SHAPES
def test_the_likelihood_of_a_normal_is_closed(process: Gaussian, shape: tuple[int, ...]) -> None:
    """-log N(y; mean, var + 1 / dSNR) / D by torch.distributions, with one variance per item, and one per element."""
    data = noised(shape, process)
    loss = Likelihood()
    mean, total = data.x0 + 0.2, column(step_variance(process, data.t, 0.5), data.x0)
    for var in (0.3 * Rng(3, 3).uniform((3, *(1,) * len(shape)), F64), 0.3 * Rng(3, 3).uniform((3, *shape), F64)):
        truth = -flat(distributions.Normal(mean, (var + total).sqrt()).log_prob(seen(loss, data, 0)))
        assert (loss(Normal(mean, var), data, Rng(0, 3)) - truth).abs().max() < 1e-10


@THREE
@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_the_likelihood_is_that_of_the_reverse_step(process: Gaussian, ratio: float) -> None:
    """-log p(x_s | x_t) with x_s from the bridge of the process and the same noise: equal up to the constant log c_0 of
    the change from x_s to (x_s - c_x x_t) / c_0; for a Normal and for a mixture.
    """
    data, shape = noised((3,), process), (3,)
    loss = Likelihood(ratio)
    t, s = data.t, ratio * data.t
    r, kappa = process.sigma(s) / process.sigma(t), process.alpha(t) / process.alpha(s)
    c_x, left = column(r**2 * kappa, data.xt), column(1 - r**2 * kappa**2, data.xt)
    c_0, variance = column(process.alpha(s), data.xt) * left, column(process.sigma(s) ** 2, data.xt) * left
    xs = process.bridge(data.xt, data.x0, t, s, Rng(0, 3))
    means, var = data.x0[:, None] + Rng(4, 3).normal((3, 4, *shape), F64), torch.tensor(0.2, dtype=F64)
    logits = Rng(5, 3).normal((3, 4), F64)

    def step(mean: Tensor) -> Tensor:
        law = distributions.Normal(c_x * data.xt + c_0 * mean, (c_0**2 * var + variance).sqrt())
        return law.log_prob(xs).sum(1)

    each = torch.stack([step(means[:, k]) for k in range(4)], 1)
    truths = {
        Normal(means[:, 0], var.expand(3, 1)): each[:, 0],
        Mixture(logits, means, var): (logits.log_softmax(1) + each).logsumexp(1),
    }
    for posterior, truth in truths.items():
        assert (loss(posterior, data, Rng(0, 3)) - (-truth / 3 - c_0[:, 0].log())).abs().max() < 1e-9


def test_the_likelihood_refuses_other_posteriors() -> None:
    data = noised((2,))
    with pytest.raises(TypeError, match=r"density.*energy score"):
        Likelihood()(spread_out(data, 1.0), data, Rng(0, 3))
    full = FullMixture(torch.zeros(3, 1), data.x0[:, None], torch.eye(2, dtype=F64)[None, None], (2,))
    with pytest.raises(TypeError, match="Normal or Mixture head, and FullMixture"):
        Likelihood()(full, data, Rng(0, 3))


@THREE
def test_one_importance_draw_is_a_squared_error(process: Gaussian) -> None:
    """k = 1: |y - x|^2 / (2 v D) + log(2 pi v) / 2, with v = 1 / dSNR + tau^2. The temper has no effect."""
    data = noised((2, 3), process)
    for tau, temper in ((0.0, 1.0), (0.5, 1.0), (0.5, 4.0)):
        loss = Importance(1, tau=tau, temper=temper)
        v = step_variance(process, data.t, 0.5) + tau**2
        truth = flat((seen(loss, data, 0) - data.x0 - 0.1) ** 2) / (2 * v) + (2 * math.pi * v).log() / 2
        assert (loss(spread_out(data, 0.0), data, Rng(0, 3)) - truth).abs().max() < 1e-9


def test_importance_tightens_to_the_likelihood() -> None:
    """The exact posterior N(x0 + 0.1, 0.25), given by draws: the bound falls with k to the closed form, from above."""
    n = 4000
    data = VP().noise(0.5 * Rng(0, n).normal((n, 1), F64), 0.6, Rng(1, n))
    law = spread_out(data, 0.5)
    exact = Likelihood()(Normal(data.x0 + 0.1, torch.full((n, 1), 0.25, dtype=F64)), data, Rng(3, n))
    gaps = []
    for k in (1, 4, 16, 256):
        gap = Importance(k)(law, data, Rng(3, n)) - exact
        gaps.append(float(gap.mean()))
        assert gaps[-1] > -4 * float(gap.std()) / math.sqrt(n)
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] and gaps[3] < 0.01 < gaps[0]


# steps at which a mixture is learnable


@pytest.mark.parametrize("k", [2, 8])
def test_the_collapsed_mixture_is_left_just_above_the_threshold(k: int) -> None:
    """x0 ~ N(0, l): draws delta eta instead of 0 change the bound by about (delta^2 / 2v) (g - 1) / k with
    g = (k - 1) dSNR l. This is worse for g < 1 and better for g > 1 (measured to 15 % of that at delta^2 = 0.05 v). At
    least 5 standard errors over 200,000 items.
    """
    n = 200_000
    process, t = VP(), torch.full((n,), 0.5, dtype=F64)
    v = float(step_variance(process, t[:1], 0.5))
    for g in (0.4, 1.6):
        x0 = math.sqrt(g * v / (k - 1)) * Rng(0, n).normal((n, 1), F64)
        data = process.noise(x0, t, Rng(1, n))
        delta = math.sqrt(0.05 * v)
        there = Implicit(lambda eta, delta=delta: delta * eta, n, (1,), x0)
        here = Implicit(lambda eta: 0 * eta, n, (1,), x0)
        change = Importance(k)(here, data, Rng(2, n)) - Importance(k)(there, data, Rng(2, n))
        # averaging with -eta removes the odd part
        mirror = Implicit(lambda eta, delta=delta: -delta * eta, n, (1,), x0)
        change = (change + Importance(k)(here, data, Rng(2, n)) - Importance(k)(mirror, data, Rng(2, n))) / 2
        predicted = 0.025 * (g - 1) / k
        se = float(change.std()) / math.sqrt(n)
        assert float(change.mean()) * math.copysign(1, g - 1) > 5 * se
        assert abs(float(change.mean()) / predicted - 1) < 0.4


def test_the_threshold_is_dsnr_times_spread_times_k_minus_one() -> None:
    process = VP()
    grid = process.grid(4)
    spread = torch.tensor([1.0, 0.5, 0.1, 0.01])
    snr = process.logsnr(grid).exp()
    truth = [(float(snr[i + 1]) - float(snr[i])) * float(spread[i]) for i in range(4)]
    gains = mixture_gain(process, grid, spread)
    assert torch.allclose(gains, torch.tensor(truth, dtype=F64, device=gains.device)) and gains[-1] == math.inf
    for k in (2, 3, 50):
        edge = 1 / ((k - 1) * (snr[1:] - snr[:-1])[:-1])
        assert mixture_learnable(process, grid[:-1], 1.01 * edge, k).all()
        assert not mixture_learnable(process, grid[:-1], 0.99 * edge, k).any()
    # the published loss, one draw, never satisfies the rule on a finite step, for any spread
    assert not mixture_learnable(process, grid[:-1], torch.full((3,), 1e9), 1).any()


def test_a_mixture_is_learnable_with_coarse_steps_and_not_with_fine_ones() -> None:
    """Gaussian data of unit spread, so posterior spread 1 / (1 + snr), and 8 draws. Of 1000 steps only those within
    0.02 of the clean end satisfy the rule; of 2 steps both do.
    """
    process = VP()
    for n, paying in ((1000, 20), (2, 2)):
        grid = process.grid(n)
        pays = mixture_learnable(process, grid, 1 / (1 + process.logsnr(grid[:-1]).exp()), 8)
        assert int(pays.sum()) <= paying and bool(pays[-1])
        assert bool(pays[0]) == (n == 2)


# every loss


def networks(shape: tuple[int, ...]) -> dict[str, Callable[[], Network]]:
    spec = MLPSpec(width=16, depth=2, frequencies=2) if len(shape) == 1 else UNetSpec(width=16, mults=(1, 2), depth=1)
    heads = {"point": PointHead(), "normal": NormalHead(), "mixture": MixtureHead(3), "soft": SoftHead(latent=4)}
    return {name: (lambda head=head: Network(VP(), spec, head, shape)) for name, head in heads.items()}


FITS = [
    (Square(), "point"),
    (Square("v"), "normal"),
    (PublishedSquare(), "soft"),
    (Energy(), "soft"),
    (Energy(0.5, m=2, lam=0.5, weight="snr-half"), "mixture"),
    (Importance(4), "soft"),
    (Importance(4, tau=0.1, temper=3.0), "normal"),
    (Likelihood(), "normal"),
    (Likelihood(0.9), "mixture"),
]


def test_every_loss_is_covered() -> None:
    assert {type(loss) for loss in LOSSES} == {type(loss) for loss, _ in FITS}
    assert {type(loss).__name__: loss.proper for loss in LOSSES} == {
        "Square": False,
        "PublishedSquare": False,
        "Energy": True,
        "Importance": False,
        "Likelihood": True,
    }


@pytest.mark.parametrize(("loss", "head"), FITS, ids=str)
@SHAPES
def test_a_loss_is_one_number_for_each_item_and_no_item_sees_another(
    loss: Loss, head: str, shape: tuple[int, ...], device: torch.device
) -> None:
    """[B], finite with finite gradients, also at t = 1; item k of three is the item alone (float64)."""
    torch.manual_seed(0)
    network = networks(shape)[head]().to(device).double()
    x0 = 0.6 * Rng(0, 3, "x0").normal((3, *shape), F64)
    data = VP().noise(x0, torch.tensor([0.1, 0.6, 1.0], dtype=F64), Rng(1, 3))
    posterior: Posterior = network(data.xt, data.t)
    values = loss(posterior, data, Rng(2, 3))
    assert values.shape == (3,) and values.isfinite().all()
    values.sum().backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)
    for k in range(3):
        one = slice(k, k + 1)
        alone = Noised(data.x0[one], data.xt[one], data.t[one], data.z[one], data.process)
        value = loss(network(alone.xt, alone.t), alone, Rng(2, [k]))
        assert (value - values[k]).abs() < 1e-9 * (1 + value.abs())
