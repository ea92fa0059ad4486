"""Samplers and guidance for measured items, y = A(x0) + n.

`replacing` is a sampler for elements that are measured without noise. `guided_by_mean`, `guided_by_draws` and
`guided_through_draws` are wraps of a denoiser, for any likelihood p(y | x0); `gaussian_likelihood` makes one.
`guided_by_label` serves a model of several modalities.
"""

from .guide import (
    Likelihood,
    WeightedDraws,
    gaussian_likelihood,
    guided_by_draws,
    guided_by_mean,
    guided_through_draws,
)
from .modality import guided_by_label
from .replace import replacing

__all__ = [
    "Likelihood",
    "WeightedDraws",
    "gaussian_likelihood",
    "guided_by_draws",
    "guided_by_label",
    "guided_by_mean",
    "guided_through_draws",
    "replacing",
]
