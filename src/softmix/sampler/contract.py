"""The contract of samplers: the question that they ask, and the traits that they declare."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ..posterior import HasMean, Posterior
from ..process import Gaussian
from ..rng import Rng


@dataclass(frozen=True)
class Ask:
    """A question of a sampler: the posterior at (t, x).

    t : one time for the batch, [].
    x : [B, ...].
    to : the time at the end of the step, for a denoiser of two times (a flow map).
    """

    t: Tensor
    x: Tensor
    to: Tensor | None = None


class SamplerError(ValueError):
    """A sampler cannot do this; the sentence names the samplers that can."""


class Sampler(Protocol):
    """A coroutine from x at the first time of a falling grid to x at its last time.

    process : a plain Gaussian process. For a process with a frame it is the base of that process.
    x : the state, [B, ...]. For a process with a frame it is the state in the frame.
    grid : falling times, [n + 1].
    rng : the noise, one stream for each item.

    It yields `Ask(t, x)`, is sent a posterior, and returns x at the last time. It has no state between calls.
    """

    def __call__(self, process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]: ...


@dataclass(frozen=True)
class Traits:
    """The properties that a sampler declares. The conformance tests check them.

    name : on the command line.
    order : the global error falls as n^-order. None for a sampler with exact marginals for any n, given the posterior.
    needs : the ability of the posterior that it needs.
    evaluations : from n steps to t = 0 to the number of evaluations, from `least` steps on.
    grid : the times that suit it, from the process and n; by default the grid of the process.
    stochastic : it solves the reverse SDE, and `order` is that of the error of the law. Else it solves the
        probability-flow ODE.
    least : the least number of steps. With fewer, or from pure noise on another kind of grid, x may leave the range of
        the data altogether.
    per_element : it accepts a process with an alpha and a sigma for each element of x, with the same order. Else it
        needs one alpha and one sigma.
    codes : it makes or replays a `NoiseCode`. The states of a code are those of a plain process, so that the driver
        enters no frame for it; use `in_frame`.
    cites : the names of its papers, see `softmix.bibliography`.
    interpolant : it accepts an `Interpolant` in the place of a Gaussian process.
    tokens : it accepts `Masked` in the place of a Gaussian process.
    numbers : it accepts a Gaussian process. False for a sampler of tokens alone.
    """

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
    interpolant: bool = False
    tokens: bool = False
    numbers: bool = True


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
    interpolant: bool = False,
    tokens: bool = False,
    numbers: bool = True,
) -> Callable[[S], S]:
    """Declare the `Traits` of a sampler, as a decorator."""

    def mark(sampler: S) -> S:
        _TRAITS[sampler] = Traits(
            *(name, order, needs, evaluations, grid, stochastic, least, per_element, codes, cites, interpolant),
            tokens=tokens,
            numbers=numbers,
        )
        return sampler

    return mark


@dataclass(frozen=True)
class OnGrid:
    """A sampler that takes another grid by default. `on_grid` makes one."""

    sampler: Callable[..., Generator[Ask, Posterior, Tensor]]
    grid: Callable[[Gaussian, int], Tensor]

    def __call__(
        self, process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, *more: Any, **fixed: Any
    ) -> Generator[Ask, Posterior, Tensor]:
        return self.sampler(process, x, grid, rng, *more, **fixed)


def on_grid(sampler: Sampler, grid: Callable[[Gaussian, int], Tensor]) -> Sampler:
    """The sampler with another default grid, for functions that choose the grid by its traits.

    grid : one of `softmix.process.GRIDS`, or a function of the process and n with a name, or a partial of one. The name
        is part of the sampler's label, by which saved rows of an evaluation are found.

    `sample(..., grid=times)` takes the times themselves. Raises ValueError for a lambda, which has no name.
    """
    if "<lambda>" in _name_of(grid):
        raise ValueError("on_grid was given a lambda, and the label of the sampler has the name of its grid: use def")
    if isinstance(sampler, partial):
        return partial(OnGrid(sampler.func, grid), *sampler.args, **sampler.keywords)
    return OnGrid(sampler, grid)


def traits(sampler: object) -> Traits:
    """The declared traits of a sampler; of a `functools.partial`, those of its function."""
    while isinstance(sampler, partial):
        sampler = sampler.func
    if isinstance(sampler, OnGrid):
        return replace(traits(sampler.sampler), grid=sampler.grid)
    return _TRAITS.get(sampler, Traits(getattr(sampler, "__name__", "sampler"), None))


def names_with(condition: Callable[[Traits], bool]) -> str:
    """The names of the samplers with these traits, for an error sentence."""
    return ", ".join(known.name for known in _TRAITS.values() if condition(known) and not known.codes)


def label(sampler: object) -> str:
    """The name of a sampler with its grid, if it is another than its own, and the arguments that a `functools.partial`
    fixes: "ancestral, grid karras, eta 0"."""
    fixed = sampler.keywords if isinstance(sampler, partial) else {}
    plain = sampler.func if isinstance(sampler, partial) else sampler
    grid = [f"grid {_name_of(plain.grid)}"] if isinstance(plain, OnGrid) else []
    return ", ".join([traits(sampler).name, *grid, *(_argument(name, value) for name, value in fixed.items())])


def _name_of(grid: object) -> str:
    """The name of a grid, with the arguments that a `functools.partial` fixes."""
    if not isinstance(grid, partial):
        return str(getattr(grid, "__qualname__", grid)).split(".")[-1]
    return " ".join([_name_of(grid.func), *(_argument(name, value) for name, value in grid.keywords.items())])


def _argument(name: str, value: object) -> str:
    if isinstance(value, bool | int | float):
        return f"{name} {value:g}"
    return f"{name} {value}" if isinstance(value, str) else name
