"""PNDM: the Adams rule applied to the step of DDIM, against the same rule applied to x."""

from __future__ import annotations

from collections.abc import Mapping

from ..sampler import ddim, dpm_solver_2m, f_pndm, fon, plms, s_pndm
from ..sampler.pndm import chain
from .contest import Way, contest
from .frame import Numbers
from .paper import Paper

PAPER = Paper.of(
    "pndm",
    "Adams' rule around DDIM's step, and not on x, reaches in 50 steps what DDIM does in 250 and more.",
)
RESULT = (
    "on its chain the error of F-PNDM at 59 evaluations is half that of DDIM at 250, and less than that of the same "
    "rule on x with exact slopes; on times even in logsnr DDIM at 250 is better, and 2M at 59 has a seventh of the "
    "error; on images at 20 evaluations PLMS is a little better than 2M, and F-PNDM than DDIM"
)

WAYS = (
    Way.of("f-pndm", "ours", f_pndm, chain),
    Way.of("s-pndm", "ours", s_pndm, chain),
    Way.of("plms", "ours", plms, chain),
    Way.of("ddim", "baseline", ddim, chain),
    Way.of("fon, the same rule on x", "control", fon, chain),
    Way.of("dpm-solver-2m", "rival", dpm_solver_2m, chain),
    Way.of("ddim, even in logsnr", "baseline", ddim),
    Way.of("dpm-solver-2m, even in logsnr", "rival", dpm_solver_2m),
)
COUNTS = (10, 20, 59, 109, 250)


def checks(value: Numbers) -> Mapping[str, bool]:
    """On the chain of DDPM, as in the paper. Rivals also run on times of their own."""
    quick, slow = value["f-pndm", "median@59"], value["ddim", "median@250"]
    same = value["ddim", "median@59"]
    on_x = value["fon, the same rule on x", "median@59"]
    few = value["f-pndm", "mean@20"], value["ddim", "mean@20"]
    rival = min(value[f"dpm-solver-2m{grid}", "median@59"] for grid in ("", ", even in logsnr"))
    own = value["ddim, even in logsnr", "median@250"]
    return {
        f"on the same chain F-PNDM at 59 is as near as DDIM at 250, within a tenth ({quick:.4f}, {slow:.4f})": quick
        <= 1.1 * slow,
        f"and as DDIM at 250 on times of its own ({own:.4f})": quick <= 1.1 * own,
        f"and nearer than DDIM at 59 ({same:.4f})": quick < same,
        f"the same rule on x is worse ({on_x:.4f})": quick < on_x,
        f"it is nearer at 20 too, by the mean ({few[0]:.3f}, {few[1]:.3f})": few[0] < few[1],
        f"and no solver that remembers one mean is nearer ({rival:.4f})": quick <= rival,
    }


run = contest(PAPER, WAYS, COUNTS, checks)
