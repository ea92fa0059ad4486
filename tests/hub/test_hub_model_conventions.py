"""The conventions that each scheduler class of diffusers implies for its model; other classes are refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

from softmix.hub import AdamsScheduler, HubError, from_diffusers  # noqa: E402
from softmix.hub.model_conventions import REFUSED, SUPPORTED, conventions_of  # noqa: E402
from softmix.process import VE, Flow, Table  # noqa: E402
from softmix.rng import Rng  # noqa: E402
from softmix.sampler import ddim, drive  # noqa: E402
from softmix.sampler.drive import finish  # noqa: E402

SD = 0.7
X = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class RecordingModel(nn.Module):
    """A model that records its inputs and returns a fixed function of x and time."""

    config: dict[str, Any] = {"sample_size": 2, "in_channels": 3, "out_channels": 3}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.asked: list[tuple[Tensor, float]] = []

    def forward(self, sample: Tensor, timestep: Tensor | float) -> tuple[Tensor]:
        time = float(torch.as_tensor(timestep).flatten()[0])
        self.asked.append((sample.detach(), time))
        return (0.3 * sample + math.tanh(time) + 0.1,)


def schedulers() -> list[str]:
    return [name for name in dir(diffusers.schedulers) if name.endswith("Scheduler") and "Flax" not in name]


def test_every_scheduler_is_supported_or_refused_by_name() -> None:
    assert len(schedulers()) > 40
    assert [name for name in schedulers() if name not in SUPPORTED and name not in REFUSED] == []
    assert not set(SUPPORTED) & set(REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_gives_the_reason(name: str) -> None:
    kind = type(name, (), {"config": {}, "alphas_cumprod": torch.linspace(0.99, 0.01, 10)})
    with pytest.raises(HubError, match=f"{name} is not known here: .*Known are"):
        conventions_of(kind())


def test_a_subclass_has_the_conventions_of_its_base_class() -> None:
    class Mine(diffusers.DDPMScheduler):  # type: ignore[misc]
        pass

    assert isinstance(conventions_of(Mine()).process, Table)
    stranger = type("Stranger", (), {"config": {}, "alphas_cumprod": torch.linspace(0.99, 0.01, 10)})
    with pytest.raises(HubError, match="Stranger is not known here: it is no scheduler class of diffusers"):
        conventions_of(stranger())
    assert isinstance(conventions_of(AdamsScheduler()).process, Table)


@torch.no_grad()
def diffusers_loop(scheduler: Any, x: Tensor, times: Any, sigmas: Any = None) -> tuple[Tensor, RecordingModel]:
    """The end of diffusers' own loop, and the model with its recorded inputs."""
    model = RecordingModel()
    for k, t in enumerate(times):
        inner = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        model_output = model(inner, t if sigmas is None else sigmas[k])[0]
        x = scheduler.step(model_output, t, x).prev_sample
    return x, model


def softmix_loop(scheduler: Any, x: Tensor, times: Tensor) -> tuple[Tensor, RecordingModel]:
    model = RecordingModel()
    denoiser = from_diffusers(model, scheduler)
    return finish(drive(denoiser, ddim, x, times, Rng(0, len(x)))), model


def alike(ours: tuple[Tensor, RecordingModel], right: tuple[Tensor, RecordingModel], within: float = 1e-5) -> bool:
    """Whether two runs have the same end and the same model inputs and times."""
    asked = zip(ours[1].asked, right[1].asked, strict=True)
    same = all((a[0] - b[0]).abs().max() < within * max(1.0, float(b[0].abs().max())) and
               abs(a[1] - b[1]) < within * max(1.0, abs(b[1])) for a, b in asked)  # fmt: skip
    return same and bool((ours[0] - right[0]).abs().max() < within * max(1.0, float(right[0].abs().max())))


def of_sigmas(process: VE, sigmas: Tensor) -> Tensor:
    return torch.cat([torch.as_tensor(process.time(-2 * sigmas[:-1].double().log())), sigmas.new_zeros(1).double()])


def test_continuous_timesteps_of_stable_video_diffusion() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002,
        sigma_max=700.0, beta_schedule="scaled_linear",
    )  # fmt: skip
    scheduler.set_timesteps(7)
    x = X * scheduler.init_noise_sigma
    right = diffusers_loop(scheduler, x, scheduler.timesteps)
    process = conventions_of(scheduler).process
    assert isinstance(process, VE) and (process.low, process.high) == (0.002, 700.0)
    assert alike(softmix_loop(scheduler, x, of_sigmas(process, scheduler.sigmas)), right)
    # epsilon prediction stays on the table of betas
    assert isinstance(conventions_of(diffusers.EulerDiscreteScheduler(timestep_type="continuous")).process, Table)


