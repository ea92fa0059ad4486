"""`softmix repeat RUN`: make the first steps of a run again, and compare the numbers of its log."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError, interrupted, require_positive
from .outputs import require_empty_folder

if TYPE_CHECKING:
    from ..data import Data, Target


def repeat_run(run: Path, data: str | None, steps: int, out: Path | None, folder: Path) -> None:
    """Train the first steps of the run again and print how many digits of loss and gradient norm agree.

    data   : the training data, if they have moved.
    out    : the folder of the new run, or None.
    folder : for a run that nobody needs afterwards.
    """
    require_positive(steps=steps)
    if out is not None:
        require_empty_folder(out)
    from ..config import dumps
    from ..train import log_of, read_run, training

    record = read_run(run)
    before = {line["step"]: line for line in log_of(run) if "loss" in line}
    _require_lines(run, before, steps)
    place = out or folder / run.name

    def saved() -> str:
        begun = out is not None and (out / "config.json").is_file()
        return "stopped; nothing was compared, and " + (f"{out} holds a part of the run" if begun else "nothing kept")

    with interrupted(saved):
        items = _data(run, data)
        place.mkdir(parents=True, exist_ok=True)
        # The facts (number of steps, precision, parts of a batch) are a part of the recipe, with the new place of data.
        origin = items.origin.relative_to_folder(place) if items.origin else None
        (place / "config.json").write_text(dumps(replace(record, facts=replace(record.facts, origin=origin))))
        with closing(training(items, record.config, place)) as taken:
            for step in taken:
                if step.step >= steps:
                    break
    _print_agreement(before, log_of(place))


def _require_lines(run: Path, lines: dict[int, Any], steps: int) -> None:
    """Raise UsageError if the log has no loss of the first steps."""
    if any(step <= steps for step in lines):
        return
    known, remedy = "it has none at all", ""
    if lines:
        known, remedy = f"the first is of step {min(lines)}", f"; give --steps {min(lines)} or more"
    raise UsageError(
        f"{run / 'log.jsonl'} has no line for the first {steps} steps, {known}: there is nothing to compare{remedy}"
    )


def _data(run: Path, data: str | None) -> Data | Target:
    """The training data of the run, from their old place or from the one that the user names."""
    from ..data import DataError
    from ..oracle import is_known_target, known_target
    from ..train import data_of, read_run

    facts = read_run(run).facts
    if not facts.count:
        if data is not None:
            raise UsageError(f"--data {data} was given; {run} was trained on the density {facts.data}: leave it out")
        if not is_known_target(facts.data):
            raise UsageError(
                f"{run} was trained on the density {facts.data}, which only its author's code has: repeat it there, by "
                "softmix.training"
            )
        return known_target(facts.data)
    try:
        return data_of(run, data)
    except DataError as error:
        if data is not None:
            raise
        raise UsageError(f"the data of {run} are not where it found them: {error}. Say where with --data") from None


def _print_agreement(before: dict[int, Any], now: list[dict[str, Any]]) -> None:
    print(f"{'step':>6} {'loss then':>20} {'loss now':>20} {'digits':>7} {'norm':>7}")
    worst: dict[str, float] = {"loss": math.inf, "norm": math.inf}
    for line in now:
        then = before.get(line["step"])
        if then is None:
            continue
        agree = {name: digits(then[name], line[name]) for name in worst}
        worst = {name: min(worst[name], agree[name]) for name in worst}
        shown = [_shown(agree[name]) for name in worst]
        print(f"{line['step']:>6} {then['loss']:>20.12g} {line['loss']:>20.12g} {shown[0]:>7} {shown[1]:>7}")
    least = ", ".join(f"{name} {_shown(value)}" for name, value in worst.items())
    print(f"digits that agree at least: {least}")


def digits(a: float, b: float) -> float:
    """The number of decimal digits that agree: -log10(|a - b| / max(|a|, |b|)), at least 0, inf for equal numbers."""
    return math.inf if a == b else max(0.0, -math.log10(abs(a - b) / max(abs(a), abs(b))))


def _shown(agree: float) -> str:
    return "all" if math.isinf(agree) else f"{agree:.1f}"
