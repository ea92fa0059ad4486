"""What config.json says of a run: what was asked for, what was found, and what changed since."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..cond import UNCONDITIONED, CondSpec
from ..config import from_json, loads
from ..data import Origin
from .config import Config, up_to_date


@dataclass(frozen=True)
class Start:
    """The run whose weights another began with: its folder, relative as in `Origin`; which weights, of which step, and
    the fingerprint of these (`Model.fingerprint`)."""

    run: str
    weights: str
    step: int
    fingerprint: str


@dataclass(frozen=True)
class Parent:
    """What a run stands on beside its data, such as the codec whose latents it learns: its part, its name, and its
    fingerprint."""

    part: str
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Facts:
    """What was found when the run began and holds for all of it.

    lanes : the pieces that a batch is computed in at the same time, one on each core; part of the recipe, since
    they decide the order of sums, and which items a score over pairs may compare. 1 for points and on an accelerator.
    origin : where the data came from and how they were read; None if they were not loaded by `softmix.data.load`.
    ends : where earlier lengths of the run ended, if it was made longer: from each on the rate rises and falls anew.
    parts : (step, number): from this step on a batch is computed in so many parts, one after another, since memory did
    not suffice for the parts before; at first in `Optimiser.accumulate`.
    shown : the items by which a loss that keeps something of the network measures it: the first 512, or 512 from
    anywhere in the data.
    start : the run whose weights this one began with.
    cond : the conditions that the model is told. parents : what else the run stands on.
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
    ends: tuple[int, ...] = ()
    parts: tuple[tuple[int, int], ...] = ()
    shown: Literal["first", "chosen"] = "first"
    start: Start | None = None
    cond: CondSpec = UNCONDITIONED
    parents: tuple[Parent, ...] = ()

    @property
    def cond_spec(self) -> CondSpec:
        """The conditions that the model is told."""
        if not self.cond.parts and self.class_names:
            # of 0.1, which knew of classes only
            return CondSpec((("class", len(self.class_names)),))
        return self.cond

    @property
    def first_end(self) -> int | None:
        """The length that the run was given at first, which its stages are shares of."""
        return self.ends[0] if self.ends else self.steps


@dataclass(frozen=True)
class Earlier:
    """Settings that held for the steps up to number `until`, before they were changed."""

    until: int
    rate: float
    nonfinite: Literal["stop", "skip", "rollback"]


@dataclass(frozen=True)
class Run:
    """config.json: what was asked for and what was found.

    earlier : settings that were changed while the run went on, oldest first. A step that is taken again, after a
    checkpoint was lost, is taken as it was.
    """

    config: Config
    facts: Facts
    earlier: tuple[Earlier, ...] = ()

    def peak(self, step: int) -> float:
        """The rate without its rise and fall of the step after `step`."""
        return next((one.rate for one in self.earlier if step < one.until), self.config.optimiser.rate)

    def nonfinite(self, step: int) -> str:
        """What is done if the step after `step` has a loss that is not finite."""
        return next((one.nonfinite for one in self.earlier if step < one.until), self.config.nonfinite)

    def parts(self, step: int) -> int:
        """In how many parts, one after another, the batch of the step after `step` is computed."""
        found = [number for since, number in self.facts.parts if since <= step]
        return found[-1] if found else self.config.optimiser.accumulate


def read(text: str, parts: Sequence[type] = ()) -> Run:
    """The run of a config.json, of this version or an earlier one. Raises ConfigError."""
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, Mapping) and isinstance(data.get("config"), Mapping) and "task" not in data["config"]:
        return run_of(data, parts)
    # this reading sees keys that stand twice
    return loads(Run, text, parts)


def run_of(data: Mapping[str, Any], parts: Sequence[type] = ()) -> Run:
    """As `read`, of the JSON values."""
    config = data.get("config")
    return from_json(Run, {**data, "config": up_to_date(config)} if isinstance(config, Mapping) else data, parts)


def rate(run: Run, step: int, total: int | None, freeze_at: float | None = None) -> float:
    """The learning rate of the step after `step`: r min(1, (step + 1) / warmup) min(1, (total - step) / (decay total)),
    with steps and total counted in the stretch that the step is in.

    A run has one stretch; a loss that keeps something of the network at a share `keeps` makes it two, and each time
    that a run is made longer adds one. Each warms up and comes to rest. total : None while it is not known.
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
    found = run.peak(begin + step) * min(1.0, (step + 1) / max(rise, 1))
    if length is not None and settings.decay > 0:
        found *= min(1.0, (length - step) / max(length * settings.decay, 1))
    return found
