"""The command line: `softmix evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .common import UsageError


def evaluate(
    run: Positional[Path],
    data: Positional[str | None] = None,
    /,
    steps: tuple[int, ...] | None = None,
    n: int | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    beside: tuple[Path, ...] = (),
    features: Literal["auto", "pixels", "pca", "classifier"] = "auto",
    seed: int = 0,
    weights: str | None = None,
    average: int = 0,
    precision: Literal["fp32", "bf16"] | None = None,
    out: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Measure a trained model by number of steps, or samples of any origin: a table here, and report.html.

    `softmix evaluate runs/photos` measures a run against data that it was not trained on, and `softmix evaluate samples
    photos` the pictures in the folder samples against those in photos. Finished rows are kept beside the report, as
    report.json: the same command goes on from them, and other steps are added to them.

    Args:
        run: a run folder, or a model that comes with softmix: fashion; or samples: a folder or a .zip of pictures, a
            .npy.
        data: of a run, the data it was trained on, if they are elsewhere now; of samples, what to compare them with.
        steps: numbers of steps to measure at; 1 2 4 8 16 if none are named.
        n: samples for each; if not said 2,000, or fewer where the data are few. Of given samples all.
        sampler: as in `softmix sample`.
        eta: as in `softmix sample`.
        beside: other runs on the same data, or other samples, for the same report.
        features: what distances are measured in: classifier, trained on the labels of 8 to 256 pixels a side; pca, of
            pixels, for any size; pixels themselves, of small images; auto is the first of these two that can be had.
        seed: of the samples, and of the blocks that give the errors.
        weights: model, or an average such as ema-0.100.
        average: take the mean of this many draws, for samplers that need a mean.
        precision: as in `softmix sample`.
        out: where the report goes: a .html, or a folder that is there.
        dry_run: say what would be done.
    """
    from .measure_runs import evaluate_runs
    from .measure_samples import evaluate_samples
    from .measuring import Asked, is_run, named

    asked = Asked(data, n, features, seed, named(run, out), dry_run)
    sampling = {"steps": steps, "sampler": sampler, "eta": eta, "weights": weights, "average": average or None}
    if is_run(run):
        chosen = (1, 2, 4, 8, 16) if steps is None else steps
        evaluate_runs((run, *beside), asked, chosen, sampler, eta, weights, average, precision or "fp32")
        return
    said = [f"--{name}" for name, value in (sampling | {"precision": precision}).items() if value is not None]
    if said:
        raise UsageError(
            f"{run} is not a run folder: it has no config.json. Samples are measured as they are, without {said[0]}"
        )
    evaluate_samples((run, *beside), asked)
