"""A known label, for a model of several modalities."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..denoiser import Denoiser, Wrap, modalities_of
from ..denoiser.modalities import AGGREGATE
from ..denoiser.wrap import Wrapped
from ..posterior import Categorical, HasMean, Joint, Point, Posterior, need
from .guide import guided_by_gradient


class _WithLabel(Point):
    """The mean of z_0, with the law of the label."""

    def __init__(self, joint: Joint, name: str):
        super().__init__(need(joint.parts[AGGREGATE], HasMean, "guided_by_label").mean)
        self.law = cast(Categorical, joint.parts[name])


def guided_by_label(label: int | Tensor, scale: float = 1.0, name: str | None = None) -> Wrap:
    """A given label, by the gradient of its decoder:

        E[z_0 | z_t, label] = E[z_0 | z_t] + scale (sigma_t^2 / alpha_t) grad log q(label | z_t)

    With scale 1 this is exact for exact decoders (Tweedie's formula and Bayes' rule). No further network is needed.

    label : a class for all items, or one for each, [B].
    name : of the label, if there are several.

    The result draws z, as before: its samples have every modality. Limit it to logsnr above about -6 by `within`: at
    more noise the factor sigma^2 / alpha enlarges the errors of a network. A call costs one evaluation and one backward
    pass. Raises TypeError for a model of one modality, ValueError for another label, class, or number of classes.
    When to choose: to draw items of one class from a model that was trained on items and labels together.
    Sources: Chen et al., ICLR 2024, for the decoder; Dhariwal & Nichol, "Diffusion models beat GANs on image
    synthesis", NeurIPS 2021, for the gradient.
    """

    def wrap(denoiser: Denoiser) -> Denoiser:
        model = modalities_of(denoiser, "guided_by_label")
        if denoiser is not model:
            raise TypeError(
                "guided_by_label reads the laws of all modalities, which a wrap does not pass on: give the model "
                f"itself, and {type(denoiser).__name__} around this one"
            )
        labels = dict(model.spec.labels)
        own = name if name is not None else next(iter(labels), None)
        if own not in labels or (name is None and len(labels) > 1):
            raise ValueError(f"give the name of a label, as name=...; this model has {', '.join(labels) or 'none'}")
        _check_classes(label, labels[own], own)

        def log_evidence(posterior: Posterior, t: Tensor | float) -> Tensor:
            law = cast(_WithLabel, posterior).law
            count, device = len(law.log_probabilities), law.log_probabilities.device
            wanted = label.to(device) if isinstance(label, Tensor) else torch.full((count,), label, device=device)
            if wanted.ndim and len(wanted) not in (1, count):
                raise ValueError(
                    f"{len(wanted)} labels were given for {count} items: give one for each, and run all items in one "
                    "batch, `sample(..., batch=n)`"
                )
            return law.log_prob(wanted.expand(count))

        with_label = Wrapped(model, lambda inner, zt, t, cond: _WithLabel(model.joint(zt, t, cond), own))
        return guided_by_gradient(with_label, log_evidence, scale, "guided_by_label")

    return wrap


def _check_classes(label: int | Tensor, count: int, name: str) -> None:
    """On a CPU alone: on an accelerator the comparison would wait for the device."""
    if isinstance(label, Tensor) and (label.is_floating_point() or label.ndim > 1):
        raise ValueError(f"classes of {name} were expected, whole numbers [B]; found {label.dtype} {list(label.shape)}")
    if not isinstance(label, Tensor) or label.device.type == "cpu":
        least, most = (label, label) if isinstance(label, int) else (int(label.min()), int(label.max()))
        if not 0 <= least <= most < count:
            raise ValueError(f"{name} has the classes 0 to {count - 1}; found {least if least < 0 else most}")
