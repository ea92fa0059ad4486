"""The room of the hub: diffusers models as denoisers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from ..denoiser.parameterise import Output, affine
from ..posterior import Point
from ..process import VE, Flow, Gaussian, Table
from ..shape import column
from .host import SAYS
from .schedulers import SCHEDULERS

Conditions = Callable[[Tensor | None, int], dict[str, Any]]
NETS = ("unet", "transformer")


class HubError(ValueError):
    """A model or folder that cannot be taken over: what was found, and what to do."""


@dataclass(frozen=True)
class Reading:
    """What a scheduler says of its model: the process, what the model's output is (`sign` times a row of the affine
    table), the model's own time by t, the scale of its input by t, and the data's sd."""

    process: Gaussian
    output: Output
    clock: Callable[[Tensor], Tensor]
    scale: Callable[[Tensor], Tensor] = torch.ones_like
    sign: float = 1.0
    data_sd: float = 1.0


class Borrowed(nn.Module):
    """A diffusers model and its schedule as a denoiser.

    process : Table for what was trained on discrete betas, Flow for flow matching, VE for EDM's. cond : labels [B], -1
    for "not told" (where the model has a class for that), or text embeddings [B, L, D]. shape : of what it denoises,
    for latent models of latents: `encode` and `decode` lead to pictures and back.
    """

    def __init__(
        self,
        model: nn.Module,
        reading: Reading,
        shape: tuple[int, ...],
        conditions: Conditions,
        vae: nn.Module | None = None,
        encode_text: Callable[[Sequence[str]], Tensor] | None = None,
    ):
        super().__init__()
        self.model, self.vae = model, vae
        self.process, self.shape, self.reading = reading.process, shape, reading
        self._conditions, self._encode_text = conditions, encode_text

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Point:
        t = torch.as_tensor(t, dtype=torch.float64)
        known = next(self.model.parameters()).dtype
        reading = self.reading
        inner = (column(reading.scale(t), xt) * xt).to(known)
        times = reading.clock(t).to(xt.device).expand(len(xt))
        told = {
            name: each.to(xt.device) if isinstance(each, Tensor) else each
            for name, each in self._conditions(cond, len(xt)).items()
        }
        # a model that is being trained goes on being trained
        training = self.model.training
        try:
            said = reading.sign * _said(self.model.eval()(inner, times, **told)).to(xt.dtype)
        finally:
            self.model.train(training)
        if said.shape[1] == 2 * xt.shape[1]:
            said = said.chunk(2, 1)[0]
        a, b = affine(reading.output, self.process.alpha(t), self.process.sigma(t), reading.data_sd)
        return Point(column(a, xt) * xt + column(b, xt) * said)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """The embeddings of prompts, [n, L, D]: what `cond` takes. "" is the one that guidance leads away from."""
        if self._encode_text is None:
            raise HubError("this model came without a text encoder: give from_diffusers its whole pipeline")
        return self._encode_text(prompts)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images in [-1, 1], scaled as the model wants them."""
        vae = self._need_vae()
        found = vae.encode(images.to(next(vae.parameters())))
        latents = (found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents).to(images.dtype)
        shift, scale = _latents(vae, latents)
        return (latents - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] of latents."""
        vae = self._need_vae()
        shift, scale = _latents(vae, latents)
        return vae.decode((latents / scale + shift).to(next(vae.parameters()))).sample.to(latents.dtype)

    def _need_vae(self) -> Any:
        if self.vae is None:
            raise HubError(
                "this model works on pixels, or came without its VAE: give from_diffusers the whole pipeline"
            )
        return self.vae


def _latents(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is taken from a VAE's latents, and what they are multiplied by then."""
    config, shape = vae.config, (1, -1, *[1] * (like.ndim - 2))
    shift = like.new_tensor(config.get("latents_mean") or config.get("shift_factor") or 0.0)
    spread = like.new_tensor(config.get("latents_std") or 1.0)
    return shift.reshape(shape), (config.get("scaling_factor") or 1.0) / spread.reshape(shape)


def _said(output: Any) -> Tensor:
    return output.sample if hasattr(output, "sample") else output[0]


