"""Diffusers models as denoisers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..codec import VAE
from ..denoiser.parameterise import affine
from ..posterior import Point
from ..shape import column
from .calls import Call, call_of, extra_channels, is_sound, is_video, time_of
from .conditions import Conditions, conditions_of
from .folder import net_of, opened
from .keywords import Keywords, moved
from .reading import HubError, Reading, reading
from .text import EncodeText, conditioned, reader

__all__ = ["Conditions", "DiffusersDenoiser", "HubError", "Keywords", "Reading", "from_diffusers"]


class DiffusersDenoiser(nn.Module):
    """A diffusers model and its schedule as a denoiser.

    process : Table for what was trained on discrete betas, Flow for flow matching, VE for EDM's and for scores. cond :
    labels [B], -1 for "not told" (where the model has a class for that), embeddings [B, L, D] of text, or `Keywords`
    for models that take more than one condition. shape : of what it denoises, [C, H, W] or [C, F, H, W], for latent
    models of latents: `encode` and `decode` lead to pictures and back.
    """

    def __init__(
        self,
        model: nn.Module,
        reading: Reading,
        shape: tuple[int, ...],
        conditions: Conditions,
        vae: nn.Module | None = None,
        encode_text: EncodeText | None = None,
    ):
        super().__init__()
        self.model, self.vae = model, vae
        self.process, self.shape, self.reading = reading.process, shape, reading
        self.call: Call = call_of(model)
        self._time, self._conditions, self._encode_text = time_of(model), conditions, encode_text

    def forward(self, xt: Tensor, t: Tensor | float, cond: Any = None) -> Point:
        t = torch.as_tensor(t, dtype=torch.float64)
        reading = self.reading
        said = self._said(column(reading.scale(t), xt) * xt, reading.clock(t), cond).to(xt.dtype)
        said = column(self.call.sign * reading.factor(t), xt) * said
        if said.shape[1] == 2 * xt.shape[1]:
            said = said.chunk(2, 1)[0]
        a, b = affine(reading.output, self.process.alpha(t), self.process.sigma(t), reading.data_sd)
        return Point(column(a, xt) * xt + column(b, xt) * said)

    def _said(self, x: Tensor, time: Tensor, cond: Any) -> Tensor:
        """What the model says of its own input at the scheduler's time, laid out as x is."""
        model, call, known = self.model, self.call, next(self.model.parameters()).dtype
        config = model.config
        times = call.time(time, self.reading, config).to(x.device).expand(len(x))
        told = moved(self._conditions(cond, len(x)), x.device, known)
        times = call.spread(times, x)
        channels = told.pop("channels", None)
        told = {
            **call.beside(x, told, model),
            **told,
            **call.turned(x, told, model),
            **dict.fromkeys(call.again, times),
        }
        asked = (times,) if self._time is None else ()
        if self._time is not None:
            told[self._time] = times
        # a model that is being trained goes on being trained
        training = model.training
        try:
            whole = x.to(known) if channels is None else torch.cat([x.to(known), channels], 1)
            output = model.eval()(call.layout.enter(whole, x, config), *asked, **told)
        finally:
            model.train(training)
        return call.layout.leave(output.sample if hasattr(output, "sample") else output[0], x, config)

    def text(self, prompts: Sequence[str], **more: Any) -> Any:
        """What `cond` takes for prompts: embeddings [n, L, D], or `Keywords` where the model is told more than that.

        "" is the prompt that guidance leads away from. more : keywords that the encoders do not make, for example
        guidance=3.5 for a model that was distilled with it.
        """
        if self._encode_text is None:
            raise HubError("this model came without a text encoder: give from_diffusers its whole pipeline")
        return conditioned(self._encode_text(prompts, self.shape), more)

    @property
    def codec(self) -> VAE:
        """The VAE that leads from images to latents and back. Raises HubError for a model without one."""
        if self.vae is None:
            raise HubError(
                "this model works on pixels, or came without its VAE: give from_diffusers the whole pipeline"
            )
        return VAE(self.vae)

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images in [-1, 1], scaled as the model wants them."""
        return self.codec.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] of latents."""
        return self.codec.decode(latents)


def from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    unconditional: int | None = None,
    conditions: Conditions | None = None,
    shape: tuple[int, ...] | None = None,
    variant: str | None = None,
) -> DiffusersDenoiser:
    """A denoiser of a diffusers pipeline, of a model with its scheduler, or of a folder that either was saved to.

    source : a pipeline, any UNet or Transformer of diffusers, or another model with such a call, or the path of a
    folder (weights as safetensors; nothing is unpickled, no code of the folder is run). scheduler : of a model alone;
    of a pipeline, another than its own. unconditional : the class that means "no class"; known for DiT. conditions :
    cond, batch -> keywords of the model's call, where `cond` itself, labels, an embedding or `Keywords`, is not
    enough. shape : (C, H, W) of what it denoises, (C, F, H, W) of videos, where its configuration does not say it.
    variant : of a folder's weights, such as "fp16"; the only ones there need no name.

    The model stays the caller's: it is called in eval mode and left in its own. Raises HubError for a scheduler whose
    process is not known here, and for a model that needs what is not there.
    """
    parts = opened(source, scheduler is None, variant)
    scheduler = scheduler if scheduler is not None else parts.components.get("scheduler")
    model = net_of(parts, source)
    if scheduler is None:
        raise HubError(f"{type(model).__name__} says nothing of its process: give its scheduler too")
    vae = next((parts.components[name] for name in ("vae", "vqvae") if parts.components.get(name) is not None), None)
    call = call_of(model)
    told = conditions or conditions_of(model, call, unconditional)
    size = getattr(parts.pipeline, "default_sample_size", None)
    return DiffusersDenoiser(
        model, reading(scheduler), _shape(model, call, shape, size), told, vae, reader(parts.pipeline, model)
    )


def _shape(model: Any, call: Call, given: tuple[int, ...] | None, size: int | None) -> tuple[int, ...]:
    """As given, or as the configuration, or the pipeline, says."""
    config, name = model.config, type(model).__name__
    taken, extra = config.get("in_channels"), extra_channels(model)
    if extra < 0:
        raise HubError(
            f"{name} takes {taken} channels and says {config.out_channels}: it has to say as many as its "
            "latents have, or twice as many"
        )
    if given is not None:
        return tuple(given)
    if is_video(model):
        raise HubError(f"{name} makes videos: give from_diffusers shape=(channels, frames, height, width)")
    sides = config.get("sample_size") or size
    if sides is None or taken is None:
        raise HubError(f"{name} says no sample_size: give from_diffusers shape=(channels, height, width)")
    if isinstance(sides, int):
        sides = (sides,) if is_sound(model) else (sides, sides)
    return (int(taken) // call.layout.channels(config) - extra, *map(int, sides))
