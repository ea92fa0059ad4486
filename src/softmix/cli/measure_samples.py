"""The command line: how `softmix evaluate` measures samples of any origin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .against import with_held_out
from .common import UsageError, cache, interrupted, positive
from .measuring import Asked, all_different, counted, is_run, need_features, opened, report, rows_said

if TYPE_CHECKING:
    from ..data import Data


def evaluate_samples(places: tuple[Path, ...], asked: Asked) -> None:
    """Samples of any origin against data, in one report."""
    from tqdm import tqdm

    from ..evaluate import evaluate_samples, row_line, table

    all_different(places)
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
        positive(n=asked.n)
    kept = opened(asked)
    with interrupted(lambda: rows_said(kept)):
        given, train, held_out, whence = _given(places, asked.data)
        need_features(asked, train)
        for one in given:
            if asked.n is not None and asked.n > len(one):
                raise UsageError(f"--n {asked.n} was asked for; {one.name} holds {len(one)} samples")
        n = counted(asked.n or min(map(len, given)), train, held_out)
        if asked.dry_run:
            print(
                f"{n} samples of {', '.join(map(str, places))} against {len(held_out)} held-out items; "
                f"report: {asked.place}"
            )
            return
        about = {
            "data": f"{train.name} ({len(train)} items beside the held-out ones, fingerprint {train.fingerprint})",
            "held-out data": f"{len(held_out)} items, {whence}, fingerprint {held_out.fingerprint}",
        }
        results = []
        for one in given:
            result = evaluate_samples(
                one,
                train,
                held_out,
                title=one.name,
                facts=about,
                n=n,
                seed=asked.seed,
                cache=cache(),
                features=asked.features,
                saved=kept,
                on_row=lambda row: tqdm.write(row_line(row)),
            )
            print(f"\n{result.title} ({result.facts['features']}, {result.facts['samples']})\n{table(result)}\n")
            results.append(result)
    report(asked, results)


def _given(places: tuple[Path, ...], data: str) -> tuple[list[Data], Data, Data, str]:
    """Samples, and data in the samples' size; the data say how many channels there are."""
    from ..data import load

    first = load(places[0])
    square = first.is_image and first.shape[1] == first.shape[2]
    train, held_out, whence = with_held_out(load(data, size=first.shape[1] if square else None))
    given = []
    for place in places:
        one = load(place)
        if one.is_image and train.is_image and one.shape[0] != train.shape[0]:
            print(
                f"{place} has {one.shape[0]} channels and {data} {train.shape[0]}: the samples are read as the data are"
            )
            one = load(place, channels=train.shape[0])
        if one.shape != train.shape:
            raise UsageError(f"{place} holds items of shape {one.shape}, and {data} of shape {train.shape}")
        given.append(one)
    return given, train, held_out, whence
