"""Wraps, which take a denoiser and give one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, Cond, CondSpec, as_cond
from ..posterior import HasMean, Implicit, Joint, Point, Posterior, combined, need
from ..process import Framed, Process
from ..rng import Rng
from .contract import Denoiser, Suits, Wrap
from .network import Network

# by which a logsnr that was computed may differ from the number that it is
_ROUNDING = 1e-5

# the last is a Cond, a tensor or None; a function may take fewer of them
Call = Callable[[Denoiser, Tensor, "Tensor | float", Any], Posterior]


class Wrapped:
    """A denoiser made of another and a function (inner, xt, t, cond) -> posterior.

    For a denoiser of two times, `inner` is the one that goes to the second time asked for.
    """

    def __init__(self, inner: Denoiser, call: Call):
        self.inner, self._call = inner, call

    @property
    def process(self) -> Process:
        return self.inner.process

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        return self._call(self.inner if to is None else with_target_time(to)(self.inner), xt, t, cond)

    def __getattr__(self, name: str) -> object:
        # what a wrap does not say is said by the denoiser inside: shape, classes. A copy has no inside at first.
        if "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)


class CallCounter(Wrapped):
    """Counts how often the denoiser is called (`calls`) and for how many items in all (`items`)."""

    def __init__(self, inner: Denoiser):
        super().__init__(inner, self._count)
        self.calls = self.items = 0

    def _count(self, inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
        self.calls += 1
        self.items += len(xt)
        return inner(xt, t, cond)


def with_target_time(to: Tensor | float) -> Wrap:
    """A denoiser of two times with its second time fixed."""

    def wrap(denoiser: Denoiser) -> Denoiser:
        return Wrapped(denoiser, lambda inner, xt, t, cond: inner(xt, t, cond, to=to))  # type: ignore[call-arg]

    return wrap


class SoftAtHighNoise(nn.Module):
    """Soft where noise is high, up to logsnr = `until`, and a point at the network's own mean where it is low.

    Where noise is high a step decides what the image is of, and only a draw can; where it is low the posterior is
    close to one narrow Gaussian, and a mean and a good solver do as well for less. Raises ValueError for a batch with
    times on both sides.
    """

    suits: ClassVar[Suits] = ("soft-adams", {})

    def __init__(self, soft: Network, until: float):
        super().__init__()
        self.soft, self.until = soft, until
        self.process, self.shape, self.classes = soft.process, soft.shape, soft.classes

    @property
    def cond(self) -> CondSpec:
        """The conditions that it was built for."""
        return self.soft.cond

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        soft = self.process.logsnr(t) <= self.until
        if soft.any() and not soft.all():
            raise ValueError("a belief that is soft at some noise levels only needs one time for the whole batch")
        if soft.all():
            return cast(Posterior, self.soft(xt, t, cond))
        return Point(need(self.soft(xt, t, cond), HasMean, "a staged belief").mean)


def averaged(n: int, seed: int = 0) -> Wrap:
    """Gives an implicit posterior, alone or as a part of a Joint, a mean: the average of its head over n fixed latents.

    The latents are the same for every item and every call, so that the mean is a smooth function of x_t,
    as an ODE sampler needs. Costs n heads for each evaluation of the trunk; its error falls as n^(-1/2).
    """
    if n < 1:
        raise ValueError(f"an average of {n} draws was asked for; take at least 1")

    def change(posterior: Posterior[Any]) -> Posterior[Any]:
        if isinstance(posterior, Joint):
            return posterior.map_parts(change)
        if not isinstance(posterior, Implicit):
            return posterior
        return posterior.averaged(Rng(seed, n, "averaged").normal((n, *posterior.latent_shape), posterior.dtype))

    return adjusted(lambda posterior, xt, t: change(posterior))


GuidanceRule = Callable[[Tensor, Tensor], Tensor]


def classifier_free(scale: float) -> GuidanceRule:
    """u + scale (c - u) of the conditional estimate c and the unconditional u.

    scale 1 is no guidance: it is w + 1 of Ho & Salimans 2022.
    """
    return lambda conditional, unconditional: unconditional + scale * (conditional - unconditional)


def guided(
    rule: GuidanceRule | float, unconditional: Cond | Tensor | None = None, drop: str | Sequence[str] | None = None
) -> Wrap:
    """Guidance by a rule that joins what is believed with the condition and with less of it.

    Give one of the two, or none: then all that is given is dropped.

    drop : the parts, or the labels by their names, that the second question goes without: ("label",), ("image",
        "context"), ("shoe",). Wraps of several parts combine: guided(2, drop="image")(guided(5, drop="label")(model)).
    unconditional : the condition that stands for none, [1, ...]. For text, the embedding of "" or of a negative
        prompt.
    rule : a function of two estimates of x0, or a number for `classifier_free`. It acts on the means; on an implicit
        posterior it acts on draws with the same latent, so that the mixture survives; on a Categorical or ValuedCategorical on
        the log-probabilities, and on a Joint part by part. Of any other only the mean is left.

    Raises ValueError without a condition, for parts that are not given, and for an embedding without `unconditional`.
    """
    join = classifier_free(float(rule)) if isinstance(rule, int | float) else rule
    names = (drop,) if isinstance(drop, str) else drop
    if names is not None and (unconditional is not None or not names):
        raise ValueError(
            "guidance goes without the parts in drop, at least one, or has unconditional in place of the condition"
        )

    def wrap(denoiser: Denoiser) -> Denoiser:
        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
            if cond is None or (isinstance(cond, Cond) and not cond.parts):
                raise ValueError("guidance needs a condition to guide to: give cond, for example class labels")
            less = _in_place_of(cond, unconditional) if unconditional is not None else _without(cond, names, inner)
            other = _elsewhere(denoiser.process, xt, t, cond, less)
            return combined(inner(xt, t, cond), inner(other, t, less), join, "guidance")

        return Wrapped(denoiser, call)

    return wrap


def _elsewhere(process: Process, xt: Tensor, t: Tensor | float, cond: Any, other: Any) -> Tensor:
    """The state that is for another condition what xt is for this one: the same in the frame, if there is one."""
    if not isinstance(process, Framed):
        return xt
    return process.leave(process.enter(xt, t, cond), t, other)


def _in_place_of(cond: Cond | Tensor, unconditional: Cond | Tensor) -> Cond | Tensor:
    """`unconditional`, a row for each of the condition's, where they are."""
    if len(unconditional) not in (1, len(cond)):
        raise ValueError(
            f"what stands for none has {len(unconditional)} rows, and the condition {len(cond)}: give one, or as many"
        )
    if isinstance(unconditional, Cond):
        return unconditional.to(_device(cond)).expand(len(cond))
    if isinstance(cond, Cond):
        raise ValueError(
            "the condition is a Cond and what stands for none is a tensor: give unconditional as a Cond too"
        )
    return unconditional.to(cond).expand_as(cond)


