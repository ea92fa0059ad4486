"""First the mean, then the posterior by the energy score in features of the network that learned the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..cond import Cond
from ..denoiser import Denoiser, Network, SoftAtHighNoise, SoftHead
from ..posterior import HasMean, Implicit, Posterior, need
from ..process import Gaussian, Noised, Process, clock_of, require_independent
from ..rng import Rng
from .contract import Stage
from .energy import energy, power
from .pairs import all_pairs
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
    pixels, features : the weights of the two energy scores. By default they are small beside that of the mean, since
        the error of the mean dominates from eight evaluations on, and draws that are compared with all x0 of a batch
        learn as fast with it. With a condition each draw has one x0, and needs larger weights (docs/experiments.md).
    at : the time of the feature extractor.
    weight : of the squared error.

    In many dimensions |x0 - x_j| hardly depends on the shape of the posterior, so that the energy score of pixels alone
    learns sharp draws slowly. A mean is learned quickly, and its network has features of images. The same loss is more
    sensitive in these features.

    For `SoftHead(mean="own")`. Sources: the energy score, Gneiting & Raftery 2007; scoring rules in learned features,
    Aiello et al. 2023 (MMD in Inception features, for the samples of a sampler); the rest: softmix,
    docs/experiments.md.
    When to choose: for soft mixtures of images with a condition other than labels; the preset smd takes it for them.
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
    # the more draws and x0 are compared at t = 1, the less noise has the gradient
    together: ClassVar[bool] = True
    # it divides the times of training among its terms, and asks at t = 1 in every step
    has_own_times: ClassVar[bool] = True
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

    @property
    def uses_features(self) -> bool:
        """Whether a step computes features."""
        return self.features > 0

    def fits(self, head: object, process: object) -> None:
        if not (isinstance(head, SoftHead) and head.mean == "own"):
            raise ValueError(
                f'the loss FeatureEnergy needs a SoftHead with mean = "own"; the head is {type(head).__name__}'
            )
        require_independent(process, "the comparison of all draws at t = 1")
        clock_of(cast(Process, process), "FeatureEnergy")

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
            return self._squared(denoiser(noised.xt, noised.t, noised.cond), noised)
        extractor, groups = cast(FeatureExtractor, stage.frozen), self._groups(noised)
        loss = noised.x0.new_zeros(groups.count)
        if not groups.low + groups.drawn:
            return loss
        asked = groups.asked(noised, _border(clock_of(noised.process, "FeatureEnergy"), self.until))
        # one call: the trunk of the network runs once for the mean and for all draws
        to_mean, to_draw = _split(denoiser(asked.xt, asked.t, asked.cond), groups.low, groups.drawn)
        if to_mean is not None:
            squared = self._squared(to_mean, asked.take(slice(groups.low)))
            loss = loss + _padded(squared, groups.count - groups.low, groups.count)
        if to_draw is not None:
            draws = to_draw.draws(self.m, rng.take(groups.draw_items))
            loss = loss + _padded(self._scores(draws, noised, groups, extractor), groups.first, groups.count)
        return loss

    def compares(self, cond: Cond | Tensor | None) -> bool:
        """Whether draws at t = 1 are compared with other items than their own. With a condition the items do not all
        have one posterior there."""
        return cond is None

    def _groups(self, noised: Noised) -> _Groups:
        count = len(noised.t)
        blank, high = (self.blank, self.high) if self.compares(noised.cond) else (0.0, self.blank + self.high)
        at_1 = round(blank * count)
        # one item alone has no pairs
        first, used = (0, at_1) if at_1 > 1 else (at_1, 0)
        return _Groups(count, first, used, min(round(high * count), count - at_1), round(self.mean * count))

    def _squared(self, posterior: Posterior, noised: Noised) -> Tensor:
        return squared_error(need(posterior, HasMean, "FeatureEnergy").mean, noised, self.weight)

    def _scores(self, draws: Tensor, noised: Noised, groups: _Groups, extractor: FeatureExtractor) -> Tensor:
        """The energy scores of draws [m, drawn, ...], one number for each drawn item. noised : the whole batch."""
        x0 = noised.x0
        own, sizes = groups.high_items, [groups.at_1, groups.high]
        compared = x0 if groups.at_1 else x0[own]
        at_1, at_high = draws.split(sizes, dim=1)
        pairs = self._features(draws, compared, extractor)
        scores = []
        if groups.at_1:
            parts = [(drawn.split(sizes, dim=1)[0], truth) for drawn, truth in pairs]
            scores.append(self._blank(at_1, x0, parts, noised.cond).expand(groups.at_1))
        if groups.high:
            rows = own if groups.at_1 else slice(None)
            parts = [(drawn.split(sizes, dim=1)[1], truth[rows]) for drawn, truth in pairs]
            scores.append(self._each(at_high, x0[own], parts))
        return torch.cat(scores)

    def _features(self, draws: Tensor, x0: Tensor, extractor: FeatureExtractor) -> list[tuple[Tensor, Tensor]]:
        """For each block the features [m, drawn, places, C] of draws, and [k, places, C] of x0; none if not used."""
        if not self.uses_features:
            return []
        drawn, truth = extractor(draws.flatten(0, 1)), extractor(x0)
        # channels last, as the network computes them
        return [
            (a.transpose(1, 2).unflatten(0, draws.shape[:2]), b.transpose(1, 2))
            for a, b in zip(drawn, truth, strict=True)
        ]

    def _each(self, draws: Tensor, x0: Tensor, features: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The score of m draws for each item on its own, [B]."""
        loss = self.pixels * energy(draws, x0, lambda difference: power(difference, 1.0))
        if features:
            parts = [energy(drawn, truth, _length) for drawn, truth in features]
            loss = loss + self.features * torch.stack(parts).mean(0)
        return loss

    def _blank(
        self, draws: Tensor, x0: Tensor, features: Sequence[tuple[Tensor, Tensor]], cond: Cond | Tensor | None
    ) -> Tensor:
        """The score of all draws at t = 1 against all x0, a number."""
        loss = self.pixels * all_pairs(draws.flatten(2).flatten(0, 1)[:, :, None], x0.flatten(1)[:, :, None])
        if features:
            pairs = [(drawn.flatten(0, 1).transpose(1, 2), truth.transpose(1, 2)) for drawn, truth in features]
            parts = [all_pairs(a, b) + all_pairs(a.mean(2, keepdim=True), b.mean(2, keepdim=True)) for a, b in pairs]
            loss = loss + self.features * torch.stack(parts).mean() / 2
        return loss


