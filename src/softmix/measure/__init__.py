"""Instruments, y = A(x0) + n, and samplers and guidance for what they measured.

An `Instrument` has an operator A and a law of the noise. `guided_by_mean`, `guided_by_draws` and `guided_through_draws`
are wraps of a denoiser, for any likelihood p(y | x0); `instrument.likelihood(y)` and `gaussian_likelihood` make one.
Linear operators with Gaussian noise have `guided_by_pseudo_inverse`, `guided_by_moments` and `guided_by_jacobian`, the
data steps `proximal`, `projected` and `stepped`, and the sampler `ddrm`. `replacing` is a sampler for elements measured
without noise. `afdps` and `twisted` are particles with weights. `guided_by_label` serves a model of several modalities.
`anchored` is a sampler of masked tokens, and `token_particles` are exact weighted ones.
`red_diff` finds a point by optimisation. `slice_wise`, `mbir` and `admm_tv` are for volumes.
"""

from .active import ActiveMeasurement, best_places, gains, measured_actively
from .anchor import anchored, quantised
from .consistency import Spread, of_data, of_noise, own_variance, projected, proximal, stepped
from .deepinv import from_deepinv, to_deepinv
from .each_slice import EachSlice, spectral_norm
from .fourier import MaskedFourier, MultiCoilFourier, OversampledFourier
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
from .krylov import conjugate_gradients
from .linear import Channels, Convolution, Mask, MatrixOperator, Separable, gaussian_matrix
from .misfit import Misfit, likelihood_misfit, mean_misfit
from .modality import guided_by_label
from .moments import guided_by_jacobian, guided_by_moments, guided_by_pseudo_inverse
from .noise import GaussianNoise, Noise, PoissonNoise, RoundingNoise
from .nonlinear import Clipping, LowLight, Magnitude, phase_retrieval
from .operator import Composed, DecomposedOperator, LinearOperator, Operator
from .optics import blur, crop, grey, smaller
from .particles import afdps, even_in_variance, systematic, twisted
from .replace import replacing
from .sampling_masks import coil_maps, radial_lines, random_columns, uniform_columns
from .singular_values import ddrm
from .slices import SlicesPosterior, mbir, mbir_of_means, slice_wise
from .token_smc import token_particles
from .tomography import Tomography
from .total_variation import (
    TotalVariation,
    admm_tv,
    differences,
    differences_adjoint,
    roughness,
    shrink_absolute,
    shrink_square,
)
from .variational import WEIGHT_FORMS, RedDiff, RedDiffStep, red_diff, red_diff_particles, red_diff_steps

__all__ = [
    "WEIGHT_FORMS",
    "ActiveMeasurement",
    "Channels",
    "Clipping",
    "Composed",
    "Conditioned",
    "Convolution",
    "DecomposedOperator",
    "EachSlice",
    "GaussianNoise",
    "Instrument",
    "Likelihood",
    "LinearOperator",
    "LowLight",
    "Magnitude",
    "Mask",
    "MaskedFourier",
    "MatrixOperator",
    "Misfit",
    "MultiCoilFourier",
    "Noise",
    "Operator",
    "OversampledFourier",
    "PoissonNoise",
    "RedDiff",
    "RedDiffStep",
    "RoundingNoise",
    "Separable",
    "SlicesPosterior",
    "Spread",
    "Tomography",
    "TotalVariation",
    "WeightedDraws",
    "admm_tv",
    "afdps",
    "anchored",
    "best_places",
    "blur",
    "coil_maps",
    "conjugate_gradients",
    "crop",
    "ddrm",
    "differences",
    "differences_adjoint",
    "even_in_variance",
    "from_deepinv",
    "gains",
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
    "likelihood_misfit",
    "mbir",
    "mbir_of_means",
    "mean_misfit",
    "measured_actively",
    "of_data",
    "of_noise",
    "own_variance",
    "phase_retrieval",
    "projected",
    "proximal",
    "quantised",
    "radial_lines",
    "random_columns",
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
    "stepped",
    "systematic",
    "to_deepinv",
    "token_particles",
    "twisted",
    "uniform_columns",
]
