"""All samplers by evaluations of the denoiser: on problems with known answers, and on a trained model.

    python bench/samplers.py                                    # the tables, minutes on one thread
    python bench/samplers.py --picture docs/samplers.png        # and the curves
    python bench/samplers.py --run fashion --picture docs/samplers-fashion.png     # Fréchet distance, an hour

On the oracles all samplers take the same grid, even in logsnr from noise to 12. Only the pseudo numerical methods take
the grid of their chain. `softmix.recipe.contest` defines the metrics.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from softmix.oracle import MixtureProblem, correlated, eight, gaussian
from softmix.process import VP
from softmix.recipe.contest import Field, Way, fashion, on_oracle, steps_for
from softmix.recipe.dpm_solver_v3 import statistics
from softmix.recipe.evodiff import released
from softmix.recipe.frame import ArmsRun, row, rows_of
from softmix.recipe.paper import VerdictRow
from softmix.sampler import SAMPLERS, dpm_solver_v3, label, traits, unipc
from softmix.sampler.pndm import chain

COUNTS = (3, 5, 8, 10, 15, 20, 40)
SHOWN = (5, 10, 20)
KINDS = ("median", "mean", "distance")
PROBLEMS: dict[str, Callable[[], MixtureProblem]] = {
    "a mixture on the line": lambda: correlated((1,), VP("linear")),
    "a correlated Gaussian in 8": lambda: gaussian((8,), VP("linear")),
    "a correlated mixture in 4": lambda: correlated((4,), VP("linear")),
    "eight components in 16": lambda: eight(VP("linear")),
}


def ways() -> list[Way]:
    """Every sampler, and the variants of papers."""
    listed = [
        Way.of(label(each), "ours", each, chain if traits(each).grid is chain else None)
        for each in SAMPLERS
        if each is not dpm_solver_v3
    ]
    return [
        *listed,
        Way.of("unipc, bh1", "ours", partial(unipc, line="bh1")),
        Way.of("unipc, 3", "ours", partial(unipc, order=3)),
        Way.of("evodiff, released", "ours", released),
        Way("dpm-solver-v3", "ours", lambda problem: partial(dpm_solver_v3, statistics=statistics(problem))),
        Way(
            "dpm-solver-v3, corrected",
            "ours",
            lambda problem: partial(dpm_solver_v3, statistics=statistics(problem), corrects="full"),
        ),
    ]


Found = dict[tuple[str, str], VerdictRow]


def table(name: str, found: Found) -> None:
    names = [each for each in dict.fromkeys(way for way, _ in found) if each != "exact samples"]
    head = " | ".join(f"{kind}, {count}" for kind in KINDS for count in SHOWN)
    print(f"\n**{name}**\n\n| sampler | {head} |\n|---|{'---|' * 9}")
    keys = [f"{kind}@{count}" for kind in KINDS for count in SHOWN]
    for way in [*names, "exact samples"]:
        cells = [cell(found[way, key]) if (way, key) in found else "" for key in keys]
        if not any(cells):
            continue
        print(f"| {way} | " + " | ".join(cells) + " |")
    least = [min((found[way, key].value, way) for way in names if (way, key) in found)[1] for key in keys]
    print("| *least* | " + " | ".join(f"*{way}*" for way in least) + " |", flush=True)


def cell(row: VerdictRow) -> str:
    return f"{row.value:.3g}±{row.spread:.1g}" if row.seeds > 1 else f"{row.value:.3g}"


FAMILIES = (
    ("ancestral", "renoise", "soft-adams", "sde-dpm-solver-2m"),
    ("ddim", "heun", "dpm-solver-2s", "dpm-solver-3s"),
    ("dpm-solver-2m", "dpm-solver-3m"),
    ("unipc", "unipc, bh1", "unipc, 3", "adams"),
    ("dpm-solver-v3", "dpm-solver-v3, corrected"),
    ("evodiff", "evodiff, released"),
    ("plms", "s-pndm", "f-pndm", "fon"),
)


def style(name: str) -> dict[str, object]:
    """A colour for each family, a line for each of its members."""
    family = next((k for k, names in enumerate(FAMILIES) if name in names), len(FAMILIES))
    place = FAMILIES[family].index(name) if family < len(FAMILIES) else 0
    return {"color": f"C{family}", "linestyle": ("-", "--", "-.", ":")[place], "linewidth": 1.4}


def dressed(axis: Axes, counts: Sequence[int], title: str, label: str) -> None:
    axis.set(xscale="log", yscale="log", title=title, xlabel="evaluations", ylabel=label)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set_xticks([], minor=True)


def picture(everything: dict[str, Found], path: Path) -> None:
    """Over evaluations: the distance from the law of every sampler, and the mean error of ODE solvers."""
    figure, axes = plt.subplots(2, len(everything), figsize=(5 * len(everything), 9), squeeze=False)
    for column, (name, found) in enumerate(everything.items()):
        listed = [each for each in dict.fromkeys(way for way, _ in found) if each != "exact samples"]
        kinds = (("distance", "sliced Wasserstein distance"), ("mean", "mean error of the ODE"))
        for axis, (kind, title) in zip(axes[:, column], kinds, strict=True):
            for way in listed:
                points = [(c, found[way, f"{kind}@{c}"].value) for c in COUNTS if (way, f"{kind}@{c}") in found]
                if points:
                    axis.plot(*zip(*points, strict=True), label=way, **style(way))  # type: ignore[arg-type]
            if kind == "distance":
                axis.axhline(found["exact samples", f"distance@{COUNTS[0]}"].value, color="grey", linestyle=":")
            dressed(axis, COUNTS, name, title)
            axis.set_ylim(top=min(axis.get_ylim()[1], 3))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=8, fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=80)
    print(f"wrote {path}")


def trained(counts: Sequence[int], seeds: Sequence[int], n: int, path: Path | None) -> None:
    """The shipped model: Fréchet distance of every sampler, on its own grid."""
    known = fashion()
    curves: dict[str, dict[int, VerdictRow]] = {}
    for each in SAMPLERS:
        for count in counts:
            steps = steps_for(each, count)
            if not steps:
                continue
            values = [known.distance(n, steps, seed, each, denoiser=known.model.denoiser) for seed in seeds]
            curves.setdefault(label(each), {})[count] = row(label(each), "ours", f"frechet@{count}", values, "")
            print(f"{label(each)}, {count}: {cell(curves[label(each)][count])}", flush=True)
    written(curves, counts, known.reference.features.name, path)


def written(curves: dict[str, dict[int, VerdictRow]], counts: Sequence[int], features: str, path: Path | None) -> None:
    print("\n| sampler | " + " | ".join(map(str, counts)) + " |\n|---|" + "---|" * len(counts))
    for name, points in curves.items():
        print(f"| {name} | " + " | ".join(cell(points[c]) if c in points else "" for c in counts) + " |")
    least = [min((points[c].value, name) for name, points in curves.items() if c in points)[1] for c in counts]
    print("| *least* | " + " | ".join(f"*{name}*" for name in least) + " |")
    if path is not None:
        figure, axis = plt.subplots(figsize=(10, 6))
        for name, points in curves.items():
            values = [found.value for found in points.values()]
            axis.plot(list(points), values, label=name, **style(name))  # type: ignore[arg-type]
        dressed(axis, counts, "Fashion-MNIST, the model that ships", f"Fréchet distance, {features} (not FID)")
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.tight_layout()
        figure.savefig(path, dpi=80)
        print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--run", choices=["fashion"], help="the model that ships, in the place of the oracles")
    options = parser.parse_args()
    if options.run:
        trained((2, 4, 5, 8, 10, 16, 20), options.seeds, options.n, options.picture)
        return
    torch.set_num_threads(1)
    everything: dict[str, Found] = {}
    for name, make in PROBLEMS.items():
        arms = on_oracle(ways(), COUNTS, Field(cache(make)), name)
        runs = [ArmsRun(each, seed, {"n": options.n, "counts": COUNTS}) for each in arms for seed in options.seeds]
        rows = rows_of(runs, lambda line: None)
        everything[name] = {(row.name, row.metric): row for row in rows}
        table(name, everything[name])
    if options.picture is not None:
        picture(everything, options.picture)


if __name__ == "__main__":
    main()
