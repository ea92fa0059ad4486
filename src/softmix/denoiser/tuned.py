"""A denoiser that was tuned for one sampler on one grid of times, and the refusal of every other use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..cond import Cond, CondSpec
from ..posterior import Posterior
from .contract import Denoiser, Suits
from .network import Network

# a time of the grid may be off by this, for example after a conversion to float32
_ROUNDING = 1e-5


class TunedError(ValueError):
    """A model that was tuned for one sampler is used in another way. The sentence says how to use it."""


class TunedDenoiser(nn.Module):
    """A network that was tuned as a part of one chain: a sampler without fresh noise at certain times.

    Its answers make the last state of the chain right. They are no longer posteriors of x0: the score, the likelihood
    and other steps do not follow from them. So it answers at the times of the chain alone, and `sample` takes it with
    its own sampler and number of steps alone.

    network : the tuned network.
    suits : the sampler and its settings.
    times : the falling times of the chain, from 1 to 0, [steps + 1].

    Raises TunedError for another time, another grid, and another sampler.
    When to choose: a run of a loss through a sampler, such as `ChainMMD`, returns it.
    """

    def __init__(self, network: Network, suits: Suits, times: Tensor):
        super().__init__()
        self.network, self.suits = network, suits
        self.times = tuple(times.tolist())
        self.process, self.shape, self.classes = network.process, network.shape, network.classes

    @property
    def cond(self) -> CondSpec:
        """The conditions of the network."""
        return self.network.cond

    @property
    def stride(self) -> int:
        """That of the network."""
        return self.network.stride

    @property
    def steps(self) -> int:
        """The number of steps that it was tuned for."""
        return len(self.times) - 1

    def __str__(self) -> str:
        return f"a model tuned for {self.steps} steps of {self.suits[0]} at t = {_listed(self.times)}"

    def check_grid(self, grid: Tensor) -> None:
        """Raises TunedError for other times than those of the chain."""
        count = len(grid) - 1
        if count == self.steps and all(abs(a - b) <= _ROUNDING for a, b in zip(grid.tolist(), self.times, strict=True)):
            return
        found = f"{count} steps" if count != self.steps else f"t = {_listed(grid.tolist())}"
        raise TunedError(
            f"this is {self}, and {found} were asked for: take steps={self.steps} (--steps {self.steps}) and no other "
            "grid, or the model that it was tuned from"
        )

    def check_sampler(self, name: str, adds_noise: bool) -> None:
        """Raises TunedError for another sampler, and for its own with fresh noise."""
        if name != self.suits[0] or adds_noise:
            found = f"{name} with fresh noise" if name == self.suits[0] else name
            raise TunedError(f"this is {self}, and {found} was asked for: take {self.suits[0]} with eta = 0")

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        asked = torch.as_tensor(t).detach().double().cpu().reshape(-1)
        away = (asked[:, None] - torch.tensor(self.times[:-1], dtype=torch.float64, device="cpu")).abs().amin(1)
        if bool((away > _ROUNDING).any()):
            raise TunedError(
                f"this is {self}, and its answer at t = {float(asked[away.argmax()]):.3g} was asked for, which is "
                "undefined: take the model that it was tuned from"
            )
        return cast(Posterior, self.network(xt, t, cond))


def _listed(times: Sequence[float]) -> str:
    return ", ".join(f"{t:.3g}" for t in times)


def require_untuned(denoiser: Denoiser, who: str) -> None:
    """Raises TunedError for a `TunedDenoiser`, or a wrap of one: its answers are no posteriors.

    who : the name of the caller.
    """
    if is_tuned(denoiser):
        tuned: object = denoiser
        while not isinstance(tuned, TunedDenoiser):
            tuned = tuned.inner  # type: ignore[attr-defined]
        raise TunedError(f"{who} needs posteriors of x0, and this is {tuned}: take the model that it was tuned from")


def is_tuned(denoiser: Denoiser) -> bool:
    """Whether a denoiser is a `TunedDenoiser` or a wrap of one."""
    return getattr(denoiser, "check_sampler", None) is not None
