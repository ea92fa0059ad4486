"""The command line: `softmix evaluate` and `softmix statistics`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from .common import UsageError, cache, positive, prepared

if TYPE_CHECKING:
    from ..data import Data
    from ..train import Model


def evaluate(
    run: Positional[Path],
    data: Positional[str | None] = None,
    /,
    steps: tuple[int, ...] = (1, 2, 4, 8, 16),
    n: int = 2000,
    sampler: str | None = None,
    eta: float | None = None,
    beside: tuple[Path, ...] = (),
    seed: int = 0,
    weights: str | None = None,
    average: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    out: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Measure a trained model by number of steps: a table here, and report.html in the run folder.

    Args:
        run: a run folder, or a model that comes with softmix: fashion.
        data: the data it was trained on, if it cannot be found by its name.
        steps: numbers of steps to measure at.
        n: samples for each.
        sampler: as in `softmix sample`.
        eta: as in `softmix sample`.
        beside: other runs on the same data, for the same report.
        seed: of the samples.
        weights: model, or an average such as ema-0.100.
        average: take the mean of this many draws, for samplers that need a mean.
        precision: as in `softmix sample`.
        out: where the report goes.
        dry_run: say what would be done.
    """
    from ..evaluate import carried_table, judge, table, write_report

    positive(n=n, **{f"steps {k}": k for k in steps})
    chosen_runs = [prepared(place, sampler, eta, weights, average) for place in (run, *beside)]
    first = chosen_runs[0][0]
    train_data, held_out = _both(data or first.facts.data, first)
    if min(n, len(held_out)) < 8:
        raise UsageError(f"{n} samples and {len(held_out)} held-out items: distances need at least 8 of each")
    if dry_run:
        print(
            f"{n} samples at {', '.join(map(str, steps))} steps from {', '.join(str(p[0].path) for p in chosen_runs)} "
            f"against {len(held_out)} held-out items"
        )
        return
    results = []
    for model, denoiser, chosen in chosen_runs:
        facts = {
            "run": f"{model.path.name}, step {model.step}, weights {model.weights}",
            "data": f"{model.facts.data} ({model.facts.count} training items, fingerprint {model.facts.fingerprint})",
            "precision": precision,
            "head and loss": f"{model.config.head}, {model.config.loss}",
        }
        result = judge(
            denoiser,
            train_data,
            held_out,
            title=model.path.name,
            facts=facts,
            curves=_curves(model.path),
            steps=steps,
            sampler=chosen,
            n=n,
            seed=seed,
            cache=cache(),
            precision=precision,
            say=print,
        )
        print(f"\n{model.path.name} ({result.facts['features']}, {result.facts['samples']})\n{table(result)}\n")
        if result.carried is not None:
            print(carried_table(result.carried) + "\n")
        results.append(result)
    # a model that comes with softmix has no folder of the user's
    place = out or (run / "report.html" if run.exists() else Path("report.html"))
    print(f"report: {write_report(place, results)}")


def _curves(run: Path) -> dict[str, tuple[tuple[float, float], ...]]:
    """The training loss by step, from the run's log, in at most 200 points."""
    from ..train import log_of

    points = [(line["step"], line["loss"]) for line in log_of(run) if "loss" in line]
    return {"loss": tuple(points[:: max(len(points) // 200, 1)])} if points else {}


def _both(source: str, model: Model) -> tuple[Data, Data]:
    """Training data and held-out data; a source without a test split gives up a tenth."""
    from ..data import DataError, load

    options: dict[str, Any] = (
        {"size": model.facts.shape[-1], "channels": model.facts.shape[0]} if len(model.facts.shape) == 3 else {}
    )
    train_data = load(source, **options)
    if train_data.shape != tuple(model.facts.shape):
        raise UsageError(
            f"{source} has items of shape {train_data.shape}, and the model was made for {tuple(model.facts.shape)}"
        )
    try:
        return train_data, load(source, split="test", **options)
    except DataError:
        print(
            f"{source} has no test split: a tenth of what the model was trained on stands in for it, "
            "which flatters a model that copies"
        )
        return train_data.split(0.1, 0)


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
        data: the data it was trained on, if it cannot be found by its name.
        n: training items, each seen at every level with six evaluations at most.
        nodes: levels of noise.
        weights: model, or an average such as ema-0.100.
        seed: of the noise.
    """
    from tqdm import tqdm

    from ..data.store import choose
    from ..rng import Rng
    from ..sampler.statistics import fit_statistics
    from .common import statistics_of

    positive(n=n, nodes=nodes)
    if nodes < 3:
        raise UsageError(f"--nodes {nodes} was asked for; curves need at least 3")
    model, denoiser, _ = prepared(run, None, None, weights, 0)
    train_data, _ = _both(data or model.facts.data, model)
    x0 = train_data.x0(choose(len(train_data), n))
    with tqdm(total=2 * nodes, unit="level", disable=None) as bar:
        found = fit_statistics(
            denoiser, x0, Rng(seed, len(x0), "statistics"), nodes, look=lambda k: bar.update(k) and None
        )
    place = statistics_of(model)
    place.parent.mkdir(parents=True, exist_ok=True)
    found.save(place)
    print(f"wrote {place}: {len(x0)} items at {nodes} levels")
