"""`softmix evaluate` of samples of any origin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .common import UsageError, cache, interrupted, require_positive
from .evaluate_shared import (
    is_run,
    open_rows,
    require_different,
    require_features,
    sample_count,
    saved_rows,
    write_results,
)
from .run_data import with_held_out

if TYPE_CHECKING:
    from ..data import Data
    from .evaluate import Evaluate


def evaluate_samples(asked: Evaluate, report: Path) -> None:
    """Compare samples with data, in one report. report : its path."""
    from tqdm import tqdm

    from ..evaluate import evaluate_samples as measure_samples
    from ..evaluate import row_line, table
    from ..train import find_device

    places = (asked.run, *asked.beside)
    data = _require_samples(asked, places)
    kept = open_rows(report)
    with interrupted(lambda: saved_rows(kept)):
        samples, train, held_out, origin = _load(places, data)
        require_features(asked, train)
        for each in samples:
            if asked.n is not None and asked.n > len(each):
                raise UsageError(f"--n {asked.n} was asked for; {each.name} holds {len(each)} samples")
        n = sample_count(asked.n or min(map(len, samples)), train, held_out)
        if asked.dry_run:
            print(
                f"{n} samples of {', '.join(map(str, places))} against {len(held_out)} held-out items; report: {report}"
            )
            return
        facts = {
            "data": f"{train.name} ({len(train)} items beside the held-out ones, fingerprint {train.fingerprint})",
            "held-out data": f"{len(held_out)} items, {origin}, fingerprint {held_out.fingerprint}",
        }
        results = []
        for each in samples:
            result = measure_samples(
                each,
                train,
                held_out,
                title=each.name,
                facts=facts,
                n=n,
                seed=asked.seed,
                cache=cache(),
                device=find_device(),
                features=asked.features,
                saved=kept,
                on_row=lambda row: tqdm.write(row_line(row)),
            )
            print(f"\n{result.title} ({result.facts['features']}, {result.facts['samples']})\n{table(result)}\n")
            results.append(result)
    write_results(report, results)


def _require_samples(asked: Evaluate, places: tuple[Path, ...]) -> str:
    """The data to compare with. Raises UsageError for a run among the samples, for no data, and for a wrong number."""
    require_different(places)
    runs = [place for place in places if is_run(place)]
    if runs:
        raise UsageError(
            f"{places[0]} holds samples and {runs[0]} is a run, and one report takes one kind: "
            f"softmix sample {runs[0]} --out SAMPLES --n 1000 makes samples of it"
        )
    if asked.data is None:
        raise UsageError(
            f"{places[0]} is not a run folder: it has no config.json. If it holds samples, name the data to compare "
            f"them with: softmix evaluate {places[0]} DATA"
        )
    if asked.n is not None:
        require_positive(n=asked.n)
    return asked.data


def _load(places: tuple[Path, ...], data: str) -> tuple[list[Data], Data, Data, str]:
    """Samples, training data, held-out data and their description.

    The samples decide the size of the images, and the data the number of channels.
    """
    from ..data import load

    first = load(places[0])
    square = first.is_image and first.shape[1] == first.shape[2]
    train, held_out, origin = with_held_out(load(data, size=first.shape[1] if square else None))
    samples = []
    for place in places:
        items = load(place)
        if items.is_image and train.is_image and items.shape[0] != train.shape[0]:
            print(
                f"{place} has {items.shape[0]} channels and {data} {train.shape[0]}: "
                "the samples are read as the data are"
            )
            items = load(place, channels=train.shape[0])
        if items.shape != train.shape:
            raise UsageError(f"{place} holds items of shape {items.shape}, and {data} of shape {train.shape}")
        samples.append(items)
    return samples, train, held_out, origin
