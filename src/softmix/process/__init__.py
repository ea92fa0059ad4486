"""Processes: how clean data becomes noise.

A process draws x_t from x_0 (`noise`), draws the start of sampling (`prior`), and steps back from x_t to x_s for a
given estimate of x_0 (`bridge`). It uses no network. Time t runs from 0 (clean) to 1 (noise). All processes share the
clock logsnr = log(alpha^2 / sigma^2).

Processes: `VP`, `VE`, `Flow`, `Table` (a discrete model), `PerElement` (one schedule per element), `InBasis` and the
base classes `Framed` and `Shifted` (a Gaussian process in other coordinates, the frame); `TwoClocks` (a pair of
signals with a time each) and the paths of its times, `TimePath`; `StationaryOU` (noise in the unit of a target
density). `Interpolant` is not Gaussian: it leads to other data in the place of noise. `Masked` is for tokens. Grids of
times: `uniform`, `uniform_logsnr`, `few`, `after_draw`, `karras`, `trailing`, `rest`, `even_logsnr`.
"""

import torch

from .bands import NonUniform, band_of, from_pyramid, pyramid, terminal_kl
from .basis import InBasis, cosine, haar
from .element import EarlyNoise, PerElement
from .frame import Framed, Shifted, clock_of, one_clock, unframed
from .gaussian import VE, VP, Flow, Gaussian
from .grid import after_draw, even_logsnr, few, karras, rest, trailing, uniform, uniform_logsnr
from .immiscible import Immiscible, require_independent
from .interpolant import Interpolant
from .masked import Masked
from .noised import Noised, Process
from .residual import RDDM, Fading, Halved, Resfusion, Residual
from .shift import ImageShift, LabelShift, ShiftDDPM, WithShift
from .spectrum import SPD, ConstantSpeed, ShortestPath, fisher, fourier, spectrum_of
from .stationary import StationaryOU, reference_step
from .table import Table
from .two_clocks import CONTROL, ESTIMATION, JOINT, Leg, OnLeg, TimePath, TwoClocks, slower

# DDPM's chain of 1000 steps, as it is trained
PROCESSES = (VP(), VP("linear"), VP("sigmoid"), VE(), Flow(), Table.of_betas(torch.linspace(1e-4, 0.02, 1000)))
GRIDS = (uniform, uniform_logsnr, few, after_draw, karras, trailing)

__all__ = [
    "CONTROL",
    "ESTIMATION",
    "GRIDS",
    "JOINT",
    "PROCESSES",
    "RDDM",
    "SPD",
    "VE",
    "VP",
    "ConstantSpeed",
    "EarlyNoise",
    "Fading",
    "Flow",
    "Framed",
    "Gaussian",
    "Halved",
    "ImageShift",
    "Immiscible",
    "InBasis",
    "Interpolant",
    "LabelShift",
    "Leg",
    "Masked",
    "Noised",
    "NonUniform",
    "OnLeg",
    "PerElement",
    "Process",
    "Resfusion",
    "Residual",
    "ShiftDDPM",
    "Shifted",
    "ShortestPath",
    "StationaryOU",
    "Table",
    "TimePath",
    "TwoClocks",
    "WithShift",
    "after_draw",
    "band_of",
    "clock_of",
    "cosine",
    "even_logsnr",
    "few",
    "fisher",
    "fourier",
    "from_pyramid",
    "haar",
    "karras",
    "one_clock",
    "pyramid",
    "reference_step",
    "require_independent",
    "rest",
    "slower",
    "spectrum_of",
    "terminal_kl",
    "trailing",
    "unframed",
    "uniform",
    "uniform_logsnr",
]
