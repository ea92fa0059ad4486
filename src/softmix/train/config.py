"""The room of training: everything that a run depends on, as frozen dataclasses that become config.json."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

from ..data import Origin
from ..denoiser import Denoiser, MapHead, MixtureHead, NormalHead, Output, PointHead, PublishedSMD, SoftHead, Staged
from ..loss import Consistency, Energy, FeatureEnergy, Likelihood, LossSpec, MeanFlow, PublishedSquare, Square
from ..net import MLPSpec, NetSpec, UNetSpec
from ..process import VE, VP, Flow
from ..sampler import Sampler, adams, ancestral, ddim, renoise, soft_adams

HeadSpec = PointHead | MapHead | NormalHead | MixtureHead | SoftHead | PublishedSMD


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)


@dataclass(frozen=True)
class Times:
    """Which times are trained on: t uniform in [low, 1], logsnr uniform between the two numbers given, or logsnr
    normal with the two as mean and standard deviation.

    Item k of a run has the k-th point of a golden-ratio sequence, so that every batch covers the range evenly.
    """

    by: Literal["t", "logsnr", "normal"] = "t"
    low: float = 1e-3
    logsnr: tuple[float, float] = (-10.0, 10.0)

    def __post_init__(self) -> None:
        a, b = self.logsnr
        _demand(0 <= self.low < 1, f"times begin at low, 0 <= low < 1; found {self.low}")
        _demand(self.by != "logsnr" or a < b, f"logsnr runs from a smaller number to a larger; found {a}, {b}")
        _demand(self.by != "normal" or b > 0, f"the standard deviation of logsnr is above 0; found {b}")


@dataclass(frozen=True)
class Optimiser:
    """AdamW. The rate rises over `warmup` steps and falls linearly to 0 over the last `decay` of the run.
    clip : the largest gradient norm. accumulate : parts that a batch is computed in, to save memory."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 100
    decay: float = 0.5
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        _demand(self.rate > 0, f"the rate is above 0; found {self.rate}")
        _demand(all(0 <= beta < 1 for beta in self.betas), f"each beta is in [0, 1); found {self.betas}")
        _demand(self.weight_decay >= 0, f"weight_decay is at least 0; found {self.weight_decay}")
        _demand(self.warmup >= 0, f"warmup is at least 0; found {self.warmup}")
        _demand(0 <= self.decay <= 1, f"decay is a share of the run, from 0 to 1; found {self.decay}")
        _demand(self.clip > 0, f"clip is above 0; found {self.clip}")
        _demand(self.accumulate >= 1, f"accumulate is at least 1; found {self.accumulate}")


