"""Class edits of unseen images, with their own noise and with other noise, as a picture.

    softmix train fashion-mnist --model plain --set classes=true --minutes 13 --out runs/classes
    python bench/edits.py runs/classes docs/edit.png

Any run with classes of Fashion-MNIST will do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from softmix.data import load as load_data
from softmix.data import to_uint8
from softmix.denoiser import guided
from softmix.picture import labelled, save_png
from softmix.process import uniform_logsnr
from softmix.rng import Rng
from softmix.sampler import ancestral, drive, edit_friendly, replay
from softmix.sampler.drive import finish
from softmix.train import load

# the target class of each class of Fashion-MNIST
BECOMES = {0: 3, 1: 3, 2: 3, 3: 0, 4: 3, 5: 7, 6: 1, 7: 9, 8: 2, 9: 7}
STEPS, SKIP, GUIDANCE = 100, 36, 3.0


def rows(run: Path, each: int = 1) -> list[tuple[str, Tensor]]:
    """Before, edited, edited with guidance, and the control: the image as noisy, sampled again with fresh noise."""
    model, data = load(run), load_data("fashion-mnist", split="test")
    assert data.labels is not None
    labels = data.labels[:500]
    chosen = torch.cat([(labels == label).nonzero()[:each, 0] for label in range(10)])
    x0, given = data.x0(slice(0, 500))[chosen], labels[chosen]
    wanted = torch.tensor([BECOMES[int(label)] for label in given])
    grid, rng = uniform_logsnr(model.plain_process, STEPS), Rng(0, len(x0), "edits")
    code = finish(drive(model.denoiser, edit_friendly, x0, grid, rng, given))
    strong = guided(GUIDANCE)(model.denoiser)

    def played(denoiser: object) -> Tensor:
        sampler = replay(code, SKIP)
        return finish(drive(denoiser, sampler, code.start(SKIP), grid[SKIP:], rng, wanted))  # type: ignore[arg-type]

    noised = model.plain_process.noise(x0, float(grid[SKIP]), rng).xt
    again = finish(drive(model.denoiser, ancestral, noised, grid[SKIP:], rng, wanted))
    shown = {
        "before": x0,
        "another class": played(model.denoiser),
        "guided by 3": played(strong),
        "other noise": again,
    }
    return [(name, to_uint8(x.clamp(-1, 1))) for name, x in shown.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    save_png(options.out, labelled(rows(options.run), least=56))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