def from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    untold: int | None = None,
    conditions: Conditions | None = None,
    shape: tuple[int, ...] | None = None,
) -> Borrowed:
    """A denoiser of a diffusers pipeline, of a model with its scheduler, or of a folder that either was saved to.

    source : a pipeline, a UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, Transformer2DModel or any model
    with their call, or the path of a folder (weights as safetensors; nothing is unpickled, no code of the folder is
    run). scheduler : of a model alone; of a pipeline, another than its own. untold : the class that stands for "not
    told"; known for DiT. conditions : cond, batch -> keywords of the model's call, where labels or one embedding are
    not enough. shape : (C, H, W) of what it denoises, where its configuration has no sample_size.

    The model stays the caller's: it is called in eval mode and left in its own. Raises HubError for a scheduler whose
    process is not known here, and for a model that needs what is not there.
    """
    parts = _opened(source, scheduler is None)
    scheduler = scheduler if scheduler is not None else parts.get("scheduler")
    model = next((parts[name] for name in (*NETS, "model") if parts.get(name) is not None), None)
    if model is None:
        raise HubError(f"{type(source).__name__} has no unet and no transformer; found {', '.join(parts) or 'nothing'}")
    if scheduler is None:
        raise HubError(f"{type(model).__name__} says nothing of its process: give its scheduler too")
    vae = next((parts[name] for name in ("vae", "vqvae") if parts.get(name) is not None), None)
    told = conditions or _conditions(model, untold)
    return Borrowed(model, _reading(scheduler), shape or _shape(model), told, vae, _text(parts))


def _opened(source: Any, scheduled: bool) -> dict[str, Any]:
    """The components, by name; of a folder with a model alone the scheduler beside it too, if it is wanted."""
    if isinstance(source, str | Path):
        return _read(Path(source), scheduled)
    if hasattr(source, "components"):
        return dict(source.components)
    if isinstance(source, nn.Module):
        return {"model": source}
    raise HubError(f"a pipeline, a model or a folder was expected; found {type(source).__name__}")


def _read(folder: Path, scheduled: bool) -> dict[str, Any]:
    if (folder / "model_index.json").is_file():
        index = json.loads((folder / "model_index.json").read_text())
        nets = {name: _net(folder / name) for name in NETS if (index.get(name) or [""])[0] == "diffusers"}
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(folder), use_safetensors=True, low_cpu_mem_usage=False, **nets
        )
        return dict(pipeline.components)
    parts: dict[str, Any] = {"model": _net(folder)}
    for beside in (folder / "scheduler", folder.parent / "scheduler"):
        if scheduled and (beside / "scheduler_config.json").is_file():
            name = json.loads((beside / "scheduler_config.json").read_text()).get("_class_name")
            parts["scheduler"] = _kind(beside, name).from_pretrained(str(beside))
            break
    return parts


def _net(folder: Path) -> nn.Module:
    """A model with all of its weights."""
    config = folder / "config.json"
    if not config.is_file():
        raise HubError(f"{folder} has neither model_index.json (a pipeline) nor config.json (a model)")
    model, found = _kind(folder, json.loads(config.read_text()).get("_class_name")).from_pretrained(
        str(folder), use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
    )
    wrong = [*found["missing_keys"], *found["unexpected_keys"]]
    if wrong:
        raise HubError(f"{folder} lacks or has more than its weights: {', '.join(wrong[:3])}")
    return model


def _kind(folder: Path, name: str | None) -> Any:
    """A class of diffusers, or a scheduler of ours, by name."""
    ours = {each.__name__: each for each in SCHEDULERS}
    kind = ours.get(str(name)) or getattr(diffusers, str(name), None)
    if kind is None:
        raise HubError(f"{folder} names {name!r}, which this diffusers ({diffusers.__version__}) does not have")
    return kind


