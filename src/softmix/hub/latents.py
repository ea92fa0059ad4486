"""The room of the hub: pictures as the latents of a VAE of diffusers, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def encoded(vae: Any, images: Tensor) -> Tensor:
    """Latents of images in [-1, 1], scaled as the denoiser wants them."""
    found = vae.encode(_with_frame(images.to(next(vae.parameters())), vae))
    if hasattr(found, "latent_dist"):
        latents = found.latent_dist.mode()
    else:
        latents = found.latents if hasattr(found, "latents") else found.latent
    latents = _without_frame(latents, images).to(images.dtype)
    if _normed(vae):
        latents = functional.pixel_unshuffle(latents, 2)
    shift, scale = _scales(vae, latents)
    return (latents - shift) * scale


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Images in [-1, 1] of latents."""
    shift, scale = _scales(vae, latents)
    found = latents / scale + shift
    if _normed(vae):
        found = functional.pixel_shuffle(found, 2)
    known = _with_frame(found.to(next(vae.parameters())), vae)
    return _without_frame(vae.decode(known).sample, latents).to(latents.dtype)


def _normed(vae: Any) -> bool:
    """Whether its latents are cut in patches and brought to the mean and the spread that a batch norm has kept."""
    return isinstance(getattr(vae, "bn", None), torch.nn.BatchNorm2d)


def _scales(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is taken from a VAE's latents, and what they are multiplied by then."""
    config, shape = vae.config, (1, -1, *[1] * (like.ndim - 2))
    if _normed(vae):
        spread = (vae.bn.running_var + config.batch_norm_eps).sqrt()
        return vae.bn.running_mean.reshape(shape).to(like), (1 / spread).reshape(shape).to(like)
    mean, spread = (_kept(vae, name) for name in ("latents_mean", "latents_std"))
    shift = torch.as_tensor(mean if mean is not None else config.get("shift_factor") or 0.0).to(like)
    sd = torch.as_tensor(spread if spread is not None else 1.0).to(like)
    return shift.reshape(shape), (config.get("scaling_factor") or 1.0) / sd.reshape(shape)


def _kept(vae: Any, name: str) -> Any:
    """In its configuration, or beside its weights."""
    found = vae.config.get(name)
    return found if found is not None else getattr(vae, name, None)


def _with_frame(x: Tensor, vae: Any) -> Tensor:
    """A picture as a video of one frame, for a VAE of videos."""
    return x.unsqueeze(2) if x.ndim == 4 and _of_videos(vae) else x


def _without_frame(x: Tensor, like: Tensor) -> Tensor:
    return x[:, :, 0] if x.ndim == 5 and like.ndim == 4 else x


def _of_videos(vae: Any) -> bool:
    first = next((each for each in vae.parameters() if each.ndim > 3), None)
    return first is not None and first.ndim == 5
