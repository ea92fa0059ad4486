"""Flow matching schedulers: against diffusers' own, and in whole pipelines of SD3 and Flux."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from softmix.hub import (  # noqa: E402
    SCHEDULERS,
    AdamsScheduler,
    DPMSolver2MScheduler,
    EVODiffScheduler,
    FONScheduler,
    HeunScheduler,
    SDEDPMSolver2MScheduler,
    SoftmixScheduler,
    TransferScheduler,
    UniPCScheduler,
)

Match = diffusers.FlowMatchEulerDiscreteScheduler
UniPC, DPM = diffusers.UniPCMultistepScheduler, diffusers.DPMSolverMultistepScheduler
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SPREAD, CENTRE = 0.5, 0.3
# its slope of alpha is infinite at a time without signal
LIT = [kind for kind in SCHEDULERS if kind is not FONScheduler]


def flow_said(x: Tensor, t: float) -> Tensor:
    """z - x0 of the exact model for data N(CENTRE, SPREAD^2)."""
    var = (1 - t) ** 2 * SPREAD**2 + t**2
    gap = x - (1 - t) * CENTRE
    return t / var * gap - (CENTRE + (1 - t) * SPREAD**2 / var * gap)


def end_of(scheduler: Any, **times: Any) -> Tensor:
    """x at the end, from x at t = 1, with an exact model at the scheduler's times."""
    scheduler.set_timesteps(**times)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    for k in scheduler.timesteps:
        more = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
        x = scheduler.step(flow_said(x, float(k) / 1000), k, x, **more).prev_sample
    return x


MATCHES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"num_inference_steps": 7}),
    ({"shift": 3.0}, {"num_inference_steps": 28}),
    ({"shift": 3.0, "shift_terminal": 0.1}, {"num_inference_steps": 7}),
    ({"shift": 1.15, "use_karras_sigmas": True}, {"num_inference_steps": 7}),
    ({"shift": 3.0, "use_exponential_sigmas": True}, {"num_inference_steps": 7}),
    ({"shift": 3.0, "use_beta_sigmas": True}, {"num_inference_steps": 7}),
    ({"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.4, 0.2]}),
    ({"shift": 1.0}, {"timesteps": [1000.0, 700.0, 300.0]}),
    ({"use_dynamic_shifting": True}, {"num_inference_steps": 7, "mu": 0.9}),
    ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"num_inference_steps": 7, "mu": 2.0}),
    ({"use_dynamic_shifting": True, "shift_terminal": 0.02}, {"sigmas": [1.0, 0.7, 0.4, 0.2], "mu": 0.9}),
    ({"shift": 3.0}, {"num_inference_steps": 4, "sigmas": [1.0, 0.7, 0.4, 0.2], "mu": 1.0}),
]


@pytest.mark.parametrize(("config", "times"), MATCHES, ids=str)
def test_times_and_euler_steps_equal_those_of_flow_match_euler(config: dict[str, Any], times: dict[str, Any]) -> None:
    """An Euler step is a DDIM step. The DDIM family has its times; given times are the same for all."""
    other = Match(**config)
    right = end_of(other, **times)
    ours = TransferScheduler.from_config(other.config)
    assert (end_of(ours, **times) - right).abs().max() < 1e-5
    assert torch.allclose(ours.timesteps, other.timesteps, rtol=1e-5) and ours.timesteps.dtype == torch.float32
    assert torch.allclose(ours.sigmas, other.sigmas, atol=1e-6)
    for kind in LIT:
        each = kind.from_config(other.config)
        each.set_timesteps(**times)
        if kind.spaced_like == "dpm" and len(times) < 2 + ("mu" in times) and "num_inference_steps" in times:
            continue  # times of its own
        assert torch.allclose(each._grid.float(), other.sigmas, atol=1e-6)


