"""Sampling of a model of two clocks along a path of its times, and by the conditional estimators of two speeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..cond import Cond, as_cond
from ..denoiser import Denoiser
from ..denoiser.contract import device_of
from ..denoiser.two_clocks import Given, OnPath, Pace, clocks_of, given, guided_by_other
from ..memory import in_batches
from ..precision import Precision, computing
from ..process import Leg, TimePath, TwoClocks
from ..process.two_clocks import STREAMS
from ..rng import Rng
from ..shape import take
from .contract import Sampler, SamplerError, traits
from .drive import batch_for, drive, finish
from .walk import ancestral

# the state at the end, from the random stream and the slices of the tensors of the caller
_Draw = Callable[[Rng, slice], Tensor]


def along(
    denoiser: Denoiser,
    path: TimePath,
    n: int,
    steps: int = 8,
    *,
    sampler: Sampler = ancestral,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
    x: Tensor | None = None,
    y: Tensor | None = None,
    cond: Cond | Tensor | None = None,
    guidance: float = 1.0,
    batch: int | None = None,
    first: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
) -> tuple[Tensor, Tensor]:
    """Draw n pairs (x, y), by a model of two clocks, along a path of (t_x, t_y).

    denoiser : the model, with a process `TwoClocks`.
    path : `CONTROL` (x given y), `ESTIMATION` (y given x), `JOINT`, or a `TimePath` of your own.
    n : the number of pairs.
    steps : the number of steps on each leg of the path.
    sampler : any sampler. Each leg is a run of its own, so that a solver uses no mean from before a corner. On a leg on
        which one signal is held the sampler sees the other alone, and the held one does not change at all.
    shape : of one item of the pair; by default that of the model.
    x, y : a clean signal, [n, ...] or [1, ...], if the path begins at a time below 1 for it. It is given the noise of
        this time.
    cond : other conditions, such as labels.
    guidance : the scale of `guided_by_other`, by which the two signals agree more clearly. 1 is none; another one takes
        three times the evaluations, and steps by the mean.
    seed, first, batch, device, precision : as in `sample`.

    A signal at a time above 0 at the end of the path is returned with its noise.

    Raises ValueError for a signal that is missing, or that is given and not used; TypeError for a model of one clock.
    When to choose: for every task of a joint model.
    Source: Li et al., "A simple approach to unifying diffusion-based conditional generation", ICLR 2025.
    """
    clocks, device = clocks_of(denoiser, "along"), _device(denoiser, device)
    shape = _shape(denoiser, shape)
    known = tuple(_known(k, each, path, n, clocks.shape_of(shape, k)) for k, each in enumerate((x, y)))

    def draw(rng: Rng, items: slice) -> Tensor:
        size = len(rng)
        pair = [
            _begun(clocks, each, t, (size, *clocks.shape_of(shape, k)), rng.child(f"begin {STREAMS[k]}"), items)
            for k, (each, t) in enumerate(zip(known, path.start, strict=True))
        ]
        model = denoiser if guidance == 1 else guided_by_other(guidance, rng.child("guidance"))(denoiser)
        rest = cond if cond is None else take(cond, items).to(rng.device)
        for number, leg in enumerate(path.legs):
            pair = _walked(model, clocks, leg, pair, steps, sampler, rng.child(f"leg {number}"), rest)
        return clocks.joined(*pair)

    both = _batches(draw, denoiser, n, shape, batch, seed, first, device, precision)
    return clocks.part(both, 0), clocks.part(both, 1)


def multi_speed(
    denoiser: Denoiser,
    pace: Pace,
    n: int,
    steps: int = 100,
    *,
    y: Tensor,
    sampler: Sampler = ancestral,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
    batch: int | None = None,
    first: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
) -> Tensor:
    """Draw n items x given y by the conditional multi-speed diffusive estimator, CMDE.

        at each question (x_t, t):  y_t' ~ q(y_t' | y) anew,  t' = pace(t);  the answer is that for (x_t, y_t')

    pace : t' from t, at most t: `lambda t: slower(base, ratio, t)`.
    y : the condition, [n, ...] or [1, ...].

    Other parameters are those of `along`. Only x is stepped. The law of x is that given y only in the limit of a clean
    y_t'; see `denoiser.two_clocks.Given`.
    When to choose: to compare estimators of a conditional score. With a model of two clocks `along` with `CONTROL` has
    no bias, and its y needs no noise.
    Source: Batzolis, Stanczuk, Schoenlieb & Etmann, 2021, and their code.
    """
    clocks, device = clocks_of(denoiser, "multi_speed"), _device(denoiser, device)
    shape = _shape(denoiser, shape)
    own, its = (clocks.shape_of(shape, k) for k in (0, 1))
    _require_items("y", y, n, its)

    def draw(rng: Rng, items: slice) -> Tensor:
        view = Given(denoiser, 0, pace, rng.child("fresh y"))
        grid = traits(sampler).grid(clocks.base, _enough(sampler, steps))
        start = clocks.base.prior((len(rng), *own), rng.child("begin x"))
        other = Cond(**{view.other_part: _rows(y, items, rng.device)})
        return finish(drive(view, sampler, start, grid, rng.child("leg 0"), other))

    return _batches(draw, denoiser, n, shape, batch, seed, first, device, precision)


def _walked(
    denoiser: Denoiser,
    clocks: TwoClocks,
    leg: Leg,
    pair: list[Tensor],
    steps: int,
    sampler: Sampler,
    rng: Rng,
    cond: Cond | Tensor | None,
) -> list[Tensor]:
    """The pair at the end of a leg."""
    process = leg.process(clocks)
    grid = leg.grid(traits(sampler).grid(process, _enough(sampler, steps)))
    if len(leg.moving) == 2:
        whole = finish(drive(OnPath(denoiser, leg), sampler, clocks.joined(*pair), grid, rng, cond))
        return [clocks.part(whole, 0), clocks.part(whole, 1)]
    (stream,) = leg.moving
    view = given(stream, leg.last[1 - stream])(denoiser)
    assert isinstance(view, Given)
    known = replace(as_cond(cond) or Cond(), **{view.other_part: pair[1 - stream]})
    moved = finish(drive(view, sampler, pair[stream], grid, rng, known))
    return [moved, pair[1]] if stream == 0 else [pair[0], moved]


def _begun(clocks: TwoClocks, known: Tensor | None, t: float, shape: tuple[int, ...], rng: Rng, items: slice) -> Tensor:
    """A signal at the beginning of a path."""
    if known is None:
        return clocks.base.prior(shape, rng)
    own = _rows(known, items, rng.device).expand(shape)
    return clocks.base.noise(own, t, rng).xt if t > 0 else own


def _known(stream: int, known: Tensor | None, path: TimePath, n: int, shape: tuple[int, ...]) -> Tensor | None:
    """The clean signal of the caller, checked."""
    name, t = STREAMS[stream], path.start[stream]
    if (known is None) != (t == 1):
        raise ValueError(
            f"the path begins at t_{name} = {t:g}: "
            + (f"give {name}, the clean signal" if known is None else f"{name} is pure noise there: leave {name} out")
        )
    if known is not None:
        _require_items(name, known, n, shape)
    return known


def _require_items(name: str, known: Tensor, n: int, shape: tuple[int, ...]) -> None:
    if len(known) not in (1, n) or tuple(known.shape[1:]) != shape:
        raise ValueError(f"{name} was expected as {[n, *shape]} or {[1, *shape]}; found {list(known.shape)}")


def _rows(known: Tensor, items: slice, device: torch.device) -> Tensor:
    """Some rows of a signal of the caller, in the dtype of the noise."""
    return (known if len(known) == 1 else known[items]).to(device, torch.get_default_dtype())


def _enough(sampler: Sampler, steps: int) -> int:
    known = traits(sampler)
    if steps < known.least:
        raise SamplerError(
            f"{known.name} needs {known.least} steps from pure noise, and {steps} on a leg were asked for: take "
            "more, or ddim, adams"
        )
    return steps


def _device(denoiser: Denoiser, device: torch.device | str | None) -> torch.device:
    return torch.device(device_of(denoiser) if device is None else device)


def _shape(denoiser: Denoiser, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    shape = shape or getattr(denoiser, "shape", None)
    if shape is None:
        raise ValueError(f"a {type(denoiser).__name__} has no shape: give the shape of one item of the pair")
    return shape


def _batches(
    draw: _Draw,
    denoiser: Denoiser,
    n: int,
    shape: tuple[int, ...],
    batch: int | None,
    seed: int,
    first: int,
    device: torch.device,
    precision: Precision,
) -> Tensor:
    """`draw` for all items. Item k depends on (seed, first + k) alone."""
    if n < 1:
        raise ValueError(f"{n} items were asked for; take at least 1")

    def some(low: int, high: int) -> Tensor:
        return draw(Rng(seed, range(first + low, first + high), "along", device), slice(low, high))

    with computing(precision, device, denoiser):
        return torch.cat(in_batches(some, n, batch or batch_for(device, shape), "pair"))
