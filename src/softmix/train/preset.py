"""Presets: a good configuration for each model and shape of the data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

from ..cond import UNCONDITIONED, CondSpec
from ..denoiser import CategoricalHead, MapHead, MixtureHead, Modality, NormalHead, PointHead, PublishedSMD, SoftHead
from ..loss import (
    SIDDM,
    ChainMMD,
    Consistency,
    Energy,
    FeatureDrift,
    FeatureEnergy,
    InductiveMomentMatching,
    Likelihood,
    MaskedCrossEntropy,
    MeanFlow,
    PublishedSquare,
    Square,
)
from ..net import MLPSpec, NetSpec, SequenceSpec, TokenSpec, UNetSpec
from ..process import VE, Flow, Masked, StationaryOU
from .config import Config, Optimiser
from .denoise import Denoise
from .make import TrainingError, require_trainable
from .modalities import DenoiseModalities
from .noise_times import Times
from .sample_target import SampleTarget

ModelName = Literal[
    "smd", "plain", "published", "mixture", "normal", "consistency", "meanflow", "imm", "siddm", "joint", "masked"
]
# those of several modalities, those of tokens, and all others
JOINT_MODELS: tuple[ModelName, ...] = ("joint",)
TOKEN_MODELS: tuple[ModelName, ...] = ("masked",)
MODELS: tuple[ModelName, ...] = tuple(name for name in get_args(ModelName) if name not in JOINT_MODELS + TOKEN_MODELS)
# those that tune a trained model
TuningName = Literal["mmd"]
# With an image or numbers as condition each item has a posterior of its own, and its draws are compared with one x0.
# They then need the full weight of the energy score, and more draws (docs/experiments.md).
POSTERIOR_GIVEN_Y = FeatureEnergy(m=4, pixels=1.0, features=0.3)


def preset(model: ModelName, shape: tuple[int, ...], cond: CondSpec = UNCONDITIONED) -> Config:
    """A good first configuration for items of this shape, on an ordinary machine.

    The models:

    smd : soft mixture. Points and sequences learn by the energy score; images learn the mean first, and then, at high
        noise, by drift in features and the energy score in pixels (`FeatureDrift`). Images with a condition other than
        labels (restoration) learn to draw by the energy score in pixels and features (`FeatureEnergy`).
    plain : the usual diffusion model, a learned mean.
    published : SMD with the published head and loss, which collapses.
    mixture : an explicit Gaussian mixture.
    normal : one Gaussian.
    consistency, meanflow, imm : flow maps for few steps, the rivals of smd. imm is inductive moment matching.
    siddm : a soft mixture that learns against a discriminator, for 4 steps, or for 1 or 2 (loss.steps).
    joint : one diffusion of an item with its label, image or values, which are then drawn with it (MT-Diffusion).
    masked : masked diffusion, for tokens [L].

    The batch size is 64 images, and less above 64 x 64 pixels, so that a step takes about as long.

    shape : of one item: [C, H, W], [L, D], [D], or [L] of tokens.
    cond : the conditions that the data offer (`source.cond`). Only smd and joint depend on them.

    Raises TrainingError for an unknown model, and for a shape that no network accepts.
    """
    if model not in get_args(ModelName):
        raise TrainingError(f"the model {model!r} was asked for; there are {', '.join(get_args(ModelName))}")
    require_trainable(shape)
    if model == "masked":
        return _of_tokens(shape)
    soft, ease = SoftHead(mean="none"), Optimiser(warmup_share=0.1)
    task = Denoise(net=_net(shape), head=soft, loss=Energy(m=2, weight="v"))
    base = Config(task, batch=_batch(shape), optimiser=ease)
    if len(shape) == 1:
        base = base.but(optimiser=replace(ease, rate=2e-3), precision="fp32")
    if len(shape) == 3:
        own = {"image", "value", "context"} & set(cond.parts)
        base = base.but(head=SoftHead(), loss=POSTERIOR_GIVEN_Y if own else FeatureDrift())
    if model == "plain":
        return base.but(head=PointHead(), loss=Square("v"))
    if model == "joint":
        return replace(base, task=_of_modalities(shape, cond))
    if model == "published":
        return base.but(head=PublishedSMD(), loss=PublishedSquare())
    if model == "mixture":
        return base.but(
            head=MixtureHead(8, "pixel") if len(shape) == 3 else MixtureHead(64, "item"),
            loss=Likelihood(0.5 if len(shape) == 3 else 0.9),
        )
    if model == "consistency":
        # process (up to sigma = 80) and noise levels of the paper, for data with a standard deviation of 0.5
        times = Times("normal", logsnr=(1.5, 4.0))
        return base.but(process=VE(), head=PointHead(), loss=Consistency(), output="edm", times=times)
    if model == "meanflow":
        # logit(t) ~ N(-0.4, 1): logsnr is -2 logit(t)
        times = Times("normal", logsnr=(0.8, 2.0))
        return base.but(process=Flow(), head=MapHead(), loss=MeanFlow(), output="flow", times=times)
    if model == "imm":
        # sigma / alpha up to 160, as in the paper, and t uniform
        return base.but(
            process=Flow(end=1 / 160), head=MapHead(), loss=InductiveMomentMatching(), output="flow", times=Times()
        )
    if model == "siddm":
        # the published betas, for network and rivals
        game = replace(base.optimiser, rate=5e-4, betas=(0.5, 0.999))
        return base.but(head=soft, loss=SIDDM(rate=1e-3), optimiser=game)
    if model == "normal":
        return base.but(head=NormalHead(), loss=Likelihood())
    return base


def tuning(name: TuningName, config: Config, shape: tuple[int, ...]) -> Config:
    """The configuration that tunes the model of another one, to be started with its weights.

    mmd : `ChainMMD` in 4 steps of DDIM, or of draws for a soft mixture. Points are compared as they are, images in
        pixels and features. The learning rate is a twentieth, and a batch has at least 256 items.

    config : of the trained model. Its length, its times and its curriculum are dropped.
    shape : of one item.

    Raises TrainingError for another name, and for a model that cannot be tuned.
    """
    if name not in get_args(TuningName):
        raise TrainingError(f"the tuning {name!r} was asked for; there is {', '.join(get_args(TuningName))}")
    if type(config.task) is not Denoise:
        raise TrainingError(f"{name} tunes the denoiser of a Denoise run; found {type(config.task).__name__}")
    draws = isinstance(config.task.head, SoftHead | PublishedSMD)
    features = 1.0 if len(shape) == 3 else 0.0
    loss = ChainMMD(sampler="ancestral" if draws else "ddim", features=features)
    optimiser = replace(config.optimiser, rate=config.optimiser.rate / 20, clip=0.5, accumulate=1)
    batch, none = max(config.batch, 256), {"steps": None, "minutes": None, "curriculum": None}
    try:
        return config.but(loss=loss, times=Times(), optimiser=optimiser, batch=batch, **none)
    except ValueError as error:
        raise TrainingError(f"this model cannot be tuned by {name}: {error}") from error


def preset_for_target(scale: float = 1.0, path: int = 64) -> Config:
    """A good first configuration to sample a density, in about ten dimensions or less.

    scale, path : of `SampleTarget`: the spread of the first draws, and the steps of a path.
    """
    task = SampleTarget(StationaryOU(scale), path=path)
    return Config(task, batch=256, optimiser=Optimiser(rate=5e-3, warmup_share=0.1), precision="fp32")


def _of_modalities(shape: tuple[int, ...], cond: CondSpec) -> DenoiseModalities:
    """A diffusion of x and all that the data have beside it."""
    beside = [part for part in cond.parts if part != "context"]
    if not beside:
        raise TrainingError(
            "the model joint learns items with a label, an image or values, and these data have none: give labelled "
            "data, or pairs"
        )
    # half the weight of x; a label is a few nats, and a squared error a few hundredths
    own = {part: Modality(0.5, 0.1 if part == "label" else 1.0) for part in beside}
    return DenoiseModalities(net=_net(shape), **own)  # type: ignore[arg-type]


def _of_tokens(shape: tuple[int, ...]) -> Config:
    """Masked diffusion of tokens in a row."""
    if len(shape) != 1:
        raise TrainingError(f"the model masked is for tokens [L], and the items have shape {shape}: make them rows")
    task = Denoise(Masked(), TokenSpec(), CategoricalHead(), MaskedCrossEntropy(), output="x0")
    return Config(task, batch=64, optimiser=Optimiser(warmup_share=0.1))


def _batch(shape: tuple[int, ...]) -> int:
    """The batch size: for images a power of two from 8 to 64."""
    if len(shape) == 1:
        return 256
    if len(shape) == 2:
        return 64
    return 2 ** min(6, max(3, round(math.log2(64 * 64**2 / math.prod(shape[1:])))))


def _net(shape: tuple[int, ...]) -> NetSpec:
    if len(shape) == 1:
        return MLPSpec()
    if len(shape) == 2:
        return SequenceSpec()
    if max(shape[1:]) <= 16:
        return UNetSpec(width=32, depth=1, patch=1)
    return UNetSpec(width=64, depth=1, patch=2)
