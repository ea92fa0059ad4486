"""Keywords of a model call that follow from the shape of x: position ids, image sizes, rotary embeddings.

Each function here takes x, the other keywords of the call and the model, and returns keywords.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .errors import HubError
from .latents_layout import patch_size, video_patches

ExtraKeywords = Callable[[Tensor, dict[str, Any], Any], dict[str, Any]]


def no_keywords(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """No keyword."""
    return {}


def _image_ids(rows: int, columns: int, x: Tensor) -> Tensor:
    """[rows * columns, 3] of (0, row, column)."""
    down, across = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
    places = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1).reshape(-1, 2)
    return functional.pad(places, (1, 0)).float()


def count_words(keywords: dict[str, Any]) -> int:
    """The number L of text tokens. Raises HubError without prompt embeddings."""
    if not isinstance(keywords.get("encoder_hidden_states"), Tensor):
        raise HubError("position ids need the number of text tokens: give encoder_hidden_states [B, L, D] as a keyword")
    return int(keywords["encoder_hidden_states"].shape[1])


def _zero_text_ids(keywords: dict[str, Any], x: Tensor) -> Tensor:
    """[L, 3] zeros."""
    return torch.zeros(count_words(keywords), 3, device=x.device)


def _counted_text_ids(keywords: dict[str, Any], x: Tensor) -> Tensor:
    """[L, 3] of (0, l, l)."""
    line = torch.arange(count_words(keywords), device=x.device).float()
    return torch.stack([torch.zeros_like(line), line, line], -1)


def _image_and_text_ids(side: int, text_ids: Callable[[dict[str, Any], Tensor], Tensor]) -> ExtraKeywords:
    def extra(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
        return {
            "img_ids": _image_ids(x.shape[-2] // side, x.shape[-1] // side, x),
            "txt_ids": text_ids(keywords, x),
        }

    return extra


flux, fibo = _image_and_text_ids(2, _zero_text_ids), _image_and_text_ids(1, _zero_text_ids)
ovis = _image_and_text_ids(2, _counted_text_ids)
# image ids begin after the longest text
LONGCAT_WORDS = 512


def longcat(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Image ids that begin after the text ids."""
    start = x.new_tensor([1.0, LONGCAT_WORDS, LONGCAT_WORDS])
    places = _image_ids(x.shape[-2] // 2, x.shape[-1] // 2, x) + start
    return {"img_ids": places, "txt_ids": _counted_text_ids(keywords, x)}


def flux2(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Ids (frame, row, column, word) for each item."""
    places = functional.pad(_image_ids(x.shape[-2], x.shape[-1], x), (0, 1))
    count = count_words(keywords)
    words = functional.pad(torch.arange(count, device=x.device).float()[:, None], (3, 0))
    return {"img_ids": places.expand(len(x), -1, -1), "txt_ids": words.expand(len(x), -1, -1)}


def krea(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Text ids and image ids in one tensor."""
    side = patch_size(model.config)
    places = _image_ids(x.shape[-2] // side, x.shape[-1] // side, x)
    return {"position_ids": torch.cat([_zero_text_ids(keywords, x), places])}


def qwen(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """The shape (frames, rows, columns) of each item in patches, as a list of lists."""
    return {"img_shapes": [[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x)}


def nucleus(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """The shape (frames, rows, columns) of each item in patches."""
    side = patch_size(model.config)
    return {"img_shapes": [(1, x.shape[-2] // side, x.shape[-1] // side)] * len(x)}


def ltx(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Sides in patches; positions in seconds and pixels, for 25 frames a second and a VAE of 8 frames and 32 pixels."""
    frames, _, rows, _, columns, _ = video_patches(x, model.config)
    scale = (8 / 25, 32, 32)
    return {"num_frames": frames, "height": rows, "width": columns, "rope_interpolation_scale": scale}


def ltx2(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Sides in patches. The sound of the video has a length of its own."""
    sides = {name: value for name, value in ltx(x, keywords, model).items() if name != "rope_interpolation_scale"}
    sound = keywords.get("audio_hidden_states")
    return sides | ({"audio_num_frames": sound.shape[1]} if sound is not None else {})


def kandinsky(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Positions along each side, and along the text."""
    deep, high, wide = model.config.patch_size
    sides = [torch.arange(n // p, device=x.device) for n, p in zip(x.shape[2:], (deep, high, wide), strict=True)]
    return {
        "visual_rope_pos": sides,
        "text_rope_pos": torch.arange(count_words(keywords), device=x.device),
    }


def image_sizes(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """The sizes of an image that is not cropped, eight pixels a latent."""
    size = torch.tensor([[8 * n for n in x.shape[-2:]]], device=x.device).expand(len(x), 2).to(x.dtype)
    return {"original_size": size, "target_size": size, "crop_coords": torch.zeros_like(size)}


def target_size(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """`image_sizes` without the original size."""
    known = image_sizes(x, keywords, model)
    return {name: known[name] for name in ("target_size", "crop_coords")}


def resolution(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Image size in pixels and aspect ratio, for the larger models of PixArt."""
    if not getattr(model, "use_additional_conditions", False):
        return {}
    size = torch.tensor([[8.0 * n for n in x.shape[-2:]]], device=x.device).expand(len(x), 2)
    return {"added_cond_kwargs": {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}}


def empty_padding_mask(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """A padding mask of zeros: the whole image is content."""
    return {"padding_mask": x.new_zeros(1, 1, *x.shape[-2:])} if model.config.concat_padding_mask else {}


def text_lengths(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """The number of text tokens of each item."""
    return {"text_lens": torch.full((len(x),), keywords["text_bth"].shape[1], device=x.device)}


def lumina(x: Tensor, keywords: dict[str, Any], model: Any) -> dict[str, Any]:
    """Rotary embeddings of the image, by diffusers' own function."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    config = model.config
    return {
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(
            config.hidden_size // config.num_attention_heads, 384, 384, linear_factor=1.0, ntk_factor=1.0
        ).to(x.device),
        # the model indexes this argument although its default is None
        "cross_attention_kwargs": {},
    }
