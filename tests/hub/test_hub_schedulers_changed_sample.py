"""A sample that a pipeline or callback changes between steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from softmix.hub import (  # noqa: E402
    SCHEDULERS,
    AdamsScheduler,
    AncestralScheduler,
    DPMSolver2MScheduler,
    DPMSolver2SScheduler,
    DPMSolverV3Scheduler,
    EVODiffScheduler,
    FONScheduler,
    FPNDMScheduler,
    HeunScheduler,
    PLMSScheduler,
    RenoiseScheduler,
    SDEDPMSolver2MScheduler,
    SoftmixScheduler,
    UniPCScheduler,
)
from softmix.sampler import Statistics  # noqa: E402

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


def exact_noise(scheduler: Any, x: Tensor, i: int) -> Tensor:
    """The exact noise estimate at the scheduler's own level, float64."""
    ratio = float(scheduler.sigmas[i])
    alpha, sigma = 1 / (1 + ratio**2) ** 0.5, ratio / (1 + ratio**2) ** 0.5
    return (x - alpha * believed(x.double(), alpha, sigma)).to(x) / sigma


def filled(scheduler: Any, n: int, x: Tensor, truth: Tensor, noise: Tensor, seed: int = 0) -> Tensor:
    """Inpainting as in 4-channel pipelines: after each step the left half is the noised image."""
    scheduler.set_timesteps(n)
    scheduler.set_begin_index(0)
    generator = torch.Generator().manual_seed(seed)
    left = torch.zeros(2, 4)
    left[:, :2] = 1
    for i, k in enumerate(scheduler.timesteps):
        more = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
        x = scheduler.step(exact_noise(scheduler, x, i), k, x, **more).prev_sample
        last = i + 1 == len(scheduler.timesteps)
        known = truth if last else scheduler.add_noise(truth, noise, scheduler.timesteps[i + 1 : i + 2])
        x = left * known + (1 - left) * x
    return x


