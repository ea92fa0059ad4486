"""The entropy of the spectrum of a diffusion over points, and the information that labels give of it."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ..rng import Rng

Operator = Literal["released", "published"]


def relative_width(x: Tensor, factor: float = 1.0) -> float:
    """`factor` times the median distance of two points, [N, ...]: a width that follows the scale of the points."""
    return factor * float(torch.pdist(x.flatten(1).double()).median())


def spectral_entropy(x: Tensor, width: float, power: float = 1.0, operator: Operator = "released") -> float:
    """Diffusion spectral entropy (DSE) of points, in bits:

        G_ij = exp(-|x_i - x_j|^2 / (2 width^2)),   K = D^-1/2 G D^-1/2,   D = diag(G 1)
        p_i = |l_i|^power / sum_j |l_j|^power  for the eigenvalues l of the operator,   DSE = -sum_i p_i log2 p_i

    x : [N, ...], at most some thousand points: the work grows with N^3.
    width : sigma, in the unit of x. It decides the result: from log2 N for a width below all distances to 0 for one
        above. If x grows, as hidden states do in training, an entropy at one width grows with it; compare with
        `relative_width`.
    power : t, the steps of the diffusion.
    operator : "released" is K, as in the authors' code, similar to the random walk D^-1 G; "published" is the paper's
        diag(K 1)^-1 K, which takes the density of the points out.

    k tight clusters far apart have exactly log2 k. Raises ValueError for fewer than two points and for numbers out of
    range.
    Source: Liao et al., "Assessing neural network representations during training using noise-resilient diffusion
    spectral entropy", CISS 2024, and their code.
    When to choose: to follow hidden states over noise levels or training, with the controls of scale beside it.
    """
    if len(x) < 2 or not (width > 0 and power > 0):
        raise ValueError(
            f"an entropy needs two points, and a width and a power above 0; found {len(x)}, {width} and {power}"
        )
    if operator not in get_args(Operator):
        raise ValueError(f"the operator {operator!r} was asked for; there are {', '.join(get_args(Operator))}")
    flat = x.flatten(1).double()
    # the matrix product of cdist would lose the digits of near points
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = _normalised((-(distance**2) / (2 * width**2)).exp())
    if operator == "published":
        # similar to diag(K 1)^-1 K, and symmetric
        kernel = _normalised(kernel)
    size = torch.linalg.eigvalsh(kernel).abs() ** power
    p = size / size.sum()
    return float(torch.special.entr(p).sum()) / math.log(2)


def spectral_information(
    x: Tensor,
    labels: Tensor,
    width: float,
    rng: Rng,
    draws: int = 5,
    power: float = 1.0,
    operator: Operator = "released",
) -> float:
    """Diffusion spectral mutual information (DSMI) of points and labels, in bits:

        sum_b p(b) [ DSE(A*_b) - DSE(A | label = b) ]

    A*_b are as many points as class b has, drawn from all, the mean over `draws` draws: entropies of sets of unequal
    size cannot be compared.

    x : [N, ...]. labels : [N], whole numbers. Classes of one point are left out, and p(b) is over the others.
    rng : of one item, for the draws, which differ from class to class.

    Raises ValueError for labels of another length, for no draw, and if no class has two points.
    Source: as `spectral_entropy`.
    """
    if labels.shape != (len(x),) or labels.is_floating_point():
        raise ValueError(f"one whole number for each of {len(x)} points was expected; found {list(labels.shape)}")
    if draws < 1:
        raise ValueError(f"at least one draw of all points is needed for each class; found {draws}")
    total, count = 0.0, 0
    for label in labels.unique().tolist():
        own = x[labels == label]
        if len(own) < 2:
            continue
        within = spectral_entropy(own, width, power, operator)
        among = 0.0
        for draw in range(draws):
            order = rng.child(f"class {label}, draw {draw}").uniform((1, len(x)), torch.float64)[0].argsort()
            among += spectral_entropy(x[order[: len(own)].to(x.device)], width, power, operator) / draws
        total, count = total + len(own) * (among - within), count + len(own)
    if not count:
        raise ValueError("no class has two points, so that none has an entropy")
    return total / count


def _normalised(kernel: Tensor) -> Tensor:
    """D^-1/2 G D^-1/2 with D = diag(G 1)."""
    root = kernel.sum(1).rsqrt()
    return root[:, None] * kernel * root
