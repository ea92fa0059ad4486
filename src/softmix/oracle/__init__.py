"""Problems with known answers, and the comparisons that hold a method to them.

Used by the tests, the documentation, the recipes and `softmix check`. A `Problem` is a mixture of Gaussians
seen through a process, as points, as images or as sequences: its posterior, the law of x_t at any time, and
for one Gaussian or in one dimension the probability-flow ODE's map, are all known exactly.
"""

from .compare import ks, order, standardised
from .observed import Observed
from .problem import PROBLEMS, Problem, correlated, digits, eight, gaussian, grid, problems
from .transport import gaussian_flow, monotone_flow

__all__ = [
    "PROBLEMS",
    "Observed",
    "Problem",
    "correlated",
    "digits",
    "eight",
    "gaussian",
    "gaussian_flow",
    "grid",
    "ks",
    "monotone_flow",
    "order",
    "problems",
    "standardised",
]
