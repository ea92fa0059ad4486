"""`softmix sample` from a folder that diffusers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError, choose_grid, choose_sampler, interrupted, require_sampler
from .guidance_interval import require_steps_inside
from .samples import draw, require_finite, require_form, write

if TYPE_CHECKING:
    from ..hub import Drawing
    from ..sampler import Sampler
    from .sample import Sample

# The options of `softmix sample` in the recipe of a picture from such a folder.
_ARGUMENTS = (
    "n",
    "steps",
    "sampler",
    "eta",
    "grid",
    "seed",
    "label",
    "guidance",
    "interval",
    "first",
    "precision",
    "prompt",
)
# A VAE takes far more memory for an image than its latent has.
_DECODED_AT_ONCE = 16


def is_diffusers_folder(folder: Path) -> bool:
    """Whether diffusers wrote this folder. Reads its JSON files only, so that diffusers need not be installed."""
    if (folder / "model_index.json").is_file():
        return True
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return isinstance(config, dict) and "_diffusers_version" in config
    except (OSError, ValueError):
        return False


def sample_diffusers(asked: Sample) -> None:
    """Draw with the process of the folder and a sampler of softmix. Latents are decoded to pictures."""
    require_sampler(asked.sampler)
    try:
        from ..hub import HubError, drawing
    except ImportError as error:
        raise UsageError(str(error)) from error
    from ..sampler import adams

    sampler = choose_grid(asked.grid, choose_sampler(asked.sampler, asked.eta, adams))
    try:
        _draw(asked, drawing(asked.run, prompt=asked.prompt, label=asked.label), sampler)
    except HubError as error:
        raise UsageError(str(error)) from error


def _draw(asked: Sample, source: Drawing, sampler: Sampler) -> None:
    import torch

    from ..sampler import label
    from ..train import find_device

    cond = source.cond(asked.n, asked.first)
    denoiser = guide(asked, source, cond, sampler)
    require_form(asked.out, asked.n, source.shape)
    recipe = {
        "run": source.name,
        "what": source.what,
        "sampler": label(sampler),
        "arguments": {name: getattr(asked, name) for name in _ARGUMENTS},
    }
    if asked.dry_run:
        print(json.dumps(recipe, indent=2))
        return
    device = find_device()
    source.denoiser.to(device)
    with interrupted(f"stopped; {asked.out} was not written"):
        x = require_finite(draw(asked, denoiser, sampler, cond, device), asked.out)
        pixels = torch.cat([source.pixels(part) for part in x.split(_DECODED_AT_ONCE)])
        images = require_finite(pixels, asked.out).clamp(-1, 1).cpu()
        write(images, asked.out, recipe, cond if source.classes else None)
    print(f"wrote {asked.out}")


def guide(asked: Sample, source: Drawing, cond: Any, sampler: Sampler) -> Any:
    """The denoiser of the folder with classifier-free guidance, if asked."""
    from ..denoiser import guided, within

    if asked.guidance == 1:
        return source.denoiser
    if cond is None:
        raise UsageError(f"--guidance needs classes or a prompt to guide to; {source.name} is a {source.what}")
    wrap = guided(asked.guidance, unconditional=source.unconditional)
    if asked.interval is None:
        return wrap(source.denoiser)
    require_steps_inside(asked.interval, sampler, source.denoiser.process, source.shape, asked.steps)
    return within(*asked.interval, wrap)(source.denoiser)
