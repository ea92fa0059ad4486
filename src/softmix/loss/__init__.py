"""Scoring rules, which judge a posterior by the x0 that was really there.

A loss takes (posterior, noised, rng) and gives one number per item. `proper` says whether, for a posterior
that is only drawn from, the loss has its one optimum at the true q(x0 | x_t). Squared error has not: it
is smallest when the draws no longer vary, and the mixture collapses to its mean.
"""

from .collapse import mixture_gain, mixture_learnable
from .contract import Group, Loss, NeedsFrozenCopy, NeedsModules, Objective, Stage, loss_of
from .energy import Energy
from .feature import FeatureEnergy, FeatureExtractor
from .flowmap import Consistency, MeanFlow
from .likelihood import Importance, Likelihood
from .square import PublishedSquare, Square
from .weight import WEIGHTS, Weight, weight

LOSSES = (Square(), PublishedSquare(), Energy(), Importance(), Likelihood())
LossSpec = Square | PublishedSquare | Energy | Importance | Likelihood | FeatureEnergy | Consistency | MeanFlow

__all__ = [
    "LOSSES",
    "WEIGHTS",
    "Consistency",
    "Energy",
    "FeatureEnergy",
    "FeatureExtractor",
    "Group",
    "Importance",
    "Likelihood",
    "Loss",
    "LossSpec",
    "MeanFlow",
    "NeedsFrozenCopy",
    "NeedsModules",
    "Objective",
    "PublishedSquare",
    "Square",
    "Stage",
    "Weight",
    "loss_of",
    "mixture_gain",
    "mixture_learnable",
    "weight",
]
