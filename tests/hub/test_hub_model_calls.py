"""Every model class of diffusers with a time argument, built tiny: `from_diffusers` against a direct call.

`ROWS` has the direct calls, written by hand from the pipelines: unit of time, sign, layout of latents, position ids.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from device_move import moved

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

from softmix.hub import HubError, Keywords, from_diffusers  # noqa: E402

T = 0.4
STEPS, SHARE, REST = 400.0, 0.4, 0.6
# batch size and number of text tokens
B, L = 2, 5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def words(wide: int, name: str = "encoder_hidden_states") -> dict[str, Tensor]:
    return {name: noise(B, L, wide)}


@dataclass(frozen=True)
class Row:
    """A model class and its direct call.

    config, shape : the model's configuration and the shape of one item.
    condition : the condition. common : conditions that are no rows, which need `conditions` of `from_diffusers`.
    time : the model's time at t = 0.4. sign : its output times sign is z - x0.
    call : model, x, time, condition -> the output in the layout of x.
    needs : the names in the error of a call without a condition.
    """

    config: dict[str, Any]
    shape: tuple[int, ...]
    condition: dict[str, Any] = field(default_factory=dict)
    time: float = STEPS
    sign: float = 1.0
    call: Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor] | None = None
    needs: tuple[str, ...] = ()
    common: dict[str, Any] = field(default_factory=dict)


def patched(x: Tensor, side: int = 2) -> Tensor:
    """[B, C, H, W] -> [B, (H / p) (W / p), C p p]."""
    parts = x.unfold(2, side, side).unfold(3, side, side)
    return parts.permute(0, 2, 3, 1, 4, 5).reshape(len(x), -1, x.shape[1] * side**2)


def whole(tokens: Tensor, x: Tensor, side: int = 2) -> Tensor:
    rows, columns = x.shape[2] // side, x.shape[3] // side
    parts = tokens.reshape(len(x), rows, columns, -1, side, side).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(len(x), -1, *x.shape[2:])


def places(rows: int, columns: int) -> Tensor:
    return torch.tensor([[0.0, row, column] for row in range(rows) for column in range(columns)])


def tokens(
    side: int = 2, ids: Callable[[Tensor], dict[str, Any]] | None = None
) -> Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor]:
    def call(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
        beside = ids(x) if ids is not None else {}
        return whole(model(patched(x, side), timestep=time, **condition, **beside)[0], x, side)

    return call


def flux_ids(side: int = 2) -> Callable[[Tensor], dict[str, Any]]:
    return lambda x: {"img_ids": places(x.shape[2] // side, x.shape[3] // side), "txt_ids": torch.zeros(L, 3)}


def line_ids(x: Tensor) -> dict[str, Any]:
    return {"img_ids": places(2, 2), "txt_ids": torch.tensor([[0.0, k, k] for k in range(L)])}


def longcat_ids(x: Tensor) -> dict[str, Any]:
    return line_ids(x) | {"img_ids": places(2, 2) + torch.tensor([1.0, 512, 512])}


def flux2_ids(x: Tensor) -> dict[str, Any]:
    images = torch.cat([places(*x.shape[2:]), torch.zeros(16, 1)], 1)
    texts = torch.tensor([[0.0, 0, 0, k] for k in range(L)])
    return {"img_ids": images.expand(B, -1, -1), "txt_ids": texts.expand(B, -1, -1)}


def frames_first(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    return model(x.permute(0, 2, 1, 3, 4), timestep=time, **condition)[0].permute(0, 2, 1, 3, 4)


def any_flow(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    times = time[:, None].repeat(1, x.shape[2])
    return frames_first(model, x, times, condition | {"r_timestep": times})


def listed(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    output = model([each[:, None] for each in x], time, list(condition["cap_feats"]))[0]
    return torch.stack([each[:, 0] for each in output])


def with_more(**more: Any) -> Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor]:
    """The same keywords and further ones."""

    def call(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
        further = moved(more, x.device)
        return model(
            x, **{name_of_time(model): time}, **{k: v for k, v in condition.items() if k != "channels"}, **further
        )[0]

    return call


def with_channels(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    return with_more()(model, torch.cat([x, condition["channels"]], 1), time, condition)


def video(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """LTX: tokens of frames, rows, columns."""
    more = {"num_frames": 2, "height": 4, "width": 4, "rope_interpolation_scale": (8 / 25, 32, 32)}
    more["encoder_attention_mask"] = torch.ones(B, L)
    output = model(x.flatten(2).transpose(1, 2), timestep=time, **condition, **more)[0]
    return output.transpose(1, 2).reshape(x.shape)


def two_modalities(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    more = {"num_frames": 2, "height": 4, "width": 4, "audio_num_frames": 3}
    output = model(x.flatten(2).transpose(1, 2), timestep=time, **condition, **more)[0]
    return output.transpose(1, 2).reshape(x.shape)


def kandinsky(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    ropes = {"visual_rope_pos": [torch.arange(2), torch.arange(2), torch.arange(2)], "text_rope_pos": torch.arange(L)}
    return model(x.permute(0, 2, 3, 4, 1), timestep=time, **condition, **ropes)[0].permute(0, 4, 1, 2, 3)


def by_frame(model: Any, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    return model(x, time, condition["encoder_hidden_states"].repeat_interleave(x.shape[2], 0))[0]


def name_of_time(model: Any) -> str:
    known = inspect.signature(model.forward).parameters
    return next(name for name in ("timestep", "timesteps", "timestep_ratio", "t") if name in known)


ONES, SIZE = torch.ones(B, L, dtype=torch.int64), torch.tensor([[32.0, 32.0]] * B)
SIZES = {"original_size": SIZE, "target_size": SIZE, "crop_coords": 0 * SIZE}
TWO = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
SINGLE = TWO | {"num_single_layers": 1}
FLAT, VIDEO = (4, 4, 4), (4, 2, 4, 4)
FLUX = SINGLE | {"patch_size": 1, "in_channels": 16, "joint_attention_dim": 8, "axes_dims_rope": (2, 2, 4)}
WAN = TWO | {"attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 8, "ffn_dim": 8}
HUNYUAN = TWO | {"num_refiner_layers": 1, "text_embed_dim": 8, "rope_axes_dim": (2, 2, 4)}
DOUBLE = HUNYUAN | {"num_single_layers": 1}
COG = TWO | {"in_channels": 4, "out_channels": 4, "text_embed_dim": 8, "time_embed_dim": 8, "patch_size": 2}
COG_VIDEO = COG | {"sample_width": 4, "sample_height": 4, "sample_frames": 5, "max_text_seq_length": L}
COG_VIEW = COG | {"condition_dim": 4, "pos_embed_max_size": 4, "sample_size": 4}
SANA = TWO | {
    **{"in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8},
    **{"cross_attention_dim": 16, "caption_channels": 8, "sample_size": 4},
}
UNET = {
    **{"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 16)},
    **{"norm_num_groups": 4},
}
SPATIAL = {"cross_attention_dim": 8, "attention_head_dim": 4}
POOLED = {"pooled_projections": noise(B, 8)}


def blocks(kind: str) -> dict[str, tuple[str, str]]:
    return {
        "down_block_types": (f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"),
        "up_block_types": (f"UpBlock{kind}", f"CrossAttnUpBlock{kind}"),
    }


ROWS: dict[str, Row] = {
    "AceStepTransformer1DModel": Row(
        {
            **{"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "head_dim": 8},
            **{"num_key_value_heads": 1, "in_channels": 24, "audio_acoustic_hidden_dim": 8, "encoder_hidden_size": 32},
        },
        (8, 8),
        words(32) | {"context_latents": noise(B, 8, 16)},
        call=lambda model, x, time, condition: model(x, timestep=time, timestep_r=time, **condition)[0],
        needs=("encoder_hidden_states", "context_latents"),
    ),
    "AllegroTransformer3DModel": Row(
        TWO | {"attention_head_dim": 24, "cross_attention_dim": 48, "sample_width": 4, "sample_height": 4,
            "sample_frames": 2,
               "caption_channels": 8, "in_channels": 4},
        VIDEO,
        words(8),
        needs=("encoder_hidden_states",),
    ),
    "AnyFlowFARTransformer3DModel": Row(WAN | {"rope_max_seq_len": 32, "compressed_patch_size": (1, 4, 4)}, VIDEO,
        words(8) | {"chunk_partition": (1, 1)}, call=any_flow,
                                        needs=("encoder_hidden_states", "chunk_partition")),
    "AnyFlowTransformer3DModel": Row(
        WAN | {"rope_max_seq_len": 32}, VIDEO, words(8), call=any_flow, needs=("encoder_hidden_states",)
    ),
    "AuraFlowTransformer2DModel": Row(
        {"sample_size": 4, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 8,
         "num_attention_heads": 2, "joint_attention_dim": 8, "caption_projection_dim": 16, "pos_embed_max_size": 16},
        FLAT, words(8), SHARE, needs=("encoder_hidden_states",),
    ),
    "BriaFiboTransformer2DModel": Row(
        FLUX | {"in_channels": 4, "axes_dims_rope": [2, 2, 4], "text_encoder_dim": 8},
        FLAT, words(8) | {"text_encoder_layers": [noise(B, L, 8)] * 2},
        call=tokens(1, flux_ids(1)), needs=("encoder_hidden_states", "text_encoder_layers"),
    ),
    "BriaTransformer2DModel": Row(FLUX, FLAT, words(8), call=tokens(2, flux_ids()), needs=("encoder_hidden_states",)),
    "ChromaTransformer2DModel": Row(
        FLUX | {"approximator_num_channels": 8, "approximator_hidden_dim": 8, "approximator_layers": 1},
        FLAT, words(8), SHARE, call=tokens(2, flux_ids()), needs=("encoder_hidden_states",),
    ),
    "ChronoEditTransformer3DModel": Row(
        WAN | {"rope_max_seq_len": 32, "rope_temporal_skip_len": 2}, VIDEO, words(8), needs=("encoder_hidden_states",)
    ),
    "CogVideoXTransformer3DModel": Row(COG_VIDEO, VIDEO, words(8), call=frames_first, needs=("encoder_hidden_states",)),
    "CogView3PlusTransformer2DModel": Row(
        COG_VIEW, FLAT, words(8), call=with_more(**SIZES), needs=("encoder_hidden_states",)
    ),
    "CogView4Transformer2DModel": Row(
        COG_VIEW | {"rope_axes_dim": (8, 8)}, FLAT, words(8), call=with_more(**SIZES), needs=("encoder_hidden_states",)
    ),
    "ConsisIDTransformer3DModel": Row(COG_VIDEO, VIDEO, words(8), call=frames_first, needs=("encoder_hidden_states",)),
    "CosmosTransformer3DModel": Row(
        TWO | {"in_channels": 4, "out_channels": 4, "attention_head_dim": 12, "text_embed_dim": 8, "adaln_lora_dim": 4,
               "max_size": (4, 8, 8), "extra_pos_embed_type": None, "concat_padding_mask": False},
        VIDEO, words(8), SHARE, needs=("encoder_hidden_states",),
    ),
    "DiTTransformer2DModel": Row(
        TWO | {"in_channels": 4, "sample_size": 4, "norm_num_groups": 4, "num_embeds_ada_norm": 5}, FLAT,
        {"class_labels": torch.tensor([1, 3])},
    ),
    "DreamLiteTransformer2DModel": Row(
        TWO | {"in_channels": 16, "norm_num_groups": 4, "cross_attention_dim": 8}, (16, 4, 4), words(8)
    ),
    "DreamLiteUNetModel": Row(
        UNET | {"down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
                "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"), "cross_attention_dim": 8,
                "attention_head_dim": 4},
        (4, 8, 8), words(8), needs=("encoder_hidden_states",),
    ),
    "EasyAnimateTransformer3DModel": Row(
        TWO | {"attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "patch_size": 2, "sample_width": 4,
               "sample_height": 4, "mmdit_layers": 1, "time_embed_dim": 8, "text_embed_dim": 8},
        VIDEO, words(8), needs=("encoder_hidden_states",),
    ),
    "ErnieImageTransformer2DModel": Row(
        {"hidden_size": 16, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 16, "in_channels": 4,
         "out_channels": 4, "text_in_dim": 8, "rope_axes_dim": (2, 2, 4)},
        FLAT, words(8, "text_bth"), call=with_more(text_lens=torch.tensor([L] * B)), needs=("text_bth",),
    ),
    "Flux2Transformer2DModel": Row(
        SINGLE | {"in_channels": 4, "joint_attention_dim": 8, "timestep_guidance_channels": 8, "mlp_ratio": 2.0,
                  "axes_dims_rope": (2, 2, 2, 2)},
        FLAT, words(8) | {"guidance": torch.tensor([4.0, 2.0])}, SHARE, call=tokens(1, flux2_ids),
        needs=("encoder_hidden_states", "guidance"),
    ),
    "FluxTransformer2DModel": Row(
        FLUX | {"pooled_projection_dim": 8, "guidance_embeds": True}, FLAT,
        words(8) | POOLED | {"guidance": torch.tensor([3.5, 2.0])}, SHARE, call=tokens(2, flux_ids()),
        needs=("encoder_hidden_states", "pooled_projections", "guidance"),
    ),
    "GlmImageTransformer2DModel": Row(
        TWO | {"in_channels": 4, "out_channels": 4, "text_embed_dim": 8, "time_embed_dim": 8, "condition_dim": 4,
               "prior_vq_quantizer_codebook_size": 16},
        FLAT,
        words(8) | {"prior_token_id": torch.tensor([[1] * 4, [3] * 4]), "prior_token_drop": torch.zeros(B, 4,
            dtype=torch.bool)},
        call=with_more(target_size=SIZE, crop_coords=0 * SIZE),
        needs=("encoder_hidden_states", "prior_token_id", "prior_token_drop"),
    ),
    "HeliosTransformer3DModel": Row(WAN | {"rope_dim": (4, 4, 4)}, VIDEO, words(8), needs=("encoder_hidden_states",)),
    "HiDreamImageTransformer2DModel": Row(
        SINGLE | {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_attention_heads": 4,
            "caption_channels": [8, 4],
                  "text_emb_dim": 8, "num_routed_experts": 2, "axes_dims_rope": (4, 2, 2), "max_resolution": (8, 8),
                  "llama_layers": (0, 1), "force_inference_output": True},
        FLAT,
        {"encoder_hidden_states_t5": noise(B, L, 8), "encoder_hidden_states_llama3": noise(B, 3, L, 4),
         "pooled_embeds": noise(B, 8)},
        sign=-1.0,
        call=lambda model, x, time, condition: model(
            x, timesteps=time,
            **condition
            | {"encoder_hidden_states_llama3": condition["encoder_hidden_states_llama3"].permute(1, 0, 2, 3)},
        )[0],
        needs=("encoder_hidden_states_t5", "encoder_hidden_states_llama3", "pooled_embeds"),
    ),
    "HunyuanDiT2DModel": Row(
        TWO | {"in_channels": 4, "patch_size": 2, "sample_size": 4, "hidden_size": 16, "cross_attention_dim": 8,
               "cross_attention_dim_t5": 8, "pooled_projection_dim": 4, "text_len": L, "text_len_t5": L},
        FLAT,
        words(8) | {"text_embedding_mask": torch.ones(B, L), "encoder_hidden_states_t5": noise(B, L, 8, seed=1),
                    "text_embedding_mask_t5": torch.ones(B, L), "image_meta_size": torch.full((B, 6), 32.0),
                    "style": torch.zeros(B, dtype=torch.long), "image_rotary_emb": (noise(4, 8), noise(4, 8, seed=1))},
        needs=("encoder_hidden_states", "text_embedding_mask", "encoder_hidden_states_t5", "image_rotary_emb", "style"),
    ),
    "HunyuanImageTransformer2DModel": Row(
        DOUBLE | {"in_channels": 4, "out_channels": 4, "rope_axes_dim": (4, 4)}, FLAT, words(8),
        call=with_more(encoder_attention_mask=ONES), needs=("encoder_hidden_states",),
    ),
    "HunyuanVideo15Transformer3DModel": Row(
        HUNYUAN | {"in_channels": 9, "out_channels": 4, "text_embed_2_dim": 8, "image_embed_dim": 8}, VIDEO,
        words(8) | {"encoder_hidden_states_2": noise(B, L, 8, seed=1), "encoder_attention_mask_2": ONES,
                    "encoder_attention_mask": ONES, "image_embeds": noise(B, 3, 8), "channels": noise(B, 5, 2, 4, 4)},
        call=with_channels, needs=("encoder_hidden_states", "channels"),
    ),
    "HunyuanVideoFramepackTransformer3DModel": Row(
        DOUBLE | {"in_channels": 4, "out_channels": 4, "pooled_projection_dim": 8, "has_image_proj": True,
            "image_proj_dim": 8, "has_clean_x_embedder": True,
                   "guidance_embeds": True},
        VIDEO,
        words(8) | POOLED | {"image_embeds": noise(B, 3, 8), "guidance": torch.tensor([6000.0] * B),
                             "encoder_attention_mask": ONES, "latents_clean": noise(B, 4, 1, 4, 4),
                             "latents_history_2x": noise(B, 4, 2, 4, 4), "latents_history_4x": noise(B, 4, 4, 8, 8)},
        needs=("encoder_hidden_states", "pooled_projections", "image_embeds", "indices_latents", "latents_clean"),
        common={"indices_latents": torch.arange(7, 9), "indices_latents_clean": torch.arange(6, 7),
                "indices_latents_history_2x": torch.arange(4, 6), "indices_latents_history_4x": torch.arange(4)},
    ),
    "HunyuanVideoTransformer3DModel": Row(
        DOUBLE | {"in_channels": 4, "out_channels": 4, "pooled_projection_dim": 8, "guidance_embeds": False}, VIDEO,
        words(8) | POOLED, call=with_more(encoder_attention_mask=ONES),
        needs=("encoder_hidden_states", "pooled_projections"),
    ),
    "I2VGenXLUNet": Row(
        UNET | blocks("3D") | SPATIAL | {"num_attention_heads": None, "attention_head_dim": 4}, (4, 2, 8, 8),
        words(8) | {"fps": torch.tensor([16, 16]), "image_latents": noise(B, 4, 2, 8, 8),
            "image_embeddings": noise(B, 8)},
        needs=("encoder_hidden_states", "fps", "image_latents"),
    ),
    "Ideogram4Transformer2DModel": Row(
        {"in_channels": 4, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "intermediate_size": 16,
         "adaln_dim": 4, "llm_features_dim": 8, "mrope_section": (2, 1, 1)},
        (6, 4),
        {"encoder_hidden_states": noise(B, 6, 8), "position_ids": torch.arange(6)[None, :, None].expand(B, 6, 3),
         "segment_ids": torch.ones(B, 6, dtype=torch.long), "indicator": torch.tensor([[3] * 2 + [2] * 4] * B)},
        REST, -1.0, needs=("encoder_hidden_states", "position_ids", "segment_ids", "indicator"),
    ),
    "JoyImageEditTransformer3DModel": Row(
        {"in_channels": 4, "hidden_size": 16, "num_attention_heads": 2, "text_dim": 8, "num_layers": 1,
         "rope_dim_list": [2, 2, 4]},
        VIDEO, words(8), needs=("encoder_hidden_states",),
    ),
    "Kandinsky3UNet": Row(
        {"time_embedding_dim": 8, "groups": 4, "attention_head_dim": 4, "layers_per_block": 3,
         "block_out_channels": (8, 16), "cross_attention_dim": 8, "encoder_hid_dim": 8},
        (4, 8, 8), words(8) | {"encoder_attention_mask": torch.ones(B, L)},
        needs=("encoder_hidden_states",),
    ),
    "Kandinsky5Transformer3DModel": Row(
        {"in_text_dim": 8, "in_text_dim2": 8, "time_dim": 8, "model_dim": 16, "ff_dim": 16, "num_text_blocks": 1,
         "num_visual_blocks": 1, "axes_dims": (4, 2, 2)},
        VIDEO, words(8) | POOLED, call=kandinsky, needs=("encoder_hidden_states", "pooled_projections"),
    ),
    "Krea2Transformer2DModel": Row(
        TWO | {"in_channels": 4, "num_key_value_heads": 1, "intermediate_size": 16, "timestep_embed_dim": 8,
               "text_hidden_dim": 8, "num_text_layers": 2, "text_num_attention_heads": 2, "text_num_key_value_heads": 2,
               "text_intermediate_size": 8, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
               "axes_dims_rope": (4, 2, 2)},
        FLAT, {"encoder_hidden_states": noise(B, L, 2, 8)}, SHARE,
        call=tokens(1, lambda x: {"position_ids": torch.cat([torch.zeros(L, 3), places(4, 4)])}),
        needs=("encoder_hidden_states",),
    ),
    "LTX2VideoTransformer3DModel": Row(
        TWO | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 16, "audio_in_channels": 4,
               "audio_out_channels": 4, "audio_num_attention_heads": 2, "audio_attention_head_dim": 4,
               "audio_cross_attention_dim": 8, "caption_channels": 8, "rope_double_precision": False},
        VIDEO,
        words(8) | {"audio_hidden_states": noise(B, 3, 4), "audio_encoder_hidden_states": noise(B, L, 8, seed=1)},
        call=two_modalities,
        needs=("encoder_hidden_states", "audio_hidden_states", "audio_encoder_hidden_states"),
    ),
    "LTXVideoTransformer3DModel": Row(
        TWO | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 16, "caption_channels": 8}, VIDEO, words(8),
        call=video, needs=("encoder_hidden_states",),
    ),
    "LatteTransformer3DModel": Row(
        TWO | {"in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 4, "caption_channels": 8,
               "cross_attention_dim": 16, "norm_type": "ada_norm_single", "video_length": 2,
                   "norm_elementwise_affine": False},
        VIDEO, words(8), needs=("encoder_hidden_states",),
    ),
    "LongCatAudioDiTTransformer": Row(
        {"dit_dim": 16, "dit_depth": 1, "dit_heads": 2, "dit_text_dim": 8, "latent_dim": 4, "text_conv": False},
        (6, 4), words(8), SHARE, call=with_more(encoder_attention_mask=torch.ones(B, L, dtype=torch.bool)),
        needs=("encoder_hidden_states",),
    ),
    "LongCatImageTransformer2DModel": Row(
        FLUX | {"axes_dims_rope": [2, 2, 4], "pooled_projection_dim": 8}, FLAT, words(8), SHARE,
        call=tokens(2, longcat_ids), needs=("encoder_hidden_states",),
    ),
    "Lumina2Transformer2DModel": Row(
        {"sample_size": 4, "in_channels": 4, "hidden_size": 24, "num_layers": 1, "num_refiner_layers": 1,
         "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2, "axes_dim_rope": (4, 2, 2),
         "axes_lens": (128, 16, 16), "cap_feat_dim": 8},
        FLAT, words(8), REST, -1.0, call=with_more(encoder_attention_mask=ONES.bool()),
            needs=("encoder_hidden_states",),
    ),
    "LuminaNextDiT2DModel": Row(
        {"sample_size": 4, "hidden_size": 24, "num_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1,
         "multiple_of": 16, "cross_attention_dim": 8},
        FLAT, words(8), REST, -1.0, needs=("encoder_hidden_states",),
        call=lambda model, x, time, condition: model(
            x, time, condition["encoder_hidden_states"], ONES,
            diffusers.models.embeddings.get_2d_rotary_pos_embed_lumina(8, 384, 384), cross_attention_kwargs={},
        )[0],
    ),
    "MochiTransformer3DModel": Row(
        TWO | {"in_channels": 4, "pooled_projection_dim": 16, "text_embed_dim": 8, "time_embed_dim": 4},
        VIDEO, words(8), call=with_more(encoder_attention_mask=ONES.bool()), needs=("encoder_hidden_states",),
    ),
    "MotifVideoTransformer3DModel": Row(
        SINGLE | {"in_channels": 9, "out_channels": 4, "text_embed_dim": 8, "rope_axes_dim": (2, 2, 4)}, VIDEO,
        words(8) | {"channels": noise(B, 5, 2, 4, 4), "encoder_attention_mask": ONES.bool()}, call=with_channels,
        needs=("encoder_hidden_states", "channels"),
    ),
    "NucleusMoEImageTransformer2DModel": Row(
        TWO | {"in_channels": 16, "out_channels": 4, "joint_attention_dim": 8, "axes_dims_rope": (2, 2, 4),
               "moe_enabled": False, "num_key_value_heads": 1},
        FLAT, words(8) , SHARE, -1.0, call=tokens(2, lambda x: {"img_shapes": [(1, 2, 2)] * B}),
        needs=("encoder_hidden_states",),
    ),
    "OmniGenTransformer2DModel": Row(
        {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 16,
            "num_layers": 1,
         "pad_token_id": 0, "vocab_size": 20, "in_channels": 4, "time_step_dim": 4,
         "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]}},
        FLAT,
        {"input_ids": torch.arange(10).reshape(B, L), "input_img_latents": (), "input_image_sizes": {},
         "attention_mask": torch.ones(B, L + 5, L + 5), "position_ids": torch.arange(L + 5).expand(B, -1)},
        needs=("input_ids", "attention_mask", "position_ids"),
    ),
    "OvisImageTransformer2DModel": Row(
        FLUX | {"out_channels": 16}, FLAT, words(8), SHARE, call=tokens(2, line_ids), needs=("encoder_hidden_states",)
    ),
    "PRXTransformer2DModel": Row(
        {"in_channels": 4, "context_in_dim": 8, "hidden_size": 16, "num_heads": 2, "depth": 1, "axes_dim": [4, 4]},
        FLAT, words(8), SHARE, needs=("encoder_hidden_states",),
    ),
    "PixArtTransformer2DModel": Row(
        TWO | {"num_attention_heads": 3, "in_channels": 4, "cross_attention_dim": 24, "sample_size": 4,
            "caption_channels": 8,
               "use_additional_conditions": True},
        FLAT, words(8),
        call=with_more(added_cond_kwargs={"resolution": SIZE, "aspect_ratio": torch.ones(B, 1)}),
        needs=("encoder_hidden_states",),
    ),
    "PriorTransformer": Row(
        TWO | {"attention_head_dim": 4, "embedding_dim": 8, "num_embeddings": L}, (8,),
        words(8) | {"proj_embedding": noise(B, 8)}, needs=("encoder_hidden_states", "proj_embedding"),
    ),
    "QwenImageTransformer2DModel": Row(
        TWO | {"in_channels": 16, "out_channels": 4, "joint_attention_dim": 8, "axes_dims_rope": (2, 2, 4)}, FLAT,
        words(8) | {"encoder_hidden_states_mask": ONES}, SHARE, call=tokens(2, lambda x: {"img_shapes": [[(1, 2,
            2)]] * B}),
        needs=("encoder_hidden_states",),
    ),
    "SD3Transformer2DModel": Row(
        TWO | {"sample_size": 4, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 8,
               "caption_projection_dim": 16, "pooled_projection_dim": 8, "pos_embed_max_size": 4},
        FLAT, words(8) | POOLED, needs=("encoder_hidden_states", "pooled_projections"),
    ),
    "SanaTransformer2DModel": Row(SANA | {"timestep_scale": 0.001}, FLAT, words(8), SHARE,
        needs=("encoder_hidden_states",)),
    "SanaVideoTransformer3DModel": Row(
        SANA | {"attention_head_dim": 12, "cross_attention_dim": 24, "cross_attention_head_dim": 12}, VIDEO, words(8),
        needs=("encoder_hidden_states",),
    ),
    "SkyReelsV2Transformer3DModel": Row(
        WAN | {"rope_max_seq_len": 32}, VIDEO, words(8), needs=("encoder_hidden_states",)
    ),
    "StableAudioDiTModel": Row(
        TWO | {"sample_size": 6, "in_channels": 4, "out_channels": 4, "num_key_value_attention_heads": 2,
               "cross_attention_dim": 8, "time_proj_dim": 8, "global_states_input_dim": 8,
                   "cross_attention_input_dim": 8},
        (4, 6),
        words(8) | {"global_hidden_states": noise(B, 1, 8), "rotary_embedding": (noise(7, 4), noise(7, 4, seed=1))},
        needs=("encoder_hidden_states", "global_hidden_states", "rotary_embedding"),
    ),
    "StableCascadeUNet": Row(
        {"in_channels": 4, "out_channels": 4, "conditioning_dim": 8, "block_out_channels": (8, 8),
         "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1),
         "clip_text_pooled_in_channels": 8, "timestep_ratio_embedding_dim": 8},
        FLAT, {"clip_text_pooled": noise(B, 1, 8)}, needs=("clip_text_pooled",),
    ),
    "Transformer2DModel": Row(
        TWO | {"in_channels": 4, "sample_size": 4, "patch_size": 2, "norm_type": "ada_norm_zero",
               "num_embeds_ada_norm": 5, "norm_num_groups": 4, "norm_elementwise_affine": False},
        FLAT, {"class_labels": torch.tensor([1, 3])},
    ),
    "TransformerTemporalModel": Row(TWO | {"in_channels": 16, "norm_num_groups": 4}, (16, 4, 4)),
    "UNet1DModel": Row(
        {"sample_size": 16, "in_channels": 2, "extra_in_channels": 64, "block_out_channels": (32, 32),
            "sample_rate": 16,
         "down_block_types": ("DownBlock1DNoSkip", "DownBlock1D"), "up_block_types": ("UpBlock1D", "UpBlock1DNoSkip")},
        (2, 16),
    ),
    "UNet2DConditionModel": Row(
        UNET | blocks("2D") | SPATIAL | {"addition_embed_type": "text_time", "addition_time_embed_dim": 4,
                                         "projection_class_embeddings_input_dim": 32},
        (4, 8, 8),
        words(8) | {"added_cond_kwargs": {"text_embeds": noise(B, 8), "time_ids": noise(B, 6)}},
        needs=("encoder_hidden_states", "added_cond_kwargs"),
    ),
    "UNet2DModel": Row(UNET | {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}, (4,
        8, 8)),
    "UNet3DConditionModel": Row(
        UNET | blocks("3D") | SPATIAL, (4, 2, 8, 8), words(8), needs=("encoder_hidden_states",)
    ),
    "UNetMotionModel": Row(
        UNET | blocks("Motion") | {"cross_attention_dim": 8, "num_attention_heads": 2, "motion_num_attention_heads": 2},
        (4, 2, 8, 8), words(8), call=by_frame, needs=("encoder_hidden_states",),
    ),
    "UNetSpatioTemporalConditionModel": Row(
        {"sample_size": 8, "in_channels": 8, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (32, 32),
         "cross_attention_dim": 8, "num_attention_heads": 2, "addition_time_embed_dim": 4,
         "projection_class_embeddings_input_dim": 12} | blocks("SpatioTemporal"),
        (4, 2, 8, 8),
        words(8) | {"added_time_ids": noise(B, 3), "channels": noise(B, 4, 2, 8, 8)},
        call=lambda model, x, time, condition: frames_first(
            model, torch.cat([x, condition["channels"]], 1), time,
            {k: v for k, v in condition.items() if k != "channels"},
        ),
        needs=("encoder_hidden_states", "added_time_ids", "channels"),
    ),
    "WanAnimateTransformer3DModel": Row(
        WAN | {"in_channels": 12, "latent_channels": 4, "image_dim": 8, "rope_max_seq_len": 32,
               "motion_encoder_channel_sizes": {"4": 4, "8": 4, "16": 4}, "motion_encoder_size": 16,
               "motion_style_dim": 4, "motion_dim": 2, "motion_encoder_dim": 8, "face_encoder_hidden_dim": 8,
               "face_encoder_num_heads": 2, "inject_face_latents_blocks": 1},
        (4, 3, 4, 4),
        words(8) | {"encoder_hidden_states_image": noise(B, 3, 8), "pose_hidden_states": noise(B, 4, 2, 4, 4),
                    "face_pixel_values": noise(B, 3, 5, 16, 16), "channels": noise(B, 8, 3, 4, 4)},
        call=with_channels, needs=("encoder_hidden_states", "pose_hidden_states", "face_pixel_values", "channels"),
    ),
    "WanTransformer3DModel": Row(WAN | {"rope_max_seq_len": 32}, VIDEO, words(8), needs=("encoder_hidden_states",)),
    "WanVACETransformer3DModel": Row(
        WAN | {"rope_max_seq_len": 32, "vace_layers": [0], "vace_in_channels": 8}, VIDEO,
        words(8) | {"control_hidden_states": noise(B, 8, 2, 4, 4)},
        common={"control_hidden_states_scale": torch.ones(1)},
        needs=("encoder_hidden_states",),
    ),
    "ZImageTransformer2DModel": Row(
        {"in_channels": 4, "dim": 16, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
         "cap_feat_dim": 8, "axes_dims": [4, 2, 2], "axes_lens": [256, 32, 32]},
        FLAT, words(8, "cap_feats"), REST, -1.0, call=listed, needs=("cap_feats",),
    ),
}  # fmt: skip


def classes() -> list[str]:
    """Every model class of diffusers with a time argument, except ControlNets."""
    found = []
    for name in dir(diffusers.models):
        kind = getattr(diffusers.models, name)
        if not (inspect.isclass(kind) and issubclass(kind, diffusers.ModelMixin)) or "ControlNet" in name:
            continue
        if {"timestep", "timesteps", "t", "timestep_ratio"} & set(inspect.signature(kind.forward).parameters):
            found.append(name)
    return sorted(found)


def built(name: str) -> Any:
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**ROWS[name].config).eval()
    # layers initialised with zeros would hide any difference
    for each in model.parameters():
        if not each.any():
            torch.nn.init.normal_(each.data, std=0.2)
    # diffusers makes some parameters on the CPU always
    return model.to(torch.zeros(()).device)


def flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


@pytest.mark.parametrize("name", classes())
@torch.no_grad()
def test_a_denoiser_equals_a_direct_call_of_its_model(name: str) -> None:
    row, model = ROWS[name], built(name)
    x = noise(B, *row.shape, seed=3)
    condition = row.condition | row.common
    call = row.call or with_more()
    output = row.sign * call(model, x, torch.full((B,), row.time), condition)
    output = output[:, : x.shape[1]]
    more = {"conditions": lambda cond, n: cond.arguments | row.common} if row.common else {}
    denoiser = from_diffusers(model, flow(), shape=row.shape, **more)
    cond: Any = (
        condition["class_labels"]
        if list(condition) == ["class_labels"]
        else Keywords(**row.condition)
        if condition
        else None
    )
    mean = denoiser(x, T, cond).mean
    # x0 = x - t (z - x0)
    right = x - T * output
    assert output.isfinite().all() and output.std() > 1e-3
    assert (mean - right).abs().max() <= 1e-5 * max(1.0, float(right.abs().max()))
    if len(condition) == 1 and cond is not condition.get("class_labels"):
        assert torch.equal(denoiser(x, T, next(iter(condition.values()))).mean, mean)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.needs])
def test_an_error_names_the_missing_conditions(name: str) -> None:
    row = ROWS[name]
    denoiser = from_diffusers(built(name), flow(), shape=row.shape)
    with pytest.raises(HubError) as error:
        denoiser(noise(B, *row.shape), T)
    assert [each for each in row.needs if each not in str(error.value)] == []
