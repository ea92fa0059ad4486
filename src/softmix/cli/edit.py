"""The command line: `softmix edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tyro.conf import Positional

from .common import UsageError, positive

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

    from ..train import Model

GAP = 2


def edit(
    run: Positional[Path],
    image: Positional[Path],
    /,
    out: Path,
    shift: tuple[int, int] | None = None,
    colour: tuple[float, ...] | None = None,
    where: tuple[int, int, int, int] | None = None,
    to_class: int | None = None,
    from_class: int | None = None,
    other: Path | None = None,
    strength: float | None = None,
    steps: int = 100,
    code: Literal["edit-friendly", "dpm-encoder"] = "edit-friendly",
    guidance: float = 1.0,
    seed: int = 0,
    weights: str | None = None,
) -> None:
    """Edit an image by the noise that a model would have made it from. Writes the image, what the model makes of the
    noise unchanged, and the edit, side by side; or the edit alone, if `out` is an .npy.

    Args:
        run: a run folder, or a model that comes with softmix: fashion.
        image: a picture; it is brought to the model's size and number of channels.
        out: a .png (before, again, after), or a .npy (uint8, the edit alone).
        shift: move it by so many pixels to the right and down; what comes in is made up.
        colour: paint in this colour, one number for each channel, from 0 to 1; --where says where.
        where: left, top, width and height of what is painted; by default everything.
        to_class: make it one of this class, with a model that was trained with classes.
        from_class: what it is of; by default what is not told.
        other: make it what this other model, of the same size, makes of the noise (CycleDiffusion).
        strength: share of the steps that are taken again, from 0 (the image) to 1; by default 1 for shift and colour
            and 0.64 for classes and other models.
        steps: of the sampler, three evaluations each.
        code: how the noise is found: edit-friendly keeps the image's shape through strong edits, dpm-encoder
            is noise as a sampler draws it.
        guidance: classifier-free guidance of the edit; 1 is none.
        seed: of the noise.
        weights: model, or an average such as ema-0.100.
    """
    import torch
    from tqdm import tqdm

    from ..denoiser import guided
    from ..process import uniform_logsnr
    from ..rng import Rng
    from ..sampler import Tint, dpm_encoder, drive, edit_friendly, replay
    from ..sampler.drive import finish
    from ..train import load

    positive(steps=steps)
    if sum(asked is not None for asked in (shift, colour, to_class, other)) != 1:
        raise UsageError("one edit at a time: give --shift, --colour, --to-class or --other")
    if out.suffix not in (".png", ".npy"):
        raise UsageError(f"{out} was asked for; give a .png or a .npy")
    if guidance != 1 and to_class is None:
        raise UsageError("--guidance leads to a class: give it with --to-class")
    if where is not None and (colour is None or min(where) < 0):
        raise UsageError(f"--where {where} was asked for; it goes with --colour, from 0 on")
    share = strength if strength is not None else (1.0 if shift or colour else 0.64)
    if not 0 <= share <= 1:
        raise UsageError(f"--strength {share} was asked for; it runs from 0 to 1")
    model = load(run, weights)
    x0 = _picture(image, model)
    told = _label(model, from_class, "--from-class")
    wanted = _label(model, to_class, "--to-class") if to_class is not None else told
    second: Any = _second(model, other) if other is not None else model.denoiser
    encoder: Any = edit_friendly if code == "edit-friendly" else dpm_encoder
    grid, rng = uniform_logsnr(model.process, steps), Rng(seed, 1, "edit")
    skip = min(round((1 - share) * steps), steps - 1)
    # what can be wrong with a colour is said before the work begins
    tint = _tint(colour, where, model.facts.shape, steps) if colour is not None else None
    with tqdm(total=steps + 2 * (steps - skip), unit="evaluation", disable=None) as bar:

        def run_of(denoiser: Any, sampler: Any, x: Tensor, times: Tensor, cond: Tensor | None) -> Any:
            return finish(drive(denoiser, sampler, x, times, rng, cond), look=lambda step: bar.update(1) and None)

        def played(used: Any, denoiser: Any, cond: Tensor | None, tint: Tint | None = None) -> Tensor:
            return cast("Tensor", run_of(denoiser, replay(used, skip, tint), used.start(skip), grid[skip:], cond))

        found = run_of(model.denoiser, encoder, x0, grid, told)
        again = played(found, model.denoiser, told)
        if shift is not None:
            after = played(found.shifted(shift[1], shift[0], fill=rng.child("fill")), model.denoiser, told)
        else:
            after = played(found, guided(guidance)(second) if guidance != 1 else second, wanted, tint)
    error = float((again - x0).abs().max())
    kept = {
        "run": model.path.name,
        "weights": model.weights,
        "weights_fingerprint": model.fingerprint,
        "step": model.step,
        "form": "edit",
        "image": image.name,
        "error": error,
        "arguments": {
            "shift": shift,
            "colour": colour,
            "where": where,
            "to_class": to_class,
            "from_class": from_class,
            "other": str(other) if other else None,
            "strength": share,
            "steps": steps,
            "code": code,
            "guidance": guidance,
            "seed": seed,
            "weights": model.weights,
        },
        "softmix": model.facts.version,
    }
    _write(out, torch.cat([x0, again, after.clamp(-1, 1)]), kept)
    print(f"wrote {out}; the noise unchanged gives the image back to {error:.1e} (of a range of 2)")


def _picture(path: Path, model: Model) -> Tensor:
    """[1, C, H, W] in [-1, 1], of the model's size."""
    import torch

    from ..data.picture import Unusable, decode

    shape = model.facts.shape
    if len(shape) != 3:
        raise UsageError("points are not edited: the model must be one of images")
    try:
        with path.open("rb") as stream:
            pixels, _ = decode(stream, shape[0], shape[1])
    except (OSError, Unusable) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    return torch.tensor(pixels)[None].float() / 127.5 - 1


