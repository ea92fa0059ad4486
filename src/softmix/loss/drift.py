"""Drifting: draws move to data and away from each other, in features of the network that learned the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor

from ..cond import Cond, CondSpec
from ..shape import cell_shares
from .energy import energy, power
from .feature import FeatureEnergy
from .pairs import all_pairs

# a force or a distance below this size counts as 0, so that equal draws give no nan
_NOTHING = 1e-12


@dataclass(frozen=True)
class FeatureDrift(FeatureEnergy):
    """`FeatureEnergy` with the drift in features (`drift_loss`) in the place of the energy score at t = 1.

        pixels S(x0) + drift L(phi(x0))

    At t = 1 all items have one posterior, so that all draws are compared with all x0 of a batch. With labels all items
    of one class have one: a draw is compared with the draws and the x0 of its class, and a draw without a label (-1)
    with all x0. (The score of pixels then compares each item with its own draws.) Other conditions are refused: with
    them each item has a posterior of its own.

    The features of each block are compared three times: at each cell of a coarse grid of `cells` x `cells` means, as
    one mean over the image, and as the whole grid. L is the mean over the three and over the blocks. Draws at other
    times have one true x0 each, and the energy scores of `FeatureEnergy`.

    drift : the weight of L. L has a size of its own, so that a small weight is needed.
    radii : the radii R of `drift_loss`.
    cells : the side of the grid of means. A larger one costs more and was no better (docs/experiments.md).

    The other parameters are those of `FeatureEnergy`.

    Only the items of one piece of a batch are compared: those of a process, or of a part (`accumulate`). Fewer are
    compared with more pieces, and samples are then farther from the data at few evaluations. Enlarge the batch with the
    number of pieces (docs/pitfalls.md).

    The loss is not proper: L is smallest for other laws too. The energy score of pixels beside it is strictly proper,
    and keeps the law near the true one.
    Sources: Deng et al., "Generative modeling via drifting", 2026, for the drift. The features of the network's own
    first half, and t = 1 of a soft mixture as the generator: softmix, docs/experiments.md.
    When to choose: for soft mixtures of images, without a condition or with labels; the preset smd takes it. On digits
    its samples were nearer to the data at 1 to 4 evaluations than those of `FeatureEnergy`, and on Fashion-MNIST of
    14 x 14 at 1 and 2 (docs/benchmarks.md).
    """

    drift: float = 0.02
    radii: tuple[float, ...] = (0.02, 0.05, 0.2)
    cells: int = 4
    cites: ClassVar[tuple[str, ...]] = ("drifting", "scoring_rules", "distributional")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drift <= 0 or self.cells < 1 or not self.radii or min(self.radii) <= 0:
            raise ValueError(
                "FeatureDrift needs a weight drift > 0, at least one cell and radii above 0 (FeatureEnergy is the loss "
                f"without drift); found drift = {self.drift}, cells = {self.cells}, radii = {self.radii}"
            )

    @property
    def proper(self) -> bool:
        return False

    @property
    def uses_features(self) -> bool:
        return True

    def fits_cond(self, spec: CondSpec) -> None:
        """Raises ValueError for conditions with which no draw would drift: any but labels."""
        if set(spec.parts) - {"label"}:
            raise ValueError(
                f"FeatureDrift compares the items of a batch, and with {spec} as condition each has a posterior of its "
                "own: take FeatureEnergy, as preset('smd', source.shape, source.cond) does"
            )

    def compares(self, cond: Cond | Tensor | None) -> bool:
        """Whether items share a posterior at t = 1: without a condition all, with labels those of one class."""
        return cond is None or isinstance(cond, Tensor) or cond.parts == ("label",)

    def _blank(
        self, draws: Tensor, x0: Tensor, features: Sequence[tuple[Tensor, Tensor]], cond: Cond | Tensor | None
    ) -> Tensor:
        """The loss of all draws at t = 1 against all x0, a number."""
        labels = cond.label if isinstance(cond, Cond) else cond
        if labels is None:
            score = all_pairs(draws.flatten(2).flatten(0, 1)[:, :, None], x0.flatten(1)[:, :, None])
            apart = None
        else:
            score = energy(draws, x0[: draws.shape[1]], lambda difference: power(difference, 1.0)).mean()
            apart = other_class(labels, draws.shape[1], draws.shape[0])
        return self.pixels * score + self.drift * self._drifts(features, apart)

    def _drifts(self, features: Sequence[tuple[Tensor, Tensor]], apart: Tensor | None) -> Tensor:
        """L, a number.

        Views of several blocks with one number of channels are compared in one call: on a GPU the time of a small
        product is that of its launch.
        """
        views = [self._views(drawn.flatten(0, 1), truth) for drawn, truth in features]
        same: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for view in chain.from_iterable(views):
            same.setdefault(view[0].shape[2], []).append(view)
        total = features[0][0].new_zeros((), dtype=torch.float32)
        for group in same.values():
            drawn, truth = (torch.cat(each) for each in zip(*group, strict=True))
            of_places = _drifts_of_places(drawn, truth, self.radii, apart)
            # each view counts once, however many places it has
            total = total + torch.stack([view.mean() for view in of_places.split([len(a) for a, _ in group])]).sum()
        return total / (3 * len(views))

    def _views(self, drawn: Tensor, truth: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What is compared of one block, of features [n, places, C] of draws and [k, places, C] of x0: the cells, the
        mean over the image, and the grid of cells as a whole."""
        a, b = (means_of_cells(h, self.cells) for h in (drawn, truth))
        whole = a.flatten(1)[None], b.flatten(1)[None]
        return [(a.transpose(0, 1), b.transpose(0, 1)), (drawn.mean(1)[None], truth.mean(1)[None]), whole]


