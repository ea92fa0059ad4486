"""SD3, Flux and SDXL with guidance, against the loops of their own pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

from softmix.denoiser import guided  # noqa: E402
from softmix.hub import HubError, Keywords, from_diffusers  # noqa: E402
from softmix.process import Flow  # noqa: E402
from softmix.rng import Rng  # noqa: E402
from softmix.sampler import adams, ddim, drive, sample  # noqa: E402
from softmix.sampler.drive import finish  # noqa: E402

NEAR = 1e-5
L = 5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def sd3(**more: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "joint_attention_dim": 32}
    widths = {"caption_projection_dim": 16, "pooled_projection_dim": 64, "pos_embed_max_size": 8}
    base = {"sample_size": 8, "patch_size": 1, "in_channels": 4, "out_channels": 4}
    return diffusers.SD3Transformer2DModel(**(base | sizes | widths | more)).eval()


def flux(**more: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
    widths = {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)}
    base = {"patch_size": 1, "in_channels": 16, "guidance_embeds": True}
    model = diffusers.FluxTransformer2DModel(**(base | sizes | widths | more)).eval()
    # the output layer is initialised with zeros
    torch.nn.init.normal_(model.proj_out.weight, std=0.2)
    return model


def near(ours: Tensor, right: Tensor) -> bool:
    return float((ours - right).abs().max()) <= NEAR * max(1.0, float(right.abs().max()))


def random_condition(n: int, seed: int, pooled: int) -> dict[str, Tensor]:
    return {"encoder_hidden_states": noise(n, L, 32, seed=seed), "pooled_projections": noise(n, pooled, seed=seed)}


def ours(denoiser: Any, x: Tensor, sigmas: Tensor, cond: Any) -> Tensor:
    return finish(drive(denoiser, ddim, x, sigmas.double(), Rng(0, len(x)), cond))


@torch.no_grad()
def test_sd3_with_guidance_equals_its_own_loop() -> None:
    model, scheduler = sd3(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    x, yes, no = noise(2, 4, 8, 8), random_condition(2, 1, 64), random_condition(1, 2, 64)
    scheduler.set_timesteps(6, device=x.device)
    right = x
    for t in scheduler.timesteps:
        # as in the pipeline: one batch of both, the unconditional half first
        both = {name: torch.cat([no[name].expand_as(yes[name]), yes[name]]) for name in yes}
        nothing, something = model(torch.cat([right] * 2), timestep=t.expand(4), **both)[0].chunk(2)
        right = scheduler.step(nothing + 7.0 * (something - nothing), t, right)[0]
    unguided = from_diffusers(model, scheduler)
    assert isinstance(unguided.process, Flow) and unguided.shape == (4, 8, 8)
    denoiser = guided(7.0, unconditional=Keywords(**no))(unguided)  # type: ignore[arg-type]
    assert near(ours(denoiser, x, scheduler.sigmas, Keywords(**yes)), right)
    # in batches, as `sample` slices the rows
    cond: Any = Keywords(**random_condition(5, 3, 64))
    whole = sample(denoiser, 5, 3, sampler=adams, cond=cond)
    assert near(sample(denoiser, 5, 3, sampler=adams, cond=cond, batch=2), whole)
    assert not near(sample(denoiser, 5, 3, sampler=adams, cond=cond[torch.tensor([1, 0, 2, 3, 4])]), whole)


@torch.no_grad()
def test_flux_with_packed_latents_and_guidance_equals_its_own_loop() -> None:
    """With distilled guidance, dynamic shift and true guidance; latents as tokens of 2 by 2 patches."""
    model = flux()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    x, yes, no = noise(2, 4, 8, 6), random_condition(2, 1, 32), random_condition(2, 2, 32)
    places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(3)])
    same = {"img_ids": places, "txt_ids": torch.zeros(L, 3), "guidance": torch.full((2,), 3.5)}
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 5, 5), mu=0.7, device=x.device)
    packed = x.view(2, 4, 4, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 12, 16)
    for t in scheduler.timesteps:
        time = t.expand(2) / 1000
        something, nothing = (model(packed, timestep=time, **each, **same)[0] for each in (yes, no))
        packed = scheduler.step(nothing + 2.0 * (something - nothing), t, packed)[0]
    right = packed.view(2, 4, 3, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 4, 8, 6)
    unguided = from_diffusers(model, scheduler, shape=(4, 8, 6))
    denoiser = guided(2.0, unconditional=Keywords(**no, guidance=3.5))(unguided)  # type: ignore[arg-type]
    assert near(ours(denoiser, x, scheduler.sigmas, Keywords(**yes, guidance=3.5)), right)
    with pytest.raises(HubError, match="needs guidance too"):
        unguided(x, 0.5, Keywords(**yes))
    with pytest.raises(HubError, match="has no keyword words; it has encoder_hidden_states, pooled_projections"):
        unguided(x, 0.5, Keywords(**yes, words=3))
    with pytest.raises(HubError, match="keywords of 2 rows were given for 3"):
        unguided(noise(3, 4, 8, 6), 0.5, Keywords(**yes, guidance=3.5))
    # 4 of the 16 channels are latents; the pipeline knows their size
    with pytest.raises(HubError, match="give from_diffusers shape"):
        from_diffusers(model, scheduler)


def test_keywords_are_sliced_and_repeated_by_rows() -> None:
    words = noise(3, L, 4)
    keywords = Keywords(
        encoder_hidden_states=words, added={"ids": torch.arange(3)}, layers=[words], rope=(words,), scale=2
    )
    part = keywords[1:]
    assert len(keywords) == 3 and len(part) == 2 and part.arguments["scale"] == 2
    assert torch.equal(part.arguments["encoder_hidden_states"], words[1:]) and torch.equal(
        part.arguments["layers"][0], words[1:]
    )
    assert part.arguments["added"]["ids"].tolist() == [1, 2] and part.arguments["rope"][0] is words
    assert keywords[:1].expand_as(keywords).arguments["added"]["ids"].tolist() == [0, 0, 0]
    assert keywords.to("meta").device.type == "meta" and keywords.to(keywords.to("meta")).device.type == "meta"
    with pytest.raises(ValueError, match="found a 3, b 2 rows"):
        Keywords(a=words, b=words[:2])


# whole pipelines with their text encoders


def tokenizer(transformers: Any, length: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = {"<pad>": 0, "<end>": 1, "a": 2, "boat": 3, "on": 4, "<other>": 5}
    made = Tokenizer(models.WordLevel(known, unk_token="<other>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", model_max_length=length
    )


def clip(transformers: Any, projected: bool) -> Any:
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=8, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=32, eos_token_id=1, pad_token_id=0, bos_token_id=5,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config).eval()


def t5(transformers: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=8, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5EncoderModel(config).eval()


def vae(latents: int = 4) -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=latents,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8), norm_num_groups=4, sample_size=16,
        shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False,
    ).eval()  # fmt: skip


def test_a_whole_sd3_pipeline() -> None:
    transformers = pytest.importorskip("transformers")
    words = [tokenizer(transformers, 8) for _ in range(3)]
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=sd3(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(),
        text_encoder=clip(transformers, True), tokenizer=words[0], text_encoder_2=clip(transformers, True),
        tokenizer_2=words[1], text_encoder_3=t5(transformers), tokenizer_3=words[2],
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    x = noise(2, 4, 8, 8)
    right = pipeline(["a boat", "on a"], num_inference_steps=4, guidance_scale=5.0, latents=x, output_type="pt",
                     height=16, width=16).images  # fmt: skip
    unguided = from_diffusers(pipeline)
    denoiser = guided(5.0, unconditional=unguided.text([""]))(unguided)
    latents = ours(denoiser, x, pipeline.scheduler.sigmas, unguided.text(["a boat", "on a"]))
    assert near((unguided.decode(latents) / 2 + 0.5).clamp(0, 1), right)


def test_a_whole_flux_pipeline() -> None:
    transformers = pytest.importorskip("transformers")
    pipeline = diffusers.FluxPipeline(
        transformer=flux(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae(),
        text_encoder=clip(transformers, False), tokenizer=tokenizer(transformers, 8), text_encoder_2=t5(transformers),
        tokenizer_2=tokenizer(transformers, 8),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    x = noise(2, 4, 8, 8)
    packed = x.view(2, 4, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 16, 16)
    asked = {"num_inference_steps": 4, "guidance_scale": 3.5, "latents": packed, "output_type": "pt"}
    size = {"height": 16, "width": 16, "max_sequence_length": 512}
    right = pipeline(["a boat", "on a"], negative_prompt=["", ""], true_cfg_scale=2.0, **asked, **size).images
    assert from_diffusers(pipeline).shape == (4, 128, 128)
    unguided = from_diffusers(pipeline, shape=(4, 8, 8))
    denoiser = guided(2.0, unconditional=unguided.text([""], guidance=3.5))(unguided)
    latents = ours(denoiser, x, pipeline.scheduler.sigmas, unguided.text(["a boat", "on a"], guidance=3.5))
    assert near((unguided.decode(latents) / 2 + 0.5).clamp(0, 1), right)


def test_a_whole_sdxl_pipeline() -> None:
    """Two text encoders, pooled embeddings, and the image size as a condition."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, cross_attention_dim=64,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=4,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=56,
    ).eval()  # fmt: skip
    pipeline = diffusers.StableDiffusionXLPipeline(
        unet=unet, scheduler=diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False), vae=vae(),
        text_encoder=clip(transformers, False), tokenizer=tokenizer(transformers, 8),
        text_encoder_2=clip(transformers, True), tokenizer_2=tokenizer(transformers, 8),
        force_zeros_for_empty_prompt=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    x = noise(2, 4, 8, 8)
    latents = pipeline(["a boat", "on a"], num_inference_steps=4, guidance_scale=5.0, latents=x, output_type="latent",
                       height=16, width=16).images  # fmt: skip
    unguided = from_diffusers(pipeline)
    denoiser = guided(5.0, unconditional=unguided.text([""]))(unguided)
    times = (pipeline.scheduler.timesteps.double() + 1) / 1000
    found = ours(denoiser, x, torch.cat([times, times.new_zeros(1)]), unguided.text(["a boat", "on a"]))
    assert near(found, latents)
