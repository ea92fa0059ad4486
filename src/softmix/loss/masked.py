"""The bound of masked diffusion: a weighted cross-entropy of the masked tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..denoiser import CategoricalHead
from ..posterior import Categorical, Posterior
from ..process import Masked, Noised
from ..rng import Rng


@dataclass(frozen=True)
class MaskedCrossEntropy:
    """The bound on -log p(x_0) in continuous time, in nats per token.

        L = E_t [ -alpha'_t / (1 - alpha_t)  (1 / L) sum_(l masked) -log q(x0_l | x_t) ],   t uniform in [0, 1]

    The weight is 1 / t for the linear schedule. The bound is the same for every schedule; only the variance of its
    estimate depends on it. For the exact posterior it is the entropy of the data, per token.

    With times that are not uniform in t (`Times(by=...)`) the minimiser is the same, and the number is no bound.

    Raises TypeError for a posterior that is not `Categorical`.
    Source: Sahoo et al., "Simple and effective masked diffusion language models", NeurIPS 2024, eq. 10; Shi et
    al., "Simplified and generalized masked diffusion for discrete data", NeurIPS 2024, section 3.
    When to choose: for `CategoricalHead`.
    """

    cites: ClassVar[tuple[str, ...]] = ("masked_diffusion", "md4")

    @property
    def proper(self) -> bool:
        return True

    def fits(self, head: object, process: object) -> None:
        if not (isinstance(head, CategoricalHead) and isinstance(process, Masked)):
            raise ValueError(
                f"the loss {type(self).__name__} needs a CategoricalHead and the process Masked; found "
                f"{type(head).__name__} and {type(process).__name__}"
            )

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        nats = masked_nats(posterior, noised, noised.x0)
        return noised.process.unmasking_rate(noised.t).to(nats) * nats  # type: ignore[attr-defined]


def masked_nats(posterior: Posterior, noised: Noised, tokens: Tensor, cap: float = torch.inf) -> Tensor:
    """The cross-entropy of tokens [B, ...] at the masked places of a record, over all places, in nats per token, [B].

    cap : the largest number of a token.
    """
    if not isinstance(posterior, Categorical):
        raise TypeError(f"the cross-entropy of tokens needs a Categorical, and {type(posterior).__name__} was found")
    process: Masked = noised.process  # type: ignore[assignment]
    nats = -posterior.log_prob_each(tokens).clamp(min=-cap)
    # a product with 0 would turn an infinite cross-entropy of a visible place into nan
    return torch.where(process.masked(noised.xt), nats, 0.0).flatten(1).mean(1)
