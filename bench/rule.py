"""The rule (K - 1) dSNR lambda_max > 1 for the steps at which a mixture matters, beside the measured gain of draws.

    python bench/rule.py --out runs/few --data fashion14 --images 150000 --picture docs/rule.png

lambda_max(t) is that of the best linear estimate of x0 from x_t, lambda / (1 + snr lambda) with lambda the largest
eigenvalue of the covariance of the data. It is at least the true average: the rule errs towards mixtures. K = 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from softmix.data import load
from softmix.loss import mixture_gain
from softmix.process import VP, few, uniform
from softmix.recipe.frame import rows_in
from softmix.recipe.images import DATA_SETS, best, folder

COUNTS = (2, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/few"))
    parser.add_argument("--data", choices=DATA_SETS, default="fashion14")
    parser.add_argument("--images", type=int, default=150_000)
    parser.add_argument("--picture", type=Path, default=Path("rule.png"))
    options = parser.parse_args()
    source, size, _ = DATA_SETS[options.data]
    x0 = load(source, size=size).x0(slice(0, 10000)).flatten(1).double()
    top = float(torch.linalg.eigvalsh(torch.cov(x0.T))[-1])
    measured, process = rows_in(folder(options.out, options.data, options.images)), VP()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    print(
        f"largest eigenvalue {top:.1f}\n\n| steps | grid | dSNR lambda_max of each step but the last |\n|---|---|---|"
    )
    for n in COUNTS:
        for name, make in (("few", few), ("uniform", uniform)):
            grid = make(process, n)
            snr = process.logsnr(grid).exp()
            pays = mixture_gain(process, grid, top / (1 + snr[:-1] * top))[:-1]
            print(f"| {n} | {name} | {', '.join(f'{v:.1f}' for v in pays.tolist())} |")
            if name == "few":
                left.plot(process.logsnr(grid[1:-1]), pays, "o-", ms=3, label=f"{n} steps")
    left.axhline(1, color="black", lw=0.8)
    left.set(
        yscale="log", xlabel="logsnr at the step's end", ylabel="dSNR lambda_max", title="grid of few; above 1 it pays"
    )
    left.legend(frameon=False)
    rows = (("plain", "plain, best sampler"), ("feature score, eta = 0", "eta = 0"), ("feature score", "soft mixture"))
    print("\n| row | " + " | ".join(map(str, (1, *COUNTS))) + " |\n|" + "---|" * (len(COUNTS) + 2))
    for row, label in rows:
        if any(each.name == row for each in measured):
            line = [best(measured, row, n).value for n in (1, *COUNTS)]
            right.plot((1, *COUNTS), line, "o-", ms=3, label=label)
            print(f"| {label} | " + " | ".join(f"{v:.3g}" for v in line) + " |")
    ticks = (1, *COUNTS)
    right.set(
        xscale="log", yscale="log", xlabel="evaluations", ylabel="Fréchet distance", xticks=ticks, xticklabels=ticks
    )
    right.minorticks_off()
    right.legend(frameon=False)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=110)
    print(f"\nwrote {options.picture}")


if __name__ == "__main__":
    main()
