"""The command line: how `softmix evaluate` measures runs, by number of steps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .against import trained_on, with_held_out
from .common import UsageError, cache, interrupted, positive, prepared
from .measuring import Asked, all_different, counted, is_run, need_features, opened, report, rows_said

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluate import Evaluation, EvaluationRow, SavedRows
    from ..sampler import Sampler
    from ..train import Model


@dataclass(frozen=True)
class _Candidate:
    """A model that is to be measured, with the sampler."""

    model: Model
    denoiser: Any
    sampler: Sampler
    average: int

    @property
    def name(self) -> str:
        return self.model.path.name

    @property
    def recipe(self) -> str:
        """All that decides the samples beside the sampler's own settings."""
        config = hashlib.sha256(repr(self.model.config).encode()).hexdigest()[:12]
        parts = [self.model.weights, self.model.fingerprint, f"config {config}"]
        parts += [f"average of {self.average}"] * bool(self.average)
        known = self.sampler.keywords.get("statistics") if isinstance(self.sampler, partial) else None
        if known is not None:
            digest = hashlib.sha256(
                b"".join(part.numpy().tobytes() for part in (known.clock, known.l, known.s, known.b))
            )
            parts.append(f"statistics {digest.hexdigest()[:12]}")
        return ", ".join(parts)

    def facts(self) -> dict[str, str]:
        model = self.model
        return {
            "run": f"{self.name}, step {model.step}, weights {model.weights}",
            "head and loss": f"{model.config.task.head}, {model.config.task.loss}",
        } | ({"mean": f"of {self.average} draws"} if self.average else {})


def evaluate_runs(
    runs: tuple[Path, ...],
    asked: Asked,
    steps: tuple[int, ...],
    sampler: str | None,
    eta: float | None,
    weights: str | None,
    average: int,
    precision: Literal["fp32", "bf16"],
) -> None:
    """Runs on the same data, by number of steps, in one report."""
    _whole_numbers(steps, asked.n, average)
    all_different(runs)
    kept = opened(asked)
    with interrupted(lambda: rows_said(kept)):
        candidates = [_Candidate(*_prepared(place, sampler, eta, weights, average), average) for place in runs]
        _alike(candidates)
        for candidate in candidates:
            _tried(candidate, min(steps))
        train, held_out, whence = with_held_out(trained_on(runs[0], asked.data, "evaluate"))
        need_features(asked, train)
        n = counted(asked.n, train, held_out)
        if asked.dry_run:
            print(
                f"{n} samples at {', '.join(map(str, steps))} steps from "
                f"{', '.join(str(c.model.path) for c in candidates)} against {len(held_out)} held-out items; "
                f"report: {asked.place}"
            )
            return
        facts = candidates[0].model.facts
        about = {
            "data": f"{facts.data} ({facts.count} training items, fingerprint {facts.fingerprint})",
            "held-out data": f"{len(held_out)} items, {whence}, fingerprint {held_out.fingerprint}",
            "precision": precision,
        }
        results = [_judged(c, train, held_out, about, asked, steps, n, precision, kept) for c in candidates]
    report(asked, results)


def _whole_numbers(steps: tuple[int, ...], n: int | None, average: int) -> None:
    if not steps:
        raise UsageError("--steps was given nothing: name at least one number, such as --steps 1 4")
    positive(**({} if n is None else {"n": n}), **{f"steps {k}": k for k in steps})
    twice = [k for k in steps if steps.count(k) > 1]
    if twice:
        raise UsageError(f"--steps {twice[0]} was asked for twice")
    if average < 0:
        raise UsageError(f"--average {average} was asked for; it must be at least 0")


def _prepared(
    place: Path, sampler: str | None, eta: float | None, weights: str | None, average: int
) -> tuple[Model, Any, Sampler]:
    if not is_run(place):
        raise UsageError(f"--beside {place} is not a run folder: it has no config.json; runs are compared with runs")
    return prepared(place, sampler, eta, weights, average)


def _alike(candidates: list[_Candidate]) -> None:
    """Raises UsageError unless all were trained on the same items."""
    first, *others = (candidate.model for candidate in candidates)
    for other in others:
        if other.facts.fingerprint != first.facts.fingerprint:
            said = [
                f"{m.path.name} on {m.facts.data}, {m.facts.count} items, fingerprint {m.facts.fingerprint}"
                for m in (other, first)
            ]
            raise UsageError(f"--beside takes runs on the same data: {said[0]} was trained, and {said[1]}")


def _tried(candidate: _Candidate, steps: int) -> None:
    """One sample in the fewest steps: what the sampler needs and the model has not is said before the work."""
    import torch

    from ..posterior import Implicit
    from ..rng import Rng
    from ..sampler import sample

    model, classes = candidate.model, candidate.model.denoiser.classes
    label = torch.zeros(1, dtype=torch.int64) if classes else None
    with torch.no_grad():
        sample(candidate.denoiser, 1, steps, sampler=candidate.sampler, cond=label)
        if not candidate.average:
            return
        prior = model.process.prior((1, *model.denoiser.shape), Rng(0, 1, "trial"))
        if not isinstance(model.denoiser(prior, 1.0, label), Implicit):
            raise UsageError(
                f"--average {candidate.average} was asked for; {candidate.name} does not draw: leave it out"
            )


def _judged(
    candidate: _Candidate,
    train: Data,
    held_out: Data,
    about: dict[str, str],
    asked: Asked,
    steps: tuple[int, ...],
    n: int,
    precision: Literal["fp32", "bf16"],
    kept: SavedRows,
) -> Evaluation:
    from tqdm import tqdm

    from ..evaluate import evaluate_model, row_line, spread_table, table
    from ..sampler import traits
    from ..train import find_device

    candidate.model.denoiser.to(find_device())
    costs = {k: traits(candidate.sampler).evaluations(k) * -(-n // 256) for k in steps}
    ends = dict(zip(steps, [sum(list(costs.values())[: k + 1]) for k in range(len(steps))], strict=True))
    with tqdm(total=sum(costs.values()), unit="evaluation", desc=candidate.name, disable=None) as bar:

        def tell(row: EvaluationRow) -> None:
            bar.write(f"{candidate.name}, {row_line(row)}")
            bar.update(max(ends.get(row.steps or 0, 0) - bar.n, 0))

        found = evaluate_model(
            candidate.denoiser,
            train,
            held_out,
            title=candidate.name,
            facts=candidate.facts() | about,
            curves=_curves(candidate.model.path),
            steps=steps,
            sampler=candidate.sampler,
            n=n,
            seed=asked.seed,
            cache=cache(),
            precision=precision,
            features=asked.features,
            saved=kept,
            weights=candidate.recipe,
            on_row=tell,
            look=lambda step: bar.update(1) and None,
        )
    print(f"\n{found.title} ({found.facts['features']}, {found.facts['samples']})\n{table(found)}\n")
    if found.latent_spread is not None:
        print(spread_table(found.latent_spread) + "\n")
    return found


def _curves(run: Path) -> dict[str, tuple[tuple[float, float], ...]]:
    """The training loss by step, from the run's log, in at most 200 points."""
    from ..train import log_of

    points = [(line["step"], line["loss"]) for line in log_of(run) if "loss" in line]
    return {"loss": tuple(points[:: -(-len(points) // 200)])} if points else {}
