"""A denoiser that was tuned for one sampler on one grid of times, and the refusal of every other use."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .contract import Denoiser, Suits
from .fixed_steps import FixedSteps, StepsError, is_near, listed
from .network import Network


class TunedError(StepsError):
    """A model that was tuned for one sampler is used in another way. The sentence says how to use it."""


class TunedDenoiser(FixedSteps):
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
        super().__init__(network, times)
        self.suits = suits

    def __str__(self) -> str:
        return f"a model tuned for {self.steps} steps of {self.suits[0]} at t = {listed(self.times)}"

    def check_grid(self, grid: Tensor) -> None:
        """Raises TunedError for other times than those of the chain."""
        times = grid.tolist()
        if len(times) == len(self.times) and all(map(is_near, times, self.times)):
            return
        found = f"{len(times) - 1} steps" if len(times) != len(self.times) else f"t = {listed(times)}"
        raise TunedError(
            f"this is {self}, and {found} were asked for: take steps={self.steps} (--steps {self.steps}) and no other "
            "grid, or the model that it was tuned from"
        )

    def check_sampler(self, name: str, adds_noise: bool) -> None:
        """Raises TunedError for another sampler, and for its own with fresh noise."""
        if name != self.suits[0] or adds_noise:
            found = f"{name} with fresh noise" if name == self.suits[0] else name
            raise TunedError(f"this is {self}, and {found} was asked for: take {self.suits[0]} with eta = 0")

    def _refusal(self, times: Sequence[float]) -> TunedError:
        return TunedError(
            f"this is {self}, and its answer at t = {listed(times)} was asked for, which is undefined: take the model "
            "that it was tuned from"
        )


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
