"""The task `DenoiseModalities`: one diffusion of several modalities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..cond import CondSpec, Part
from ..data import Source, mirrored
from ..denoiser import MixtureHead, Modalities, Modality, NormalHead, PointHead
from ..denoiser.modalities import AGGREGATE, ITEM
from ..loss import Likelihood, LossSpec, Square
from ..posterior import Categorical, HasMean, Posterior, need
from ..process import VE, VP, Flow, Gaussian
from ..sampler import sample_modalities
from .denoise import AnyHead, Denoise
from .noise_times import least_time, times
from .task import Batch, demand

if TYPE_CHECKING:
    from .record import Facts


@dataclass(frozen=True)
class DenoiseModalities(Denoise):
    """Train one diffusion of x together with its label, image or values (MT-Diffusion).

        z_0 = w x + sum_i w_i E_i(x^i),   z_t = alpha z_0 + sigma eps
        L = L_z(q(z_0 | z_t), z_0) + lambda |x_hat - x|^2 + sum_i lambda_i L_i(q(x^i | z_t), x^i)

    L_z is `loss`. L_i is -log q in nats for a label, and the mean squared error for x, an image and values.

    x, label, image, value : the modalities, w and lambda of each. None: it does not take part. All labels of a source
        take part together.
    process, net, head, loss, output, times, flip : as in `Denoise`, for z: plain processes, PointHead, NormalHead or
        MixtureHead, and the losses Square and Likelihood.

    A label adds a pattern to z_0, which is visible in z_t at little noise. The accuracy of its decoder there measures
    the pattern; measure the agreement of x and label in samples.

    The result is a `softmix.denoiser.Modalities`. `sample(model.denoiser, n)` draws x, and
    `softmix.sampler.sample_modalities(model.denoiser, n)` all modalities. A given label:
    `softmix.measure.guided_by_label`.

    Raises ValueError without a modality beside x, for one that the data do not offer, for an image or values of the
    data that are neither a modality nor left out of them, and for other losses and heads.
    When to choose: for items with a label or other data of their own, where one model shall draw both.
    Source: Chen et al., "Diffusion models for multi-modal generative modeling", ICLR 2024.
    """

    model_settings: ClassVar[tuple[str, ...]] = ("net", "head", "output", "x", "label", "image", "value")

    head: AnyHead = field(default_factory=PointHead)
    loss: LossSpec = field(default_factory=lambda: Square("v"))
    drop: float = 0.0
    x: Modality = field(default_factory=Modality)
    label: Modality | None = None
    image: Modality | None = None
    value: Modality | None = None
    cites_own: ClassVar[tuple[str, ...]] = ("mt_diffusion",)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = type(self).__name__
        demand(
            isinstance(self.process, VP | VE | Flow),
            f"{own} takes VP, VE or Flow; found {type(self.process).__name__}",
        )
        demand(
            isinstance(self.loss, Square | Likelihood),
            f"{own} takes the losses Square and Likelihood for z; found {type(self.loss).__name__}",
        )
        demand(
            isinstance(self.head, PointHead | NormalHead | MixtureHead),
            f"{own} takes PointHead, NormalHead and MixtureHead for z; found {type(self.head).__name__}",
        )
        demand(bool(self._chosen), f"{own} is for several modalities: give label, image or value a Modality")
        demand(self.curriculum is None, f"{own} has several losses, and a curriculum orders those of one: leave it out")
        demand(
            not self.classes and self.drop == 0,
            f"{own} draws labels, and takes none as a condition: leave `classes` and `drop` out, and give label a "
            "Modality",
        )

    @property
    def cites(self) -> tuple[str, ...]:
        return (*self.cites_own, *super().cites)

    @property
    def _chosen(self) -> dict[Part, Modality]:
        """The modalities beside x, by the part of a condition that holds them."""
        found: dict[Part, Modality | None] = {"label": self.label, "image": self.image, "value": self.value}
        return {part: each for part, each in found.items() if each is not None}

    def of_names(self, spec: CondSpec) -> dict[str, Modality]:
        """Every modality by its name: "x", the name of each label, "image", "value"."""
        names: dict[str, Modality] = {ITEM: self.x}
        for part, each in self._chosen.items():
            own = [name for name, _ in spec.labels] if part == "label" else [part]
            names |= dict.fromkeys(own, each)
        return names

    def cond_spec(self, source: Source) -> CondSpec:
        """The modalities of the source beside x."""
        offered, chosen = source.cond, self._chosen
        lacking = [part for part in chosen if part not in offered.parts]
        if lacking:
            raise ValueError(
                f"{' and '.join(lacking)} was asked for as a modality, and {source.name} has {offered}: leave it out, "
                "or give data with it"
            )
        unused = [part for part in offered.parts if part != "label" and part not in chosen]
        if unused:
            raise ValueError(
                f"{source.name} has {' and '.join(unused)}, which this model would not use: make it a modality, as in "
                "image=Modality(), or leave it out of the data"
            )
        if getattr(source, "vocabulary", 0):
            raise ValueError(f"{source.name} holds tokens, and {type(self.process).__name__} adds noise to numbers")
        if self.flip and not source.is_image:
            raise ValueError(f"flip was asked for, and {source.name} holds no images to be mirrored; leave `flip` off")
        return offered.only(list(chosen))

    def build(self, facts: Facts) -> nn.ModuleDict:
        spec = facts.cond_spec
        weights = {name: each.weight for name, each in self.of_names(spec).items()}
        low = max(least_time(self), 1e-5)
        process = cast(Gaussian, self.process)
        model = Modalities(process, self.net, self.head, facts.shape, spec, weights, self.output, facts.data_sd, low)
        return nn.ModuleDict({"model": model})

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        model = cast(Modalities, modules["model"])
        x0, cond = batch.read(source)
        if self.flip:
            x0, cond = mirrored(x0, cond, batch.rng.child("flip"))
        parts = model.aggregation.parts(x0, cond)
        noised = model.process.noise(model.aggregation(parts), times(self, batch), batch.rng.child("noise"))
        joint = model.joint(noised.xt, noised.t).parts
        loss = cast(Any, self.loss)(joint[AGGREGATE], noised, batch.rng.child("loss"))
        for name, each in self.of_names(model.spec).items():
            loss = loss + each.scale * _error(joint[name], parts[name])
        return cast(Tensor, loss)

    def picture(self, result: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        """16 samples of 8 steps: x, and below them the second images, if there are any."""
        parts = sample_modalities(result, 16, 8, sampler=self.suited(result), seed=seed, device=device)
        image = parts.get("image")
        if image is None or image.shape != parts[ITEM].shape:
            return parts[ITEM]
        return torch.cat([parts[ITEM], image])


def _error(posterior: Posterior, truth: Tensor) -> Tensor:
    """-log q of a label, 0 for one that is not given; the mean squared error of numbers, [B]."""
    if isinstance(posterior, Categorical):
        given = truth >= 0
        return torch.where(given, -posterior.log_prob(truth.clamp(min=0)), 0.0)
    return (need(posterior, HasMean, "a decoder").mean - truth).square().flatten(1).mean(1)
