"""A curriculum over noise levels: clusters of training times enter one after another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..config import require_defaults
from ..rng import permutation

if TYPE_CHECKING:
    from .task import Batch

Order = Literal["easy first", "hard first", "random"]
Pacing = Literal["patience", "even", "mixed"]


@dataclass(frozen=True)
class Curriculum:
    """Training begins at the noise levels that are easy to learn, and takes in harder ones in stages.

    The law of the training times is divided into N clusters of equal probability, C_1 (least noise) to C_N (most).
    Stage n of N trains on the n easiest,

        t ~ C_(N-n+1) + ... + C_N,  each cluster with probability 1 / n,

    and the last stage on all, for the rest of the run.

    clusters : N.
    order : "easy first" begins at the most noise. "hard first" begins at the least and "random" in an order drawn from
        the seed: the controls.
    pacing : "patience": a stage ends after `patience` steps in a row in which the running mean of the loss had no new
        minimum. The loss of the whole batch decides, so that the batch is never divided.
        "even": the stages have equal lengths, and all levels are in from the share `until` of the run on.
        "mixed": each example takes the stage of a random moment of an even pacing. Every noise level is then trained as
        often as with "even", and nothing comes before the other: the control for this.
    patience : steps, for "patience".
    smooth : steps of the running mean, for "patience". 1: the loss of each batch, as in the paper. The losses of single
        batches vary, and the lowest of some is then seldom reached again: the pace is the noise of the losses.
    until : a share of the run, for "even" and "mixed".

    Raises ValueError for numbers out of their ranges.
    Source: Kim, Go, Kwon & Kim, "Denoising task difficulty-based curriculum for training diffusion models", ICLR 2025,
    section 4. N = 20 and a patience of 200 are theirs.
    When to choose: to test the paper. `softmix.recipe.curriculum` measures it beside its controls, and has no verdict
        yet.
    """

    cites: ClassVar[tuple[str, ...]] = ("curriculum",)

    clusters: int = 20
    order: Order = "easy first"
    pacing: Pacing = "patience"
    patience: int = 200
    smooth: int = 50
    until: float = 0.5

    def __post_init__(self) -> None:
        for value, kinds in ((self.order, Order), (self.pacing, Pacing)):
            if value not in get_args(kinds):
                raise ValueError(f"{value!r} was asked for; there are {', '.join(get_args(kinds))}")
        for name in ("clusters", "patience", "smooth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1; found {getattr(self, name)}")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is a share of the run, above 0 and at most 1; found {self.until}")
        unused = ("until",) if self.pacing == "patience" else ("patience", "smooth")
        require_defaults(self, unused, f'the pacing "{self.pacing}" does not read it')

    def stage(self, progress: float) -> int:
        """The stage of an even pacing at this share of the run, from 1 to N."""
        return min(self.clusters, 1 + math.floor(progress / self.until * self.clusters))

    def stages(self, batch: Batch, pace: nn.Module | None) -> int | Tensor:
        """The stage of these examples: one number, or one for each, [B]."""
        if self.pacing == "even":
            return self.stage(batch.progress)
        if self.pacing == "patience":
            assert isinstance(pace, Pace)
            return pace.stage
        moment = batch.rng.child("curriculum").uniform((len(batch.items),), torch.float32).to(batch.items.device)
        return (moment / self.until * self.clusters).floor().clamp(max=self.clusters - 1) + 1

    def shares(self, u: Tensor, stage: int | Tensor, seed: int, easy_is_high: bool) -> Tensor:
        """The shares of the law of times that belong to a stage.

        u : shares in [0, 1), [B].
        stage : a number, or one for each, [B].
        seed : of the random order.
        easy_is_high : whether a share near 1 is much noise. Else a share near 0 is.

        Cluster k of the stage in the order of entry takes u from k / n to (k + 1) / n.
        """
        # also the largest number below 1 gives a place below the stage
        place = u * (stage.to(u) if isinstance(stage, Tensor) else stage)
        entered = place.floor()
        cluster = self._entry(seed, u.device)[entered.long()].to(u)
        share = (cluster + place - entered) / self.clusters
        return 1 - share if easy_is_high else share

    def _entry(self, seed: int, device: torch.device) -> Tensor:
        """The clusters in the order in which they enter, 0 for the easiest, [N]."""
        if self.order == "random":
            return permutation(seed, self.clusters, "curriculum", device)
        clusters = torch.arange(self.clusters, device=device)
        return clusters if self.order == "easy first" else clusters.flip(0)


class Pace(nn.Module):
    """The stage of a run with patience. It has no weights; its numbers are buffers, and so in every checkpoint.

    It reads no number on the host: a step may be recorded on an accelerator.
    """

    stage: Tensor
    mean: Tensor
    least: Tensor
    steps: Tensor
    since: Tensor

    def __init__(self, curriculum: Curriculum):
        super().__init__()
        self.curriculum = curriculum
        self.register_buffer("stage", torch.ones((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("least", torch.full((), torch.inf))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("since", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, loss: Tensor) -> None:
        """Take in the loss of a step, and end the stage if its patience is over.

        The running mean m and the least one of a stage, at its k-th step:

            m <- m + (loss - m) / min(k, smooth)

        A loss that is not finite changes nothing.
        """
        settings, loss = self.curriculum, loss.detach().to(self.mean)
        steps = self.steps + 1
        mean = self.mean + (loss - self.mean) / steps.clamp(max=settings.smooth)
        better = mean < self.least
        least, since = torch.where(better, mean, self.least), torch.where(better, 0, self.since + 1)
        over = (since >= settings.patience) & (self.stage < settings.clusters)
        taken = loss.isfinite()
        # the next stage begins anew; its first step replaces the mean
        for buffer, value in (
            (self.stage, self.stage + over),
            (self.mean, mean),
            (self.least, least.masked_fill(over, torch.inf)),
            (self.steps, steps.masked_fill(over, 0)),
            (self.since, since.masked_fill(over, 0)),
        ):
            buffer.copy_(torch.where(taken, value, buffer))
