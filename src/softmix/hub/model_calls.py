"""How each model class of diffusers is called.

A class without an entry in `MODEL_CALLS` is called with x first, the scheduler's timestep under its name in the
signature, and the required arguments of the signature as condition. An entry says how a class differs: the unit of
time, the sign of the output, the layout of x, and arguments that it requires without saying so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..process import Flow
from . import latents_layout as layouts
from . import position_ids as ids
from .latents_layout import LatentsLayout
from .model_conventions import ModelConventions
from .position_ids import ExtraKeywords, no_keywords

ModelTime = Callable[[Tensor, ModelConventions, Any], Tensor]
TIME_NAMES = ("timestep", "timesteps", "timestep_ratio", "t")
MASK_NAMES = ("encoder_attention_mask", "encoder_mask", "encoder_hidden_states_mask")
# no call needs a value for these from outside, whatever the signature says
_NEVER_REQUIRED = ("return_dict", "self")


def _timestep(time: Tensor, conventions: ModelConventions, config: Any) -> Tensor:
    return time


def _noise_share(time: Tensor, conventions: ModelConventions, config: Any) -> Tensor:
    """In [0, 1], 1 is noise."""
    return time / conventions.train_steps


def _data_share(time: Tensor, conventions: ModelConventions, config: Any) -> Tensor:
    """In [0, 1], 0 is noise."""
    return 1 - time / conventions.train_steps


def _noise_share_of_flow(time: Tensor, conventions: ModelConventions, config: Any) -> Tensor:
    return time / conventions.train_steps if isinstance(conventions.process, Flow) else time


def _scaled(time: Tensor, conventions: ModelConventions, config: Any) -> Tensor:
    return time * float(config.get("timestep_scale") or 1.0)


def _time_of_item(times: Tensor, x: Tensor) -> Tensor:
    return times


def _time_of_frame(times: Tensor, x: Tensor) -> Tensor:
    return times[:, None].expand(-1, x.shape[2])


@dataclass(frozen=True)
class ModelCall:
    """How one model class differs from the plain call.

    model_time : scheduler timestep -> the model's own unit of time.
    output_sign : factor of the output, besides the one of `ModelConventions`.
    layout : the layout of x.
    extra : keywords that follow from the shape of x.
    required : keywords that the model requires although its signature does not say so.
    provided : required arguments of the signature that `extra` makes.
    converted : keywords in another form than one row an item.
    time_shape : times [B], x -> the time in the shape that the model takes.
    second_time : the second time argument of a flow map. Equal to the first it asks for the velocity.
    """

    model_time: ModelTime = _timestep
    output_sign: float = 1.0
    layout: LatentsLayout = layouts.PLAIN
    extra: ExtraKeywords = no_keywords
    required: tuple[str, ...] = ()
    provided: tuple[str, ...] = ()
    converted: ExtraKeywords = no_keywords
    time_shape: Callable[[Tensor, Tensor], Tensor] = _time_of_item
    second_time: tuple[str, ...] = ()


def _text_list(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Prompt embeddings as a list, as texts may differ in length."""
    words = keywords["cap_feats"]
    return {"cap_feats": list(words.unbind(0)) if isinstance(words, Tensor) else words}


