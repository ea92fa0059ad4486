"""One short file for each paper. Its claim is run, beside a baseline and a control.

A recipe module has PAPER and run(scale, say, out) -> Verdict. It is listed in RECIPES when it runs, not before. What
came out at full scale is in found/NAME.json, as `softmix reproduce NAME --out FOLDER` wrote it; FOUND says it in a
sentence.
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
    painters,
    pndm,
    smd,
    unipc,
)
from .paper import Paper, Scale, Verdict, VerdictRow

RECIPES: tuple[ModuleType, ...] = (
    *(smd, pndm, dpm_solver, unipc, dpm_solver_v3, evodiff, dpm_ot),
    *(edit_friendly, cycle_diffusion, ccdf, diffusion_time, painters),
)
PAPERS: dict[str, ModuleType] = {recipe.PAPER.name: recipe for recipe in RECIPES}


def found(name: str) -> Verdict | None:
    """The verdict of the last run at full scale; None where none was made."""
    path = Path(__file__).parent / "found" / f"{name}.json"
    return Verdict.load(path) if path.exists() else None


__all__ = ["PAPERS", "RECIPES", "Paper", "Scale", "Verdict", "VerdictRow", "found"]
