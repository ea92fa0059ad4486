"""The affine table from the output of a network to the clean signal.

For x_t = alpha x0 + sigma z, every usual output F is affine in (x0, z), hence x0 = a x_t + b F:

    name    F                                          a                            b
    x0      x0                                         0                            1
    eps     z                                          1 / alpha                    -sigma / alpha
    v       alpha z - sigma x0                         alpha / (alpha^2 + sigma^2)  -sigma / (alpha^2 + sigma^2)
    flow    z - x0                                     1 / (alpha + sigma)          -sigma / (alpha + sigma)
    edm     (x0 - a x_t) / b                           alpha sd^2 / n               sigma sd / sqrt(n)

with n = alpha^2 sd^2 + sigma^2 and sd the standard deviation of the data (Karras et al. 2022, table 1, for any alpha).
For x_t = alpha x0 + k u + sigma z, a process shifted by the other item u of a pair, two more outputs are affine in
(x0, z, u): the residual, and the residual noise of Resfusion, with kappa = sigma / 2. In the frame y = x_t - k u, and
x0 = a y + b F + c u:

    name      F                   a      b           c
    residual  u - x0              0      -1          1
    resnoise  z + kappa (u - x0)  1 / n  -sigma / n  kappa sigma / n    with n = alpha + kappa sigma

|b| is the factor from an error of the network to the error of x0. It is at most 1 for x0, flow, and for v with
alpha^2 + sigma^2 >= 1; at most 1.21 for v with `Flow`; at most sd for edm. For eps it grows as 1 / sqrt(snr).
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Output = Literal["x0", "eps", "v", "flow", "edm", "residual", "resnoise"]
# those of shifted processes alone, and those of every process
SHIFTED_OUTPUTS: tuple[Output, ...] = ("residual", "resnoise")
OUTPUTS: tuple[Output, ...] = tuple(name for name in get_args(Output) if name not in SHIFTED_OUTPUTS)
# the papers of each row
CITES: dict[str, tuple[str, ...]] = {
    "x0": (),
    "eps": ("ddpm",),
    "v": ("progressive_distillation",),
    "flow": ("flow_matching",),
    "edm": ("edm",),
    "residual": ("rddm",),
    "resnoise": ("resfusion",),
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


def affine_with_shift(output: Output, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, c) such that x0 = a y + b F + c u, for the outputs of shifted processes."""
    if output == "residual":
        return 0 * alpha, -1 + 0 * sigma, 1 + 0 * alpha
    if output == "resnoise":
        # kappa = sigma / 2, the limit of small steps of the published (1 - sqrt(alpha_t)) sigma / beta_t
        both = sigma**2 / 2
        return 1 / (alpha + both), -sigma / (alpha + both), both / (alpha + both)
    raise ValueError(
        f"the output {output!r} was asked for; of shifted processes there are {', '.join(SHIFTED_OUTPUTS)}"
    )
