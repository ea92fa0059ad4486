"""A diffusers model as a softmix denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..codec import VAE
from ..denoiser.parameterise import affine
from ..posterior import Point
from ..shape import column
from .class_labels import class_names
from .cond_keywords import CondToKeywords, cond_to_keywords
from .errors import HubError
from .keywords import move_arguments
from .load_components import denoising_network, load_components
from .model_calls import ModelCall, extra_channels, is_audio, is_video, model_call_of, time_name
from .model_conventions import ModelConventions, conventions_of
from .prompt_embeddings import EncodePrompts, as_cond, prompt_encoder

__all__ = ["DiffusersDenoiser", "from_diffusers"]


class DiffusersDenoiser(nn.Module):
    """A diffusers model as a denoiser: x_t, t, cond -> the posterior mean of x0.

    Made by `from_diffusers`. cond is class labels [B] (-1 for "no class", if the model has a label for it), prompt
    embeddings [B, L, D], or `Keywords` for a model with several conditions.

    model : the diffusers model.
    vae : the VAE of a latent model, else None.
    process : `Table` for training on discrete betas, `Flow` for flow matching, `VE` for EDM and for scores.
    shape : the shape of one item, [C, H, W] or [C, F, H, W]. For a latent model these are latents: `encode` and
        `decode` convert images.
    class_names : the names of the classes in order, () for a model without classes or without names.
    conventions : the scheduler's conventions for the model, see `ModelConventions`.
    call : how the model's class is called, see `ModelCall`.
    """

    def __init__(
        self,
        model: nn.Module,
        conventions: ModelConventions,
        shape: tuple[int, ...],
        conditions: CondToKeywords,
        vae: nn.Module | None = None,
        encode_prompts: EncodePrompts | None = None,
        class_names: tuple[str, ...] = (),
    ):
        super().__init__()
        self.model, self.vae = model, vae
        self.process, self.shape, self.conventions = conventions.process, shape, conventions
        self.class_names = class_names
        self.call: ModelCall = model_call_of(model)
        self._time_name, self._conditions, self._encode_prompts = time_name(model), conditions, encode_prompts

    def forward(self, xt: Tensor, t: Tensor | float, cond: Any = None) -> Point:
        """The posterior mean of x0 at time t, [] or [B]."""
        t = torch.as_tensor(t, dtype=torch.float64)
        conventions = self.conventions
        model_input = column(conventions.input_scale(t), xt) * xt
        output = self._model_output(model_input, conventions.timestep(t), cond).to(xt.dtype)
        output = column(self.call.output_sign * conventions.output_scale(t), xt) * output
        if output.shape[1] == 2 * xt.shape[1]:
            # the second half of the channels is a variance
            output = output.chunk(2, 1)[0]
        a, b = affine(conventions.output, self.process.alpha(t), self.process.sigma(t), conventions.data_sd)
        return Point(column(a, xt) * xt + column(b, xt) * output)

    def _model_output(self, x: Tensor, timestep: Tensor, cond: Any) -> Tensor:
        """The model's output in the layout of x."""
        model, call, dtype = self.model, self.call, next(self.model.parameters()).dtype
        config = model.config
        times = call.model_time(timestep, self.conventions, config).to(x.device).expand(len(x))
        keywords = move_arguments(self._conditions(cond, len(x)), x.device, dtype)
        times = call.time_shape(times, x)
        channels = keywords.pop("channels", None)
        keywords = {
            **call.extra(x, keywords, model),
            **keywords,
            **call.converted(x, keywords, model),
            **dict.fromkeys(call.second_time, times),
        }
        positional = (times,) if self._time_name is None else ()
        if self._time_name is not None:
            keywords[self._time_name] = times
        # a model in training mode goes back to it
        training = model.training
        try:
            model_input = x.to(dtype) if channels is None else torch.cat([x.to(dtype), channels], 1)
            output = model.eval()(call.layout.to_model(model_input, x, config), *positional, **keywords)
        finally:
            model.train(training)
        return call.layout.from_model(output.sample if hasattr(output, "sample") else output[0], x, config)

    def text(self, prompts: Sequence[str], **more: Any) -> Any:
        """Prompt embeddings as `cond`: a tensor [n, L, D], or `Keywords` for a model with more conditions than that.

        prompts : one prompt an item. [""] gives the unconditional embedding for guidance; a negative prompt gives
            another.
        more : further keywords of the model call, for example guidance=3.5 for a guidance-distilled model.

        Raises HubError without a text encoder.
        """
        if self._encode_prompts is None:
            raise HubError("this model came without a text encoder: give from_diffusers its whole pipeline")
        return as_cond(self._encode_prompts(prompts, self.shape), more)

    @property
    def codec(self) -> VAE:
        """The VAE between images and latents. Raises HubError for a model without one."""
        if self.vae is None:
            raise HubError(
                "this model works on pixels, or came without its VAE: give from_diffusers the whole pipeline"
            )
        return VAE(self.vae)

    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] -> latents with the scale of the model."""
        return self.codec.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images in [-1, 1]."""
        return self.codec.decode(latents)


