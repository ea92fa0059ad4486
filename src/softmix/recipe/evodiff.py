"""The room of recipes: EVODiff. Do weights that are chosen by what the means have in common beat fixed ones?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..sampler import dpm_solver_2m, evodiff, unipc
from .contest import Numbers, Way, contest
from .paper import Paper, Scale, Verdict

PAPER = Paper(
    name="evodiff",
    title="EVODiff: Entropy-aware Variance Optimized Diffusion Inference",
    authors="Li, Shigui and Chen, Wei and Zeng, Delu",
    venue="NeurIPS",
    year=2025,
    arxiv="2509.26096",
    claim="Two weights a step, chosen to lower the variance of the reverse transition, beat DPM-Solver++ and UniPC at "
    "equal evaluations.",
)
FOUND = (
    "does not hold here (quick): as released it is behind 2M and UniPC; made consistent it is nearer than "
    "2M, and nearly as near with its weight fixed"
)

# the middle of what the adaptive weights are on the oracle
MIDDLE = 0.34
WAYS = (
    Way.of("evodiff as released", "ours", partial(evodiff, form="released")),
    Way.of("evodiff, consistent", "ours", evodiff),
    Way.of("released, its weights fixed", "control", partial(evodiff, form="released", fixed=(MIDDLE, 0.56))),
    Way.of("consistent, its weight fixed", "control", partial(evodiff, fixed=(MIDDLE, 1 - 2 * MIDDLE))),
    Way.of("dpm-solver-2m", "baseline", dpm_solver_2m),
    Way.of("unipc", "baseline", unipc),
)
COUNTS = (5, 8, 10, 15, 20)


def run(scale: Scale, say: Callable[[str], None], out: Path | None = None) -> Verdict:
    """The average over 5 to 20 evaluations of the mean error, fixed before it was measured, decides."""

    def checks(value: Numbers) -> Mapping[str, bool]:
        found = {way.name: sum(value[way.name, f"mean@{k}"] for k in COUNTS) / len(COUNTS) for way in WAYS}
        released, ours, fixed, still = (found[way.name] for way in WAYS[:4])
        multistep, pc = found["dpm-solver-2m"], found["unipc"]
        return {
            f"as released it is nearer than 2M by a tenth ({released:.4f}, {multistep:.4f})": released
            < 0.9 * multistep,
            f"and than UniPC ({pc:.4f})": released < pc,
            f"with its weights fixed it is worse, by more than a twentieth ({fixed:.4f})": fixed > 1.05 * released,
            f"made consistent it is nearer than 2M by a tenth ({ours:.4f})": ours < 0.9 * multistep,
            f"and than UniPC ({pc:.4f})*": ours < pc,
            f"with the weight of that fixed it is worse, by more than a twentieth ({still:.4f})": still > 1.05 * ours,
        }

    return contest(PAPER, WAYS, COUNTS, checks, scale, say)
