"""`SIDDM` against closed forms: x0 ~ N(0, 1) in one dimension, with generators and regressors that are linear."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from softmix.config import from_json, to_json
from softmix.denoiser import FixedSteps, MixtureHead, Network, PointHead, PublishedSMD, SoftHead
from softmix.loss import SIDDM, Stage
from softmix.loss.siddm import ForwardStep
from softmix.loss.siddm_nets import DenoisingDiscriminator, NoiseRegressor
from softmix.net import MLPSpec, UNetSpec
from softmix.posterior import Implicit
from softmix.process import SPD, VE, VP, Flow, Gaussian, Immiscible, Noised, few
from softmix.rng import Rng
from softmix.sampler import ancestral, noised, on_grid, sample
from softmix.train import Denoise, Times

pytestmark = pytest.mark.usefixtures("on_device")

F64 = torch.float64
N = 200_000
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
CROSS = pytest.mark.parametrize("cross", ["exact", "shared"])


def unit(n: int = N, t: float = 0.6, process: Gaussian | None = None) -> Noised:
    """x0 ~ N(0, 1), noised. With VP x_t has unit variance at every time. 0.6 becomes 0.75 on the grid of 4 steps."""
    x0 = Rng(0, n, "x0").normal((n, 1), F64)
    return (process or VP()).noise(x0, torch.full((n,), t, dtype=F64), Rng(0, n, "z"))


class Linear(nn.Module):
    """Draws x0 = k x_t + m z, z ~ N(0, 1)."""

    def __init__(self, k: float, m: float):
        super().__init__()
        self.k, self.m = (nn.Parameter(torch.tensor(value, dtype=F64)) for value in (k, m))

    def forward(self, xt: Tensor, t: Tensor, cond: object = None) -> Implicit:
        return Implicit(lambda eta: self.k * xt + self.m * eta, len(xt), (1,), xt)


class Slope(nn.Module):
    """F(x_s) = w x_s, and, as a discriminator, the logit v x_s + u s + c and x0 = w x_s."""

    def __init__(self, w: float, v: float | None = None):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor(w, dtype=F64)), v
        self.seen: list[Tensor] = []

    def forward(self, xs: Tensor, s: Tensor, cond: object = None) -> Any:
        self.seen.append(s)
        if self.v is None:
            return self.w * xs
        return self.v * xs.flatten(1).sum(1) + 2.0 * s.to(xs) - 0.3, self.w * xs


def stage(turn: str = "model", **rivals: nn.Module) -> Stage:
    return Stage(modules={"rivals": nn.ModuleDict(rivals)}, turn=turn)


def only(cross: str = "exact", **weights: float) -> SIDDM:
    """The regression alone."""
    return SIDDM(adversarial=0.0, cross=cross, **weights)  # type: ignore[arg-type]


class Moments:
    """Second moments of (x_t, x_s', x_s) for unit data and the draws x0 = k x_t + m z, by hand, on the VP process."""

    def __init__(self, t: float, s: float, k: float, m: float):
        alpha_t, alpha_s = math.cos(math.pi * t / 2), math.cos(math.pi * s / 2)
        # VP scales sigma^2 by 1 - sigmoid(-20)
        scale = 1 / (1 + math.exp(-20))
        sigma_t, sigma_s = (math.sqrt(scale) * math.sin(math.pi * time / 2) for time in (t, s))
        alpha_t, alpha_s = math.sqrt(1 - sigma_t**2), math.sqrt(1 - sigma_s**2)
        self.a = alpha_t / alpha_s
        self.b = sigma_t**2 - (self.a * sigma_s) ** 2
        of_xt = (sigma_s / sigma_t) ** 2 * self.a
        of_x0 = alpha_s * (1 - (sigma_s / sigma_t) ** 2 * self.a**2)
        fresh = sigma_s**2 * (1 - (sigma_s / sigma_t) ** 2 * self.a**2)
        # x_s' = c x_t + sqrt(rest) w
        self.c, self.rest = of_xt + of_x0 * k, of_x0**2 * m**2 + fresh
        self.var = self.c**2 + self.rest
        # of x_t given x_s'
        self.slope, self.left = self.c / self.var, 1 - self.c**2 / self.var
        # the best F: E[(x_t - a x_s') / sqrt(b) | x_s'] = w x_s'
        self.w = (self.slope - self.a) / math.sqrt(self.b)

    @property
    def kl(self) -> float:
        """KL(p(x_t | x_s') || N(a x_s', b)), on average over x_s'."""
        ratio = self.left / self.b
        return 0.5 * (ratio - 1 - math.log(ratio)) + (self.slope - self.a) ** 2 * self.var / (2 * self.b)

    @property
    def of_variances(self) -> float:
        ratio = self.left / self.b
        return 0.5 * (ratio - 1 - math.log(ratio))


def truth(t: float) -> tuple[float, float]:
    """k and m of the true posterior."""
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    return alpha, sigma


# a wrong slope and too little spread; too much spread; no latent
GENERATORS = [(0.1, 0.5), (0.5, 1.4), (0.6, 0.0)]


def near(values: Tensor, right: float) -> bool:
    """Whether a mean is right to 4 standard errors; for numbers without spread, to rounding."""
    return abs(float(values.mean()) - right) < 4 * float(values.std()) / math.sqrt(len(values)) + 1e-9


# the step


@THREE
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_step_composes_with_the_process(process: Gaussian, steps: int) -> None:
    """x_s with a and b has the alpha and sigma of x_t, from each time to the one before, down to 0."""
    step = ForwardStep.of(unit(8, process=process), steps)
    for place in range(1, steps + 1):
        noised = process.noise(torch.zeros(4, 1), torch.full((4,), (place - 0.4) / steps, dtype=F64), Rng(0, 4))
        step = ForwardStep.of(noised, steps)
        assert torch.allclose(step.t, torch.tensor(place / steps, dtype=F64))
        assert torch.allclose(step.s, torch.tensor((place - 1) / steps, dtype=F64))
        assert torch.allclose(step.a * process.alpha(step.s), process.alpha(step.t), rtol=1e-12)
        assert torch.allclose(
            (step.a * process.sigma(step.s)) ** 2 + step.b, process.sigma(step.t) ** 2, rtol=1e-9, atol=1e-12
        )


def test_all_times_of_the_grid_come_equally_often() -> None:
    """A time of the grid stays, one between is rounded up."""
    times = torch.arange(1, 1001, dtype=F64) / 1000
    noised = VP().noise(torch.zeros(1000, 1), times, Rng(0, 1000))
    step = ForwardStep.of(noised, 4)
    assert [int((step.t == k / 4).sum()) for k in (1, 2, 3, 4)] == [250, 250, 250, 250]
    assert bool((step.t >= times).all()) and bool((step.t - times < 0.25).all())


def test_x_t_is_noised_at_the_time_of_the_grid_with_its_own_noise() -> None:
    noised = unit(64)
    assert torch.equal(ForwardStep.of(noised, 2).xt, VP().state(noised.x0, torch.full((64,), 1.0), noised.z))


def test_real_states_have_the_joint_law_of_the_process() -> None:
    """eps of the true x_s is standard, and independent of x_s: means, variances and products of 200,000 items."""
    noised = unit()
    step = ForwardStep.of(noised, 4)
    xs = step.back(noised.x0, Rng(0, N, "real"))
    eps = step.noise(xs)
    assert near(eps, 0) and near(eps**2, 1) and near(eps * xs, 0) and near(eps**2 * xs**2, 1) and near(xs**2, 1)


# the two conditional terms


@CROSS
@pytest.mark.parametrize("turn", ["model", "rivals"])
def test_the_terms_by_hand(cross: str, turn: str) -> None:
    """Every term with the draws of its own streams, [B]; two dimensions, three steps of the grid."""
    loss = SIDDM(adversarial=0.7, conditional=0.4, denoising=0.3, cross=cross)  # type: ignore[arg-type]
    x0 = Rng(0, 3, "x0").normal((3, 2), F64)
    noised = VP().noise(x0, torch.tensor([0.3, 0.6, 1.0], dtype=F64), Rng(0, 3, "z"))
    t, s = torch.tensor([0.5, 0.75, 1.0], dtype=F64), torch.tensor([0.25, 0.5, 0.75], dtype=F64)
    d, f = Slope(0.2, v=0.5), Slope(-0.4)

    def generator(xt: Tensor, times: Tensor, cond: object = None) -> Implicit:
        assert torch.equal(times, t)
        return Implicit(lambda eta: 0.5 * xt + eta, 3, (2,), xt)

    found = loss.ask(generator, noised, Rng(5, 3), stage(turn, discriminator=d, regressor=f))  # type: ignore[arg-type]
    rng = Rng(5, 3).child(turn)
    xt = noised.at(t).xt
    draw = generator(xt, t).sample(rng.child("draw"))
    fake = VP().bridge(xt, draw, t, s, rng.child("fake"))
    real = VP().bridge(xt, x0, t, s, rng.child("real"))
    a = (VP().alpha(t) / VP().alpha(s))[:, None]
    b = (VP().sigma(t) ** 2)[:, None] - a**2 * (VP().sigma(s) ** 2)[:, None]
    on_fake, on_real = (0.5 * x.sum(1) + 2 * s - 0.3 for x in (fake, real))
    regression = ((a * fake + b.sqrt() * -0.4 * fake - xt) ** 2 / b).mean(1)
    if turn == "rivals":
        denoised = ((0.2 * real - x0) ** 2).mean(1)
        right = softplus(-on_real) + softplus(on_fake) + 0.3 * denoised + regression
    else:
        terms = {"exact": (xt - a * fake) ** 2 / b, "shared": a**2 * (fake - real) ** 2 / b}
        right = 0.7 * softplus(-on_fake) + 0.4 * (terms[cross].mean(1) - regression)
    assert torch.allclose(found, right, rtol=1e-9)
    assert all(torch.equal(seen, s) for seen in d.seen + f.seen)


@pytest.mark.parametrize("generator", [*GENERATORS, "true"], ids=str)
@pytest.mark.parametrize("t", [0.5, 0.75, 1.0])
def test_at_the_best_regressor_the_exact_pair_is_twice_the_kl_of_the_means(t: float, generator: Any) -> None:
    """The rest of the KL compares variances, which a Gaussian of fixed variance does not see."""
    k, m = truth(t) if generator == "true" else generator
    exact = Moments(t, t - 0.25, k, m)
    values = only().ask(Linear(k, m), unit(t=t), Rng(1, N), stage(regressor=Slope(exact.w)))  # type: ignore[arg-type]
    assert near(values.detach(), 2 * (exact.kl - exact.of_variances))
    if generator == "true":
        assert exact.kl == pytest.approx(0, abs=1e-9)
    else:
        assert not near(values.detach(), 2 * exact.kl) or exact.of_variances < 1e-3


@pytest.mark.parametrize(("k", "m"), GENERATORS)
def test_the_regressor_is_trained_to_the_conditional_mean_and_its_error_is_the_entropy(k: float, m: float) -> None:
    """At the closed form its gradient vanishes, and the error is Var(x_t | x_s') / b. Beside it the pair is larger."""
    t = 0.75
    exact = Moments(t, 0.5, k, m)
    best = Slope(exact.w)
    error = only().ask(Linear(k, m), unit(t=t), Rng(1, N), stage("rivals", regressor=best))  # type: ignore[arg-type]
    assert near(error.detach(), exact.left / exact.b)
    (gradient,) = torch.autograd.grad(error.mean(), best.w)
    # d/dw (w x - eps)^2 = 2 x (w x - eps), with a spread of 2 sd(x) sd(residual)
    assert abs(float(gradient)) < 4 * 2 * math.sqrt(exact.var * exact.left / exact.b / N)
    pair = [
        float(only().ask(Linear(k, m), unit(t=t), Rng(1, N), stage(regressor=Slope(exact.w + off))).detach().mean())  # type: ignore[arg-type]
        for off in (-0.3, 0.0, 0.3)
    ]
    # the pair with a worse C is lower: the generator minimises the maximum over C
    assert pair[1] > pair[0] + 0.05 and pair[1] > pair[2] + 0.05


@pytest.mark.parametrize("t", [0.5, 0.75, 1.0])
def test_at_the_true_posterior_the_exact_pair_has_no_gradient(t: float) -> None:
    """C is a x_s' there, and both terms cancel item by item."""
    right = Linear(*truth(t))
    values = only().ask(right, unit(1000, t=t), Rng(1, 1000), stage(regressor=Slope(0.0)))  # type: ignore[arg-type]
    assert float(values.detach().abs().max()) < 1e-12
    assert all(abs(float(each)) < 1e-12 for each in torch.autograd.grad(values.sum(), list(right.parameters())))


def test_at_the_true_posterior_the_shared_pair_has_a_gradient() -> None:
    """It is that of 2 (a / sqrt(b)) E[eps | x_t] E[x_s' | x_t], with E[eps | x_t] = sqrt(b) x_t: 2 a of_x0 by k."""
    t, s = 0.75, 0.5
    right = Linear(*truth(t))
    exact, moved = Moments(t, s, *truth(t)), Moments(t, s, truth(t)[0] + 1, 0)
    values = only("shared").ask(right, unit(t=t), Rng(1, N), stage(regressor=Slope(0.0)))  # type: ignore[arg-type]
    by_k, _ = torch.autograd.grad(values.mean(), list(right.parameters()))
    # measured over 20 seeds: 0.6 % of it
    assert float(by_k) == pytest.approx(2 * exact.a * (moved.c - exact.c), rel=0.03)
    assert exact.c == pytest.approx(exact.a) and exact.var == pytest.approx(1)


def test_the_network_learns_through_the_regressor_and_the_bridge() -> None:
    """The exact pair is 2 F eps - F^2 with F = w x_s', and d eps / d x_s' = -a / sqrt(b)."""
    generator, noised, w = Linear(0.3, 0.6), unit(200), 0.7
    value = only().ask(generator, noised, Rng(1, 200), stage(regressor=Slope(w)))  # type: ignore[arg-type]
    (by_k,) = torch.autograd.grad(value.sum(), [generator.k])
    step, rng = ForwardStep.of(noised, 4), Rng(1, 200).child("model")
    fake = step.back(generator(step.xt, step.t).sample(rng.child("draw")), rng.child("fake")).detach()
    a, b = step.a[:, None], step.b[:, None]
    eps = (step.xt - a * fake) / b.sqrt()
    slope = 2 * w * eps - 2 * w * fake * a / b.sqrt() - 2 * w**2 * fake
    moved = step.back(step.xt, Rng(0, 200)) - step.back(0 * step.xt, Rng(0, 200))
    assert float(by_k) == pytest.approx(float((slope * moved).sum()), rel=1e-9)


def pair_at(cross: str, mu: float, tau: float, w: float | None, t: float = 0.75) -> Tensor:
    """Cross-entropy, and less the entropy for a regressor w, at x_s' = mu x_t + tau z, item by item."""
    loss, noised = only(cross), unit(t=t)
    step = ForwardStep.of(noised, 4)
    real = step.back(noised.x0, Rng(2, N, "real"))
    fake = mu * step.xt + tau * Rng(3, N, "latent").normal((N, 1), F64)
    value = loss.crossed(step, fake, real)
    return value if w is None else value - step.entropy(Slope(w), fake).detach()


@pytest.mark.parametrize(("cross", "power"), [("exact", 1), ("shared", 3)])
def test_with_right_marginals_the_optimum_of_each_form_is_known(cross: str, power: int) -> None:
    """x_s' = c x_t + sqrt(1 - c^2) z has the right law for every c. The exact pair is (c - a)^2 / b. The shared one is
    (2 a^2 - 2 a^3 c - 1 + c^2) / b, least at c = a^3: it makes x_s' too independent of x_t."""
    a, b = (float(part[0]) for part in (lambda step: (step.a, step.b))(ForwardStep.of(unit(4), 4)))
    found = {}
    for c in (0.0, a**3 - 0.2, a**3, (a**3 + a) / 2, a, a + 0.15):
        values = pair_at(cross, c, math.sqrt(1 - c**2), (c - a) / math.sqrt(b))
        right = (c - a) ** 2 / b if cross == "exact" else (2 * a**2 - 2 * a**3 * c - 1 + c**2) / b
        assert near(values, right)
        found[c] = float(values.mean())
    assert min(found, key=lambda c: found[c]) == a**power


@pytest.mark.parametrize("cross", ["exact", "shared"])
def test_either_cross_entropy_alone_removes_the_latent(cross: str) -> None:
    """exact: ((1 - a mu)^2 + a^2 tau^2) / b, least at x_s' = x_t / a. shared: a^2 ((mu - a)^2 + 1 - a^2 + tau^2) / b,
    least at the mean a x_t. Both rise with tau^2; the pair does not."""
    a, b = (float(part[0]) for part in (lambda step: (step.a, step.b))(ForwardStep.of(unit(4), 4)))
    best = 1 / a if cross == "exact" else a
    for mu, tau in ((best, 0.0), (best, 0.5), (a, 0.5), (best + 0.2, 0.0)):
        right = (
            ((1 - a * mu) ** 2 + (a * tau) ** 2) / b
            if cross == "exact"
            else a**2 * ((mu - a) ** 2 + 1 - a**2 + tau**2) / b
        )
        assert near(pair_at(cross, mu, tau, None), right)
    # the true spread costs 2 a^2 (1 - a^2) / b less the entropy, against a collapse to the mean
    spread = math.sqrt(1 - a**2)
    collapsed = float(pair_at("exact", a, 0.0, (1 / a - a) / math.sqrt(b)).mean())
    assert float(pair_at("exact", a, spread, 0.0).mean()) < collapsed - 0.1


def test_a_snap_to_the_nearest_mode_is_not_seen() -> None:
    """x0 on a lattice, and x0' the lattice point nearest to x_t / alpha: a function of x_t, with the right marginal.
    E[eps | x0'] = 0 at every point, so that the best F is 0 and the pair is 0 too. Var(eps | x0') is 0.4, and not 1."""
    gap = 0.6
    x0 = gap * (Rng(0, N, "x0").uniform((N, 1), F64) * 400 - 200).round()
    noised = VP().noise(x0, torch.full((N,), 0.25, dtype=F64), Rng(0, N, "z"))
    step = ForwardStep.of(noised, 4)
    snapped = gap * (step.xt / step.a[:, None] / gap).round()
    eps = step.noise(snapped)
    low = (snapped / gap).round() % 3
    for place in (0, 1, 2):
        assert near(eps[low == place], 0)
    assert near(eps * snapped.sin(), 0) and near(eps * snapped.cos(), 0)
    width = gap * float(step.a[0]) / math.sqrt(float(step.b[0]))
    assert near(eps**2, width**2 / 12) and width**2 / 12 < 0.5
    assert near(eps**2 - step.entropy(Slope(0.0), snapped)[:, None], 0)


# the networks of the rivals


def network(shape: tuple[int, ...], process: Gaussian | None = None) -> Network:
    spec = MLPSpec(width=16, depth=2, frequencies=2) if len(shape) == 1 else UNetSpec(width=16, mults=(1, 2), depth=1)
    torch.manual_seed(0)
    return Network(process or VP(), spec, SoftHead(latent=4, mean="none"), shape)  # type: ignore[arg-type]


SHAPES = pytest.mark.parametrize("shape", [(2,), (3, 8, 8)], ids=str)


def game(shape: tuple[int, ...], loss: SIDDM, device: torch.device, process: Gaussian | None = None) -> tuple[Any, ...]:
    """The generator, and a function from (turn, some items) to the loss, in float64."""
    generator = network(shape, process)
    rivals = nn.ModuleDict(dict(loss.build(generator))).to(device).double()
    generator = generator.to(device).double()
    x0 = 0.6 * Rng(0, 3, "x0").normal((3, *shape), F64)
    data = generator.process.noise(x0, torch.tensor([0.1, 0.6, 1.0], dtype=F64), Rng(1, 3))

    def value(turn: str, items: slice = slice(0, 3)) -> Tensor:
        given = Stage(modules={"model": generator, **rivals}, turn=turn)
        return loss.ask(generator, data.take(items), Rng(2, range(3)[items]), given)

    return generator, rivals, value


@SHAPES
@CROSS
@THREE
def test_it_is_one_number_for_each_item_and_no_item_sees_another(
    shape: tuple[int, ...], cross: str, process: Gaussian, device: torch.device
) -> None:
    """[B], finite with finite gradients, also at t = 1 and s = 0; item k of three is the item alone (float64)."""
    generator, rivals, value = game(shape, SIDDM(cross=cross), device, process)  # type: ignore[arg-type]
    for turn, module in (("rivals", rivals), ("model", generator)):
        values = value(turn)
        assert values.shape == (3,) and values.dtype == F64 and bool(values.isfinite().all())
        gradients = torch.autograd.grad(values.sum(), list(module.parameters()), allow_unused=True)
        assert all(each is None or bool(each.isfinite().all()) for each in gradients)
        for k in range(3):
            alone = value(turn, slice(k, k + 1))
            assert float((alone - values[k]).abs()) < 1e-9 * (1 + float(values[k].abs()))


@SHAPES
def test_each_turn_trains_its_own_modules(shape: tuple[int, ...], device: torch.device) -> None:
    """No gradient of the rivals' loss reaches the network. The decoder of D learns by denoising alone."""
    for denoising in (1.0, 0.0):
        generator, rivals, value = game(shape, SIDDM(denoising=denoising), device)
        own = torch.autograd.grad(value("rivals").sum(), list(rivals.parameters()), allow_unused=True)
        used = {name for (name, _), each in zip(rivals.named_parameters(), own, strict=True) if each is not None}
        # with denoising = 0 its gradient is 0
        silent = {
            name
            for (name, _), each in zip(rivals.named_parameters(), own, strict=True)
            if each is not None and not bool(each.any())
        }
        assert len(used) == len(own)
        d = rivals["rivals"]["discriminator"]
        body = [f"network.net.body.{k}." for k in range(d.middle + 1)]
        judging = tuple(
            f"rivals.discriminator.{part}" for part in (*body, "network.net.enter", "network.net.time", "mix", "logit")
        )
        decoder = {
            name
            for name, _ in rivals.named_parameters()
            if name.startswith("rivals.discriminator.") and not name.startswith(judging)
        }
        assert len(decoder) > 2 and (silent == decoder if denoising == 0.0 else not silent)
        theirs = torch.autograd.grad(value("rivals").sum(), list(generator.parameters()), allow_unused=True)
        assert all(each is None for each in theirs)
        of_model = torch.autograd.grad(value("model").sum(), list(generator.parameters()), allow_unused=True)
        assert sum(each is not None and bool(each.any()) for each in of_model) >= len(of_model) - 1


def test_the_turns_see_other_draws(device: torch.device) -> None:
    """Else the network would learn from the very draws that D has just been fitted to."""
    drawn: list[Tensor] = []

    def generator(xt: Tensor, t: Tensor, cond: object = None) -> Implicit:
        return Implicit(lambda eta: drawn.append(eta) or eta[..., :1] + 0 * xt, len(xt), (1,), xt)  # type: ignore[func-returns-value]

    for turn in ("rivals", "model"):
        only().ask(generator, unit(3), Rng(0, 3), stage(turn, regressor=Slope(0.0)))  # type: ignore[arg-type]
    assert not torch.equal(drawn[0], drawn[1])


@SHAPES
def test_the_rivals_see_the_time_s(shape: tuple[int, ...], device: torch.device) -> None:
    generator = network(shape)
    d = DenoisingDiscriminator(generator, UNetSpec(width=16, depth=1) if len(shape) == 3 else MLPSpec(16, 2)).to(device)
    f = NoiseRegressor(generator, UNetSpec(width=16, depth=1) if len(shape) == 3 else MLPSpec(16, 2)).to(device)
    x = Rng(0, 3).normal((3, *shape))
    times = torch.tensor([0.25, 0.5, 0.75], dtype=F64)
    for module in (lambda *given: d(*given)[0], f):
        apart = (module(x, times) - module(x, times.flip(0))).detach().abs().reshape(3, -1).amax(1)
        assert float(apart[[0, 2]].min()) > 1e-4 and float(apart[1]) == 0


def test_the_decoder_of_the_discriminator_knows_clean_items(device: torch.device) -> None:
    """At s = 0 x0 is x_s itself: the affine table, and no output of the net."""
    d = DenoisingDiscriminator(network((2,)), MLPSpec(16, 2)).to(device)
    x = Rng(0, 3).normal((3, 2))
    assert torch.allclose(d(x, torch.zeros(3, dtype=F64))[1], x, atol=1e-6)


@pytest.mark.parametrize("s", [0.0, 0.5])
def test_a_net_without_output_knows_the_process_alone(s: float, device: torch.device) -> None:
    """With a last layer of zeros F is 0, so that C = a x_s, and the decoder of D gives alpha x_s (output "v")."""
    generator, x = network((2,)), Rng(0, 3).normal((3, 2))
    d, f = DenoisingDiscriminator(generator, MLPSpec(16, 2)), NoiseRegressor(generator, MLPSpec(16, 2))
    times = torch.full((3,), s, dtype=F64)
    for module in (d, f):
        module.to(device)
        nn.init.zeros_(module.network.net.leave.weight)  # type: ignore[union-attr]
        nn.init.zeros_(module.network.net.leave.bias)  # type: ignore[union-attr]
    assert float(f(x, times).detach().abs().max()) == 0
    assert torch.allclose(d(x, times)[1], float(VP().alpha(s)) * x, atol=1e-6)


def test_a_weight_of_0_builds_no_rival() -> None:
    assert set(SIDDM(adversarial=0.0).build(network((2,)))["rivals"]) == {"regressor"}  # type: ignore[call-overload]
    assert set(SIDDM(conditional=0.0).build(network((2,)))["rivals"]) == {"discriminator"}  # type: ignore[call-overload]
    assert set(SIDDM().build(network((2,)))["rivals"]) == {"discriminator", "regressor"}  # type: ignore[call-overload]


def test_the_rivals_have_the_published_settings_and_come_first() -> None:
    (name, group), *rest = SIDDM().groups.items()
    assert name == "rivals" and not rest
    assert (group.rate, group.betas, group.rival) == (4e-4, (0.5, 0.999), True)
    assert SIDDM(rate=1e-3).groups["rivals"].rate == 1e-3


# settings


BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": 3}, "1, 2 or 4 steps; found 3"),
    ({"steps": 8}, "1, 2 or 4 steps; found 8"),
    ({"adversarial": -1.0}, "at least 0"),
    ({"conditional": math.nan}, "at least 0"),
    ({"denoising": -0.1}, "at least 0"),
    ({"adversarial": 0.0, "conditional": 0.0}, "is above 0"),
    ({"cross": "fresh"}, '"exact" or "shared"; found \'fresh\''),
    ({"adversarial": 0.0, "denoising": 0.5}, "adversarial = 0 leaves it without effect"),
    ({"conditional": 0.0, "cross": "shared"}, "conditional = 0 leaves it without effect"),
]


