"""Problems with known answers, and comparisons of samples and errors with these answers.

Every other room is tested against this one; the documentation, the recipes and `softmix check` use it too. A `Problem`
has a law that can be drawn from exactly; a `DenoisingProblem` also has a process and the exact posterior of x0. The
families are mixtures of Gaussians, mixtures with a measurement y = A x0 + n, pairs (x0, x_in), masked tokens of a
Markov chain, and target densities with a known normalising constant.
"""

from .compare import ks, order, standardised
from .mixture import PROBLEMS, MixtureProblem, correlated, digits, eight, gaussian, grid_of_modes, problems
from .observed import ObservedProblem
from .paired import PairedProblem, pairs
from .problem import DenoisingProblem, Problem
from .target import TargetProblem, funnel, mixture_target, phi4
from .tokens import TokenProblem, tokens
from .transport import gaussian_flow, monotone_flow

__all__ = [
    "PROBLEMS",
    "DenoisingProblem",
    "MixtureProblem",
    "ObservedProblem",
    "PairedProblem",
    "Problem",
    "TargetProblem",
    "TokenProblem",
    "correlated",
    "digits",
    "eight",
    "funnel",
    "gaussian",
    "gaussian_flow",
    "grid_of_modes",
    "ks",
    "mixture_target",
    "monotone_flow",
    "order",
    "pairs",
    "phi4",
    "problems",
    "standardised",
    "tokens",
]
