"""Draw the pictures of the README: samples of runs, one row for each run and number of steps. Classes take turns.

python examples/picture.py runs/fashion-plain runs/fashion-smd --out docs/fashion.png
python examples/picture.py fashion-classes --n 20 --grid after_draw --out docs/fashion-classes.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import softmix
from softmix.data import to_uint8
from softmix.picture import labelled, save_png
from softmix.process import GRIDS
from softmix.sampler import on_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--grid", choices=[grid.__name__ for grid in GRIDS], help="by default that of the sampler")
    options = parser.parse_args()
    grids, rows = {grid.__name__: grid for grid in GRIDS}, []
    for run in options.runs:
        model = softmix.load(run)
        classes = model.denoiser.classes
        cond = torch.arange(options.n) % classes if classes else None
        sampler = model.sampler if options.grid is None else on_grid(model.sampler, grids[options.grid])
        for k in options.steps:
            images = softmix.sample(model.denoiser, options.n, k, sampler=sampler, cond=cond)
            rows.append((f"{run.name}, {k} step{'s' if k > 1 else ''}", to_uint8(images)))
    save_png(
        options.out, labelled(rows), {"runs": [str(run.name) for run in options.runs], "grid": options.grid, "seed": 0}
    )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
