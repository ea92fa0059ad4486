"""The room of training: everything that a run depends on, as frozen dataclasses that become config.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ..denoiser import Denoiser, MapHead, MixtureHead, NormalHead, Output, PointHead, PublishedSMD, SoftHead, Staged
from ..loss import Consistency, Energy, FeatureEnergy, LossSpec, MeanFlow
from ..net import NetSpec, UNetSpec
from ..process import VE, VP, Flow
from ..sampler import Sampler, adams, ancestral, ddim, renoise, soft_adams

HeadSpec = PointHead | MapHead | NormalHead | MixtureHead | SoftHead | PublishedSMD


# far beyond what anyone trains; above them numbers overflow or memory is asked for that no machine has
_BATCH, _STEPS, _MINUTES, _RATE = 2**20, 10**9, 10**7, 10.0


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

    warmup_share : the largest share of the run that the rise may take, so that a short run reaches its rate; None: all.
    clip : the largest gradient norm.
    accumulate : parts that a batch is computed in, one after another, to save memory. Where memory does not suffice
    for a part the run takes more of them (`Facts.parts`).
    """

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 100
    decay: float = 0.5
    clip: float = 1.0
    accumulate: int = 1
    warmup_share: float | None = None

    def __post_init__(self) -> None:
        _demand(0 < self.rate <= _RATE, f"the rate is above 0 and at most {_RATE:g}; found {self.rate}")
        _demand(all(0 <= beta < 1 for beta in self.betas), f"each beta is in [0, 1); found {self.betas}")
        _demand(
            0 <= self.weight_decay * self.rate < 1,
            f"weight_decay is at least 0 and below 1 / rate, or weights would change their sign in every step; found "
            f"{self.weight_decay} at rate {self.rate}",
        )
        _demand(self.warmup >= 0, f"warmup is at least 0; found {self.warmup}")
        _demand(0 <= self.decay <= 1, f"decay is a share of the run, from 0 to 1; found {self.decay}")
        _demand(self.clip > 0, f"clip is above 0; found {self.clip}")
        _demand(1 <= self.accumulate <= _BATCH, f"accumulate is from 1 to {_BATCH:,}; found {self.accumulate}")
        share = self.warmup_share
        _demand(share is None or 0 <= share <= 1, f"warmup_share is a share of the run, from 0 to 1; found {share}")


@dataclass(frozen=True)
class Config:
    """A run. `steps` or `minutes` says how long; with minutes, the number of steps is set from the speed of a few that
    are tried before the first, and written down, so that a run that is continued ends where it would have.

    classes : train with labels, if the data have them, left out for a share `drop` of the items.
    flip : show half of the images mirrored, left for right, another half each time. For images alone, and only where a
    mirrored one could have been among the data: not for digits or writing.
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
    flip: bool = False

    def __post_init__(self) -> None:
        _demand(1 <= self.batch <= _BATCH, f"the batch has at least 1 item and at most {_BATCH:,}; found {self.batch}")
        _demand(
            self.steps is None or 1 <= self.steps <= _STEPS,
            f"training takes at least 1 step and at most {_STEPS:,}; found {self.steps}",
        )
        _demand(
            self.minutes is None or 0 < self.minutes <= _MINUTES,
            f"minutes are above 0 and at most {_MINUTES:,}; found {self.minutes}",
        )
        _demand(-(2**63) <= self.seed < 2**63, f"the seed is a number of 64 bits; found {self.seed}")
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
