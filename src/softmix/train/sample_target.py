"""The task `SampleTarget`: learn to sample a density without data. Its result is a `TargetSampler`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, CondSpec
from ..data import Source, Target
from ..denoiser import Control, ControlledDenoiser
from ..memory import in_batches
from ..net import MLPSpec
from ..oracle import is_known_target, known_target
from ..process import StationaryOU
from ..rng import Rng
from ..sampler import Sampler, WeightedSamples, ancestral, controlled_path, path_grid, with_fixed_parameters
from .task import Batch, Task, demand

if TYPE_CHECKING:
    from .record import Facts

_BATCH = 4096


class TargetError(ValueError):
    """A sampler without its density, or with another density than it was trained for."""


class TargetSampler:
    """A learned sampler of a density gamma / Z: a chain of K steps, with an exact weight for each path.

    control : the learned control.
    steps : K of the training.
    name, fingerprint : of the target that it was trained for.
    target : the density; None until it is given by `on`.
    """

    def __init__(self, control: Control, steps: int, name: str, fingerprint: str, target: Target | None = None):
        self.control, self.steps, self.name, self.fingerprint = control, steps, name, fingerprint
        self._target = target

    def on(self, target: Target) -> TargetSampler:
        """The same sampler with its density, for a run on a function of your own.

        Raises TargetError for another target than that of the training.
        """
        if target.fingerprint != self.fingerprint:
            raise TargetError(
                f"{target.name} ({target.fingerprint}) was given, and the sampler was trained for {self.name} "
                f"({self.fingerprint}): give the same function, shape and name"
            )
        return TargetSampler(self.control, self.steps, self.name, self.fingerprint, target)

    @property
    def target(self) -> Target:
        """The density. Raises TargetError if it is a function of the user's, which no run folder can hold."""
        if self._target is None:
            raise TargetError(
                f"the sampler was trained for {self.name}, a function that its run folder does not hold: give it by "
                "model.result.on(softmix.data.Target(shape, log_density))"
            )
        return self._target

    @property
    def denoiser(self) -> ControlledDenoiser:
        """E[x_0 | x_t], for the samplers of softmix. They give no weights."""
        return ControlledDenoiser(self.control, self.target.log_density)

    def sample(
        self, n: int, seed: int = 0, *, steps: int | None = None, first: int = 0, batch: int = _BATCH
    ) -> WeightedSamples:
        """n samples with their weights, in float32 or the type of the control's weights, on its device.

        seed : sample k depends on the seed and on k alone.
        steps : K, by default that of the training. The weights are exact for every K.
        first : the number of the first sample.
        batch : the largest number of samples at once.
        """
        own = next(self.control.parameters())
        times = path_grid(self.control.process, self.steps if steps is None else steps)
        work = partial(self._batch, seed=seed, first=first, times=times, like=own)
        parts = in_batches(work, n, batch, "sample")
        x, log_weight = (torch.cat(each) for each in zip(*parts, strict=True))
        # the value of the density at the end is one more
        return WeightedSamples(x, log_weight, len(times))

    @torch.no_grad()
    def _batch(
        self, low: int, high: int, seed: int, first: int, times: tuple[float, ...], like: Tensor
    ) -> tuple[Tensor, Tensor]:
        rng = Rng(seed, torch.arange(first + low, first + high, device="cpu"), "softmix.path").to(like.device)
        x, log_weight = controlled_path(
            *(self.control, self.target.log_density, self.control.process, self.control.shape, times, rng),
            dtype=like.dtype,
        )
        return x, log_weight.double()


@dataclass(frozen=True)
class SampleTarget(Task):
    """Train a sampler of a density that is known up to its constant, by the KL divergence of whole paths.

        loss = -log w of `controlled_path`,   E[loss] = KL(Q | P) - log Z

    Q is the law of the controlled chain, P that of the noised target run backwards. The source is a `Target`.

    process : the reference chain. Its `scale` is that of the first draws: modes far outside of N(0, scale^2 I) are
        never found, and the estimate of log Z is then low and looks precise.
    net : NN1 of the `Control`.
    path : K, the steps of a path. Each costs a gradient of the density in training and in sampling.
    noise_term : the derivatives of the term with the noise. "fixed" leaves out those by the parameters ("sticking the
        landing", `with_fixed_parameters`); "full" has all. Both have the same mean gradient.
    clip : the gradient of the density is cut to [-clip, clip], element by element.

    The result is a `TargetSampler`. Half precision is refused: a weight is a difference of large sums.
    Raises ValueError for data with items, and for a path of less than 1 step.
    Source: Vargas, Grathwohl & Doucet, "Denoising diffusion samplers", ICLR 2023.
    When to choose: for samples and log Z of a density with a gradient, if many samples are needed. For a single
    estimate of log Z compare with `annealed_importance_samples`, which needs no training.
    """

    model_settings: ClassVar[tuple[str, ...]] = ("process", "net")
    cites: ClassVar[tuple[str, ...]] = ("dds",)

    process: StationaryOU = field(default_factory=StationaryOU)
    net: MLPSpec = field(default_factory=lambda: MLPSpec(width=64, depth=2, frequencies=0))
    path: int = 64
    noise_term: Literal["fixed", "full"] = "fixed"
    clip: float = 100.0

    def __post_init__(self) -> None:
        demand(1 <= self.path <= 10_000, f"a path has from 1 to 10,000 steps; found {self.path}")
        demand(self.clip > 0, f"clip is above 0; found {self.clip}")

    def cond_spec(self, source: Source) -> CondSpec:
        demand(
            isinstance(source, Target),
            f"SampleTarget learns from a density, and {source.name} has items: give softmix.data.Target(shape, "
            "log_density), or take the task Denoise",
        )
        return UNCONDITIONED

    def build(self, facts: Facts) -> nn.ModuleDict:
        demand(
            facts.precision == "fp32",
            f'the weight of a path is a difference of large sums, and precision is {facts.precision}: give "fp32"',
        )
        return nn.ModuleDict({"model": Control(self.process, self.net, facts.shape, self.clip)})

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        model, target = cast(Control, modules["model"]), cast(Target, source)
        term = with_fixed_parameters if self.noise_term == "fixed" else None
        times = path_grid(self.process, self.path)
        rng = batch.rng.child("path")
        _, log_weight = controlled_path(model, target.log_density, self.process, target.shape, times, rng, term)
        return -log_weight

    def result(self, model: nn.Module, facts: Facts, step: int) -> TargetSampler:
        sampler = TargetSampler(cast(Control, model), self.path, facts.data, facts.fingerprint)
        known = facts.origin is not None and is_known_target(facts.origin.source)
        return sampler.on(known_target(facts.origin.source)) if known and facts.origin is not None else sampler

    def suited(self, denoiser: Any = None) -> Sampler:
        """Ancestral steps: the law of the controlled chain in the limit of many steps."""
        return ancestral

    def describe(self, batch: Batch) -> str:
        return f"{len(batch.items)} paths of {self.path} steps"
