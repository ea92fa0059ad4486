"""How clean data becomes noise, and what lies between.

A process says what x_t is (`noise`), where sampling starts (`prior`) and how to step back from x_t
to x_s once x0 is believed (`bridge`). It knows no network. Time t runs from 0 (clean) to 1 (noise);
the clock that all processes share is logsnr = log(alpha^2 / sigma^2).
"""

import torch

from .basis import InBasis, cosine
from .element import PerElement
from .frame import Framed, Shifted, one_clock, unframed
from .gaussian import VE, VP, Flow, Gaussian
from .grid import even_logsnr, few, karras, rest, trailing, uniform, uniform_logsnr
from .noised import Noised, Process
from .table import Table

# DDPM's chain of 1000 steps, as it is trained
PROCESSES = (VP(), VP("linear"), VP("sigmoid"), VE(), Flow(), Table.of_betas(torch.linspace(1e-4, 0.02, 1000)))
GRIDS = (uniform, uniform_logsnr, few, karras, trailing)

__all__ = [
    "GRIDS",
    "PROCESSES",
    "VE",
    "VP",
    "Flow",
    "Framed",
    "Gaussian",
    "InBasis",
    "Noised",
    "PerElement",
    "Process",
    "Shifted",
    "Table",
    "cosine",
    "even_logsnr",
    "few",
    "karras",
    "one_clock",
    "rest",
    "trailing",
    "unframed",
    "uniform",
    "uniform_logsnr",
]
