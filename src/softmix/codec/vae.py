"""An autoencoder of diffusers, pictures to latents and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class VAE:
    """An autoencoder of diffusers as a `Codec`: AutoencoderKL, AutoencoderTiny, VQModel, those of videos, and others.

    module : as `AutoencoderKL.from_pretrained(...)` gives it. Its weights are not changed, and it stays where it is;
        latents and pictures come back on the device, and in the precision, of what is given.

    encode(x) = (mode of q(z | x) - shift) * factor and decode(z) = p(x | z / factor + shift), with shift and factor
    from the module's configuration, by which latents have a standard deviation of about 1. The mode and not a draw, so
    that latents are a function of the picture.
    """

    def __init__(self, module: nn.Module):
        self.module: Any = module
        self.name = type(module).__name__

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a SHA-256 of the weights, with their names."""
        digest = hashlib.sha256(self.name.encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """(shift, factor), [C] or [1] each."""
        shift, factor = _scales(self.module, torch.zeros(1, 1, 1, 1))
        return shift.flatten(), factor.flatten()

    @torch.no_grad()
    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latents of an item [C, H, W], found by encoding one of zeros."""
        return tuple(self.encode(torch.zeros(1, *shape)).shape[1:])

    @torch.no_grad()
    def encode(self, x0: Tensor) -> Tensor:
        """Latents of images in [-1, 1], scaled as the denoiser wants them."""
        return _calm(self.module, lambda: _encoded(self.module, x0))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] of latents."""
        return _calm(self.module, lambda: _decoded(self.module, latents))


def _calm(module: Any, call: Callable[[], Tensor]) -> Tensor:
    """A call in eval mode; a module that is being trained goes on being trained."""
    training = module.training
    try:
        module.eval()
        return call()
    finally:
        module.train(training)


def _encoded(vae: Any, images: Tensor) -> Tensor:
    found = vae.encode(_with_frame(images.to(next(vae.parameters())), vae))
    if hasattr(found, "latent_dist"):
        latents = found.latent_dist.mode()
    else:
        latents = found.latents if hasattr(found, "latents") else found.latent
    latents = _without_frame(latents, images).to(images)
    if _normed(vae):
        latents = functional.pixel_unshuffle(latents, 2)
    shift, factor = _scales(vae, latents)
    return (latents - shift) * factor


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    shift, factor = _scales(vae, latents)
    found = latents / factor + shift
    if _normed(vae):
        found = functional.pixel_shuffle(found, 2)
    known = _with_frame(found.to(next(vae.parameters())), vae)
    return _without_frame(vae.decode(known).sample, latents).to(latents)


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
