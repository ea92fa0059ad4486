"""softmix schedulers against diffusers' own classes of the same algorithm, step by step."""

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
    DPMSolver3MScheduler,
    DPMSolver3SScheduler,
    HeunScheduler,
    PLMSScheduler,
    SDEDPMSolver2MScheduler,
    TransferScheduler,
    UniPCScheduler,
)
from softmix.hub.sigma_spacing import beta, exponential, karras  # noqa: E402

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPREAD, CENTRE = 0.5, 0.3


def noise_said(x: Tensor, ratio: float) -> Tensor:
    """The exact noise estimate for data N(CENTRE, SPREAD^2) at sigma / alpha = ratio."""
    alpha, sigma = 1 / (1 + ratio**2) ** 0.5, ratio / (1 + ratio**2) ** 0.5
    return sigma * (x - alpha * CENTRE) / (alpha**2 * SPREAD**2 + sigma**2)


def steps(scheduler: Any, n: int, seed: int = 0, output: Any = noise_said) -> list[Tensor]:
    """x after each step, with an exact model at the scheduler's own noise level."""
    scheduler.set_timesteps(n)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    generator, found = torch.Generator().manual_seed(seed), []
    random = "generator" in scheduler.step.__code__.co_varnames
    for i, k in enumerate(scheduler.timesteps):
        more = {"generator": generator} if random else {}
        x = scheduler.step(output(x, float(scheduler.sigmas[i])), k, x, **more).prev_sample
        found.append(x)
    return found


def levels(scheduler: Any) -> None:
    """Sets the noise levels of DDIM and PNDM as `sigmas`, which these classes lack."""
    kept = scheduler.alphas_cumprod[scheduler.timesteps]
    scheduler.sigmas = ((1 - kept) / kept).sqrt()


GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
DPM = diffusers.DPMSolverMultistepScheduler
PAIRS = [
    *((DPMSolver2MScheduler, DPM, {name: True}) for name in GRIDS),
    *((SDEDPMSolver2MScheduler, DPM, {name: True, "algorithm_type": "sde-dpmsolver++"}) for name in GRIDS[:2]),
    *((UniPCScheduler, diffusers.UniPCMultistepScheduler, {name: True}) for name in GRIDS[:3]),
    (DPMSolver2MScheduler, DPM, {}),
    (DPMSolver2MScheduler, DPM, {"timestep_spacing": "trailing"}),
    (DPMSolver2MScheduler, DPM, {"final_sigmas_type": "sigma_min"}),
    (DPMSolver2MScheduler, DPM, {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    (DPMSolver2MScheduler, DPM, {"final_sigmas_type": "sigma_min", "euler_at_final": True, "lower_order_final": False}),
    (DPMSolver2MScheduler, DPM, {"solver_type": "heun"}),
    (SDEDPMSolver2MScheduler, DPM, {"algorithm_type": "sde-dpmsolver++"}),
    (SDEDPMSolver2MScheduler, DPM, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    (UniPCScheduler, diffusers.UniPCMultistepScheduler, {}),
    (UniPCScheduler, diffusers.UniPCMultistepScheduler, {"solver_order": 3}),
    (UniPCScheduler, diffusers.UniPCMultistepScheduler, {"solver_type": "bh1"}),
    (UniPCScheduler, diffusers.UniPCMultistepScheduler, {"solver_order": 3, "use_karras_sigmas": True}),
    (TransferScheduler, DPM, {"solver_order": 1, "timestep_spacing": "trailing"}),
    (TransferScheduler, DPM, {"solver_order": 1, "use_karras_sigmas": True}),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].__name__} {pair[2]}")
@pytest.mark.parametrize("n", [6, 20])
def test_the_same_algorithm_takes_the_same_steps(pair: Any, n: int) -> None:
    """Made from diffusers' configuration, as in a pipeline; in float32, as in diffusers."""
    ours, theirs, config = pair
    other = theirs(**SD, **config)
    scheduler = ours.from_config(other.config)
    mine, right = steps(scheduler, n), steps(other, n)
    assert len(mine) == len(right) == n
    assert max(float((a - b).abs().max()) for a, b in zip(mine, right, strict=True)) < 1e-5
    assert torch.allclose(scheduler.sigmas, other.sigmas, rtol=1e-5)


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("n", [6, 20])
def test_ddim_and_pndm_take_the_same_steps(n: int, to_one: bool) -> None:
    pairs = [
        (TransferScheduler, diffusers.DDIMScheduler, {"clip_sample": False}),
        (PLMSScheduler, diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    ]
    for ours, theirs, more in pairs:
        other = theirs(**SD, **more, set_alpha_to_one=to_one, steps_offset=1)
        mine = ours.from_config(other.config)
        right = other
        for each in (mine, right):
            each.set_timesteps(n)
        assert mine.timesteps.tolist() == right.timesteps.tolist()
        levels(right)
        x = y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        for i, k in enumerate(right.timesteps):
            ratio = float(right.sigmas[i])
            x = mine.step(noise_said(x, ratio), k, x).prev_sample
            y = right.step(noise_said(y, ratio), k, y).prev_sample
            # PLMS ends at the mean; diffusers carries the noise on
            if not (ours is PLMSScheduler and to_one and i == n):
                assert (x - y).abs().max() < 1e-5


@pytest.mark.parametrize("name", GRIDS)
def test_sigma_spacings_equal_diffusers_for_all_samplers(name: str) -> None:
    other = DPM(**SD, **{name: True})
    other.set_timesteps(12)
    for kind in SCHEDULERS:
        scheduler = kind.from_config(other.config)
        scheduler.set_timesteps(12)
        assert scheduler.num_inference_steps == 12 and scheduler.timesteps[0] == 999
        steps_of_it = scheduler._grid
        assert torch.allclose(scheduler.schedule.sigmas(steps_of_it.tolist()), other.sigmas, rtol=1e-5)
        if name == "use_karras_sigmas" and scheduler.order == 1 and len(scheduler.timesteps) == 12:
            assert scheduler.timesteps.tolist() == other.timesteps.tolist()


def test_more_steps_reduce_the_error_on_each_sigma_spacing() -> None:
    """For data N(CENTRE, SPREAD^2) the exact end is an affine function of the start."""
    for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"):
        errors = []
        for n in (6, 24):
            scheduler = AdamsScheduler(**SD, **{name: True})  # type: ignore[arg-type]
            end = steps(scheduler, n)[-1]
            x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
            alpha, sigma = (float(part(1.0)) for part in (scheduler.process.alpha, scheduler.process.sigma))
            right = CENTRE + SPREAD * (x - alpha * CENTRE) / (alpha**2 * SPREAD**2 + sigma**2) ** 0.5
            errors.append(float((end - right).abs().max()))
        assert errors[1] < 0.01 and errors[1] < errors[0] / 3, (name, errors)


def test_sigma_spacings_have_exact_ends_and_equal_steps() -> None:
    for spread, even in ((karras, lambda s: s ** (1 / 7)), (exponential, torch.log)):
        found = spread(14.6, 0.03, 9)
        assert found[0] == pytest.approx(14.6) and found[-1] == pytest.approx(0.03)
        gaps = even(found).diff()
        assert torch.allclose(gaps, gaps.mean().expand(8))
        assert spread(14.6, 0.03, 1).tolist() == pytest.approx([14.6])
    found = beta(14.6, 0.03, 9)
    assert float(found[0]) == 14.6 and float(found[-1]) == 0.03 and float(found[4]) == pytest.approx((14.6 + 0.03) / 2)
    assert float(found[0] - found[1]) < float(found[3] - found[4])


def test_one_sigma_spacing_at_most_and_no_ends_without_one() -> None:
    with pytest.raises(ValueError, match="use_karras_sigmas and use_beta_sigmas"):
        AdamsScheduler(use_karras_sigmas=True, use_beta_sigmas=True)
    with pytest.raises(ValueError, match="sigma_max would change nothing"):
        AdamsScheduler(sigma_max=10.0)
    ends = AdamsScheduler(**SD, use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0)  # type: ignore[arg-type]
    ends.set_timesteps(5)
    assert ends.sigmas[0] == pytest.approx(10, rel=1e-5) and ends.sigmas[4] == pytest.approx(0.1, rel=1e-5)
    with pytest.raises(ValueError, match="switch the latter off"):
        ends.set_timesteps(timesteps=[900, 500])


def test_given_sigmas_equal_diffusers() -> None:
    """Align Your Steps from diffusers, with and without the final 0."""
    condition = diffusers.schedulers.AysSchedules["StableDiffusionSigmas"]
    other = diffusers.EulerDiscreteScheduler(**SD)
    other.set_timesteps(sigmas=condition)
    for given in (condition, condition[:-1]):
        scheduler = DPMSolver2MScheduler(**SD)  # type: ignore[arg-type]
        scheduler.set_timesteps(sigmas=given)
        assert torch.allclose(scheduler.sigmas, other.sigmas, rtol=1e-3)
        assert (scheduler.timesteps - other.timesteps).abs().max() <= 1
    with pytest.raises(ValueError, match=r"fall, from 14\.61 at most"):
        scheduler.set_timesteps(sigmas=[100.0, 1.0])
    with pytest.raises(ValueError, match="sigmas must fall"):
        scheduler.set_timesteps(sigmas=[1.0, 1.0])


def test_the_default_spacing_of_each_family_equals_diffusers() -> None:
    """Stable Diffusion 1 sets none: DPM-Solver and its like begin at the noisy end, DDIM and its like before it."""
    for kind, other in (
        (TransferScheduler, diffusers.DDIMScheduler()),
        (AncestralScheduler, diffusers.DDPMScheduler()),
        (PLMSScheduler, diffusers.PNDMScheduler(skip_prk_steps=True)),
        (HeunScheduler, diffusers.HeunDiscreteScheduler()),
        *((each, DPM()) for each in SCHEDULERS if each.spaced_like == "dpm"),
    ):
        scheduler = kind()
        assert scheduler.config.timestep_spacing == other.config.timestep_spacing, kind
        for n in (10, 250) if kind in (AdamsScheduler, TransferScheduler) else (10,):
            other.set_timesteps(n)
            scheduler.set_timesteps(n)
            if kind not in (DPMSolver2SScheduler, DPMSolver3SScheduler):
                assert (
                    scheduler.timesteps[0] == other.timesteps[0]
                    and abs(scheduler.timesteps[-1] - other.timesteps[-1]) <= 1
                )
            assert scheduler.timesteps[0] == (
                999 if scheduler.config.timestep_spacing == "linspace" else 1000 - 1000 // n
            )
    # a default is not a setting: another class takes its own default
    assert AdamsScheduler.from_config(TransferScheduler().config).config.timestep_spacing == "linspace"
    assert (
        AdamsScheduler.from_config(TransferScheduler(timestep_spacing="leading").config).config.timestep_spacing
        == "leading"
    )


def test_more_steps_are_better_on_the_default_spacing() -> None:
    """Adams on an exact model. On the wrong spacing the error grew: 0.011, 0.027, 0.49 at 50, 250, 1,000 steps."""
    errors = []
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for n in (50, 250):
        scheduler = AdamsScheduler.from_config({**SD, "steps_offset": 1, "_class_name": "PNDMScheduler"})
        end = steps(scheduler, n)[-1]
        alpha, sigma = (float(part(1.0)) for part in (scheduler.process.alpha, scheduler.process.sigma))
        right = CENTRE + SPREAD * (x - alpha * CENTRE) / (alpha**2 * SPREAD**2 + sigma**2) ** 0.5
        errors.append(float((end - right).abs().mean()))
    assert errors[0] < 0.015 and errors[1] < errors[0] / 3


def test_a_late_start_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = AdamsScheduler(timestep_spacing="leading", steps_offset=1)
    for n, output in ((10, False), (50, False), (250, True), (1000, True)):
        caplog.clear()
        with caplog.at_level("WARNING"):
            scheduler.set_timesteps(n)
        assert any("with noise that is not all noise" in record.getMessage() for record in caplog.records) == output


def test_the_end_of_the_last_step() -> None:
    """By `final_sigmas_type` if given; else by set_alpha_to_one for the DDIM family, and clean for DPM-Solver's."""
    for config, kind, end in (
        ({"set_alpha_to_one": False}, AdamsScheduler, 0.0),
        ({"set_alpha_to_one": False}, TransferScheduler, 0.001),
        ({"set_alpha_to_one": False, "final_sigmas_type": "zero"}, TransferScheduler, 0.0),
        ({"set_alpha_to_one": False, "final_sigmas_type": "zero"}, UniPCScheduler, 0.0),
        ({"final_sigmas_type": "sigma_min"}, TransferScheduler, 0.001),
        ({"final_sigmas_type": "sigma_min"}, AdamsScheduler, 0.001),
        ({}, TransferScheduler, 0.0),
    ):
        scheduler = kind(timestep_spacing="trailing", **config)  # type: ignore[arg-type]
        scheduler.set_timesteps(10)
        assert float(scheduler._grid[-1]) == end, (config, kind)
    with pytest.raises(ValueError, match="there are zero and sigma_min"):
        AdamsScheduler(final_sigmas_type="none")


def test_keys_of_another_solver_name_the_right_class() -> None:
    for config, kind, output in (
        ({"solver_order": 3}, DPMSolver2MScheduler, "DPMSolver3MScheduler"),
        ({"solver_order": 1}, DPMSolver2MScheduler, "TransferScheduler"),
        ({"algorithm_type": "sde-dpmsolver++"}, DPMSolver2MScheduler, "SDEDPMSolver2MScheduler"),
        ({"algorithm_type": "sde-dpmsolver++"}, DPMSolver3MScheduler, "SDEDPMSolver2MScheduler"),
        ({"solver_order": 3}, SDEDPMSolver2MScheduler, "DPMSolver3MScheduler"),
        (
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            DPMSolver2MScheduler,
            "softmix does not have it",
        ),
        ({"solver_type": "heun"}, DPMSolver2SScheduler, "solver_type"),
        ({"solver_order": 3}, DPMSolver2SScheduler, "DPMSolver3SScheduler"),
    ):
        with pytest.raises(ValueError, match=output):
            kind.from_config(DPM(**config).config)
    for config in ({"predict_x0": False}, {"disable_corrector": [0]}, {"solver_p": DPM()}):
        with pytest.raises(ValueError, match="is not supported"):
            UniPCScheduler.from_config(
                {**diffusers.UniPCMultistepScheduler().config, **config, "_use_default_values": []}
            )
    # keys of an unrelated solver are dropped
    assert AdamsScheduler.from_config(DPM(solver_order=3, algorithm_type="sde-dpmsolver++").config).sampler == "adams"
    assert DPMSolver3MScheduler.from_config(DPM(solver_order=3).config).sampler == "dpm-solver-3m"
    with pytest.raises(ValueError, match="AdamsScheduler knows no solver_order"):
        AdamsScheduler.from_config(DPM().config, solver_order=3)
    with pytest.raises(ValueError, match="knows no use_karas_sigmas"):
        AdamsScheduler.from_config(DPM().config, use_karas_sigmas=True)
    assert UniPCScheduler.from_config(DPM().config, solver_order=3).config.options == {"order": 3}


def test_options_from_solver_keys_are_saved(tmp_path: Any) -> None:
    scheduler = UniPCScheduler.from_config(diffusers.UniPCMultistepScheduler(solver_order=3, solver_type="bh1").config)
    scheduler.save_pretrained(tmp_path)
    again = UniPCScheduler.from_pretrained(tmp_path)
    assert again.config.options == {"order": 3, "line": "bh1"}
    assert diffusers.UniPCMultistepScheduler.from_config(again.config).config.solver_order == 3
    exact = DPMSolver2MScheduler.from_config(DPM(solver_type="heun").config)
    assert exact.config.options == {"line": "exact"} and exact.sampler_function.keywords["rule"].line == "exact"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="there are bh2, exact"):
        DPMSolver2MScheduler(options={"line": "bent"})
    assert DPMSolver3SScheduler.from_config(DPM(solver_order=3).config).order == 3
