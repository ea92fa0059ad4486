"""Attention between the places of a state, and from places to the tokens of a condition."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd import forward_ad

from .kernels import normed, on_cpu


def heads_for(width: int) -> int:
    """The default number of heads: heads of 32 channels, or of the next larger size that divides the width."""
    return next(heads for heads in range(max(width // 32, 1), 0, -1) if width % heads == 0)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """softmax(scale q k^T) v, for q, k, v [..., places, d].

    scale : 1 / sqrt(d) if it is None.
    mask : booleans that broadcast to [..., places of q, places of k]; False excludes a place of k.

    An accelerator computes it by `scaled_dot_product_attention`, in one kernel that stores no matrix of weights. The
    CPU computes it by `written_out`. So does every device under forward-mode differentiation (`torch.func.jvp`), which
    the fused kernels do not support. For second derivatives on an accelerator choose the backend MATH by
    `torch.nn.attention.sdpa_kernel`.
    """
    if on_cpu(q) or any(_has_tangent(part) for part in (q, k, v)):
        return written_out(q, k, v, scale, mask)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def written_out(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """`attend` by matrix products, differentiable in both modes and to any order.

    On a CPU and for the few places of our nets, the backward pass of the fused kernel takes half of a training step.
    Plain matrix products take a tenth of that (docs/pitfalls.md).
    """
    alike = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        alike = alike.masked_fill(~mask, -torch.inf)
    return alike.softmax(-1) @ v


def _has_tangent(x: Tensor) -> bool:
    """Whether x carries a derivative of forward-mode differentiation."""
    return forward_ad.unpack_dual(x).tangent is not None


class Attention(nn.Module):
    """Multi-head attention, for q [B, N, width], k and v [B, M, width] -> [B, N, width]. It has no weights.

    heads : the number of heads. Channels 0 .. width / heads - 1 belong to the first head, and so on.
    scale : the factor of q k^T before the softmax; 1 / sqrt(width / heads) if it is None. It may be set at any time. A
        smaller scale spreads the attention more evenly.
    """

    def __init__(self, heads: int, scale: float | None = None):
        super().__init__()
        self.heads, self.scale = heads, scale

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, angles: Tensor | None = None
    ) -> Tensor:
        """mask : [B, M], True for places that may be attended to.
        angles : rotary positions, [N, width / heads / 2], see `turned`.
        """
        q, k, v = (rearrange(part, "b n (heads d) -> b heads n d", heads=self.heads) for part in (q, k, v))
        if angles is not None:
            q, k = turned(q, angles), turned(k, angles)
        mixed = attend(q, k, v, self.scale, None if mask is None else mask[:, None, None])
        return rearrange(mixed, "b heads n d -> b n (heads d)")


class CrossAttention(nn.Module):
    """h + W attention(q(norm(h)), k(c), v(c)): places h [B, N, width] attend to tokens c [B, L, context]."""

    def __init__(self, width: int, context: int):
        super().__init__()
        self.norm, self.q = nn.LayerNorm(width), nn.Linear(width, width)
        self.kv, self.join = nn.Linear(context, 2 * width), nn.Linear(width, width)
        self.attention = Attention(heads_for(width))

    def forward(self, h: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        k, v = self.kv(context).chunk(2, dim=-1)
        joined: Tensor = self.join(self.attention(self.q(normed(h, self.norm)), k, v, mask))
        return h + joined


def angles_of(places: int, d: int, like: Tensor) -> Tensor:
    """The angles of rotary positions, [places, d / 2]: place n turns pair i by n / 10000^(2 i / d).

    Source: Su et al., "RoFormer: Enhanced transformer with rotary position embedding", 2021, eq. 15.
    """
    real = torch.promote_types(like.dtype, torch.float32)
    freqs = 10000.0 ** (-torch.arange(0, d, 2, device=like.device, dtype=real) / d)
    return torch.arange(places, device=like.device)[:, None] * freqs


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Each pair (x_i, x_{i + d/2}) of x [..., places, d], turned by its angle.

    q_n . k_m then depends on the places only through n - m, so that a sequence may have any length.
    """
    cos, sin = (part.to(x.dtype) for part in (angles.cos(), angles.sin()))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
