"""What a scheduler of diffusers says of the model that it was saved with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoiser.parameterise import Output
from ..process import VE, VP, Flow, Gaussian, Table
from .host import SAYS, SoftmixScheduler


class HubError(ValueError):
    """A model or folder that cannot be taken over: what was found, and what to do."""


@dataclass(frozen=True)
class Reading:
    """What a scheduler says of its model.

    process : how its data become noise. output : what its output is, up to `factor`, a row of the affine table.
    clock : the time that the scheduler hands to the model, by t. scale : what the model's input is multiplied by, by t.
    factor : what the model's output is multiplied by, by t. data_sd : the standard deviation of the data. steps : the
    number of the scheduler's time that stands for a whole, where it counts from 0 to that.
    """

    process: Gaussian
    output: Output
    clock: Callable[[Tensor], Tensor]
    scale: Callable[[Tensor], Tensor] = torch.ones_like
    factor: Callable[[Tensor], Tensor] = torch.ones_like
    data_sd: float = 1.0
    steps: float = 1000.0


def reading(scheduler: Any) -> Reading:
    """By the scheduler's class, or the class it is derived from; from a live one, as what is saved may lack keys.

    Raises HubError for a class whose process is not known here.
    """
    if isinstance(scheduler, SoftmixScheduler):
        return _table(scheduler) if isinstance(scheduler.process, Table) else _flow(scheduler)
    for kind in type(scheduler).__mro__:
        if kind.__name__ in READERS:
            return READERS[kind.__name__](scheduler)
    name = type(scheduler).__name__
    why = REFUSED.get(name, "it is none of diffusers' classes that are")
    raise HubError(
        f"the process of {name} is not known here: {why}. Known are {', '.join(sorted(READERS))}. Give from_diffusers "
        "one of these as scheduler, if the model was trained on its process"
    )


def _table(scheduler: Any) -> Reading:
    """Discrete betas: DDPM's, and whatever samples the same models. Some of them sample flow models too."""
    config = scheduler.config
    says = config.get("prediction_type", "epsilon")
    if config.get("use_flow_sigmas"):
        return _flow(scheduler)
    if says not in SAYS:
        raise HubError(
            f"{type(scheduler).__name__} with prediction_type {says!r} was found; with betas go {', '.join(SAYS)}"
        )
    if says == "v_prediction" and config.get("timestep_type") == "continuous":
        return _continuous(scheduler)
    table = Table(scheduler.alphas_cumprod)
    return Reading(table, SAYS[says], lambda t: _place(t, table.steps), steps=float(table.steps))


def _place(t: Tensor, steps: int) -> Tensor:
    """The integer time of t, to the last digit where it is one; between them a fraction."""
    place = t * steps - 1
    near = place.round()
    return torch.where((place - near).abs() < 1e-6, near, place).clamp(min=0).float()


def _flow(scheduler: Any) -> Reading:
    """Flow matching. With `invert_sigmas` the time runs from 0, noise, up, and the velocity points to the data."""
    config = scheduler.config
    steps, output = float(config.num_train_timesteps), SAYS.get(config.get("prediction_type", ""), "flow")
    if config.get("invert_sigmas"):
        return Reading(
            Flow(end=0.0),
            output,
            lambda t: (steps * (1 - t)).float(),
            factor=lambda t: -torch.ones_like(t),
            steps=steps,
        )
    return Reading(Flow(end=0.0), output, lambda t: (steps * t).float(), steps=steps)


def _edm(process: VE, sd: float, says: str, clock: Callable[[Tensor], Tensor]) -> Reading:
    """Karras et al. 2022: the model sees x / sqrt(sigma^2 + sd^2); "v_prediction" is minus its output."""
    sign = 1.0 if says == "epsilon" else -1.0
    return Reading(
        process,
        "edm",
        lambda t: clock(process.sigma(t)).float(),
        lambda t: 1 / (process.sigma(t) ** 2 + sd**2).sqrt(),
        lambda t: sign * torch.ones_like(t),
        sd,
    )


def _quarter_log(sigma: Tensor) -> Tensor:
    return sigma.log() / 4


def _of_edm(scheduler: Any) -> Reading:
    config = scheduler.config
    says, clock = config.get("prediction_type", "epsilon"), _quarter_log
    if says not in ("epsilon", "v_prediction"):
        raise HubError(
            f"{type(scheduler).__name__} with prediction_type {says!r} was found; it goes with epsilon and v_prediction"
        )
    if type(scheduler).__name__ == "CosineDPMSolverMultistepScheduler":
        clock = lambda sigma: sigma.atan() * (2 / math.pi)  # noqa: E731
    return _edm(VE(config.sigma_min, config.sigma_max), float(config.sigma_data), says, clock)


