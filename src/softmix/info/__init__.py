"""Expectations over data, estimated with a denoiser.

`where_to_start` measures at which time sampling may start, in nats of the bound on log p. `fit_statistics` measures the
coefficients of DPM-Solver-v3.
"""

from .start_time import where_to_start
from .statistics import fit_statistics

__all__ = ["fit_statistics", "where_to_start"]
