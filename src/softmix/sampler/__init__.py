"""The room of samplers: coroutines that ask what is believed of x0 and step towards it.

A sampler never sees a network. It yields `Ask(t, x)`, is sent a posterior, and returns x at the end of
its grid; a driver (`drive`, `sample`) puts the two together.
"""

from collections.abc import Sequence

from .contract import Ask, Sampler, Traits, label, traits
from .drive import Step, drive, sample
from .multistep import dpm_solver_2m, soft_2m
from .ode import heun
from .walk import ancestral, ddim, renoise

SAMPLERS: Sequence[Sampler] = (ancestral, renoise, soft_2m, ddim, heun, dpm_solver_2m)
BY_NAME = {traits(each).name: each for each in SAMPLERS}

__all__ = [
    "BY_NAME",
    "SAMPLERS",
    "Ask",
    "Sampler",
    "Step",
    "Traits",
    "ancestral",
    "ddim",
    "dpm_solver_2m",
    "drive",
    "heun",
    "label",
    "renoise",
    "sample",
    "soft_2m",
    "traits",
]
