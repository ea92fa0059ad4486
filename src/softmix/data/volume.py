"""One volume of the user's own, from a .npy array or a NIfTI file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .limits import require_memory
from .npy import mapped
from .report import DataError, printable

_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as an item.

    values : float32 [C, D, H, W]; -1 is `low` and 1 is `high`.
    low, high : the numbers of the file at -1 and 1.
    spacing : (dz, dy, dx), the size of a voxel in the unit of the file; None if the file does not say it.
    """

    values: Tensor
    low: float
    high: float
    spacing: tuple[float, float, float] | None = None

    def back(self, x: Tensor) -> Tensor:
        """The numbers of the file for values such as a restored volume."""
        return self.low + (x + 1) / 2 * (self.high - self.low)


def load_volume(path: str | Path, low: float | None = None, high: float | None = None) -> Volume:
    """Read one volume.

    path : a .npy array [D, H, W] or [C, D, H, W]; or a NIfTI file, .nii or .nii.gz, with axes (x, y, z) or (x, y, z,
        channel). The third axis of a NIfTI file, mostly from feet to head, becomes D, and its scaling is applied.
    low, high : the numbers at -1 and 1; by default the smallest and the largest of the file. Give those of the training
        data, so that a model sees the values that it knows. Numbers beyond them stay beyond.

    `load` reads a data set of volumes [N, C, D, H, W]. NIfTI files need nibabel: pip install 'softmix[nifti]'.
    Raises DataError for a file that is missing, damaged or of another kind, for other axes, for numbers that are not
    finite, and for a range without width.
    When to choose: to restore a volume by `softmix.measure.mbir`.
    """
    path = Path(path)
    name = printable(str(path))
    if not path.is_file():
        raise DataError(f"{name} was asked for, and there is no such file")
    if path.name.lower().endswith(_NIFTI):
        array, spacing = _nifti(path)
    elif path.suffix.lower() == ".npy":
        array, spacing = mapped(path), None
    else:
        raise DataError(f"{name} is no .npy, .nii or .nii.gz file; save the volume as one of these")
    if array.ndim not in (3, 4) or array.size == 0 or array.dtype.kind not in "buif":
        raise DataError(
            f"{name} holds {array.dtype} {list(array.shape)}; a volume has real numbers with three axes, or four with "
            "channels. A data set of volumes is read by `load`"
        )
    require_memory(name, 8 * array.size)
    values = np.asarray(array, dtype=np.float32).reshape((1,) * (4 - array.ndim) + array.shape)
    if not np.isfinite(values).all():
        raise DataError(f"{name} holds {int((~np.isfinite(values)).sum())} numbers that are not finite; replace them")
    first = float(values.min()) if low is None else low
    last = float(values.max()) if high is None else high
    if not (first < last and math.isfinite(last - first)):
        raise DataError(f"{name}: the range {first:g} to {last:g} has no width; give low and high")
    scaled = torch.from_numpy(2 * (values - np.float32(first)) / np.float32(last - first) - 1)
    return Volume(scaled, first, last, spacing)


def _nifti(path: Path) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """The array in the order [D, H, W] or [C, D, H, W], and the spacing (dz, dy, dx)."""
    name = printable(str(path))
    try:
        import nibabel
    except ImportError:
        raise DataError(
            f"{name} is a NIfTI file, and nibabel, which reads them, is not installed: pip install 'softmix[nifti]'"
        ) from None
    try:
        # the type of the library is too wide: an image has a shape
        image: Any = nibabel.load(path)  # type: ignore[attr-defined, unused-ignore]
        # the header comes first: a small compressed file may promise any size
        require_memory(name, 12 * math.prod(int(n) for n in image.shape))
        array = np.asarray(image.dataobj, dtype=np.float32)
        sizes = [float(size) for size in image.header.get_zooms()[:3]]
    except DataError:
        raise
    # nibabel may raise nearly any error on a damaged file
    except Exception as error:
        raise DataError(f"{name} cannot be read as a NIfTI file ({error}); save it again") from error
    return array.T, (sizes[-1], *sizes[-2::-1]) if len(sizes) == 3 else (1.0, 1.0, 1.0)  # type: ignore[return-value]