def means_of_cells(h: Tensor, cells: int) -> Tensor:
    """The means of features [B, places, C] over the cells of a coarse grid, [B, cells^2, C].

    The places are those of a square image. Places that are not, and those of a small image, stay as they are.
    """
    side = round(h.shape[1] ** 0.5)
    if side <= cells or side**2 != h.shape[1]:
        return h
    shares = cell_shares(side, cells, h.device, h.dtype)
    return torch.kron(shares, shares) @ h


def other_class(labels: Tensor, drawn: int, m: int) -> Tensor:
    """The pairs of draws, and of a draw and an x0, that are not compared; booleans [m drawn, m drawn + B].

    labels : of the batch, [B] or [B, K]; -1 for a label that the denoiser does not get. A draw without a label is
        compared with every x0, and with the draws without one.
    drawn : the number of items with draws, the first of the batch.
    m : draws of each, in the order of `draws.flatten(0, 1)`.
    """
    labels = labels.reshape(len(labels), -1)
    own = labels[:drawn].repeat(m, 1)
    to_draws = (own[:, None] != own).any(2)
    to_data = ((own[:, None] != labels) & (own[:, None] >= 0)).any(2)
    return torch.cat([to_draws, to_data], 1)


def drift_loss(drawn: Tensor, truth: Tensor, radii: Sequence[float], apart: Tensor | None = None) -> Tensor:
    """The drifting loss of generated features against those of data; a number.

        d_ij = |g_i - y_j| / mean of |g - y|,   y = (g, p),   d_ii = infinity
        A    = (softmax over j of -d/R * softmax over i of -d/R)^(1/2)
        V_i  = sum_k A_ik[g] sum_j A_ij[p] p_j - sum_k A_ik[p] sum_j A_ij[g] g_j
        L    = mean |g - stopgrad(g + sum over R of V / rms(V))|^2,   in units of (mean of |g - y|) / sqrt(C)

    drawn : the generated features g, [places, n, C], n at least 2. Each place is compared by itself.
    truth : the features p of data, [places, k, C]. They get no gradient.
    radii : the radii R, in units of the mean distance.
    apart : the pairs that are not compared, booleans [n, n + k], draws before data; their d is infinite. Each draw is
        compared with another draw and with data at least once.

    A draw goes to near data and away from near draws, since the two sums of weights are exchanged: the weights of
    both parts have the same sum. The size of L says nothing, since every V is divided by its own size; its gradient
    gives the direction. For equal laws V is 0 in the mean. V = 0 does not imply equal laws.
    Sums are taken in float32 at least.
    """
    return _drifts_of_places(drawn, truth, radii, apart).mean()


def _drifts_of_places(drawn: Tensor, truth: Tensor, radii: Sequence[float], apart: Tensor | None) -> Tensor:
    """`drift_loss` of each place, [places]."""
    real = torch.promote_types(drawn.dtype, torch.float32)
    g, p = drawn.to(real), truth.to(real)
    with torch.no_grad(), torch.autocast(g.device.type, enabled=False):
        distance, scale = _distances(g, p, apart)
        force = torch.zeros_like(g)
        for radius in radii:
            own, data = _weights(distance, radius).split([g.shape[1], p.shape[1]], dim=2)
            pulled = own.sum(2, keepdim=True) * (data @ p) - data.sum(2, keepdim=True) * (own @ g)
            force += pulled / pulled.square().mean((1, 2), keepdim=True).sqrt().clamp_min(_NOTHING)
        unit = g.shape[2] ** 0.5 / scale
        goal = g * unit + force
    return (g * unit - goal).square().mean((1, 2))


def _distances(g: Tensor, p: Tensor, apart: Tensor | None) -> tuple[Tensor, Tensor]:
    """d [places, n, n + k], infinite for pairs that are not compared; the mean distance of a place, [places, 1, 1]."""
    n, k = g.shape[1], p.shape[1]
    itself = torch.eye(n, n + k, dtype=torch.bool, device=g.device)
    left_out = itself if apart is None else itself | apart
    distance = torch.cdist(g, torch.cat([g, p], 1)).masked_fill_(left_out, 0)
    scale = (distance.sum((1, 2), keepdim=True) / (~left_out).sum()).clamp_min(_NOTHING)
    return (distance / scale).masked_fill_(left_out, torch.inf), scale


def _weights(distance: Tensor, radius: float) -> Tensor:
    """A of `drift_loss`: the geometric mean of the softmax over the columns and over the rows."""
    logits = distance / -radius
    weights = (logits - (logits.logsumexp(2, keepdim=True) + logits.logsumexp(1, keepdim=True)) / 2).exp()
    # data of a class without a draw have a column without any pair
    return weights.masked_fill_(distance.isinf(), 0)
