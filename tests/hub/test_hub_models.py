"""`from_diffusers` against diffusers' own sampling loops, and diffusers loading exported folders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

import softmix  # noqa: E402
from softmix.data import load  # noqa: E402
from softmix.denoiser import SoftHead, guided  # noqa: E402
from softmix.hub import (  # noqa: E402
    AdamsScheduler,
    EVODiffScheduler,
    HubError,
    SoftmixPipeline,
    export,
    from_diffusers,
)
from softmix.process import VE, Table  # noqa: E402
from softmix.rng import Rng  # noqa: E402
from softmix.sampler import GaussianFit, adams, ddim, drive, evodiff, plms, sample  # noqa: E402
from softmix.sampler.drive import finish  # noqa: E402
from softmix.train import Model, Times, preset  # noqa: E402

# relative to the largest value of the loop: with an untrained network |x| reaches 100
NEAR = 1e-5


def tiny_unet(**more: Any) -> Any:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    base = {"sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 4}
    return diffusers.UNet2DModel(**(base | blocks | more)).eval()


def text_unet(**more: Any) -> Any:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    base = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 4}
    sizes = {"block_out_channels": (8,), "cross_attention_dim": 12, "attention_head_dim": 4}
    return diffusers.UNet2DConditionModel(**(base | blocks | sizes | more)).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def diffusers_loop(scheduler: Any, model: Any, x: Tensor, n: int, **condition: Any) -> tuple[Tensor, Tensor]:
    """The end of diffusers' own loop from x, and its timesteps."""
    scheduler.set_timesteps(n, device=x.device)
    for k in scheduler.timesteps:
        inner = scheduler.scale_model_input(x, k) if hasattr(scheduler, "scale_model_input") else x
        output = model(inner, k, **condition).sample
        x = scheduler.step(output, k, x).prev_sample
    return x, scheduler.timesteps


def near(ours: Tensor, right: Tensor) -> bool:
    ours, right = ours.detach(), right.detach()
    return float((ours - right).abs().max()) <= NEAR * max(1.0, float(right.abs().max()))


