"""The loss of the two fields of a stochastic interpolant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..denoiser import NoiseHead
from ..posterior import HasNoise, Posterior, need
from ..process import Interpolant, Noised
from ..rng import Rng
from .square import squared_error
from .weight import Weight


@dataclass(frozen=True)
class MeanAndNoise:
    """w(logsnr) mean |x0_hat - x0|^2 + mean |z_hat - z|^2, for a `NoiseHead`.

    The second part is the paper's loss of the denoiser, L_eta = E[|eta|^2 / 2 - z . eta] up to a constant and a factor.
    The first takes the place of L_v. The paper's losses of b and of the score have targets with 1 / gamma, and need
    pairs of +z and -z against their variance. These two have no such target.

    weight : the name of w, a row of `softmix.loss.weight`.

    When to choose: for the ODE and the SDE of an `Interpolant`.
    Source: Albergo, Boffi & Vanden-Eijnden, "Stochastic interpolants", 2023, section 2.
    """

    weight: Weight = "v"
    trains_noise: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("stochastic_interpolants",)

    @property
    def proper(self) -> bool:
        return False

    def fits(self, head: object, process: object) -> None:
        if not (isinstance(head, NoiseHead) and isinstance(process, Interpolant)):
            raise ValueError(
                f"the loss MeanAndNoise needs a NoiseHead and an Interpolant; found {type(head).__name__} and "
                f"{type(process).__name__}"
            )

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        both = need(posterior, HasNoise, "MeanAndNoise")
        error = (both.noise - noised.z).square().flatten(1).mean(1)
        return squared_error(both.mean, noised, self.weight) + error
