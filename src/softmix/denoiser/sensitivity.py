"""How the mean of a denoiser answers to each pixel of x_t."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import HasMean, need
from .contract import Denoiser


def jacobian(
    denoiser: Denoiser,
    xt: Tensor,
    t: Tensor | float,
    places: Sequence[int] | None = None,
    cond: Cond | Tensor | None = None,
) -> Tensor:
    """Rows of J = dm / dx_t, for the mean m of q(x0 | x_t): [B, P, *shape].

        J = alpha Cov[x0 | x_t] / sigma^2      for an exact posterior

    so that J is then symmetric, and its trace is the least squared error times alpha / sigma^2. |J| of one row is the
    sensitivity field of a pixel: it shows which pixels decide it.

    xt : [B, *shape].
    places : the P elements of m, as indices into a flattened item; by default all of them, [B, D, *shape].

    Each row costs a backward pass. Raises TypeError for a posterior without a mean.
    When to choose: to see which pixels a model uses, and how many directions it knows.
    """
    with torch.enable_grad():
        x = xt.detach().clone().requires_grad_()
        mean = need(denoiser(x, t, cond), HasMean, "jacobian").mean.flatten(1)
        chosen = range(mean.shape[1]) if places is None else places
        rows = [torch.autograd.grad(mean[:, place].sum(), x, retain_graph=True)[0] for place in chosen]
    return torch.stack(rows, 1).detach()


def reach(field: Tensor, place: int) -> float:
    """The root mean square distance of a sensitivity field from its pixel, in pixels.

        sqrt(sum_n J_qn^2 |n - q|^2 / sum_n J_qn^2)

    field : a row of `jacobian` for images, [..., C, H, W]; the leading axes are summed.
    place : q, as an index into a flattened item.
    """
    height, width = field.shape[-2:]
    weight = field.square().reshape(-1, height, width).sum(0)
    row, column = divmod(place % (height * width), width)
    rows, columns = (torch.arange(n, dtype=field.dtype, device=field.device) for n in (height, width))
    apart = (rows[:, None] - row) ** 2 + (columns - column) ** 2
    return float(((weight * apart).sum() / weight.sum()).sqrt())
