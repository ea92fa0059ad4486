"""Measurements of a denoiser on data: likelihoods, information, and numbers for samplers.

Likelihoods by the errors of a denoiser (information-theoretic diffusion): `density`, `discrete` for whole numbers, and
`variational`, the bound of a chain, on the same model; `curve`, the errors at each noise level. `chain` is the bound of
a chain that takes the whole posterior in each step. `best_per_level` joins several denoisers. `pointwise_information`
shows which elements a condition tells of, and `pointwise_decomposition` parts what two conditions tell of each element;
`label_information` compares several conditions of an item. `density`, `discrete` and `pointwise_information` share the
loop `at_levels`.

`decompose` parts the information of two sources on a target (partial information decomposition).
`spectral_entropy` and `spectral_information` are those of a diffusion over points, such as hidden states.
`fair_accuracy` is the best accuracy under bounds on what predictions tell of an attribute, over all clients and within
each.

`binned_information`, `noise_bounds` and `noisy_information` give points of the information plane, I(X; T) and I(T; Y)
of a hidden layer or of a noise level, and `bottleneck` the curve that no point exceeds; `gaussian_bottleneck` is that
of Gaussians.

For samplers: `where_to_start` finds the best time for a start that is not pure noise, in nats of the bound on log p.
`fit_statistics` measures the coefficients of DPM-Solver-v3.
"""

from .bottleneck_curve import BottleneckCurve, bottleneck, gaussian_bottleneck
from .decomposition import Decomposition, Measure, decompose, decompose_pointwise, gaussian_information
from .density import ErrorCurve, Nats, curve, density, pointwise_information
from .discrete import Grid, best_rounding, discrete, discrete_curve
from .ensemble import best_per_level
from .fairness import FairAccuracy, disparities, fair_accuracy
from .levels import AtLevel, EvenLevels, GivenLevels, Levels, at_levels
from .likelihood import log_density
from .log_chain import chain
from .map_picture import draw_maps
from .maps import InformationMaps, TwoSources, label_information, pointwise_decomposition
from .outlier import area_above, compressed_nats
from .plane import NoiseBounds, PlanePoint, binned_information, noise_bounds, noisy_information
from .reference import GaussianReference
from .spectral import relative_width, spectral_entropy, spectral_information
from .start_time import where_to_start
from .statistics import fit_statistics
from .token_bound import bits_per_token
from .variational import variational

__all__ = [
    "AtLevel",
    "BottleneckCurve",
    "Decomposition",
    "ErrorCurve",
    "EvenLevels",
    "FairAccuracy",
    "GaussianReference",
    "GivenLevels",
    "Grid",
    "InformationMaps",
    "Levels",
    "Measure",
    "Nats",
    "NoiseBounds",
    "PlanePoint",
    "TwoSources",
    "area_above",
    "at_levels",
    "best_per_level",
    "best_rounding",
    "binned_information",
    "bits_per_token",
    "bottleneck",
    "chain",
    "compressed_nats",
    "curve",
    "decompose",
    "decompose_pointwise",
    "density",
    "discrete",
    "discrete_curve",
    "disparities",
    "draw_maps",
    "fair_accuracy",
    "fit_statistics",
    "gaussian_bottleneck",
    "gaussian_information",
    "label_information",
    "log_density",
    "noise_bounds",
    "noisy_information",
    "pointwise_decomposition",
    "pointwise_information",
    "relative_width",
    "spectral_entropy",
    "spectral_information",
    "variational",
    "where_to_start",
]
