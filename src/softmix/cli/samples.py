"""Samples: drawn with a progress bar, and written to a grid, an array, or a folder of single pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .common import UsageError, require_memory
from .outputs import OutputError, atomic_file, atomic_folder, require_writable_file, require_writable_folder

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampler import Sampler
    from .sample import Sample

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ARRAYS = (".npy", ".npz")
TEXTS = (".txt",)
_OTHER_PICTURES = (".gif", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
_NUMBERED = re.compile(r"(\d{6,})\.png")


def require_place(out: Path, n: int, first: int) -> None:
    """Raise UsageError unless n samples from number `first` on can be written to `out`."""
    if out.suffix.lower() in PICTURES + ARRAYS + TEXTS:
        require_writable_file(out)
    elif out.suffix and not out.is_dir():
        raise UsageError(f"--out {out} was asked for; write to a {', '.join(PICTURES + ARRAYS + TEXTS)}, or a folder")
    else:
        require_writable_folder(out)
        _require_free_numbers(out, n, first)


def _require_free_numbers(out: Path, n: int, first: int) -> None:
    """Raise UsageError for a folder with these numbers, or with foreign pictures, which would count as samples."""
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    pictures = [name for name in names if Path(name).suffix.lower() in PICTURES + _OTHER_PICTURES]
    foreign = [name for name in pictures if not _NUMBERED.fullmatch(name)]
    if foreign:
        raise UsageError(f"{out} holds other pictures ({foreign[0]}): name another folder")
    numbers = [int(_NUMBERED.sub(r"\1", name)) for name in pictures]
    taken = [k for k in numbers if first <= k < first + n]
    if taken:
        raise UsageError(
            f"{out} holds {len(numbers)} pictures, {min(taken):06d}.png among them: "
            f"--first {max(numbers) + 1} numbers on from there, or name another folder"
        )


def require_form(out: Path, n: int, shape: tuple[int, ...], is_text: bool = False) -> None:
    """Raise UsageError unless n samples of this shape fit in memory and in the format of `out`."""
    from math import prod

    from ..picture import LARGEST, sheet_size

    # Twice: the float32 output of the sampler, and the array that is written.
    require_memory(f"{n:,} samples of shape {list(shape)}", 2 * 4 * n * prod(shape))
    suffix = out.suffix.lower()
    if is_text:
        if suffix not in ARRAYS + TEXTS:
            raise UsageError(
                f"this model makes text: give a name that ends in .txt, or in .npy for its tokens; not {out}"
            )
    elif suffix in TEXTS:
        raise UsageError(f"this model makes no text, which {out} is for: give another ending")
    elif len(shape) != 3:
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


def draw(asked: Sample, denoiser: Any, sampler: Sampler, cond: Any, device: Any) -> Tensor:
    """The samples, with a bar that counts evaluations."""
    from ..sampler import sample

    return _with_bar(sample, asked, denoiser, sampler, device, cond=cond)


def draw_joint(asked: Sample, denoiser: Any, sampler: Sampler, device: Any) -> tuple[Tensor, Tensor | None]:
    """The samples of a model of several modalities, and their first label if it draws labels."""
    from ..denoiser import modalities_of
    from ..sampler import sample_modalities

    parts = _with_bar(sample_modalities, asked, denoiser, sampler, device)
    labels = modalities_of(denoiser, "sample").spec.labels
    return parts["x"], parts[labels[0][0]].cpu() if labels else None


def _with_bar(
    how: Callable[..., Any], asked: Sample, denoiser: Any, sampler: Sampler, device: Any, **settings: Any
) -> Any:
    from tqdm import tqdm

    from ..sampler import batch_for, traits

    batch = batch_for(device, denoiser.shape)
    total = traits(sampler).evaluations(asked.steps) * -(-asked.n // batch)
    with tqdm(total=total, unit="evaluation", disable=None) as bar:
        return how(
            denoiser,
            asked.n,
            asked.steps,
            sampler=sampler,
            seed=asked.seed,
            first=asked.first,
            batch=batch,
            device=device,
            precision=asked.precision,
            look=lambda step: bar.update(1) and None,
            **settings,
        )


def require_finite(x: Tensor, out: Path) -> Tensor:
    """The samples. Raises OutputError if some are not finite, because a picture would show them as black."""
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise OutputError(
            f"{bad} of {len(x)} samples are not finite numbers, and {out} was not written: take --precision fp32, "
            "another sampler, more steps, or less guidance"
        )
    return x


def write(x: Tensor, out: Path, recipe: Mapping[str, Any], labels: Tensor | None) -> None:
    """Write samples [n, *shape] in [-1, 1] to a grid, an array or single files, whole or not at all.

    The recipe in a single file is that of a run of one image. An .npz has the keys that guided-diffusion's evaluator
    reads: arr_0, images [n, H, W, C] in uint8, or points as they are; arr_1, the class of each image, for a model with
    classes.
    """
    suffix = out.suffix.lower()
    if suffix in PICTURES:
        _write_grid(x, out, recipe)
    elif suffix in ARRAYS:
        _write_array(x, out, labels)
    else:
        _write_singles(x, out, recipe)


def write_text(texts: list[str], out: Path) -> None:
    """Write texts to a file, each after a line with its number."""
    with atomic_file(out) as part:
        part.write_text("".join(f"--- {k}\n{text}\n" for k, text in enumerate(texts)), encoding="utf-8")


def _write_grid(x: Tensor, out: Path, recipe: Mapping[str, Any]) -> None:
    from ..data import to_uint8
    from ..picture import enlarge, save_picture, tile, to_image

    with atomic_file(out) as part:
        save_picture(part, enlarge(to_image(tile(to_uint8(x)))), {**recipe, "form": "grid"})


def _write_array(x: Tensor, out: Path, labels: Tensor | None) -> None:
    from ..data import to_uint8

    array = to_uint8(x).permute(0, 2, 3, 1).numpy() if x.dim() == 4 else x.numpy()
    save_array(out, array, None if labels is None else labels.numpy())


def save_array(out: Path, array: Any, labels: Any = None) -> None:
    """Write an .npy, which drops the channel of grey images, or an .npz, which has it."""
    import numpy as np

    with atomic_file(out) as part, part.open("wb") as file:
        if out.suffix.lower() == ".npz":
            np.savez(file, array, *([] if labels is None else [labels]))
        else:
            grey = array.ndim == 4 and array.shape[-1] == 1
            np.save(_Stream(file), array[..., 0] if grey else array, allow_pickle=False)


class _Stream:
    """A file that numpy does not recognise as one: its own way to write to a file hides the reason of an error."""

    def __init__(self, file: IO[bytes]):
        self.write = file.write


def _write_singles(x: Tensor, out: Path, recipe: Mapping[str, Any]) -> None:
    from ..data import to_uint8
    from ..picture import save_png, to_image

    arguments = recipe["arguments"]
    with atomic_folder(out) as part:
        for k, item in enumerate(to_uint8(x)):
            own = arguments | {"n": 1, "first": k + arguments["first"]}
            name = f"{own['first']:06d}.png"
            save_png(part / name, to_image(item), {**recipe, "form": "single", "arguments": own})
