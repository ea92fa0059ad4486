"""The head of token models: a law of the symbols at each place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..net import Net, NetSpec, TokenNet
from ..posterior import Categorical, Posterior
from .contract import Suits
from .network import Inputs


@dataclass(frozen=True)
class CategoricalHead:
    """A law of the K symbols at each place, given x_t, by a softmax. A visible token is certain.

        q(x0_l = k | x_t) = softmax_k(F_l) if x_t,l is the mask, else [k = x_t,l]

    The mask itself has no probability. Both rules are exact for masked diffusion.

    Source: Sahoo et al., "Simple and effective masked diffusion language models", NeurIPS 2024, section 3 (SUBS).
    When to choose: for the process `Masked`.
    """

    suits: ClassVar[Suits] = ("ancestral", {})
    tokens: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("masked_diffusion",)

    def channels(self, channels: int) -> int:
        """One output for each symbol."""
        return channels

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Categorical()


class _Categorical(nn.Module):
    def forward(self, net: TokenNet, given: Inputs) -> Posterior[Any]:
        logits = net.through(given.x, given.side).float().mT
        return Categorical(with_visible(logits, given.x, net.symbols))


def with_visible(logits: Tensor, xt: Tensor, symbols: int) -> Tensor:
    """logits [B, K, *places], with all probability at the token of x_t [B, *places] where it is visible."""
    visible = (xt != symbols)[:, None]
    values = torch.arange(symbols, device=xt.device).reshape(1, -1, *(1,) * (xt.ndim - 1))
    sure = torch.zeros_like(logits).masked_fill(values != xt[:, None], -torch.inf)
    return torch.where(visible, sure, logits)
