"""First the mean, then the posterior by the energy score in features of the network that learned the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser, Network, SoftAtHighNoise, SoftHead
from ..posterior import HasMean, need
from ..process import Noised, one_clock
from ..rng import Rng
from .contract import Stage
from .energy import energy, power
from .square import squared_error
from .weight import Weight


@dataclass(frozen=True)
class FeatureEnergy:
    """Squared error for the first `share` of training; then the energy score at high noise beside it.

    In the second part the network continues and learns to draw at logsnr <= `until` by

        pixels S(x0) + features S(phi(x0)),   S(y) = E |y - y_j| - (1/2) E |y_j - y_k|,

    over m draws. phi are the hidden states of the first half of the network with averaged weights at the end of the
    first part. Their input is a clean image, taken as an x_t at time `at`. They are compared at each place, and
    averaged over places. A sum of energy scores is strictly proper if one of them, here that of pixels, is.

    share : the share of training with squared error alone.
    until : the largest logsnr at which the posterior is soft. Above it the mean is used
        (`softmix.denoiser.SoftAtHighNoise`).
    blank : the share of the items with draws at t = 1. There x_t carries no information, all items have one posterior,
        and the loss compares every draw with every x0 and every other draw: the same expectation with a fraction of its
        noise. Each draw has its own x_t, which can play the part of the latent: the loss then teaches the law over all
        x_t, which is the one that sampling needs, and not the law for each x_t. (All draws for one x_t are right for
        each x_t and less sharp: docs/experiments.md.)
    high : a further share, at times uniform between that of `until` and 1.
    mean : the share of the items that goes on to teach the mean, at logsnr > `until`.
    m : draws for each item, at least 2.
    pixels, features : the weights of the two energy scores. They are small beside that of the mean, since the error of
        the mean dominates from eight evaluations on, and the draws learn as fast with it (docs/experiments.md).
    at : the time of the feature extractor.
    weight : of the squared error.

    In many dimensions |x0 - x_j| hardly depends on the shape of the posterior, so that the energy score of pixels alone
    learns sharp draws slowly. A mean is learned quickly, and its network has features of images. The same loss is more
    sensitive in these features.

    For `SoftHead(mean="own")`. Sources: the energy score, Gneiting & Raftery 2007; scoring rules in learned features,
    Aiello et al. 2023 (MMD in Inception features, for the samples of a sampler); the rest: softmix,
    docs/experiments.md.
    When to choose: for soft mixtures of images; the preset smd takes it.
    """

    share: float = 0.5
    until: float = -6.0
    blank: float = 0.8
    high: float = 0.05
    mean: float = 1.0
    m: int = 2
    pixels: float = 0.1
    features: float = 0.1
    at: float = 0.05
    weight: Weight = "v"
    cites: ClassVar[tuple[str, ...]] = ("scoring_rules", "distributional")

    def __post_init__(self) -> None:
        if self.m < 2 or not 0 < self.share < 1 or not 0 <= self.blank + self.high <= 1 or not 0 < self.mean <= 1:
            raise ValueError(
                "FeatureEnergy needs m >= 2 draws, a first part of 0 < share < 1, blank + high at most 1 and "
                f"0 < mean <= 1; found m = {self.m}, share = {self.share}, blank = {self.blank}, high = {self.high}, "
                f"mean = {self.mean}"
            )

    @property
    def proper(self) -> bool:
        return self.pixels > 0

    def fits(self, head: object, process: object) -> None:
        if not (isinstance(head, SoftHead) and head.mean == "own"):
            raise ValueError(
                f'the loss FeatureEnergy needs a SoftHead with mean = "own"; the head is {type(head).__name__}'
            )

    def made(self, network: Network, step: int, end: float) -> Denoiser:
        """The denoiser after `step` of `end` steps: the network in the first part, then `SoftAtHighNoise`."""
        return network if step <= self.share * end else SoftAtHighNoise(network, self.until)

    @property
    def freeze_at(self) -> float:
        return self.share

    def freeze(self, network: Network, x0: Tensor) -> FeatureExtractor:
        return FeatureExtractor(network, self.at, x0)

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        if stage.frozen is None:
            return self._mean(denoiser, noised)
        extractor, count = cast(FeatureExtractor, stage.frozen), len(noised.t)
        border = float(one_clock(noised.process, "FeatureEnergy").time(self.until))
        # with classes, items at t = 1 do not all have one posterior
        blank, high = (0.0, self.blank + self.high) if noised.cond is not None else (self.blank, self.high)
        # indices live on the CPU, since times may; `index_add` needs them on the device of the loss
        items = torch.arange(count)
        at_1, rest = items[: round(blank * count)], items[round(blank * count) :]
        others, at_low = rest[: round(high * count)], items[count - round(self.mean * count) :]
        loss = noised.x0.new_zeros(count)
        if len(at_low):
            moved = _moved(noised.take(at_low), 0.0, border)
            loss = loss.index_add(0, at_low.to(loss.device), self._mean(denoiser, moved))
        if len(at_1) > 1:
            loss = loss.index_add(0, at_1.to(loss.device), self._blank(denoiser, noised, at_1, rng, extractor))
        if len(others):
            moved = _moved(noised.take(others), border, 1.0)
            loss = loss.index_add(0, others.to(loss.device), self._each(denoiser, moved, rng.take(others), extractor))
        return loss

    def _mean(self, denoiser: Denoiser, noised: Noised) -> Tensor:
        mean = need(denoiser(noised.xt, noised.t, noised.cond), HasMean, "FeatureEnergy").mean
        return squared_error(mean, noised, self.weight)

    def _each(self, denoiser: Denoiser, noised: Noised, rng: Rng, extractor: FeatureExtractor) -> Tensor:
        """The loss of m draws for each item on its own."""
        draws = denoiser(noised.xt, noised.t, noised.cond).draws(self.m, rng)
        loss = self.pixels * energy(draws, noised.x0, lambda difference: power(difference, 1.0))
        if self.features:
            pairs = zip(extractor(draws.flatten(0, 1)), extractor(noised.x0), strict=True)
            parts = [energy(drawn.unflatten(0, draws.shape[:2]), truth, _length) for drawn, truth in pairs]
            loss = loss + self.features * torch.stack(parts).mean(0)
        return loss

    def _blank(
        self, denoiser: Denoiser, noised: Noised, items: Tensor, rng: Rng, extractor: FeatureExtractor
    ) -> Tensor:
        """The loss at t = 1 of m draws for each of these items, over all pairs."""
        x0, last = noised.x0, noised.take(items).at(1.0)
        posterior = denoiser(last.xt, last.t)
        draws = posterior.draws(self.m, rng.take(items)).flatten(0, 1)
        loss = self.pixels * _all_pairs(draws.flatten(1)[:, :, None], x0.flatten(1)[:, :, None])
        if self.features:
            pairs = list(zip(extractor(draws), extractor(x0), strict=True))
            parts = [_all_pairs(a, b) + _all_pairs(a.mean(2, keepdim=True), b.mean(2, keepdim=True)) for a, b in pairs]
            loss = loss + self.features * torch.stack(parts).mean() / 2
        return loss.expand(len(items))


def _moved(noised: Noised, low: float, high: float) -> Noised:
    """The same items and noise, with times mapped linearly from [0, 1] to [low, high]."""
    return noised.at(low + (high - low) * noised.t)


def _length(difference: Tensor) -> Tensor:
    """The length of a difference of features [m, B, C, places]: at each place, and of the mean over places."""
    each = ((difference**2).mean(2) + 1e-6).sqrt().mean(2)
    whole = ((difference.mean(3) ** 2).mean(2) + 1e-6).sqrt()
    return (each + whole) / 2


def _all_pairs(draws: Tensor, truth: Tensor) -> Tensor:
    """E |truth - draw| - (1/2) E |draw - draw'| over all pairs of draws [n, C, places] and truths [k, C, places]."""
    # half precision has too few digits for sums of squares
    real = torch.promote_types(draws.dtype, torch.float32)
    a, b = draws.permute(2, 0, 1).to(real), truth.permute(2, 0, 1).to(real)
    n, unit = a.shape[1], a.shape[2] ** 0.5
    return (torch.cdist(a, b).mean() - 0.5 * torch.cdist(a, a).sum() / (a.shape[0] * n * (n - 1))) / unit


class FeatureExtractor(nn.Module):
    """phi: the features of a network, those of each block divided by their standard deviation over some data."""

    scale: Tensor

    def __init__(self, network: Network, at: float, x0: Tensor):
        super().__init__()
        self.network, self.at = network, at
        with torch.no_grad():
            self.register_buffer("scale", torch.stack([h.float().std() for h in network.features(x0, at)]))

    def forward(self, x0: Tensor) -> list[Tensor]:
        states = self.network.features(x0, self.at)
        return [h.to(x0.dtype) / scale for h, scale in zip(states, self.scale.to(x0.dtype), strict=True)]
