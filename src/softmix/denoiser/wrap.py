"""The room of denoisers: wraps, which take a denoiser and give one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..posterior import HasMean, Implicit, Joint, Point, Posterior, joined, need
from ..process import Framed, Process
from ..rng import Rng
from .contract import Denoiser, Suits, Wrap
from .network import Network

# by which a logsnr that was computed may differ from the number that it is
_ROUNDING = 1e-5

Call = Callable[[Denoiser, Tensor, "Tensor | float", "Tensor | None"], Posterior]


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
        self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        return self._call(self.inner if to is None else towards(to)(self.inner), xt, t, cond)

    def __getattr__(self, name: str) -> object:
        # what a wrap does not say is said by the denoiser inside: shape, classes. A copy has no inside at first.
        if "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)


class Counted(Wrapped):
    """Counts how often the denoiser is called (`calls`) and for how many items in all (`items`)."""

    def __init__(self, inner: Denoiser):
        super().__init__(inner, self._count)
        self.calls = self.items = 0

    def _count(self, inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Tensor | None) -> Posterior:
        self.calls += 1
        self.items += len(xt)
        return inner(xt, t, cond)


def towards(to: Tensor | float) -> Wrap:
    """A denoiser of two times with its second time fixed."""

    def wrap(denoiser: Denoiser) -> Denoiser:
        return Wrapped(denoiser, lambda inner, xt, t, cond: inner(xt, t, cond, to=to))  # type: ignore[call-arg]

    return wrap


class Staged(nn.Module):
    """Soft where noise is high, up to logsnr = `until`, and a point at the network's own mean where it is low.

    Where noise is high a step decides what the image is of, and only a draw can; where it is low the posterior is
    close to one narrow Gaussian, and a mean and a good solver do as well for less. Raises ValueError for a batch with
    times on both sides.
    """

    suits: ClassVar[Suits] = ("soft-adams", {})

    def __init__(self, soft: Network, until: float):
        super().__init__()
        self.soft, self.until = soft, until
        self.process, self.shape, self.cond, self.classes = soft.process, soft.shape, soft.cond, soft.classes

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
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
            return posterior.changed(change)
        if not isinstance(posterior, Implicit):
            return posterior
        return posterior.averaged(Rng(seed, n, "averaged").normal((n, *posterior.latent_shape), posterior.dtype))

    return adjusted(lambda posterior, xt, t: change(posterior))


Rule = Callable[[Tensor, Tensor], Tensor]


def classifier_free(scale: float) -> Rule:
    """told, untold -> untold + scale (told - untold); scale 1 is no guidance (Ho & Salimans 2022, their w + 1)."""
    return lambda told, untold: untold + scale * (told - untold)


def guided(rule: Rule | float, untold: Tensor | None = None) -> Wrap:
    """Guidance by a rule that joins what is believed with the condition and without it.

    untold : the condition that stands for none, [1, ...]; by default the label -1. For text, the embedding of "", or
    of what the picture should not be. rule : a function of two estimates of x0, or a number for `classifier_free`. It
    acts on the means; on an implicit posterior it acts on draws with the same latent, so that the mixture survives; on
    a Categorical or Levels on the log-probabilities, and on a Joint part by part. Of any other only the mean is left.
    """
    join = classifier_free(float(rule)) if isinstance(rule, int | float) else rule

    def wrap(denoiser: Denoiser) -> Denoiser:
        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Tensor | None) -> Posterior:
            if cond is None:
                raise ValueError("guidance needs a condition to guide to: give cond, for example class labels")
            if untold is None and cond.is_floating_point():
                raise ValueError("what stands for no condition beside an embedding? Give untold, for text that of ''")
            nothing = torch.full_like(cond, -1) if untold is None else untold.to(cond).expand_as(cond)
            other = _elsewhere(denoiser.process, xt, t, cond, nothing)
            return joined(inner(xt, t, cond), inner(other, t, nothing), join, "guidance")

        return Wrapped(denoiser, call)

    return wrap


def _elsewhere(process: Process, xt: Tensor, t: Tensor | float, cond: Tensor, other: Tensor) -> Tensor:
    """The state that is for another condition what xt is for this one: the same in the frame, if there is one."""
    if not isinstance(process, Framed):
        return xt
    return process.leave(process.enter(xt, t, cond), t, other)


def autoguided(weak: Denoiser, scale: float) -> Wrap:
    """Guidance away from a weaker version of the same model: weak + scale (strong - weak); scale 1 is no guidance.

    What both do wrong the weak one does more, and what is left out goes with it; no condition is needed. The weak one
    is smaller, or trained less, on the same task: an early checkpoint, or the raw weights of one.
    Source: Karras et al., "Guiding a diffusion model with a bad version of itself", NeurIPS 2024, eq. 3.
    """
    return lambda denoiser: _Autoguided(denoiser, weak, classifier_free(scale))


class _Autoguided(Wrapped):
    """Both are asked the same, which for denoisers of two times is where to go as well."""

    def __init__(self, inner: Denoiser, weak: Denoiser, join: Rule):
        super().__init__(inner, lambda strong, *asked: strong(*asked))
        self.weak, self.join = weak, join

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        first, second = (each if to is None else towards(to)(each) for each in (self.inner, self.weak))
        return joined(first(xt, t, cond), second(xt, t, cond), self.join, "autoguidance")


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
        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Tensor | None) -> Posterior:
            logsnr = denoiser.process.logsnr(t)
            inside = covers(low, high, logsnr)
            if inside.any() and not inside.all():
                raise ValueError("an interval of guidance needs one time for the whole batch")
            return (wrap(inner) if inside.all() else inner)(xt, t, cond)

        return Wrapped(denoiser, call)

    return both