@dataclass(frozen=True)
class _Groups:
    """The items of a batch in the second part: consecutive groups, so that no index tensor is needed.

    count : the batch size.
    first : the first item with draws. Those at t = 1 come first, then those at high noise.
    at_1, high : the numbers of items with draws at t = 1, and at high noise.
    low : the number of items, the last ones, that teach the mean at low noise.
    """

    count: int
    first: int
    at_1: int
    high: int
    low: int

    @property
    def drawn(self) -> int:
        return self.at_1 + self.high

    @property
    def draw_items(self) -> slice:
        return slice(self.first, self.first + self.drawn)

    @property
    def high_items(self) -> slice:
        return slice(self.first + self.at_1, self.first + self.drawn)

    def asked(self, noised: Noised, border: float) -> Noised:
        """The items of the mean and then those with draws, at their noise levels.

        border : the time that divides low from high noise. Times are mapped linearly from [0, 1] to [0, border] or
            [border, 1].
        """
        low, high = noised.t[self.count - self.low :], noised.t[self.high_items]
        times = torch.cat([border * low, torch.ones_like(noised.t[: self.at_1]), border + (1 - border) * high])
        # times may be on the CPU, for an accelerator without float64
        items = torch.arange(self.count, device=noised.t.device)
        return noised.take(torch.cat([items[self.count - self.low :], items[self.draw_items]])).at(times)


def _split(posterior: Posterior, low: int, drawn: int) -> tuple[Posterior | None, Posterior | None]:
    """The posteriors of the first `low` items and of the others, None for a group without items."""
    if not low or not drawn:
        return (posterior, None) if low else (None, posterior)
    to_mean, to_draw = need(posterior, Implicit, "FeatureEnergy").split([low, drawn])
    return to_mean, to_draw


def _padded(loss: Tensor, before: int, count: int) -> Tensor:
    """The losses of consecutive items, with zeros for the other items of the batch."""
    return nn.functional.pad(loss, (before, count - before - len(loss)))


@lru_cache(maxsize=64)
def _border(process: Gaussian, until: float) -> float:
    """The time of logsnr = until. Cached, so that a training step reads no tensor."""
    return float(process.time(until))


def _length(difference: Tensor) -> Tensor:
    """The length of a difference of features [m, B, places, C]: at each place, and of the mean over places."""
    each = ((difference**2).mean(3) + 1e-6).sqrt().mean(2)
    whole = ((difference.mean(2) ** 2).mean(2) + 1e-6).sqrt()
    return (each + whole) / 2


def _in_full(h: Tensor) -> Tensor:
    """Half precision has too few digits for sums of squares."""
    return h.to(torch.promote_types(h.dtype, torch.float32))


class FeatureExtractor(nn.Module):
    """phi: the features of a network, those of each block divided by their standard deviation over some data.

    network : a copy that is trained no more. Its weights require no gradient from then on.
    at : the time of the input.
    x0 : some data, to measure the standard deviations.
    """

    scale: Tensor

    def __init__(self, network: Network, at: float, x0: Tensor):
        super().__init__()
        # no step computes gradients of these weights
        self.network, self.at = network.requires_grad_(False), at
        with torch.no_grad():
            self.register_buffer("scale", torch.stack([_in_full(h).std() for h in network.features(x0, at)]))

    def forward(self, x0: Tensor) -> list[Tensor]:
        states = self.network.features(x0, self.at)
        return [h.to(x0.dtype) / scale for h, scale in zip(states, self.scale.to(x0.dtype), strict=True)]
