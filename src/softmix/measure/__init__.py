"""Instruments, y = A(x0) + n, and samplers and guidance for what they measured.

An `Instrument` has an operator A and a law of the noise. `guided_by_mean`, `guided_by_draws` and `guided_through_draws`
are wraps of a denoiser, for any likelihood p(y | x0); `instrument.likelihood(y)` and `gaussian_likelihood` make one.
Linear operators with Gaussian noise have `guided_by_pseudo_inverse`, `guided_by_moments` and `guided_by_jacobian`, the
data steps `proximal`, `projected` and `stepped`, and the sampler `ddrm`. `replacing` is a sampler for elements measured
without noise. `afdps` and `twisted` are particles with weights. `guided_by_label` serves a model of several modalities.
"""

from .consistency import Spread, of_data, of_noise, own_variance, projected, proximal, stepped
from .guide import (
    Conditioned,
    Likelihood,
    WeightedDraws,
    gaussian_likelihood,
    guided_by_draws,
    guided_by_mean,
    guided_through_draws,
)
from .instrument import Instrument
from .linear import (
    Channels,
    Convolution,
    Mask,
    MatrixOperator,
    Separable,
    blur,
    crop,
    gaussian_matrix,
    grey,
    smaller,
)
from .modality import guided_by_label
from .moments import guided_by_jacobian, guided_by_moments, guided_by_pseudo_inverse
from .noise import GaussianNoise, Noise, PoissonNoise, RoundingNoise
from .operator import Composed, DecomposedOperator, LinearOperator, Operator, conjugate_gradients
from .particles import afdps, even_in_variance, systematic, twisted
from .replace import replacing
from .singular_values import ddrm

__all__ = [
    "Channels",
    "Composed",
    "Conditioned",
    "Convolution",
    "DecomposedOperator",
    "GaussianNoise",
    "Instrument",
    "Likelihood",
    "LinearOperator",
    "Mask",
    "MatrixOperator",
    "Noise",
    "Operator",
    "PoissonNoise",
    "RoundingNoise",
    "Separable",
    "Spread",
    "WeightedDraws",
    "afdps",
    "blur",
    "conjugate_gradients",
    "crop",
    "ddrm",
    "even_in_variance",
    "gaussian_likelihood",
    "gaussian_matrix",
    "grey",
    "guided_by_draws",
    "guided_by_jacobian",
    "guided_by_label",
    "guided_by_mean",
    "guided_by_moments",
    "guided_by_pseudo_inverse",
    "guided_through_draws",
    "of_data",
    "of_noise",
    "own_variance",
    "projected",
    "proximal",
    "replacing",
    "smaller",
    "stepped",
    "systematic",
    "twisted",
]
