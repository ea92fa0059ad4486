"""The command line: `softmix edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tyro.conf import Positional, arg

from .common import MOST_STEPS, UsageError, class_of, interrupted, real, whole
from .outputs import OutputError, aside, file_to_write
from .samples import save_array

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

    from ..train import Model

GAP = 2
# without loss, since `softmix repeat` begins with what the picture shows
FORMS = (".png", ".webp", ".npy", ".npz")


def edit(
    run: Positional[Path],
    image: Positional[Path],
    /,
    out: Path,
    shift: tuple[int, int] | None = None,
    colour: tuple[float, ...] | None = None,
    where: tuple[int, int, int, int] | None = None,
    to_class: Annotated[str | int | None, arg(metavar="NAME")] = None,
    from_class: Annotated[str | int | None, arg(metavar="NAME")] = None,
    other: Path | None = None,
    strength: float | None = None,
    steps: int = 100,
    code: Literal["edit-friendly", "dpm-encoder"] = "edit-friendly",
    guidance: float = 1.0,
    seed: int = 0,
    weights: str | None = None,
) -> None:
    """Edit an image by the noise that a model would have made it from. Writes the image, what the model makes of the
    noise unchanged, and the edit, side by side; or the edit alone, if `out` is an array.

    Args:
        run: a run folder, or a model that comes with softmix: fashion.
        image: a picture; it is brought to the model's size and number of channels.
        out: a .png or .webp (before, again, after), or a .npy or .npz (uint8, the edit alone; key arr_0).
        shift: move it by so many pixels to the right and down; what comes in is made up.
        colour: paint in this colour, one number for each channel, from 0 to 1; --where says where.
        where: left, top, width and height of what is painted; by default everything.
        to_class: make it one of this class, by name or number, with a model that was trained with classes.
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
    whole(1, MOST_STEPS, steps=steps)
    real(0, 1, strength=strength)
    real(guidance=guidance)
    if sum(asked is not None for asked in (shift, colour, to_class, other)) != 1:
        raise UsageError("one edit at a time: give --shift, --colour, --to-class or --other")
    if shift == (0, 0):
        raise UsageError("--shift 0 0 was asked for, which moves nothing")
    if guidance != 1 and to_class is None:
        raise UsageError("--guidance leads to a class: give it with --to-class")
    if where is not None and (colour is None or min(where) < 0):
        raise UsageError(f"--where {_words(where)} was asked for; it goes with --colour, from 0 on")
    if out.suffix.lower() not in FORMS:
        raise UsageError(f"--out {out} was asked for; give a {', a '.join(FORMS)}")
    file_to_write(out)

    import torch
    from tqdm import tqdm

    from ..denoiser import guided
    from ..process import uniform_logsnr
    from ..rng import Rng
    from ..sampler import ColourEdit, dpm_encoder, drive, edit_friendly, replay
    from ..sampler.drive import finish
    from ..train import load

    share = strength if strength is not None else (1.0 if shift or colour else 0.64)
    model = load(run, weights)
    x0 = _picture(image, model)
    if shift is not None:
        _check_shift(shift, model.facts.shape)
    from_class, to_class = class_of(model, from_class, "from_class"), class_of(model, to_class, "to_class")
    told = _label(model, from_class)
    wanted = _label(model, to_class) if to_class is not None else told
    second: Any = _second(model, other) if other is not None else model.denoiser
    encoder: Any = edit_friendly if code == "edit-friendly" else dpm_encoder
    grid, rng = uniform_logsnr(model.process, steps), Rng(seed, 1, "edit")
    skip = min(round((1 - share) * steps), steps - 1)
    # what can be wrong with a colour is said before the work begins
    colour_edit = _tint(colour, where, model.facts.shape, steps) if colour is not None else None
    bar = tqdm(total=steps + 2 * (steps - skip), unit="evaluation", disable=None)
    with interrupted(f"stopped; {out} was not written"), bar:

        def run_of(denoiser: Any, sampler: Any, x: Tensor, times: Tensor, cond: Tensor | None) -> Any:
            return finish(drive(denoiser, sampler, x, times, rng, cond), look=lambda step: bar.update(1) and None)

        def played(used: Any, denoiser: Any, cond: Tensor | None, colour_edit: ColourEdit | None = None) -> Tensor:
            return cast(
                "Tensor", run_of(denoiser, replay(used, skip, colour_edit), used.start(skip), grid[skip:], cond)
            )

        found = run_of(model.denoiser, encoder, x0, grid, told)
        again = played(found, model.denoiser, told)
        if shift is not None:
            after = played(found.shifted(shift[1], shift[0], fill=rng.child("fill")), model.denoiser, told)
        else:
            after = played(found, guided(guidance)(second) if guidance != 1 else second, wanted, colour_edit)
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
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from ..data.picture import Unusable, decode
    from ..picture import to_image

    shape = model.facts.shape
    if len(shape) != 3:
        raise UsageError("points are not edited: the model must be one of images")
    channels, height, width = shape
    if not path.is_file():
        found = "it is a folder: name one picture" if path.is_dir() else "there is no such file"
        raise UsageError(f"{path} cannot be read: {found}")
    try:
        with path.open("rb") as stream:
            pixels, _ = decode(stream, channels, height if height == width else None)
    except (OSError, Unusable) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if pixels.shape != shape:
        # the middle of the picture, as `size` takes it of data that are square
        image = ImageOps.fit(to_image(torch.tensor(pixels)), (width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
    return torch.tensor(pixels)[None].float() / 127.5 - 1


def _label(model: Model, label: int | None) -> Tensor | None:
    """[1]: the class, -1 for none that is told; None for a model that knows none."""
    import torch

    if not model.denoiser.classes:
        return None
    return torch.full((1,), -1 if label is None else label)


def _check_shift(shift: tuple[int, int], shape: tuple[int, ...]) -> None:
    height, width = shape[1:]
    if abs(shift[0]) >= width or abs(shift[1]) >= height:
        raise UsageError(
            f"--shift {_words(shift)} was asked for, which leaves nothing of an image of {width} x {height}"
        )


def _words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


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

    from ..sampler import ColourEdit

    channels, height, width = shape
    if len(colour) != channels or not all(0 <= part <= 1 for part in colour):
        raise UsageError(f"--colour takes {channels} number{'s' * (channels > 1)} from 0 to 1; found {colour}")
    left, top, wide, high = where or (0, 0, width, height)
    if left >= width or top >= height or not wide or not high:
        raise UsageError(f"--where {left} {top} {wide} {high} is outside of an image of {width} x {height}")
    mask = torch.zeros(1, height, width)
    mask[:, top : min(top + high, height), left : min(left + wide, width)] = 1
    # n steps have fresh noise of about n^-1/2 each, which a tint is multiplied by
    return ColourEdit(torch.tensor(colour).reshape(-1, 1, 1), mask, strength=20 / steps**0.5)


def _write(out: Path, x: Tensor, recipe: dict[str, Any]) -> None:
    from ..data import to_uint8
    from ..picture import enlarge, save_picture, tile, to_image

    bad = int((~x.isfinite()).sum())
    if bad:
        raise OutputError(
            f"{bad} values of the edit are not finite numbers, and {out} was not written: take more steps"
        )
    pixels = to_uint8(x)
    if out.suffix.lower() == ".npz":
        save_array(out, pixels[-1:].permute(0, 2, 3, 1).numpy())
    elif out.suffix.lower() == ".npy":
        save_array(out, pixels[-1].permute(1, 2, 0).squeeze(-1).numpy())
    else:
        with aside(out) as part:
            save_picture(part, enlarge(to_image(tile(pixels, columns=len(pixels), gap=GAP))), recipe)


def before(picture: Path, shape: tuple[int, ...]) -> PILImage:
    """The image that an edit's picture was made from: its first panel, at the model's size."""
    from PIL import Image

    with Image.open(picture) as sheet:
        factor = sheet.height // (shape[1] + 2 * GAP)
        top = left = factor * GAP
        panel = sheet.crop((left, top, left + factor * shape[2], top + factor * shape[1]))
        return panel.resize((shape[2], shape[1]), Image.Resampling.NEAREST)
