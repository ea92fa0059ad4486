"""The command line: `softmix sample` from a folder that diffusers wrote."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .common import UsageError, chosen_sampler, interrupted, known_sampler
from .interval import Interval, require_guided
from .samples import check_form, drawn, finite, write

if TYPE_CHECKING:
    from ..hub import Drawing
    from ..sampler import Sampler


@dataclass(frozen=True)
class Wanted:
    """What `softmix sample` was asked for, as there."""

    n: int
    steps: int
    sampler: str | None
    eta: float | None
    seed: int
    label: str | int | None
    guidance: float
    interval: Interval | None
    first: int
    precision: Literal["fp32", "bf16"]
    prompt: str | None


def is_borrowed(folder: Path) -> bool:
    """Whether diffusers wrote this folder. Looks at its files alone, so that diffusers need not be there."""
    if (folder / "model_index.json").is_file():
        return True
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return isinstance(found, dict) and "_diffusers_version" in found
    except (OSError, ValueError):
        return False


def draw_borrowed(run: Path, out: Path, wanted: Wanted, dry_run: bool) -> None:
    """Draws from a folder of diffusers, by its own process and our samplers; latents are decoded to pictures."""
    import torch

    known_sampler(wanted.sampler)
    try:
        from ..hub import HubError, drawing
    except ImportError as error:
        raise UsageError(str(error)) from error
    from ..sampler import adams
    from ..sampler import label as label_of
    from ..train import find_device

    chosen = chosen_sampler(wanted.sampler, wanted.eta, adams)
    try:
        found = drawing(run, prompt=wanted.prompt, label=wanted.label)
        cond = found.cond(wanted.n, wanted.first)
        denoiser = _guided(found, cond, wanted, chosen)
        check_form(out, wanted.n, found.shape)
        recipe = {
            "run": found.name,
            "what": found.what,
            "sampler": label_of(chosen),
            "arguments": asdict(wanted),
        }
        if dry_run:
            print(json.dumps(recipe, indent=2))
            return
        device = find_device()
        found.denoiser.to(device)
        with interrupted(f"stopped; {out} was not written"):
            x = drawn(
                denoiser,
                chosen,
                wanted.n,
                wanted.steps,
                wanted.seed,
                cond,
                wanted.first,
                wanted.precision,
                device,
            )
            # a VAE takes far more memory than its latents
            pixels = torch.cat([found.pixels(part) for part in finite(x, out).split(16)])
            write(finite(pixels, out).clamp(-1, 1).cpu(), out, recipe, cond if found.classes else None)
    except HubError as error:
        raise UsageError(str(error)) from error
    print(f"wrote {out}")


def _guided(found: Drawing, cond: Any, wanted: Wanted, sampler: Sampler) -> Any:
    from ..denoiser import guided, within

    if wanted.guidance == 1:
        return found.denoiser
    if cond is None:
        raise UsageError(f"--guidance needs classes or a prompt to guide to; {found.name} is a {found.what}")
    wrap = guided(wanted.guidance, unconditional=found.unconditional)
    if wanted.interval is None:
        return wrap(found.denoiser)
    require_guided(wanted.interval, sampler, found.denoiser.process, found.shape, wanted.steps)
    return within(*wanted.interval, wrap)(found.denoiser)
