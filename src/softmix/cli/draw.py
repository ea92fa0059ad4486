"""The command line: `softmix sample`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .borrowed import Wanted, draw_borrowed, is_borrowed
from .common import (
    INT64,
    MOST_DRAWS,
    MOST_STEPS,
    UsageError,
    class_of,
    interrupted,
    positive,
    prepared,
    real,
    whole,
)
from .interval import Interval, check_interval, require_guided
from .samples import check_form, check_place, drawn, finite, write

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampler import Sampler
    from ..train import Model


def sample(
    run: Positional[Path],
    /,
    out: Path,
    n: int = 64,
    steps: int = 4,
    sampler: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    label: Annotated[str | int | None, arg(metavar="NAME")] = None,
    guidance: float = 1.0,
    interval: tuple[float, float] | None = None,
    weights: str | None = None,
    average: int = 0,
    first: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    prompt: str | None = None,
    dry_run: bool = False,
) -> None:
    """Draw images from a trained model.

    Args:
        run: a run folder, a model that comes with softmix (fashion), or a folder that diffusers wrote.
        out: a .png, .jpg or .webp (a grid), a .npy (uint8 images, or float points), a .npz (the same, key arr_0), or a
            folder (single PNGs, which join those that are there if their numbers are free).
        n: how many.
        steps: of the sampler, at least 1; an evaluation of the network each, but for the few that ask more often.
        sampler: a name from docs/choose-a-sampler.md, such as adams, ancestral, ddim, unipc, evodiff; by default the
            one that suits the model, soft-adams for one that draws at high noise, ancestral for others that draw,
            adams for one that knows the mean only.
        eta: fresh noise of ancestral and ddim, from 0 to 1; 0 by default for ddim and for soft mixtures, else 1.
        seed: image k depends on the seed and k alone.
        label: a class by its name or number, for a model trained with classes; by default they take turns.
        guidance: classifier-free guidance; 1 is none.
        interval: guide only between these two logsnr, the smaller one (more noise) first.
        weights: model, or an average such as ema-0.100.
        average: take the mean of this many draws, for samplers that need a mean.
        first: number of the first image: --first 10 --n 1 is the eleventh image of a longer run.
        precision: of the network. bf16 is several times as fast where the machine has it, and rounds more coarsely.
        prompt: what the picture shows, for a folder of diffusers with text encoders.
        dry_run: say what would be done.
    """
    positive(n=n)
    whole(1, MOST_STEPS, steps=steps)
    whole(0, MOST_DRAWS, average=average)
    whole(0, INT64 - n, first=first)
    real(guidance=guidance)
    check_interval(interval, guidance)
    check_place(out, n, first)
    if is_borrowed(run):
        _check_no(run, weights=weights, average=average or None)
        wanted = Wanted(n, steps, sampler, eta, seed, label, guidance, interval, first, precision, prompt)
        draw_borrowed(run, out, wanted, dry_run)
        return
    if prompt is not None:
        raise UsageError("--prompt was given; it goes with a folder of diffusers that has text encoders")

    from ..sampler import label as label_of
    from ..train import find_device

    model, denoiser, chosen = prepared(run, sampler, eta, weights, average)
    check_form(out, n, model.facts.shape)
    label = class_of(model, label, "label")
    labels = _labels(model, label, n, first)
    denoiser = _guided(model, denoiser, guidance, interval, chosen, steps)
    recipe = {
        "run": model.path.name,
        "step": model.step,
        "weights": model.weights,
        "data": model.facts.data,
        "fingerprint": model.facts.fingerprint,
        "weights_fingerprint": model.fingerprint,
        "sampler": label_of(chosen),
        "arguments": {
            "n": n,
            "steps": steps,
            "sampler": sampler,
            "eta": eta,
            "seed": seed,
            "label": label,
            "guidance": guidance,
            "interval": interval,
            "weights": model.weights,
            "average": average,
            "first": first,
            "precision": precision,
        },
        "softmix": model.facts.version,
    }
    if dry_run:
        print(json.dumps(recipe, indent=2))
        return
    device = find_device()
    model.denoiser.to(device)
    with interrupted(f"stopped; {out} was not written"):
        x = finite(drawn(denoiser, chosen, n, steps, seed, labels, first, precision, device), out)
        write(x.cpu(), out, recipe, labels)
    print(f"wrote {out}")


def _check_no(run: Path, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} {value} was asked for; {run} is a folder of diffusers, and has no such thing")


def _labels(model: Model, label: int | None, n: int, first: int) -> Tensor | None:
    """[n]: one class for all, or all classes in turn by the number of the image."""
    import torch

    if not model.denoiser.classes:
        return None
    return torch.full((n,), label) if label is not None else (torch.arange(n) + first) % model.denoiser.classes


def _guided(
    model: Model, denoiser: Any, guidance: float, interval: Interval | None, sampler: Sampler, steps: int
) -> Any:
    from ..denoiser import guided, within

    if guidance == 1:
        return denoiser
    if not model.denoiser.classes:
        raise UsageError(
            f"--guidance needs a model that was trained with classes (softmix train ... --classes), which {model.path} "
            "was not"
        )
    if interval is None:
        return guided(guidance)(denoiser)
    require_guided(interval, sampler, model.process, model.facts.shape, steps)
    return within(*interval, guided(guidance))(denoiser)
