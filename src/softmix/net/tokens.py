"""The transformer block of `DiT` and `SequenceNet`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, CrossAttention, angles_of, heads_for
from .base import Modulation, SideInputs, State
from .kernels import modulated


def checked_heads(who: str, width: int, heads: int) -> int:
    """The number of heads; for 0 the default of the width. Raises ValueError if it does not divide the width."""
    heads = heads or heads_for(width)
    if width % heads:
        raise ValueError(f"{heads} heads were asked for in {who} of width {width}; give a number that divides it, or 0")
    return heads


class TokenBlock(nn.Module):
    """h + W_out [attention(q, k, v), relu(u)] with [q, k, v, u] = W_in y, y = scale * norm(h) + shift.

    Attention and the two-layer MLP run side by side (Dehghani et al. 2023): one norm, one modulation and two large
    matrix products per block, which a CPU computes fast. Exponentials are slow on a CPU, hence relu. Then the tokens
    attend to the context, if there is one (`CrossAttention`).

    context : the width of a token of the context, 0 for none.
    rotary : whether q and k are turned by their places. Without it the tokens have to contain their positions.
    """

    def __init__(self, width: int, embed_width: int, heads: int, context: int = 0, rotary: bool = False):
        super().__init__()
        self.width, self.rotary, self.attention = width, rotary, Attention(heads)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.enter, self.leave = nn.Linear(width, 7 * width), nn.Linear(5 * width, width)
        self.modulation = Modulation(embed_width, width, 2)
        self.cross = CrossAttention(width, context) if context else None

    def forward(self, state: State, side: SideInputs) -> State:
        (h,) = state
        scale, shift = self.modulation.of(side)
        y = self.enter(modulated(h, self.norm, scale, shift))
        q, k, v, u = y.split([*(self.width,) * 3, 4 * self.width], dim=-1)
        mixed = self.attention(q, k, v, angles=self._angles(h, side))
        h = h + self.leave(torch.cat([mixed, nn.functional.relu(u)], dim=-1))
        if self.cross is not None and side.context is not None:
            h = self.cross(h, side.context, side.mask)
        return (h,)

    def _angles(self, h: Tensor, side: SideInputs) -> Tensor | None:
        if not self.rotary:
            return None
        return angles_of(h.shape[1], self.width // self.attention.heads, h) if side.angles is None else side.angles
