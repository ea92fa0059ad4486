"""Operators that are not linear: magnitudes (phase retrieval), low light, and clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .fourier import OversampledFourier
from .operator import LinearOperator, Operator


class Magnitude(Operator):
    """y_j = |(z_1, .., z_p)_j|, the magnitudes of a linear measurement z = A x0.

    linear : A.
    parts : p, the number of consecutive elements of the first axis of z that are one number: 2 for the real and the
        imaginary part of a complex one, 1 for real numbers and their absolute values.

    Where a magnitude is 0, its derivative is taken for 0. y has no picture. Symmetries: -x0 has the same y; and c x0
    for every complex number c of magnitude 1, if x0 is complex and A is linear over complex numbers.
    Raises ValueError if the first axis is not made of so many parts.
    When to choose: detectors of intensity behind any linear optics; of a `gaussian_matrix` with parts = 2 it is the
    usual random benchmark. For the Fourier transform choose `phase_retrieval`.
    Source: Fienup, "Phase retrieval algorithms: a comparison", Applied Optics 21, 1982, section II.
    """

    def __init__(self, linear: LinearOperator, parts: int = 2):
        if parts < 1 or linear.measured[0] % parts:
            raise ValueError(
                f"numbers of {parts} parts were asked for, and {type(linear).__name__} measures {linear.measured[0]} "
                "elements along the first axis"
            )
        self.linear, self.parts = linear, parts
        self.shape, self.items = linear.shape, linear.items
        self.measured = (linear.measured[0] // parts, *linear.measured[1:])

    @property
    def seen(self) -> Tensor | None:
        seen = self.linear.seen
        return seen if seen is None or seen.shape[1] == 1 else seen[:, :: self.parts]

    def __call__(self, x0: Tensor) -> Tensor:
        # the derivative of this norm is 0 at 0, and that of a root of a sum of squares is undefined
        return torch.linalg.vector_norm(self.linear(x0).unflatten(1, (-1, self.parts)), dim=2)

    def picture(self, y: Tensor) -> None:
        """None: the frequencies or products in y are not on the grid of x0."""


class LowLight(Operator):
    """A photograph with little light: a power law of the light, and a short exposure.

        light = (1 + x0) / 2,   A(x0) = 2 gain light^power - 1

    power : at least 1. Above 1, dark parts become darker than bright ones.
    gain : the exposure, above 0; usually below 1.
    shape : of an item.

    x0 below -1 counts as no light. With `PoissonNoise(peak)` a bright pixel has a mean of gain x peak photons.
    Raises ValueError for a power below 1, where the derivative is infinite at no light, and a gain of 0 or below.
    When to choose: to make dark photographs of usual ones, and to restore them by a known law of the camera.
    """

    def __init__(self, power: float, gain: float, shape: Sequence[int]):
        if not (1 <= power < math.inf and 0 < gain < math.inf):
            raise ValueError(f"power = {power} and gain = {gain} were given; power must be at least 1, gain above 0")
        self.power, self.gain = power, gain
        self.shape = self.measured = tuple(shape)

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        return 2 * self.gain * ((1 + x0) / 2).clamp(min=0) ** self.power - 1


class Clipping(Operator):
    """A photograph with too much light: A(x0) = the nearest number in [-1, 1] to gain x0.

    gain : above 0.
    shape : of an item.

    The derivative is 0 where a value is clipped. Raises ValueError for a gain of 0 or below.
    When to choose: restoration of a high dynamic range, with a gain of 2.
    Source: Mardani et al., "A variational perspective on solving inverse problems with diffusion models", ICLR 2024,
    experiments with high dynamic range.
    """

    def __init__(self, gain: float, shape: Sequence[int]):
        if not 0 < gain < math.inf:
            raise ValueError(f"a gain of {gain} was asked for; give one above 0")
        self.gain = gain
        self.shape = self.measured = tuple(shape)

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        return (self.gain * x0).clamp(-1, 1)


def phase_retrieval(shape: Sequence[int], oversampling: float = 2.0) -> Magnitude:
    """y = |F x0|, the magnitudes of an `OversampledFourier` transform of a real image.

    shape : (C, H, W) of an item. y is [B, C, H', W'].
    oversampling : of each axis, at least 1. From 2 on, y has the autocorrelation of the image.

    These images have the same y, and no method can tell them apart:

    * -x0,
    * x0 turned by 180 degrees (both axes reversed),
    * x0 moved, if what moves over the border is 0.

    So compare a result with the truth by the nearest of them. For x0 in [-1, 1] with a background of -1, the third is
    not one. Source: Hayes, "The reconstruction of a multidimensional sequence from the phase or magnitude of its
    Fourier transform", IEEE Trans. ASSP 30, 1982.
    """
    return Magnitude(OversampledFourier(shape, oversampling))
