"""The pictures of a report: grids of images, as PNG inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..data.store import to_uint8
from ..picture import tile, to_image
from . import plot, text
from .evaluation import Evaluation, Pictures

_COLUMNS, _ROWS, _WIDEST = 8, 4, 1100


@dataclass(frozen=True)
class ReportEntry:
    """An evaluation in a report.

    name : its name on the page.
    series : its number, which decides colour and sign.
    """

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
class ImageGrid:
    """A grid of images for the page.

    source : the PNG, as a data URI.
    width : the largest width, in CSS pixels.
    entry : the evaluation that it belongs to, or None if all evaluations share it.
    note : the distance printed beside the caption, or "".
    """

    caption: str
    source: str
    alt: str
    width: int
    enlarged: bool
    entry: ReportEntry | None = None
    note: str = ""


def _is_nearest(pictures: Pictures) -> bool:
    return pictures.caption.startswith("nearest")


def _captions(entries: list[ReportEntry]) -> list[str]:
    """Every caption once: real images first, then samples by the number of steps."""
    steps = {row.name: row.steps or 0 for entry in entries for row in entry.evaluation.rows}
    captions = (p.caption for e in entries for p in e.evaluation.pictures if not _is_nearest(p) and len(p.images))
    return sorted(dict.fromkeys(captions), key=lambda caption: steps.get(caption, 0))


def grids_by_caption(entries: list[ReportEntry]) -> list[tuple[str, list[ImageGrid]]]:
    """For each caption a grid for each evaluation, or a single grid if all evaluations have the same images."""
    groups = []
    for caption in _captions(entries):
        pairs = [(entry, p.images) for entry in entries for p in entry.evaluation.pictures if p.caption == caption]
        first = pairs[0][1]
        if len(entries) > 1 and len(pairs) == len(entries) and all(torch.equal(images, first) for _, images in pairs):
            groups.append((caption, [_grid(caption, first, None)]))
        else:
            groups.append((caption, [_grid(caption, images, entry) for entry, images in pairs if len(images)]))
    return groups


def _grid(caption: str, images: Tensor, entry: ReportEntry | None, columns: int = _COLUMNS) -> ImageGrid:
    if images.ndim != 4:
        raise ValueError(f"pictures {caption!r} have the shape {tuple(images.shape)}; give images [N, C, H, W]")
    columns = max(1, min(columns, len(images), _WIDEST // images.shape[-1]))
    images = images[: columns * _ROWS]
    source, width = _png(images, columns)
    owner = f"{entry.name}: " if entry else ""
    factor = max(1, round(500 / width))
    alt = f"{owner}{caption}, {len(images)} images"
    return ImageGrid(caption, source, alt, width * factor, factor > 1, entry, _note(caption, entry))


def _note(caption: str, entry: ReportEntry | None) -> str:
    row = next((row for row in entry.evaluation.rows if row.name == caption), None) if entry else None
    return f"Fréchet {text.cell(row.values, 'frechet')}" if row and "frechet" in row.values else ""


def _png(images: Tensor, columns: int) -> tuple[str, int]:
    """The images as one PNG in a data URI, and its width. The gaps are transparent and show the page's colour."""
    pixels = to_uint8(images.detach().cpu())
    gap = 2 if images.shape[-1] >= 24 else 1
    picture = to_image(tile(pixels, columns, gap)).convert("RGB")
    # `tile` makes the gaps white. In a grid of black images only the gaps are white, so it serves as a mask.
    picture.putalpha(to_image(255 - tile(torch.zeros_like(pixels[:, :1]), columns, gap)))
    return data_uri(picture), picture.width


def data_uri(picture: Image.Image) -> str:
    """A picture as a PNG inside the page."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def nearest_pairs(entry: ReportEntry) -> ImageGrid | None:
    """Samples, each beside the nearest training image on its right, the closest pairs first."""
    pictures = entry.evaluation.pictures
    index = next((k for k, p in enumerate(pictures) if _is_nearest(p) and len(p.images)), None)
    if index is None:
        return None
    near, samples = pictures[index], pictures[index - 1] if index else None
    if samples is None or samples.images.shape != near.images.shape:
        return _grid(near.caption, near.images, entry)
    order = (samples.images - near.images).square().flatten(1).mean(1).argsort(stable=True)
    both = torch.cat([samples.images[order], near.images[order]], dim=-1)
    return _grid(near.caption, both, entry, _COLUMNS // 2)
