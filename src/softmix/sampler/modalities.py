"""Samples of all modalities of a joint diffusion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..denoiser.modalities import modalities_of
from ..denoiser.wrap import Wrapped
from ..memory import in_batches
from .drive import batch_for, sample


class _Undecoded(Wrapped):
    """A denoiser of z, whose samples stay z."""

    x_of = None

    def __init__(self, inner: Denoiser):
        super().__init__(inner, lambda denoiser, zt, t, cond: denoiser(zt, t, cond))


def sample_aggregate(denoiser: Denoiser, n: int, steps: int = 8, **settings: Any) -> Tensor:
    """Samples of z_0 = sum_i w_i E_i(x^i), [n, *shape], from a model of several modalities, or a wrap of one.

    settings : those of `sample`, and a start in the space of z.
    """
    modalities_of(denoiser, "sample_aggregate")
    return sample(_Undecoded(denoiser), n, steps, **settings)


def sample_modalities(denoiser: Denoiser, n: int, steps: int = 8, **settings: Any) -> dict[str, Tensor]:
    """n samples of all modalities: "x" [n, *shape], each label by its name [n], "image" and "value".

    denoiser : a `Modalities`, or a wrap of it, such as `guided_by_label`.
    settings : those of `sample`.

    A path of z_t is walked to its end, and every decoder reads z there: its mean, or its most probable label.
    Raises TypeError for a denoiser of one modality.
    """
    model = modalities_of(denoiser, "sample_modalities")
    z = sample_aggregate(denoiser, n, steps, **settings)
    batch = settings.get("batch") or batch_for(z.device, model.shape)
    found = in_batches(lambda low, high: model.decode(z[low:high]), n, batch, "item")
    if not found:
        none = model.decode(z.new_zeros(1, *z.shape[1:]))
        return {name: part[:0] for name, part in none.items()}
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}
