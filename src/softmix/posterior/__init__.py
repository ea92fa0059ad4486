"""Posteriors: laws of the clean signal x0 given x_t, q(x0 | x_t).

Every denoiser returns one. All of them can be sampled. The base classes `HasMean`, `HasVariance` and `HasDensity`
declare further abilities, and `need` checks for one. Kinds: `Point`, `Normal`, `Mixture`, `FullMixture`, `Implicit` and
`ImplicitMean` (known by their draws), `Empirical` (a finite data set), `Categorical` (names), `ValuedCategorical`
(numbers), and `Joint` (named parts). `PointAndNoise` has the mean of the latent noise too (`HasNoise`).
"""

from .ability import HasDensity, HasMean, HasNoise, HasVariance, Posterior, need
from .categorical import Categorical, ValuedCategorical
from .combine import combined
from .empirical import Empirical
from .implicit import Implicit, ImplicitMean
from .joint import Joint
from .mixture import FullMixture, Mixture
from .normal import Normal
from .part import part_of
from .point import Point, PointAndNoise

__all__ = [
    "Categorical",
    "Empirical",
    "FullMixture",
    "HasDensity",
    "HasMean",
    "HasNoise",
    "HasVariance",
    "Implicit",
    "ImplicitMean",
    "Joint",
    "Mixture",
    "Normal",
    "Point",
    "PointAndNoise",
    "Posterior",
    "ValuedCategorical",
    "combined",
    "need",
    "part_of",
]