def _continuous(scheduler: Any) -> Reading:
    """Stable Video Diffusion's: v of data with sd 1, and log(sigma) / 4 for a time."""
    config = scheduler.config
    known = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    low, high = config.get("sigma_min") or float(known.min()), config.get("sigma_max") or float(known.max())
    return _edm(VE(float(low), float(high)), 1.0, "v_prediction", _quarter_log)


def _score(scheduler: Any) -> Reading:
    """Song et al. 2021, variance exploding: the model is told sigma and says (x0 - x) / sigma^2, the score."""
    process = VE(scheduler.config.sigma_min, scheduler.config.sigma_max)
    return Reading(process, "eps", lambda t: process.sigma(t).float(), factor=lambda t: -process.sigma(t))


def _angle(scheduler: Any) -> Reading:
    """Dance Diffusion's: v, and the angle of (alpha, sigma) as a share of the right angle for a time."""
    process = VP()
    return Reading(
        process, "v", lambda t: (torch.atan2(process.sigma(t), process.alpha(t)) * (2 / math.pi)).float(), steps=1.0
    )


def _wuerstchen(scheduler: Any) -> Reading:
    """alpha^2 = cos^2((r + s) / (1 + s) pi / 2) / cos^2(s / (1 + s) pi / 2) at the ratio r, kept in [1e-4, 1 - 1e-4].

    The process is that curve where it is not cut off, and r its inverse.
    """
    s, scaler = float(scheduler.config.s), float(scheduler.config.scaler)
    first = math.cos(s / (1 + s) * math.pi / 2)

    def ratio(kept: Tensor) -> Tensor:
        bent = ((kept.sqrt() * first).clamp(max=1).acos() * (2 / math.pi) * (1 + s) - s).clamp(0, 1)
        if scaler > 1:
            return 1 - (1 - bent) ** (1 / scaler)
        return bent ** (1 / scaler)

    ends = ratio(torch.tensor([1 - 1e-4, 1e-4], dtype=torch.float64))
    places = torch.linspace(float(ends[0]), float(ends[1]), 1000, dtype=torch.float64)
    bent = 1 - (1 - places) ** scaler if scaler > 1 else places**scaler
    table = Table(((bent + s) / (1 + s) * (math.pi / 2)).cos() ** 2 / first**2)
    return Reading(table, "eps", lambda t: ratio(table.alpha(t) ** 2).float(), steps=1.0)


_OF_BETAS = (
    *("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler"),
    *("DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler", "DEISMultistepScheduler"),
    *("DPMSolverMultistepInverseScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler"),
    *("DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"),
    *("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler", "SASolverScheduler", "TCDScheduler"),
    *("UnCLIPScheduler", "UniPCMultistepScheduler"),
)
_OF_FLOW = (
    *("FlowMapEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    *("FlowMatchLCMScheduler", "LTXEulerAncestralRFScheduler"),
)
READERS: dict[str, Callable[[Any], Reading]] = {
    **dict.fromkeys(_OF_BETAS, _table),
    **dict.fromkeys(_OF_FLOW, _flow),
    "EDMEulerScheduler": _of_edm,
    "EDMDPMSolverMultistepScheduler": _of_edm,
    "CosineDPMSolverMultistepScheduler": _of_edm,
    "ScoreSdeVeScheduler": _score,
    "IPNDMScheduler": _angle,
    "DDPMWuerstchenScheduler": _wuerstchen,
}
_TOKENS = "it goes with tokens, and a process here is Gaussian"
REFUSED = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "CMStochasticIterativeScheduler": "its model is a consistency function, which says no mean of the posterior",
    "ConsistencyDecoderScheduler": "its model is a consistency function, which says no mean of the posterior",
    "SCMScheduler": "its model is a consistency function of an angle (TrigFlow)",
    "HeliosScheduler": "it changes the size of the picture between its stages",
    "HeliosDMDScheduler": "it changes the size of the picture between its stages",
    "KarrasVeScheduler": "its model works on pictures that are shifted by one, which is no scale of its input",
    "ScoreSdeVpScheduler": "no pipeline says how its model is called",
}
