"""Trainings of small problems in memory: without a folder and without checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..data import Data, Report, Source
from ..data.store import make
from ..process import Gaussian
from ..rng import Rng
from ..sampler import Sampler
from ..train import Config, Run, Trainer, facts_of

# samplers, each with its grid of times
Ways = Sequence[tuple[Sampler, Callable[[Gaussian, int], Tensor]]]


class HasDraws(Protocol):
    """A law with exact draws."""

    def sample(self, n: int, rng: Rng) -> Tensor: ...


def points_of(law: HasDraws, name: str, seed: int, count: int = 1 << 16) -> Data:
    """Training points of a law, in float32."""
    points = law.sample(count, Rng(seed, count, "train")).float()
    return make(name, points, None, (), Report(read=count))


def averaged_on_cpu(source: Source, config: Config, start: Mapping[str, Tensor] | None = None) -> Any:
    """The averaged model after all steps, on the CPU, where the known answers are."""
    return finished(source, config, start).averaged().to("cpu")


def finished(source: Source, config: Config, start: Mapping[str, Tensor] | None = None) -> Trainer:
    """The trainer after all steps of a configuration. start : the first weights; by default those of the seed."""
    trainer = Trainer(Run(config, facts_of(source, config)), source, Path())
    if start is not None:
        trainer.begin_from(dict(start))
    for _ in range(config.steps or 0):
        trainer.advance()
    return trainer
