"""Instruments, y = A(x0) + n, and samplers and guidance for what they measured.

An `Instrument` has an operator A and a law of the noise. `replacing` is a sampler for elements measured without noise.
`guided_by_mean`, `guided_by_draws` and `guided_through_draws` are wraps of a denoiser, for any likelihood
p(y | x0); `instrument.likelihood(y)` and `gaussian_likelihood` make one. `guided_by_label` serves a model of several
modalities. `red_diff` finds a point for x0 given y. `slice_wise` lifts a model of images to volumes, and `mbir` ties
their slices by total variation; `admm_tv` does so without a model.
"""

from .each_slice import EachSlice, spectral_norm
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
from .misfit import Misfit, likelihood_misfit, mean_misfit
from .modality import guided_by_label
from .noise import GaussianNoise, Noise, PoissonNoise, RoundingNoise
from .operator import Composed, DecomposedOperator, LinearOperator, Operator, conjugate_gradients
from .replace import replacing
from .slices import SlicesPosterior, mbir, mbir_of_means, slice_wise
from .total_variation import (
    TotalVariation,
    admm_tv,
    differences,
    differences_adjoint,
    roughness,
    shrink_absolute,
    shrink_square,
)
from .variational import (
    WEIGHT_FORMS,
    RedDiff,
    RedDiffStep,
    red_diff,
    red_diff_particles,
    red_diff_steps,
)

__all__ = [
    "WEIGHT_FORMS",
    "Channels",
    "Composed",
    "Convolution",
    "DecomposedOperator",
    "EachSlice",
    "GaussianNoise",
    "Instrument",
    "Likelihood",
    "LinearOperator",
    "Mask",
    "MatrixOperator",
    "Misfit",
    "Noise",
    "Operator",
    "PoissonNoise",
    "RedDiff",
    "RedDiffStep",
    "RoundingNoise",
    "Separable",
    "SlicesPosterior",
    "TotalVariation",
    "WeightedDraws",
    "admm_tv",
    "blur",
    "conjugate_gradients",
    "crop",
    "differences",
    "differences_adjoint",
    "gaussian_likelihood",
    "gaussian_matrix",
    "grey",
    "guided_by_draws",
    "guided_by_label",
    "guided_by_mean",
    "guided_through_draws",
    "likelihood_misfit",
    "mbir",
    "mbir_of_means",
    "mean_misfit",
    "red_diff",
    "red_diff_particles",
    "red_diff_steps",
    "replacing",
    "roughness",
    "shrink_absolute",
    "shrink_square",
    "slice_wise",
    "smaller",
    "spectral_norm",
]
