"""Denoisers: functions from (x_t, t, cond) to a posterior over x0.

A denoiser is a network with a parameterisation and a head (`Network`), a closed form (`ExactMixture`, `ExactData`), or
a wrap of another denoiser (`guided`, `averaged`, `CallCounter`).
"""

from .categorical import CategoricalHead
from .contract import Denoiser, Suits, Wrap, device_of
from .exact import ExactData, ExactMixture, wiener
from .frame import from_frame, in_frame
from .head import HeadSpec, MapHead, MixtureHead, NormalHead, PointHead
from .interpolant import NoiseHead
from .local import LocalData, PatchData, correlated, windows
from .low_rank import LowRankMixture
from .multiscale import MultiScale
from .network import Network
from .parameterise import OUTPUTS, Output, affine
from .residual import ResidualAndNoisePoint, ResidualHead
from .sensitivity import jacobian, reach
from .smd import PublishedSMD, SoftHead
from .two_clocks import Given, OnPath, given, guided_by_other
from .wrap import CallCounter, SoftAtHighNoise, adjusted, autoguided, averaged, guided, mean_only, within

__all__ = [
    "OUTPUTS",
    "CallCounter",
    "CategoricalHead",
    "Denoiser",
    "ExactData",
    "ExactMixture",
    "Given",
    "HeadSpec",
    "LocalData",
    "LowRankMixture",
    "MapHead",
    "MixtureHead",
    "MultiScale",
    "Network",
    "NoiseHead",
    "NormalHead",
    "OnPath",
    "Output",
    "PatchData",
    "PointHead",
    "PublishedSMD",
    "ResidualAndNoisePoint",
    "ResidualHead",
    "SoftAtHighNoise",
    "SoftHead",
    "Suits",
    "Wrap",
    "adjusted",
    "affine",
    "autoguided",
    "averaged",
    "correlated",
    "device_of",
    "from_frame",
    "given",
    "guided",
    "guided_by_other",
    "in_frame",
    "jacobian",
    "mean_only",
    "reach",
    "wiener",
    "windows",
    "within",
]
