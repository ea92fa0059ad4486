"""Evaluate a model, or samples of any origin, against held-out data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..cond import UNCONDITIONED, Cond
from ..data import Data, Paired
from ..data.paired import clean_items
from ..data.store import choose
from ..denoiser import Denoiser, device_of, has_fixed_steps
from ..rng import Rng
from ..sampler import Precision, Sampler, Step, ancestral, label, sample, traits
from .calibration import psnr
from .evaluation import Evaluation, EvaluationRow, Pictures
from .nearest import nearest
from .reference import FeatureKind, ReferenceSet, features_for, labels_in_classes
from .saved_rows import SavedRows
from .spread import LatentSpread, latent_spread

STEPS = (1, 2, 4, 8, 16)
SHOWN = 32
SPREAD_ITEMS, SPREAD_DRAWS = 128, 8


def steps_name(k: int) -> str:
    return f"{k} step{'s' if k > 1 else ''}"


@dataclass
class _RowCollector:
    """Collects rows measured against one reference, and passes each one to `on_row` as soon as it is measured."""

    reference: ReferenceSet
    saved: SavedRows
    shared: Mapping[str, object]
    on_row: Callable[[EvaluationRow], None]
    title: str
    rows: list[EvaluationRow] = field(default_factory=list)

    def add(
        self,
        name: str,
        steps: int | None,
        sampler: str,
        recipe: Mapping[str, object],
        measure: Callable[[], dict[str, float]],
    ) -> None:
        values = self.saved.get_or_measure(f"{self.title}: {name}", {**self.shared, **recipe}, measure)
        row = EvaluationRow(name, steps, sampler, values)
        self.rows.append(row)
        self.on_row(row)

    def add_floor(self, n: int) -> None:
        """Measure as many real training items as there are samples, or all of them if there are fewer."""
        train = self.reference.train
        self.add(
            "real training items (floor)",
            None,
            "",
            {"items": "training", "n": min(n, len(train))},
            lambda: self.reference.compare(train.x0(choose(len(train), n))),
        )


def _collector(
    reference: ReferenceSet, saved: SavedRows | None, on_row: Callable[[EvaluationRow], None], title: str
) -> _RowCollector:
    shared = {
        "training_data": reference.train.fingerprint,
        "held_out_data": reference.held_out.fingerprint,
        "features": reference.features.name,
        "seed": reference.seed,
    }
    return _RowCollector(reference, SavedRows() if saved is None else saved, shared, on_row, title)


@dataclass(frozen=True)
class _SampleMaker:
    """Draws samples of one model. The samples depend on the number of steps only; class labels go round in turn."""

    denoiser: Denoiser
    sampler: Sampler
    seed: int
    precision: Precision
    clamps: bool
    held_out: Data | Paired

    @property
    def device(self) -> torch.device:
        return device_of(self.denoiser)

    @property
    def classes(self) -> int:
        return int(getattr(self.denoiser, "classes", 0))

    @property
    def beside(self) -> bool:
        """Whether the conditions are those of held-out items: an image, numbers or a context."""
        spec = getattr(self.denoiser, "cond", UNCONDITIONED)
        return bool({*spec.parts} - {"label"}) and {*spec.parts} <= {*self.held_out.cond.parts}

    def conditions(self, count: int) -> Cond | Tensor | None:
        """The class labels in turn; or, for other conditions, those of the held-out items in turn."""
        if self.beside:
            return self.held_out_conditions(torch.arange(count, device="cpu") % len(self.held_out))
        return torch.arange(count, device=self.device) % self.classes if self.classes else None

    def held_out_conditions(self, index: Tensor) -> Cond:
        cond = self.held_out.batch(index, Rng(self.seed, index, "evaluate"))[1]
        assert cond is not None
        parts = self.denoiser.cond.parts  # type: ignore[attr-defined]
        return cond.only(parts).to(self.device)

    def __call__(self, count: int, steps: int, look: Callable[[Step], None] | None = None) -> Tensor:
        device = self.device
        x = sample(
            self.denoiser,
            count,
            steps,
            sampler=self.sampler,
            seed=self.seed,
            cond=self.conditions(count),
            device=device,
            precision=self.precision,
            look=look,
        ).cpu()
        return x.clamp(-1, 1) if self.clamps else x


def _fidelity(draw: _SampleMaker, x: Tensor) -> dict[str, float]:
    """The PSNR of samples against the items that their conditions belong to, for conditions of held-out images."""
    if not (draw.beside and draw.clamps):
        return {}
    truth = clean_items(draw.held_out).x0(torch.arange(len(x), device="cpu") % len(draw.held_out))
    return {"psnr": psnr(float((x - truth).square().mean().sqrt()))}


def _spread(draw: _SampleMaker, train: Data) -> LatentSpread | None:
    """The spread of the draws on some held-out items; None for noise that depends on the items, and for a
    model of the steps of one grid."""
    if has_fixed_steps(draw.denoiser) or not getattr(draw.denoiser.process, "independent", True):
        return None
    held_out = clean_items(draw.held_out)
    chosen = choose(len(held_out), SPREAD_ITEMS)
    labels = labels_in_classes(train, held_out) if draw.classes else None
    cond: Cond | Tensor | None = None if labels is None else labels[chosen].to(draw.device)
    if draw.beside:
        cond = draw.held_out_conditions(chosen)
    return latent_spread(draw.denoiser, held_out.x0(chosen).to(draw.device), cond=cond, m=SPREAD_DRAWS)


def evaluate_model(
    denoiser: Denoiser,
    train: Data | Paired,
    held_out: Data | Paired,
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
    features: FeatureKind = "auto",
    saved: SavedRows | None = None,
    weights: str = "",
    on_message: Callable[[str], None] = lambda text: None,
    on_row: Callable[[EvaluationRow], None] = lambda row: None,
    look: Callable[[Step], None] | None = None,
) -> Evaluation:
    """Draw n samples at each number of steps and measure them against held-out data.

    The first row is the floor: n real training items, measured in the same way.

    train, held_out : the training data, and data that the model was not trained on. Of a model with an image, numbers
        or a context as condition each sample has that of a held-out item, if `held_out` offers it, and the rows have
        the PSNR of images against these items.
    title : the name of the model in the report.
    facts, curves : further content of the report.
    steps : the numbers of sampler steps, one row each.
    n : samples for each row.
    cache : the folder that caches the classifier of the features.
    precision : of the network while it draws samples, see `softmix.sample`. The features and the latent spread are
        always computed in full float32, and the distances in float64.
    features : the kind of features, see `features_for`. A classifier is on the device of the denoiser.
    saved : rows that were measured earlier; new rows are added to them.
    weights : with `saved`, a text that names everything that decides the samples and is not an argument here: a hash
        of the weights, a wrap, the statistics of a sampler.
    on_message : called with a sentence after each set of samples.
    on_row : called with each row as soon as it is measured.
    look : called at each evaluation of the network.

    If a sample has a value that is not finite, the row holds only the share of such samples, "not_finite".
    Raises ValueError if `steps` is empty, and for fewer than 8 samples or held-out items.
    """
    if not steps:
        raise ValueError("no number of steps was given: name at least one, such as steps=(1, 4)")
    draw = _SampleMaker(denoiser, sampler, seed, precision, train.is_image, held_out)
    train, held_out = clean_items(train), clean_items(held_out)
    reference = ReferenceSet(train, held_out, features_for(train, cache, features, draw.device), seed)
    collector = _collector(reference, saved, on_row, title)
    collector.add_floor(n)
    shown: dict[str, Tensor] = {}
    for k in steps:
        name = steps_name(k)

        def measure(k: int = k, name: str = name) -> dict[str, float]:
            start = time.perf_counter()
            x = draw(n, k, look)
            seconds = time.perf_counter() - start
            on_message(f"{n} samples in {name}: {seconds:.1f} s")
            shown[name] = x[:SHOWN]
            cost = {"evaluations": traits(sampler).evaluations(k), "seconds": seconds}
            return _distances(reference, x) | _fidelity(draw, x) | cost

        recipe = {"items": "samples", "weights": weights, "sampler": label(sampler), "steps": k, "n": n}
        recipe |= {"precision": precision, "device": draw.device.type}
        recipe |= {"conditions": draw.held_out.fingerprint} if draw.beside else {}
        collector.add(name, k, label(sampler), recipe, measure)
        if train.is_image and name not in shown:
            shown[name] = draw(min(n, SHOWN), k)
    spread = _spread(draw, train)
    own_facts = {
        "features": reference.features.name,
        "samples": f"{n} against {len(held_out)} held-out"
        + (", each given the condition of a held-out item" if draw.beside else ""),
        "sampler": label(sampler),
        "seed": str(seed),
        **_remarks(reference, n),
    }
    return Evaluation(
        title,
        (facts or {}) | own_facts,
        tuple(collector.rows),
        spread if spread is not None and sum(spread.spread) > 0 else None,
        _pictures(train, held_out, shown, f"at {steps_name(steps[-1])}") if train.is_image else (),
        curves or {},
    )


def evaluate_samples(
    samples: Data,
    train: Data,
    held_out: Data,
    *,
    title: str,
    facts: dict[str, str] | None = None,
    n: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    features: FeatureKind = "auto",
    saved: SavedRows | None = None,
    on_row: Callable[[EvaluationRow], None] = lambda row: None,
) -> Evaluation:
    """Measure given samples of any origin against held-out data.

    The first row is the floor: as many real training items, measured in the same way.

    samples : the samples; their generator must not have seen `held_out`.
    n : how many of the samples to use, a fixed random choice; None for all.
    device : of the classifier of the features.
    The other arguments are those of `evaluate_model`.

    Raises ValueError for samples with another shape than the data, and for fewer than 8 samples or held-out items.
    """
    if samples.shape != train.shape or samples.is_image != train.is_image:
        raise ValueError(f"{samples.name} has items of shape {samples.shape}, and {train.name} of shape {train.shape}")
    count = min(n or len(samples), len(samples))
    chosen = choose(len(samples), count)
    reference = ReferenceSet(train, held_out, features_for(train, cache, features, device), seed)
    collector = _collector(reference, saved, on_row, title)
    collector.add_floor(count)
    collector.add(
        samples.name,
        None,
        "not known",
        {"items": "given", "samples": samples.fingerprint, "n": count},
        lambda: _distances(reference, samples.x0(chosen)),
    )
    own_facts = {
        "features": reference.features.name,
        "samples": f"{count} against {len(held_out)} held-out",
        "given samples": f"{samples.name}, {len(samples)} items, fingerprint {samples.fingerprint}",
        "seed": str(seed),
        **_remarks(reference, count),
    }
    shown = {samples.name: samples.x0(chosen[choose(count, SHOWN)])}
    pictures = _pictures(train, held_out, shown, "given") if train.is_image else ()
    return Evaluation(title, (facts or {}) | own_facts, tuple(collector.rows), None, pictures)


def _distances(reference: ReferenceSet, x: Tensor) -> dict[str, float]:
    """All distances, or only the share of items that are not finite."""
    bad = ~x.flatten(1).isfinite().all(1)
    return {"not_finite": float(bad.double().mean())} if bad.any() else reference.compare(x)


def _remarks(reference: ReferenceSet, n: int) -> dict[str, str]:
    """Facts that a reader needs in this case: a small training set, the classifier's accuracy, copies."""
    remarks = {}
    if len(reference.train) < n:
        remarks["floor"] = f"all {len(reference.train)} training items; {n} were needed, so it is a little too high"
    if reference.features.accuracy is not None:
        place = f", trained on {reference.features.trained_on}" if reference.features.trained_on else ""
        share = f"{reference.features.accuracy:.1%}"
        remarks["classifier"] = f"labels {share} of a tenth of the training items correctly{place}"
    copies = float((reference.held_out_nearest == 0).double().mean())
    if copies:
        remarks["copies"] = f"{copies:.1%} of the held-out items are exact copies of training items"
    return remarks


def _pictures(train: Data, held_out: Data, shown: Mapping[str, Tensor], origin: str) -> tuple[Pictures, ...]:
    """Real images, the finite samples of each kind, and the nearest training image to each of the last kind."""
    good = {name: images for name, images in shown.items() if images.isfinite().all()}
    pictures = [Pictures("real", held_out.x0(choose(len(held_out), SHOWN)))]
    pictures += [Pictures(name, images) for name, images in good.items()]
    if good:
        *_, last = good.items()
        origin = origin if last[0] == list(shown)[-1] else f"at {last[0]}"
        near = nearest(last[1], train.x0()).train_index
        pictures.append(Pictures(f"nearest training image to each {origin}", train.x0(near)))
    return tuple(pictures)
