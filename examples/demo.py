"""Train plain diffusion and a soft mixture on the digits and compare them, in about five minutes.

    python examples/demo.py [--minutes 1.7] [--out runs/demo]

Both models train for the same time. Samples with 1, 2, 4 and 8 steps are measured. The result is a table, a picture and
a report. The same command continues a demonstration that was cut off.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import softmix
from softmix.cli import cache
from softmix.data import to_uint8
from softmix.evaluate import evaluate_model, spread_table, table, write_report
from softmix.picture import labelled, save_png

STEPS = (1, 2, 4, 8)
MODELS: tuple[Literal["plain", "smd"], ...] = ("plain", "smd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.7, help="of training for each of the two models")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    train, held_out = softmix.data.load("digits"), softmix.data.load("digits", split="test")
    results, rows = [], [("real", to_uint8(held_out.x0(slice(0, 16))))]
    for name in MODELS:
        print(f"\n== {name}: training for {options.minutes:g} minutes on {len(train)} digits")
        config = softmix.preset(name, train.shape).but(minutes=options.minutes)
        model = softmix.train(train, config, options.out / name)
        result = evaluate_model(
            model.denoiser, train, held_out, title=name, steps=STEPS, sampler=model.sampler, n=1000, cache=cache()
        )
        results.append(result)
        for k in STEPS:
            images = softmix.sample(model.denoiser, 16, k, sampler=model.sampler)
            rows.append((f"{name}, {k} step{'s' if k > 1 else ''}", to_uint8(images)))
    picture = options.out / "samples.png"
    save_png(picture, labelled(rows))
    report = write_report(options.out / "report.html", results)
    for result in results:
        print(f"\n{result.title}\n{table(result)}")
        if result.latent_spread is not None:
            print(f"\n{spread_table(result.latent_spread)}")
    print(f"\npicture: {picture}\nreport:  {report}")


if __name__ == "__main__":
    main()
