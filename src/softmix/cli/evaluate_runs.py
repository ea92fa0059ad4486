"""`softmix evaluate` of runs, by number of steps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Precision, UsageError, cache, interrupted, load_for_sampling, require_positive, require_some
from .evaluate_shared import (
    is_run,
    open_rows,
    require_different,
    require_features,
    sample_count,
    saved_rows,
    write_results,
)
from .evaluate_tokens import evaluate_tokens
from .run_data import training_data, with_held_out

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluate import Evaluation, EvaluationRow, SavedRows
    from ..sampler import Sampler
    from ..train import Model
    from .evaluate import Evaluate

STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class _Candidate:
    """A model to measure, with its sampler."""

    model: Model
    denoiser: Any
    sampler: Sampler
    average: int

    @property
    def name(self) -> str:
        return self.model.path.name

    @property
    def recipe(self) -> str:
        """Everything that decides the samples, beside the sampler's own settings."""
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
        """The lines about the model in the report."""
        model = self.model
        return {
            "run": f"{self.name}, step {model.step}, weights {model.weights}",
            "head and loss": f"{model.config.denoise.head}, {model.config.denoise.loss}",
        } | ({"mean": f"of {self.average} draws"} if self.average else {})


@dataclass(frozen=True)
class _Comparison:
    """Everything that the rows of one report share."""

    train: Data
    held_out: Data
    facts: dict[str, str]
    steps: tuple[int, ...]
    n: int
    seed: int
    features: Any
    precision: Precision
    kept: SavedRows


def evaluate_runs(asked: Evaluate, report: Path) -> None:
    """Compare runs on the same data, by number of steps, in one report. report : its path."""
    from ..data.paired import clean_items

    steps = STEPS if asked.steps is None else asked.steps
    runs = (asked.run, *asked.beside)
    _require_numbers(asked, steps)
    require_different(runs)
    kept = open_rows(report)
    with interrupted(lambda: saved_rows(kept)):
        candidates = [_candidate(asked, place) for place in runs]
        _require_same_data(candidates)
        if candidates[0].model.facts.vocabulary:
            evaluate_tokens(asked, [candidate.model for candidate in candidates])
            return
        own = {k for candidate in candidates if (k := getattr(candidate.model.result, "steps", None)) is not None}
        if asked.steps is None and own:
            # models for the steps of one grid
            steps = tuple(sorted(own))
        for candidate in candidates:
            for count in steps if own else (min(steps),):
                _try(candidate, count)
        train, held_out, origin = with_held_out(training_data(runs[0], asked.data, "evaluate"))
        require_features(asked, clean_items(train))
        n = sample_count(asked.n, train, held_out)
        if asked.dry_run:
            print(
                f"{n} samples at {', '.join(map(str, steps))} steps from "
                f"{', '.join(str(c.model.path) for c in candidates)} against {len(held_out)} held-out items; "
                f"report: {report}"
            )
            return
        precision: Precision = asked.precision or "fp32"
        facts = _facts(candidates[0].model, held_out, origin) | {"precision": precision}
        common = _Comparison(train, held_out, facts, steps, n, asked.seed, asked.features, precision, kept)
        results = [_evaluate(candidate, common) for candidate in candidates]
    write_results(report, results)


def _facts(model: Model, held_out: Data, origin: str) -> dict[str, str]:
    facts = model.facts
    return {
        "data": f"{facts.data} ({facts.count} training items, fingerprint {facts.fingerprint})",
        "held-out data": f"{len(held_out)} items, {origin}, fingerprint {held_out.fingerprint}",
    }


def _require_numbers(asked: Evaluate, steps: tuple[int, ...]) -> None:
    require_some(steps=steps)
    require_positive(**({} if asked.n is None else {"n": asked.n}), **{f"steps {k}": k for k in steps})
    twice = [k for k in steps if steps.count(k) > 1]
    if twice:
        raise UsageError(f"--steps {twice[0]} was asked for twice")
    if asked.average < 0:
        raise UsageError(f"--average {asked.average} was asked for; it must be at least 0")


