"""What `softmix bits` measures: a model with data, its settings, and the numbers beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .common import UsageError, load_data, load_for_sampling
from .run_data import training_data, with_held_out

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Data
    from ..info import ErrorCurve, GaussianReference, Levels, Nats

# the covariance of items is computed as a whole
_MOST, _FITTED, _CHOSEN = 4096, 20_000, 200
# the levels at which an ensemble chooses, and those of a curve
_CHOICES = _CURVE = 24
# the logsnr at the clean end of the ODE, if the model was trained so far, and where the data are hardly seen
_CLEAN, _NOISE = 12.5, -10.0
# in more dimensions no draw is near the item
_FEW = 16


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    denoisers : the model, and others of an ensemble.
    low : the least time at which they may be asked.
    classes : the number of classes of the first label, 0 for none.
    train, held_out : the items of the reference, and those that are measured; origin : of the latter, in words.
    """

    name: str
    denoisers: tuple[Any, ...]
    low: float
    classes: int
    train: Data
    held_out: Data
    origin: str

    @property
    def process(self) -> Any:
        return self.denoisers[0].process

    @property
    def whole(self) -> bool:
        """Whether the items are images of 8 bits."""
        return is_whole(self.train)

    def cond(self, data: Data, n: int, device: Any) -> Tensor | None:
        """The labels of the first items. Raises UsageError for data without them."""
        if not self.classes:
            return None
        if data.labels is None:
            raise UsageError(f"{self.name} knows classes, and {data.name} has none: its bits given a class are unknown")
        if len(data.classes) > self.classes:
            raise UsageError(f"{self.name} knows {self.classes} classes, and {data.name} has {len(data.classes)}")
        return data.labels[:n].to(device)


def of_run(run: Path, source: str | None, weights: str | None, average: int, ensemble: Sequence[Path]) -> Subject:
    """A run, with the runs of an ensemble."""
    from ..train import least_time

    model, denoiser, _ = load_for_sampling(run, None, None, weights, average)
    if model.facts.vocabulary:
        raise UsageError(f"{run} is a model of tokens: `softmix evaluate {run}` gives its bits per token")
    _ = model.plain_process  # refused before the work
    others = [part for part in model.denoiser.cond.parts if part != "label"]
    if others:
        raise UsageError(f"{run} has a condition ({', '.join(others)}), and its bits given that are not measured")
    train, held_out, origin = with_held_out(training_data(run, source, "bits"))
    parts, low = [denoiser], least_time(model.config.denoise)
    for path in ensemble:
        other, its_denoiser, _ = load_for_sampling(path, None, None, weights, average)
        if other.facts.shape != model.facts.shape or repr(other.process) != repr(model.process):
            raise UsageError(
                f"--ensemble {path} makes items of shape {other.facts.shape} by {other.process}; {run} makes "
                f"{model.facts.shape} by {model.process}"
            )
        if other.denoiser.cond != model.denoiser.cond:
            raise UsageError(
                f"--ensemble {path} has another condition than {run}: {other.denoiser.cond} and {model.denoiser.cond}"
            )
        parts.append(its_denoiser)
        low = max(low, least_time(other.config.denoise))
    return Subject(str(run), tuple(parts), low, getattr(denoiser, "classes", 0), train, held_out, origin)


def of_diffusers(folder: Path, items: str, n: int) -> Subject:
    """A folder that diffusers wrote, with data at the size of its model: the first n items are measured, and the
    reference has the others."""
    import torch

    try:
        from ..hub import HubError, drawing
    except ImportError as error:
        raise UsageError(str(error)) from error
    try:
        source = drawing(folder)
    except HubError as error:
        raise UsageError(str(error)) from error
    if source.denoiser.vae is not None:
        raise UsageError(f"{folder} works on latents, and bits of latents are not bits of its pictures")
    channels, size, width = source.shape
    data = load_data(items, **({"size": size, "channels": channels} if size == width else {}))
    if data.shape != source.shape:
        raise UsageError(f"{folder} makes items of shape {list(source.shape)}, and {data.name} has {list(data.shape)}")
    if len(data) < 2 * n:
        raise UsageError(
            f"{data.name} has {len(data)} items; {n} are measured, and as many others at least are for the reference"
        )
    process = source.denoiser.process
    low = 1 / process.steps if hasattr(process, "steps") else 1e-3
    order = torch.arange(len(data), device="cpu")
    held_out, train = data.take(order[:n], f"the first {n}"), data.take(order[n:], f"all but the first {n}")
    return Subject(source.name, (source.denoiser,), low, source.classes, train, held_out, f"the first {n} items")


