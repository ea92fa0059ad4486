"""What the keys of a diffusers scheduler's configuration say, and which can be taken.

A process is known by the class that a configuration is of, and where it does not say (that of a scheduler that was
never saved), by the classes that have just these keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import diffusers
from diffusers import SchedulerMixin
from diffusers.utils.import_utils import DummyObject

BETAS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDIMInverse", "DDPM", "DDPMParallel", "PNDM", "RePaint", "UnCLIP"),
        *("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DPMSolverSDE"),
        *("DEISMultistep", "UniPCMultistep", "SASolver", "EulerDiscrete", "EulerAncestralDiscrete"),
        *("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "LCM", "TCD"),
        *("CogVideoXDDIM", "CogVideoXDPM"),
    )
)
FLOWS = frozenset(
    f"{name}Scheduler"
    for name in ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "LTXEulerAncestralRF")
)
CONTINUOUS = "its model is told the noise level itself, and its x is not kept at the size of the data"
OTHERS: Mapping[str, str] = {
    "EDMEulerScheduler": CONTINUOUS,
    "EDMDPMSolverMultistepScheduler": CONTINUOUS,
    "CosineDPMSolverMultistepScheduler": CONTINUOUS,
    "CMStochasticIterativeScheduler": "its model maps noise to images in one step",
    "ScoreSdeVeScheduler": "its x grows with the noise, and its model says a score",
    "ScoreSdeVpScheduler": "its model says a score of continuous time",
    "KarrasVeScheduler": "its x grows with the noise",
    "IPNDMScheduler": "its betas are those of a sine, and no others",
    "DDPMWuerstchenScheduler": "its model is told a ratio from 1 to 0, and its betas are those of a cosine in it",
    "SCMScheduler": "its process is on a circle",
    "FlowMapEulerDiscreteScheduler": "its model is told two times",
    "HeliosScheduler": "its steps change the size of the image between stages",
    "HeliosDMDScheduler": "its steps change the size of the image between stages",
}
# what says which process a model was trained on: kept from class to class, whatever their defaults
PROCESS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"),
    *("rescale_betas_zero_snr", "snr_shift_scale"),
)
# keys that would change the process or the times, with the one value that is taken
ONLY: Mapping[str, tuple[object, str]] = {
    "timestep_type": ("discrete", CONTINUOUS),
    "invert_sigmas": (False, "its times run from clean to noise"),
    "scale_factors": (None, "its steps change the size of the image"),
}
HELP = "take the model itself with softmix.hub.from_diffusers, or a scheduler of diffusers"


@lru_cache
def _signatures() -> dict[str, dict[str, Any]]:
    """The keys of each scheduler of this diffusers with their defaults."""
    found = {}
    for name in dir(diffusers):
        kind = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if inspect.isclass(kind) and issubclass(kind, SchedulerMixin) and not isinstance(kind, DummyObject):
            parameters = inspect.signature(kind.__init__).parameters
            found[name] = {each: parameters[each].default for each in parameters if each not in ("self", "kwargs")}
    return found


def named(config: Mapping[str, Any]) -> str | None:
    """The class of diffusers that a configuration is of, None where it is no one's: ours, or a dictionary by hand."""
    name = config.get("_class_name")
    if name is not None:
        name = str(name).removeprefix("Flax")
        return name if name in _signatures() or name in OTHERS else None
    keys = {each for each in config if not each.startswith("_")}
    like = [each for each, known in _signatures().items() if set(known) == keys]
    # a table of one's own says what the process is
    if not like or config.get("trained_betas") is not None:
        return None
    return next((each for each in like if each in BETAS | FLOWS), like[0])


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of flow matching; else it has a table of betas. Raises ValueError for others."""
    name = named(config)
    if name in OTHERS or (name is not None and name not in BETAS | FLOWS):
        raise ValueError(
            f"a configuration of {name} is not taken: {OTHERS.get(str(name), 'its process is another')}; {HELP}"
        )
    for key, (only, why) in ONLY.items():
        if key in config and config[key] != only:
            raise ValueError(f"{key} = {config[key]!r} is not taken: {why}; {HELP}")
    strange = sorted({"sigma_data", "snr", "scaler", "stages"} & set(config))
    if strange:
        raise ValueError(f"a configuration with {', '.join(strange)} has no betas and is no flow matching; {HELP}")
    flows = config.get("use_flow_sigmas") or config.get("shift") is not None
    return bool(name in FLOWS or flows)


def process_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say of which process a configuration is, as this package's schedulers name them.

    diffusers drops what was left at a default when a configuration goes to another class, whose default may be another:
    0.00085 of Heun's becomes 0.0001. Raises ValueError for a process that is not known here.
    """
    flow, name = is_flow(config), named(config)
    own = _signatures().get(str(name), {})
    found = {key: config.get(key, own.get(key)) for key in PROCESS if key in config or key in own}
    found = {key: each for key, each in found.items() if each is not None}
    if flow and not config.get("use_flow_sigmas"):
        found |= {"prediction_type": "flow_prediction", "shift": config.get("shift") or 1.0}
    return found


def unknown(keys: Mapping[str, Any], known: set[str]) -> list[str]:
    """Words of the caller that nothing here reads."""
    return sorted(each for each in keys if each not in known and not each.startswith("_"))
