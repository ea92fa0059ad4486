"""The affine table from the output of a network to the clean signal.

For x_t = alpha x0 + sigma z, every usual output F is affine in (x0, z), hence x0 = a x_t + b F:

    name    F                                          a                            b
    x0      x0                                         0                            1
    eps     z                                          1 / alpha                    -sigma / alpha
    v       alpha z - sigma x0                         alpha / (alpha^2 + sigma^2)  -sigma / (alpha^2 + sigma^2)
    flow    z - x0                                     1 / (alpha + sigma)          -sigma / (alpha + sigma)
    edm     (x0 - a x_t) / b                           alpha sd^2 / n               sigma sd / sqrt(n)

with n = alpha^2 sd^2 + sigma^2 and sd the standard deviation of the data (Karras et al. 2022, table 1, for any alpha).
|b| is the factor from an error of the network to the error of x0. It is at most 1 for x0, flow, and for v with
alpha^2 + sigma^2 >= 1; at most 1.21 for v with `Flow`; at most sd for edm. For eps it grows as 1 / sqrt(snr).
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Output = Literal["x0", "eps", "v", "flow", "edm"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
# the papers of each row
CITES: dict[str, tuple[str, ...]] = {
    "x0": (),
    "eps": ("ddpm",),
    "v": ("progressive_distillation",),
    "flow": ("flow_matching",),
    "edm": ("edm",),
}


def affine(output: Output, alpha: Tensor, sigma: Tensor, data_sd: float = 1.0) -> tuple[Tensor, Tensor]:
    """(a, b) such that x0 = a x_t + b F, in the shape of alpha and sigma."""
    if output == "x0":
        return 0 * alpha, 1 + 0 * sigma
    if output == "eps":
        return 1 / alpha, -sigma / alpha
    if output == "v":
        norm = alpha**2 + sigma**2
        return alpha / norm, -sigma / norm
    if output == "flow":
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)
    if output == "edm":
        norm = alpha**2 * data_sd**2 + sigma**2
        return alpha * data_sd**2 / norm, sigma * data_sd / norm.sqrt()
    raise ValueError(f"the output {output!r} was asked for; the table has {', '.join(OUTPUTS)}")
