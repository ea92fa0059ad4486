"""Runs that begin in the middle (img2img), and timesteps of a run given back to set_timesteps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from softmix.hub import (  # noqa: E402
    SCHEDULERS,
    AncestralScheduler,
    DPMSolver2MScheduler,
    DPMSolver2SScheduler,
    DPMSolver3SScheduler,
    FONScheduler,
    FPNDMScheduler,
    HeunScheduler,
    PLMSScheduler,
    RenoiseScheduler,
    SDEDPMSolver2MScheduler,
    SoftmixScheduler,
    TransferScheduler,
)
from softmix.hub.sampler_run import has_evaluation, starts_inside_a_step  # noqa: E402

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DPM = diffusers.DPMSolverMultistepScheduler
EACH = pytest.mark.parametrize("kind", SCHEDULERS, ids=lambda kind: kind.__name__)
# two values of each of 32 pixels with a common sign: one half of the image determines the other
CORNERS = torch.stack([torch.ones(1, 2, 4), -torch.ones(1, 2, 4)]) * torch.linspace(0.3, 1.2, 8).reshape(1, 2, 4)
WIDTH = 0.3


def believed(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """The exact mean of x0 for data N(c, WIDTH^2) about two corners c."""
    var = alpha**2 * WIDTH**2 + sigma**2
    gaps = x[:, None] - alpha * CORNERS
    share = (-(gaps**2).flatten(2).sum(2) / (2 * var)).softmax(1)[..., None, None, None]
    return (share * (CORNERS + alpha * WIDTH**2 / var * gaps)).sum(1)


def output(scheduler: Any, x: Tensor, i: int) -> Tensor:
    """The exact noise estimate at the scheduler's own level, float64."""
    ratio = float(scheduler.sigmas[i])
    alpha, sigma = 1 / (1 + ratio**2) ** 0.5, ratio / (1 + ratio**2) ** 0.5
    return (x - alpha * believed(x.double(), alpha, sigma)).to(x) / sigma


@EACH
@pytest.mark.parametrize("n", [5, 7])
def test_a_run_from_any_entry_of_timesteps_uses_its_evaluations(kind: type[SoftmixScheduler], n: int) -> None:
    """From each entry on, the run uses all coming evaluations, perhaps without the first, and ends."""
    for final in ("zero", "sigma_min"):
        scheduler = kind(timestep_spacing="trailing", final_sigmas_type=final)
        scheduler.set_timesteps(n)
        asked, last = scheduler._evaluation_times, float(scheduler._grid[-1])
        for at in range(1, len(asked) - 1):
            plan = scheduler._plan_on(scheduler._remaining_grid(at))
            # the last entry has no step
            ahead = [t for t in asked[at:] if t > last]
            if ahead and not starts_inside_a_step(plan, ahead):
                assert sum(has_evaluation(plan.times, ahead)) == len(ahead)


@EACH
def test_a_run_from_the_middle_reaches_the_data(kind: type[SoftmixScheduler]) -> None:
    """From each entry on, noised data end near the data with an exact model, no worse than with DDIM."""
    n = 30
    scheduler, plain = kind(**SD, timestep_spacing="trailing"), TransferScheduler(**SD, timestep_spacing="trailing")
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(8, 1, 2, 4, generator=generator) * WIDTH + CORNERS[:1]
    z = torch.randn(8, 1, 2, 4, generator=generator)
    exact = DPMSolver2MScheduler(**SD, timestep_spacing="trailing")
    fresh = kind in (AncestralScheduler, RenoiseScheduler, SDEDPMSolver2MScheduler)
    for share in (0.3, 0.5, 0.8):
        scheduler.set_timesteps(n)
        at = int(len(scheduler.timesteps) * share) // scheduler.order * scheduler.order
        places = scheduler.timesteps[at:]
        found = []
        for each, steps in ((scheduler, None), (plain, n), (exact, 200)):
            if steps is not None:
                each.set_timesteps(steps)
            start = places[:1]
            if steps is not None:
                inner = [k for k in each.timesteps.tolist() if k < int(start)]
                each.set_timesteps(timesteps=[int(start), *inner])
            left = places if steps is None else each.timesteps
            each.set_begin_index(at if steps is None else 0)
            x, generator = each.add_noise(truth, z, start), torch.Generator().manual_seed(0)
            first = at if steps is None else 0
            for i, k in enumerate(left):
                x = each.step(output(each, x, first + i), k, x, generator=generator).prev_sample  # type: ignore[union-attr]
            found.append(x)
        ours, ddim = ((each - found[2]).abs().mean() for each in found[:2])
        near = (found[0] - CORNERS[:, None]).flatten(2).pow(2).mean(2).sqrt().min(0).values
        assert float(near.max()) < 2 * WIDTH, (share, near)
        assert fresh or ours < max(1.05 * ddim, 1e-3), (share, float(ours), float(ddim))


@pytest.mark.parametrize(
    "kind", [DPMSolver2SScheduler, DPMSolver3SScheduler, PLMSScheduler, FPNDMScheduler, HeunScheduler, FONScheduler]
)
@pytest.mark.parametrize("config", [{}, {"set_alpha_to_one": False}, {"final_sigmas_type": "sigma_min"}], ids=str)
def test_timesteps_given_back_plan_the_same_run(kind: type[SoftmixScheduler], config: dict[str, Any]) -> None:
    for n in (2, 10):
        scheduler = kind(**SD, **config, timestep_spacing="trailing")
        scheduler.set_timesteps(n)
        condition, grid = scheduler.timesteps.tolist(), scheduler._grid
        scheduler.set_timesteps(timesteps=condition)
        assert scheduler.timesteps.tolist() == condition and torch.equal(scheduler._grid, grid)
        assert scheduler.num_inference_steps == n


def test_other_timesteps_are_times_of_steps() -> None:
    scheduler = DPMSolver2SScheduler(**SD)
    scheduler.set_timesteps(timesteps=[900, 600, 300])
    assert scheduler.num_inference_steps == 3 and len(scheduler.timesteps) == 5
    for given in ({"timesteps": [900, 100], "sigmas": [1.0]}, {"num_inference_steps": 3, "timesteps": [900, 100]}):
        with pytest.raises(ValueError, match="give"):
            scheduler.set_timesteps(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mu = 1"):
        scheduler.set_timesteps(4, mu=1.0)


def test_add_noise_uses_the_exact_level_of_a_run() -> None:
    """Karras sigmas lie between the integer timesteps of the model."""
    scheduler, other = DPMSolver2MScheduler(**SD, use_karras_sigmas=True), DPM(**SD, use_karras_sigmas=True)
    x, z = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    for each in (scheduler, other):
        each.set_timesteps(10)
        each.set_begin_index(4)
    k = scheduler.timesteps[4:5]
    assert torch.allclose(scheduler.add_noise(x, z, k), other.add_noise(x, z, k), rtol=1e-5)
    free = DPMSolver2MScheduler(**SD, use_karras_sigmas=True)
    free.set_timesteps(10)
    alpha = free.alphas_cumprod[k].to(x.device)
    assert torch.allclose(free.add_noise(x, z, k).mean(), (1 - alpha).sqrt())
