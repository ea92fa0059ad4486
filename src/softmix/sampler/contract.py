"""The contract, and what a sampler says of itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from torch import Tensor

from ..posterior import HasMean, Posterior
from ..process import Gaussian
from ..rng import Rng


@dataclass(frozen=True)
class Ask:
    """A sampler's question: what do you believe here? t : one time for the batch, []; x [B, ...]; to : the
    time that the step goes to, for a denoiser of two times (a flow map), whose answer depends on it."""

    t: Tensor
    x: Tensor
    to: Tensor | None = None


class SamplerError(ValueError):
    """A sampler is asked for what it cannot do: what was asked, and what to take."""


class Sampler(Protocol):
    """From x at the first time of a falling grid to x at its last.

    x is the state of a plain Gaussian process. Of a process with a frame it is the state in the frame, and `process` is
    its base.
    """

    def __call__(self, process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]: ...


@dataclass(frozen=True)
class Traits:
    """name : on the command line. order : global error ~ n^-order, None for a sampler whose law is right for any n if
    the posterior is. needs : what it asks of a posterior. evaluations : how many questions n steps to t = 0
    take, from `least` steps on. grid : the times that suit it for n steps, where they are not the process's own.
    stochastic : it solves the reverse SDE and `order` is that of the law's error; else the probability-flow ODE.
    least : with fewer steps than this, or from pure noise on a grid of another kind, x may leave the data's range
    altogether. per_element : it takes a process with an alpha and a sigma for each element of x, with the same order;
    one that does not say so needs numbers. codes : it makes or replays a `Code`, whose states are those of a plain
    process, so that a process with a frame is entered by `in_frame` and not by the driver. cites : the papers that it
    is from, see `softmix.bibliography`."""

    name: str
    order: int | None
    needs: type[Posterior] = Posterior
    evaluations: Callable[[int], int] = int
    grid: Callable[[Gaussian, int], Tensor] = lambda process, n: process.grid(n)
    stochastic: bool = False
    least: int = 1
    per_element: bool = False
    codes: bool = False
    cites: tuple[str, ...] = ()


_TRAITS: dict[object, Traits] = {}
S = TypeVar("S", bound=Callable[..., object])


def declare(
    name: str,
    order: int | None,
    needs: type[Posterior] = HasMean,
    evaluations: Callable[[int], int] = int,
    grid: Callable[[Gaussian, int], Tensor] = Traits.grid,
    stochastic: bool = False,
    least: int = 1,
    per_element: bool = False,
    codes: bool = False,
    cites: tuple[str, ...] = (),
) -> Callable[[S], S]:
    """Says what a sampler is; the conformance tests hold it to that."""

    def mark(sampler: S) -> S:
        _TRAITS[sampler] = Traits(name, order, needs, evaluations, grid, stochastic, least, per_element, codes, cites)
        return sampler

    return mark


def traits(sampler: object) -> Traits:
    """What a sampler has declared; of a `functools.partial`, what its function has."""
    while isinstance(sampler, partial):
        sampler = sampler.func
    return _TRAITS.get(sampler, Traits(getattr(sampler, "__name__", "sampler"), None))


def able(pick: Callable[[Traits], bool]) -> str:
    """The names of the samplers that have declared so, for a sentence that says what to take."""
    return ", ".join(known.name for known in _TRAITS.values() if pick(known) and not known.codes)


def label(sampler: object) -> str:
    """A sampler's name with what a `functools.partial` has fixed: "ancestral, eta 0"."""
    fixed = sampler.keywords if isinstance(sampler, partial) else {}
    return ", ".join([traits(sampler).name, *(_said(name, value) for name, value in fixed.items())])


def _said(name: str, value: object) -> str:
    if isinstance(value, bool | int | float):
        return f"{name} {value:g}"
    return f"{name} {value}" if isinstance(value, str) else name
