"""The room of recipes: UniPC. Does a corrector that costs nothing raise the order by one?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..sampler import adams, ddim, dpm_solver_2m, unipc
from ..sampler.multistep import Rule, multistep
from .contest import Numbers, Way, contest
from .paper import Paper, Scale, Verdict

PAPER = Paper(
    name="unipc",
    title="UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
    authors="Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen",
    venue="NeurIPS",
    year=2023,
    arxiv="2302.04867",
    claim="A corrector without further evaluations raises a solver's order by one, and few steps gain most.",
)
FOUND = (
    "nearer than its predictor at 10 and 20, but no higher order is seen by 40 evaluations, and at 5 it gains nothing; "
    "on images it gains most at 5, and exact integrals (adams) more"
)

WAYS = (
    Way.of("UniPC-2, bh2", "ours", unipc),
    Way.of("UniPC-2, bh1", "ours", partial(unipc, line="bh1")),
    Way.of("UniPC-3", "ours", partial(unipc, order=3)),
    Way.of("exact integrals (adams)", "ours", adams),
    # bh2's predictor of order 2 is this
    Way.of("its predictor alone (2M)", "baseline", dpm_solver_2m),
    Way.of("a predictor of order 3 alone", "control", partial(multistep, rule=Rule(3, corrects=1))),
    Way.of("ddim", "baseline", ddim),
)
COUNTS = (5, 8, 10, 20, 40)


def run(scale: Scale, say: Callable[[str], None], out: Path | None = None) -> Verdict:
    """All on one grid."""

    def checks(value: Numbers) -> Mapping[str, bool]:
        ours, alone = (value[name, "mean@10"] for name in ("UniPC-2, bh2", "its predictor alone (2M)"))
        more, plain = (value[name, "mean@20"] for name in ("UniPC-2, bh2", "its predictor alone (2M)"))
        fall, bare_fall = (
            value[name, "median@20"] / value[name, "median@40"] for name in ("UniPC-2, bh2", "its predictor alone (2M)")
        )
        third = value["a predictor of order 3 alone", "mean@10"]
        few, bare = (value[name, "mean@5"] for name in ("UniPC-2, bh2", "its predictor alone (2M)"))
        return {
            f"with the corrector it is nearer at 10 ({ours:.4f}, without {alone:.4f})": ours < alone,
            f"and at 20 ({more:.4f}, {plain:.4f})": more < plain,
            f"its order is higher by one: from 20 to 40 the median falls by {fall:.1f}, at least 1.5 times the "
            f"predictor's {bare_fall:.1f}": fall > 1.5 * bare_fall,
            f"remembering one mean more is not as good ({third:.4f} at 10)": ours < third,
            f"few steps gain most: {bare / few:.2f} times at 5, {plain / more:.2f} at 20": bare / few > plain / more,
        }

    return contest(PAPER, WAYS, COUNTS, checks, scale, say)