@pytest.mark.parametrize("says", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler"])
def test_edm_and_the_arctangent_timestep_of_stable_audio(name: str, says: str) -> None:
    """Karras et al. 2022, table 1. The timestep of the second class is the angle of sigma."""
    config = {"sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": SD, "prediction_type": says}
    # diffusers has the second class only with torchsde, and a class is known by its name
    scheduler = type(name, (), {"config": diffusers.configuration_utils.FrozenDict(config)})()
    denoiser = from_diffusers(RecordingModel(), scheduler)
    process: Any = denoiser.process
    for sigma in (0.5, 3.0, 40.0):
        n, sign = SD**2 + sigma**2, 1.0 if says == "epsilon" else -1.0
        time = math.atan(sigma) * 2 / math.pi if name.startswith("Cosine") else math.log(sigma) / 4
        model_output = RecordingModel()(X / math.sqrt(n), time)[0]
        right = SD**2 / n * X + sign * sigma * SD / math.sqrt(n) * model_output
        assert torch.allclose(denoiser(X, process.time(-2 * math.log(sigma))).mean, right, rtol=1e-6, atol=1e-6)
    config["prediction_type"] = "sample"
    wrong = type(name, (), {"config": diffusers.configuration_utils.FrozenDict(config)})()
    with pytest.raises(HubError, match="supports epsilon and v_prediction"):
        from_diffusers(RecordingModel(), wrong)


def test_variance_exploding_scores() -> None:
    """The model takes sigma and gives a score: x0 = x + sigma^2 score."""
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)

    class Scored(RecordingModel):
        def forward(self, sample: Tensor, timestep: Tensor | float) -> tuple[Tensor]:
            sigma = torch.as_tensor(timestep).flatten()[0].double()
            # the score for data N(1, sd^2)
            return ((1 - sample) / (SD**2 + sigma**2),)

    denoiser = from_diffusers(Scored(), scheduler)
    process: Any = denoiser.process
    assert (process.low, process.high) == (0.01, 50.0)
    for t in (0.2, 0.6, 1.0):
        variance = float(process.sigma(t)) ** 2
        right = (SD**2 * X + variance) / (SD**2 + variance)
        assert torch.allclose(denoiser(X, t).mean, right, rtol=1e-6, atol=1e-6)


def test_the_angle_timestep_of_dance_diffusion() -> None:
    """The first step of IPNDM is an Euler step in the angle, which is DDIM."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(4)
    model = RecordingModel()
    model_output = model(X, scheduler.timesteps[1])[0]
    beta, alpha = (float(part[1]) for part in (scheduler.betas, scheduler.alphas))
    noise = X * beta + model_output * alpha
    right = (X - beta * noise) / alpha
    denoiser = from_diffusers(RecordingModel(), scheduler)
    t = denoiser.process.time(2 * math.log(alpha / beta))
    assert torch.allclose(denoiser(X, t).mean, right, rtol=1e-5, atol=1e-5)
    assert abs(denoiser.model.asked[0][1] - float(scheduler.timesteps[1])) < 1e-6  # type: ignore[union-attr, index]


@pytest.mark.parametrize("scaler", [1.0, 2.0, 0.5])
def test_the_ratio_timestep_of_wuerstchen(scaler: float) -> None:
    scheduler = diffusers.DDPMWuerstchenScheduler(scaler=scaler)
    denoiser = from_diffusers(RecordingModel(), scheduler)
    for ratio in (0.2, 0.5, 0.8):
        kept = float(scheduler._alpha_cumprod(torch.tensor([ratio], device="cpu"), "cpu"))
        t = denoiser.process.time(math.log(kept / (1 - kept)))
        model_output = RecordingModel()(X, ratio)[0]
        right = (X - math.sqrt(1 - kept) * model_output) / math.sqrt(kept)
        assert torch.allclose(denoiser(X, t).mean, right, rtol=1e-3, atol=1e-3)
        assert abs(denoiser.model.asked[-1][1] - ratio) < 1e-3  # type: ignore[union-attr, index]
    # the curve is clipped at 1e-4, and so is the process
    assert 0.9e-4 < float(denoiser.process.alpha(1.0)) ** 2 < 1.1e-4


@pytest.mark.parametrize("inverted", [False, True])
def test_flow_matching_with_and_without_inverted_sigmas(inverted: bool) -> None:
    """With invert_sigmas (Mochi) time runs from 0, noise, to 1, and the velocity points to the data."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0, invert_sigmas=inverted)
    scheduler.set_timesteps(6)
    right = diffusers_loop(scheduler, X, scheduler.timesteps)
    noise_left = 1 - scheduler.sigmas if inverted else scheduler.sigmas
    assert alike(softmix_loop(scheduler, X, noise_left.double()), right)


def test_the_ancestral_scheduler_of_ltx_is_flow_matching() -> None:
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=0.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.5, 0.2, 0.0], device=X.device)
    right = diffusers_loop(scheduler, X, scheduler.timesteps[:-1])
    assert alike(softmix_loop(scheduler, X, scheduler.sigmas.double()), right)


def test_dpm_solver_with_flow_sigmas_is_flow_matching() -> None:
    for says, output in (("flow_prediction", "flow"), ("epsilon", "eps"), ("sample", "x0")):
        scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type=says, use_flow_sigmas=True, solver_order=1)
        found = conventions_of(scheduler)
        assert isinstance(found.process, Flow) and found.output == output
    with pytest.raises(HubError, match=r"flow_prediction.*a table of betas supports"):
        conventions_of(diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"))
