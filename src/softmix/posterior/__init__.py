"""What is believed about the clean signal x0 when x_t has been seen.

Every denoiser answers with one. All can be drawn from; what else a posterior can do is said by its
base classes (`HasMean`, `HasVariance`, `HasDensity`) and asked for by `need`.
"""

from .ability import HasDensity, HasMean, HasVariance, Posterior, need
from .categorical import Categorical, ValuedCategorical
from .combine import combined
from .empirical import Empirical
from .implicit import Implicit, ImplicitMean
from .joint import Joint
from .mixture import FullMixture, Mixture
from .normal import Normal
from .point import Point

__all__ = [
    "Categorical",
    "Empirical",
    "FullMixture",
    "HasDensity",
    "HasMean",
    "HasVariance",
    "Implicit",
    "ImplicitMean",
    "Joint",
    "Mixture",
    "Normal",
    "Point",
    "Posterior",
    "ValuedCategorical",
    "combined",
    "need",
]
