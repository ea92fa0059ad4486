"""The task `Denoise`: a model learns the posterior of x_0 given x_t."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..cond import Cond, CondSpec, Part
from ..data import Source, mirrored
from ..deferred import unread
from ..denoiser import (
    CategoricalHead,
    Denoiser,
    MapHead,
    MixtureHead,
    Network,
    NoiseHead,
    NormalHead,
    Output,
    PointHead,
    PublishedSMD,
    ResidualHead,
    SoftHead,
)
from ..denoiser.network import require_tokens
from ..denoiser.parameterise import CITES as OUTPUT_CITES
from ..loss import Energy, Group, LossSpec, NeedsFrozenCopy, Stage, loss_of
from ..net import NetSpec, UNetSpec
from ..process import (
    RDDM,
    SPD,
    VE,
    VP,
    ConstantSpeed,
    Flow,
    Framed,
    Gaussian,
    Immiscible,
    Interpolant,
    Masked,
    Noised,
    NonUniform,
    Process,
    Resfusion,
    ShiftDDPM,
)
from ..rng import Rng
from ..sampler import BY_NAME, Sampler, sample, traits
from .blank_condition import trial_condition
from .curriculum import Curriculum, Pace
from .noise_times import Times, times
from .task import Batch, Task, demand

if TYPE_CHECKING:
    from .record import Facts

AnyHead = (
    PointHead
    | MapHead
    | NormalHead
    | MixtureHead
    | SoftHead
    | PublishedSMD
    | ResidualHead
    | NoiseHead
    | CategoricalHead
)

# the module of a curriculum with patience
PACE = "pace"


@dataclass(frozen=True)
class Denoise(Task):
    """Train a denoiser: the loss compares the model's posterior of x_0 given x_t with x_0.

    process : turns clean data into noisy data.
    net, head, output : the model: its network, its posterior, and the quantity that the network predicts.
    loss : see the room `loss`.
    times : the law of the training times.
    curriculum : the order in which the noise levels of this law enter the training. None: all from the first step on.
    classes : give the class labels to the model. Other conditions of a source (an image, real numbers, a context) are
        always given.
    drop : the share of the items without a condition, drawn for each condition independently, so that guidance by it
        is possible.
    flip : mirror half of the images, left for right, another half in each epoch. For images only, and only if a
        mirrored image could be one of the data: not for digits or writing.
    """

    model_settings: ClassVar[tuple[str, ...]] = ("net", "head", "output")

    process: (
        VP
        | VE
        | Flow
        | RDDM
        | Resfusion
        | ShiftDDPM
        | Immiscible
        | SPD
        | ConstantSpeed
        | NonUniform
        | Interpolant
        | Masked
    ) = field(default_factory=VP)
    net: NetSpec = field(default_factory=UNetSpec)
    head: AnyHead = field(default_factory=SoftHead)
    loss: LossSpec = field(default_factory=Energy)
    output: Output = "v"
    times: Times = field(default_factory=Times)
    curriculum: Curriculum | None = None
    classes: bool = False
    drop: float = 0.1
    flip: bool = False

    def __post_init__(self) -> None:
        demand(0 <= self.drop <= 1, f"drop is a share of the items, from 0 to 1; found {self.drop}")
        demand(
            self.drop == 0 or not isinstance(self.process, Interpolant),
            f"an Interpolant leads to the item of the condition, which cannot be dropped; found drop = {self.drop}: "
            "give drop=0.0",
        )
        demand(
            self.curriculum is None or not getattr(self.loss, "has_own_times", False),
            f"a curriculum orders the noise levels, and {type(self.loss).__name__} has times of its own: leave it out",
        )
        demand(
            self.drop > 0 or not getattr(self.loss, "needs_drop", False),
            f"{type(self.loss).__name__} compares with the model without its condition, which learns nothing with "
            "drop = 0: give drop=0.1",
        )
        two = isinstance(self.head, ResidualHead)
        demand(not two or self.output == "residual", f'a ResidualHead has the output "residual"; found {self.output!r}')
        require_tokens(self.process, self.net, self.head)
        demand(
            not isinstance(self.process, Masked) or self.output == "x0",
            f'the head of tokens gives x0 itself, and the output {self.output!r} was asked for: give output="x0"',
        )
        for part, other in ((self.loss, self.head), (self.head, self.loss)):
            fits = getattr(part, "fits", None)
            if fits is not None:
                fits(other, self.process)
        fits_times = getattr(self.loss, "fits_times", None)
        if fits_times is not None:
            fits_times(self.times.by, self.times.low, self.times.high)

    @property
    def cites(self) -> tuple[str, ...]:
        return OUTPUT_CITES[self.output] + (() if self.curriculum is None else self.curriculum.cites)

    @property
    def whole(self) -> bool:
        return bool(getattr(self.loss, "whole", False)) or isinstance(self.process, Immiscible) or self._has_patience

    @property
    def _has_patience(self) -> bool:
        return self.curriculum is not None and self.curriculum.pacing == "patience"

    @property
    def together(self) -> bool:
        return self.whole or bool(getattr(self.loss, "together", False))

    @property
    def freeze_at(self) -> float | None:
        return getattr(self.loss, "freeze_at", None)

    def phase(self, progress: float) -> Hashable:
        phase: Callable[[float], Hashable] | None = getattr(self.loss, "phase", None)
        own = None if phase is None else phase(progress)
        if self.curriculum is None or self.curriculum.pacing != "even":
            return own
        # an objective without phases may depend on the progress itself
        return None if phase is None and hasattr(self.loss, "ask") else (own, self.curriculum.stage(progress))

    def cond_spec(self, source: Source) -> CondSpec:
        offered = source.cond
        if getattr(source, "vocabulary", 0) and isinstance(self.process, Gaussian | Framed):
            raise ValueError(
                f"{source.name} holds tokens, and {self.process} adds noise to numbers: give a process for tokens, or "
                "embeddings of them"
            )
        vocabulary = getattr(source, "vocabulary", 0)
        if isinstance(self.process, Masked):
            demand(
                vocabulary > 0 and len(source.shape) == 1,
                f"Masked is for tokens in a row, [L], and the items of {source.name} are "
                + (f"tokens of shape {list(source.shape)}" if vocabulary else "numbers")
                + ": load them with tokens=..., as rows",
            )
            self.process.of(vocabulary)
        if self.classes and "label" not in offered.parts:
            raise ValueError(
                f"training with classes was asked for, but {source.name} has no labels; leave `classes` off"
            )
        if self.flip and not source.is_image:
            raise ValueError(f"flip was asked for, and {source.name} holds no images to be mirrored; leave `flip` off")
        spec = offered if self.classes else offered.only([part for part in offered.parts if part != "label"])
        require_pair = getattr(self.process, "require_pair", None)
        if require_pair is not None:
            require_pair(spec, source.shape, source.name)
        fits = getattr(self.loss, "fits_cond", None)
        if fits is not None:
            fits(spec)
        return spec

    def build(self, facts: Facts) -> nn.ModuleDict:
        # the data know the number of symbols
        process = self.process.of(facts.vocabulary) if isinstance(self.process, Masked) else self.process
        network = Network(process, self.net, self.head, facts.shape, facts.cond_spec, self.output, facts.data_sd)
        modules = nn.ModuleDict({"model": network})
        if hasattr(self.loss, "build"):
            others = self.loss.build(network)
            demand("model" not in others, 'the loss has built a module named "model", which is the network itself')
            modules.update(others)
        if self._has_patience:
            assert self.curriculum is not None
            demand(PACE not in modules, f'the loss has built a module named "{PACE}", which is the curriculum\'s')
            modules[PACE] = Pace(self.curriculum)
        return modules

    def groups(self) -> Mapping[str, Group]:
        own = {PACE: Group()} if self._has_patience else {}
        return {**getattr(self.loss, "groups", {}), **own}

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        network = cast(Network, modules["model"])
        pace = modules[PACE] if self._has_patience else None
        noised, rng = self.examples(source, batch, network.cond, network.process, pace)
        loss = loss_of(
            self.loss,
            network,
            noised,
            rng,
            Stage(unread(batch, "progress"), batch.frozen, dict(modules.items()), batch.turn),
        )
        if isinstance(pace, Pace) and batch.turn == "model":
            pace.observe(loss.mean())
        return loss

    def examples(
        self,
        source: Source,
        batch: Batch,
        cond_spec: CondSpec,
        process: Process | None = None,
        pace: nn.Module | None = None,
    ) -> tuple[Noised, Rng]:
        """The noisy training examples, and the random stream of their loss. Both depend on the item numbers, and on the
        stage of a curriculum.

        process : that of the network, which may have parameters; by default that of the task.
        pace : the module of a curriculum with patience.
        """
        rng = batch.rng
        x0, cond = batch.read(source)
        if self.flip:
            x0, cond = mirrored(x0, cond, rng.child("flip"))
        cond = None if cond is None or not cond_spec.parts else self._dropped(cond.only(cond_spec.parts), rng)
        t, process = times(self, batch, pace), self.process if process is None else process
        # a process may couple the noises of a batch with its items, for training alone
        noise = getattr(process, "coupled", process.noise)
        return noise(x0, t, rng.child("noise"), cond), rng.child("loss")

    def _dropped(self, cond: Cond, rng: Rng) -> Cond:
        """Drop each condition of each item with probability `drop`, independently."""
        for part in cond.parts:
            for column in _columns(cond, part):
                role = "drop" if part == "label" else f"drop.{part}"
                given = rng.child(f"{role}.{column}" if column else role).uniform((len(cond),)) >= self.drop
                cond = cond.dropped(given, part, column)
        return cond

    def freeze(self, model: nn.Module, x0: Tensor) -> nn.Module:
        return cast(NeedsFrozenCopy, self.loss).freeze(cast(Network, model), x0)

    def result(self, model: nn.Module, facts: Facts, step: int) -> Denoiser:
        wrap: Callable[..., Denoiser] | None = getattr(self.loss, "made", None)
        return cast(Denoiser, model) if wrap is None else wrap(model, step, facts.first_end or math.inf)

    def suited(self, denoiser: Denoiser | None = None) -> Sampler:
        """The sampler that suits a model. Its denoiser, its loss or its head names it (`suits`), in this order.

        Soft mixtures use eta = 0 everywhere. From an exact posterior every eta is equally good, but the draws of a
        learned one are not yet sharp, and fresh noise in each step then shows (docs/choose-a-sampler.md).
        """
        suits = (getattr(part, "suits", None) for part in (denoiser, self.loss, self.head))
        name, settings = next((each for each in suits if each is not None), ("ancestral", {}))
        if not getattr(self.process, "independent", True):
            # a model of coupled noise knows no fresh one
            name, settings = {"renoise": ("ddim", {}), "ancestral": (name, {"eta": 0.0})}.get(name, (name, settings))
        if isinstance(self.process, Interpolant) and not (traits(BY_NAME[name]).interpolant and not settings):
            # all others and eta = 0 are for Gaussian processes
            name, settings = "ancestral", {}
        return partial(BY_NAME[name], **settings) if settings else BY_NAME[name]

    def check(self, result: Any, device: torch.device) -> None:
        cond = trial_condition(self.process, result.cond, result.shape, device)
        sample(result, 1, getattr(result, "steps", 1), sampler=self.suited(), cond=cond, device=device)

    def picture(self, result: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        """16 samples of 4 steps, or of those of the model. The class labels count up; other conditions are those of
        items of the data."""
        cond_spec, items = cast(CondSpec, result.cond), torch.arange(16, device="cpu")
        index = items % len(source)
        cond = source.batch(index, Rng(seed, index, "picture"))[1] if cond_spec.parts else None
        if cond is not None:
            cond = cond.only(cond_spec.parts)
        if cond is not None and cond_spec.labels:
            columns = [items % count for _, count in cond_spec.labels]
            cond = replace(cond, label=columns[0] if len(columns) == 1 else torch.stack(columns, 1))
        steps = getattr(result, "steps", 4)
        return sample(result, 16, steps, sampler=self.suited(result), seed=seed, cond=cond, device=device)

    def describe(self, batch: Batch) -> str:
        if self._has_patience:
            # the stage is in a module of the run
            return super().describe(batch)
        t = times(self, batch)
        return f"t from {float(t.min()):.4f} to {float(t.max()):.4f}"


def _columns(cond: Cond, part: Part) -> Sequence[int | None]:
    """The labels of a condition, which are dropped one by one; any other part is one."""
    return range(cond.label.shape[1]) if part == "label" and cond.label is not None and cond.label.ndim == 2 else [None]
