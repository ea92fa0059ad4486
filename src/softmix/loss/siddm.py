"""Semi-implicit denoising diffusion: draws for large steps by an adversary on the marginal, and a regression."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..cond import Cond
from ..denoiser import Denoiser, FixedSteps, Network, PublishedSMD, SoftHead, Suits
from ..net import NetSpec
from ..process import Gaussian, Noised, one_clock, require_independent
from ..rng import Rng
from ..shape import column
from .contract import Group, Stage
from .siddm_nets import DenoisingDiscriminator, NoiseRegressor, small_net

STEPS = (1, 2, 4)


@dataclass(frozen=True)
class SIDDM:
    """Match the law of x_s by an adversary, and the law of x_t given x_s by a regression, for steps t -> s of a grid.

    The joint law of (x_s, x_t) is right if both are. In the symbols of the paper, with x_t = a x_s + sqrt(b) eps,
    a = alpha_t / alpha_s, b = sigma_t^2 - a^2 sigma_s^2 (the paper's sqrt(1 - beta_t) and beta_t), z the latent of the
    soft mixture, and s one step before t:

        x0' = G_theta(x_t, z, t),   x_s' ~ q(x_s | x_t, x0')
        min_theta max_{D, psi}  E log D(x_s, s) + E log(1 - D(x_s', s))
            + conditional E [ cross(x_s') - |C_psi(x_s', s) - x_t|^2 / b ]
        exact:   cross = |x_t - a x_s'|^2 / b
        shared:  cross = a^2 |x_s' - x_s|^2 / b,   x_t from x_s and x_s' by the same noise

    |.| is the root mean square over the D elements. D / 2 times the conditional terms are cross-entropy and entropy of
    KL(p_theta(x_t | x_s') || q(x_t | x_s)); the entropy is a bound by Gaussians of variance b around C. At the best C
    the exact pair is E |E[x_t | x_s'] - a x_s'|^2 / b: 0 for the true posterior, and never less. It compares means of
    x_t. Laws with equal means and marginals and another shape have the same loss.

    The shared form is the exact form plus 2 (a / sqrt(b)) E[eps | x_t] . E[x_s' | x_t] and a
    constant, so that the true posterior is not its optimum: for unit Gaussian data the correlation of x_s and x_t
    becomes a^3, and not a (docs/pitfalls.md).

    C = a x_s' + sqrt(b) F, with a net F. The network learns by -log D (non-saturating). D also learns to denoise, by
    its decoder: its loss is softplus(-D(x_s)) + softplus(D(x_s')) + denoising |x0 - x0_D(x_s)|^2.

    Of the paper: the grid of times, D on the noisy x_s, the regression C, the decoder of D, a Gaussian z. The released
    toy has continuous times, D on the clean x0, the exact cross-entropy (with a fresh noise) without C, and a uniform
    z. Softmix: the exact pair, a factor for each part, and a discriminator and a regressor as two nets.

    steps : of the grid: 1, 2 or 4. The model samples at its times alone (`FixedSteps`). The times of training are
        rounded up to the next time of the grid, which needs `Times` that are uniform in t.
    adversarial : the weight of -log D. 0: no discriminator.
    conditional : the weight of the regression, lambda of the paper, for means over elements. 0: no regressor.
    denoising : the weight of the second task of D. 0: none.
    cross : "exact" or "shared".
    net : of the discriminator and of the regressor; None for a small one that suits the data.
    rate : the peak learning rate of both. The published rates are 4e-4, and 1e-4 for the network.

    Raises ValueError for other steps, for weights below 0, for an option without effect, and for a head without a
    latent or with a mean; TypeError for a process without one clock.

    When to choose: to compare with a GAN. The energy score (`Energy`) trains the same network without an adversary.
    Source: Xu et al., "Semi-implicit denoising diffusion models (SIDDMs)", NeurIPS 2023, section 3.
    """

    steps: int = 4
    adversarial: float = 1.0
    conditional: float = 1.0
    denoising: float = 1.0
    cross: Literal["exact", "shared"] = "exact"
    net: NetSpec | None = None
    rate: float = 4e-4
    suits: ClassVar[Suits] = ("ancestral", {})
    cites: ClassVar[tuple[str, ...]] = ("siddm",)

    def __post_init__(self) -> None:
        if self.steps not in STEPS:
            raise ValueError(f"SIDDM takes 1, 2 or 4 steps; found {self.steps}: more need no adversary")
        weights = (self.adversarial, self.conditional, self.denoising)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights[:2]):
            raise ValueError(
                "the weights of SIDDM are at least 0 and finite, and adversarial or conditional is above 0; found "
                f"{', '.join(f'{weight:g}' for weight in weights)}"
            )
        if self.cross not in ("exact", "shared"):
            raise ValueError(f'the cross-entropy of SIDDM is "exact" or "shared"; found {self.cross!r}')
        default = {field.name: field.default for field in fields(self)}
        for name, other in (("denoising", "adversarial"), ("cross", "conditional")):
            if not getattr(self, other) and getattr(self, name) != default[name]:
                raise ValueError(
                    f"{name} = {getattr(self, name)} was given, and {other} = 0 leaves it without effect: drop one"
                )

    @property
    def proper(self) -> bool:
        return False

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"rivals": Group(rate=self.rate, betas=(0.5, 0.999), rival=True)}

    def fits(self, head: object, process: object) -> None:
        if not isinstance(head, SoftHead | PublishedSMD) or getattr(head, "mean", "none") != "none":
            raise ValueError(
                'the loss SIDDM trains draws alone, and needs a SoftHead with mean = "none" or a PublishedSMD; found '
                f"{head}"
            )
        require_independent(process, "SIDDM")
        one_clock(process, "SIDDM")  # type: ignore[arg-type]

    # an order of the noise levels would leave its grid times out of equal shares
    has_own_times: ClassVar[bool] = True

    def fits_times(self, by: str, low: float, high: float) -> None:
        """Raises ValueError for a law of training times without all times of the grid in equal shares."""
        if by != "t" or high != 1 or low > 0.01:
            raise ValueError(
                "SIDDM rounds the times of training up to its grid, and needs them uniform in t from 0.01 at most to "
                f'1: take Times(); found by = "{by}" from {low:g} to {high:g}'
            )

    def build(self, network: Network) -> Mapping[str, nn.Module]:
        net, rivals = self.net or small_net(network.shape), nn.ModuleDict()
        if self.adversarial:
            rivals["discriminator"] = DenoisingDiscriminator(network, net)
        if self.conditional:
            rivals["regressor"] = NoiseRegressor(network, net)
        return {"rivals": rivals}

    def made(self, network: Network, step: int, end: float) -> Denoiser:
        """The network, for the steps of its grid alone."""
        return FixedSteps(network, network.process.grid(self.steps))

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        step = ForwardStep.of(noised, self.steps)
        # other draws than those of the other turn
        rng, learns = rng.child(stage.turn), stage.turn == "model"
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            draw = denoiser(step.xt, step.t, step.cond).sample(rng.child("draw"))
            fake = step.back(draw, rng.child("fake"))
        real = step.back(noised.x0, rng.child("real"))
        rivals = stage.modules["rivals"]
        assert isinstance(rivals, nn.ModuleDict)
        loss = torch.zeros_like(fake.flatten(1)[:, 0])
        if self.adversarial:
            adversary = rivals["discriminator"]
            loss = loss + (
                self.adversarial * nn.functional.softplus(-adversary(fake, step.s, step.cond)[0])
                if learns
                else self.judged(adversary, step, real, fake, noised.x0)
            )
        if self.conditional:
            entropy = step.entropy(rivals["regressor"], fake)
            loss = loss + (self.conditional * (self.crossed(step, fake, real) - entropy) if learns else entropy)
        return loss

    def judged(self, adversary: nn.Module, step: ForwardStep, real: Tensor, fake: Tensor, x0: Tensor) -> Tensor:
        """The loss of the discriminator, [B]."""
        (given, denoised), (made, _) = (adversary(x, step.s, step.cond) for x in (real, fake))
        softplus = nn.functional.softplus
        return softplus(-given) + softplus(made) + self.denoising * mean_square(denoised - x0)

    def crossed(self, step: ForwardStep, fake: Tensor, real: Tensor) -> Tensor:
        """The cross-entropy of each item, without constants, [B]."""
        if self.cross == "exact":
            return mean_square(step.noise(fake))
        return mean_square(column(step.a / step.b.sqrt(), fake) * (fake - real))


@dataclass(frozen=True)
class ForwardStep:
    """The step of the process from x_s to x_t: x_t = a x_s + sqrt(b) eps.

    xt : [B, ...]; t, s, a, b : [B], float64.
    """

    process: Gaussian
    xt: Tensor
    t: Tensor
    s: Tensor
    a: Tensor
    b: Tensor
    cond: Cond | Tensor | None

    @classmethod
    def of(cls, noised: Noised, steps: int) -> ForwardStep:
        """The steps of these items on the grid of so many steps, with their times rounded up to it."""
        process = one_clock(noised.process, "SIDDM")
        grid = process.grid(steps).flip(0).to(noised.t)
        place = (noised.t * steps).ceil().clamp(1, steps).long()
        t, s = grid[place], grid[place - 1]
        a = process.alpha(t) / process.alpha(s)
        b = process.sigma(t) ** 2 * process.fresh(t, s)
        return cls(process, noised.at(t).xt, t, s, a, b, noised.cond)

    def back(self, x0: Tensor, rng: Rng) -> Tensor:
        """A draw of q(x_s | x_t, x0)."""
        return self.process.bridge(self.xt, x0, self.t, self.s, rng)

    def noise(self, xs: Tensor) -> Tensor:
        """eps = (x_t - a x_s) / sqrt(b), [B, ...]."""
        return (self.xt - column(self.a, xs) * xs) / column(self.b.sqrt(), xs)

    def entropy(self, regressor: nn.Module, xs: Tensor) -> Tensor:
        """|C(x_s, s) - x_t|^2 / b = |F(x_s, s) - eps|^2, [B]."""
        return mean_square(regressor(xs, self.s, self.cond) - self.noise(xs))


def mean_square(x: Tensor) -> Tensor:
    """The mean of the squares of each item, [B]."""
    return x.square().flatten(1).mean(1)
