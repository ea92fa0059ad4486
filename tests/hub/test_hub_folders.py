"""Folders of diffusers: variants, pickles, several networks; and `drawing`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

from softmix.cli.sample_diffusers import is_diffusers_folder  # noqa: E402
from softmix.denoiser import guided  # noqa: E402
from softmix.hub import HubError, drawing, from_diffusers  # noqa: E402
from softmix.sampler import sample  # noqa: E402

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def tiny(**more: Any) -> Any:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    base = {"sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 4}
    return diffusers.UNet2DModel(**(base | blocks | more)).eval()


def pipeline(**more: Any) -> Any:
    return diffusers.DDPMPipeline(tiny(**more), diffusers.DDPMScheduler())


def mean(source: Any, **more: Any) -> Tensor:
    return from_diffusers(source, **more).to(X.device)(X, 0.3).mean


def test_loaded_weights_are_aligned_copies(tmp_path: Path) -> None:
    """Weights in a file have any offset. Sums over numbers not aligned to 16 bytes are rounded in another order."""
    whole = pipeline()
    whole.save_pretrained(tmp_path)
    raw = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    read = from_diffusers(tmp_path).model
    assert all(each.data_ptr() % 16 == 0 for each in read.parameters())
    assert torch.equal(mean(tmp_path), mean(whole))
    # an unaligned copy differs in the last digit
    astray = [each for each in raw.parameters() if each.data_ptr() % 16]
    if astray:
        gap = float((mean(raw, scheduler=whole.scheduler) - mean(whole)).abs().max())
        assert gap < 1e-5
    # a rewritten file does not change the loaded model
    before = mean(read, scheduler=whole.scheduler)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    bytes_of = weights.read_bytes()
    with weights.open("r+b") as file:
        file.seek(len(bytes_of) // 2)
        file.write(bytes(len(bytes_of) // 2))
    assert torch.equal(mean(read, scheduler=whole.scheduler), before)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_only_variant_of_a_folder_is_loaded(tmp_path: Path, sharded: bool) -> None:
    size = {"max_shard_size": "3KB"} if sharded else {}
    pipeline().save_pretrained(tmp_path, variant="fp16", **size)
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    right = mean(pipeline())
    for folder in (tmp_path, tmp_path / "unet"):
        assert torch.equal(mean(folder), right) and torch.equal(mean(folder, variant="fp16"), right)
        with pytest.raises(HubError, match=re.escape("variant 'bf16' was asked for; found fp16")):
            from_diffusers(folder, variant="bf16")


def test_several_variants_need_a_name(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path, variant="fp16")
    folder = tmp_path / "unet"
    weights = folder / "diffusion_pytorch_model.fp16.safetensors"
    doubled = {name: 2 * each for name, each in load_file(weights).items()}
    save_file(doubled, folder / "diffusion_pytorch_model.other.safetensors", metadata={"format": "pt"})
    with pytest.raises(HubError, match="several variants, fp16, other: give from_diffusers variant"):
        from_diffusers(tmp_path)
    assert torch.equal(mean(tmp_path, variant="fp16"), mean(pipeline()))
    assert not torch.allclose(mean(tmp_path, variant="other"), mean(pipeline()), atol=1e-3)
    # weights without a variant are the default
    save_file(doubled, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    assert torch.equal(mean(tmp_path), mean(tmp_path, variant="other"))
    with pytest.raises(HubError, match="names weights of a folder"):
        from_diffusers(pipeline(), variant="fp16")


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path, safe_serialization=False)
    for folder in (tmp_path, tmp_path / "unet"):
        with pytest.raises(HubError, match=r"diffusion_pytorch_model\.bin alone.*save it again"):
            from_diffusers(folder)
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(HubError, match=r"config\.json and no weights"):
        from_diffusers(tmp_path)


def latent(folder: Path) -> Any:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
    ).eval()  # fmt: skip
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=1, sample_size=8, num_embeds_ada_norm=3,
        norm_num_groups=4,
    ).eval()  # fmt: skip
    whole = diffusers.DiTPipeline(transformer=dit, vae=vae, scheduler=diffusers.DDIMScheduler())
    whole.save_pretrained(folder)
    # as in the released DiT
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": {"0": "cat", "1": "dog", "2": "fox"}}))
    return whole


def test_a_vae_with_pickled_weights_is_refused(tmp_path: Path) -> None:
    whole = latent(tmp_path)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    whole.vae.save_pretrained(tmp_path / "vae", safe_serialization=False)
    with pytest.raises(HubError, match="vae has its weights as"):
        from_diffusers(tmp_path)


def test_a_pipeline_with_two_networks_is_refused() -> None:
    whole = pipeline()
    two = type("Two", (), {"components": dict(whole.components) | {"unet_2": tiny()}})()
    with pytest.raises(HubError, match="has 2 networks, unet, unet_2: give from_diffusers one of them"):
        from_diffusers(two)


# drawing


def test_drawing_a_folder_of_a_pixel_model(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "plain")
    assert is_diffusers_folder(tmp_path / "plain") and is_diffusers_folder(tmp_path / "plain" / "unet")
    assert not is_diffusers_folder(tmp_path) and not is_diffusers_folder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"config": {}}))
    assert not is_diffusers_folder(tmp_path)
    found = drawing(tmp_path / "plain")
    assert (found.name, found.shape, found.classes, found.cond(2, 0), found.unconditional) == (
        "plain",
        (3, 8, 8),
        0,
        None,
        None,
    )
    assert "UNet2DModel without conditions, of pixels [3, 8, 8], Table(1000 steps" in found.what
    x = found.pixels(sample(found.denoiser.to(X.device), 2, 3))
    assert torch.equal(x, sample(from_diffusers(pipeline()), 2, 3))
    with pytest.raises(HubError, match="a prompt was given, and this model takes no condition"):
        drawing(tmp_path / "plain", prompt="a boat")
    with pytest.raises(HubError, match="class 3 was asked for; its classes are none"):
        drawing(tmp_path / "plain", label=3)


def test_drawing_a_folder_of_a_latent_model_with_classes(tmp_path: Path) -> None:
    whole = latent(tmp_path / "dit")
    found = drawing(tmp_path / "dit")
    assert (found.classes, found.class_names, found.shape) == (3, ("cat", "dog", "fox"), (4, 8, 8))
    assert found.cond(4, 2).tolist() == [2, 0, 1, 2] and drawing(tmp_path / "dit", label=1).cond(2, 5).tolist() == [
        1,
        1,
    ]
    found.denoiser.to(X.device)
    z = sample(found.denoiser, 2, 3, cond=found.cond(2, 0))
    pictures = found.pixels(z)
    with torch.no_grad():
        right = whole.vae.decode(z / whole.vae.config.scaling_factor).sample
    assert pictures.shape == (2, 3, 16, 16) and torch.allclose(pictures, right, atol=1e-5)
    # guidance uses the label for "no class"
    assert sample(guided(2.0)(found.denoiser), 2, 3, cond=found.cond(2, 0)).isfinite().all()
    with pytest.raises(HubError, match="class 3 was asked for; its classes are 0 to 2"):
        drawing(tmp_path / "dit", label=3)
    with pytest.raises(HubError, match="takes labels"):
        drawing(tmp_path / "dit", prompt="a cat")


def test_drawing_refuses_sound_and_a_missing_prompt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sound = diffusers.UNet1DModel(
        sample_size=16, in_channels=2, extra_in_channels=64, block_out_channels=(32, 32),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"), up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    )  # fmt: skip
    sound.save_pretrained(tmp_path / "sound" / "unet")
    diffusers.IPNDMScheduler().save_pretrained(tmp_path / "sound" / "scheduler")
    with pytest.raises(HubError, match=re.escape("makes items of shape [2, 16], which are no images")):
        drawing(tmp_path / "sound" / "unet")
    text_model = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=4,
    )  # fmt: skip
    text_model.save_pretrained(tmp_path / "text_model" / "unet")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "text_model" / "scheduler")
    with pytest.raises(HubError, match="needs a prompt: its UNet2DConditionModel takes encoder_hidden_states"):
        drawing(tmp_path / "text_model" / "unet")
    with pytest.raises(HubError, match="without a text encoder"):
        drawing(tmp_path / "text_model" / "unet", prompt="a boat")
