"""MMD-DDM: a trained denoiser is tuned through a whole chain of few steps, so that the law of its samples is right."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from ..cond import Cond, CondSpec
from ..config import require_defaults
from ..denoiser import (
    Denoiser,
    MapHead,
    MixtureHead,
    Network,
    NoiseHead,
    PublishedSMD,
    Suits,
    TunedDenoiser,
    recomputed,
)
from ..process import Gaussian, Interpolant, Masked, Noised, Process, TwoClocks
from ..rng import Rng
from ..sampler import BY_NAME, Sampler, drive, traits
from ..sampler.drive import finish
from .contract import Stage
from .discrepancy import (
    CubicKernel,
    EnergyKernel,
    GaussianKernel,
    LaplaceKernel,
    median_distance,
    unbiased_mmd,
)
from .drift import means_of_cells
from .feature import FeatureExtractor


@dataclass(frozen=True)
class ChainMMD:
    """MMD^2 between a batch of data and a batch of samples, with the gradient through all steps of the sampler:

        x_T ~ prior,   x_hat = chain(x_T): K steps without fresh noise,   D_V = MMD^2(V(x_hat), V(x)), unbiased
        L = pixels D_id + features mean over blocks of D_block

    In the paper, V are features of an Inception or CLIP network, k(a, b) = (a.b / D + 1)^3, and the chain is DDIM's at
    K times at equal distances below 1. Here the chain has the process's own times, from 1 on. No x_t of data is asked
    for, so that other training times than the default are refused.

    steps : K. The tuned model is for this number of steps alone (`TunedDenoiser`).
    sampler : "ddim" follows the mean of the posterior. "ancestral" draws x0 in each step, for soft mixtures; its
        eta is 0.
    kernel : `CubicKernel` (the paper's), `GaussianKernel`, `LaplaceKernel` or `EnergyKernel`.
    pixels, features : the weights of the discrepancies of the items themselves, and of their features: the hidden
        states of the first half of the network before it is tuned, as means over `cells` x `cells` cells.
    at : the time of the feature extractor.
    cells : the side of the grid of means; 1 for a mean over the image, as in the paper.
    recompute : "no" holds the inner states of all K evaluations for the backward pass, "yes" those of one, and computes
        the others a second time (gradient checkpointing).

    Widths of kernels are in units of the median distance of the data. With labels the laws of (item, label) are
    compared, and a sample has the labels of a real item: take batches with several items of each class. For other
    features, derive a class and override `extractor`.

    Raises ValueError for a head or process without such a chain, and for conditions other than labels.
    Source: Aiello, Valsesia & Magli, "Fast inference in denoising diffusion models via MMD finetuning", AAAI 2024,
    section 4.
    When to choose: to tune a trained model (`softmix train DATA --model mmd --start RUN`) for a fixed number of steps.
    Take a characteristic kernel in pixels and for points, batches of at least 256 there, and a low learning rate.
    Judge the result in other features than those of the loss.
    """

    steps: int = 4
    sampler: Literal["ddim", "ancestral"] = "ddim"
    kernel: CubicKernel | GaussianKernel | LaplaceKernel | EnergyKernel = field(default_factory=GaussianKernel)
    pixels: float = 1.0
    features: float = 0.0
    at: float = 0.05
    cells: int = 4
    recompute: Literal["no", "yes"] = "no"
    cites: ClassVar[tuple[str, ...]] = ("mmd_ddm", "kernel_two_sample", "ddim")
    # it compares the items of a batch
    whole: ClassVar[bool] = True
    # it asks at the times of its chain, whatever the law of the training times
    has_own_times: ClassVar[bool] = True
    # the features and the distances of the data are those before the first step
    freeze_at: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or min(self.pixels, self.features) < 0 or self.pixels + self.features <= 0 or self.cells < 1:
            raise ValueError(
                "ChainMMD needs at least 1 step, weights of at least 0, one of them above 0, and at least one cell; "
                f"found steps = {self.steps}, pixels = {self.pixels}, features = {self.features}, cells = {self.cells}"
            )
        if self.sampler not in ("ddim", "ancestral") or self.recompute not in ("no", "yes"):
            raise ValueError(
                "ChainMMD takes the sampler ddim or ancestral, and recompute yes or no; found "
                f"{self.sampler!r} and {self.recompute!r}"
            )
        if not 0 < self.at < 1:
            raise ValueError(f"the time of the feature extractor is above 0 and below 1; found at = {self.at}")
        if not self.features:
            require_defaults(self, ("at", "cells"), "without a weight of features none are computed")

    @property
    def proper(self) -> bool:
        return False

    @property
    def suits(self) -> Suits:
        return self.sampler, {"eta": 0.0} if self.sampler == "ancestral" else {}

    def fits_times(self, by: str, low: float, high: float) -> None:
        if by != "t" or low != 1e-3 or high != 1:
            raise ValueError(
                f"ChainMMD asks at the times of its chain, and training times by {by} from {low:g} to {high:g} would "
                "have no effect: take the default, Times()"
            )

    def fits(self, head: object, process: object) -> None:
        name = type(head).__name__
        if isinstance(process, Masked):
            raise ValueError("ChainMMD has the gradient of its samples, and tokens have none: take numbers")
        if isinstance(process, Interpolant | TwoClocks):
            raise ValueError(f"ChainMMD samples from pure noise by {self.sampler}; found {type(process).__name__}")
        if isinstance(head, MapHead | NoiseHead):
            raise ValueError(f"ChainMMD tunes a denoiser with a posterior of x0; found {name}")
        if self.sampler == "ddim" and (isinstance(head, PublishedSMD) or getattr(head, "mean", "own") == "none"):
            raise ValueError(f'ddim needs a mean, and a {name} has none: take sampler="ancestral"')
        if self.sampler == "ancestral" and isinstance(head, MixtureHead):
            raise ValueError(f'the choice of a component has no gradient, and the head is {name}: take sampler="ddim"')

    def fits_cond(self, spec: CondSpec) -> None:
        """Raises ValueError for conditions other than labels, with which each item has a law of its own."""
        if set(spec.parts) - {"label"}:
            raise ValueError(f"ChainMMD compares the items of a batch, and with {spec} each has a law of its own")

    def made(self, network: Network, step: int, end: float) -> TunedDenoiser:
        """The denoiser of a run, which knows its chain."""
        return TunedDenoiser(network, self.suits, self.grid(network.process))

    def grid(self, process: Process) -> Tensor:
        """The times of the chain, [steps + 1]: those that `sample` takes by default."""
        return traits(BY_NAME[self.sampler]).grid(cast(Gaussian, process), self.steps)

    def extractor(self, network: Network, x0: Tensor) -> nn.Module:
        """The module from items [B, ...] to a list of features, each [B, C, places].

        network : a copy of the network before it is tuned.
        x0 : some data, to measure scales.
        """
        return FeatureExtractor(network, self.at, x0)

    def freeze(self, network: Network, x0: Tensor) -> ComparedViews:
        return ComparedViews(self.extractor(network, x0) if self.features else None, self, x0)

    def generated(self, denoiser: Denoiser, noised: Noised, rng: Rng) -> Tensor:
        """The last states of the chain, with gradient, [B, ...]: one for each item, with its condition."""
        x0, process = noised.x0, noised.process
        x = process.prior(x0.shape, rng.child("prior"), noised.cond).to(x0)
        name, settings = self.suits
        chosen = cast(Sampler, partial(BY_NAME[name], **settings))
        asked = recomputed(denoiser) if self.recompute == "yes" else denoiser
        steps = drive(asked, chosen, x, self.grid(process), rng.child("chain"), noised.cond, gradients=True)
        return finish(steps)

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        # a trial step comes before the frozen copy
        views = cast(ComparedViews | None, stage.frozen) or self.freeze(copy.deepcopy(denoiser), noised.x0)  # type: ignore[arg-type]
        drawn = views(self.generated(denoiser, noised, rng))
        with torch.no_grad():
            real = views(noised.x0)
        labels = noised.cond.label if isinstance(noised.cond, Cond) else noised.cond
        total = noised.x0.new_zeros(len(noised.x0))
        for weight, a, b, scale in zip(views.weights, drawn, real, views.scales, strict=True):
            total = total + weight * unbiased_mmd(a, b, self.kernel, scale, labels)
        return total


class ComparedViews(nn.Module):
    """The views of items that are compared: the items themselves, and their features; and their usual distances.

    extractor : the module of the features; None if their weight is 0.
    loss : the weights and cells of the views.
    x0 : some data, to measure the median distance in each view.
    """

    scales: Tensor

    def __init__(self, extractor: nn.Module | None, loss: ChainMMD, x0: Tensor):
        super().__init__()
        self.extractor, self.cells, self.in_pixels = extractor, loss.cells, loss.pixels > 0
        with torch.no_grad():
            measured = [median_distance(view.to(torch.promote_types(view.dtype, torch.float32))) for view in self(x0)]
        self.register_buffer("scales", torch.stack(measured))
        blocks = len(measured) - self.in_pixels
        self.weights: Sequence[float] = [loss.pixels] * self.in_pixels + [loss.features / max(blocks, 1)] * blocks

    @property
    def network(self) -> nn.Module | None:
        """The network of the features, to be compiled."""
        return getattr(self.extractor, "network", None)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The views of items, each [B, D]."""
        views = [x.flatten(1)] if self.in_pixels else []
        if self.extractor is not None:
            views += [means_of_cells(h.transpose(1, 2), self.cells).flatten(1) for h in self.extractor(x)]
        return views
