"""The pictures of a report: sheets of images as PNG inside the page, and whose they are."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.store import to_uint8
from ..picture import tile, to_image
from . import plot, text
from .evaluation import Evaluation, Pictures

_COLUMNS, _ROWS, _WIDEST = 8, 4, 1100


@dataclass(frozen=True)
class Key:
    """An evaluation as the page names it: series decides its colour and sign."""

    name: str
    series: int
    evaluation: Evaluation

    @property
    def sign(self) -> str:
        return plot.SIGNS[self.series % plot.COLOURS]

    @property
    def css(self) -> str:
        return f"s{self.series % plot.COLOURS}"


@dataclass(frozen=True)
class Figure:
    """A sheet of images. key : whose, or None if everybody's; width : in CSS pixels, at most."""

    caption: str
    source: str
    alt: str
    width: int
    enlarged: bool
    key: Key | None = None
    note: str = ""


def _is_nearest(pictures: Pictures) -> bool:
    return pictures.caption.startswith("nearest")


def _captions(keys: list[Key]) -> list[str]:
    """Every caption once: what no sampler made first, then by the number of steps."""
    steps = {row.name: row.steps or 0 for key in keys for row in key.evaluation.rows}
    all_of_them = (p.caption for key in keys for p in key.evaluation.pictures if not _is_nearest(p) and len(p.images))
    return sorted(dict.fromkeys(all_of_them), key=lambda caption: steps.get(caption, 0))


def sheets(keys: list[Key]) -> list[tuple[str, list[Figure]]]:
    """(caption, a figure for each evaluation), or a single figure where all show the same."""
    groups = []
    for caption in _captions(keys):
        found = [(key, p.images) for key in keys for p in key.evaluation.pictures if p.caption == caption]
        first = found[0][1]
        if len(keys) > 1 and len(found) == len(keys) and all(torch.equal(images, first) for _, images in found):
            groups.append((caption, [_figure(caption, first, None)]))
        else:
            groups.append((caption, [_figure(caption, images, key) for key, images in found if len(images)]))
    return groups


def _figure(caption: str, images: Tensor, key: Key | None, columns: int = _COLUMNS) -> Figure:
    if images.ndim != 4:
        raise ValueError(f"pictures {caption!r} have the shape {tuple(images.shape)}; give images [N, C, H, W]")
    columns = max(1, min(columns, len(images), _WIDEST // images.shape[-1]))
    images = images[: columns * _ROWS]
    source, width = _sheet(images, columns)
    whose = f"{key.name}: " if key else ""
    factor = max(1, round(500 / width))
    alt = f"{whose}{caption}, {len(images)} images"
    return Figure(caption, source, alt, width * factor, factor > 1, key, _said_of(caption, key))


def _said_of(caption: str, key: Key | None) -> str:
    row = next((row for row in key.evaluation.rows if row.name == caption), None) if key else None
    return f"Fréchet {text.cell(row.values, 'frechet')}" if row and "frechet" in row.values else ""


def _sheet(images: Tensor, columns: int) -> tuple[str, int]:
    """The images as one PNG in a data URI, see-through between them so that the page's colour shows, and its width."""
    pixels = to_uint8(images.detach().cpu())
    gap = 2 if images.shape[-1] >= 24 else 1
    sheet = to_image(tile(pixels, columns, gap)).convert("RGB")
    # `tile` is white between images; on a sheet of black ones that is all the white there is.
    sheet.putalpha(to_image(255 - tile(torch.zeros_like(pixels[:, :1]), columns, gap)))
    file = io.BytesIO()
    sheet.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), sheet.width


def pairs(key: Key) -> Figure | None:
    """Samples, each with the training image nearest to it on its right, the closest pairs first."""
    pictures = key.evaluation.pictures
    place = next((k for k, p in enumerate(pictures) if _is_nearest(p) and len(p.images)), None)
    if place is None:
        return None
    found, samples = pictures[place], pictures[place - 1] if place else None
    if samples is None or samples.images.shape != found.images.shape:
        return _figure(found.caption, found.images, key)
    order = (samples.images - found.images).square().flatten(1).mean(1).argsort(stable=True)
    both = torch.cat([samples.images[order], found.images[order]], dim=-1)
    return _figure(found.caption, both, key, _COLUMNS // 2)