def test_unipc_and_dpm_solver_take_diffusers_steps_in_flow_matching() -> None:
    """At times that begin below t = 1, at which the clock of diffusers is finite."""
    times = torch.tensor([0.95, 0.8, 0.62, 0.45, 0.3, 0.15, 0.05, 0.0])
    for ours, theirs in (
        (UniPCScheduler, UniPC(**FLOW)),
        (UniPCScheduler, UniPC(**FLOW, solver_order=3)),
        (DPMSolver2MScheduler, DPM(**FLOW)),
        (DPMSolver2MScheduler, DPM(**FLOW, solver_type="heun")),
        (SDEDPMSolver2MScheduler, DPM(**FLOW, algorithm_type="sde-dpmsolver++")),
    ):
        mine = ours.from_config(theirs.config)
        mine.set_timesteps(sigmas=times.tolist())
        theirs.set_timesteps(7)
        theirs.sigmas, theirs.timesteps = times, times[:-1] * 1000
        x = y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        one, two = (torch.Generator().manual_seed(0) for _ in range(2))
        for t, k, j in zip(times.tolist(), mine.timesteps, theirs.timesteps, strict=False):
            x = mine.step(flow_said(x, t), k, x, generator=one).prev_sample
            more = {} if isinstance(theirs, UniPC) else {"generator": two}
            y = theirs.step(flow_said(y, t), j, y, **more).prev_sample
            assert (x - y).abs().max() < 1e-5


def test_the_times_of_unipc_equal_diffusers() -> None:
    for config, more in (({"flow_shift": 3.0}, {}), ({"use_dynamic_shifting": True}, {"mu": 0.9})):
        other = UniPC(**FLOW, **config)
        other.set_timesteps(9, **more)
        ours = UniPCScheduler.from_config(other.config)
        ours.set_timesteps(9, **more)
        assert torch.allclose(ours.sigmas, other.sigmas, atol=2e-6)
        assert (ours.timesteps - other.timesteps).abs().max() <= 1  # theirs are cut to whole ones


def test_solvers_of_higher_order_have_smaller_errors_than_euler() -> None:
    """For data N(CENTRE, SPREAD^2), noise x at t = 1 ends at CENTRE + SPREAD x."""
    right = CENTRE + SPREAD * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    other = Match(shift=3.0)
    for n, less in ((8, 0.8), (28, 0.4)):
        euler = float((end_of(other, num_inference_steps=n) - right).abs().mean())
        for kind in (AdamsScheduler, UniPCScheduler, DPMSolver2MScheduler, HeunScheduler, EVODiffScheduler):
            found = float((end_of(kind.from_config(other.config), num_inference_steps=n) - right).abs().mean())
            assert found < less * euler, (kind, n, found, euler)


@pytest.mark.parametrize("kind", LIT, ids=lambda kind: kind.__name__)
def test_a_saved_and_loaded_flow_scheduler_gives_the_same_result(kind: type[SoftmixScheduler], tmp_path: Path) -> None:
    scheduler = kind.from_config(Match(shift=3.0, use_dynamic_shifting=False).config)
    scheduler.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert torch.equal(end_of(scheduler, num_inference_steps=5), end_of(again, num_inference_steps=5))
    assert kind.from_config(again.config).config.shift == 3.0
    assert Match.from_config(again.config).config.shift == 3.0


def test_add_noise_is_that_of_flow_matching() -> None:
    other = Match(shift=3.0)
    ours = TransferScheduler.from_config(other.config)
    x, z = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for each in (ours, other):
        each.set_timesteps(8)
        each.set_begin_index(3)
    k = ours.timesteps[3:4]
    assert torch.allclose(ours.scale_noise(x, k, z), other.scale_noise(x, k, z), atol=1e-6)


def test_unsupported_settings_raise_value_error() -> None:
    dynamic = AdamsScheduler.from_config(Match(use_dynamic_shifting=True).config)
    with pytest.raises(ValueError, match="mu must be given"):
        dynamic.set_timesteps(4)
    with pytest.raises(ValueError, match="fall, from 1 and above 0"):
        AdamsScheduler.from_config(Match().config).set_timesteps(timesteps=[1200.0, 300.0])
    with pytest.raises(ValueError, match="give shift"):
        UniPCScheduler(**FLOW, use_karras_sigmas=True)
    with pytest.raises(ValueError, match="time_shift_type 'square'"):
        AdamsScheduler(shift=1.0, prediction_type="flow_prediction", time_shift_type="square")
    with pytest.raises(ValueError, match="take plms or adams"):
        FONScheduler.from_config(Match().config).set_timesteps(5)


# pipelines: whole if transformers is installed, and copies of their loops always


def sd3_net() -> Any:
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        out_channels=4,
    ).eval()


def flux_net() -> Any:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=False,
    ).eval()


