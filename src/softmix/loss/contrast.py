"""The contrastive loss of SimCLR: a self-supervised loss of the features of two views of each image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """The normalised cross-entropy of two views of each item (NT-Xent), [B].

        l(i, j) = -log( exp(s_ij / tau) / sum over k != i of exp(s_ik / tau) ),   s_ij = cos(z_i, z_j)

    with z of the 2 B views. An item has the mean of l(i, j) and l(j, i) for its own views i and j.

    first, second : the features of the views, [B, D], B at least 2.
    temperature : tau.

    Each view is to be recognised among the views of all other items. Cosines are computed in float32 at least. Raises
    ValueError for a single item.
    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, eq. 1.
    """
    if len(first) < 2:
        raise ValueError("a contrastive loss compares the items of a batch, and found one: take a batch of at least 2")
    real = torch.promote_types(first.dtype, torch.float32)
    # products in half precision have too few digits
    with torch.autocast(first.device.type, enabled=False):
        z = nn.functional.normalize(torch.cat([first, second]).to(real), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        total = (z @ z.T / temperature).masked_fill(itself, -torch.inf).logsumexp(1)
        own, other = z.chunk(2)
        return torch.stack(total.chunk(2)).mean(0) - (own * other).sum(1) / temperature
