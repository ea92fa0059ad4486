"""Measurements of a denoiser on data, for samplers.

`where_to_start` finds the best time for a start that is not pure noise, in nats of the bound on log p. `fit_statistics`
measures the coefficients of DPM-Solver-v3. `log_density` is the density of the ODE of a model.
`bits_per_token` is a bound on the bits of tokens.
"""

from .likelihood import log_density
from .start_time import where_to_start
from .statistics import fit_statistics
from .token_bound import bits_per_token

__all__ = ["bits_per_token", "fit_statistics", "log_density", "where_to_start"]