@pytest.mark.parametrize(("settings", "sentence"), BAD, ids=str)
def test_bad_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SIDDM(**settings)


def task(**changes: Any) -> Denoise:
    given = {"net": MLPSpec(16, 2), "head": SoftHead(mean="none"), "loss": SIDDM()} | changes
    return Denoise(**given)


@pytest.mark.parametrize("head", [PointHead(), MixtureHead(), SoftHead()], ids=str)
def test_a_head_without_a_latent_or_with_a_mean_is_refused(head: Any) -> None:
    with pytest.raises(ValueError, match="SIDDM trains draws alone"):
        task(head=head)
    assert task(head=PublishedSMD(8)).head == PublishedSMD(8)


def test_a_process_without_one_clock_is_refused() -> None:
    with pytest.raises(TypeError, match="couples the two"):
        task(process=Immiscible())
    with pytest.raises(TypeError, match="frame"):
        task(process=SPD((1.0,) * 7, 8), output="x0", net=UNetSpec())


@pytest.mark.parametrize(
    "times",
    [Times("logsnr"), Times("normal", logsnr=(0.0, 1.0)), Times(low=0.02), Times(low=0.0, high=0.9)],
    ids=str,
)
def test_times_that_miss_a_step_are_refused(times: Times) -> None:
    with pytest.raises(ValueError, match=r"uniform in t from 0\.01 at most"):
        task(times=times)
    assert task(times=Times(low=0.01)).times.low == 0.01


