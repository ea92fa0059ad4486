"""Draw the picture of the README: samples of several runs, one row for each run and number of steps.

python examples/picture.py runs/fashion-plain runs/fashion-smd --out docs/fashion.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import softmix
from softmix.data import to_uint8
from softmix.picture import labelled, save_png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--n", type=int, default=16)
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        model = softmix.load(run)
        for k in options.steps:
            images = softmix.sample(model.denoiser, options.n, k, sampler=model.sampler)
            rows.append((f"{run.name}, {k} step{'s' if k > 1 else ''}", to_uint8(images)))
    save_png(options.out, labelled(rows), {"runs": [str(run.name) for run in options.runs], "seed": 0})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
