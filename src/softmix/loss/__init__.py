"""The room of losses: scoring rules, which judge a posterior by the x0 that was really there.

A loss takes (posterior, noised, rng) and gives one number per item. `proper` says whether, for a posterior
that is only drawn from, the loss has its one optimum at the true q(x0 | x_t). Squared error has not: it
is smallest when the draws no longer vary, and the mixture collapses to its mean.
"""

from .collapse import gain, mixture_pays
from .contract import Group, Keeper, Loss, Objective, Owner, Stage, score
from .energy import Energy
from .feature import Eyes, FeatureEnergy
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
    "Eyes",
    "FeatureEnergy",
    "Group",
    "Importance",
    "Keeper",
    "Likelihood",
    "Loss",
    "LossSpec",
    "MeanFlow",
    "Objective",
    "Owner",
    "PublishedSquare",
    "Square",
    "Stage",
    "Weight",
    "gain",
    "mixture_pays",
    "score",
    "weight",
]
