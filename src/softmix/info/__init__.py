"""Measurements of a denoiser on data, for samplers.

`where_to_start` finds the best time for a start that is not pure noise, in nats of the bound on log p. `fit_statistics`
measures the coefficients of DPM-Solver-v3.
"""

from .start_time import where_to_start
from .statistics import fit_statistics

__all__ = ["fit_statistics", "where_to_start"]