def _device(cond: Cond | Tensor) -> torch.device:
    return cond.device if isinstance(cond, Tensor) else next(getattr(cond, part).device for part in cond.parts)


def _without(cond: Cond | Tensor, names: Sequence[str] | None, denoiser: Denoiser) -> Cond | Tensor:
    """The condition without these parts and labels, or without any; a tensor of labels stays one."""
    if not isinstance(cond, Cond) and cond.is_floating_point():
        raise ValueError("what stands for no condition beside an embedding? Give unconditional, for text that of ''")
    if not isinstance(cond, Cond) and names is None:
        return torch.full_like(cond, -1)
    given = cast(Cond, as_cond(cond))
    less = given.without(given.parts if names is None else names, getattr(denoiser, "cond", UNCONDITIONED))
    return less if isinstance(cond, Cond) else cast(Tensor, less.label)


def autoguided(weak: Denoiser, scale: float) -> Wrap:
    """Guidance away from a weaker version of the same model: weak + scale (strong - weak); scale 1 is no guidance.

    What both do wrong the weak one does more, and what is left out goes with it; no condition is needed. The weak one
    is smaller, or trained less, on the same task: an early checkpoint, or the raw weights of one.
    Source: Karras et al., "Guiding a diffusion model with a bad version of itself", NeurIPS 2024, eq. 3.
    """
    return lambda denoiser: _Autoguided(denoiser, weak, classifier_free(scale))


class _Autoguided(Wrapped):
    """Both are asked the same, which for denoisers of two times is where to go as well."""

    def __init__(self, inner: Denoiser, weak: Denoiser, join: GuidanceRule):
        super().__init__(inner, lambda strong, *asked: strong(*asked))
        self.weak, self.join = weak, join

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        first, second = (each if to is None else with_target_time(to)(each) for each in (self.inner, self.weak))
        return combined(first(xt, t, cond), second(xt, t, cond), self.join, "autoguidance")


def adjusted(change: Callable[[Posterior, Tensor, Tensor | float], Posterior]) -> Wrap:
    """A function of one's own on what is believed: change(posterior, xt, t) -> posterior.

    For example a mean kept in the data's range: `adjusted(lambda p, xt, t: Point(p.mean.clamp(-1, 1)))`.
    """

    def wrap(denoiser: Denoiser) -> Denoiser:
        return Wrapped(denoiser, lambda inner, xt, t, cond: change(inner(xt, t, cond), xt, t))

    return wrap


def mean_only(denoiser: Denoiser) -> Denoiser:
    """Keeps the mean of what is believed, as a `Point`: what a usual diffusion model knows.

    A control for whatever a belief knows beside its mean. Raises TypeError, when asked, for a belief without one.
    """
    return adjusted(lambda posterior, xt, t: Point(need(posterior, HasMean, "mean_only").mean))(denoiser)


def covers(low: float, high: float, logsnr: Tensor) -> Tensor:
    """Whether low <= logsnr <= high, to within rounding: an end that is a level of the grid is inside."""
    return (logsnr >= low - _ROUNDING) & (logsnr <= high + _ROUNDING)


def within(low: float, high: float, wrap: Wrap) -> Wrap:
    """`wrap` where low <= logsnr(t) <= high (`covers`), and the bare denoiser elsewhere.

    Guidance in an interval of noise levels (Kynkaanniemi et al. 2024): stated in logsnr, it does not move
    when the number of steps changes. Outside the interval only one evaluation is spent.
    """

    def both(denoiser: Denoiser) -> Denoiser:
        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
            logsnr = denoiser.process.logsnr(t)
            inside = covers(low, high, logsnr)
            if inside.any() and not inside.all():
                raise ValueError("an interval of guidance needs one time for the whole batch")
            return (wrap(inner) if inside.all() else inner)(xt, t, cond)

        return Wrapped(denoiser, call)

    return both
