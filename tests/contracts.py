"""Shape and dtype contracts of the contract methods, checked by jaxtyping and beartype while tests run.

Each function below is a contract. It receives the arguments and the result of a method. Its annotations are checked,
and a name such as `batch` stands for one number in all of them. `held()` installs the contracts on every class of the
rooms; `pytest --contracts` does so for the whole run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from beartype import beartype
from jaxtyping import Float, Int, jaxtyped
from torch import Tensor

from softmix.denoiser import ExactData, ExactMixture, Network, SoftAtHighNoise
from softmix.denoiser.wrap import Wrapped
from softmix.net import Net
from softmix.oracle.two_laws import BetweenPosterior
from softmix.posterior import Posterior
from softmix.process import Gaussian, Interpolant, Noised

# one time for all items, or one for each; for two clocks a pair of times
Time = Float[Tensor, ""] | Float[Tensor, "batch"] | Float[Tensor, "1 2"] | Float[Tensor, "batch 2"] | float | int
Label = Int[Tensor, "batch"] | None

contract = jaxtyped(typechecker=beartype)


@contract
def noise(
    x0: Float[Tensor, "batch *item"],
    t: Time,
    xt: Float[Tensor, "batch *item"],
    z: Float[Tensor, "batch *item"],
    times: Float[Tensor, "batch"] | Float[Tensor, "batch 2"],
) -> None:
    """Process.noise"""


@contract
def bridge(
    xt: Float[Tensor, "batch *item"],
    x0: Float[Tensor, "batch *item"],
    t: Time,
    s: Time,
    xs: Float[Tensor, "batch *item"],
) -> None:
    """Process.bridge"""


@contract
def mean(value: Float[Tensor, "batch *item"]) -> None:
    """Posterior.mean"""


@contract
def log_prob(x0: Float[Tensor, "batch *item"], value: Float[Tensor, "batch"]) -> None:
    """Posterior.log_prob"""


@contract
def net(
    x: Float[Tensor, "batch c *size"],
    logsnr: Float[Tensor, ""] | Float[Tensor, "batch"] | Float[Tensor, "batch 2"],
    label: Label,
    value: Float[Tensor, "batch d *size"],
) -> None:
    """Net.forward"""


@contract
def denoiser(xt: Float[Tensor, "batch *item"], t: Time, cond: Label, value: Posterior) -> None:
    """Denoiser.__call__"""


def _noise(self: Any, x0: Tensor, t: Any, rng: Any, cond: Any = None, *, out: Noised) -> None:
    noise(x0, t, out.xt, out.z, out.t)


def _bridge(
    self: Any, xt: Tensor, x0: Tensor, t: Any, s: Any, rng: Any, cond: Any = None, eta: float = 1.0, *, out: Tensor
) -> None:
    bridge(xt, x0, t, s, out)


def _mean(self: Any, *, out: Tensor) -> None:
    mean(out)


def _log_prob(self: Any, x0: Tensor, *, out: Tensor) -> None:
    log_prob(x0, out)


def _net(self: Any, x: Tensor, logsnr: Tensor, label: Tensor | None = None, *, out: Tensor) -> None:
    net(x, logsnr, label, out)


def _denoiser(self: Any, xt: Tensor, t: Any, cond: Any = None, to: Any = None, *, out: Any) -> None:
    # diffusers models take further conditions by keyword
    denoiser(xt, t, cond if isinstance(cond, Tensor) else None, out)


Check = Callable[..., None]


def kinds(top: type) -> set[type]:
    """A class and all its subclasses."""
    return {top, *(each for child in top.__subclasses__() for each in kinds(child))}


def methods() -> list[tuple[type, str, Check]]:
    """Every method of softmix's own classes that has a contract."""
    named: list[tuple[set[type], str, Check]] = [
        (kinds(Gaussian) | kinds(Interpolant), "noise", _noise),
        (kinds(Gaussian) | kinds(Interpolant), "bridge", _bridge),
        (kinds(Posterior), "mean", _mean),
        (kinds(Posterior), "log_prob", _log_prob),
        (kinds(Net), "forward", _net),
        (kinds(Network) | kinds(SoftAtHighNoise), "forward", _denoiser),
        (kinds(Wrapped) | {ExactData, ExactMixture, BetweenPosterior}, "__call__", _denoiser),
    ]
    return [
        (each, name, check)
        for classes, name, check in named
        for each in sorted(classes, key=lambda kind: kind.__qualname__)
        if each.__module__.startswith("softmix.") and name in vars(each)
    ]


def checked(method: Any, check: Check) -> Any:
    """A method, or a property, that checks its contract after each call."""
    if isinstance(method, property):
        return property(checked(method.fget, check))

    @functools.wraps(method)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        out = method(self, *given, **named)
        check(self, *given, **named, out=out)
        return out

    return call


@contextmanager
def held() -> Iterator[list[tuple[type, str, Check]]]:
    """Install the contracts on all methods. A violation raises jaxtyping.TypeCheckError."""
    found = methods()
    before = [(each, name, vars(each)[name]) for each, name, _ in found]
    for each, name, check in found:
        if not getattr(vars(each)[name], "__isabstractmethod__", False):
            setattr(each, name, checked(vars(each)[name], check))
    try:
        yield found
    finally:
        for each, name, method in before:
            setattr(each, name, method)