def from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    unconditional: int | None = None,
    conditions: CondToKeywords | None = None,
    shape: tuple[int, ...] | None = None,
    variant: str | None = None,
) -> DiffusersDenoiser:
    """A diffusers model as a denoiser, from a pipeline, from a model and its scheduler, or from a folder of either.

    source : a pipeline; any UNet or Transformer of diffusers, or another model with such a call; or the path of a
        folder. Weights are read as safetensors. Nothing is unpickled and no code of the folder is run.
    scheduler : the scheduler of a model alone. For a pipeline, a scheduler to use in place of its own.
    unconditional : the class label for "no class". Known for DiT and for exported softmix models.
    conditions : a function (cond, batch size) -> keywords of the model call, if class labels, an embedding or
        `Keywords` are not enough.
    shape : the shape of one item, (C, H, W) or (C, F, H, W), if the configuration does not say it. Videos need it.
    variant : the variant of a folder's weights, such as "fp16". A folder with one variant needs no name.

    The model is called in eval mode and then put back into its own mode. Raises HubError for a scheduler with an
    unknown process, and for missing parts.
    """
    components = load_components(source, scheduler is None, variant)
    by_name = components.by_name
    scheduler = scheduler if scheduler is not None else by_name.get("scheduler")
    model = denoising_network(components, source)
    if scheduler is None:
        raise HubError(f"{type(model).__name__} alone does not say its process: give its scheduler too")
    vae = next((by_name[name] for name in ("vae", "vqvae") if by_name.get(name) is not None), None)
    call = model_call_of(model)
    return DiffusersDenoiser(
        model,
        conventions_of(scheduler),
        _item_shape(model, call, shape, getattr(components.pipeline, "default_sample_size", None)),
        conditions or cond_to_keywords(model, call, unconditional),
        vae,
        prompt_encoder(components.pipeline, model),
        class_names(model, components.pipeline, source),
    )


def _item_shape(model: Any, call: ModelCall, given: tuple[int, ...] | None, size: int | None) -> tuple[int, ...]:
    """The shape as given, or from the model's configuration, or from the sample size of the pipeline."""
    config, name = model.config, type(model).__name__
    taken, extra = config.get("in_channels"), extra_channels(model)
    if extra < 0:
        raise HubError(
            f"{name} takes {taken} channels and gives {config.out_channels}: the output must have as many channels as "
            "its latents, or twice as many"
        )
    if given is not None:
        return tuple(given)
    if is_video(model):
        raise HubError(f"{name} makes videos: give from_diffusers shape=(channels, frames, height, width)")
    sides = config.get("sample_size") or size
    if sides is None or taken is None:
        raise HubError(f"{name} has no sample_size: give from_diffusers shape=(channels, height, width)")
    if isinstance(sides, int):
        sides = (sides,) if is_audio(model) else (sides, sides)
    return (int(taken) // call.layout.channels(config) - extra, *map(int, sides))