def _layers_first(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """[B, layers, L, D] -> [layers, B, L, D]."""
    return {"encoder_hidden_states_llama3": keywords["encoder_hidden_states_llama3"].transpose(0, 1)}


def _text_of_each_frame(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """The prompt embeddings once for each frame."""
    return {"encoder_hidden_states": keywords["encoder_hidden_states"].repeat_interleave(x.shape[2], 0)}


_TEXT = ("encoder_hidden_states",)
_POOLED = (*_TEXT, "pooled_projections")
_HISTORY = tuple(f"{part}latents_{of}" for part in ("", "indices_") for of in ("clean", "history_2x", "history_4x"))
_SIZES = ("original_size", "target_size", "crop_coords")
MODEL_CALLS: dict[str, ModelCall] = {
    "AceStepTransformer1DModel": ModelCall(second_time=("timestep_r",)),
    "AnyFlowFARTransformer3DModel": ModelCall(
        layout=layouts.FRAMES_FIRST, time_shape=_time_of_frame, second_time=("r_timestep",)
    ),
    "AnyFlowTransformer3DModel": ModelCall(
        layout=layouts.FRAMES_FIRST, time_shape=_time_of_frame, second_time=("r_timestep",)
    ),
    "AuraFlowTransformer2DModel": ModelCall(_noise_share, required=_TEXT),
    "BriaFiboTransformer2DModel": ModelCall(
        layout=layouts.TOKENS, extra=ids.fibo, required=(*_TEXT, "text_encoder_layers")
    ),
    "BriaTransformer2DModel": ModelCall(layout=layouts.PATCHES_OF_2, extra=ids.flux, required=_TEXT),
    "ChromaTransformer2DModel": ModelCall(_noise_share, layout=layouts.PATCHES_OF_2, extra=ids.flux, required=_TEXT),
    "CogVideoXTransformer3DModel": ModelCall(layout=layouts.FRAMES_FIRST),
    "CogView3PlusTransformer2DModel": ModelCall(extra=ids.image_sizes, provided=_SIZES),
    "CogView4Transformer2DModel": ModelCall(extra=ids.image_sizes, provided=_SIZES),
    "ConsisIDTransformer3DModel": ModelCall(layout=layouts.FRAMES_FIRST),
    "CosmosTransformer3DModel": ModelCall(_noise_share_of_flow, extra=ids.empty_padding_mask),
    "EasyAnimateTransformer3DModel": ModelCall(required=_TEXT),
    "ErnieImageTransformer2DModel": ModelCall(extra=ids.text_lengths, provided=("text_lens",)),
    "Flux2Transformer2DModel": ModelCall(_noise_share, layout=layouts.TOKENS, extra=ids.flux2, required=_TEXT),
    "FluxTransformer2DModel": ModelCall(_noise_share, layout=layouts.PATCHES_OF_2, extra=ids.flux, required=_POOLED),
    "GlmImageTransformer2DModel": ModelCall(extra=ids.target_size, provided=_SIZES[1:]),
    "HiDreamImageTransformer2DModel": ModelCall(
        output_sign=-1.0,
        required=("encoder_hidden_states_t5", "encoder_hidden_states_llama3", "pooled_embeds"),
        converted=_layers_first,
    ),
    "HunyuanVideoFramepackTransformer3DModel": ModelCall(required=_HISTORY),
    "HunyuanDiT2DModel": ModelCall(
        required=(
            *(*_TEXT, "text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5"),
            "image_rotary_emb",
        )
    ),
    "I2VGenXLUNet": ModelCall(required=(*_TEXT, "image_embeddings")),
    "Ideogram4Transformer2DModel": ModelCall(_data_share, output_sign=-1.0),
    "JoyImageEditTransformer3DModel": ModelCall(required=_TEXT),
    "Kandinsky3UNet": ModelCall(required=(*_TEXT, "encoder_attention_mask")),
    "Kandinsky5Transformer3DModel": ModelCall(
        layout=layouts.CHANNELS_LAST, extra=ids.kandinsky, provided=("visual_rope_pos", "text_rope_pos")
    ),
    "Krea2Transformer2DModel": ModelCall(
        _noise_share, layout=layouts.PATCHES, extra=ids.krea, provided=("position_ids",)
    ),
    "LTX2VideoTransformer3DModel": ModelCall(
        layout=layouts.VIDEO_PATCHES, extra=ids.ltx2, required=("audio_hidden_states", "audio_encoder_hidden_states")
    ),
    "LTXVideoTransformer3DModel": ModelCall(layout=layouts.VIDEO_PATCHES, extra=ids.ltx),
    "LatteTransformer3DModel": ModelCall(required=_TEXT),
    "LongCatAudioDiTTransformer": ModelCall(_noise_share),
    "LongCatImageTransformer2DModel": ModelCall(
        _noise_share, layout=layouts.PATCHES_OF_2, extra=ids.longcat, required=_TEXT
    ),
    "Lumina2Transformer2DModel": ModelCall(_data_share, output_sign=-1.0),
    "LuminaNextDiT2DModel": ModelCall(_data_share, output_sign=-1.0, extra=ids.lumina, provided=("image_rotary_emb",)),
    "NucleusMoEImageTransformer2DModel": ModelCall(
        _noise_share,
        output_sign=-1.0,
        layout=layouts.PATCHES,
        extra=ids.nucleus,
        required=_TEXT,
        provided=("img_shapes",),
    ),
    "OvisImageTransformer2DModel": ModelCall(_noise_share, layout=layouts.PATCHES_OF_2, extra=ids.ovis, required=_TEXT),
    "PRXTransformer2DModel": ModelCall(_noise_share),
    "PixArtTransformer2DModel": ModelCall(extra=ids.resolution, required=_TEXT),
    "QwenImageTransformer2DModel": ModelCall(_noise_share, layout=layouts.PATCHES_OF_2, extra=ids.qwen, required=_TEXT),
    "SD3Transformer2DModel": ModelCall(required=_POOLED),
    "SanaTransformer2DModel": ModelCall(_scaled),
    "StableAudioDiTModel": ModelCall(required=(*_TEXT, "global_hidden_states", "rotary_embedding")),
    "UNetMotionModel": ModelCall(converted=_text_of_each_frame),
    "UNetSpatioTemporalConditionModel": ModelCall(layout=layouts.FRAMES_FIRST),
    "WanAnimateTransformer3DModel": ModelCall(required=("pose_hidden_states", "face_pixel_values")),
    "ZImageTransformer2DModel": ModelCall(
        _data_share, output_sign=-1.0, layout=layouts.IMAGE_LIST, converted=_text_list
    ),
}
_VIDEO_NAMES = ("UNetMotionModel", "UNetSpatioTemporalConditionModel", "I2VGenXLUNet", "OmniTransformer", "3D", "Video")
_AUDIO_NAMES = ("1D", "Audio")


def model_call_of(model: Any) -> ModelCall:
    """The entry of the model's class, or of its nearest base class with one."""
    return next(
        (MODEL_CALLS[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in MODEL_CALLS), ModelCall()
    )


def extra_channels(model: Any) -> int:
    """The number of input channels beside the latents: an image to be inpainted, a first frame, a mask."""
    taken, made = model.config.get("in_channels"), model.config.get("out_channels")
    side = model_call_of(model).layout.channels(model.config)
    if not isinstance(taken, int) or not isinstance(made, int) or made in (taken, 2 * taken, taken // side):
        return 0
    return (taken - made) // side


def is_video(model: Any) -> bool:
    """Whether the model makes videos, by the name of its class."""
    return any(part in kind.__name__ for kind in type(model).__mro__ for part in _VIDEO_NAMES)


def is_audio(model: Any) -> bool:
    """Whether the model makes sound, by the name of its class."""
    return any(part in kind.__name__ for kind in type(model).__mro__ for part in _AUDIO_NAMES)


def call_parameters(model: Any) -> dict[str, inspect.Parameter]:
    """The parameters of the model's forward, by name."""
    return dict(inspect.signature(model.forward).parameters)


def time_name(model: Any) -> str | None:
    """The name of the time argument, None without a known name: then time is the second argument."""
    return next((name for name in call_parameters(model) if name in TIME_NAMES), None)


def required_keywords(model: Any, call: ModelCall) -> tuple[str, ...]:
    """The keywords that the caller must give, in the order of the signature."""
    known, config = call_parameters(model), model.config
    given = {
        *list(known)[:1],
        time_name(model) or list(known)[1],
        *call.provided,
        *call.second_time,
        *MASK_NAMES,
        *_NEVER_REQUIRED,
    }
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    wanted = {
        name
        for name, each in known.items()
        if each.default is inspect.Parameter.empty
        and each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    } - given
    wanted |= {*call.required, *_required_by_config(config, {*known}, open_ended)}
    return tuple(sorted(wanted, key=lambda name: (list(known).index(name) if name in known else len(known), name)))


def _required_by_config(config: Any, known: set[str], open_ended: bool) -> set[str]:
    """The conditions that the model's configuration turns on."""
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
