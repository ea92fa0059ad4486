"""The loss of RDDM's two heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..denoiser import ResidualAndNoisePoint, ResidualHead
from ..posterior import Posterior
from ..process import Noised, Residual
from ..rng import Rng


@dataclass(frozen=True)
class ResidualAndNoise:
    """mean |R_hat - (x_in - x0)|^power + mean |z_hat - z|^power, for a `ResidualHead`.

    power : 1 as in the paper's restoration, 2 as in its generation.

    When to choose: for RDDM as published.
    Source: Liu et al., "Residual denoising diffusion models", CVPR 2024, eq. 14, and their code.
    """

    power: float = 1.0
    trains_two_heads: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("rddm",)

    def __post_init__(self) -> None:
        if self.power not in (1.0, 2.0):
            raise ValueError(f"the power of ResidualAndNoise is 1 or 2; found {self.power:g}")

    @property
    def proper(self) -> bool:
        return False

    def fits(self, head: object, process: object) -> None:
        if not (isinstance(head, ResidualHead) and isinstance(process, Residual)):
            raise ValueError(
                "the loss ResidualAndNoise needs a ResidualHead and a process to the other item of a pair, RDDM or "
                f"Resfusion; found {type(head).__name__} and {type(process).__name__}"
            )

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        if not (isinstance(posterior, ResidualAndNoisePoint) and isinstance(noised.process, Residual)):
            raise TypeError(f"ResidualAndNoise needs the posterior of a ResidualHead; found {type(posterior).__name__}")
        residual = noised.process.u(noised.cond).to(noised.x0) - noised.x0
        errors = ((posterior.residual - residual).abs(), (posterior.noise - noised.z).abs())
        return sum(((error**self.power).flatten(1).mean(1) for error in errors), noised.x0.new_zeros(len(noised.x0)))
