"""The curve of the information bottleneck: the most that T may say of Y for what it says of X."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# the share of all other inputs in each state at the start of a beta
MIXED = 1e-3


@dataclass(frozen=True)
class BottleneckCurve:
    """I(X; T) and I(T; Y) of the best T at each beta, in bits.

    beta, x, y : [N], float64. beta is the slope dx / dy of the curve.
    limit : I(X; Y), which no T exceeds.
    """

    beta: Tensor
    x: Tensor
    y: Tensor
    limit: float

    def bound(self, x: Tensor | float) -> Tensor:
        """The largest I(T; Y) with I(X; T) = x, by the tangents of the curve:

            y <= min_beta( y_beta + (x - x_beta) / beta ),   y <= x,   y <= I(X; Y)

        For the best T at each beta no T lies above it. Between the tangents it is a little above the curve.
        """
        x = torch.as_tensor(x, dtype=torch.float64, device=self.x.device)
        tangents = self.y + (x[..., None] - self.x) / self.beta
        return torch.minimum(tangents.amin(-1), x).clamp(max=self.limit)


def bottleneck(
    p: Tensor, betas: Sequence[float], states: int | None = None, tolerance: float = 1e-10, most: int = 20_000
) -> BottleneckCurve:
    """The information bottleneck of finite X and Y, by Blahut and Arimoto's iteration:

        minimise I(X; T) - beta I(T; Y) over p(t | x)
        p(t | x) = p(t) exp( -beta KL( p(y | x) || p(y | t) ) ) / Z(x, beta)
        p(t) = sum_x p(x) p(t | x),   p(y | t) = sum_x p(y | x) p(x | t)

    beta is annealed downwards: the largest comes first, from T = X, and each next one starts at the last result. States
    that no x takes are dropped. No random numbers.

    p : joint probabilities [X, Y]. Values of X with one p(y | x) are one value: this changes no point of the curve.
    betas : above 0. At beta <= 1 the best T says nothing.
    states : the most values of T. By default as many as X has, so that T = X is the start. With fewer the start joins
        neighbours in the order of p(y | x), for two values of Y alone.
    tolerance : an iteration ends when no p(t | x) changes by more.
    most : iterations at each beta. Near a beta at which a state appears the iteration is slow.

    The points are those of some p(t | x), so that they lie on the curve or below it. The problem is not convex: another
    start could in principle find a better one.

    Raises ValueError for p that is no joint law, a beta of 0 or less, and `states` out of range.
    Source: Tishby, Pereira & Bialek, "The information bottleneck method", 1999.
    When to choose: as the bound above a plane of layers or noise levels, `gaussian_bottleneck` for Gaussians.
    """
    of_x, of_y = _classes(p)
    _require_betas(betas)
    q = _start(of_y, states)
    found: dict[float, tuple[float, float]] = {}
    for beta in sorted(set(betas), reverse=True):
        # a state that excludes a label keeps it out for ever: let each state have a little of all
        q = _converged((1 - MIXED) * q + MIXED * (of_x @ q), of_x, of_y, beta, tolerance, most)
        q = q[:, of_x @ q > 1e-14]
        q = q / q.sum(1, keepdim=True)
        found[beta] = _mutual(of_x[:, None] * q), _mutual((of_x[:, None] * q).T @ of_y)
    points = torch.tensor([found[beta] for beta in betas], dtype=torch.float64, device=p.device)
    beta_of = torch.tensor(list(betas), dtype=torch.float64, device=p.device)
    return BottleneckCurve(beta_of, points[:, 0], points[:, 1], _mutual(of_x[:, None] * of_y))


def gaussian_bottleneck(covariance: Tensor, x: list[int], y: list[int], betas: Sequence[float]) -> BottleneckCurve:
    """The information bottleneck of parts X and Y of a Gaussian vector, in closed form:

        I(X; T) = (1 / 2) sum_i log2( (beta - 1) (1 - l_i) / l_i )
        I(T; Y) = I(X; T) - (1 / 2) sum_i log2( beta (1 - l_i) )

    over the eigenvalues l_i of C_(x | y) C_x^-1 with beta > 1 / (1 - l_i).

    covariance : of the vector, [D, D]. x, y : the elements of X and of Y.
    betas : above 0.

    Raises ValueError for a beta of 0 or less.
    Source: Chechik, Globerson, Tishby & Weiss, "Information bottleneck for Gaussian variables", JMLR 2005.
    """
    _require_betas(betas)
    c = covariance.double()
    own, cross, other = c[x][:, x], c[x][:, y], c[y][:, y]
    root = torch.linalg.cholesky(own)
    # 1 - l are the squared canonical correlations, the eigenvalues of a symmetric matrix
    half = torch.linalg.solve_triangular(root, cross, upper=False)
    told = torch.linalg.eigvalsh(half @ torch.linalg.solve(other, half.T)).clamp(0, 1)
    told = told[told > 1e-14]
    beta = torch.tensor(list(betas), dtype=torch.float64, device=told.device)[:, None]
    active = beta * told > 1
    of_x = torch.where(active, (beta - 1) * told / (1 - told), 1.0).log2().sum(1) / 2
    of_y = of_x - torch.where(active, beta * told, 1.0).log2().sum(1) / 2
    return BottleneckCurve(beta[:, 0], of_x, of_y, -float(torch.log2(1 - told).sum()) / 2)


def _require_betas(betas: Sequence[float]) -> None:
    if not betas or not all(0 < beta < math.inf for beta in betas):
        raise ValueError(f"each beta is a finite number above 0; found {list(betas)}")


def _mutual(joint: Tensor) -> float:
    """I of joint probabilities [A, B], in bits."""
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    # a sum of terms of both signs: rounding may leave less than 0
    return max(0.0, float(torch.xlogy(joint, torch.where(joint > 0, joint / product, 1.0)).sum()) / math.log(2))


def _classes(p: Tensor) -> tuple[Tensor, Tensor]:
    """p(x) and p(y | x) of the different p(y | x), in their order, float64."""
    if p.ndim != 2 or not p.is_floating_point() or bool((p < 0).any()) or abs(float(p.double().sum()) - 1) > 1e-6:
        raise ValueError(f"joint probabilities [X, Y] with the sum 1 were expected; found {p.dtype} {list(p.shape)}")
    p = p.double()[p.sum(1) > 0]
    of_y = p / p.sum(1, keepdim=True)
    # equal up to rounding
    index = torch.unique((of_y * 1e12).round(), dim=0, return_inverse=True)[1]
    joint = torch.zeros(int(index.max()) + 1, p.shape[1], dtype=torch.float64, device=p.device).index_add_(0, index, p)
    of_x = joint.sum(1)
    return of_x, joint / of_x[:, None]


def _start(of_y: Tensor, states: int | None) -> Tensor:
    """p(t | x) before the first iteration, [X, T]."""
    classes, labels = of_y.shape
    if states is None or states >= classes:
        return torch.eye(classes, dtype=torch.float64, device=of_y.device)
    if states < 1 or labels > 2:
        raise ValueError(
            f"{states} states were asked for, of {classes} different p(y | x) with {labels} labels; leave out "
            "`states`, or give at least 1 for two labels"
        )
    group = torch.arange(classes, device=of_y.device) * states // classes
    return torch.nn.functional.one_hot(group, states).double()


def _converged(q: Tensor, of_x: Tensor, of_y: Tensor, beta: float, tolerance: float, most: int) -> Tensor:
    """p(t | x) after the iterations at one beta, [X, T]."""
    negative = torch.xlogy(of_y, of_y).sum(1, keepdim=True)
    for _ in range(most):
        joint = of_x[:, None] * q
        of_t = joint.sum(0)
        given = (joint.T @ of_y) / of_t.clamp(min=1e-300)[:, None]
        # a label that a state excludes has an infinite divergence from each x that has it
        logs = torch.where(given > 0, given, 1.0).log()
        excluded = of_y @ (given <= 0).double().T > 0
        divergence = (negative - of_y @ logs.T).masked_fill(excluded, math.inf)
        new = (of_t.log() - beta * divergence).softmax(1)
        change = float((new - q).abs().max())
        q = new
        if change < tolerance:
            break
    return q