@pytest.mark.parametrize("says", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("n", [1, 10, 50])
@pytest.mark.parametrize("spacing, offset", [("leading", 0), ("leading", 1), ("trailing", 0)])
def test_ddim_equals_ddim_of_diffusers(says: str, n: int, spacing: str, offset: int) -> None:
    """Except for `linspace`, and for `trailing` if n does not divide 1000: there diffusers' steps do not have the times
    of its list."""
    scheduler = diffusers.DDIMScheduler(
        prediction_type=says, timestep_spacing=spacing, steps_offset=offset, clip_sample=False
    )
    model, x = tiny_unet(), noise(2, 3, 8, 8)
    right, places = diffusers_loop(scheduler, model, x, n)
    denoiser = from_diffusers(model, scheduler)
    assert isinstance(denoiser.process, Table) and denoiser.shape == (3, 8, 8)
    times = torch.cat([(places.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])
    assert near(finish(drive(denoiser, ddim, x, times, Rng(0, 2))), right)


def test_ddim_on_a_schedule_with_zero_terminal_snr() -> None:
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True, clip_sample=False
    )
    model, x = tiny_unet(), noise(2, 3, 8, 8)
    right, places = diffusers_loop(scheduler, model, x, 10)
    denoiser = from_diffusers(model, scheduler)
    assert float(denoiser.process.alpha(1.0)) == 0
    times = torch.cat([(places.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])
    assert near(finish(drive(denoiser, ddim, x, times, Rng(0, 2))), right)
    assert sample(denoiser, 2, 6, sampler=adams).isfinite().all()


def test_euler_steps_of_flow_matching_and_edm_are_ddim() -> None:
    """They are the same step in three other coordinates."""
    x, denoiser = noise(2, 3, 8, 8), None
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    model = tiny_unet()
    right, _ = diffusers_loop(flow, model, x, 8)
    denoiser = from_diffusers(model, flow)
    assert near(finish(drive(denoiser, ddim, x, flow.sigmas.double(), Rng(0, 2))), right)
    for says in ("epsilon", "v_prediction"):
        edm = diffusers.EDMEulerScheduler(prediction_type=says)
        edm.set_timesteps(8, device=x.device)
        right, _ = diffusers_loop(edm, model, x * edm.init_noise_sigma, 8)
        denoiser = from_diffusers(model, edm)
        assert isinstance(denoiser.process, VE)
        times = torch.stack([torch.as_tensor(denoiser.process.time(-2 * s.double().log())) for s in edm.sigmas[:-1]])
        times = torch.cat([times, times.new_zeros(1)])
        assert near(finish(drive(denoiser, ddim, x * edm.init_noise_sigma, times, Rng(0, 2))), right)
    euler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    euler.set_timesteps(10)
    largest = float(euler.sigmas[0])
    start = x * (largest**2 + 1) ** 0.5
    right, places = diffusers_loop(euler, model, start, 10)
    times = torch.cat([(places.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])
    assert near(finish(drive(from_diffusers(model, euler), ddim, x, times, Rng(0, 2))), right)


def test_prompt_embeddings_and_guidance() -> None:
    """Guidance with a given unconditional embedding: u + g (c - u)."""
    model = text_unet()
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    x, condition, nothing = noise(2, 4, 8, 8), noise(2, 5, 12), noise(1, 5, 12)
    denoiser = from_diffusers(model, scheduler)
    t = 400.0
    with torch.no_grad():
        each = [model(x, int(t), encoder_hidden_states=e).sample for e in (condition, nothing.expand(2, 5, 12))]
    output = each[1] + 7.5 * (each[0] - each[1])
    kept = scheduler.alphas_cumprod[400]
    right = kept.sqrt() * x - (1 - kept).sqrt() * output
    found = guided(7.5, unconditional=nothing)(denoiser)(x, 401 / 1000, condition)
    assert near(found.mean, right)  # type: ignore[attr-defined]
    with pytest.raises(HubError, match="embeddings"):
        denoiser(x, 0.5)
    with pytest.raises(HubError, match="text encoder"):
        denoiser.text(["a boot"])


def test_class_labels_of_a_transformer_and_of_a_unet() -> None:
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        num_embeds_ada_norm=10, norm_num_groups=4,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler()
    denoiser = from_diffusers(dit, scheduler)
    x, labels = noise(3, 4, 8, 8), torch.tensor([3, -1, 7])
    with torch.no_grad():
        output = dit(x, torch.full((3,), 499), class_labels=torch.tensor([3, 10, 7])).sample[:, :4]
    kept = scheduler.alphas_cumprod[499]
    assert near(denoiser(x, 0.5, labels).mean, (x - (1 - kept).sqrt() * output) / kept.sqrt())
    unet = tiny_unet(num_class_embeds=10)
    with pytest.raises(HubError, match="unconditional=k"):
        from_diffusers(unet, scheduler)(noise(1, 3, 8, 8), 0.5)
    assert from_diffusers(unet, scheduler, unconditional=9)(noise(1, 3, 8, 8), 0.5).mean.isfinite().all()
    with pytest.raises(HubError, match="takes no condition"):
        from_diffusers(tiny_unet(), scheduler)(noise(1, 3, 8, 8), 0.5, torch.zeros(1))


def test_a_pipeline_and_its_folders_give_the_same_denoiser(tmp_path: Path) -> None:
    model, scheduler = tiny_unet(), diffusers.DDPMScheduler()
    pipeline = diffusers.DDPMPipeline(model, scheduler)
    pipeline.save_pretrained(tmp_path / "whole")
    x = noise(2, 3, 8, 8)
    right = from_diffusers(pipeline)(x, 0.3).mean
    for source in (tmp_path / "whole", str(tmp_path / "whole"), tmp_path / "whole" / "unet"):
        assert torch.equal(from_diffusers(source).to(x.device)(x, 0.3).mean, right)
    assert not torch.equal(from_diffusers(pipeline, diffusers.DDPMScheduler(beta_end=0.05))(x, 0.3).mean, right)
    with pytest.raises(HubError, match="neither model_index"):
        from_diffusers(tmp_path)
    with pytest.raises(HubError, match="give its scheduler"):
        from_diffusers(model)
    with pytest.raises(HubError, match="a pipeline, a model or a folder"):
        from_diffusers(3)
    with pytest.raises(HubError, match="is not known here"):
        from_diffusers(model, diffusers.CMStochasticIterativeScheduler())
    config = tmp_path / "whole" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "Nonsense"}))
    with pytest.raises(HubError, match="Nonsense"):
        from_diffusers(tmp_path / "whole" / "unet")
    # pickled weights are not read
    model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(HubError, match=r"diffusion_pytorch_model.bin alone.*save_pretrained writes safetensors"):
        from_diffusers(tmp_path / "pickled", scheduler)


def test_encode_and_decode_equal_the_vae() -> None:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(8,), latent_channels=4, norm_num_groups=4, sample_size=8,
    ).eval()  # fmt: skip
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=1, sample_size=8, num_embeds_ada_norm=10,
        norm_num_groups=4,
    ).eval()  # fmt: skip
    pipeline = diffusers.DiTPipeline(transformer=dit, vae=vae, scheduler=diffusers.DDIMScheduler())
    denoiser = from_diffusers(pipeline)
    x = noise(2, 3, 8, 8)
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        assert torch.equal(denoiser.encode(x), latents)
        assert torch.allclose(denoiser.decode(latents), vae.decode(latents / vae.config.scaling_factor).sample)
        half = from_diffusers(pipeline.to(torch.bfloat16))
        assert half.decode(half.encode(x)).dtype == torch.float32
    with pytest.raises(HubError, match="VAE"):
        from_diffusers(tiny_unet(), diffusers.DDIMScheduler()).decode(x)


