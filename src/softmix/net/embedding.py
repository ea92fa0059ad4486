"""Embeddings of the noise level and the conditions: a vector per item, image channels, or tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, Cond, CondSpec, as_cond


def waves(x: Tensor, freqs: Tensor) -> Tensor:
    """x [B, D] -> [x, sin(x f), cos(x f)] for each frequency f, [B, D (1 + 2 F)]."""
    phase = (x[..., None] * freqs).flatten(1)
    return torch.cat([x, phase.sin(), phase.cos()], dim=1)


class Embedding(nn.Module):
    """logsnr, and the labels and real numbers of a condition if there are any -> [B, width].

    Fourier features of logsnr, with frequencies from 1/8 to 4 in geometric steps, and two layers. The vector of each
    class of each label is added. The class -1 stands for "not given" and has a vector of its own, so that guidance can
    be trained and used. Real numbers: see `Values`. Tokens of a context: see `Tokens`, stored here as `context`.

    cond : the conditions of the net.
    features : the number of Fourier features.
    """

    freqs: Tensor

    def __init__(self, width: int, cond: CondSpec = UNCONDITIONED, features: int = 32):
        super().__init__()
        self.cond = cond
        self.register_buffer("freqs", torch.logspace(math.log10(1 / 8), math.log10(4), features // 2))
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        # the table of the first label, then that of the second, ...; the last row of each is for "not given"
        rows = sum(count + 1 for _, count in cond.labels)
        self.classes = nn.Embedding(rows, width) if rows else None
        self.values = Values(cond.values, width) if cond.values else None
        self.context = Tokens(cond.context) if cond.context else None

    def forward(self, logsnr: Tensor, cond: Cond | Tensor | None = None) -> Tensor:
        """cond : a condition, or a tensor of labels. Parts that the embedding does not support are ignored here."""
        phase = logsnr.clamp(-20, 20)[:, None] * self.freqs / 2
        out: Tensor = self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))
        given = cond if isinstance(cond, Cond) else as_cond(cond) or Cond()
        if self.classes is not None:
            out = out + self._classes(given.label, logsnr, self.classes)
        if self.values is not None:
            out = out + self.values(given.value, logsnr)
        return out

    def _classes(self, label: Tensor | None, logsnr: Tensor, table: nn.Embedding) -> Tensor:
        """The sum of the vectors of all labels."""
        counts = [count for _, count in self.cond.labels]
        columns = (None,) * len(counts) if label is None else (label,) if label.ndim == 1 else label.unbind(1)
        vectors, first = [], 0
        for column, count in zip(columns, counts, strict=True):
            if column is None:
                row = torch.full_like(logsnr, count, dtype=torch.long)
            else:
                row = column.long().masked_fill(column < 0, count)
                # an unknown class would read the row of another label; an index beyond the table raises on every device
                row = row.masked_fill(column >= count, table.num_embeddings)
            vectors.append(table(row + first if first else row))
            first += count + 1
        return vectors[0] if len(vectors) == 1 else torch.stack(vectors).sum(0)


class Values(nn.Module):
    """Real numbers v [B, K] -> [B, width]: two layers over the number itself and its sines at periods 16, 16/2, ...

    Both are needed. Two layers on the number itself learn fine structure slowly, and sines alone give v and v + 16 the
    same meaning. Give the numbers in units of their standard deviation. A learned vector replaces a number that is not
    given (nan), so that any of them may be missing.
    """

    freqs: Tensor

    def __init__(self, count: int, width: int, frequencies: int = 8):
        super().__init__()
        self.register_buffer("freqs", torch.arange(1, frequencies + 1) * (2 * math.pi / 16))
        self.none = nn.Parameter(torch.randn(count, 1 + 2 * frequencies))
        self.layers = nn.Sequential(nn.Linear(self.none.numel(), width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, value: Tensor | None, logsnr: Tensor) -> Tensor:
        """logsnr : [B], for the batch size, dtype and device."""
        if value is None:
            features = self.none.expand(len(logsnr), *self.none.shape)
        else:
            value = value.to(logsnr)
            lacking = value.isnan()
            known = value.masked_fill(lacking, 0)
            features = waves(known.reshape(-1, 1), self.freqs).unflatten(0, known.shape)
            features = torch.where(lacking[..., None], self.none, features)
        out: Tensor = self.layers(features.flatten(1))
        return out


class Tokens(nn.Module):
    """Tokens [B, L, D] -> [B, 1 + L, D] for cross-attention: the given tokens after a learned one.

    The learned token is always there, so that an item without a context is well defined. Masked places are ignored, and
    may hold nan. The tokens are not normalised, since a norm over a few numbers would lose information: give them at
    about unit size.
    """

    def __init__(self, width: int):
        super().__init__()
        self.none = nn.Parameter(torch.randn(width))

    def forward(self, context: Tensor | None, mask: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens and their mask [B, 1 + L], None if all are used.

        like : [B], for the batch size, dtype and device.
        """
        first = self.none.expand(len(like), 1, -1)
        if context is None:
            return first, None
        context = context.to(like)
        if mask is None:
            return torch.cat([first, context], dim=1), None
        mask = mask.to(device=like.device, dtype=torch.bool)
        rest = context.masked_fill(~mask[..., None], 0)
        return torch.cat([first, rest], dim=1), torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)


def with_given(image: Tensor | None, x: Tensor, channels: int, axis: int) -> Tensor:
    """The image of a condition, and one channel that is 1 at given places and 0 at nan, along the channel axis of x.

    image : [B, C', *size], nan in all channels or in one at places that are not given; None if no item has one.
    x : the state beside it, [B, C, *size], or with the channels at another axis.
    channels : C'.
    axis : the axis of the channels.
    """
    shape = list(x.shape)
    shape[axis] = channels + 1
    if image is None:
        return x.new_zeros(shape)
    lacking = image.isnan().any(axis, keepdim=True)
    return torch.cat([image.masked_fill(lacking, 0).to(x), (~lacking).to(x)], dim=axis)


def image_channels(cond: CondSpec) -> int:
    """The number of channels that an image condition adds to x: its own, and one that marks the given places."""
    return cond.image + 1 if cond.image else 0
