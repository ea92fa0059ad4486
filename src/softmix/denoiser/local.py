"""Denoisers in closed form that know a data set through neighbourhoods of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

from ..cond import Cond, CondError
from ..posterior import Point
from ..process import Gaussian
from ..shape import column

# the pixels that count for each pixel at a time t: [D, D], true at (n, q) if pixel n counts for q
Support = Callable[["Tensor | float"], Tensor]
Share = Literal["borders", "circular"]


class LocalData:
    """The mean of a data set y_1 ... y_N for each pixel q alone, by the pixels that count for it:

        m_q = sum_i w_qi y_i,q,    w_qi ~ exp(-sum_n M_nq (x_n - alpha y_i,n)^2 / (2 sigma^2))

    points : y, [N, ...]. Channels are pixels of their own.
    support : M at each time; see `correlated` and `windows`. With all pixels it is the mean of `ExactData`.
    apart : normalise the weights within each `apart` items, and average over these parts. It is what the code of the
        paper computes, by blocks of 512, and not the equation of the paper; a control. By default the weights are those
        of the whole set.
    block : the number of items at a time. It has no effect on the result.

    The answer is a `Point`. The work is B N D^2 products.

    Raises CondError for a condition; ValueError for a schedule of each element and for times that differ.
    When to choose: to predict what a network that was trained on the data answers, without a training.
    Source: Lukoianov et al., "Locality in image diffusion models emerges from data statistics", NeurIPS 2025; with
    windows Kamb & Ganguli, "An analytic theory of creativity in convolutional diffusion models", 2024 (LS).
    """

    def __init__(self, process: Gaussian, points: Tensor, support: Support, apart: int | None = None, block: int = 512):
        if apart is not None and apart < 1:
            raise ValueError(f"weights are normalised within {apart} items: take at least 1, or None for the whole set")
        self.process, self.points, self.support = _plain(process), points, support
        self.apart, self.block = apart, min(block, apart or block)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.points.shape[1:])

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Point:
        _require_none(cond)
        alpha, sigma = _levels(self.process, xt, t)
        x, y, mask = xt.flatten(1), self.points.flatten(1).to(xt), self.support(t).to(xt)
        own, size, parts = x.square() @ mask, self.apart or len(y), list[Tensor]()
        for start in range(0, len(y), size):
            average = _RunningMean(x)
            for some in y[start : start + size].split(self.block):
                cross = torch.einsum("bn,kn,nq->bkq", x, some, mask)
                distance = own[:, None] - 2 * alpha[:, None] * cross + alpha[:, None] ** 2 * (some.square() @ mask)
                average.add(-distance / (2 * sigma[:, None] ** 2), some.expand(len(x), -1, -1))
            parts.append(average.mean())
        return Point(torch.stack(parts).mean(0).reshape(xt.shape))


class PatchData:
    """The same by square patches that may come from other places of the training images, for images [N, C, S, S]:

        m_q = sum_i,p w_q,ip y_i,p,    w_q,ip ~ exp(-|x around q - alpha y_i around p|^2 / (2 sigma^2))

    size : the odd side of a patch; a number, or a function of t.
    share : the places p of q. "borders": those at the same distance from each border, as far as a patch reaches, where
        a patch is continued by zeros (bbELS). "circular": all places, and a patch goes on at the other side (ELS).
    block : the number of images at a time. It has no effect on the result.

    The answer is a `Point`. The work is B N D^2 size^2 products for D places.

    Raises ValueError for an even size, for points that are no square images; CondError for a condition.
    When to choose: as the theory of networks of convolutions, beside `LocalData`.
    Source: Kamb & Ganguli, 2024.
    """

    def __init__(
        self,
        process: Gaussian,
        points: Tensor,
        size: int | Callable[[float], int],
        share: Share = "borders",
        block: int = 16,
    ):
        if points.ndim != 4 or points.shape[2] != points.shape[3]:
            raise ValueError(f"patches need square images [N, C, S, S]; found {list(points.shape)}")
        if share not in ("borders", "circular"):
            raise ValueError(f"patches are shared by 'borders' or 'circular'; found {share!r}")
        self.process, self.points, self.size, self.share, self.block = _plain(process), points, size, share, block
        if isinstance(size, int):
            _require_odd(size)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.points.shape[1:])

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Point:
        _require_none(cond)
        alpha, sigma = (each[:, None] for each in _levels(self.process, xt, t))
        size = self.size if isinstance(self.size, int) else self.size(float(torch.as_tensor(t).flatten()[0]))
        _require_odd(size)
        if tuple(xt.shape[1:]) != self.shape:
            raise ValueError(f"patches of images of shape {list(self.shape)} were asked for {list(xt.shape[1:])}")
        points, channels = self.points.to(xt), xt.shape[1]
        own = self._patches(xt, size)
        centre = size**2 // 2 + torch.arange(channels, device=xt.device) * size**2
        found = torch.empty_like(xt.flatten(2))
        for places in self._groups(size, xt.device):
            asked = own[:, places]
            average = _RunningMean(asked[..., :channels])
            for some in points.split(self.block):
                known = self._patches(some, size)[:, places].flatten(0, 1)
                cross = torch.einsum("bqe,pe->bpq", asked, known)
                distance = -2 * alpha * cross + alpha**2 * known.square().sum(1)[None, :, None]
                # the same number for every patch falls out of the weights
                average.add(-distance / (2 * sigma**2), known[:, centre])
            found[:, :, places] = average.mean().mT
        return Point(found.reshape(xt.shape))

    def _patches(self, images: Tensor, size: int) -> Tensor:
        """The patch around each place, [N, places, C size^2]."""
        side = [size // 2] * 4
        wide = pad(images, side, mode="circular") if self.share == "circular" else pad(images, side)
        return unfold(wide, size).mT

    def _groups(self, size: int, device: torch.device) -> Sequence[Tensor]:
        """The places that share their patches: a list of indices each."""
        side = self.points.shape[-1]
        places = torch.arange(side**2, device=device)
        if self.share == "circular":
            return [places]
        reach, line = size // 2, torch.arange(side, device=device)
        near = torch.stack([line.clamp(max=reach), (side - 1 - line).clamp(max=reach)], 1)
        kinds = torch.cat([near[places // side], near[places % side]], 1)
        _, kind = kinds.unique(dim=0, return_inverse=True)
        return [places[kind == k] for k in range(int(kind.max()) + 1)]


class _RunningMean:
    """A mean with weights exp(logits), over items that come in blocks, without overflow."""

    def __init__(self, like: Tensor):
        """like : [B, Q, ...], the shape of the mean."""
        self.most: Tensor | None = None
        self.total = torch.zeros_like(like)
        self.weight: Tensor | None = None

    def add(self, logits: Tensor, values: Tensor) -> None:
        """logits : [B, K, Q]. values : [B, K, Q], or [K, C] for all places, with a mean of [B, Q, C]."""
        most = logits.amax(1) if self.most is None else torch.maximum(self.most, logits.amax(1))
        weights = (logits - most[:, None]).exp()
        shrink = torch.zeros_like(most) if self.most is None else (self.most - most).exp()
        own = weights.sum(1)
        if values.ndim == 2:
            self.total = self.total * shrink[..., None] + torch.einsum("bkq,kc->bqc", weights, values)
        else:
            self.total = self.total * shrink + (weights * values).sum(1)
        self.weight = own if self.weight is None else self.weight * shrink + own
        self.most = most

    def mean(self) -> Tensor:
        assert self.weight is not None
        return self.total / (self.weight[..., None] if self.total.ndim > self.weight.ndim else self.weight)


def windows(shape: tuple[int, ...], size: int | Callable[[float], int]) -> Support:
    """The square of an odd side around each pixel, in all channels: LS of Kamb & Ganguli.

    shape : of an item, (C, H, W).
    size : a number, or a function of t.
    """
    channels, height, width = shape
    row, column_of = torch.arange(height)[:, None].expand(height, width), torch.arange(width).expand(height, width)
    rows, columns = (each.flatten().repeat(channels) for each in (row, column_of))

    def support(t: Tensor | float) -> Tensor:
        side = size if isinstance(size, int) else size(float(torch.as_tensor(t).flatten()[0]))
        _require_odd(side)
        apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
        return apart <= side // 2

    return support


def correlated(process: Gaussian, covariance: Tensor, threshold: float = 0.005) -> Support:
    """The pixels by which the best linear denoiser of the data answers at the time t:

        |W_nq / W_nn| >= threshold max |W_nq / W_nn|,    W = alpha^2 S (alpha^2 S + sigma^2)^(-1)

    covariance : S of the data, [D, D], in float64.
    threshold : 0.005 for grey clothes and digits, 0.02 for faces, 0.05 for CIFAR-10, in the paper's code. It divides by
        the diagonal at n, as here.

    A pixel that never varies counts for itself alone. Raises ValueError for a schedule of each element.
    """
    _plain(process)
    variances, vectors = torch.linalg.eigh(covariance.double())
    variances = variances.clamp(min=0)

    def support(t: Tensor | float) -> Tensor:
        alpha, sigma = (float(torch.as_tensor(part(t)).flatten()[0]) for part in (process.alpha, process.sigma))
        gain = alpha**2 * variances / (alpha**2 * variances + sigma**2)
        filter_of = (vectors * gain) @ vectors.mT
        diagonal = filter_of.diagonal()
        # the code of the paper has 1e-6 itself, which at high noise is above pixels that vary
        constant = diagonal < 1e-6 * diagonal.max()
        scaled = filter_of / torch.where(constant, torch.ones_like(diagonal), diagonal)[:, None]
        own = torch.eye(len(scaled), dtype=torch.bool, device=scaled.device)
        return (scaled.abs() >= threshold * scaled.abs().max()) | own

    return support


def _levels(process: Gaussian, xt: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """alpha and sigma as [1 or B, 1]. Raises ValueError for times that differ: neighbourhoods depend on t."""
    if len(torch.as_tensor(t).flatten().unique()) > 1:
        raise ValueError("a local denoiser has one time for the whole batch, because its neighbourhoods depend on it")
    alpha, sigma = (column(part(t), xt).reshape(-1, 1) for part in (process.alpha, process.sigma))
    return alpha[:1], sigma[:1]


def _require_odd(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a patch has an odd side, such as 3; {size} was asked for")


def _plain(process: Gaussian) -> Gaussian:
    """The process. Raises ValueError for an alpha of each element."""
    if process.per_element:
        raise ValueError(f"a local denoiser needs one alpha for all elements, and {type(process).__name__} has several")
    return process


def _require_none(cond: Cond | Tensor | None) -> None:
    if cond is not None:
        raise CondError("a condition was given to a local denoiser, and it knows none: give it the items of one class")