def test_samplers_run_on_a_diffusers_model() -> None:
    denoiser = from_diffusers(diffusers.DDPMPipeline(tiny_unet(), diffusers.DDIMScheduler(prediction_type="sample")))
    assert isinstance(denoiser, nn.Module)
    for sampler in (ddim, adams, evodiff, plms):
        x = sample(denoiser, 2, 4, sampler=sampler)
        assert x.shape == (2, 3, 8, 8)
    start = GaussianFit(torch.zeros(192, dtype=torch.float64), torch.eye(192, dtype=torch.float64))
    assert sample(denoiser, 2, 3, start=start, at=0.5, sampler=adams).isfinite().all()


def test_a_pipeline_with_a_softmix_scheduler_gives_the_samplers_images(tmp_path: Path) -> None:
    """From the pipeline's own noise, the images are those of the sampler on the denoiser. The scheduler is saved and
    loaded with the pipeline."""
    pipeline = diffusers.DDPMPipeline(tiny_unet(), diffusers.DDPMScheduler(prediction_type="sample"))
    pipeline.set_progress_bar_config(disable=True)
    for kind, sampler in ((EVODiffScheduler, evodiff), (AdamsScheduler, adams)):
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
        found = pipeline(
            batch_size=2, num_inference_steps=6, generator=torch.Generator().manual_seed(3), output_type="np"
        ).images
        x = noise(2, 3, 8, 8)
        x = diffusers.utils.torch_utils.randn_tensor(
            (2, 3, 8, 8), generator=torch.Generator().manual_seed(3), device=x.device
        )
        pipeline.save_pretrained(tmp_path / kind.__name__)
        again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / kind.__name__)
        assert type(again.scheduler) is kind
        denoiser = from_diffusers(tmp_path / kind.__name__).to(x.device)
        assert torch.equal(denoiser(noise(1, 3, 8, 8), 0.5).mean, from_diffusers(pipeline)(noise(1, 3, 8, 8), 0.5).mean)
        mine = finish(drive(denoiser, sampler, x, pipeline.scheduler._grid, Rng(0, 2)))
        assert np.abs(found - (mine / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()).max() < 1e-5


def test_the_model_keeps_its_mode_and_gradients() -> None:
    """A model in training mode is called in eval mode and stays in training mode."""
    model = tiny_unet(dropout=0.5)
    x = noise(1, 3, 8, 8)
    right = from_diffusers(model, diffusers.DDIMScheduler())(x, 0.5).mean
    model.train()
    denoiser = from_diffusers(model, diffusers.DDIMScheduler())
    assert torch.equal(denoiser(x, 0.5).mean, right)
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_flow_models_with_schedulers_of_beta_tables() -> None:
    """With use_flow_sigmas, as Wan uses UniPC, the process is flow matching."""
    model, x = tiny_unet(), noise(2, 3, 8, 8)
    right = from_diffusers(model, diffusers.FlowMatchEulerDiscreteScheduler())(x, 0.4).mean
    for kind in (diffusers.UniPCMultistepScheduler, diffusers.DPMSolverMultistepScheduler):
        scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        assert torch.equal(from_diffusers(model, scheduler)(x, 0.4).mean, right)


def test_errors_name_the_missing_part(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler()
    unsized = tiny_unet(sample_size=None)
    with pytest.raises(HubError, match="give from_diffusers shape"):
        from_diffusers(unsized, scheduler)
    assert sample(from_diffusers(unsized, scheduler, shape=(3, 8, 8)), 1, 2).shape == (1, 3, 8, 8)
    filling = from_diffusers(text_unet(in_channels=9), scheduler)
    assert filling.shape == (4, 8, 8)
    with pytest.raises(HubError, match=r"with 5 input channels for an image.*channels=\.\.\."):
        filling(noise(2, 4, 8, 8), 0.5, noise(2, 5, 12))
    with pytest.raises(HubError, match="takes 4 channels and gives 6"):
        from_diffusers(text_unet(out_channels=6), scheduler)
    with pytest.raises(HubError, match=r"Keywords\(encoder_hidden_states=..., class_labels=...\)"):
        from_diffusers(text_unet(num_class_embeds=10), scheduler)(noise(2, 4, 8, 8), 0.5, noise(2, 5, 12))
    pipeline = diffusers.DDPMPipeline(tiny_unet(), scheduler)
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    kept = {name: each for name, each in load_file(weights).items() if not name.startswith("conv_in")}
    save_file(kept, weights, metadata={"format": "pt"})
    for folder in (tmp_path, tmp_path / "unet"):
        with pytest.raises(HubError, match="missing or unexpected weights"):
            from_diffusers(folder)


# out


LOADING = """
import sys, torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
assert "softmix" not in sys.modules
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
more = {"class_labels": [1, 1]} if "Consistency" in type(pipe).__name__ else {}
generator = torch.Generator().manual_seed(3)
x = pipe(batch_size=2, num_inference_steps=10, generator=generator, output_type="np", **more).images
torch.save(torch.from_numpy(x), sys.argv[2])
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
pipe(batch_size=1, num_inference_steps=4, output_type="np", **{k: v[:1] for k, v in more.items()})
"""


@pytest.mark.parametrize("classes", [False, True], ids=["plain", "classes"])
def test_diffusers_loads_an_exported_mean(trained: Callable[..., Model], tmp_path: Path, classes: bool) -> None:
    """In a process that did not import softmix, without trust_remote_code. The images are those of `ddim`, and another
    scheduler may replace it."""
    model = trained("plain", classes)
    export(model, tmp_path / "folder")
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path / "folder"), str(tmp_path / "x.pt")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    times = torch.linspace(1, 0, 11, dtype=torch.float64)
    cond = torch.tensor([1, 1]) if classes else None
    denoiser = model.denoiser.to(x.device)
    mine = finish(drive(denoiser, ddim, x, times, Rng(0, 2), cond))
    assert (found.to(x.device) - (mine / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)).abs().max() < 1e-4


def test_an_exported_soft_mixture_keeps_its_draws(trained: Callable[..., Model], tmp_path: Path) -> None:
    model = trained("smd")
    export(model, tmp_path / "soft")
    mine = sample(model.denoiser.to(torch.zeros(()).device), 3, 2, sampler=model.sampler, seed=4)
    # with accelerate diffusers fills networks without storage, without accelerate initialised ones
    for empty in (False, True):
        pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "soft", low_cpu_mem_usage=empty).to(mine.device)
        assert isinstance(pipe, SoftmixPipeline)
        pipe.set_progress_bar_config(disable=True)
        assert (pipe(3, 2, seed=4, output_type="pt").images - mine).abs().max() < 1e-5
    assert pipe(2, 2, sampler="adams").images[0].size == (8, 8)
    with pytest.raises(HubError, match="there are ancestral"):
        pipe(1, sampler="best")
    with pytest.raises(HubError, match="labels below 0"):
        pipe(2, class_labels=[1, 1])
    drawn = [pipe(1, 2, generator=torch.Generator().manual_seed(k), output_type="pt").images for k in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    # half precision: float32 weights, rounded products
    for dtype in (torch.bfloat16, torch.float16):
        for each in (
            diffusers.DiffusionPipeline.from_pretrained(tmp_path / "soft", torch_dtype=dtype),
            diffusers.DiffusionPipeline.from_pretrained(tmp_path / "soft").to(dtype),
        ):
            each.to(mine.device).set_progress_bar_config(disable=True)
            gap = (each(3, 2, seed=4, output_type="pt").images - mine).abs().max()
            assert 0 < gap < 0.1 and each.unet(torch.zeros(1, 1, 8, 8, dtype=dtype), 10).sample.dtype == dtype
    # its mean runs in any pipeline of diffusers
    plain = diffusers.DDPMPipeline(pipe.unet, pipe.scheduler)
    plain.set_progress_bar_config(disable=True)
    assert plain(batch_size=1, num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, 1)


def test_export_refuses_other_processes_and_points(trained: Callable[..., Model], tmp_path: Path) -> None:
    with pytest.raises(HubError, match="and VE"):
        export(trained("plain", process=VE(), times=Times(by="logsnr")), tmp_path / "ve")
    few = preset("plain", (2,)).but(steps=2)
    points = softmix.train(load("toy:grid"), few, tmp_path / "points")
    with pytest.raises(HubError, match="square images"):
        export(points, tmp_path / "points")


def test_an_exported_head_without_a_mean_raises_a_type_error(trained: Callable[..., Model], tmp_path: Path) -> None:
    model = trained("smd", head=SoftHead(mean="none"), loss=softmix.loss.Energy(m=2))
    export(model, tmp_path / "none")
    x = torch.zeros(1, 1, 8, 8)
    pipe = SoftmixPipeline.from_pretrained(tmp_path / "none").to(x.device)
    with pytest.raises(TypeError, match="needs a mean"):
        pipe.unet(x, 10)
