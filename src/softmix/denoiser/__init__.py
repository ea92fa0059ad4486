"""Denoisers: functions from (x_t, t, cond) to a posterior over x0.

A denoiser is a network with a parameterisation and a head (`Network`), a closed form (`ExactMixture`, `ExactData`), or
a wrap of another denoiser (`guided`, `averaged`, `CallCounter`).
"""

from .categorical import CategoricalHead
from .contract import Denoiser, Suits, Wrap, device_of
from .control import Control, ControlledDenoiser, density_slope
from .exact import ExactData, ExactMixture, wiener
from .fixed_steps import FixedSteps, StepsError, has_fixed_steps
from .frame import from_frame, in_frame
from .head import HeadSpec, MapHead, MixtureHead, NormalHead, PointHead
from .interpolant import NoiseHead
from .local import LocalData, PatchData, correlated, windows
from .low_rank import LowRankMixture
from .modalities import Aggregation, JointDenoiser, Modalities, Modality, modalities_of
from .multiscale import MultiScale
from .network import Network
from .parameterise import OUTPUTS, Output, affine
from .per_level import PerLevel
from .recompute import recomputed
from .residual import ResidualAndNoisePoint, ResidualHead
from .sensitivity import jacobian, reach
from .smd import PublishedSMD, SoftHead
from .tuned import TunedDenoiser, TunedError, is_tuned, require_untuned
from .two_clocks import Given, OnPath, given, guided_by_other
from .wrap import CallCounter, SoftAtHighNoise, adjusted, autoguided, averaged, guided, mean_only, within

__all__ = [
    "OUTPUTS",
    "Aggregation",
    "CallCounter",
    "CategoricalHead",
    "Control",
    "ControlledDenoiser",
    "Denoiser",
    "ExactData",
    "ExactMixture",
    "FixedSteps",
    "Given",
    "HeadSpec",
    "JointDenoiser",
    "LocalData",
    "LowRankMixture",
    "MapHead",
    "MixtureHead",
    "Modalities",
    "Modality",
    "MultiScale",
    "Network",
    "NoiseHead",
    "NormalHead",
    "OnPath",
    "Output",
    "PatchData",
    "PerLevel",
    "PointHead",
    "PublishedSMD",
    "ResidualAndNoisePoint",
    "ResidualHead",
    "SoftAtHighNoise",
    "SoftHead",
    "StepsError",
    "Suits",
    "TunedDenoiser",
    "TunedError",
    "Wrap",
    "adjusted",
    "affine",
    "autoguided",
    "averaged",
    "correlated",
    "density_slope",
    "device_of",
    "from_frame",
    "given",
    "guided",
    "guided_by_other",
    "has_fixed_steps",
    "in_frame",
    "is_tuned",
    "jacobian",
    "mean_only",
    "modalities_of",
    "reach",
    "recomputed",
    "require_untuned",
    "wiener",
    "windows",
    "within",
]
