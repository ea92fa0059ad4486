"""Linear operators with a closed form: elements, matrices, matrices of each axis, colours, circular convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import without_autocast
from ..rng import Rng
from ..shape import fits
from .operator import DecomposedOperator


class Mask(DecomposedOperator):
    """y = P x0: the elements that are seen, and 0 for the others.

    seen : booleans, or 0 and 1: one mask for all items, of the rank of an item and broadcastable to it, such as
        [1, H, W]; or a mask for each item, [B, ...].
    shape : of an item.

    The decomposition is P itself. Raises ValueError for a mask that does not fit, or with other values.
    """

    def __init__(self, seen: Tensor, shape: Sequence[int]):
        self.shape = self.measured = tuple(shape)
        self._seen, self.items = checked_mask(seen, self.shape)

    @property
    def seen(self) -> Tensor:
        return self._seen

    @property
    def singular(self) -> Tensor:
        return self._seen

    def into(self, x: Tensor) -> Tensor:
        return x

    def back(self, c: Tensor) -> Tensor:
        return c

    def into_measured(self, y: Tensor) -> Tensor:
        return y

    def back_measured(self, c: Tensor) -> Tensor:
        return c


class MatrixOperator(DecomposedOperator):
    """y = M x0, for the flattened elements of x0: compressed sensing, and any small operator.

    matrix : M [K, D], for D elements of an item. `gaussian_matrix` makes one for compressed sensing.
    shape : of an item.

    The decomposition is computed once, in float64. Raises ValueError for another shape of M.
    """

    def __init__(self, matrix: Tensor, shape: Sequence[int]):
        self.shape = tuple(shape)
        size = math.prod(self.shape)
        if matrix.ndim != 2 or matrix.shape[1] != size:
            raise ValueError(f"for items {list(shape)} a matrix [K, {size}] was expected, found {list(matrix.shape)}")
        self.measured = (len(matrix),)
        self._left, self._singular, self._right = _decomposed(matrix)

    @property
    def singular(self) -> Tensor:
        return self._singular

    def into(self, x: Tensor) -> Tensor:
        return along(1, self.constant("_right", x).mT, x.flatten(1))

    def back(self, c: Tensor) -> Tensor:
        return along(1, self.constant("_right", c), c).reshape(-1, *self.shape)

    def into_measured(self, y: Tensor) -> Tensor:
        return _to_size(along(1, self.constant("_left", y).mT, y), 1, len(self._right))

    def back_measured(self, c: Tensor) -> Tensor:
        return along(1, self.constant("_left", c), _to_size(c, 1, self._left.shape[1]))


class Separable(DecomposedOperator):
    """y = R x0 C^T for each channel: blurs, changes of size and crops of images, with any rule at the border.

    rows : R [H', H].
    columns : C [W', W].
    channels : of an item [channels, H, W].

    `blur`, `smaller` and `crop` make it. The decomposition is that of the two matrices, so that it is exact and fast
    for large images. Raises ValueError for something other than two matrices.
    """

    def __init__(self, rows: Tensor, columns: Tensor, channels: int = 1):
        if rows.ndim != 2 or columns.ndim != 2:
            raise ValueError(f"two matrices were expected, and found {list(rows.shape)} and {list(columns.shape)}")
        self.shape, self.measured = (channels, rows.shape[1], columns.shape[1]), (channels, len(rows), len(columns))
        self._row_left, self._row_s, self._row_right = _decomposed(rows)
        self._column_left, self._column_s, self._column_right = _decomposed(columns)

    @property
    def singular(self) -> Tensor:
        return self._row_s[:, None] * self._column_s

    def into(self, x: Tensor) -> Tensor:
        turned = along(3, self.constant("_column_right", x).mT, x)
        return along(2, self.constant("_row_right", x).mT, turned)

    def back(self, c: Tensor) -> Tensor:
        return along(2, self.constant("_row_right", c), along(3, self.constant("_column_right", c), c))

    def into_measured(self, y: Tensor) -> Tensor:
        turned = along(3, self.constant("_column_left", y).mT, y)
        c = along(2, self.constant("_row_left", y).mT, turned)
        return _to_size(_to_size(c, 2, self.shape[1]), 3, self.shape[2])

    def back_measured(self, c: Tensor) -> Tensor:
        kept = _to_size(_to_size(c, 2, self._row_left.shape[1]), 3, self._column_left.shape[1])
        return along(2, self.constant("_row_left", c), along(3, self.constant("_column_left", c), kept))


class Channels(DecomposedOperator):
    """y = M x0 at each pixel: a change of colour, such as `grey`.

    matrix : M [C', C].
    size : (H, W) of an item [C, H, W].

    Raises ValueError for something other than a matrix.
    """

    def __init__(self, matrix: Tensor, size: tuple[int, int]):
        if matrix.ndim != 2:
            raise ValueError(f"a matrix [C', C] was expected, and found {list(matrix.shape)}")
        self.shape, self.measured = (matrix.shape[1], *size), (len(matrix), *size)
        self._left, self._singular, self._right = _decomposed(matrix)

    @property
    def singular(self) -> Tensor:
        return self._singular[:, None, None]

    def into(self, x: Tensor) -> Tensor:
        return along(1, self.constant("_right", x).mT, x)

    def back(self, c: Tensor) -> Tensor:
        return along(1, self.constant("_right", c), c)

    def into_measured(self, y: Tensor) -> Tensor:
        return _to_size(along(1, self.constant("_left", y).mT, y), 1, self.shape[0])

    def back_measured(self, c: Tensor) -> Tensor:
        return along(1, self.constant("_left", c), _to_size(c, 1, self._left.shape[1]))


class Convolution(DecomposedOperator):
    """y = k * x0 for each channel, on a torus: the image continues at the opposite border.

    kernel : k [h, w], at most as large as the image; its middle, [h // 2, w // 2], stays in place.
    shape : (C, H, W) of an item.

    For a blur with another rule at the border, and a Gaussian one, choose `blur`. Choose this for motion blur. Raises
    ValueError for a kernel that is larger than the image.
    """

    def __init__(self, kernel: Tensor, shape: Sequence[int]):
        self.shape = self.measured = image_shape(shape)
        _, height, width = self.shape
        if kernel.ndim != 2 or kernel.shape[0] > height or kernel.shape[1] > width:
            raise ValueError(f"a kernel of at most {height} x {width} was expected, and found {list(kernel.shape)}")
        whole = kernel.new_zeros(height, width, dtype=torch.float64)
        whole[: kernel.shape[0], : kernel.shape[1]] = kernel.double()
        middle = (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2))
        transfer = torch.fft.fft2(whole.roll(middle, (0, 1)))
        self._singular = transfer.abs()
        # the phase of a frequency that is lost does not matter
        self._phase = torch.where(self._singular > 0, transfer / self._singular.clamp(min=1e-300), 1)

    @property
    def singular(self) -> Tensor:
        return self._singular

    def into(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x, norm="ortho")

    def back(self, c: Tensor) -> Tensor:
        return torch.fft.ifft2(c, norm="ortho").real

    def into_measured(self, y: Tensor) -> Tensor:
        c = self.into(y)
        return c * self.constant("_phase", c).conj()

    def back_measured(self, c: Tensor) -> Tensor:
        return self.back(c * self.constant("_phase", c))


def gaussian_matrix(count: int, shape: Sequence[int], seed: int) -> MatrixOperator:
    """Compressed sensing: `count` measurements with weights N(0, 1 / count), the same for all items of a seed."""
    size = math.prod(shape)
    return MatrixOperator(Rng(seed, count, "sensing matrix").normal((count, size), torch.float64) / count**0.5, shape)


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape (C, H, W) of an image. Raises ValueError for another rank."""
    if len(shape) != 3:
        raise ValueError(f"the shape (C, H, W) of an image was expected, and found {list(shape)}")
    channels, height, width = shape
    return channels, height, width


def checked_mask(seen: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, int | None]:
    """A mask as numbers [1 or B, ...], and the number of items B of a mask for each item, else None.

    Raises ValueError for a mask that does not fit items of this shape, or with other values than 0 and 1.
    """
    each = seen.ndim == len(shape) + 1
    mask = seen if each else seen[None]
    if not fits(mask, torch.empty(len(mask), *shape, device="meta")):
        raise ValueError(f"for items {list(shape)} a mask of that rank was expected, and found {list(seen.shape)}")
    if mask.device.type == "cpu" and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("a mask holds 0 and 1, and this one has other values: weigh elements with a matrix")
    return mask.to(torch.get_default_dtype()), len(mask) if each and len(mask) > 1 else None


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [K, r], s [D] and V [D, D] of a matrix [K, D], float64; r is the smaller of K and D, and s is 0 beyond it."""
    left, s, right = torch.linalg.svd(matrix.double(), full_matrices=True)
    rank = len(s)
    whole = s.new_zeros(matrix.shape[1])
    whole[:rank] = s
    return left[:, :rank], whole, right.mT


def _to_size(c: Tensor, axis: int, size: int) -> Tensor:
    """An axis cut, or filled with zeros, to a size."""
    have = c.shape[axis]
    if have >= size:
        return c.narrow(axis, 0, size)
    more = list(c.shape)
    more[axis] = size - have
    return torch.cat([c, c.new_zeros(more)], axis)


def along(axis: int, matrix: Tensor, x: Tensor) -> Tensor:
    """The product of a matrix, in the dtype of x, with an axis of x; autocast does not round it."""
    with without_autocast(x.device):
        return (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