def _candidate(asked: Evaluate, place: Path) -> _Candidate:
    if not is_run(place):
        raise UsageError(f"--beside {place} is not a run folder: it has no config.json; runs are compared with runs")
    parts = load_for_sampling(place, asked.sampler, asked.eta, asked.weights, asked.average, asked.grid)
    return _Candidate(*parts, asked.average)


def _require_same_data(candidates: list[_Candidate]) -> None:
    """Raise UsageError unless all models were trained on the same items."""
    first, *others = (candidate.model for candidate in candidates)
    for other in others:
        if other.facts.fingerprint != first.facts.fingerprint:
            lines = [
                f"{m.path.name} on {m.facts.data}, {m.facts.count} items, fingerprint {m.facts.fingerprint}"
                for m in (other, first)
            ]
            raise UsageError(f"--beside takes runs on the same data: {lines[0]} was trained, and {lines[1]}")


def _try(candidate: _Candidate, steps: int) -> None:
    """Draw one sample in so many steps, so that a sampler that does not fit the model is refused before the work."""
    import torch

    from ..posterior import Implicit
    from ..rng import Rng
    from ..sampler import sample
    from ..train.blank_condition import trial_condition

    model, spec = candidate.model, candidate.model.denoiser.cond
    # a condition of nothing, with the class 0 if there are classes
    cond = trial_condition(model.process, spec, model.denoiser.shape)
    cond = replace(cond, label=torch.zeros_like(cond.label)) if cond is not None and cond.label is not None else cond
    with torch.no_grad():
        sample(candidate.denoiser, 1, steps, sampler=candidate.sampler, cond=cond)
        if not candidate.average:
            return
        prior = model.process.prior((1, *model.denoiser.shape), Rng(0, 1, "trial"), cond)
        if not isinstance(model.denoiser(prior, 1.0, cond), Implicit):
            raise UsageError(
                f"--average {candidate.average} was asked for; {candidate.name} does not draw: leave it out"
            )


def _evaluate(candidate: _Candidate, common: _Comparison) -> Evaluation:
    from tqdm import tqdm

    from ..evaluate import evaluate_model, row_line, spread_table, table
    from ..sampler import batch_for, traits
    from ..train import find_device

    device = find_device()
    candidate.model.denoiser.to(device)
    steps = common.steps
    batches = -(-common.n // batch_for(device, candidate.model.denoiser.shape))
    costs = {k: traits(candidate.sampler).evaluations(k) * batches for k in steps}
    ends = dict(zip(steps, [sum(list(costs.values())[: k + 1]) for k in range(len(steps))], strict=True))
    with tqdm(total=sum(costs.values()), unit="evaluation", desc=candidate.name, disable=None) as bar:

        def tell(row: EvaluationRow) -> None:
            bar.write(f"{candidate.name}, {row_line(row)}")
            bar.update(max(ends.get(row.steps or 0, 0) - bar.n, 0))

        result = evaluate_model(
            candidate.denoiser,
            common.train,
            common.held_out,
            title=candidate.name,
            facts=candidate.facts() | common.facts,
            curves=_curves(candidate.model.path),
            steps=steps,
            sampler=candidate.sampler,
            n=common.n,
            seed=common.seed,
            cache=cache(),
            precision=common.precision,
            features=common.features,
            saved=common.kept,
            weights=candidate.recipe,
            on_row=tell,
            look=lambda step: bar.update(1) and None,
        )
    print(f"\n{result.title} ({result.facts['features']}, {result.facts['samples']})\n{table(result)}\n")
    if result.latent_spread is not None:
        print(spread_table(result.latent_spread) + "\n")
    return result


def _curves(run: Path) -> dict[str, tuple[tuple[float, float], ...]]:
    """The training loss by step, from the run's log, in at most 200 points."""
    from ..train import log_of

    points = [(line["step"], line["loss"]) for line in log_of(run) if "loss" in line]
    return {"loss": tuple(points[:: -(-len(points) // 200)])} if points else {}
