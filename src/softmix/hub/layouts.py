"""How the classes of diffusers lay out what they denoise, and which places they are told.

A denoiser of ours works on [B, C, H, W], for videos on [B, C, F, H, W]. A layout leads into the model's own and back;
`beside` are keywords that follow from the layout alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .reading import HubError

Beside = Callable[[Tensor, dict[str, Any], Any], dict[str, Any]]


def _same(x: Any, like: Any, config: Any) -> Any:
    return x


def _nothing(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Layout:
    """enter : x, x, the model's configuration -> the model's input. leave : its output, x, configuration -> as x is.
    channels : how many of the model's channels are one of x's."""

    enter: Callable[[Tensor, Tensor, Any], Any] = _same
    leave: Callable[[Any, Tensor, Any], Tensor] = _same
    channels: Callable[[Any], int] = lambda config: 1


def _patch(config: Any) -> int:
    return int(config.get("patch_size") or 1)


def _patched(size: Callable[[Any], int]) -> Layout:
    """[B, C, H, W] as tokens [B, (H / p) (W / p), C p p] of patches."""

    def enter(x: Tensor, like: Tensor, config: Any) -> Tensor:
        return functional.pixel_unshuffle(x, size(config)).flatten(2).transpose(1, 2)

    def leave(said: Tensor, like: Tensor, config: Any) -> Tensor:
        rows = like.shape[-2] // size(config)
        return functional.pixel_shuffle(said.transpose(1, 2).unflatten(2, (rows, -1)), size(config))

    return Layout(enter, leave, lambda config: size(config) ** 2)


def _frames(x: Tensor, like: Tensor, config: Any) -> Tensor:
    return x.transpose(1, 2)


def _split(like: Tensor, config: Any) -> tuple[int, ...]:
    """F, H, W in patches, each with its patch's side."""
    sides = (int(config.get("patch_size_t") or 1), _patch(config), _patch(config))
    return tuple(n for side, length in zip(sides, like.shape[2:], strict=True) for n in (length // side, side))


def _video_in(x: Tensor, like: Tensor, config: Any) -> Tensor:
    parts = x.reshape(*x.shape[:2], *_split(like, config))
    return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4, 7).flatten(1, 3)


def _video_out(said: Tensor, like: Tensor, config: Any) -> Tensor:
    frames, deep, rows, high, columns, wide = _split(like, config)
    parts = said.reshape(len(said), frames, rows, columns, -1, deep, high, wide)
    return parts.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(said), -1, *like.shape[2:])


PLAIN = Layout()
TOKENS, HALVED, PATCHES = _patched(lambda config: 1), _patched(lambda config: 2), _patched(_patch)
FRAMES_FIRST = Layout(_frames, _frames)
CHANNELS_LAST = Layout(lambda x, like, config: x.movedim(1, -1), lambda said, like, config: said.movedim(-1, 1))
VIDEO_PATCHES = Layout(_video_in, _video_out, lambda config: int(config.get("patch_size_t") or 1) * _patch(config) ** 2)
# a list of pictures, each with one frame
LISTED = Layout(
    lambda x, like, config: list(x.unsqueeze(2).unbind(0)),
    lambda said, like, config: torch.stack(list(said)).squeeze(2),
)


# places


def _grid(rows: int, columns: int, x: Tensor) -> Tensor:
    """[rows * columns, 3] of (0, row, column)."""
    down, across = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
    places = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1).reshape(-1, 2)
    return functional.pad(places, (1, 0)).float()


def count_words(told: dict[str, Any]) -> int:
    if not isinstance(told.get("encoder_hidden_states"), Tensor):
        raise HubError("places of words were asked for: give encoder_hidden_states [B, L, D] among the keywords")
    return int(told["encoder_hidden_states"].shape[1])


def _words(told: dict[str, Any], x: Tensor, each: bool) -> Tensor:
    """[L, 3], zeros or (0, l, l) by word."""
    count = count_words(told)
    line = torch.arange(count, device=x.device).float() if each else torch.zeros(count, device=x.device)
    return torch.stack([torch.zeros_like(line), line, line], -1)


def _flat_words(side: int, each: bool = False) -> Beside:
    def beside(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
        places = _grid(x.shape[-2] // side, x.shape[-1] // side, x)
        return {"img_ids": places, "txt_ids": _words(told, x, each)}

    return beside


flux, fibo, ovis = _flat_words(2), _flat_words(1), _flat_words(2, each=True)
# pictures begin where the longest text ends
LONGCAT_WORDS = 512


def longcat(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    places = _grid(x.shape[-2] // 2, x.shape[-1] // 2, x) + torch.tensor([1.0, LONGCAT_WORDS, LONGCAT_WORDS]).to(x)
    return {"img_ids": places, "txt_ids": _words(told, x, each=True)}


def flux2(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """(frame, row, column, word), for each item."""
    places = functional.pad(_grid(x.shape[-2], x.shape[-1], x), (0, 1))
    count = count_words(told)
    words = functional.pad(torch.arange(count, device=x.device).float()[:, None], (3, 0))
    return {"img_ids": places.expand(len(x), -1, -1), "txt_ids": words.expand(len(x), -1, -1)}


def krea(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    side = _patch(model.config)
    places = _grid(x.shape[-2] // side, x.shape[-1] // side, x)
    return {"position_ids": torch.cat([_words(told, x, each=False), places])}


def qwen(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    return {"img_shapes": [[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x)}


def nucleus(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    side = _patch(model.config)
    return {"img_shapes": [(1, x.shape[-2] // side, x.shape[-1] // side)] * len(x)}


def ltx(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """Sides in patches; places in seconds and pixels, at 25 frames a second and the VAE's 8 frames and 32 pixels."""
    frames, _, rows, _, columns, _ = _split(x, model.config)
    scale = (8 / 25, 32, 32)
    return {"num_frames": frames, "height": rows, "width": columns, "rope_interpolation_scale": scale}


def ltx2(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """The sound beside the video has its own length."""
    sides = {name: each for name, each in ltx(x, told, model).items() if name != "rope_interpolation_scale"}
    sound = told.get("audio_hidden_states")
    return sides | ({"audio_num_frames": sound.shape[1]} if sound is not None else {})


def kandinsky(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    deep, high, wide = model.config.patch_size
    sides = [torch.arange(n // p, device=x.device) for n, p in zip(x.shape[2:], (deep, high, wide), strict=True)]
    return {
        "visual_rope_pos": sides,
        "text_rope_pos": torch.arange(count_words(told), device=x.device),
    }


def sizes(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    """A picture of eight pixels a latent, whole."""
    size = torch.tensor([[8 * n for n in x.shape[-2:]]], device=x.device).expand(len(x), 2).to(x.dtype)
    return {"original_size": size, "target_size": size, "crop_coords": torch.zeros_like(size)}


def target(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    known = sizes(x, told, model)
    return {name: known[name] for name in ("target_size", "crop_coords")}


def nothing_padded(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    return {"padding_mask": x.new_zeros(1, 1, *x.shape[-2:])} if model.config.concat_padding_mask else {}


def lumina(x: Tensor, told: dict[str, Any], model: Any) -> dict[str, Any]:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    config = model.config
    return {
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(
            config.hidden_size // config.num_attention_heads, 384, 384, linear_factor=1.0, ntk_factor=1.0
        ).to(x.device),
        # its default of none is taken apart as if it were some
        "cross_attention_kwargs": {},
    }


nothing = _nothing
