"""The process of a diffusers configuration, and the configurations that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from softmix.hub import SCHEDULERS, AdamsScheduler, TransferScheduler, UniPCScheduler  # noqa: E402
from softmix.hub.config_keys import BETA_SCHEDULERS, FLOW_SCHEDULERS, REFUSED_SCHEDULERS, scheduler_defaults  # noqa: E402
from softmix.process import Flow, Table  # noqa: E402

EXTRA: dict[str, dict[str, Any]] = {
    "VQDiffusionScheduler": {"num_vec_classes": 4},
    "AmusedScheduler": {"mask_token_id": 3},
}
SCHEDULERS_OF_THEIRS = sorted(scheduler_defaults())


def made(name: str) -> Any:
    try:
        return getattr(diffusers, name)(**EXTRA.get(name, {}))
    except ImportError:
        pytest.skip(f"{name} needs what is not installed")


@pytest.mark.parametrize("name", SCHEDULERS_OF_THEIRS)
@pytest.mark.parametrize("saved", [False, True])
def test_every_scheduler_of_diffusers_is_supported_or_refused(name: str, saved: bool, tmp_path: Path) -> None:
    """By its class, saved or not. A supported one keeps its table to the last digit."""
    other = made(name)
    config = dict(other.config)
    if saved:
        other.save_pretrained(tmp_path)
        config = AdamsScheduler.load_config(tmp_path)
    if name == "FlowMapEulerDiscreteScheduler" and not saved:
        return  # unsaved it has the keys of FlowMatchHeun
    if name not in BETA_SCHEDULERS | FLOW_SCHEDULERS:
        with pytest.raises(ValueError, match=r"is not supported|no betas"):
            AdamsScheduler.from_config(config)
        return
    ours = AdamsScheduler.from_config(config)
    if name in FLOW_SCHEDULERS:
        assert isinstance(ours.process, Flow) and ours.config.prediction_type == "flow_prediction"
    else:
        assert isinstance(ours.process, Table)
        assert torch.equal(ours.process.alphas_cumprod[:-1], other.alphas_cumprod.double()[:-1])


def test_each_scheduler_is_listed_once() -> None:
    assert not BETA_SCHEDULERS & FLOW_SCHEDULERS and not (BETA_SCHEDULERS | FLOW_SCHEDULERS) & set(REFUSED_SCHEDULERS)
    assert {name for name in BETA_SCHEDULERS | FLOW_SCHEDULERS if name in scheduler_defaults()} >= BETA_SCHEDULERS - {
        "DPMSolverSDEScheduler"
    }


@pytest.mark.parametrize(
    "config",
    [
        {"timestep_type": "continuous", "_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"},
        {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.0001, "timestep_type": "continuous"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "invert_sigmas": True},
        {"_class_name": "FlowMatchLCMScheduler", "shift": 1.0, "scale_factors": [1, 2]},
        {"sigma_data": 0.5, "beta_start": 0.1},
        {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "beta_start": 0.0001},
        {"_class_name": "ScoreSdeVpScheduler", "beta_min": 0.1},
        {"_class_name": "KarrasVeScheduler", "sigma_min": 0.02},
    ],
    ids=str,
)
def test_keys_of_another_process_are_refused(config: dict[str, Any]) -> None:
    for kind in SCHEDULERS:
        with pytest.raises(ValueError, match=r"(is not supported|no betas).*from_diffusers"):
            kind.from_config(config)


def test_a_key_of_another_process_survives_a_change_of_class() -> None:
    """A continuous Euler scheduler made into a DDIM scheduler keeps the key, and is still refused."""
    euler = diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    with pytest.raises(ValueError, match="timestep_type = 'continuous'"):
        AdamsScheduler.from_config(diffusers.DDIMScheduler.from_config(euler.config).config)


def test_defaults_of_the_process_come_from_the_class() -> None:
    """diffusers drops keys at their default on the way to another class; the process must survive."""
    heun = diffusers.HeunDiscreteScheduler()
    ours = AdamsScheduler.from_config(heun.config)
    assert ours.config.beta_start == 0.00085 and torch.equal(ours.alphas_cumprod, heun.alphas_cumprod)
    # softmix's own defaults survive the way to diffusers
    back = diffusers.HeunDiscreteScheduler.from_config(AdamsScheduler().config)
    assert back.config.beta_start == 0.0001
    # a keyword of the caller wins
    assert AdamsScheduler.from_config(heun.config, beta_start=0.001).config.beta_start == 0.001
    # CogVideoX's table is shifted
    video = diffusers.CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert torch.equal(TransferScheduler.from_config(video.config).process.alphas_cumprod, video.alphas_cumprod)


def test_the_prediction_type_must_fit_the_process() -> None:
    for config in (
        {"prediction_type": "flow_prediction"},
        {"shift": 3.0},
        {"use_flow_sigmas": True, "prediction_type": "epsilon"},
        {"prediction_type": "mean"},
    ):
        with pytest.raises(ValueError, match="flow_prediction"):
            UniPCScheduler(**config)  # type: ignore[arg-type]
