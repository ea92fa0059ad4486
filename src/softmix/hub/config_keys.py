"""The process of a diffusers scheduler's configuration, and the configurations that a softmix scheduler refuses.

The class in the configuration says the process. The configuration of a scheduler that was never saved names no class;
then the classes with exactly these keys say it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import diffusers
from diffusers import SchedulerMixin
from diffusers.utils.import_utils import DummyObject

BETA_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDIMInverse", "DDPM", "DDPMParallel", "PNDM", "RePaint", "UnCLIP"),
        *("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DPMSolverSDE"),
        *("DEISMultistep", "UniPCMultistep", "SASolver", "EulerDiscrete", "EulerAncestralDiscrete"),
        *("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "LCM", "TCD"),
        *("CogVideoXDDIM", "CogVideoXDPM"),
    )
)
FLOW_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "LTXEulerAncestralRF")
)
CONTINUOUS = "its model takes the noise level itself as time, and its x does not have the scale of the data"
REFUSED_SCHEDULERS: Mapping[str, str] = {
    "EDMEulerScheduler": CONTINUOUS,
    "EDMDPMSolverMultistepScheduler": CONTINUOUS,
    "CosineDPMSolverMultistepScheduler": CONTINUOUS,
    "CMStochasticIterativeScheduler": "its model maps noise to images in one step",
    "ScoreSdeVeScheduler": "its x grows with the noise, and its model gives a score",
    "ScoreSdeVpScheduler": "its model gives a score in continuous time",
    "KarrasVeScheduler": "its x grows with the noise",
    "IPNDMScheduler": "its betas follow a sine, and no other table",
    "DDPMWuerstchenScheduler": "its model takes a ratio from 1 to 0 as time, and its betas follow a cosine of it",
    "SCMScheduler": "its process is on a circle",
    "FlowMapEulerDiscreteScheduler": "its model takes two times",
    "HeliosScheduler": "its steps change the size of the image between stages",
    "HeliosDMDScheduler": "its steps change the size of the image between stages",
}
# keys about the process of the model's training: they pass from class to class, whatever the defaults of the classes
PROCESS_KEYS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"),
    *("rescale_betas_zero_snr", "snr_shift_scale"),
)
# keys that would change the process or the times: the one supported value, and the reason
ONLY_VALUES: Mapping[str, tuple[object, str]] = {
    "timestep_type": ("discrete", CONTINUOUS),
    "invert_sigmas": (False, "its times run from clean to noise"),
    "scale_factors": (None, "its steps change the size of the image"),
}
HELP = "load the model itself with softmix.hub.from_diffusers, or use a scheduler of diffusers"


@lru_cache
def scheduler_defaults() -> dict[str, dict[str, Any]]:
    """The keys of each scheduler class of the installed diffusers, with their defaults."""
    defaults = {}
    for name in dir(diffusers):
        kind = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if inspect.isclass(kind) and issubclass(kind, SchedulerMixin) and not isinstance(kind, DummyObject):
            parameters = inspect.signature(kind.__init__).parameters
            defaults[name] = {each: parameters[each].default for each in parameters if each not in ("self", "kwargs")}
    return defaults


def scheduler_class_name(config: Mapping[str, Any]) -> str | None:
    """The diffusers class of a configuration, None for a configuration of softmix or a dictionary made by hand."""
    name = config.get("_class_name")
    if name is not None:
        name = str(name).removeprefix("Flax")
        return name if name in scheduler_defaults() or name in REFUSED_SCHEDULERS else None
    keys = {each for each in config if not each.startswith("_")}
    like = [each for each, known in scheduler_defaults().items() if set(known) == keys]
    # a table of betas in the configuration says the process itself
    if not like or config.get("trained_betas") is not None:
        return None
    return next((each for each in like if each in BETA_SCHEDULERS | FLOW_SCHEDULERS), like[0])


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is for flow matching; otherwise it has a table of betas. Raises ValueError for others."""
    name = scheduler_class_name(config)
    if name in REFUSED_SCHEDULERS or (name is not None and name not in BETA_SCHEDULERS | FLOW_SCHEDULERS):
        why = REFUSED_SCHEDULERS.get(str(name), "it has another process")
        raise ValueError(f"a configuration of {name} is not supported: {why}; {HELP}")
    for key, (only, why) in ONLY_VALUES.items():
        if key in config and config[key] != only:
            raise ValueError(f"{key} = {config[key]!r} is not supported: {why}; {HELP}")
    strange = sorted({"sigma_data", "snr", "scaler", "stages"} & set(config))
    if strange:
        raise ValueError(f"a configuration with {', '.join(strange)} has no betas and is no flow matching; {HELP}")
    flows = config.get("use_flow_sigmas") or config.get("shift") is not None
    return bool(name in FLOW_SCHEDULERS or flows)


def process_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys about the process of a configuration, with the names of softmix's schedulers.

    When a configuration goes to another class, diffusers drops the keys that were left at a default. The other class
    may have another default: beta_start 0.00085 of Heun would become 0.0001. So the defaults of the class of the
    configuration are included. Raises ValueError for an unsupported process.
    """
    flow, name = is_flow(config), scheduler_class_name(config)
    own = scheduler_defaults().get(str(name), {})
    keys = {key: config.get(key, own.get(key)) for key in PROCESS_KEYS if key in config or key in own}
    keys = {key: value for key, value in keys.items() if value is not None}
    if flow and not config.get("use_flow_sigmas"):
        keys |= {"prediction_type": "flow_prediction", "shift": config.get("shift") or 1.0}
    return keys


def unknown_keys(keys: Mapping[str, Any], known: set[str]) -> list[str]:
    """Keywords of the caller that nothing here reads."""
    return sorted(each for each in keys if each not in known and not each.startswith("_"))