@torch.no_grad()
def sd3_loop(net: Any, scheduler: Any, n: int) -> Tensor:
    """The loop of StableDiffusion3Pipeline: no times of its own, guidance in two halves."""
    generator = torch.Generator().manual_seed(0)
    x, text, pooled = (torch.randn(size, generator=generator) for size in ((1, 4, 8, 8), (2, 5, 32), (2, 16)))
    scheduler.set_timesteps(n, device=x.device)
    for k in scheduler.timesteps:
        both = torch.cat([x] * 2)
        output = net(both, timestep=k.expand(2), encoder_hidden_states=text, pooled_projections=pooled).sample
        away, towards = output.chunk(2)
        x = scheduler.step(away + 4.0 * (towards - away), k, x, return_dict=False)[0]
    return x


@torch.no_grad()
def flux_loop(net: Any, scheduler: Any, n: int) -> Tensor:
    """The loop of FluxPipeline: times of its own, a shift from the image size, and packed latents."""
    generator = torch.Generator().manual_seed(0)
    x, text, pooled = (torch.randn(size, generator=generator) for size in ((1, 16, 16), (1, 5, 32), (1, 16)))
    config = scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = 16 * slope + config.base_shift - slope * config.base_image_seq_len
    assert not config.get("use_flow_sigmas")  # else it would give no times
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / n, n).cpu().numpy(), device=x.device, mu=mu)
    scheduler.set_begin_index(0)
    for k in scheduler.timesteps:
        places = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))
        output = net(
            hidden_states=x,
            timestep=k.expand(1).to(x.dtype) / 1000,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(5, 3),
            img_ids=places,
            return_dict=False,
        )[0]
        x = scheduler.step(output, k, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize(
    ("make", "loop", "config"),
    [(sd3_net, sd3_loop, {"shift": 3.0}), (flux_net, flux_loop, {"use_dynamic_shifting": True})],
)
def test_loops_of_sd3_and_flux_run_with_softmix_schedulers(make: Any, loop: Any, config: dict[str, Any]) -> None:
    """DDIM gives the result of Euler, and all ODE solvers have the same limit."""
    net, other = make(), Match(**config)
    own = loop(net, other, 8)
    assert (loop(net, TransferScheduler.from_config(other.config), 8) - own).abs().max() < 1e-5
    limit = loop(net, HeunScheduler.from_config(other.config), 60)
    far = float((own - limit).abs().mean())
    for kind in (AdamsScheduler, DPMSolver2MScheduler, UniPCScheduler):
        found = float((loop(net, kind.from_config(other.config), 40) - limit).abs().mean())
        assert found < far / 2, (kind, found, far)
    for kind in LIT:
        assert loop(net, kind.from_config(other.config), 3).isfinite().all()


def latent_vae() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(4,),
        latent_channels=4,
        norm_num_groups=1,
        sample_size=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def sd3() -> tuple[Any, dict[str, Any]]:
    none = dict.fromkeys(
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=sd3_net(), vae=latent_vae(), scheduler=Match(shift=3.0), **none
    )
    condition = {"prompt_embeds": torch.randn(1, 5, 32), "pooled_prompt_embeds": torch.randn(1, 16)}
    condition |= {"negative_prompt_embeds": torch.randn(1, 5, 32), "negative_pooled_prompt_embeds": torch.randn(1, 16)}
    return pipe, condition | {"guidance_scale": 4.0, "height": 8, "width": 8}


def flux() -> tuple[Any, dict[str, Any]]:
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(
        transformer=flux_net(), vae=latent_vae(), scheduler=Match(use_dynamic_shifting=True), **none
    )
    condition = {"prompt_embeds": torch.randn(1, 5, 32), "pooled_prompt_embeds": torch.randn(1, 16)}
    return pipe, condition | {"height": 8, "width": 8, "max_sequence_length": 16}


@pytest.mark.parametrize("make", [sd3, flux])
def test_pipelines_of_sd3_and_flux_run_with_softmix_schedulers(make: Any) -> None:
    pytest.importorskip("transformers")
    pipe, condition = make()
    pipe.set_progress_bar_config(disable=True)
    config = pipe.scheduler.config

    def ended(scheduler: Any) -> Tensor:
        pipe.scheduler = scheduler
        generator = torch.Generator().manual_seed(0)
        found: Tensor = pipe(**condition, num_inference_steps=6, generator=generator, output_type="latent").images
        return found

    own = ended(Match.from_config(config))
    assert (ended(TransferScheduler.from_config(config)) - own).abs().max() < 1e-5
    for kind in LIT:
        assert ended(kind.from_config(config)).isfinite().all()
