"""Prompt embeddings, by the text encoders of a whole pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .cond_keywords import PROMPT_NAMES
from .errors import HubError
from .keywords import Keywords

# prompts, the shape of one item -> keywords of the model call
EncodePrompts = Callable[[Sequence[str], tuple[int, ...]], dict[str, Any]]

_WORDS = {"encoder_hidden_states": 0}
_MASKED = _WORDS | {"encoder_attention_mask": 1}
# for each model class: its keywords, and their positions in the result of its pipeline's `encode_prompt`
PROMPT_POSITIONS: dict[str, dict[str, int]] = {
    "AuraFlowTransformer2DModel": _WORDS,
    "BriaTransformer2DModel": _WORDS,
    "CogVideoXTransformer3DModel": _WORDS,
    "CogView3PlusTransformer2DModel": _WORDS,
    "CogView4Transformer2DModel": _WORDS,
    "CosmosTransformer3DModel": _WORDS,
    "Flux2Transformer2DModel": _WORDS,
    "FluxTransformer2DModel": _WORDS | {"pooled_projections": 1},
    "HunyuanVideoTransformer3DModel": _WORDS | {"pooled_projections": 1, "encoder_attention_mask": 2},
    "Krea2Transformer2DModel": _MASKED,
    "LTXVideoTransformer3DModel": _MASKED,
    "LatteTransformer3DModel": _WORDS,
    "LongCatImageTransformer2DModel": _WORDS,
    "Lumina2Transformer2DModel": _MASKED,
    "LuminaNextDiT2DModel": _WORDS | {"encoder_mask": 1},
    "MochiTransformer3DModel": _MASKED,
    "NucleusMoEImageTransformer2DModel": _WORDS | {"encoder_hidden_states_mask": 1},
    "OvisImageTransformer2DModel": _WORDS,
    "PixArtTransformer2DModel": _MASKED,
    "QwenImageTransformer2DModel": _WORDS | {"encoder_hidden_states_mask": 1},
    "SD3Transformer2DModel": _WORDS | {"pooled_projections": 2},
    "SanaTransformer2DModel": _MASKED,
    "SanaVideoTransformer3DModel": _MASKED,
    "SkyReelsV2Transformer3DModel": _WORDS,
    "WanTransformer3DModel": _WORDS,
    "ZImageTransformer2DModel": {"cap_feats": 0},
}


def prompt_encoder(pipeline: Any, model: Any) -> EncodePrompts | None:
    """The function that encodes prompts for this model, None for a pipeline without a text encoder.

    It raises HubError for a pipeline with an unknown order of embeddings.
    """
    parts = getattr(pipeline, "components", {})
    if not any(parts.get(name) is not None for name in ("text_encoder", "text_encoder_2", "bert")):
        return None
    name = type(model).__name__
    if name in PROMPT_POSITIONS:
        return lambda prompts, shape: _from_positions(pipeline, prompts, PROMPT_POSITIONS[name])
    if name == "UNet2DConditionModel" and model.config.get("addition_embed_type") == "text_time":
        return lambda prompts, shape: _stable_diffusion_xl(pipeline, prompts, shape)
    encoder, tokenizer = parts.get("text_encoder") or parts.get("bert"), parts.get("tokenizer")
    if name == "UNet2DConditionModel" and encoder is not None and tokenizer is not None:
        return lambda prompts, shape: {"encoder_hidden_states": _hidden_states(encoder, tokenizer, prompts)}

    def unknown(prompts: Sequence[str], shape: tuple[int, ...]) -> dict[str, Any]:
        raise HubError(
            f"which of {type(pipeline).__name__}'s embeddings {name} takes is not known here: make them with the "
            "pipeline and give cond=Keywords(...)"
        )

    return unknown


def as_cond(keywords: dict[str, Any], more: dict[str, Any]) -> Tensor | Keywords:
    """`Keywords`, or the tensor itself if prompt embeddings are the only condition."""
    arguments = keywords | more
    only = next(iter(arguments.values())) if len(arguments) == 1 else None
    return only if isinstance(only, Tensor) and next(iter(arguments)) in PROMPT_NAMES else Keywords(**arguments)


def _encode_prompt(pipeline: Any, prompts: Sequence[str]) -> tuple[Any, ...]:
    """The pipeline's `encode_prompt`, with the defaults of the pipeline's own call."""
    defaults = inspect.signature(type(pipeline).__call__).parameters
    accepted = inspect.signature(pipeline.encode_prompt).parameters
    arguments: dict[str, Any] = {}
    for name, each in accepted.items():
        if name in defaults and defaults[name].default is not inspect.Parameter.empty:
            arguments[name] = defaults[name].default
        elif each.default is inspect.Parameter.empty:
            arguments[name] = None
    fixed = {"prompt": list(prompts), "device": pipeline._execution_device, "do_classifier_free_guidance": False}
    fixed["num_images_per_prompt"] = fixed["num_videos_per_prompt"] = 1
    with torch.no_grad():
        result = pipeline.encode_prompt(
            **arguments | {name: value for name, value in fixed.items() if name in accepted}
        )
    return result if isinstance(result, tuple) else (result,)


def _from_positions(pipeline: Any, prompts: Sequence[str], positions: dict[str, int]) -> dict[str, Any]:
    result = _encode_prompt(pipeline, prompts)
    return {name: result[position] for name, position in positions.items() if result[position] is not None}


def _stable_diffusion_xl(pipeline: Any, prompts: Sequence[str], shape: tuple[int, ...]) -> dict[str, Any]:
    """Stable Diffusion XL: embeddings, pooled embeddings, and the sizes of an image that is not cropped."""
    words, _, pooled, _ = _encode_prompt(pipeline, prompts)
    size = tuple(int(n) * pipeline.vae_scale_factor for n in shape[-2:])
    encoder = pipeline.text_encoder_2
    wide = pooled.shape[-1] if encoder is None else encoder.config.projection_dim
    ids = pipeline._get_add_time_ids(size, (0, 0), size, words.dtype, text_encoder_projection_dim=int(wide))
    added = {"text_embeds": pooled, "time_ids": ids.to(words.device).expand(len(prompts), -1)}
    return {"encoder_hidden_states": words, "added_cond_kwargs": added}


@torch.no_grad()
def _hidden_states(encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Last hidden states [n, L, D] of prompts padded to the tokenizer's length."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    states: Tensor = encoder(tokens.input_ids.to(encoder.device))[0]
    return states
