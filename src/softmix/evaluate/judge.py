"""A model, or samples from anywhere, against data not trained on: the numbers of a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..data import Data
from ..data.store import choose
from ..denoiser import Denoiser
from ..sampler import Precision, Sampler, Step, ancestral, label, sample, traits
from .carried import carried
from .evaluation import Evaluation, Pictures, Row
from .kept import Kept
from .nearest import nearest
from .reference import Kind, labels_as
from .reference import Reference as Reference
from .reference import features_for as features_for

STEPS = (1, 2, 4, 8, 16)
SHOWN = 32
SPREAD_ITEMS, SPREAD_DRAWS = 128, 8


def steps_said(k: int) -> str:
    return f"{k} step{'s' if k > 1 else ''}"


@dataclass
class _Table:
    """Rows against one reference, each told to `tell` as soon as it is there."""

    reference: Reference
    kept: Kept
    shared: Mapping[str, object]
    tell: Callable[[Row], None]
    title: str
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        name: str,
        steps: int | None,
        sampler: str,
        recipe: Mapping[str, object],
        measure: Callable[[], dict[str, float]],
    ) -> None:
        row = Row(name, steps, sampler, self.kept.values(f"{self.title}: {name}", {**self.shared, **recipe}, measure))
        self.rows.append(row)
        self.tell(row)

    def add_floor(self, n: int) -> None:
        """As many real training items as there are samples, or all if there are less."""
        train = self.reference.train
        self.add(
            "real training items (floor)",
            None,
            "",
            {"items": "training", "n": min(n, len(train))},
            lambda: self.reference.compare(train.x0(choose(len(train), n))),
        )


def _table(reference: Reference, kept: Kept | None, tell: Callable[[Row], None], title: str) -> _Table:
    shared = {
        "training_data": reference.train.fingerprint,
        "held_out_data": reference.held_out.fingerprint,
        "features": reference.features.name,
        "seed": reference.seed,
    }
    return _Table(reference, Kept() if kept is None else kept, shared, tell, title)


@dataclass(frozen=True)
class _Draw:
    """Samples of one model, always the same for the same number of steps; classes are told in turn."""

    denoiser: Denoiser
    sampler: Sampler
    seed: int
    precision: Precision
    clamps: bool

    @property
    def device(self) -> torch.device:
        weights = getattr(self.denoiser, "parameters", lambda: iter(()))()
        return next((weight.device for weight in weights), torch.device("cpu"))

    @property
    def classes(self) -> int:
        return int(getattr(self.denoiser, "classes", 0))

    def __call__(self, count: int, steps: int, look: Callable[[Step], None] | None = None) -> Tensor:
        x = sample(
            self.denoiser,
            count,
            steps,
            sampler=self.sampler,
            seed=self.seed,
            cond=torch.arange(count) % self.classes if self.classes else None,
            device=self.device,
            precision=self.precision,
            look=look,
        ).cpu()
        return x.clamp(-1, 1) if self.clamps else x


def judge(
    denoiser: Denoiser,
    train: Data,
    held_out: Data,
    *,
    title: str,
    facts: dict[str, str] | None = None,
    curves: dict[str, tuple[tuple[float, float], ...]] | None = None,
    steps: Sequence[int] = STEPS,
    sampler: Sampler = ancestral,
    n: int = 2000,
    seed: int = 0,
    cache: Path | None = None,
    precision: Precision = "fp32",
    features: Kind = "auto",
    kept: Kept | None = None,
    weights: str = "",
    say: Callable[[str], None] = lambda text: None,
    tell: Callable[[Row], None] = lambda row: None,
    look: Callable[[Step], None] | None = None,
) -> Evaluation:
    """Samples n items at each number of steps and measures them; the floor is as many real training items.

    features : see `features_for`. kept : rows that were measured before are taken from there, and new ones put there;
    then `weights` has to name all that decides the samples and cannot be seen from here (a hash of the weights, a
    wrap, statistics of a sampler). say : a sentence after each set of samples; tell : each row as soon as it is
    there; look : each evaluation of the network.

    Samples with a value that is not finite are not compared: their row holds the share of them, "not_finite".
    Raises ValueError without a number of steps, and for fewer than 8 samples or held-out items.
    """
    if not steps:
        raise ValueError("no number of steps was given: name at least one, such as steps=(1, 4)")
    reference = Reference(train, held_out, features_for(train, cache, features), seed)
    table = _table(reference, kept, tell, title)
    table.add_floor(n)
    draw = _Draw(denoiser, sampler, seed, precision, train.is_image)
    device, classes = draw.device, draw.classes
    shown: dict[str, Tensor] = {}
    for k in steps:
        name = steps_said(k)

        def measure(k: int = k, name: str = name) -> dict[str, float]:
            began = time.perf_counter()
            x = draw(n, k, look)
            seconds = time.perf_counter() - began
            say(f"{n} samples in {name}: {seconds:.1f} s")
            shown[name] = x[:SHOWN]
            cost = {"evaluations": traits(sampler).evaluations(k), "seconds": seconds}
            return _compared(reference, x) | cost

        recipe = {"items": "samples", "weights": weights, "sampler": label(sampler), "steps": k, "n": n}
        recipe |= {"precision": precision, "device": device.type}
        table.add(name, k, label(sampler), recipe, measure)
        if train.is_image and name not in shown:
            shown[name] = draw(min(n, SHOWN), k)
    some = choose(len(held_out), SPREAD_ITEMS)
    labels = labels_as(train, held_out) if classes else None
    cond = None if labels is None else labels[some].to(device)
    found = carried(denoiser, held_out.x0(some).to(device), cond=cond, m=SPREAD_DRAWS)
    about = {
        "features": reference.features.name,
        "samples": f"{n} against {len(held_out)} held-out",
        "sampler": label(sampler),
        "seed": str(seed),
        **_about(reference, n),
    }
    return Evaluation(
        title,
        (facts or {}) | about,
        tuple(table.rows),
        found if sum(found.spread) > 0 else None,
        _pictures(train, held_out, shown, f"at {steps_said(steps[-1])}") if train.is_image else (),
        curves or {},
    )


def judge_samples(
    samples: Data,
    train: Data,
    held_out: Data,
    *,
    title: str,
    facts: dict[str, str] | None = None,
    n: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    features: Kind = "auto",
    kept: Kept | None = None,
    tell: Callable[[Row], None] = lambda row: None,
) -> Evaluation:
    """Samples of any origin against data that whatever made them has not seen; the floor is as many training items.

    n : how many of the samples, a fixed random choice; all by default. The rest as in `judge`.
    Raises ValueError for samples of another shape than the data, and for fewer than 8 samples or held-out items.
    """
    if samples.shape != train.shape or samples.is_image != train.is_image:
        raise ValueError(f"{samples.name} has items of shape {samples.shape}, and {train.name} of shape {train.shape}")
    count = min(n or len(samples), len(samples))
    chosen = choose(len(samples), count)
    reference = Reference(train, held_out, features_for(train, cache, features), seed)
    table = _table(reference, kept, tell, title)
    table.add_floor(count)
    table.add(
        samples.name,
        None,
        "not known",
        {"items": "given", "samples": samples.fingerprint, "n": count},
        lambda: _compared(reference, samples.x0(chosen)),
    )
    about = {
        "features": reference.features.name,
        "samples": f"{count} against {len(held_out)} held-out",
        "given samples": f"{samples.name}, {len(samples)} items, fingerprint {samples.fingerprint}",
        "seed": str(seed),
        **_about(reference, count),
    }
    shown = {samples.name: samples.x0(chosen[choose(count, SHOWN)])}
    pictures = _pictures(train, held_out, shown, "given") if train.is_image else ()
    return Evaluation(title, (facts or {}) | about, tuple(table.rows), None, pictures)


def _compared(reference: Reference, x: Tensor) -> dict[str, float]:
    bad = ~x.flatten(1).isfinite().all(1)
    return {"not_finite": float(bad.double().mean())} if bad.any() else reference.compare(x)


def _about(reference: Reference, n: int) -> dict[str, str]:
    """What a reader has to know of the numbers in this case."""
    about = {}
    if len(reference.train) < n:
        about["floor"] = f"all {len(reference.train)} training items, which are less than {n}: it is a little too high"
    if reference.features.accuracy is not None:
        about["classifier"] = f"names {reference.features.accuracy:.1%} of a tenth of the training items rightly"
    copies = float((reference.unseen == 0).double().mean())
    if copies:
        about["copies"] = f"{copies:.1%} of the held-out items are exact copies of training items"
    return about


def _pictures(train: Data, held_out: Data, shown: Mapping[str, Tensor], where: str) -> tuple[Pictures, ...]:
    """Real images, samples of each kind that are finite, and for each of the last kind the nearest training image."""
    good = {name: images for name, images in shown.items() if images.isfinite().all()}
    sheets = [Pictures("real", held_out.x0(choose(len(held_out), SHOWN)))]
    sheets += [Pictures(name, images) for name, images in good.items()]
    if good:
        *_, last = good.items()
        where = where if last[0] == list(shown)[-1] else f"at {last[0]}"
        near = nearest(last[1], train.x0()).train_index
        sheets.append(Pictures(f"nearest training image to each {where}", train.x0(near)))
    return tuple(sheets)
