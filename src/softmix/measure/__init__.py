"""Instruments, y = A(x0) + n, and samplers and guidance for what they measured.

An `Instrument` has an operator A and a law of the noise. `replacing` is a sampler for elements measured without noise.
`guided_by_mean`, `guided_by_draws` and `guided_through_draws` are wraps of a denoiser, for any likelihood
p(y | x0); `instrument.likelihood(y)` and `gaussian_likelihood` make one. `guided_by_label` serves a model of several
modalities.
"""

from .deepinv import from_deepinv, to_deepinv
from .fourier import MaskedFourier, MultiCoilFourier, OversampledFourier
from .guide import (
    Likelihood,
    WeightedDraws,
    gaussian_likelihood,
    guided_by_draws,
    guided_by_mean,
    guided_through_draws,
)
from .instrument import Instrument
from .krylov import conjugate_gradients
from .linear import Channels, Convolution, Mask, MatrixOperator, Separable, gaussian_matrix
from .modality import guided_by_label
from .noise import GaussianNoise, Noise, PoissonNoise, RoundingNoise
from .nonlinear import Clipping, LowLight, Magnitude, phase_retrieval
from .operator import Composed, DecomposedOperator, LinearOperator, Operator
from .optics import blur, crop, grey, smaller
from .replace import replacing
from .sampling_masks import coil_maps, radial_lines, random_columns, uniform_columns
from .tomography import Tomography

__all__ = [
    "Channels",
    "Clipping",
    "Composed",
    "Convolution",
    "DecomposedOperator",
    "GaussianNoise",
    "Instrument",
    "Likelihood",
    "LinearOperator",
    "LowLight",
    "Magnitude",
    "Mask",
    "MaskedFourier",
    "MatrixOperator",
    "MultiCoilFourier",
    "Noise",
    "Operator",
    "OversampledFourier",
    "PoissonNoise",
    "RoundingNoise",
    "Separable",
    "Tomography",
    "WeightedDraws",
    "blur",
    "coil_maps",
    "conjugate_gradients",
    "crop",
    "from_deepinv",
    "gaussian_likelihood",
    "gaussian_matrix",
    "grey",
    "guided_by_draws",
    "guided_by_label",
    "guided_by_mean",
    "guided_through_draws",
    "phase_retrieval",
    "radial_lines",
    "random_columns",
    "replacing",
    "smaller",
    "to_deepinv",
    "uniform_columns",
]
