"""Prompts as conditions, by the encoders of a whole pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .conditions import WORDS
from .keywords import Keywords
from .reading import HubError

EncodeText = Callable[[Sequence[str], tuple[int, ...]], dict[str, Any]]

_WORDS = {"encoder_hidden_states": 0}
_MASKED = _WORDS | {"encoder_attention_mask": 1}
# the places of a class's keywords among what its pipeline's `encode_prompt` returns
PLACES: dict[str, dict[str, int]] = {
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


def reader(pipeline: Any, model: Any) -> EncodeText | None:
    """How this pipeline reads prompts: prompts, the shape of what is denoised -> keywords. None without an encoder."""
    parts = getattr(pipeline, "components", {})
    if not any(parts.get(name) is not None for name in ("text_encoder", "text_encoder_2", "bert")):
        return None
    name = type(model).__name__
    if name in PLACES:
        return lambda prompts, shape: _of_pipeline(pipeline, prompts, PLACES[name])
    if name == "UNet2DConditionModel" and model.config.get("addition_embed_type") == "text_time":
        return lambda prompts, shape: _with_sizes(pipeline, prompts, shape)
    encoder, tokenizer = parts.get("text_encoder") or parts.get("bert"), parts.get("tokenizer")
    if name == "UNet2DConditionModel" and encoder is not None and tokenizer is not None:
        return lambda prompts, shape: {"encoder_hidden_states": _tokens(encoder, tokenizer, prompts)}

    def unknown(prompts: Sequence[str], shape: tuple[int, ...]) -> dict[str, Any]:
        raise HubError(
            f"which of {type(pipeline).__name__}'s embeddings {name} takes is not known here: make them with the "
            "pipeline and give cond=Keywords(...)"
        )

    return unknown


def conditioned(keywords: dict[str, Any], more: dict[str, Any]) -> Tensor | Keywords:
    """One embedding alone is a tensor."""
    told = keywords | more
    only = next(iter(told.values())) if len(told) == 1 else None
    return only if isinstance(only, Tensor) and next(iter(told)) in WORDS else Keywords(**told)


def _encoded(pipeline: Any, prompts: Sequence[str]) -> tuple[Any, ...]:
    """`encode_prompt`, told what the pipeline's own call tells it where nothing is said."""
    usual = inspect.signature(type(pipeline).__call__).parameters
    asked: dict[str, Any] = {}
    for name, each in inspect.signature(pipeline.encode_prompt).parameters.items():
        if name in usual and usual[name].default is not inspect.Parameter.empty:
            asked[name] = usual[name].default
        elif each.default is inspect.Parameter.empty:
            asked[name] = None
    told = {"prompt": list(prompts), "device": pipeline._execution_device, "do_classifier_free_guidance": False}
    told["num_images_per_prompt"] = told["num_videos_per_prompt"] = 1
    known = inspect.signature(pipeline.encode_prompt).parameters
    with torch.no_grad():
        found = pipeline.encode_prompt(**asked | {name: each for name, each in told.items() if name in known})
    return found if isinstance(found, tuple) else (found,)


def _of_pipeline(pipeline: Any, prompts: Sequence[str], places: dict[str, int]) -> dict[str, Any]:
    found = _encoded(pipeline, prompts)
    return {name: found[place] for name, place in places.items() if found[place] is not None}


def _with_sizes(pipeline: Any, prompts: Sequence[str], shape: tuple[int, ...]) -> dict[str, Any]:
    """Stable Diffusion XL: the sizes of a picture that is whole."""
    words, _, pooled, _ = _encoded(pipeline, prompts)
    size = tuple(int(n) * pipeline.vae_scale_factor for n in shape[-2:])
    encoder = pipeline.text_encoder_2
    wide = pooled.shape[-1] if encoder is None else encoder.config.projection_dim
    ids = pipeline._get_add_time_ids(size, (0, 0), size, words.dtype, text_encoder_projection_dim=int(wide))
    added = {"text_embeds": pooled, "time_ids": ids.to(words.device).expand(len(prompts), -1)}
    return {"encoder_hidden_states": words, "added_cond_kwargs": added}


@torch.no_grad()
def _tokens(encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    found: Tensor = encoder(tokens.input_ids.to(encoder.device))[0]
    return found