def problem(items: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    truth = CORNERS[torch.arange(items) % 2] + WIDTH * torch.randn(items, 1, 2, 4, generator=generator)
    return torch.randn(items, 1, 2, 4, generator=generator), truth, torch.randn(items, 1, 2, 4, generator=generator)


@pytest.mark.parametrize("n", [6, 12])
def test_inpainting_with_2m_equals_diffusers(n: int) -> None:
    """DPM-Solver++(2M) and its SDE version keep their history, and equal diffusers at each step."""
    for ours, config in (
        (DPMSolver2MScheduler, {}),
        (DPMSolver2MScheduler, {"use_karras_sigmas": True}),
        (SDEDPMSolver2MScheduler, {"algorithm_type": "sde-dpmsolver++"}),
        (SDEDPMSolver2MScheduler, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ):
        other = DPM(**SD, **config)
        assert (filled(ours.from_config(other.config), n, *problem()) - filled(other, n, *problem())).abs().max() < 3e-5


def errors(scheduler: Any, n: int, right: Tensor) -> float:
    return float((filled(scheduler, n, *problem()) - right).abs().mean())


def test_inpainting_with_multistep_samplers_is_at_least_as_good_as_diffusers() -> None:
    """The reference is the limit of many steps, the same for all ODE solvers."""
    right = filled(DPMSolver2MScheduler(**SD), 300, *problem())
    for n in (10, 20):
        theirs = errors(diffusers.UniPCMultistepScheduler(**SD), n, right)
        two = errors(DPM(**SD), n, right)
        unipc, adams, evodiff = (
            errors(kind(**SD), n, right) for kind in (UniPCScheduler, AdamsScheduler, EVODiffScheduler)
        )
        assert unipc < 1.001 * theirs, (n, unipc, theirs)
        assert adams < 1.02 * two and evodiff < 1.1 * two, (n, adams, evodiff, two)


def test_a_change_is_not_lost_in_the_corrector() -> None:
    """A change of the whole sample, as guidance by a callback makes it. diffusers' UniPC repeats its last step from the
    unchanged sample, and the change is lost. The reference is many steps from the changed sample on."""

    def ended(scheduler: Any, x: Tensor, first: int, at: int | None) -> Tensor:
        for i, k in enumerate(scheduler.timesteps[first:], first):
            if i == at:
                x = x + 0.4
                kept.append((int(k), x))
            x = scheduler.step(exact_noise(scheduler, x, i), k, x).prev_sample
        return x

    found: dict[str, float] = {}
    config = {**SD, "timestep_spacing": "trailing"}
    kinds = {
        "ours": UniPCScheduler(**config),
        "theirs": diffusers.UniPCMultistepScheduler(**config),
        "adams": AdamsScheduler(**config),
    }
    for name, each in kinds.items():
        kept: list[tuple[int, Tensor]] = []
        each.set_timesteps(20)
        end = ended(each, problem()[0], 0, 12)
        k, x = kept[0]
        exact = DPMSolver2MScheduler(**config)
        exact.set_timesteps(timesteps=list(range(k, 0, -2)))
        found[name] = float((end - ended(exact, x, 0, None)).abs().mean())
    assert found["ours"] < found["theirs"] / 2 and found["adams"] < found["theirs"] / 2, found


def test_inpainting_with_the_sde_differs_from_ddpm() -> None:
    """Without its history SDE-DPM-Solver++(2M) would be the ancestral step, bit for bit."""
    ddpm = filled(AncestralScheduler(**SD, timestep_spacing="linspace"), 8, *problem())
    assert (filled(SDEDPMSolver2MScheduler(**SD), 8, *problem()) - ddpm).abs().max() > 0.01


def doubled(scheduler: Any, n: int, x: Tensor) -> Tensor:
    """Guidance as in DiT's pipeline: each step copies the first half of the batch to the second."""
    scheduler.set_timesteps(n)
    generator = torch.Generator().manual_seed(0)
    both = torch.cat([x, x])
    for i, k in enumerate(scheduler.timesteps):
        both = torch.cat([both[: len(x)]] * 2)
        both = scheduler.step(exact_noise(scheduler, both, i), k, both, generator=generator).prev_sample
    return both[: len(x)]


def test_guidance_in_two_halves_equals_diffusers() -> None:
    x = problem()[0]
    for ours, config in ((DPMSolver2MScheduler, {}), (SDEDPMSolver2MScheduler, {"algorithm_type": "sde-dpmsolver++"})):
        other = DPM(**SD, **config)
        assert (doubled(ours.from_config(other.config), 8, x) - doubled(other, 8, x)).abs().max() < 3e-5


# the change is carried beside the run


def run(
    scheduler: SoftmixScheduler, x: Tensor, condition: list[Tensor], change: Tensor | None, at: int, noise: bool
) -> Tensor:
    """A run with the same noise or mean at each step, whatever x is."""
    for i, k in enumerate(scheduler.timesteps):
        if i == at and change is not None:
            x = x + change
        alpha, sigma = (
            float(part(scheduler._evaluation_times[i])) for part in (scheduler.process.alpha, scheduler.process.sigma)
        )
        output = condition[i] if noise else (x - alpha * condition[i]) / sigma
        x = scheduler.step(output, k, x, generator=torch.Generator().manual_seed(i)).prev_sample  # type: ignore[union-attr]
    return x


@EACH
def test_a_change_does_not_enter_the_history(kind: type[SoftmixScheduler]) -> None:
    """With the same noise or means, a changed run differs by the change alone: times alpha_s / alpha_t for a history of
    noise, times sigma_s / sigma_t for a history of means; with fresh noise by another factor."""
    noise = kind in (PLMSScheduler, FPNDMScheduler)
    if kind is FONScheduler:
        pytest.skip("it remembers a velocity")
    scheduler = kind(**SD, timestep_spacing="trailing", final_sigmas_type="sigma_min")
    scheduler.set_timesteps(9)
    at = 5 if kind not in (FPNDMScheduler, HeunScheduler, DPMSolver2SScheduler) else 6
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    condition = [torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in scheduler.timesteps]
    change = torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    ends = []
    for each in (None, change):
        scheduler.set_timesteps(9)
        ends.append(run(scheduler, x, condition, each, at, noise))
    t, s = scheduler._evaluation_times[at], float(scheduler._grid[-1])
    part = scheduler.process.alpha if noise else scheduler.process.sigma
    ratio = float(part(s) / part(t))
    if kind is AncestralScheduler or kind is SDEDPMSolver2MScheduler:
        ratio *= float((scheduler.process.logsnr(t) / 2 - scheduler.process.logsnr(s) / 2).exp())
    if kind is RenoiseScheduler:
        ratio = 0.0
    if kind is HeunScheduler:
        assert not torch.equal(*ends)  # its slopes are of x
        return
    assert torch.allclose(ends[1] - ends[0], ratio * change, atol=1e-9)


def test_a_change_taken_back_has_no_effect() -> None:
    for kind in SCHEDULERS:
        scheduler = kind(**SD, timestep_spacing="trailing")
        ends = []
        for changed in (False, True):
            scheduler.set_timesteps(8)
            x, generator = problem(2)[0].double(), torch.Generator().manual_seed(0)
            for i, k in enumerate(scheduler.timesteps):
                output = exact_noise(scheduler, x, i)
                if changed and i == 4:
                    copy = x + 1.0
                    copy -= 1.0
                    x = copy
                x = scheduler.step(output, k, x, generator=generator).prev_sample  # type: ignore[union-attr]
            ends.append(x)
        assert torch.allclose(*ends, atol=1e-12), kind


def test_a_change_does_not_enter_the_history_of_dpm_solver_v3() -> None:
    """With statistics the history is (1 - l) x / alpha - mean. A change at each step leaves it as it is."""
    clock = torch.linspace(-4, 4, 9, dtype=torch.float64)
    shape = (9, 1, 3, 3)
    l = torch.linspace(0.2, 0.9, 9, dtype=torch.float64).reshape(9, 1, 1, 1).expand(shape)  # noqa: E741
    zero = torch.zeros(shape, dtype=torch.float64)
    scheduler = DPMSolverV3Scheduler(options={"statistics": Statistics(clock, l, zero, zero)})
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    change = torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    ends = []
    for each in (None, change):
        scheduler.set_timesteps(8)
        condition = [
            torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(9 + i), dtype=torch.float64)
            for i in range(8)
        ]
        x = x0
        for i, k in enumerate(scheduler.timesteps):
            if i == 4 and each is not None:
                x = x + each
            t = torch.tensor(scheduler._evaluation_times[i], dtype=torch.float64)
            slack = 1 - scheduler.statistics.at((scheduler.process.logsnr(t) / 2).reshape(1))[0][0]
            mean = slack * x / scheduler.process.alpha(t) - condition[i]  # the residue is what it is condition
            output = (x - scheduler.process.alpha(t) * mean) / scheduler.process.sigma(t)
            x = scheduler.step(output, k, x).prev_sample  # type: ignore[union-attr]
            if i == 5:
                ends.append(x)
                break
    t, s = scheduler._evaluation_times[4], scheduler._evaluation_times[6]
    # the remaining factor of x: one number for all pixels, as l
    left = (ends[1] - ends[0]) / change
    assert torch.allclose(left, left[0, 0, 0, 0].expand_as(left), rtol=1e-8)
    # between the ratio of alpha (l = 0) and that of sigma (l = 1)
    ratios = [float(part(s) / part(t)) for part in (scheduler.process.alpha, scheduler.process.sigma)]
    assert min(ratios) < float(left[0, 0, 0, 0]) < max(ratios)
