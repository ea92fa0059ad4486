"""The room of samplers: coroutines that ask what is believed of x0 and step towards it.

A sampler never sees a network. It yields `Ask(t, x)`, is sent a posterior, and returns x at the end of
its grid; a driver (`drive`, `sample`) puts the two together.
"""

from collections.abc import Sequence

from .contract import Ask, Sampler, Traits, label, traits
from .drive import Precision, Step, drive, sample
from .multistep import adams, dpm_solver_2m, soft_adams
from .ode import heun
from .walk import ancestral, ddim, renoise

SAMPLERS: Sequence[Sampler] = (ancestral, renoise, soft_adams, ddim, heun, dpm_solver_2m, adams)
BY_NAME = {traits(each).name: each for each in SAMPLERS}

__all__ = [
    "BY_NAME",
    "SAMPLERS",
    "Ask",
    "Precision",
    "Sampler",
    "Step",
    "Traits",
    "adams",
    "ancestral",
    "ddim",
    "dpm_solver_2m",
    "drive",
    "heun",
    "label",
    "renoise",
    "sample",
    "soft_adams",
    "traits",
]
