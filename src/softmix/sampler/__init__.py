"""Samplers: coroutines that step from noise to data.

A sampler never sees a network. It yields `Ask(t, x)`, is sent a posterior, and returns x at the end of its grid. The
driver (`drive`, `sample`) connects a sampler and a denoiser. `SAMPLERS` lists the samplers of Gaussian processes,
`FOR_INTERPOLANTS` those of an `Interpolant`, and `FOR_TOKENS` those of `Masked`. `traits` has their properties, and
`on_grid` gives one another grid. `restore` draws clean images for given ones, and
`sample_modalities` all modalities of a joint model. Other parts: inversions (`edit_friendly`,
`dpm_encoder`, `ddim_inversion`) and `replay`; starts that are not pure noise (`noised`, `GaussianFit`,
`SemiDiscreteOT`); guidance by a function of the image (`steered`). Samplers of a density without data give
`WeightedSamples`: `importance_samples`, `annealed_importance_samples`, and `controlled_path` with a learned control;
`langevin_samples` has no weights.
"""

from collections.abc import Sequence

from ..precision import Precision
from .annealed import annealed_importance_samples, langevin_samples
from .contract import Ask, Sampler, SamplerError, Traits, label, on_grid, traits
from .controlled import controlled_path, path_grid, with_fixed_parameters
from .drive import Step, batch_for, drive, sample
from .evodiff import evodiff
from .interpolant import epsilon, interpolant_heun, velocity
from .invert import ColourEdit, NoiseCode, ddim_inversion, dpm_encoder, edit_friendly, replay
from .latent import decoded, steered
from .modalities import sample_aggregate, sample_modalities
from .multistep import (
    MultistepRule,
    adams,
    dpm_solver_2m,
    dpm_solver_3m,
    multistep,
    sde_dpm_solver_2m,
    soft_adams,
    unipc,
)
from .ode import dpm_solver_2s, dpm_solver_3s, heun
from .pndm import f_pndm, fon, plms, s_pndm
from .restoration import restore
from .start import GaussianFit, SemiDiscreteOT, Start, contraction, noised
from .statistics import Statistics
from .two_clocks import along, multi_speed
from .unmask import unmask
from .v3 import dpm_solver_v3
from .walk import ancestral, ddim, renoise
from .weighted import WeightedSamples, importance_samples

SAMPLERS: Sequence[Sampler] = (
    *(ancestral, renoise, soft_adams, sde_dpm_solver_2m, ddim, heun),
    *(dpm_solver_2m, dpm_solver_3m, dpm_solver_2s, dpm_solver_3s, unipc, adams),
    *(dpm_solver_v3, evodiff, plms, s_pndm, f_pndm, fon),
)
# those for stochastic interpolants, beside ancestral
FOR_INTERPOLANTS: Sequence[Sampler] = (epsilon, interpolant_heun)
# those for tokens, beside ancestral and renoise
FOR_TOKENS: Sequence[Sampler] = (unmask,)
BY_NAME = {traits(each).name: each for each in (*SAMPLERS, *FOR_INTERPOLANTS, *FOR_TOKENS)}

__all__ = [
    "BY_NAME",
    "FOR_INTERPOLANTS",
    "FOR_TOKENS",
    "SAMPLERS",
    "Ask",
    "ColourEdit",
    "GaussianFit",
    "MultistepRule",
    "NoiseCode",
    "Precision",
    "Sampler",
    "SamplerError",
    "SemiDiscreteOT",
    "Start",
    "Statistics",
    "Step",
    "Traits",
    "WeightedSamples",
    "adams",
    "along",
    "ancestral",
    "annealed_importance_samples",
    "batch_for",
    "contraction",
    "controlled_path",
    "ddim",
    "ddim_inversion",
    "decoded",
    "dpm_encoder",
    "dpm_solver_2m",
    "dpm_solver_2s",
    "dpm_solver_3m",
    "dpm_solver_3s",
    "dpm_solver_v3",
    "drive",
    "edit_friendly",
    "epsilon",
    "evodiff",
    "f_pndm",
    "fon",
    "heun",
    "importance_samples",
    "interpolant_heun",
    "label",
    "langevin_samples",
    "multi_speed",
    "multistep",
    "noised",
    "on_grid",
    "path_grid",
    "plms",
    "renoise",
    "replay",
    "restore",
    "s_pndm",
    "sample",
    "sample_aggregate",
    "sample_modalities",
    "sde_dpm_solver_2m",
    "soft_adams",
    "steered",
    "traits",
    "unipc",
    "unmask",
    "velocity",
    "with_fixed_parameters",
]