def test_it_is_written_and_read() -> None:
    for loss in (SIDDM(), SIDDM(2, 0.5, 2.0, 0.1, "shared", UNetSpec(width=8), 1e-3)):
        one = task(loss=loss)
        assert from_json(Denoise, to_json(one)) == one
    assert replace(SIDDM(), steps=1).suits == ("ancestral", {}) and not SIDDM().proper


# the model of its steps


def fixed(steps: int = 4) -> FixedSteps:
    made: Callable[..., Any] = SIDDM(steps=steps).made
    return made(network((2,)), 10, 10.0)  # type: ignore[no-any-return]


def test_the_model_answers_at_its_times_alone(device: torch.device) -> None:
    model = fixed().to(device)
    x = Rng(0, 2).normal((2, 2))
    for t in (0.25, 0.5, torch.tensor(0.75), torch.tensor([0.5, 1.0], dtype=F64)):
        draw = model(x, t).sample(Rng(1, 2))
        assert torch.equal(draw, model.network(x, t).sample(Rng(1, 2)))
    for bad in (0.3, torch.tensor([0.5, 0.6], dtype=F64)):
        with pytest.raises(ValueError, match=r"knows 1, 0\.75, 0\.5, 0\.25, 0 alone: take 4 steps"):
            model(x, bad)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_samples_in_its_steps(steps: int, device: torch.device) -> None:
    """As the bare network does, with no warning."""
    model = fixed(steps).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = sample(model, 5, steps, seed=3)
        later = sample(model, 5, steps=1, grid=VP().grid(steps)[-2:], start=noised(x), at=1 / steps)
    assert torch.equal(x, sample(model.network, 5, steps, shape=(2,), seed=3))
    assert later.shape == (5, 2) and float((later - x).abs().max()) > 0


@pytest.mark.parametrize("steps", [3, 5, 8])
def test_other_steps_are_refused_before_the_first(steps: int) -> None:
    with pytest.raises(ValueError, match=r"were asked for, and this model knows 1, 0\.75, .* take 4 steps"):
        sample(fixed(), 2, steps)
    with pytest.raises(ValueError, match="take 4 steps"):
        sample(fixed(), 2, 4, sampler=on_grid(ancestral, few))


@pytest.mark.parametrize("steps", [1, 2])
def test_longer_steps_between_its_times_warn(steps: int) -> None:
    with pytest.warns(UserWarning, match="a longer step were compared with no data. Take 4 steps"):
        sample(fixed(), 2, steps)


def test_the_model_keeps_the_properties_of_its_network() -> None:
    model, bare = fixed(), network((2,))
    assert (model.shape, model.classes, model.cond, model.stride) == (bare.shape, 0, bare.cond, bare.stride)
    assert model.process == bare.process and model.steps == 4
