"""Wraps: functions from a denoiser to a denoiser."""

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
from .tuned import require_untuned

# the rounding error of a computed logsnr
_ROUNDING = 1e-5

# the last argument is a Cond, a tensor or None
Call = Callable[[Denoiser, Tensor, "Tensor | float", Any], Posterior]


class Wrapped:
    """A denoiser made of another and a function (inner, xt, t, cond) -> posterior.

    For a denoiser of two times, `inner` is the denoiser with its second time fixed.
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
        # other attributes (shape, classes) are those of the inner denoiser. During copying `inner` is not yet set.
        if "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)


class CallCounter(Wrapped):
    """Counts the calls of a denoiser (`calls`) and the items of all calls (`items`)."""

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
    """The soft mixture at high noise, up to logsnr = `until`, and a point at the network's own mean at low noise.

    At high noise a step decides the content of the image, and this needs a draw. At low noise the posterior is close to
    one narrow Gaussian, and a mean with a good solver is as good and cheaper. Raises ValueError for a batch with times
    on both sides.
    """

    suits: ClassVar[Suits] = ("soft-adams", {})

    def __init__(self, soft: Network, until: float):
        super().__init__()
        self.soft, self.until = soft, until
        self.process, self.shape, self.classes = soft.process, soft.shape, soft.classes

    @property
    def cond(self) -> CondSpec:
        """The conditions of the network."""
        return self.soft.cond

    @property
    def stride(self) -> int:
        """That of the network."""
        return self.soft.stride

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        soft = self.process.logsnr(t) <= self.until
        if soft.any() and not soft.all():
            raise ValueError("SoftAtHighNoise needs one time for the whole batch, or times on one side of `until`")
        if soft.all():
            return cast(Posterior, self.soft(xt, t, cond))
        return Point(need(self.soft(xt, t, cond), HasMean, "SoftAtHighNoise").mean)


def averaged(n: int, seed: int = 0) -> Wrap:
    """Give an implicit posterior, alone or as a part of a Joint, a mean: the average over n fixed latents.

    n : the number of latents.
    seed : of the latents.

    The latents are the same for every item and every call. The mean is then a smooth function of x_t, as an ODE sampler
    needs. It costs n runs of the head for each evaluation of the trunk. Its error falls as n^(-1/2).

    Raises ValueError for n < 1.
    When to choose: to use an ODE sampler with a soft mixture that has no mean of its own.
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
    """u + scale (c - u) for the conditional estimate c and the unconditional estimate u.

    scale : the guidance scale. 1 is no guidance: it is w + 1 of Ho & Salimans 2022.
    """
    return lambda conditional, unconditional: unconditional + scale * (conditional - unconditional)


def guided(
    rule: GuidanceRule | float, unconditional: Cond | Tensor | None = None, drop: str | Sequence[str] | None = None
) -> Wrap:
    """Guidance: combine the posterior with the condition and the posterior with less of it.

    rule : a function of two estimates of x0, or the guidance scale of `classifier_free`. It is applied to draws with
        the same latent for an implicit posterior, so that the mixture survives; to the log-probabilities for a
        Categorical or ValuedCategorical; part by part for a Joint. For any other posterior it is applied to the means,
        and the result is a `Point`.
    unconditional : the condition of the second evaluation, [1, ...]. For text, the embedding of "" or of a negative
        prompt.
    drop : the parts, or the labels by their names, that the second evaluation omits: ("label",), ("image", "context"),
        ("shoe",). Wraps of several parts combine: guided(2, drop="image")(guided(5, drop="label")(model)).

    Give one of `unconditional` and `drop`, or neither: then the whole condition is dropped.

    Raises ValueError without a condition, for parts that are not given, for an embedding without `unconditional`, and
    for a `TunedDenoiser`.
    When to choose: for samples that show their condition more clearly. Each step costs two evaluations, and the samples
    vary less.
    """
    combine = classifier_free(float(rule)) if isinstance(rule, int | float) else rule
    names = (drop,) if isinstance(drop, str) else drop
    if names is not None and (unconditional is not None or not names):
        raise ValueError("guidance takes either drop, with at least one part, or unconditional; give one of the two")

    def wrap(denoiser: Denoiser) -> Denoiser:
        require_untuned(denoiser, "guidance")

        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
            if cond is None or (isinstance(cond, Cond) and not cond.parts):
                raise ValueError("guidance needs a condition to guide to: give cond, for example class labels")
            less = _expanded(cond, unconditional) if unconditional is not None else _without(cond, names, inner)
            other = _state_for(denoiser.process, xt, t, cond, less)
            return combined(inner(xt, t, cond), inner(other, t, less), combine, "guidance")

        return Wrapped(denoiser, call)

    return wrap


