"""Instruments, y = A(x0) + n, and samplers and guidance for what they measured.

An `Instrument` has an operator A and a law of the noise. `replacing` is a sampler for elements measured without noise.
`guided_by_mean`, `guided_by_draws` and `guided_through_draws` are wraps of a denoiser, for any likelihood
p(y | x0); `instrument.likelihood(y)` and `gaussian_likelihood` make one. `guided_by_label` serves a model of several
modalities. `anchored` is a sampler of masked tokens, and `token_particles` are exact weighted ones.
"""

from .anchor import anchored, quantised
from .guide import (
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
from .noise import GaussianNoise, Noise, PoissonNoise, RoundingNoise
from .operator import Composed, DecomposedOperator, LinearOperator, Operator, conjugate_gradients
from .replace import replacing
from .token_smc import token_particles

__all__ = [
    "Channels",
    "Composed",
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
    "WeightedDraws",
    "anchored",
    "blur",
    "conjugate_gradients",
    "crop",
    "gaussian_likelihood",
    "gaussian_matrix",
    "grey",
    "guided_by_draws",
    "guided_by_label",
    "guided_by_mean",
    "guided_through_draws",
    "quantised",
    "replacing",
    "smaller",
    "token_particles",
]
