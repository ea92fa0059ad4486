"""The mean first, then the posterior, in the features of the net that learned the mean."""

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
    """Squared error of the mean for the first `share` of training. Then the network goes on from there and learns to
    draw at high noise, logsnr <= `until`, by the energy score

        pixels S(x0) + features S(phi(x0)),   S(y) = E |y - y_j| - (1/2) E |y_j - y_k|,

    over m draws, beside the mean. phi are the blocks of the first half of the network as it was at the end of the
    first part, with averaged weights, looking at a clean image as if at time `at`: at each place, and averaged over
    places. A sum of scores of which one, in pixels, is strictly proper is so.

    In the second part a share `mean` of the items goes on to teach the mean, where logsnr > `until`, and there the mean
    is believed (`softmix.denoiser.SoftAtHighNoise`). For a share `blank` of the
    same items draws are made at t = 1. There x_t says nothing, all items have one posterior, and the score may
    compare every draw with every x0 and every other draw: the same expectation with a fraction of its noise. Each
    draw has its own x_t, which is noise and may play the latent's part: then the law over all x_t is learned, which
    is what sampling needs, and not that for each. (All draws for one x_t, which only the latent can tell apart, are
    right for each x_t and less sharp: docs/experiments.md.)
    Another share `high` is put at times uniform between that of `until` and 1.

    The score's weight is small beside the mean's, whose error is what is left at eight evaluations and more; the
    draws learn as fast with it (docs/experiments.md).

    In many dimensions |x0 - x_j| hardly depends on the shape of the posterior, so that the energy score of
    pixels alone learns sharp draws slowly. A mean is learned quickly, and the net that knows it has learned
    what images are made of: in its features the same score sees at once what in pixels it sees late.

    For `SoftHead(mean="own")`. Sources: the energy score, Gneiting & Raftery 2007; scores in learned features,
    Aiello et al. 2023 (MMD of Inception's, for the samples of a sampler); the rest: softmix, docs/experiments.md.
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
                "the feature score needs m >= 2 draws, a first part of 0 < share < 1, blank + high at most 1 and "
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
        """The network in the first part; in the second it draws where noise is high."""
        return network if step <= self.share * end else SoftAtHighNoise(network, self.until)

    @property
    def freeze_at(self) -> float:
        return self.share

    def freeze(self, network: Network, x0: Tensor) -> FeatureExtractor:
        return FeatureExtractor(network, self.at, x0)

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        if stage.frozen is None:
            return self._mean(denoiser, noised)
        eyes, count = cast(FeatureExtractor, stage.frozen), len(noised.t)
        border = float(one_clock(noised.process, "the feature score").time(self.until))
        # where there are classes, items at t = 1 do not all have one posterior
        blank, high = (0.0, self.blank + self.high) if noised.cond is not None else (self.blank, self.high)
        # on the CPU, as times may be; sums take numbers of items where the sums are
        items = torch.arange(count)
        at_1, rest = items[: round(blank * count)], items[round(blank * count) :]
        others, at_low = rest[: round(high * count)], items[count - round(self.mean * count) :]
        score = noised.x0.new_zeros(count)
        if len(at_low):
            score = score.index_add(
                0, at_low.to(score.device), self._mean(denoiser, _moved(noised.take(at_low), 0.0, border))
            )
        if len(at_1) > 1:
            score = score.index_add(0, at_1.to(score.device), self._blank(denoiser, noised, at_1, rng, eyes))
        if len(others):
            moved = _moved(noised.take(others), border, 1.0)
            score = score.index_add(0, others.to(score.device), self._each(denoiser, moved, rng.take(others), eyes))
        return score

    def _mean(self, denoiser: Denoiser, noised: Noised) -> Tensor:
        mean = need(denoiser(noised.xt, noised.t, noised.cond), HasMean, "the feature score").mean
        return squared_error(mean, noised, self.weight)

    def _each(self, denoiser: Denoiser, noised: Noised, rng: Rng, eyes: FeatureExtractor) -> Tensor:
        draws = denoiser(noised.xt, noised.t, noised.cond).draws(self.m, rng)
        score = self.pixels * energy(draws, noised.x0, lambda difference: power(difference, 1.0))
        if self.features:
            seen = zip(eyes(draws.flatten(0, 1)), eyes(noised.x0), strict=True)
            parts = [energy(some.unflatten(0, draws.shape[:2]), truth, _seen) for some, truth in seen]
            score = score + self.features * torch.stack(parts).mean(0)
        return score

    def _blank(self, denoiser: Denoiser, noised: Noised, items: Tensor, rng: Rng, eyes: FeatureExtractor) -> Tensor:
        """The score at t = 1 of m draws for each of these items: every pair is compared."""
        x0, last = noised.x0, noised.take(items).at(1.0)
        posterior = denoiser(last.xt, last.t)
        draws = posterior.draws(self.m, rng.take(items)).flatten(0, 1)
        score = self.pixels * _all_pairs(draws.flatten(1)[:, :, None], x0.flatten(1)[:, :, None])
        if self.features:
            seen = list(zip(eyes(draws), eyes(x0), strict=True))
            parts = [_all_pairs(a, b) + _all_pairs(a.mean(2, keepdim=True), b.mean(2, keepdim=True)) for a, b in seen]
            score = score + self.features * torch.stack(parts).mean() / 2
        return score.expand(len(items))


def _moved(noised: Noised, low: float, high: float) -> Noised:
    """The same items and noise with their times squeezed from [0, 1] into [low, high]."""
    return noised.at(low + (high - low) * noised.t)


def _seen(difference: Tensor) -> Tensor:
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
    """phi: the features of a network, each block's divided by its standard deviation over some data."""

    scale: Tensor

    def __init__(self, network: Network, at: float, x0: Tensor):
        super().__init__()
        self.network, self.at = network, at
        with torch.no_grad():
            self.register_buffer("scale", torch.stack([h.float().std() for h in network.features(x0, at)]))

    def forward(self, x0: Tensor) -> list[Tensor]:
        seen = self.network.features(x0, self.at)
        return [h.to(x0.dtype) / scale for h, scale in zip(seen, self.scale.to(x0.dtype), strict=True)]