@dataclass(frozen=True)
class Measures:
    """How it is measured. The numbers are those of `softmix bits`."""

    n: int
    levels: int
    repeats: int
    steps: int
    chain: int
    draws: int
    ode: int
    seed: int
    maps: bool


class MeasuredBits:
    """The measures of a model on a device: of held-out items, and of others."""

    def __init__(self, subject: Subject, asked: Measures, device: Any):
        from ..data.store import choose
        from ..info import GaussianReference, Grid, Levels

        size = subject.train.x0(slice(1)).numel()
        if size > _MOST:
            raise UsageError(
                f"items of {size:,} elements have a covariance too large for the reference (at most {_MOST:,})"
            )
        floor = Grid().step ** 2 / 12 if subject.whole else 0.0
        try:
            self.reference: GaussianReference = GaussianReference.fit(
                subject.train.x0(choose(len(subject.train), _FITTED)), floor
            )
        except ValueError:
            raise UsageError(
                f"the {len(subject.train)} items of {subject.train.name}, of {size} numbers each, do not vary along "
                "every axis, and have no density to compare with: take a run on more items"
            ) from None
        self.subject, self.asked, self.device = subject, asked, device
        ends = subject.process.logsnr(subject.low)
        self.levels: Levels = Levels.of(self.reference.variances).inside(-math.inf, float(ends))
        for each in subject.denoisers:
            each.to(device)
        if asked.chain and not subject.whole:
            self._require_density()
        self.denoiser = subject.denoisers[0] if len(subject.denoisers) == 1 else self._ensemble()

    def _require_density(self) -> None:
        """Raises UsageError if a chain over real numbers has no density to end with."""
        from ..posterior import HasDensity, need

        train, low = self.subject.train, self.subject.low
        x0, cond = train.x0(slice(1)).to(self.device), self.subject.cond(train, 1, self.device)
        try:
            for each in self.subject.denoisers:
                need(each(x0, low, cond), HasDensity, "--chain, over real numbers,")
        except TypeError as error:
            raise UsageError(str(error)) from error

    def _ensemble(self) -> Any:
        """Chosen on training items, so that the measured ones stay new."""
        from ..info import best_per_level
        from ..rng import Rng

        train = self.subject.train
        n = min(_CHOSEN, len(train))
        x0, cond = train.x0(slice(n)).to(self.device), self.subject.cond(train, n, self.device)
        logsnr = self._even(_CHOICES)
        return best_per_level(
            self.subject.denoisers, x0, Rng(self.asked.seed, n, "ensemble", self.device), logsnr, cond
        )

    def _even(self, count: int) -> list[float]:
        import torch

        low, high = self.levels.inside(float(self.subject.process.logsnr(1.0)), math.inf).ends
        return torch.linspace(low, high, count, dtype=torch.float64, device="cpu").tolist()

    def items(self, data: Data) -> Tensor:
        """The items that are measured."""
        return data.x0(slice(min(self.asked.n, len(data)))).to(self.device)

    def of(self, data: Data, everything: bool = True) -> dict[str, Nats]:
        """The measures of the first items of data, by name. everything : or those by errors alone."""
        from ..info import density, discrete
        from ..rng import Rng

        asked, x0 = self.asked, self.items(data)
        rng = Rng(asked.seed, len(x0), "bits", self.device)
        cond = self.subject.cond(data, len(x0), self.device)
        plain = self.reference.denoiser(self.subject.process)
        settings: dict[str, Any] = {"n": asked.levels, "repeats": asked.repeats}
        if self.subject.whole:
            found = {
                "itd": discrete(
                    self.denoiser, x0, rng, self.reference, levels=self.levels, cond=cond, maps=asked.maps, **settings
                ),
                "gaussian": discrete(plain, x0, rng, self.reference, levels=self.levels, **settings),
            }
        else:
            found = {
                "itd": density(self.denoiser, x0, rng, self.reference, self.levels, cond=cond, **settings),
                "gaussian": density(plain, x0, rng, self.reference, self.levels, **settings),
            }
        return found | (self._others(x0, rng, cond) if everything else {})

    def _others(self, x0: Tensor, rng: Any, cond: Tensor | None) -> dict[str, Nats]:
        """By a chain, by a chain of whole posteriors, and by the ODE."""
        from ..info import Grid, chain, variational

        asked, found = self.asked, {}
        if self.subject.whole:
            found["variational"] = variational(
                self.denoiser,
                x0,
                rng,
                self._times(asked.steps),
                draws=4 * asked.levels,
                repeats=asked.repeats,
                cond=cond,
            )
        if asked.chain:
            grid = Grid() if self.subject.whole else None
            found["chain"] = chain(
                self.denoiser,
                x0,
                rng,
                self._times(asked.chain),
                grid,
                asked.draws,
                of_draws(x0[0].numel()),
                asked.repeats,
                cond,
            )
        if asked.ode:
            # the difference of the two is the error of the steps
            found |= {"ode": self._ode(x0, rng, cond, asked.ode), "ode half": self._ode(x0, rng, cond, asked.ode // 2)}
        return found

    def _times(self, steps: int) -> Tensor:
        """The times of a chain: 1, and then even in logsnr, so that no step has a large share of the snr."""
        import torch

        process = self.subject.process
        last = float(process.logsnr(max(self.subject.low, 1e-3)))
        first = float(process.logsnr(1.0))
        if first >= _NOISE or steps == 1:
            even = torch.linspace(max(first, -50.0), last, steps + 1, dtype=torch.float64, device="cpu")[1:]
        else:
            even = torch.linspace(_NOISE, last, steps, dtype=torch.float64, device="cpu")
        return torch.cat([torch.ones_like(even[:1]), process.time(even)])

    def _ode(self, x0: Tensor, rng: Any, cond: Tensor | None, steps: int) -> Nats:
        """By the ODE with one probe in each repeat. Whole numbers become real ones by uniform noise in a step of the
        grid, which bounds their nats from above in the mean."""
        import torch

        from ..info import Grid, Nats, log_density

        step = Grid().step if self.subject.whole else 0.0
        first = min(_CLEAN, float(self.subject.process.logsnr(self.subject.low)))
        last = max(-12.0, float(self.subject.process.logsnr(1.0)) + 1e-3)
        times = self.subject.process.time(torch.linspace(first, last, steps + 1, dtype=torch.float64, device="cpu"))
        repeats = []
        for repeat in range(self.asked.repeats):
            own = rng.child(f"ode {repeat}")
            noisy = x0 + step * (own.child("real").uniform(x0.shape) - 0.5).to(x0)
            nats = -log_density(self.denoiser, noisy, times, probes=(1, own.child("probes")), cond=cond).double()
            repeats.append(nats - x0[0].numel() * math.log(step) if step else nats)
        found = torch.stack(repeats)
        return Nats(found.mean(0), found.std(0) / len(found) ** 0.5, (last, first), x0[0].numel())

    def curve(self, data: Data) -> ErrorCurve:
        """The errors at even levels, of the measured items."""
        from ..info import curve, discrete_curve
        from ..rng import Rng

        x0 = self.items(data)
        rng = Rng(self.asked.seed, len(x0), "curve", self.device)
        cond = self.subject.cond(data, len(x0), self.device)
        if not self.subject.whole:
            return curve(self.denoiser, x0, rng, self.reference, self._even(_CURVE), cond)
        ends = (self.levels.low, self.levels.high)
        wide = self._even(_CURVE)
        wide += [
            wide[-1] + (k + 1) * (wide[1] - wide[0]) for k in range(math.ceil((16 - wide[-1]) / (wide[1] - wide[0])))
        ]
        return discrete_curve(self.denoiser, x0, rng, self.reference, wide, ends=ends, cond=cond)


def of_draws(dims: int) -> Literal["mixture", "normal"]:
    """How draws stand for a posterior without a density."""
    return "mixture" if dims <= _FEW else "normal"


def is_whole(data: Data) -> bool:
    """Whether the items are images of 8 bits."""
    import torch

    return bool(data.is_image and data.values.dtype == torch.uint8)
