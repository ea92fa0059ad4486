"""Conditions with nothing given, for trials of a model."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..cond import Cond, CondSpec
from ..process import Interpolant, Process


def nothing_given(
    cond_spec: CondSpec, shape: tuple[int, ...], n: int, device: torch.device | str = "cpu"
) -> Cond | None:
    """A condition of n items with nothing given; None for a model without conditions."""
    if not cond_spec.parts:
        return None
    columns = (n,) if len(cond_spec.labels) == 1 else (n, len(cond_spec.labels))
    label = torch.full(columns, -1, device=device) if cond_spec.labels else None
    # images have their channels first, sequences last
    size = (shape[0], cond_spec.image) if len(shape) == 2 else (cond_spec.image, *shape[1:])
    image = torch.full((n, *size), torch.nan, device=device) if cond_spec.image else None
    value = torch.full((n, cond_spec.values), torch.nan, device=device) if cond_spec.values else None
    context = torch.zeros(n, 1, cond_spec.context, device=device) if cond_spec.context else None
    mask = torch.zeros(n, 1, dtype=torch.bool, device=device) if cond_spec.context else None
    return Cond(label, image, value, context, mask)


def trial_condition(
    process: Process, cond_spec: CondSpec, shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> Cond | None:
    """A condition of one item for a trial: with nothing given, but for the item at which a process starts, zeros."""
    cond = nothing_given(cond_spec, shape, 1, device)
    if cond is None or not isinstance(process, Interpolant):
        return cond
    return replace(cond, **{part: getattr(cond, part).nan_to_num(0.0) for part in cond.parts})
