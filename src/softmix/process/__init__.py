"""Processes: how clean data becomes noise.

A process draws x_t from x_0 (`noise`), draws the start of sampling (`prior`), and steps back from x_t to x_s for a
given estimate of x_0 (`bridge`). It uses no network. Time t runs from 0 (clean) to 1 (noise). All processes share the
clock logsnr = log(alpha^2 / sigma^2).

Processes: `VP`, `VE`, `Flow`, `Table` (a discrete model), `PerElement` (one schedule per element), `InBasis` and the
base classes `Framed` and `Shifted` (a Gaussian process in other coordinates, the frame). Grids of times: `uniform`,
`uniform_logsnr`, `few`, `after_draw`, `karras`, `trailing`, `rest`, `even_logsnr`. `Interpolant` is not Gaussian: it
leads to other data in the place of noise.
"""

import torch

from .basis import InBasis, cosine
from .element import PerElement
from .frame import Framed, Shifted, clock_of, one_clock, unframed
from .gaussian import VE, VP, Flow, Gaussian
from .grid import after_draw, even_logsnr, few, karras, rest, trailing, uniform, uniform_logsnr
from .immiscible import Immiscible, require_independent
from .interpolant import Interpolant
from .noised import Noised, Process
from .residual import RDDM, Fading, Halved, Resfusion, Residual
from .shift import ImageShift, LabelShift, ShiftDDPM, WithShift
from .spectrum import SPD, ConstantSpeed, ShortestPath, fisher, fourier, spectrum_of
from .table import Table

# DDPM's chain of 1000 steps, as it is trained
PROCESSES = (VP(), VP("linear"), VP("sigmoid"), VE(), Flow(), Table.of_betas(torch.linspace(1e-4, 0.02, 1000)))
GRIDS = (uniform, uniform_logsnr, few, after_draw, karras, trailing)

__all__ = [
    "GRIDS",
    "PROCESSES",
    "RDDM",
    "SPD",
    "VE",
    "VP",
    "ConstantSpeed",
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
    "Noised",
    "PerElement",
    "Process",
    "Resfusion",
    "Residual",
    "ShiftDDPM",
    "Shifted",
    "ShortestPath",
    "Table",
    "WithShift",
    "after_draw",
    "clock_of",
    "cosine",
    "even_logsnr",
    "few",
    "fisher",
    "fourier",
    "karras",
    "one_clock",
    "require_independent",
    "rest",
    "spectrum_of",
    "trailing",
    "unframed",
    "uniform",
    "uniform_logsnr",
]
