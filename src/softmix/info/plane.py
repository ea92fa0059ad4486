"""Points of the information plane: the bits that a hidden layer T has of the input X and of the target Y."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import Rng


@dataclass(frozen=True)
class PlanePoint:
    """I(X; T) and I(T; Y), in bits.

    x_error, y_error : the standard errors, 0 for a value without random numbers.
    """

    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0


@dataclass(frozen=True)
class NoiseBounds:
    """Bounds of I(X; T + N) and of I(T + N; Y), in bits: each (lower, upper)."""

    x: tuple[float, float]
    y: tuple[float, float]


def binned_information(
    hidden: Tensor,
    target: Tensor,
    bins: int = 30,
    ends: tuple[float, float] | None = (-1.0, 1.0),
    weights: Tensor | None = None,
) -> PlanePoint:
    """The plane of a layer whose neurons are put into bins, T~, by the frequencies over all inputs:

        I(X; T~) = H(T~),   I(T~; Y) = sum_(t, y) p(t, y) log2( p(t, y) / p(t) p(y) )

    T~ is a function of the input, so that H(T~ | X) = 0.

    hidden : the layer at each input, [N, ...]. The inputs are all that exist: with a part of them both numbers are
        those of the part.
    target : the label of each input, whole numbers [N], or p(y | x), [N, K].
    bins : of each neuron, of one width.
    ends : of the bins; None for the least and the largest value of this layer. An upper end belongs to the last bin.
    weights : p(x), [N]; by default 1 / N.

    Without bins I(X; T) of a layer that maps no two inputs to one point is H(X), whatever it learned. So the result
    is one of the bins as much as of the layer: compare several. H(T~) is at most H(X), which wide layers reach.

    Raises ValueError for values beyond the ends, and for a target or weights that are no probabilities.
    Source: Shwartz-Ziv & Tishby, "Opening the black box of deep neural networks via information", 2017.
    When to choose: to compare with published planes; `noise_bounds` for a channel that exists.
    """
    flat, of_y, p = _checked(hidden, target, weights)
    if bins < 1:
        raise ValueError(f"at least one bin is needed; found {bins}")
    found = float(flat.min()), float(flat.max())
    low, high = found if ends is None else ends
    if ends is not None and not low < high:
        raise ValueError(f"bins go from a finite number to a larger one; found {low:g} and {high:g}")
    if found[0] < low or found[1] > high:
        raise ValueError(
            f"bins from {low:g} to {high:g} were asked for, and the layer has values from {found[0]:.4g} to "
            f"{found[1]:.4g}: give wider ends, or ends=None for those of the layer"
        )
    # a constant layer with its own ends has one bin
    place = (flat - low) / (high - low) if high > low else torch.zeros_like(flat)
    cells = (place * bins).floor().clamp(max=bins - 1).long()
    index = torch.unique(cells, dim=0, return_inverse=True)[1]
    joint = torch.zeros(int(index.max()) + 1, of_y.shape[1], dtype=torch.float64, device=flat.device)
    joint.index_add_(0, index, p[:, None] * of_y)
    of_t = _bits(joint.sum(1))
    # rounding may leave less than 0
    return PlanePoint(max(of_t, 0.0), max(of_t + _bits(joint.sum(0)) - _bits(joint.flatten()), 0.0))


def noise_bounds(
    hidden: Tensor, target: Tensor, noise: float, weights: Tensor | None = None, chunk: int = 512
) -> NoiseBounds:
    """Bounds of the plane of T + N, N ~ N(0, s^2 I), by the distances of pairs of inputs, without random numbers:

        B(w, c) = -sum_i w_i log2 sum_j w_j exp( -|t_i - t_j|^2 / (c s^2) )
        B(p, 8) <= I(X; T + N) <= B(p, 2)
        I(T + N; Y) = I(X; T + N) - sum_y p(y) I(X; T + N | Y = y), with the bounds of each term

    The lower bound comes from distances of Bhattacharyya, the upper one from divergences of Kullback and Leibler. Both
    are exact for points that coincide or are far apart, in units of s. The bounds of I(T + N; Y) are not cut to
    [0, H(Y)], so that they show how loose they are.

    hidden, target, weights : as in `binned_information`.
    noise : s, the standard deviation of each element.
    chunk : inputs whose distances to all others are held at once.

    I(X; T + N) grows with the scale of T: whether training lowers it depends on s. Take several.

    Raises as `binned_information` does, and ValueError for s of 0 or less.
    Sources: Kolchinsky & Tracey, "Estimating mixture entropy with pairwise distances", Entropy 2017; Saxe et al., "On
    the information bottleneck theory of deep learning", ICLR 2018, use the upper bound for both terms of I(T; Y).
    When to choose: for a curve over training that does not jump with the bins; `noisy_information` for the value.
    """
    flat, of_y, p = _checked(hidden, target, weights)
    _require_noise(noise)
    # row 0 has the weights of all inputs, and the others those given each label that occurs
    shares = torch.cat([p[None], (p[:, None] * of_y).T])
    shares = shares[shares.sum(1) > 0]
    totals = shares.sum(1, keepdim=True)
    shares, of_label = shares / totals, totals[1:, 0]
    low, high = torch.zeros_like(shares), torch.zeros_like(shares)
    for rows, squares in _squares(flat, flat, chunk):
        near = (squares / (-8 * noise**2)).exp()
        low[:, rows] = shares @ near.T
        high[:, rows] = shares @ near.square().square().T
    bounds = [-(torch.xlogy(shares, sums).sum(1) / math.log(2)) for sums in (low, high)]
    (all_low, given_low), (all_high, given_high) = ((b[0], of_label @ b[1:]) for b in bounds)
    return NoiseBounds((float(all_low), float(all_high)), (float(all_low - given_high), float(all_high - given_low)))


def noisy_information(
    hidden: Tensor,
    target: Tensor,
    noise: float,
    rng: Rng,
    draws: int = 2,
    weights: Tensor | None = None,
    chunk: int = 512,
) -> PlanePoint:
    """The plane of T + N, N ~ N(0, s^2 I), by draws of the noise and the exact posterior over all inputs, in bits:

        I(X; T + N) = E log2( p(t | x) / p(t) ),   I(T + N; Y) = H(Y) - E H( Y | t ),
        p(x | t) = p(x) N(t; t_x, s^2 I) / p(t),   p(y | t) = sum_x p(x | t) p(y | x)

    Both are unbiased. For x_t = alpha x_0 + sigma e of a diffusion give hidden = alpha x_0 and noise = sigma: this is
    the plane of a channel that exists.

    hidden, target, weights, noise, chunk : as in `noise_bounds`.
    rng : the noise, one stream for each input.
    draws : of each input, at least 2, for the standard errors.

    Raises as `noise_bounds` does, and ValueError for fewer than two draws.
    When to choose: for the value itself; `noise_bounds` for many layers and epochs.
    """
    flat, of_y, p = _checked(hidden, target, weights)
    _require_noise(noise)
    if draws < 2:
        raise ValueError(f"{draws} draws were asked for; take two at least, for the standard errors")
    found = torch.zeros(2, draws, len(flat), dtype=torch.float64, device=flat.device)
    entropy = _bits(p @ of_y)
    for draw in range(draws):
        e = rng.child(f"draw {draw}").normal(flat.shape, torch.float64).to(flat.device)
        for rows, squares in _squares(flat + noise * e, flat, chunk):
            logs = p.log() - squares / (2 * noise**2)
            evidence = logs.logsumexp(1)
            found[0, draw, rows] = -e[rows].square().sum(1) / 2 - evidence
            posterior = (logs - evidence[:, None]).exp() @ of_y
            found[1, draw, rows] = entropy * math.log(2) - torch.special.entr(posterior).sum(1)
    values = found.mean(1) @ p / math.log(2)
    errors = (found.var(1) / draws @ p.square()).sqrt() / math.log(2)
    return PlanePoint(*values.tolist(), *errors.tolist())


def _bits(p: Tensor) -> float:
    """The entropy of probabilities, in bits."""
    return float(torch.special.entr(p).sum()) / math.log(2)


def _squares(first: Tensor, second: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """The squared distances of some rows of `first` to all of `second`, chunk by chunk."""
    for low in range(0, len(first), chunk):
        rows = slice(low, low + chunk)
        yield rows, torch.cdist(first[rows], second).square()


def _require_noise(noise: float) -> None:
    if not 0 < noise < math.inf:
        raise ValueError(f"a noise of a standard deviation above 0 is needed; found {noise}")


def _checked(hidden: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The layer [N, D], p(y | x) [N, K] and p(x) [N], float64."""
    n = len(hidden)
    flat = hidden.reshape(n, -1).double()
    if not n or not flat.shape[1] or not bool(flat.isfinite().all()):
        raise ValueError(f"a layer [N, ...] of finite numbers was expected; found {list(hidden.shape)}")
    if target.ndim == 1 and not target.is_floating_point() and len(target) == n:
        target = torch.nn.functional.one_hot(torch.unique(target, return_inverse=True)[1])
    if target.ndim != 2 or len(target) != n:
        raise ValueError(
            f"{n} whole numbers, or p(y | x) [{n}, K], were expected; found {target.dtype} {list(target.shape)}"
        )
    of_y = target.double()
    if bool((of_y < 0).any()) or float((of_y.sum(1) - 1).abs().max()) > 1e-6:
        raise ValueError("p(y | x) is at least 0 with the sum 1 for each input; found other numbers")
    p = torch.full((n,), 1 / n, dtype=torch.float64, device=flat.device) if weights is None else weights.double()
    if p.shape != (n,) or bool((p < 0).any()) or abs(float(p.sum()) - 1) > 1e-6:
        raise ValueError(f"{n} weights of at least 0 with the sum 1 were expected; found {list(p.shape)}, {p.sum():g}")
    return flat, of_y, p
