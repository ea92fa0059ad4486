"""The task `DenoisePair`: one model of two signals, with a time for each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from ..cond import CondSpec
from ..data import Source, mirrored
from ..denoiser import Network, NormalHead, PointHead, SoftHead
from ..loss import Energy, LossSpec, PublishedSquare, Square
from ..net import NetSpec, TwoStreamsSpec
from ..process import JOINT, VE, VP, Flow, Gaussian, Noised, Process, TwoClocks
from ..rng import Rng
from ..sampler import along
from .blank_condition import nothing_given
from .denoise import AnyHead, Denoise
from .noise_times import at_shares, first_share, least_time, times
from .task import Batch, demand

if TYPE_CHECKING:
    from .record import Facts

# R_2 of Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018: 1 / g and 1 / g^2 with g^3 = g + 1.
# The pairs of times cover the square evenly, in every batch.
_SHARES = (0.7548776662466927, 0.5698402909980532)


@dataclass(frozen=True)
class DenoisePair(Denoise):
    """Train one model of q(x0, y0 | x_t, y_t'), for any pair of times.

    y is the second item of a pair: the image of the condition of a source, or its value for points, as `Paired` and
    `Degraded` give it. Other conditions, such as labels, stay conditions.

    clocks : "independent" draws t and t' independently. "tied" draws t' = t: the control, a model that knows the
        diagonal alone and no clean condition. "control" and "estimation" keep y or x at the least time: a model of one
        task, to compare with.
    process, net, head, loss, output, times, classes, drop, flip : as in `Denoise`, with plain processes, and with the
        losses and heads below. Each signal has the weight of its own noise level. A `SoftHead` with the loss `Energy`
        learns draws of the pair, and not of each signal alone.

    The result is a denoiser of two clocks: `softmix.sampler.along(model.denoiser, JOINT, 16)`.

    Raises ValueError for a process with a frame, for losses other than Square, PublishedSquare and Energy, for heads
    other than PointHead, SoftHead and NormalHead("element"), and for data without pairs.
    When to choose: for one model of all tasks between two signals: generation, control, estimation.
    Source: Li et al., "A simple approach to unifying diffusion-based conditional generation", ICLR 2025;
    times of their code, train_unicon.py. Their weight is "min-snr", which vanishes at pure noise: such a model needs
    several steps, and its first answer is none.
    """

    net: NetSpec = field(default_factory=TwoStreamsSpec)
    head: AnyHead = field(default_factory=PointHead)
    loss: LossSpec = field(default_factory=lambda: Square("v"))
    clocks: Literal["independent", "tied", "control", "estimation"] = "independent"
    cites_own: ClassVar[tuple[str, ...]] = ("unicon",)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = type(self).__name__
        demand(
            isinstance(self.process, VP | VE | Flow),
            f"{own} takes VP, VE or Flow; found {type(self.process).__name__}",
        )
        demand(
            isinstance(self.loss, Square | PublishedSquare | Energy),
            f"{own} takes the losses Square, PublishedSquare and Energy, which weight each signal by its own noise "
            f"level; found {type(self.loss).__name__}",
        )
        demand(self.curriculum is None, f"{own} has two noise levels, and a curriculum orders one: leave it out")
        fits = isinstance(self.head, PointHead | SoftHead) or self.head == NormalHead("element")
        demand(fits, f'{own} takes PointHead, SoftHead and NormalHead("element"); found {self.head}')

    @property
    def cites(self) -> tuple[str, ...]:
        return (*self.cites_own, *super().cites)

    def cond_spec(self, source: Source) -> CondSpec:
        """The conditions of the source, y among them. Raises ValueError for a source without pairs."""
        spec = super().cond_spec(source)
        if len(source.shape) == 2 or not _channels(spec, source.shape):
            raise ValueError(
                f"pairs of images, or of points, were expected, and {source.name} has items of shape {source.shape} "
                f"with {spec}: give pairs, as in `load(x, beside=y)`, `Paired(x, y)` or `Degraded(x, measurement)`"
            )
        return spec

    def build(self, facts: Facts) -> nn.ModuleDict:
        first, second = facts.shape[0], _channels(facts.cond_spec, facts.shape)
        process = TwoClocks(cast(Gaussian, self.process), (first, second), len(facts.shape), self.least)
        shape, rest = (first + second, *facts.shape[1:]), _rest(facts.cond_spec, facts.shape)
        net = self.net
        if isinstance(net, TwoStreamsSpec) and not net.first:
            net = replace(net, first=first)
        return nn.ModuleDict({"model": Network(process, net, self.head, shape, rest, self.output, facts.data_sd)})

    @property
    def least(self) -> float:
        """The least time of training, of one end of its law."""
        return least_time(self)

    def examples(
        self,
        source: Source,
        batch: Batch,
        cond_spec: CondSpec,
        process: Process | None = None,
        pace: nn.Module | None = None,
    ) -> tuple[Noised, Rng]:
        rng = batch.rng
        x0, cond = batch.read(source)
        if self.flip:
            x0, cond = mirrored(x0, cond, rng.child("flip"))
        assert isinstance(process, TwoClocks) and cond is not None
        pair = process.joined(x0, getattr(cond, _part(source.shape)).to(x0))
        rest = self._dropped(cond.only(cond_spec.parts), rng) if cond_spec.parts else None
        return process.noise(pair, self.pairs_of_times(batch), rng.child("noise"), rest), rng.child("loss")

    def pairs_of_times(self, batch: Batch) -> Tensor:
        """(t_x, t_y) of these examples, float64 [B, 2]."""
        if self.clocks != "independent":
            own = times(self, batch)
            least = torch.full_like(own, self.least)
            return torch.stack(
                [{"estimation": least}.get(self.clocks, own), {"control": least}.get(self.clocks, own)], 1
            )
        start, items = first_share(batch.seed, batch.attempt), batch.items.double()
        # the second time begins elsewhere, or example 0 would have t_x = t_y
        shares = [(start * (k + 1) + items * share) % 1.0 for k, share in enumerate(_SHARES)]
        return torch.stack([at_shares(self, each) for each in shares], 1)

    def check(self, result: Any, device: torch.device) -> None:
        cond = nothing_given(result.cond, result.shape, 1, device)
        along(result, JOINT, 1, 1, sampler=self.suited(), cond=cond, device=device)

    def picture(self, result: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        """Eight pairs of 4 steps: the x above, the y below, if both are images of as many channels."""
        first, second = cast(Network, result).process.sizes  # type: ignore[union-attr]
        if first != second or len(source.shape) != 3:
            return None
        cond = nothing_given(result.cond, result.shape, 8, device)
        x, y = along(result, JOINT, 8, 4, sampler=self.suited(result), seed=seed, cond=cond, device=device)
        return torch.cat([x, y])

    def describe(self, batch: Batch) -> str:
        t = self.pairs_of_times(batch)
        (a, c), (b, d) = t.min(0).values.tolist(), t.max(0).values.tolist()
        return f"t_x from {a:.4f} to {b:.4f}, t_y from {c:.4f} to {d:.4f}"


def _part(shape: tuple[int, ...]) -> Literal["image", "value"]:
    """The part of a condition that is the second signal."""
    return "value" if len(shape) == 1 else "image"


def _channels(spec: CondSpec, shape: tuple[int, ...]) -> int:
    return spec.values if _part(shape) == "value" else spec.image


def _rest(spec: CondSpec, shape: tuple[int, ...]) -> CondSpec:
    """The conditions without the second signal."""
    return spec.only([part for part in spec.parts if part != _part(shape)])