def _label(model: Model, label: int | None, name: str) -> Tensor | None:
    import torch

    classes = model.denoiser.classes
    if label is None:
        return torch.full((1,), -1) if classes else None
    if not 0 <= label < classes:
        known = f"0 to {classes - 1} ({', '.join(model.facts.class_names)})" if classes else "none"
        raise UsageError(f"{name} {label} was asked for; the classes of this model are {known}")
    return torch.full((1,), label)


def _second(model: Model, other: Path) -> Any:
    from ..train import load

    second = load(other)
    if second.facts.shape != model.facts.shape or second.process != model.process:
        found, here = (f"{list(each.facts.shape)} by {each.process}" for each in (second, model))
        raise UsageError(f"{other} makes {found}, and {model.path} {here}: they must be alike")
    return second.denoiser


def _tint(
    colour: tuple[float, ...], where: tuple[int, int, int, int] | None, shape: tuple[int, ...], steps: int
) -> Any:
    import torch

    from ..sampler import Tint

    channels, height, width = shape
    if len(colour) != channels or not all(0 <= part <= 1 for part in colour):
        raise UsageError(f"--colour takes {channels} number{'s' * (channels > 1)} from 0 to 1; found {colour}")
    left, top, wide, high = where or (0, 0, width, height)
    mask = torch.zeros(1, height, width)
    mask[:, top : top + high, left : left + wide] = 1
    if not mask.any():
        raise UsageError(f"--where {where} is outside of an image of {width} x {height}")
    # n steps have fresh noise of about n^-1/2 each, which a tint is multiplied by
    return Tint(torch.tensor(colour).reshape(-1, 1, 1), mask, strength=20 / steps**0.5)


def _write(out: Path, x: Tensor, recipe: dict[str, Any]) -> None:
    import numpy as np

    from ..data import to_uint8
    from ..picture import enlarge, save_png, tile, to_image

    pixels = to_uint8(x)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        np.save(out, pixels[-1].permute(1, 2, 0).squeeze(-1).numpy(), allow_pickle=False)
    else:
        save_png(out, enlarge(to_image(tile(pixels, columns=len(pixels), gap=GAP))), recipe)


def before(picture: Path, shape: tuple[int, ...]) -> PILImage:
    """The image that an edit's picture was made from: its first panel, at the model's size."""
    from PIL import Image

    with Image.open(picture) as sheet:
        factor = sheet.height // (shape[1] + 2 * GAP)
        top = left = factor * GAP
        panel = sheet.crop((left, top, left + factor * shape[2], top + factor * shape[1]))
        return panel.resize((shape[2], shape[1]), Image.Resampling.NEAREST)