@dataclass(frozen=True)
class Config:
    """A run. `steps` or `minutes` says how long; with minutes, the number of steps is set from the speed of the
    first ones and written down, so that a run that is continued ends where it would have.

    classes : train with labels, if the data have them, left out for a share `drop` of the items.
    output, head, net, loss, process : the model, see their rooms.
    ema : relative widths of the averages of the weights; the first is what sampling takes.
    precision : bf16 autocast where the machine computes in it, by default. compile : torch.compile.
    save, show : steps between checkpoints and between sample grids (0: a tenth of the run).
    nonfinite : what a loss that is not finite does: stop, skip the step, or roll back to the last checkpoint.
    """

    process: VP | VE | Flow = field(default_factory=VP)
    net: NetSpec = field(default_factory=UNetSpec)
    head: HeadSpec = field(default_factory=SoftHead)
    loss: LossSpec = field(default_factory=Energy)
    output: Output = "v"
    times: Times = field(default_factory=Times)
    optimiser: Optimiser = field(default_factory=Optimiser)
    batch: int = 128
    steps: int | None = None
    minutes: float | None = None
    classes: bool = False
    drop: float = 0.1
    ema: tuple[float, ...] = (0.05, 0.1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    seed: int = 0
    save: int = 0
    show: int = 0
    keep: int = 2
    nonfinite: Literal["stop", "skip", "rollback"] = "stop"

    def __post_init__(self) -> None:
        _demand(self.batch >= 1, f"the batch has at least 1 item; found {self.batch}")
        _demand(self.steps is None or self.steps >= 1, f"training takes at least 1 step; found {self.steps}")
        _demand(self.minutes is None or self.minutes > 0, f"minutes are above 0; found {self.minutes}")
        _demand(0 <= self.drop <= 1, f"drop is a share of the items, from 0 to 1; found {self.drop}")
        _demand(self.save >= 0 and self.show >= 0, f"save and show are at least 0; found {self.save}, {self.show}")
        _demand(self.keep >= 1, f"at least 1 checkpoint is kept; found {self.keep}")
        _demand(len(self.ema) > 0, "sampling takes the first average of the weights: give at least one width in ema")
        head, loss = type(self.head).__name__, type(self.loss).__name__
        if isinstance(self.loss, FeatureEnergy) and not (isinstance(self.head, SoftHead) and self.head.mean == "own"):
            raise ValueError(f'the loss {loss} needs a SoftHead with mean = "own"; the head is {head}')
        if isinstance(self.loss, MeanFlow) and not (isinstance(self.head, MapHead) and isinstance(self.process, Flow)):
            raise ValueError(
                f"the loss {loss} needs a MapHead and the process Flow; found {head} and {type(self.process).__name__}"
            )


@dataclass(frozen=True)
class Facts:
    """What was found when the run began and holds for all of it.

    lanes : the pieces that a batch is computed in at the same time, one on each core; part of the recipe, since
    they decide the order of sums, and which items a score over pairs may compare. 1 for points and on an accelerator.
    origin : where the data came from and how they were read; None if they were not loaded by `softmix.data.load`.
    """

    data: str
    fingerprint: str
    count: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    data_sd: float
    precision: Literal["bf16", "fp32"]
    steps: int | None
    version: str
    lanes: int = 1
    origin: Origin | None = None


@dataclass(frozen=True)
class Run:
    """config.json: what was asked for and what was found."""

    config: Config
    facts: Facts


def suited(config: Config, denoiser: Denoiser | None = None) -> Sampler:
    """The sampler that suits a model: `adams` for one that knows a mean, `ancestral` for one that draws,
    `soft_adams` for one that draws where noise is high, `renoise` for a consistency model, DDIM for a flow map.

    For soft mixtures everywhere with eta = 0: from an exact posterior every eta is as good, but a learned one's
    draws are not yet sharp, and fresh noise in each step then shows (docs/choose-a-sampler.md).
    """
    if isinstance(denoiser, Staged):
        return soft_adams
    if isinstance(config.loss, Consistency):
        return renoise
    if isinstance(config.head, MapHead):
        return ddim
    if isinstance(config.head, PointHead):
        return adams
    return partial(ancestral, eta=0.0) if isinstance(config.head, SoftHead) else ancestral


Model = Literal["smd", "plain", "published", "mixture", "normal", "consistency", "meanflow"]
MODELS: tuple[Model, ...] = get_args(Model)


def preset(model: Model, shape: tuple[int, ...]) -> Config:
    """A configuration that is a good start for items of this shape, on an ordinary machine.

    smd : soft mixture; of points by the energy score, of images first by its mean and then, at high noise, by the
    energy score in pixels and features (`FeatureEnergy`). plain : the usual diffusion model. published : SMD's form
    and loss as published, which collapses. mixture : an explicit Gaussian mixture. normal : one Gaussian.
    consistency, meanflow : flow maps trained for few steps, the rivals.
    """
    soft = SoftHead(mean="none")
    base = Config(net=_net(shape), head=soft, loss=Energy(m=2, weight="v"), batch=256 if len(shape) == 1 else 64)
    if len(shape) == 1:
        base = replace(base, optimiser=Optimiser(rate=2e-3), precision="fp32")
    else:
        base = replace(base, head=SoftHead(), loss=FeatureEnergy())
    if model == "plain":
        return replace(base, head=PointHead(), loss=Square("v"))
    if model == "published":
        return replace(base, head=PublishedSMD(), loss=PublishedSquare())
    if model == "mixture":
        return replace(
            base,
            head=MixtureHead(8, "pixel") if len(shape) > 1 else MixtureHead(64, "item"),
            loss=Likelihood(0.5 if len(shape) > 1 else 0.9),
        )
    if model == "consistency":
        # the authors' process, up to sigma = 80, and noise levels, whose data have a standard deviation of 0.5
        times = Times("normal", logsnr=(1.5, 4.0))
        return replace(base, process=VE(), head=PointHead(), loss=Consistency(), output="edm", times=times)
    if model == "meanflow":
        # logit(t) ~ N(-0.4, 1): logsnr is -2 logit(t)
        times = Times("normal", logsnr=(0.8, 2.0))
        return replace(base, process=Flow(), head=MapHead(), loss=MeanFlow(), output="flow", times=times)
    if model == "normal":
        return replace(base, head=NormalHead(), loss=Likelihood())
    return base


def _net(shape: tuple[int, ...]) -> NetSpec:
    if len(shape) == 1:
        return MLPSpec()
    if max(shape[1:]) <= 16:
        return UNetSpec(width=32, depth=1, patch=1)
    return UNetSpec(width=64, depth=1, patch=2)
