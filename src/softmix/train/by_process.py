"""A preset with another process, by name."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Literal, get_args

from ..data import Source
from ..denoiser import NoiseHead, PointHead
from ..denoiser.parameterise import SHIFTED_OUTPUTS
from ..loss import Energy, FeatureEnergy, MeanAndNoise, Square, SquarePerElement
from ..loss.weight import Weight
from ..process import (
    RDDM,
    SPD,
    VE,
    VP,
    Flow,
    ImageShift,
    Immiscible,
    Interpolant,
    LabelShift,
    NonUniform,
    Resfusion,
    ShiftDDPM,
    spectrum_of,
)
from .config import Config
from .denoise import Denoise
from .make import TrainingError, some_items

ProcessName = Literal[
    "vp", "ve", "flow", "rddm", "resfusion", "shift-ddpm", "spd", "immiscible", "non-uniform", "interpolant"
]
PROCESS_NAMES: tuple[ProcessName, ...] = get_args(ProcessName)


def with_process(config: Config, name: ProcessName, source: Source) -> Config:
    """The configuration with a process, and with what else this process asks for.

    vp, ve, flow : the plain processes.
    rddm, resfusion : from the clean item of a pair to the other one, which is always given. The output is that of the
        paper: the residual, and the residual noise. The squared error of the residual (`Square`) has the same weight at
        all noise levels, as in the paper. Its draws are then nearly the mean in short trainings; the weight "v" gives
        draws with more spread and more error each.
    shift-ddpm : a shift by the class, or by the image of the condition. The network does not see the condition.
    spd : a schedule for each frequency, from the spectrum of 4,000 of the images. The output is "x0".
    immiscible : noise that is assigned to the items of a batch.
    interpolant : from the clean item of a pair to the other one, at which sampling starts. The network does not see it.
        A plain model gets a `NoiseHead`, for the ODE and the SDE.
    non-uniform : Haar bands that become noise one after another, two of details if 4 divides the sides, else one. The
        output is "x0". A squared error gets a weight for each band.

    With the last three a soft mixture learns by the energy score at all noise levels, because not all items have one
    posterior at t = 1, or not one clock.

    Raises TrainingError for another name, for a process that does not fit the data, and for a task without a process.
    """
    if name not in PROCESS_NAMES:
        raise TrainingError(f"the process {name!r} was asked for; there are {', '.join(PROCESS_NAMES)}")
    if not isinstance(config.task, Denoise):
        raise TrainingError(f"a process was asked for, and the task {type(config.task).__name__} has none")
    if name in ("spd", "immiscible", "non-uniform", "interpolant") and isinstance(config.denoise.loss, FeatureEnergy):
        config = config.but(loss=Energy(m=2, weight="v"))
    plain = {"vp": VP(), "ve": VE(), "flow": Flow(), "immiscible": Immiscible()}
    if name in plain:
        if config.denoise.output not in SHIFTED_OUTPUTS:
            return _changed(config, process=plain[name])
        return _weighted(_changed(config, process=plain[name], output="v"), "v")
    if name in ("rddm", "resfusion"):
        process: RDDM | Resfusion = RDDM() if name == "rddm" else Resfusion()
        output = "residual" if name == "rddm" else "resnoise"
        paired = _changed(config, process=process, output=output, drop=0.0)
        # an error of the residual is one of x0 at every noise level, and has the weight 1 in the paper. A soft mixture
        # keeps its own weight: with 1 it gave the blurred picture back, and all draws were alike
        return _weighted(paired, "x0") if name == "rddm" and isinstance(config.denoise.loss, Square) else paired
    if name == "interpolant":
        output = "v" if config.denoise.output in (*SHIFTED_OUTPUTS, "eps") else config.denoise.output
        both = {"head": NoiseHead(), "loss": MeanAndNoise()} if _is_plain(config.denoise) else {}
        return _changed(config, process=Interpolant(), output=output, drop=0.0, **both)
    if name == "spd":
        if not source.is_image or source.shape[1] != source.shape[2]:
            raise TrainingError(f"spd is for square images, and the items of {source.name} have shape {source.shape}")
        x0 = some_items(source, 4000)
        return _changed(config, process=SPD(spectrum_of(x0), source.shape[1]), output="x0")
    if name == "non-uniform":
        return _non_uniform(config, source)
    if source.cond.image:
        return _weighted(_changed(config, process=ShiftDDPM(shift=ImageShift()), output="eps", drop=0.0), "eps")
    if not source.cond.labels:
        raise TrainingError(f"shift-ddpm shifts by the class or by an image, and {source.name} has neither")
    return _weighted(_changed(config, process=ShiftDDPM(shift=LabelShift()), output="eps", classes=True), "eps")


def _is_plain(task: Denoise) -> bool:
    return isinstance(task.head, PointHead) and isinstance(task.loss, Square)


def _changed(config: Config, **values: Any) -> Config:
    try:
        return config.but(**values)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"this process does not fit the rest: {error}") from error


def _non_uniform(config: Config, source: Source) -> Config:
    """The most bands, up to two of details, that the size of the images has."""
    if not source.is_image or any(side % 2 for side in source.shape[1:]):
        raise TrainingError(
            f"non-uniform halves images, and the items of {source.name} have shape {source.shape}: give images with "
            "even sides"
        )
    height, width = source.shape[1:]
    process = NonUniform((height, width), 1 if height % 4 or width % 4 else 2)
    own = {"loss": SquarePerElement()} if isinstance(config.denoise.loss, Square) else {}
    return _changed(config, process=process, output="x0", **own)


def _weighted(config: Config, weight: Weight) -> Config:
    """The loss with this weight, if it has one."""
    loss: Any = config.denoise.loss
    has = any(field.name == "weight" for field in fields(loss))
    return config.but(loss=replace(loss, weight=weight)) if has else config
