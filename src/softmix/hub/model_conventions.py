"""The conventions that a diffusers scheduler implies for its model: process, prediction type, timestep, scaling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoiser.parameterise import Output
from ..process import VE, VP, Flow, Gaussian, Table
from .beta_timesteps import PREDICTION_TYPES
from .errors import HubError
from .softmix_scheduler import SoftmixScheduler


@dataclass(frozen=True)
class ModelConventions:
    """How a model is to be called, and how its output leads to x0.

        F = output_scale(t) model(input_scale(t) x_t, timestep(t)),    x0 = a(t) x_t + b(t) F

    with a and b of `output` from the affine table of `denoiser.parameterise`.

    process : the noising process of the training.
    output : the prediction type, a row of the affine table.
    timestep : t -> the scheduler's timestep (EDM's c_noise).
    input_scale : t -> the factor of the model's input (EDM's c_in).
    output_scale : t -> the factor of the model's output.
    data_sd : the standard deviation of the data.
    train_steps : the timestep of pure noise, for a scheduler that counts timesteps from 0.
    """

    process: Gaussian
    output: Output
    timestep: Callable[[Tensor], Tensor]
    input_scale: Callable[[Tensor], Tensor] = torch.ones_like
    output_scale: Callable[[Tensor], Tensor] = torch.ones_like
    data_sd: float = 1.0
    train_steps: float = 1000.0


def conventions_of(scheduler: Any) -> ModelConventions:
    """The conventions of a live scheduler, by its class or its nearest known base class.

    A saved configuration would not do: it may lack keys. Raises HubError for a class with an unknown process.
    """
    if isinstance(scheduler, SoftmixScheduler):
        return _table(scheduler) if isinstance(scheduler.process, Table) else _flow(scheduler)
    for kind in type(scheduler).__mro__:
        if kind.__name__ in SUPPORTED:
            return SUPPORTED[kind.__name__](scheduler)
    name = type(scheduler).__name__
    why = REFUSED.get(name, "it is no scheduler class of diffusers with a known process")
    raise HubError(
        f"the process of {name} is not known here: {why}. Known are {', '.join(sorted(SUPPORTED))}. Give "
        "from_diffusers one of these as scheduler, if the model was trained on its process"
    )


def _table(scheduler: Any) -> ModelConventions:
    """A table of betas: DDPM and every scheduler for its models. Some of them sample flow models too."""
    config = scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if config.get("use_flow_sigmas"):
        return _flow(scheduler)
    if prediction not in PREDICTION_TYPES:
        raise HubError(
            f"{type(scheduler).__name__} has prediction_type {prediction!r}; a table of betas supports "
            f"{', '.join(PREDICTION_TYPES)}"
        )
    if prediction == "v_prediction" and config.get("timestep_type") == "continuous":
        return _stable_video(scheduler)
    table = Table(scheduler.alphas_cumprod)
    return ModelConventions(
        table, PREDICTION_TYPES[prediction], lambda t: _table_timestep(t, table.steps), train_steps=float(table.steps)
    )


def _table_timestep(t: Tensor, steps: int) -> Tensor:
    """t steps - 1: exactly an integer at the times of the table, a fraction between them."""
    place = t * steps - 1
    near = place.round()
    return torch.where((place - near).abs() < 1e-6, near, place).clamp(min=0).float()


def _flow(scheduler: Any) -> ModelConventions:
    """Flow matching. With `invert_sigmas` time runs from 0, noise, to 1, and the velocity points to the data."""
    config = scheduler.config
    steps = float(config.num_train_timesteps)
    output = PREDICTION_TYPES.get(config.get("prediction_type", ""), "flow")
    if config.get("invert_sigmas"):
        return ModelConventions(
            Flow(end=0.0),
            output,
            lambda t: (steps * (1 - t)).float(),
            output_scale=lambda t: -torch.ones_like(t),
            train_steps=steps,
        )
    return ModelConventions(Flow(end=0.0), output, lambda t: (steps * t).float(), train_steps=steps)


def _edm(process: VE, sd: float, prediction: str, noise_input: Callable[[Tensor], Tensor]) -> ModelConventions:
    """EDM: c_in = 1 / sqrt(sigma^2 + sd^2); "v_prediction" is minus EDM's output.

    Source: Karras et al. 2022, table 1.
    """
    sign = 1.0 if prediction == "epsilon" else -1.0
    return ModelConventions(
        process,
        "edm",
        lambda t: noise_input(process.sigma(t)).float(),
        lambda t: 1 / (process.sigma(t) ** 2 + sd**2).sqrt(),
        lambda t: sign * torch.ones_like(t),
        sd,
    )


def _quarter_log(sigma: Tensor) -> Tensor:
    return sigma.log() / 4


def _edm_scheduler(scheduler: Any) -> ModelConventions:
    config = scheduler.config
    prediction, noise_input = config.get("prediction_type", "epsilon"), _quarter_log
    if prediction not in ("epsilon", "v_prediction"):
        raise HubError(
            f"{type(scheduler).__name__} has prediction_type {prediction!r}; it supports epsilon and v_prediction"
        )
    if type(scheduler).__name__ == "CosineDPMSolverMultistepScheduler":
        noise_input = lambda sigma: sigma.atan() * (2 / math.pi)  # noqa: E731
    return _edm(VE(config.sigma_min, config.sigma_max), float(config.sigma_data), prediction, noise_input)


def _stable_video(scheduler: Any) -> ModelConventions:
    """Stable Video Diffusion: v for data of standard deviation 1, and log(sigma) / 4 as timestep."""
    config = scheduler.config
    known = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    low, high = config.get("sigma_min") or float(known.min()), config.get("sigma_max") or float(known.max())
    return _edm(VE(float(low), float(high)), 1.0, "v_prediction", _quarter_log)


def _exploding_score(scheduler: Any) -> ModelConventions:
    """Song et al. 2021, variance exploding: the timestep is sigma, the output is the score (x0 - x) / sigma^2."""
    process = VE(scheduler.config.sigma_min, scheduler.config.sigma_max)
    return ModelConventions(
        process, "eps", lambda t: process.sigma(t).float(), output_scale=lambda t: -process.sigma(t)
    )


def _dance_diffusion(scheduler: Any) -> ModelConventions:
    """Dance Diffusion: v, and atan(sigma / alpha) / (pi / 2) as timestep."""
    process = VP()
    return ModelConventions(
        process,
        "v",
        lambda t: (torch.atan2(process.sigma(t), process.alpha(t)) * (2 / math.pi)).float(),
        train_steps=1.0,
    )


def _wuerstchen(scheduler: Any) -> ModelConventions:
    """alpha^2 = cos^2((r + s) / (1 + s) pi / 2) / cos^2(s / (1 + s) pi / 2) at the ratio r.

    diffusers clips alpha^2 to [1e-4, 1 - 1e-4]. The process is a table of the unclipped part. The timestep is r.
    """
    s, scaler = float(scheduler.config.s), float(scheduler.config.scaler)
    first = math.cos(s / (1 + s) * math.pi / 2)

    def ratio(alpha_squared: Tensor) -> Tensor:
        bent = ((alpha_squared.sqrt() * first).clamp(max=1).acos() * (2 / math.pi) * (1 + s) - s).clamp(0, 1)
        if scaler > 1:
            return 1 - (1 - bent) ** (1 / scaler)
        return bent ** (1 / scaler)

    ends = ratio(torch.tensor([1 - 1e-4, 1e-4], dtype=torch.float64))
    places = torch.linspace(float(ends[0]), float(ends[1]), 1000, dtype=torch.float64)
    bent = 1 - (1 - places) ** scaler if scaler > 1 else places**scaler
    table = Table(((bent + s) / (1 + s) * (math.pi / 2)).cos() ** 2 / first**2)
    return ModelConventions(table, "eps", lambda t: ratio(table.alpha(t) ** 2).float(), train_steps=1.0)


_TABLE_SCHEDULERS = (
    *("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler"),
    *("DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler", "DEISMultistepScheduler"),
    *("DPMSolverMultistepInverseScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler"),
    *("DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"),
    *("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler", "SASolverScheduler", "TCDScheduler"),
    *("UnCLIPScheduler", "UniPCMultistepScheduler"),
)
_FLOW_SCHEDULERS = (
    *("FlowMapEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    *("FlowMatchLCMScheduler", "LTXEulerAncestralRFScheduler"),
)
SUPPORTED: dict[str, Callable[[Any], ModelConventions]] = {
    **dict.fromkeys(_TABLE_SCHEDULERS, _table),
    **dict.fromkeys(_FLOW_SCHEDULERS, _flow),
    "EDMEulerScheduler": _edm_scheduler,
    "EDMDPMSolverMultistepScheduler": _edm_scheduler,
    "CosineDPMSolverMultistepScheduler": _edm_scheduler,
    "ScoreSdeVeScheduler": _exploding_score,
    "IPNDMScheduler": _dance_diffusion,
    "DDPMWuerstchenScheduler": _wuerstchen,
}
_TOKENS = "it is for tokens, and a process here is Gaussian"
REFUSED = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "CMStochasticIterativeScheduler": "its model is a consistency function, which gives no posterior mean",
    "ConsistencyDecoderScheduler": "its model is a consistency function, which gives no posterior mean",
    "SCMScheduler": "its model is a consistency function of an angle (TrigFlow)",
    "HeliosScheduler": "it changes the image size between its stages",
    "HeliosDMDScheduler": "it changes the image size between its stages",
    "KarrasVeScheduler": "its model works on images shifted by one, and a scale of the input cannot express a shift",
    "ScoreSdeVpScheduler": "no pipeline of diffusers shows how its model is called",
}
