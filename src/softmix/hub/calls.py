"""How each class of diffusers is called, by the names of its arguments.

What is not here is called with x first, the scheduler's own time under the name that the class has for it, and what its
signature cannot do without as condition. `CALLS` says where a class differs: its units of time, the sign of what it
says, how it lays out x, and what it needs although its signature does not say so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..process import Flow
from . import layouts
from .layouts import Beside, Layout
from .reading import Reading

Time = Callable[[Tensor, Reading, Any], Tensor]
TIMES = ("timestep", "timesteps", "timestep_ratio", "t")
MASKS = ("encoder_attention_mask", "encoder_mask", "encoder_hidden_states_mask")
# what a call can always do without, whatever its signature says
_SET = ("return_dict", "self")


def _as_told(time: Tensor, reading: Reading, config: Any) -> Tensor:
    return time


def _share(time: Tensor, reading: Reading, config: Any) -> Tensor:
    """In [0, 1], 1 is noise."""
    return time / reading.steps


def _rest(time: Tensor, reading: Reading, config: Any) -> Tensor:
    """In [0, 1], 0 is noise."""
    return 1 - time / reading.steps


def _share_of_flow(time: Tensor, reading: Reading, config: Any) -> Tensor:
    return time / reading.steps if isinstance(reading.process, Flow) else time


def _scaled(time: Tensor, reading: Reading, config: Any) -> Tensor:
    return time * float(config.get("timestep_scale") or 1.0)


def _by_item(times: Tensor, x: Tensor) -> Tensor:
    return times


def _by_frame(times: Tensor, x: Tensor) -> Tensor:
    return times[:, None].expand(-1, x.shape[2])


@dataclass(frozen=True)
class Call:
    """time : the scheduler's time -> the model's. sign : what the output is multiplied by, besides what the scheduler
    says. layout, beside : see `layouts`. needs : keywords that it cannot do without. gives : those that `beside` makes
    although the signature demands them. turned : keywords as the class wants them in the place of rows. spread : the
    time of each item, x -> the time as the model takes it. again : a flow map's second time, which is the first where
    its velocity is asked for."""

    time: Time = _as_told
    sign: float = 1.0
    layout: Layout = layouts.PLAIN
    beside: Beside = layouts.nothing
    needs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    turned: Beside = layouts.nothing
    spread: Callable[[Tensor, Tensor], Tensor] = _by_item
    again: tuple[str, ...] = ()


def _pixart(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """The size of the picture, which the larger models are told."""
    if not getattr(model, "use_additional_conditions", False):
        return {}
    size = torch.tensor([[8.0 * n for n in x.shape[-2:]]], device=x.device).expand(len(x), 2)
    return {"added_cond_kwargs": {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}}


def _words_counted(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    return {"text_lens": torch.full((len(x),), told["text_bth"].shape[1], device=x.device)}


def _listed(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """Texts as a list, which may differ in length."""
    words = told["cap_feats"]
    return {"cap_feats": list(words.unbind(0)) if isinstance(words, Tensor) else words}


def _by_layer(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """The layers of an encoder, [B, layers, L, D], layers first."""
    return {"encoder_hidden_states_llama3": told["encoder_hidden_states_llama3"].transpose(0, 1)}


def _for_frames(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """The text once for each frame."""
    return {"encoder_hidden_states": told["encoder_hidden_states"].repeat_interleave(x.shape[2], 0)}


_TEXT = ("encoder_hidden_states",)
_POOLED = (*_TEXT, "pooled_projections")
_HISTORY = tuple(f"{part}latents_{of}" for part in ("", "indices_") for of in ("clean", "history_2x", "history_4x"))
_SIZES = ("original_size", "target_size", "crop_coords")
CALLS: dict[str, Call] = {
    "AceStepTransformer1DModel": Call(again=("timestep_r",)),
    "AnyFlowFARTransformer3DModel": Call(layout=layouts.FRAMES_FIRST, spread=_by_frame, again=("r_timestep",)),
    "AnyFlowTransformer3DModel": Call(layout=layouts.FRAMES_FIRST, spread=_by_frame, again=("r_timestep",)),
    "AuraFlowTransformer2DModel": Call(_share, needs=_TEXT),
    "BriaFiboTransformer2DModel": Call(
        layout=layouts.TOKENS, beside=layouts.fibo, needs=(*_TEXT, "text_encoder_layers")
    ),
    "BriaTransformer2DModel": Call(layout=layouts.HALVED, beside=layouts.flux, needs=_TEXT),
    "ChromaTransformer2DModel": Call(_share, layout=layouts.HALVED, beside=layouts.flux, needs=_TEXT),
    "CogVideoXTransformer3DModel": Call(layout=layouts.FRAMES_FIRST),
    "CogView3PlusTransformer2DModel": Call(beside=layouts.sizes, gives=_SIZES),
    "CogView4Transformer2DModel": Call(beside=layouts.sizes, gives=_SIZES),
    "ConsisIDTransformer3DModel": Call(layout=layouts.FRAMES_FIRST),
    "CosmosTransformer3DModel": Call(_share_of_flow, beside=layouts.nothing_padded),
    "EasyAnimateTransformer3DModel": Call(needs=_TEXT),
    "ErnieImageTransformer2DModel": Call(beside=_words_counted, gives=("text_lens",)),
    "Flux2Transformer2DModel": Call(_share, layout=layouts.TOKENS, beside=layouts.flux2, needs=_TEXT),
    "FluxTransformer2DModel": Call(_share, layout=layouts.HALVED, beside=layouts.flux, needs=_POOLED),
    "GlmImageTransformer2DModel": Call(beside=layouts.target, gives=_SIZES[1:]),
    "HiDreamImageTransformer2DModel": Call(
        sign=-1.0,
        needs=("encoder_hidden_states_t5", "encoder_hidden_states_llama3", "pooled_embeds"),
        turned=_by_layer,
    ),
    "HunyuanVideoFramepackTransformer3DModel": Call(needs=_HISTORY),
    "HunyuanDiT2DModel": Call(
        needs=(
            *(*_TEXT, "text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5"),
            "image_rotary_emb",
        )
    ),
    "I2VGenXLUNet": Call(needs=(*_TEXT, "image_embeddings")),
    "Ideogram4Transformer2DModel": Call(_rest, sign=-1.0),
    "JoyImageEditTransformer3DModel": Call(needs=_TEXT),
    "Kandinsky3UNet": Call(needs=(*_TEXT, "encoder_attention_mask")),
    "Kandinsky5Transformer3DModel": Call(
        layout=layouts.CHANNELS_LAST, beside=layouts.kandinsky, gives=("visual_rope_pos", "text_rope_pos")
    ),
    "Krea2Transformer2DModel": Call(_share, layout=layouts.PATCHES, beside=layouts.krea, gives=("position_ids",)),
    "LTX2VideoTransformer3DModel": Call(
        layout=layouts.VIDEO_PATCHES, beside=layouts.ltx2, needs=("audio_hidden_states", "audio_encoder_hidden_states")
    ),
    "LTXVideoTransformer3DModel": Call(layout=layouts.VIDEO_PATCHES, beside=layouts.ltx),
    "LatteTransformer3DModel": Call(needs=_TEXT),
    "LongCatAudioDiTTransformer": Call(_share),
    "LongCatImageTransformer2DModel": Call(_share, layout=layouts.HALVED, beside=layouts.longcat, needs=_TEXT),
    "Lumina2Transformer2DModel": Call(_rest, sign=-1.0),
    "LuminaNextDiT2DModel": Call(_rest, sign=-1.0, beside=layouts.lumina, gives=("image_rotary_emb",)),
    "NucleusMoEImageTransformer2DModel": Call(
        _share, sign=-1.0, layout=layouts.PATCHES, beside=layouts.nucleus, needs=_TEXT, gives=("img_shapes",)
    ),
    "OvisImageTransformer2DModel": Call(_share, layout=layouts.HALVED, beside=layouts.ovis, needs=_TEXT),
    "PRXTransformer2DModel": Call(_share),
    "PixArtTransformer2DModel": Call(beside=_pixart, needs=_TEXT),
    "QwenImageTransformer2DModel": Call(_share, layout=layouts.HALVED, beside=layouts.qwen, needs=_TEXT),
    "SD3Transformer2DModel": Call(needs=_POOLED),
    "SanaTransformer2DModel": Call(_scaled),
    "StableAudioDiTModel": Call(needs=(*_TEXT, "global_hidden_states", "rotary_embedding")),
    "UNetMotionModel": Call(turned=_for_frames),
    "UNetSpatioTemporalConditionModel": Call(layout=layouts.FRAMES_FIRST),
    "WanAnimateTransformer3DModel": Call(needs=("pose_hidden_states", "face_pixel_values")),
    "ZImageTransformer2DModel": Call(_rest, sign=-1.0, layout=layouts.LISTED, turned=_listed),
}
VIDEO = ("UNetMotionModel", "UNetSpatioTemporalConditionModel", "I2VGenXLUNet", "OmniTransformer", "3D", "Video")


def call_of(model: Any) -> Call:
    """Of the model's class, or of the class that it is derived from."""
    return next((CALLS[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in CALLS), Call())


def extra_channels(model: Any) -> int:
    """How many of the model's channels are no latents of its own: an image to be filled in, a first frame, a mask."""
    taken, made = model.config.get("in_channels"), model.config.get("out_channels")
    side = call_of(model).layout.channels(model.config)
    if not isinstance(taken, int) or not isinstance(made, int) or made in (taken, 2 * taken, taken // side):
        return 0
    return (taken - made) // side


def is_video(model: Any) -> bool:
    return any(part in kind.__name__ for kind in type(model).__mro__ for part in VIDEO)


def is_sound(model: Any) -> bool:
    return any(part in kind.__name__ for kind in type(model).__mro__ for part in ("1D", "Audio"))


def parameters_of(model: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(model.forward).parameters)


def time_of(model: Any) -> str | None:
    """The name of the argument that takes the time, None where none has a name that is known: then the second is."""
    return next((name for name in parameters_of(model) if name in TIMES), None)


def needed(model: Any, call: Call) -> tuple[str, ...]:
    """The keywords that have to come from outside, in the order of the signature."""
    known, config = parameters_of(model), model.config
    set_here = {*list(known)[:1], time_of(model) or list(known)[1], *call.gives, *call.again, *MASKS, *_SET}
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    wanted = {
        name
        for name, each in known.items()
        if each.default is inspect.Parameter.empty
        and each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    } - set_here
    wanted |= {*call.needs, *_of_configuration(config, {*known}, open_ended)}
    return tuple(sorted(wanted, key=lambda name: (list(known).index(name) if name in known else len(known), name)))


def _of_configuration(config: Any, known: set[str], open_ended: bool) -> set[str]:
    """What the configuration turns on."""
    turned_on = {
        "encoder_hidden_states": config.get("cross_attention_dim")
        or config.get("encoder_hid_proj_type")
        or (config.get("caption_channels") and "encoder_hidden_states" in known),
        "added_cond_kwargs": config.get("addition_embed_type") not in (None, "text")
        or config.get("encoder_hid_dim_type") == "image_proj",
        "class_labels": config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None,
        "guidance": config.get("guidance_embeds"),
        "image_rotary_emb": config.get("use_rotary_positional_embeddings"),
        "image_meta_size": config.get("use_style_cond_and_image_meta_size"),
        "style": config.get("use_style_cond_and_image_meta_size"),
        "pooled_projections": config.get("pooled_projection_dim") and "guidance_embeds" in config,
    }
    return {name for name, on in turned_on.items() if on and (name in known or open_ended)}
