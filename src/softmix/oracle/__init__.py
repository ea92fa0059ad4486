"""Problems with known answers, and comparisons of samples and errors with these answers.

The tests of every other room, the recipes and the documentation use this room. A `Problem` has a law with exact draws;
a `DenoisingProblem` also has a process and the exact posterior of x0. Families: `MixtureProblem` (a mixture of
Gaussians), `ObservedProblem` (with a measurement y = A x0 + sd z), `PairedProblem` (pairs of x0 and x_in),
`FramedProblem` (a mixture through a process in a basis), `LabelledProblem` (a mixture with labels, any of them given),
`JointProblem` (two signals with a time each), `AggregateProblem` (an item with a label and values, added up),
`TokenProblem` (masked tokens of a Markov chain), `MeasuredTokens` (the same with a measurement y of x0) and
`TargetProblem` (a density with a known normalising constant). `sphere_patterns` is a law of bits and a label that can
be enumerated. `known_target` gives the targets of the command line. `denoising_fixed_point` is the limit of RED-diff
for one Gaussian.
"""

from .aggregated import AggregateProblem, aggregated
from .compare import ks, order, standardised
from .framed import FramedProblem
from .known_targets import TARGETS, is_known_target, known_target
from .labelled import LabelledProblem, two_labels
from .measured import MeasuredTokens, measured_tokens
from .mixture import PROBLEMS, MixtureProblem, correlated, digits, eight, gaussian, grid_of_modes, problems
from .observed import ObservedProblem
from .paired import PairedProblem, between, pairs
from .problem import DenoisingProblem, Problem
from .regularised import denoising_fixed_point, denoising_pull
from .sphere import SpherePatterns, sphere_patterns
from .target import TargetProblem, funnel, mixture_target, phi4, ring_target
from .tokens import TokenProblem, tokens
from .transport import gaussian_flow, monotone_flow
from .two_signals import JointProblem, joint

__all__ = [
    "PROBLEMS",
    "TARGETS",
    "AggregateProblem",
    "DenoisingProblem",
    "FramedProblem",
    "JointProblem",
    "LabelledProblem",
    "MeasuredTokens",
    "MixtureProblem",
    "ObservedProblem",
    "PairedProblem",
    "Problem",
    "SpherePatterns",
    "TargetProblem",
    "TokenProblem",
    "aggregated",
    "between",
    "correlated",
    "denoising_fixed_point",
    "denoising_pull",
    "digits",
    "eight",
    "funnel",
    "gaussian",
    "gaussian_flow",
    "grid_of_modes",
    "is_known_target",
    "joint",
    "known_target",
    "ks",
    "measured_tokens",
    "mixture_target",
    "monotone_flow",
    "order",
    "pairs",
    "phi4",
    "problems",
    "ring_target",
    "sphere_patterns",
    "standardised",
    "tokens",
    "two_labels",
]
