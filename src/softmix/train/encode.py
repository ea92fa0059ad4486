"""Tasks that learn an encoder of images from the data at hand: from views without labels, or from labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from ..cond import Cond, CondSpec
from ..data import Source, random_view
from ..loss import Group, ImageEncoder, image_encoder, nt_xent
from .task import Batch, Task

if TYPE_CHECKING:
    from .record import Facts


@dataclass(frozen=True)
class _EncoderTask(Task):
    """An encoder, and a head on the mean of its features over places.

    width : of the first layer of the encoder.
    """

    width: int = 32
    model_settings: ClassVar[tuple[str, ...]] = ("width",)

    def groups(self) -> Mapping[str, Group]:
        return {"head": Group()}

    def result(self, model: nn.Module, facts: Facts, step: int) -> ImageEncoder:
        return cast(ImageEncoder, model)

    def _made(self, facts: Facts, head: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict({"model": image_encoder(facts.shape, self.width), "head": head})


@dataclass(frozen=True)
class LearnEncoder(_EncoderTask):
    """Learn an encoder of images without labels: two views of an image recognise each other (SimCLR).

        loss = nt_xent(e(mean f(x')), e(mean f(x'')))

    f is the encoder, the mean is over places, e is a head of two layers that is used in training alone, and x',
    x'' are two views by `softmix.data.augment.random_view`.

    width : of the first layer of the encoder, which gives 2 width features.
    head : the width of the head.

    The loss compares the items of a batch, which is never divided: take 128 or more.

    The result is an `ImageEncoder`. Raises ValueError for data without images.
    Source: see `softmix.loss.nt_xent`. The views are simpler than those of SimCLR, which are for photographs.
    When to choose: by `learn_encoder`, for `Align` without an encoder from elsewhere.
    """

    head: int = 128
    cites: ClassVar[tuple[str, ...]] = ("simclr",)

    @property
    def whole(self) -> bool:
        return True

    def cond_spec(self, source: Source) -> CondSpec:
        _require_images(source)
        return super().cond_spec(source)

    def build(self, facts: Facts) -> nn.ModuleDict:
        layers = nn.Linear(2 * self.width, self.head), nn.SiLU(), nn.Linear(self.head, self.head)
        return self._made(facts, nn.Sequential(*layers))

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        x0 = batch.read(source)[0]
        first, second = (_headed(modules, random_view(x0, batch.rng.child(f"view.{k}"))) for k in range(2))
        return nt_xent(first, second)


@dataclass(frozen=True)
class LearnClasses(_EncoderTask):
    """Learn an encoder of images from their class labels: cross-entropy of a linear layer on its mean features.

    It sees one view of each image (`softmix.data.augment.random_view`).

    width : of the first layer of the encoder, which gives 2 width features.

    The result is an `ImageEncoder`. Raises ValueError for data without images, without a label, or with several.
    When to choose: by `learn_encoder`, as a control of `Align`. Labels are knowledge that a model without classes has
    not.
    """

    def cond_spec(self, source: Source) -> CondSpec:
        _require_images(source)
        if len(source.cond.labels) != 1:
            raise ValueError(
                f"LearnClasses needs one class label for each image, and {source.name} has {len(source.cond.labels)}: "
                "take LearnEncoder"
            )
        return source.cond.only(["label"])

    def build(self, facts: Facts) -> nn.ModuleDict:
        return self._made(facts, nn.Linear(2 * self.width, facts.cond_spec.classes))

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        x0, cond = batch.read(source)
        label = cast(Tensor, cast(Cond, cond).label).reshape(-1)
        logits = _headed(modules, random_view(x0, batch.rng.child("view")))
        return nn.functional.cross_entropy(logits, label, reduction="none")


def _headed(modules: nn.ModuleDict, x: Tensor) -> Tensor:
    """The head on the mean of the features over places, in float32 at least."""
    out: Tensor = modules["head"](modules["model"](x).flatten(2).mean(2))
    return out.to(torch.promote_types(out.dtype, torch.float32))


def _require_images(source: Source) -> None:
    if not source.is_image:
        raise ValueError(f"an encoder of images was asked for, and {source.name} holds no images")
