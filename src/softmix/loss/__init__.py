"""Losses: they compare a posterior with the true x0.

A loss maps (posterior, noised, rng) to one number per item. `proper` says whether the loss is a strictly proper scoring
rule for a posterior that is known by its draws: its one optimum is then the true q(x0 | x_t). The squared error of a
draw is not proper. It is smallest for draws without variance, and the mixture collapses to its mean.

Losses of a posterior: `Square`, `SquarePerElement`, `PublishedSquare`, `Energy`, `Importance`, `Likelihood`,
`ResidualAndNoise`, `MeanAndNoise`, `MaskedCrossEntropy`.
Objectives that call the denoiser themselves: `Contrastive`, `FeatureEnergy`, `FeatureDrift`, `Consistency`, `MeanFlow`,
`InductiveMomentMatching`, `ChainMMD` (samples of a whole chain), `SIDDM` (against a discriminator), `Align` (a loss of
a posterior and the alignment of hidden states with an encoder).
"""

from .align import Align
from .chain import ChainMMD, ComparedViews
from .collapse import mixture_gain, mixture_learnable
from .contract import Group, Loss, NeedsFrozenCopy, NeedsModules, Objective, Stage, loss_of
from .contrast import nt_xent
from .contrastive import Contrastive
from .discrepancy import (
    CubicKernel,
    EnergyKernel,
    GaussianKernel,
    Kernel,
    LaplaceKernel,
    median_distance,
    unbiased_mmd,
)
from .drift import FeatureDrift
from .element import SquarePerElement
from .encoder import EncoderSpec, ImageEncoder, RandomEncoder, SavedEncoder, image_encoder
from .energy import Energy
from .feature import FeatureEnergy, FeatureExtractor
from .flowmap import Consistency, MeanFlow
from .interpolant import MeanAndNoise
from .likelihood import Importance, Likelihood
from .masked import MaskedCrossEntropy
from .moments import InductiveMomentMatching
from .residual import ResidualAndNoise
from .siddm import SIDDM
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
    | Align
    | ChainMMD
    | SIDDM
    | MaskedCrossEntropy
    | Contrastive
)

__all__ = [
    "LOSSES",
    "SIDDM",
    "WEIGHTS",
    "Align",
    "ChainMMD",
    "ComparedViews",
    "Consistency",
    "Contrastive",
    "CubicKernel",
    "EncoderSpec",
    "Energy",
    "EnergyKernel",
    "FeatureDrift",
    "FeatureEnergy",
    "FeatureExtractor",
    "GaussianKernel",
    "Group",
    "ImageEncoder",
    "Importance",
    "InductiveMomentMatching",
    "Kernel",
    "LaplaceKernel",
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
    "RandomEncoder",
    "ResidualAndNoise",
    "SavedEncoder",
    "Square",
    "SquarePerElement",
    "Stage",
    "Weight",
    "image_encoder",
    "loss_of",
    "median_distance",
    "mixture_gain",
    "mixture_learnable",
    "nt_xent",
    "unbiased_mmd",
    "weight",
]
