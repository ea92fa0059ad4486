"""The room of samplers: the contract, and what a sampler says of itself."""

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


class Sampler(Protocol):
    """From x at the first time of a falling grid to x at its last."""

    def __call__(self, process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]: ...


@dataclass(frozen=True)
class Traits:
    """name : on the command line. order : global error ~ n^-order for the probability-flow ODE, None for a
    sampler that draws. needs : what it asks of a posterior. evaluations : how many questions n steps to t = 0
    take. grid : the times that suit it for n steps, where they are not the process's own."""

    name: str
    order: int | None
    needs: type[Posterior] = Posterior
    evaluations: Callable[[int], int] = int
    grid: Callable[[Gaussian, int], Tensor] = lambda process, n: process.grid(n)


_TRAITS: dict[object, Traits] = {}
S = TypeVar("S", bound=Callable[..., object])


def declare(
    name: str,
    order: int | None,
    needs: type[Posterior] = HasMean,
    evaluations: Callable[[int], int] = int,
    grid: Callable[[Gaussian, int], Tensor] = Traits.grid,
) -> Callable[[S], S]:
    """Says what a sampler is; the conformance tests hold it to that."""

    def mark(sampler: S) -> S:
        _TRAITS[sampler] = Traits(name, order, needs, evaluations, grid)
        return sampler

    return mark


def traits(sampler: object) -> Traits:
    """What a sampler has declared; of a `functools.partial`, what its function has."""
    while isinstance(sampler, partial):
        sampler = sampler.func
    return _TRAITS.get(sampler, Traits(getattr(sampler, "__name__", "sampler"), None))


def label(sampler: object) -> str:
    """A sampler's name with what a `functools.partial` has fixed: "ancestral, eta 0"."""
    fixed = sampler.keywords if isinstance(sampler, partial) else {}
    return ", ".join([traits(sampler).name, *(f"{name} {value:g}" for name, value in fixed.items())])
