"""The operators that every test of conformance runs with, and their dense matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fake_deepinv import Plain
from torch import Tensor

from softmix.measure import (
    Channels,
    Clipping,
    Convolution,
    LinearOperator,
    LowLight,
    Magnitude,
    Mask,
    MaskedFourier,
    MatrixOperator,
    MultiCoilFourier,
    Operator,
    OversampledFourier,
    Separable,
    Tomography,
    blur,
    coil_maps,
    crop,
    from_deepinv,
    gaussian_matrix,
    grey,
    phase_retrieval,
    radial_lines,
    random_columns,
    smaller,
    uniform_columns,
)
from softmix.rng import Rng

F64 = torch.float64
# the height, the width and the channels of some items are equal, and those of others differ
CUBE, IMAGE = (3, 3, 3), (3, 4, 5)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Normal numbers, the same for each seed."""
    return Rng(seed, shape[0], "test").normal(shape, F64).to(dtype)


def pattern(*shape: int) -> Tensor:
    """A mask of about half of the elements."""
    return (numbers(*shape, seed=9) > 0).double()


# name: how to make it. A new operator joins this list.
LINEAR: dict[str, Callable[[], LinearOperator]] = {
    "mask": lambda: Mask(pattern(*CUBE), CUBE),
    "mask of pixels": lambda: Mask(pattern(1, 4, 5), IMAGE),
    "few measurements": lambda: gaussian_matrix(5, CUBE, 0),
    "many measurements": lambda: MatrixOperator(numbers(9, 6), (6,)),
    "matrix of rank 2": lambda: MatrixOperator(numbers(5, 2) @ numbers(2, 6), (2, 3)),
    "separable": lambda: Separable(numbers(2, 4), numbers(7, 5, seed=1), 3),
    "blur": lambda: blur(0.7, IMAGE),
    "smaller": lambda: smaller(2, IMAGE),
    "crop": lambda: crop(1, 2, 3, 2, IMAGE),
    "grey": lambda: grey(CUBE),
    "more channels": lambda: Channels(numbers(4, 2), (3, 3)),
    "convolution": lambda: Convolution(numbers(2, 3), IMAGE),
    "even convolution": lambda: Convolution(numbers(4, 4), (4, 4, 4)),
    "complex Fourier": lambda: MaskedFourier(random_columns(5, 2, 0.2, Rng(3, 1))[0], (2, 4, 5)),
    "real Fourier": lambda: MaskedFourier(pattern(1, 4, 6), (1, 4, 6)),
    "real Fourier, odd": lambda: MaskedFourier(uniform_columns(5, 3, 0.2, 1), (1, 3, 5)),
    "Fourier, B = C = W": lambda: MaskedFourier(pattern(1, 2, 2), (2, 2, 2)),
    "coils": lambda: MultiCoilFourier(radial_lines((4, 5), 2), coil_maps(3, (4, 5)), (2, 4, 5)),
    "coils, real": lambda: MultiCoilFourier(uniform_columns(4, 2, 0.25), coil_maps(2, (3, 4)), (1, 3, 4)),
    "oversampled": lambda: OversampledFourier((2, 3, 4), 1.6),
    "tomography": lambda: Tomography((2, 3, 4), 5),
    "tomography, narrow bins": lambda: Tomography((1, 3, 3), [0.0, 30.0, 77.0, 90.0, 250.0], 4, 0.6),
    "composed": lambda: smaller(2, IMAGE) @ blur(0.6, IMAGE),
    "composed, grey": lambda: crop(0, 1, 2, 2, (1, 3, 3)) @ grey(CUBE),
    "composed, Fourier": lambda: MaskedFourier(pattern(1, 4, 5), (1, 4, 5)) @ Convolution(numbers(2, 2), (1, 4, 5)),
    "deepinv": lambda: from_deepinv(Plain((2, 3, 4))).operator,  # type: ignore[dict-item, return-value]
}

OPERATORS: dict[str, Callable[[], Operator]] = {
    **LINEAR,
    "phase retrieval": lambda: phase_retrieval((1, 3, 4)),
    "magnitudes of a matrix": lambda: Magnitude(gaussian_matrix(6, (2, 3), 1)),
    "absolute values": lambda: Magnitude(MatrixOperator(numbers(5, 4), (4,)), parts=1),
    "magnitudes of coils": lambda: Magnitude(LINEAR["coils"]()),  # type: ignore[arg-type]
    "low light": lambda: LowLight(2.2, 0.3, CUBE),
    "clipping": lambda: Clipping(2.0, CUBE),
}


def dense(operator: LinearOperator) -> Tensor:
    """The matrix of a linear operator, float64, by the images of the unit vectors."""
    size = int(torch.tensor(operator.shape).prod())
    return operator(torch.eye(size, dtype=F64).reshape(size, *operator.shape)).flatten(1).T
