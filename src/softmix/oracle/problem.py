"""The contract of a problem: data of a known law, with an exact answer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser
from ..process import Process
from ..rng import Rng


@runtime_checkable
class Problem(Protocol):
    """Data of a known law.

    name  : for tables and error messages.
    shape : of one item.

    The families are `MixtureProblem`, `ObservedProblem`, `PairedProblem`, `JointProblem`, `AggregateProblem`,
    `LabelledProblem`, `TokenProblem`, `MeasuredTokens` and `TargetProblem`.
    """

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, Cond | None]:
        """n exact draws of x0 [n, *shape] and of the condition that belongs to each, None for none."""


@runtime_checkable
class DenoisingProblem(Problem, Protocol):
    """A problem with a process and the exact posterior q(x0 | x_t, cond).

    A denoiser that is learned on (x0, cond) can at best equal `denoiser()`. All families but `TargetProblem` are such;
    the denoiser of an `AggregateProblem` is that of its aggregate.
    """

    @property
    def process(self) -> Process: ...

    def denoiser(self) -> Denoiser:
        """The exact posterior of x0."""
