"""The page of `softmix bits`: the numbers, where in noise the bits lie, and in which elements of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.store import to_uint8
from ..picture import tile, to_image
from . import plot
from .files import write_whole_file
from .image_grid import data_uri
from .page import need_extra, render

if TYPE_CHECKING:
    from ..info import ErrorCurve, Nats

_MOST = 8
_COLOURS = ("#0b1d51", "#3f7fbf", "#f3f0e6", "#e08a3c", "#8f1d14")


@dataclass(frozen=True)
class BitsPage:
    """What the page shows.

    title : of the page.
    numbers : each line of the table. The first one is the headline.
        The maps are those of the first one.
    curve : the errors at each noise level.
    whole : whether half of the curve is the nats of whole numbers.
    items : the items of the maps, [B, C, H, W] in [-1, 1], or None for items that are no images.
    facts : what the numbers depend on.
    """

    title: str
    numbers: Sequence[tuple[str, Nats]]
    curve: ErrorCurve
    whole: bool
    items: Tensor | None
    facts: Mapping[str, str]

    def write(self, path: Path) -> Path:
        """Write the page as one html file. The same content gives the same bytes.

        Raises ImportError if matplotlib or Jinja2 is missing; they belong to the extra `report`.
        """
        need_extra(path.name)
        headline = self.numbers[0][1]
        pictures = [] if self.items is None or headline.map is None else self._pictures(self.items, headline.map)
        context = {
            "title": self.title,
            "headline": f"{headline.bits_per_dim:.3f} bits per dimension",
            "rows": [_row(name, nats) for name, nats in self.numbers],
            "chart": self._chart(headline.dims),
            "whole": self.whole,
            "pictures": pictures,
            "facts": list(self.facts.items()),
        }
        write_whole_file(path, render("bits.html.j2", context).encode())
        return path

    def _chart(self, dims: int) -> str:
        """Bits per dimension and unit of logsnr: of the model and the Gaussian, or their difference for a density."""
        x = tuple(self.curve.logsnr.tolist())
        scale = 1 / (2 * dims * math.log(2))
        if self.whole:
            lines = [
                plot.Curve(k, x, tuple((scale * each).tolist()))
                for k, each in enumerate((self.curve.model, self.curve.gaussian))
            ]
        else:
            lines = [plot.Curve(0, x, tuple((scale * (self.curve.model - self.curve.gaussian)).tolist()))]
        return plot.by_noise("levels", "bits per dimension at each noise level", "bits per dimension\nand unit", lines)

    def _pictures(self, items: Tensor, nats: Tensor) -> list[tuple[str, str]]:
        """Each item above the map of its bits. All maps have one scale."""
        shown = items[:_MOST].cpu()
        bits = nats[:_MOST].sum(1, keepdim=True).cpu() / math.log(2)
        low, high = float(bits.quantile(0.01)), float(bits.quantile(0.99))
        maps = _coloured((bits - low) / max(high - low, 1e-12))
        rows = [("items", to_uint8(shown)), (f"bits of each pixel, {low:.1f} (blue) to {high:.1f} (red)", maps)]
        return [(caption, data_uri(to_image(tile(pixels, _MOST)))) for caption, pixels in rows]


def _row(name: str, nats: Nats) -> tuple[str, str, str, str]:
    """The cells of a line: name, nats, bits, range."""
    scale = nats.dims * math.log(2)
    low, high = nats.ends
    return (
        name,
        f"{nats.mean:.2f} ± {nats.standard_error:.2f}",
        f"{nats.bits_per_dim:.4f} ± {nats.standard_error / scale:.4f}",
        f"{low:.1f} to {high:.1f}",
    )


def _coloured(share: Tensor) -> Tensor:
    """Numbers from 0 to 1, [B, 1, H, W], as colours from blue over white to red, uint8 [B, 3, H, W]."""
    rgb = [[int(name[k : k + 2], 16) for k in (1, 3, 5)] for name in _COLOURS]
    stops = torch.tensor(rgb, dtype=torch.float64, device=share.device)
    place = share.clamp(0, 1).double() * (len(stops) - 1)
    low = place.floor().long().clamp(max=len(stops) - 2)
    part = (place - low)[..., None]
    colours = stops[low] * (1 - part) + stops[low + 1] * part
    return colours[:, 0].permute(0, 3, 1, 2).round().to(torch.uint8)
