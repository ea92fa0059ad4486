"""Autoencoders of diffusers as codecs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class VAE:
    """An autoencoder of diffusers as a `Codec`: AutoencoderKL, AutoencoderTiny, VQModel, video autoencoders and others.

        encode(x) = (mode of q(z | x) - shift) * factor,    decode(z) = p(x | z / factor + shift)

    module : for example `AutoencoderKL.from_pretrained(...)`. Its weights and its device do not change.

    shift and factor come from the configuration of the module; with them latents have a standard deviation of about 1.
    The mode is taken and not a draw, so that latents are a function of the image. The result has the device and the
    precision of the argument.
    When to choose: to train on latents of images that are too large to train on directly.
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
        """The shape of the latents of an item [C, H, W], from encoding zeros."""
        return tuple(self.encode(torch.zeros(1, *shape)).shape[1:])

    @torch.no_grad()
    def encode(self, x0: Tensor) -> Tensor:
        """Scaled latents of images in [-1, 1]."""
        return _in_eval_mode(self.module, lambda: _encoded(self.module, x0))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] of scaled latents."""
        return _in_eval_mode(self.module, lambda: _decoded(self.module, latents))


def _in_eval_mode(module: Any, call: Callable[[], Tensor]) -> Tensor:
    """A call in eval mode. The mode of the module is restored afterwards."""
    training = module.training
    try:
        module.eval()
        return call()
    finally:
        module.train(training)


def _encoded(vae: Any, images: Tensor) -> Tensor:
    output = vae.encode(_with_frame(images.to(next(vae.parameters())), vae))
    if hasattr(output, "latent_dist"):
        latents = output.latent_dist.mode()
    else:
        latents = output.latents if hasattr(output, "latents") else output.latent
    latents = _without_frame(latents, images).to(images)
    if _normed(vae):
        latents = functional.pixel_unshuffle(latents, 2)
    shift, factor = _scales(vae, latents)
    return (latents - shift) * factor


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    shift, factor = _scales(vae, latents)
    codes = latents / factor + shift
    if _normed(vae):
        codes = functional.pixel_shuffle(codes, 2)
    codes = _with_frame(codes.to(next(vae.parameters())), vae)
    return _without_frame(vae.decode(codes).sample, latents).to(latents)


def _normed(vae: Any) -> bool:
    """Whether its latents are patches, normalised by the running statistics of a batch norm."""
    return isinstance(getattr(vae, "bn", None), torch.nn.BatchNorm2d)


def _scales(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """The shift and the factor of the latents of a VAE, ready to multiply `like`."""
    config, shape = vae.config, (1, -1, *[1] * (like.ndim - 2))
    if _normed(vae):
        sd = (vae.bn.running_var + config.batch_norm_eps).sqrt()
        return vae.bn.running_mean.reshape(shape).to(like), (1 / sd).reshape(shape).to(like)
    mean, std = (_setting(vae, name) for name in ("latents_mean", "latents_std"))
    shift = torch.as_tensor(mean if mean is not None else config.get("shift_factor") or 0.0).to(like)
    sd = torch.as_tensor(std if std is not None else 1.0).to(like)
    return shift.reshape(shape), (config.get("scaling_factor") or 1.0) / sd.reshape(shape)


def _setting(vae: Any, name: str) -> Any:
    """A value of its configuration, or an attribute of the module."""
    value = vae.config.get(name)
    return value if value is not None else getattr(vae, name, None)


def _with_frame(x: Tensor, vae: Any) -> Tensor:
    """An image as a video of one frame, for a VAE of videos."""
    return x.unsqueeze(2) if x.ndim == 4 and _is_for_videos(vae) else x


def _without_frame(x: Tensor, like: Tensor) -> Tensor:
    return x[:, :, 0] if x.ndim == 5 and like.ndim == 4 else x


def _is_for_videos(vae: Any) -> bool:
    first = next((each for each in vae.parameters() if each.ndim > 3), None)
    return first is not None and first.ndim == 5
