"""The command line: `softmix statistics`."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from .against import trained_on
from .common import UsageError, interrupted, positive, prepared, statistics_of


def statistics(
    run: Positional[Path],
    data: Positional[str | None] = None,
    /,
    n: int = 512,
    nodes: int = 120,
    weights: str | None = None,
    seed: int = 0,
) -> None:
    """Measure what the sampler dpm-solver-v3 wants to know of a model, and keep it in the run folder, where `softmix
    sample --sampler dpm-solver-v3` finds it. Without it that sampler is the exponential rule for means.

    Args:
        run: a run folder.
        data: the data it was trained on, if they are elsewhere now.
        n: training items, a fixed random choice, each seen at every level with six evaluations at most.
        nodes: levels of noise.
        weights: model, or an average such as ema-0.100.
        seed: of the noise.
    """
    from tqdm import tqdm

    from ..data.store import choose
    from ..info import fit_statistics
    from ..rng import Rng
    from .outputs import aside, file_to_write

    positive(n=n, nodes=nodes)
    if nodes < 3:
        raise UsageError(f"--nodes {nodes} was asked for; curves need at least 3")
    if n < 2:
        raise UsageError(f"--n {n} was asked for; how items differ shows with at least 2")
    with interrupted("stopped; nothing was written, and the same command begins anew"):
        model, denoiser, _ = prepared(run, None, None, weights, 0)
        place = statistics_of(model)
        file_to_write(place, "the statistics")
        train = trained_on(run, data, "statistics")
        chosen = choose(len(train), n)
        if len(chosen) < n:
            print(f"{n} items were asked for, and {train.name} has {len(chosen)}: all of them are taken")
        x0 = train.x0(chosen)
        labels = train.labels[chosen] if model.denoiser.classes and train.labels is not None else None
        with tqdm(total=2 * nodes, unit="level", disable=None) as bar:
            found = fit_statistics(
                denoiser,
                x0,
                Rng(seed, len(x0), "statistics"),
                nodes,
                cond=labels,
                look=lambda k: bar.update(k) and None,
            )
        with aside(place) as part:
            found.save(part)
    print(f"wrote {place}: {len(x0)} items at {nodes} levels")
