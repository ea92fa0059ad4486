"""The command line: `softmix sample`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from .common import UsageError, positive, prepared

if TYPE_CHECKING:
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
    label: int | None = None,
    guidance: float = 1.0,
    interval: tuple[float, float] | None = None,
    weights: str | None = None,
    average: int = 0,
    first: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    dry_run: bool = False,
) -> None:
    """Draw images from a trained model.

    Args:
        run: a run folder, or a model that comes with softmix: fashion.
        out: a .png (a grid), a .npy (uint8 images, or float points), or a folder (single PNGs).
        n: how many.
        steps: of the sampler, at least 1; an evaluation of the network each, but for the few that ask more often.
        sampler: a name from docs/choose-a-sampler.md: adams, ancestral, ddim, unipc, evodiff, dpm-solver-v3 ...; by
            default the one that suits the model: soft-adams for one that draws at high noise, ancestral for others
            that draw, adams for one that knows the mean only.
        eta: fresh noise of ancestral and ddim, from 0 to 1; 0 by default for ddim and for soft mixtures, else 1.
        seed: image k depends on the seed and k alone.
        label: a class, for a model trained with classes.
        guidance: classifier-free guidance; 1 is none.
        interval: guide only between these logsnr.
        weights: model, or an average such as ema-0.100.
        average: take the mean of this many draws, for samplers that need a mean.
        first: number of the first image: --first 10 --n 1 is the eleventh image of a longer run.
        precision: of the network. bf16 is several times as fast where the machine has it, and rounds more coarsely.
        dry_run: say what would be done.
    """
    from tqdm import tqdm

    from ..sampler import label as label_of
    from ..sampler import sample as draw
    from ..sampler import traits
    from ..train import find_device

    model, denoiser, chosen = prepared(run, sampler, eta, weights, average)
    positive(n=n, steps=steps)
    labels = _labels(model, label, n, first)
    denoiser = _guided(denoiser, guidance, interval, labels is not None)
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
    with tqdm(total=traits(chosen).evaluations(steps) * -(-n // 256), unit="evaluation", disable=None) as bar:
        x = draw(
            denoiser,
            n,
            steps,
            sampler=chosen,
            seed=seed,
            cond=labels,
            first=first,
            device=device,
            precision=precision,
            look=lambda step: bar.update(1) and None,
        )
    _write(x.cpu(), out, recipe, image=len(model.facts.shape) == 3)


def _labels(model: Model, label: int | None, n: int, first: int) -> Any:
    import torch

    classes = model.denoiser.classes
    if label is not None and not 0 <= label < classes:
        known = (
            f"0 to {classes - 1} ({', '.join(model.facts.class_names)})" if classes else "none: it was trained without"
        )
        raise UsageError(f"--label {label} was asked for; the classes of this model are {known}")
    if not classes:
        return None
    return torch.full((n,), label) if label is not None else torch.arange(first, first + n) % classes


def _guided(denoiser: Any, guidance: float, interval: tuple[float, float] | None, told: bool) -> Any:
    from ..denoiser import guided, within

    if guidance == 1.0:
        return denoiser
    if not told:
        raise UsageError("--guidance needs a model that was trained with classes (--set classes=true)")
    wrap = guided(guidance)
    return (within(*interval, wrap) if interval else wrap)(denoiser)


def _write(x: Any, out: Path, recipe: dict[str, Any], image: bool) -> None:
    """Samples to a grid, an array or single files. A single file's recipe is that of a run of one."""
    import numpy as np

    from ..data import to_uint8
    from ..picture import enlarge, save_png, tile, to_image

    arguments = recipe["arguments"]
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        array = to_uint8(x).permute(0, 2, 3, 1).numpy() if image else x.numpy()
        np.save(out, array[..., 0] if image and array.shape[-1] == 1 else array, allow_pickle=False)
    elif not image:
        raise UsageError(f"this model makes points, which cannot be written to {out}: give a name that ends in .npy")
    elif out.suffix == ".png":
        save_png(out, enlarge(to_image(tile(to_uint8(x)))), recipe | {"form": "grid"})
    elif out.suffix:
        raise UsageError(f"{out} was asked for; write to a .png, a .npy, or a folder")
    else:
        for k, item in enumerate(to_uint8(x)):
            own = arguments | {"n": 1, "first": k + arguments["first"]}
            save_png(out / f"{own['first']:06d}.png", to_image(item), recipe | {"form": "single", "arguments": own})
    print(f"wrote {out}")
