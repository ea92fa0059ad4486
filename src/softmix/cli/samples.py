"""The command line: samples to a grid, an array, or a folder of single pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from .common import UsageError, fits_in_memory
from .outputs import OutputError, aside, file_to_write, folder_aside, folder_to_write

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampler import Sampler

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ARRAYS = (".npy", ".npz")
_OTHERS = (".gif", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
_OURS = re.compile(r"(\d{6,})\.png")


def check_place(out: Path, n: int, first: int) -> None:
    """Raises UsageError unless n samples from number `first` on can be written to `out`."""
    if out.suffix.lower() in PICTURES + ARRAYS:
        file_to_write(out)
    elif out.suffix and not out.is_dir():
        raise UsageError(f"--out {out} was asked for; write to a {', '.join(PICTURES + ARRAYS)}, or a folder")
    else:
        folder_to_write(out)
        _check_folder(out, n, first)


def _check_folder(out: Path, n: int, first: int) -> None:
    """Pictures of several origins in one folder would be measured as one."""
    there = [path.name for path in out.iterdir()] if out.is_dir() else []
    pictures = [name for name in there if Path(name).suffix.lower() in PICTURES + _OTHERS]
    foreign = [name for name in pictures if not _OURS.fullmatch(name)]
    if foreign:
        raise UsageError(f"{out} holds other pictures ({foreign[0]}): name another folder")
    numbers = [int(_OURS.sub(r"\1", name)) for name in pictures]
    taken = [k for k in numbers if first <= k < first + n]
    if taken:
        raise UsageError(
            f"{out} holds {len(numbers)} pictures, {min(taken):06d}.png among them: "
            f"--first {max(numbers) + 1} numbers on from there, or name another folder"
        )


def check_form(out: Path, n: int, shape: tuple[int, ...]) -> None:
    """Raises UsageError unless n samples of this shape can be written in the form that `out` names."""
    from math import prod

    from ..picture import LARGEST, sheet_size

    # twice: what the sampler makes, and what is written
    fits_in_memory(f"{n:,} samples of shape {list(shape)}", 2 * 4 * n * prod(shape))
    suffix = out.suffix.lower()
    if len(shape) != 3:
        if suffix not in ARRAYS:
            raise UsageError(
                f"this model makes points, which cannot be written to {out}: give a name that ends in .npy or .npz"
            )
    elif suffix in PICTURES:
        size = sheet_size(n, *shape[1:])
        if max(size) > LARGEST[suffix]:
            raise UsageError(
                f"a grid of {n:,} is {size[0]:,} x {size[1]:,} pixels, and a {suffix} has at most "
                f"{LARGEST[suffix]:,} on a side: write to a .npz or a folder"
            )


def drawn(
    denoiser: Any,
    sampler: Sampler,
    n: int,
    steps: int,
    seed: int,
    cond: Any,
    first: int,
    precision: Literal["fp32", "bf16"],
    device: Any,
) -> Tensor:
    """n samples, with a bar that counts evaluations."""
    from tqdm import tqdm

    from ..sampler import sample, traits

    total = traits(sampler).evaluations(steps) * -(-n // 256)
    with tqdm(total=total, unit="evaluation", disable=None) as bar:
        return sample(
            denoiser,
            n,
            steps,
            sampler=sampler,
            seed=seed,
            cond=cond,
            first=first,
            device=device,
            precision=precision,
            look=lambda step: bar.update(1) and None,
        )


def finite(x: Tensor, out: Path) -> Tensor:
    """The samples. Raises OutputError if some are not finite, which a picture would show as black."""
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise OutputError(
            f"{bad} of {len(x)} samples are not finite numbers, and {out} was not written: take --precision fp32, "
            "another sampler, more steps, or less guidance"
        )
    return x


def write(x: Tensor, out: Path, recipe: Mapping[str, Any], labels: Tensor | None) -> None:
    """Samples [n, *shape] in [-1, 1] to a grid, an array or single files, whole or not at all.

    A single file's recipe is that of a run of one. An .npz has the keys that guided-diffusion's evaluator reads: arr_0,
    images [n, H, W, C] in uint8, or points as they are; arr_1, the class of each, for a model with classes.
    """
    suffix = out.suffix.lower()
    if suffix in PICTURES:
        _write_grid(x, out, recipe)
    elif suffix in ARRAYS:
        _write_array(x, out, labels)
    else:
        _write_singles(x, out, recipe)


def _write_grid(x: Tensor, out: Path, recipe: Mapping[str, Any]) -> None:
    from ..data import to_uint8
    from ..picture import enlarge, save_picture, tile, to_image

    with aside(out) as part:
        save_picture(part, enlarge(to_image(tile(to_uint8(x)))), {**recipe, "form": "grid"})


def _write_array(x: Tensor, out: Path, labels: Tensor | None) -> None:
    from ..data import to_uint8

    array = to_uint8(x).permute(0, 2, 3, 1).numpy() if x.dim() == 4 else x.numpy()
    save_array(out, array, None if labels is None else labels.numpy())


def save_array(out: Path, array: Any, labels: Any = None) -> None:
    """An .npy, in which grey images lose their channel, or an .npz, in which they keep it."""
    import numpy as np

    with aside(out) as part, part.open("wb") as file:
        if out.suffix.lower() == ".npz":
            np.savez(file, array, *([] if labels is None else [labels]))
        else:
            grey = array.ndim == 4 and array.shape[-1] == 1
            np.save(_Stream(file), array[..., 0] if grey else array, allow_pickle=False)


class _Stream:
    """A file that numpy takes for none: to a file it writes in a way of its own, which does not say what went wrong."""

    def __init__(self, file: IO[bytes]):
        self.write = file.write


def _write_singles(x: Tensor, out: Path, recipe: Mapping[str, Any]) -> None:
    from ..data import to_uint8
    from ..picture import save_png, to_image

    arguments = recipe["arguments"]
    with folder_aside(out) as part:
        for k, item in enumerate(to_uint8(x)):
            own = arguments | {"n": 1, "first": k + arguments["first"]}
            name = f"{own['first']:06d}.png"
            save_png(part / name, to_image(item), {**recipe, "form": "single", "arguments": own})
