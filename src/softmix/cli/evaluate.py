"""`softmix evaluate`: measure a trained model, or samples of any origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .common import Precision, UsageError, option
from .verb import Verb


@dataclass(frozen=True, kw_only=True)
class Evaluate(Verb):
    """Measure a trained model by number of steps, or samples of any origin: a table here, and report.html.

    For example `softmix evaluate runs/photos` measures a run against data that it was not trained on, and `softmix
    evaluate samples photos` the pictures in the folder samples against those in photos.

    Finished rows are saved beside the report, as report.json: the same command continues from them, and other steps are
    added to them.
    """

    run: Positional[Path]
    """A run folder, or a model that comes with softmix: fashion, fashion-classes; or samples: a folder or a .zip of
    pictures, a .npy."""
    data: Positional[str | None] = None
    """Of a run, its training data, if they have moved; of samples, the data to compare them with."""
    steps: tuple[int, ...] | None = None
    """Numbers of steps to measure at; by default 1 2 4 8 16."""
    n: int | None = None
    """Number of samples for each row. By default 2,000, or fewer with few data; of given samples all."""
    sampler: str | None = None
    """As in `softmix sample`."""
    eta: float | None = None
    """As in `softmix sample`."""
    grid: str | None = None
    """As in `softmix sample`."""
    beside: tuple[Path, ...] = ()
    """Other runs on the same data, or other samples, for the same report."""
    features: Literal["auto", "pixels", "pca", "classifier"] = "auto"
    """The features in which distances are measured: classifier, trained on the labels of images with 8 to 256 pixels a
    side; pca, of pixels, for any size; pixels themselves, of small images; auto is the first of classifier and pca
    that is possible."""
    seed: int = 0
    """Seed of the samples, and of the blocks that give the errors."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100."""
    average: int = 0
    """Take the mean of this many draws, for samplers that need a mean."""
    precision: Precision | None = None
    """As in `softmix sample`."""
    out: Path | None = None
    """The report: a .html, or an existing folder."""
    dry_run: bool = False
    """Show the measurement in a sentence, and measure nothing."""

    def __call__(self) -> None:
        from .evaluate_runs import evaluate_runs
        from .evaluate_samples import evaluate_samples
        from .evaluate_shared import is_run, report_path

        report = report_path(self.run, self.out)
        if is_run(self.run):
            evaluate_runs(self, report)
            return
        for name in self.given("steps", "sampler", "eta", "grid", "weights", "average", "precision"):
            raise UsageError(
                f"{self.run} is not a run folder: it has no config.json. Samples are measured as they are, without "
                f"{option(name)}"
            )
        evaluate_samples(self, report)
