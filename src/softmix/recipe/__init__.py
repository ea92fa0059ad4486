"""One short file for each paper. It runs the claim of the paper beside a baseline and a control.

A recipe module has PAPER, RESULT and run(scale, progress, out) -> Verdict. RECIPES lists the recipes that run. RESULT
is the outcome at full scale in a sentence. found/NAME.json is the verdict of the last run at full scale,
as `softmix reproduce NAME --out FOLDER` wrote it.
"""

from pathlib import Path
from types import ModuleType

from . import (
    ccdf,
    cycle_diffusion,
    diffusion_time,
    dpm_ot,
    dpm_solver,
    dpm_solver_v3,
    edit_friendly,
    evodiff,
    immiscible,
    non_uniform,
    painters,
    pid,
    pndm,
    rddm,
    resfusion,
    shift_ddpms,
    smd,
    spd,
    stochastic_interpolants,
    unicon,
    unipc,
)
from .paper import Paper, Scale, Verdict, VerdictRow

RECIPES: tuple[ModuleType, ...] = (
    *(smd, pndm, dpm_solver, unipc, dpm_solver_v3, evodiff, dpm_ot),
    *(edit_friendly, cycle_diffusion, ccdf, diffusion_time, painters),
    *(shift_ddpms, rddm, resfusion, non_uniform, spd),
    *(stochastic_interpolants, immiscible, unicon),
    pid,
)
PAPERS: dict[str, ModuleType] = {recipe.PAPER.name: recipe for recipe in RECIPES}


def last_verdict(name: str) -> Verdict | None:
    """The verdict of the last run at full scale, or None."""
    path = Path(__file__).parent / "found" / f"{name}.json"
    return Verdict.load(path) if path.exists() else None


__all__ = ["PAPERS", "RECIPES", "Paper", "Scale", "Verdict", "VerdictRow", "last_verdict"]
