"""A denoiser of two clocks as a denoiser of one: the pair on a leg of a path, or one signal given the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cond import Cond, as_cond
from ..posterior import HasMean, Point, Posterior, need, part_of
from ..process import Gaussian, Leg, TwoClocks
from ..process.numbers import as_float64
from ..process.two_clocks import STREAMS
from ..rng import Rng
from .contract import Denoiser, Wrap
from .wrap import Wrapped

# the time of the other signal, from the time of the signal that is asked for
Pace = Callable[[Tensor], Tensor]


def clocks_of(denoiser: Denoiser, who: str) -> TwoClocks:
    """The two clocks of a denoiser. Raises TypeError for a denoiser of one clock."""
    process = denoiser.process
    if not isinstance(process, TwoClocks):
        raise TypeError(
            f"{who} needs a model of two signals with a time each, and found one of {type(process).__name__}: train "
            "one by the task DenoisePair"
        )
    return process


class _View:
    """A denoiser of one time over one of two."""

    def __init__(self, inner: Denoiser, who: str):
        self.inner, self.clocks = inner, clocks_of(inner, who)

    def __getattr__(self, name: str) -> object:
        # other attributes (cond, classes, parameters) are those of the inner denoiser
        if "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)


class OnPath(_View):
    """The pair on a leg on which both signals move: (z_t, u) -> q(x0, y0 | z_t) at the times of the leg at u.

    Its process is the plain base on the diagonal, so that every sampler serves, and `OnLeg` elsewhere.
    """

    def __init__(self, inner: Denoiser, leg: Leg):
        super().__init__(inner, "a path")
        if len(leg.moving) < 2:
            raise ValueError(f"from {leg.first} to {leg.last} one signal is held: take `given`")
        self.leg = leg

    @property
    def process(self) -> Gaussian:
        return self.leg.process(self.clocks)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        return self.inner(xt, self.leg.times(t).to(xt.device), cond)


def given(stream: int, held: float = 0.0) -> Wrap:
    """One signal, with the other one as its condition: q(x0 | x_t, y_t') for stream 0, q(y0 | y_t, x_t') for stream 1.

    stream : the signal that is asked for.
    held : t', the time of the other signal. At 0 the other signal is clean.

    The other signal is the image of the condition, or its value for points. The result is a plain denoiser of one
    signal with a plain process: every sampler and every measurement serves. The other signal is not touched.

    Raises TypeError for a denoiser of one clock, ValueError without the other signal.
    When to choose: to use a joint model as a conditional one.
    Source: Li et al., ICLR 2025.
    """
    return lambda denoiser: Given(denoiser, stream, lambda t: torch.full_like(t, held))


def guided_by_other(scale: float, rng: Rng) -> Wrap:
    """Guidance between the two signals of a model of two clocks:

        x_hat = E[x0 | x_t] + scale (E[x0 | x_t, y_t'] - E[x0 | x_t]),   and the same for y

    scale : 1 is no guidance; with 0 the two signals do not know of each other.
    rng : of the noise that takes the place of the other signal, at its time 1, in E[x0 | x_t]. It is fresh at each
        question, so that the path of an ODE sampler depends on it.

    The answer is a `Point`. Each question costs three evaluations. The model must know times that differ, (t, 1) and
    (1, t'): one that was trained with independent times.
    When to choose: for pairs, or a signal given the other, that agree more clearly. They vary less. `along` has it as
    `guidance`.
    Source: Li et al., ICLR 2025: their difference of joint and separate estimates.
    """

    def wrap(denoiser: Denoiser) -> Denoiser:
        clocks = clocks_of(denoiser, "guided_by_other")

        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
            together = need(inner(xt, t, cond), HasMean, "guided_by_other").mean
            guided = []
            for stream in range(2):
                parts = [clocks.part(xt, each) for each in range(2)]
                times = clocks.pairs(t, len(xt)).to(xt.device).clone()
                times[:, 1 - stream] = 1.0
                parts[1 - stream] = clocks.base.prior(tuple(parts[1 - stream].shape), rng).to(xt)
                apart = need(inner(clocks.joined(*parts), times, cond), HasMean, "guided_by_other").mean
                own, alone = (clocks.part(each, stream) for each in (together, apart))
                guided.append(alone + scale * (own - alone))
            return Point(clocks.joined(*guided))

        return Wrapped(denoiser, call)

    return wrap


class Given(_View):
    """The result of `given`; and the conditional estimators of Batzolis et al., with a fresh y_t at each call:

        q(x0 | x_t, y) is taken for q(x0 | x_t, y_t'),   y_t' ~ q(y_t' | y),   t' = pace(t)

    pace : t' from t. 0 is CDE, a clean condition; t is CDiffE, a condition with the noise of x_t; between is CMDE, a
        condition that is diffused more slowly (`process.slower`).
    fresh : the noise of y_t'. None: the condition is y_t' itself, and stays as it is.

    The average over y_t' is not the answer for y. Its bias falls with the noise of y_t', and has a closed form for
    Gaussian data (`softmix.recipe.cmde.bias`).
    Source: Batzolis, Stanczuk, Schoenlieb & Etmann, "Conditional image generation with score-based diffusion models",
    2021; sampling/conditional.py of their code.
    """

    def __init__(self, inner: Denoiser, stream: int, pace: Pace, fresh: Rng | None = None):
        super().__init__(inner, "a signal given the other")
        self.stream, self.pace, self.fresh = stream, pace, fresh

    @property
    def process(self) -> Gaussian:
        return self.clocks.base

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an item of the signal that is asked for."""
        shape: tuple[int, ...] = self.inner.shape  # type: ignore[attr-defined]
        return self.clocks.shape_of(shape, self.stream)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        other, rest = self._taken(xt, cond)
        own = as_float64(t).to(xt.device).reshape(-1)
        its = self.pace(own)
        if self.fresh is not None:
            z = self.fresh.normal(other.shape, other.dtype).to(other.device)
            # one time stays a number, and then needs no column
            other = self.clocks.base.state(other, its if len(its) > 1 else its[0], z)
        pair = torch.stack([own, its] if self.stream == 0 else [its, own], 1)
        both = (xt, other) if self.stream == 0 else (other, xt)
        whole = self.inner(self.clocks.joined(*both), pair, rest)
        return part_of(whole, lambda x0: self.clocks.part(x0, self.stream))

    def _taken(self, xt: Tensor, cond: Any) -> tuple[Tensor, Cond | None]:
        """The other signal, and the rest of the condition."""
        given, name = as_cond(cond), self.other_part
        other = None if given is None else getattr(given, name)
        wanted = self.clocks.shape_of(tuple(xt.shape[1:]), 1 - self.stream)
        if other is None or other.shape[1:] != wanted:
            raise ValueError(
                f"{STREAMS[self.stream]} given {STREAMS[1 - self.stream]} was asked for, and the condition needs "
                f"{STREAMS[1 - self.stream]} of shape {list(wanted)} as its {name}; found "
                f"{'none' if other is None else list(other.shape[1:])}"
            )
        assert given is not None
        rest = replace(given, **{name: None})
        return other.to(xt).expand(len(xt), *wanted), rest if rest.parts else None

    @property
    def other_part(self) -> str:
        """The part of the condition that holds the other signal."""
        return "value" if self.clocks.axes == 1 else "image"
