"""A picture of the maps of two conditions: the information of each pixel, alone and in four parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..picture import labelled
from .maps import InformationMaps, Prior

if TYPE_CHECKING:
    from PIL.Image import Image


def draw_maps(
    x0: Tensor, maps: InformationMaps, prior: Prior, names: tuple[str, str] = ("first", "second"), share: float = 0.99
) -> Image:
    """Images, each above its maps: i(x; y_1), i(x; y_2), and the redundant, unique and synergistic parts.

    Red is above 0 and blue below 0, with one scale for all maps, and white is 0. The caption of the images has the
    value of the full colours, in nats of a pixel.

    x0 : [B, C, H, W] in [-1, 1], of 1 or 3 channels.
    maps : of these images.
    prior : -log p(y_1 | c) and -log p(y_2 | c), as in `InformationMaps.parts`.
    names : of the two conditions, for the captions.
    share : the share of pixels below the largest colour; stronger ones have this colour too.

    Raises ValueError for maps of other items, and for a share outside (0, 1].
    When to choose: to look at a few images. The parts are by specificity and ambiguity: with equal priors two
    independent conditions are redundant too.
    """
    if x0.ndim != 4 or x0.shape[1] not in (1, 3) or maps.first.shape != (len(x0), *x0.shape[2:]):
        raise ValueError(
            f"images [B, 1 or 3, H, W] and their maps [B, H, W] were expected; found {list(x0.shape)} and "
            f"{list(maps.first.shape)}"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share is that of the pixels below the largest colour, in (0, 1]; found {share}")
    parts, (one, two) = maps.parts(prior), names
    rows = {
        f"i of {one}": maps.first,
        f"i of {two}": maps.second,
        "redundant": parts.redundant,
        f"unique {one}": parts.first,
        f"unique {two}": parts.second,
        "synergy": parts.synergy,
    }
    sizes = torch.stack(list(rows.values())).abs().flatten()
    largest = float(sizes.quantile(share)) or 1.0
    pixels = ((x0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    shown = [(name, signed_colours(each / largest)) for name, each in rows.items()]
    return labelled([(f"image, {largest:.2g} nats", pixels), *shown], least=96)


def signed_colours(values: Tensor) -> Tensor:
    """Values in [-1, 1] as colours, uint8 [B, 3, H, W]: blue at -1, white at 0, red at 1. values : [B, H, W]."""
    size = values.clamp(-1, 1)
    fade, away = 1 - size.abs(), torch.ones_like(size)
    red = torch.where(size >= 0, away, fade)
    blue = torch.where(size <= 0, away, fade)
    return (255 * torch.stack([red, fade, blue], 1)).round().to(torch.uint8)