def _reading(scheduler: Any) -> Reading:
    """From a live scheduler: what is saved of one may lack keys."""
    config, name = scheduler.config, type(scheduler).__name__
    says = config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or (config.get("use_flow_sigmas") and says == "flow_prediction"):
        steps = config.num_train_timesteps
        return Reading(Flow(end=0.0), "flow", lambda t: (steps * t).float())
    if name.startswith("EDM") and says in ("epsilon", "v_prediction"):
        process, sd = VE(config.sigma_min, config.sigma_max), float(config.sigma_data)
        return Reading(
            process,
            "edm",
            lambda t: (process.sigma(t).log() / 4).float(),
            lambda t: 1 / (process.sigma(t) ** 2 + sd**2).sqrt(),
            1.0 if says == "epsilon" else -1.0,
            sd,
        )
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None or says not in SAYS:
        raise HubError(
            f"{name} with prediction_type {says!r} is not known here. Known are schedulers with alphas_cumprod (DDPM, "
            "DDIM, DPM-Solver, UniPC, Euler, ...), FlowMatch's and EDM's"
        )
    table = Table(kept)
    return Reading(table, SAYS[says], lambda t: _place(t, table.steps))


def _place(t: Tensor, steps: int) -> Tensor:
    """The integer time of t, to the last digit where it is one; between them a fraction."""
    place = t * steps - 1
    near = place.round()
    return torch.where((place - near).abs() < 1e-6, near, place).clamp(min=0).float()


def _shape(model: Any) -> tuple[int, ...]:
    size = model.config.get("sample_size")
    if size is None:
        raise HubError(
            f"{type(model).__name__} says no sample_size: give from_diffusers shape=(channels, height, width)"
        )
    sides = (size, size) if isinstance(size, int) else tuple(size)
    taken, made = model.config.in_channels, model.config.get("out_channels") or model.config.in_channels
    if made not in (taken, 2 * taken):
        raise HubError(
            f"{type(model).__name__} takes {taken} channels and says {made}: where some of them are a condition (an "
            "image to be filled in), wrap it in a module that takes the others alone, with its config, and adds them"
        )
    return (int(taken), *map(int, sides))


def _conditions(model: Any, untold: int | None) -> Conditions:
    """cond -> keywords, by what the model's configuration says that it takes."""
    config, name = model.config, type(model).__name__
    classes = config.get("num_class_embeds")
    if name in ("DiTTransformer2DModel", "Transformer2DModel"):
        classes = config.num_embeds_ada_norm
        untold = classes if untold is None else untold
    text = config.get("cross_attention_dim") and "encoder_hid_dim" in config
    if config.get("addition_embed_type") is not None or (classes is not None and text):
        raise HubError(
            f"{name} takes more than one condition: give from_diffusers conditions, a function of (cond, n) that "
            "returns the keywords of its call"
        )
    if classes is not None:
        return lambda cond, n: {"class_labels": _labels(cond, n, untold, name)}
    if text:

        def embedded(cond: Tensor | None, n: int) -> dict[str, Any]:
            if cond is None or cond.ndim != 3:
                raise HubError(
                    f"{name} needs embeddings [B, L, D] as cond: for text, `text([...])` of the borrowed pipeline"
                )
            return {"encoder_hidden_states": cond.to(next(model.parameters()))}

        return embedded
    return _unconditional(name)


def _labels(cond: Tensor | None, n: int, untold: int | None, name: str) -> Tensor:
    labels = torch.full((n,), -1) if cond is None else cond
    if bool((labels < 0).any()):
        if untold is None:
            raise HubError(f"{name} has classes and none for 'not told': give cond labels, or from_diffusers untold=k")
        labels = torch.where(labels < 0, untold, labels)
    return labels.long()


def _unconditional(name: str) -> Conditions:
    def none(cond: Tensor | None, n: int) -> dict[str, Any]:
        if cond is not None:
            raise HubError(f"{name} takes no condition")
        return {}

    return none


def _text(parts: dict[str, Any]) -> Callable[[Sequence[str]], Tensor] | None:
    tokenizer, encoder = parts.get("tokenizer"), parts.get("text_encoder") or parts.get("bert")
    if tokenizer is None or encoder is None:
        return None

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> Tensor:
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return encoder(tokens.input_ids.to(encoder.device))[0]

    return encode
