"""The room of posteriors: what is believed about the clean signal x0 when x_t has been seen.

Every denoiser answers with one. All can be drawn from; what else a posterior can do is said by its
base classes (`HasMean`, `HasVariance`, `HasDensity`) and asked for by `need`.
"""

from .ability import HasDensity, HasMean, HasVariance, Posterior, need
from .empirical import Empirical
from .implicit import Implicit, ImplicitMean
from .mixture import FullMixture, Mixture
from .normal import Normal
from .point import Point

__all__ = [
    "Empirical",
    "FullMixture",
    "HasDensity",
    "HasMean",
    "HasVariance",
    "Implicit",
    "ImplicitMean",
    "Mixture",
    "Normal",
    "Point",
    "Posterior",
    "need",
]