def _state_for(process: Process, xt: Tensor, t: Tensor | float, cond: Any, other: Any) -> Tensor:
    """The state xt for another condition: the same state in the frame, if there is one."""
    if not isinstance(process, Framed):
        return xt
    return process.leave(process.enter(xt, t, cond), t, other)


def _expanded(cond: Cond | Tensor, unconditional: Cond | Tensor) -> Cond | Tensor:
    """`unconditional` with a row for each row of the condition, on its device."""
    if len(unconditional) not in (1, len(cond)):
        raise ValueError(
            f"unconditional has {len(unconditional)} rows, and the condition {len(cond)}: give one, or as many"
        )
    if isinstance(unconditional, Cond):
        return unconditional.to(_device(cond)).expand(len(cond))
    if isinstance(cond, Cond):
        raise ValueError("the condition is a Cond and unconditional is a tensor: give unconditional as a Cond too")
    return unconditional.to(cond).expand_as(cond)


def _device(cond: Cond | Tensor) -> torch.device:
    return cond.device if isinstance(cond, Tensor) else next(getattr(cond, part).device for part in cond.parts)


def _without(cond: Cond | Tensor, names: Sequence[str] | None, denoiser: Denoiser) -> Cond | Tensor:
    """The condition without these parts and labels, or without any part. A tensor of labels stays a tensor."""
    if not isinstance(cond, Cond) and cond.is_floating_point():
        raise ValueError("guidance of an embedding needs unconditional: for text give the embedding of ''")
    if not isinstance(cond, Cond) and names is None:
        return torch.full_like(cond, -1)
    given = cast(Cond, as_cond(cond))
    less = given.without(given.parts if names is None else names, getattr(denoiser, "cond", UNCONDITIONED))
    return less if isinstance(cond, Cond) else cast(Tensor, less.label)


def autoguided(weak: Denoiser, scale: float) -> Wrap:
    """Guidance by a weaker version of the same model: weak + scale (strong - weak). scale 1 is no guidance.

    weak : a smaller model, or one trained less, on the same task: an early checkpoint, or the raw weights of one.
    scale : the guidance scale.

    Errors that both models make are larger in the weak one, and the extrapolation reduces them. No condition is needed.
    When to choose: for better samples of a model without a condition, or if `guided` costs too much variety.
    Source: Karras et al., "Guiding a diffusion model with a bad version of itself", NeurIPS 2024, eq. 3.
    """
    return lambda denoiser: _Autoguided(denoiser, weak, classifier_free(scale))


class _Autoguided(Wrapped):
    """Both models receive the same arguments, for denoisers of two times the second time too."""

    def __init__(self, inner: Denoiser, weak: Denoiser, rule: GuidanceRule):
        require_untuned(inner, "autoguidance")
        require_untuned(weak, "autoguidance")
        super().__init__(inner, lambda strong, *arguments: strong(*arguments))
        self.weak, self.rule = weak, rule

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        first, second = (each if to is None else with_target_time(to)(each) for each in (self.inner, self.weak))
        own, other = self.inner.process, self.weak.process
        state = xt
        if isinstance(own, Framed) and isinstance(other, Framed) and other is not own:
            # a learned shift differs between the two models, and the state in the frame does not
            state = other.leave(own.enter(xt, t, cond), t, cond)
        return combined(first(xt, t, cond), second(state, t, cond), self.rule, "autoguidance")


def adjusted(change: Callable[[Posterior, Tensor, Tensor | float], Posterior]) -> Wrap:
    """Apply a function to every posterior: change(posterior, xt, t) -> posterior.

    For example, clip the mean to the range of the data: `adjusted(lambda p, xt, t: Point(p.mean.clamp(-1, 1)))`.
    """

    def wrap(denoiser: Denoiser) -> Denoiser:
        return Wrapped(denoiser, lambda inner, xt, t, cond: change(inner(xt, t, cond), xt, t))

    return wrap


def mean_only(denoiser: Denoiser) -> Denoiser:
    """Replace each posterior by a `Point` at its mean: the knowledge of a usual diffusion model.

    When to choose: as a control for everything that a posterior knows beyond its mean. A call raises TypeError for a
    posterior without a mean.
    """
    return adjusted(lambda posterior, xt, t: Point(need(posterior, HasMean, "mean_only").mean))(denoiser)


def covers(low: float, high: float, logsnr: Tensor) -> Tensor:
    """Whether low <= logsnr <= high, to within rounding, so that a grid point on the boundary is inside."""
    return (logsnr >= low - _ROUNDING) & (logsnr <= high + _ROUNDING)


def within(low: float, high: float, wrap: Wrap) -> Wrap:
    """Apply `wrap` for low <= logsnr(t) <= high (`covers`), and use the bare denoiser otherwise.

    Guidance in an interval of noise levels (Kynkaanniemi et al. 2024). An interval of logsnr does not change with the
    number of steps. Outside the interval a step costs one evaluation.
    When to choose: with `guided`, to save evaluations and variety at the other noise levels.
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
