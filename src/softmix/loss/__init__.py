"""Losses: they compare a posterior with the true x0.

A loss maps (posterior, noised, rng) to one number per item. `proper` says whether the loss is a strictly proper scoring
rule for a posterior that is known by its draws: its one optimum is then the true q(x0 | x_t). The squared error of a
draw is not proper. It is smallest for draws without variance, and the mixture collapses to its mean.

Losses of a posterior: `Square`, `SquarePerElement`, `PublishedSquare`, `Energy`, `Importance`, `Likelihood`,
`ResidualAndNoise`, `MeanAndNoise`, `MaskedCrossEntropy`.
Objectives that call the denoiser themselves: `Contrastive`, `FeatureEnergy`, `FeatureDrift`, `Consistency`, `MeanFlow`,
`InductiveMomentMatching`.
"""

from .collapse import mixture_gain, mixture_learnable
from .contract import Group, Loss, NeedsFrozenCopy, NeedsModules, Objective, Stage, loss_of
from .contrastive import Contrastive
from .drift import FeatureDrift
from .element import SquarePerElement
from .energy import Energy
from .feature import FeatureEnergy, FeatureExtractor
from .flowmap import Consistency, MeanFlow
from .interpolant import MeanAndNoise
from .likelihood import Importance, Likelihood
from .masked import MaskedCrossEntropy
from .moments import InductiveMomentMatching
from .residual import ResidualAndNoise
from .square import PublishedSquare, Square
from .weight import WEIGHTS, Weight, weight

LOSSES = (Square(), PublishedSquare(), Energy(), Importance(), Likelihood())
LossSpec = (
    Square
    | PublishedSquare
    | Energy
    | Importance
    | Likelihood
    | FeatureEnergy
    | FeatureDrift
    | Consistency
    | MeanFlow
    | InductiveMomentMatching
    | ResidualAndNoise
    | SquarePerElement
    | MeanAndNoise
    | MaskedCrossEntropy
    | Contrastive
)

__all__ = [
    "LOSSES",
    "WEIGHTS",
    "Consistency",
    "Contrastive",
    "Energy",
    "FeatureDrift",
    "FeatureEnergy",
    "FeatureExtractor",
    "Group",
    "Importance",
    "InductiveMomentMatching",
    "Likelihood",
    "Loss",
    "LossSpec",
    "MaskedCrossEntropy",
    "MeanAndNoise",
    "MeanFlow",
    "NeedsFrozenCopy",
    "NeedsModules",
    "Objective",
    "PublishedSquare",
    "ResidualAndNoise",
    "Square",
    "SquarePerElement",
    "Stage",
    "Weight",
    "loss_of",
    "mixture_gain",
    "mixture_learnable",
    "weight",
]
