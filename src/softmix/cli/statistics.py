"""`softmix statistics`: measure the coefficients of the sampler dpm-solver-v3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from .common import UsageError, interrupted, load_for_sampling, require_positive, statistics_path
from .outputs import atomic_file, require_writable_file
from .run_data import training_data
from .verb import Verb


@dataclass(frozen=True, kw_only=True)
class Statistics(Verb):
    """Measure the statistics of a model for the sampler dpm-solver-v3, and save them in the run folder. There `softmix
    sample --sampler dpm-solver-v3` finds them. Without them that sampler is the exponential rule for means.

    For example `softmix statistics runs/photos`.
    """

    run: Positional[Path]
    """A run folder."""
    data: Positional[str | None] = None
    """The data of its training, if they have moved."""
    n: int = 512
    """Number of training items, a fixed random choice. Each is seen at every level with six evaluations at most."""
    nodes: int = 120
    """Number of noise levels."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100."""
    seed: int = 0
    """Seed of the noise."""

    def __call__(self) -> None:
        from tqdm import tqdm

        from ..data.store import choose
        from ..info import fit_statistics
        from ..rng import Rng

        require_positive(n=self.n, nodes=self.nodes)
        if self.nodes < 3:
            raise UsageError(f"--nodes {self.nodes} was asked for; a curve needs at least 3")
        if self.n < 2:
            raise UsageError(f"--n {self.n} was asked for; the variance over items needs at least 2")
        with interrupted("stopped; nothing was written, and the same command begins anew"):
            model, denoiser, _ = load_for_sampling(self.run, None, None, self.weights, 0)
            place = statistics_path(model)
            require_writable_file(place, "the statistics")
            _ = model.plain_process  # refused before the work
            train = training_data(self.run, self.data, "statistics")
            chosen = choose(len(train), self.n)
            if len(chosen) < self.n:
                print(f"{self.n} items were asked for, and {train.name} has {len(chosen)}: all of them are taken")
            x0 = train.x0(chosen)
            labels = train.labels[chosen] if model.denoiser.classes and train.labels is not None else None
            with tqdm(total=2 * self.nodes, unit="level", disable=None) as bar:
                fitted = fit_statistics(
                    denoiser,
                    x0,
                    Rng(self.seed, len(x0), "statistics"),
                    self.nodes,
                    cond=labels,
                    look=lambda k: bar.update(k) and None,
                )
            with atomic_file(place) as part:
                fitted.save(part)
        print(f"wrote {place}: {len(x0)} items at {self.nodes} levels")
