"""The content of config.json: the configuration of a run, its facts, and later changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..cond import UNCONDITIONED, CondSpec
from ..config import from_json, parse
from ..data import Origin
from .config import Config, up_to_date


@dataclass(frozen=True)
class StartingRun:
    """The run that gave this run its initial weights.

    run : its folder, relative as in `Origin`.
    weights : the name of the weights: "model", "ema-0.050" and so on.
    step : the step of the weights.
    fingerprint : of the weights (`Model.fingerprint`).
    """

    run: str
    weights: str
    step: int
    fingerprint: str


@dataclass(frozen=True)
class Parent:
    """Something that a run depends on beside its data, for example the codec of its latents."""

    part: str
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Facts:
    """Properties of the data and the machine, found at the start of a run, which hold for all of it.

    data, fingerprint, count, shape, class_names, data_sd : the data; data_sd is the standard deviation of x0.
    precision : of the autocast.
    steps : the length of the run; None until it is known.
    version : of softmix.
    lanes : pieces of a batch that are computed at the same time, one on each core. It decides the order of sums, and
        the pairs of items in a loss over pairs. 1 for points, on an accelerator, and for a loss that wants its batch
        in one piece (`Task.together`).
    origin : place of the data, and the options of their loading; None for data not made by `softmix.data.load`.
    ends : earlier lengths of a run that was made longer. From each on the learning rate rises and falls anew.
    parts : (step, number): from this step on a batch is computed in so many parts, one after another, because the
        memory was too small for the number before. The first number is `Optimiser.accumulate`.
    shown : the items for the frozen copy of a loss with two stages: the first 512, or 512 from anywhere in the data.
    start : the run that gave the initial weights.
    cond : the conditions of the model.
    parents : other things that the run depends on.
    vocabulary : the number of symbols of data of tokens; 0 for other data.
    alphabet : the character of each token; "" if tokens are not characters.
    """

    data: str
    fingerprint: str
    count: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    data_sd: float
    precision: Literal["bf16", "fp16", "fp32"]
    steps: int | None
    version: str
    lanes: int = 1
    origin: Origin | None = None
    ends: tuple[int, ...] = ()
    parts: tuple[tuple[int, int], ...] = ()
    shown: Literal["first", "chosen"] = "first"
    start: StartingRun | None = None
    cond: CondSpec = UNCONDITIONED
    parents: tuple[Parent, ...] = ()
    vocabulary: int = 0
    alphabet: str = ""

    @property
    def is_text(self) -> bool:
        """Whether the tokens are characters, or the bytes of a text."""
        return bool(self.alphabet) or (self.origin is not None and self.origin.tokens == "bytes")

    @property
    def cond_spec(self) -> CondSpec:
        """The conditions of the model, for a run of 0.1 too."""
        if not self.cond.parts and self.class_names:
            # softmix 0.1 had class labels only
            return CondSpec((("class", len(self.class_names)),))
        return self.cond

    @property
    def first_end(self) -> int | None:
        """The first length of the run. The stages of a loss are shares of it."""
        return self.ends[0] if self.ends else self.steps


@dataclass(frozen=True)
class EarlierSettings:
    """Settings of the steps up to number `until`, before a change."""

    until: int
    rate: float
    nonfinite: Literal["stop", "skip", "rollback"]


@dataclass(frozen=True)
class Run:
    """config.json: the configuration and the facts of a run.

    earlier : settings before each change in the middle of the run, oldest first. A step that is taken again, after a
        checkpoint was lost, uses the settings of its first time.
    """

    config: Config
    facts: Facts
    earlier: tuple[EarlierSettings, ...] = ()

    def peak(self, step: int) -> float:
        """The highest learning rate, before the factors of rise and fall, of the step after `step`."""
        return next((each.rate for each in self.earlier if step < each.until), self.config.optimiser.rate)

    def nonfinite(self, step: int) -> str:
        """The policy for a loss of the step after `step` that is not finite."""
        return next((each.nonfinite for each in self.earlier if step < each.until), self.config.nonfinite)

    def parts(self, step: int) -> int:
        """The number of parts, one after another, of the batch of the step after `step`."""
        numbers = [number for since, number in self.facts.parts if since <= step]
        return numbers[-1] if numbers else self.config.optimiser.accumulate


def read(text: str, parts: Sequence[type] = ()) -> Run:
    """The run of a config.json, of this version or an earlier one. Raises ConfigError.

    parts : classes of the caller that the run was trained with.
    """
    return run_of(parse(text), parts)


def run_of(data: Any, parts: Sequence[type] = ()) -> Run:
    """The run of the JSON values of a config.json, of this version or an earlier one. Raises ConfigError."""
    if isinstance(data, Mapping) and isinstance(data.get("config"), Mapping):
        data = {**data, "config": up_to_date(data["config"])}
        facts = data.get("facts")
        start = facts.get("start") if isinstance(facts, Mapping) else None
        if isinstance(start, Mapping) and start.get("kind") == "Start":
            # the name of the class in earlier versions
            data["facts"] = {**facts, "start": {**start, "kind": "StartingRun"}}
    return from_json(Run, data, parts)


def rate(run: Run, step: int, total: int | None, freeze_at: float | None = None) -> float:
    """The learning rate of the step after `step`: r min(1, (step + 1) / warmup) min(1, (total - step) / (decay total)).

    Steps and total are counted within the stretch of this step. A run has one stretch. A loss with a second stage has
    two, divided at the share `freeze_at`. Each time that a run is made longer adds one. Each warms up and decays.

    The rate is a function of the step: nothing stores a counter, so a resumed run has the same rates.

    total : the length of the run; None while it is unknown, and then the rate does not fall.
    """
    settings = run.config.optimiser
    begin, end = 0, total
    if total is not None:
        ends = [*run.facts.ends, total]
        if freeze_at is not None:
            ends.insert(0, math.ceil(freeze_at * ends[0]))
        begin, end = next(((a, b) for a, b in itertools.pairwise([0, *ends]) if a <= step < b), (0, total))
    step, length = step - begin, None if end is None else end - begin
    rise = float(settings.warmup)
    if length is not None and settings.warmup_share is not None:
        rise = min(rise, settings.warmup_share * length)
    value = run.peak(begin + step) * min(1.0, (step + 1) / max(rise, 1))
    if length is not None and settings.decay > 0:
        value *= min(1.0, (length - step) / max(length * settings.decay, 1))
    return value
