"""`softmix bits`: the information in items, by the errors of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from .common import (
    MAX_AVERAGE,
    Precision,
    UsageError,
    interrupted,
    load_data,
    load_for_sampling,
    option,
    require_positive,
    require_whole,
)
from .outputs import atomic_file, require_writable_file
from .run_data import training_data, with_held_out
from .verb import Verb

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Data
    from ..info import GaussianReference, Levels, Nats
    from ..train import Model

# the covariance of items is computed as a whole
_MOST, _FITTED = 4096, 20_000


@dataclass(frozen=True, kw_only=True)
class Bits(Verb):
    """Measure the bits in items: nats and bits per dimension of a trained model, with their standard errors.

    For example `softmix bits runs/photos` for its held-out items, and `softmix bits runs/photos --against other/` for
    how well the nats of an item tell the one from the other.

    Three numbers stand side by side: by the errors of the model at all noise levels (information-theoretic diffusion),
    the same for a Gaussian with the moments of the training data, and, of images, the variational bound of a chain.
    Lower is better. Images are taken as whole numbers of 8 bits, other items as real numbers, whose nats are those of a
    density.
    """

    run: Positional[Path]
    """A run folder, or a model that comes with softmix."""
    data: Positional[str | None] = None
    """The training data of the run, if they have moved."""
    n: int = 200
    """Number of held-out items."""
    levels: int = 32
    """Noise levels, in each of the repeats."""
    repeats: int = 2
    """Repeats of the integral, at least 2: they give the standard error of an item."""
    steps: int = 1000
    """Steps of the chain of the variational bound, of images."""
    against: str | None = None
    """Other data of the same shape: the share of pairs (an own item, another one) of which the nats name the other."""
    seed: int = 0
    """Seed of the noise."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100."""
    average: int = 0
    """Take the mean of this many draws, for a model that draws."""
    precision: Precision = "fp32"
    """As in `softmix sample`."""
    out: Path | None = None
    """A .npz for the nats of each item: keys itd, gaussian, and variational, of images."""
    dry_run: bool = False
    """Show the measurement in a sentence, and measure nothing."""

    def __call__(self) -> None:
        require_positive(n=self.n, levels=self.levels, steps=self.steps)
        require_whole(0, MAX_AVERAGE, average=self.average)
        if self.repeats < 2:
            raise UsageError(f"--repeats {self.repeats} was asked for; the standard error needs at least 2")
        if self.out is not None:
            if self.out.suffix.lower() != ".npz":
                raise UsageError(f"--out {self.out} was asked for; give a name that ends in .npz")
            require_writable_file(self.out)
        model, denoiser, _ = load_for_sampling(self.run, None, None, self.weights, self.average)
        if model.facts.vocabulary:
            raise UsageError(f"{self.run} is a model of tokens: `softmix evaluate {self.run}` gives its bits per token")
        _ = model.plain_process  # refused before the work
        others = [part for part in model.denoiser.cond.parts if part != "label"]
        if others:
            raise UsageError(
                f"{self.run} has a condition ({', '.join(others)}), and its bits given that are not measured"
            )
        train, held_out, origin = with_held_out(training_data(self.run, self.data, "bits"))
        for name in self.given("steps") if not is_whole(train) else ():
            raise UsageError(f"{option(name)} was asked for; {train.name} holds real numbers, which have no such chain")
        other = None if self.against is None else self._other(train)
        if self.dry_run:
            print(f"bits of {min(self.n, len(held_out))} items, {origin}, at {self.levels} levels")
            return
        with interrupted("stopped; nothing was written"):
            self._measure(model, denoiser, train, held_out, origin, other)

    def _other(self, train: Data) -> Data:
        options: dict[str, Any] = {}
        if train.is_image and train.shape[1] == train.shape[2]:
            options = {"size": train.shape[1], "channels": train.shape[0]}
        assert self.against is not None
        other = load_data(self.against, **options)
        if other.shape != train.shape:
            raise UsageError(
                f"--against {self.against} has items of shape {other.shape}, and the model was trained on {train.shape}"
            )
        return other

    def _measure(
        self, model: Model, denoiser: Any, train: Data, held_out: Data, origin: str, other: Data | None
    ) -> None:
        from ..data.store import choose
        from ..info import GaussianReference, Grid, Levels
        from ..precision import computing
        from ..train import find_device, least_time

        size = train.x0(slice(1)).numel()
        if size > _MOST:
            raise UsageError(
                f"items of {size:,} elements have a covariance too large for the reference (at most {_MOST:,})"
            )
        whole, low = is_whole(train), least_time(model.config.denoise)
        floor = Grid().step ** 2 / 12 if whole else 0.0
        try:
            reference = GaussianReference.fit(train.x0(choose(len(train), _FITTED)), floor)
        except ValueError:
            raise UsageError(
                f"the {len(train)} items of {train.name}, of {size} numbers each, do not vary along every axis, and "
                "have no density to compare with: take a run on more items"
            ) from None
        ends = model.plain_process.logsnr(low)
        levels = Levels.of(reference.variances).inside(-float("inf"), float(ends))
        device = find_device()
        model.denoiser.to(device)
        with computing(self.precision, device, model.denoiser):
            own = self._of(denoiser, held_out, reference, levels, whole, low, device)
            theirs = None if other is None else self._of(denoiser, other, reference, levels, whole, low, device)
        self._print(own, held_out, origin, whole)
        if theirs is not None and other is not None:
            self._print_against(own, theirs, held_out, other)
        if self.out is not None:
            self._save(own)

    def _of(
        self,
        denoiser: Any,
        data: Data,
        reference: GaussianReference,
        levels: Levels,
        whole: bool,
        low: float,
        device: Any,
    ) -> dict[str, Nats]:
        """The measures of the first items of data, by name."""
        import torch

        from ..info import density, discrete, variational
        from ..rng import Rng

        n = min(self.n, len(data))
        x0 = data.x0(slice(n)).to(device)
        rng = Rng(self.seed, n, "bits", device)
        cond = None
        if getattr(denoiser, "classes", 0):
            if data.labels is None:
                raise UsageError(
                    f"{self.run} knows classes, and {data.name} has none: its bits given a class are unknown"
                )
            cond = data.labels[:n].to(device)
        plain = reference.denoiser(denoiser.process)
        settings: dict[str, Any] = {"n": self.levels, "repeats": self.repeats}
        if not whole:
            return {
                "itd": density(denoiser, x0, rng, reference, levels, cond=cond, **settings),
                "gaussian": density(plain, x0, rng, reference, levels, **settings),
            }
        times = torch.linspace(1, max(low, 1e-3), self.steps + 1, dtype=torch.float64, device="cpu")
        return {
            "itd": discrete(denoiser, x0, rng, reference, levels=levels, cond=cond, **settings),
            "gaussian": discrete(plain, x0, rng, reference, levels=levels, **settings),
            "variational": variational(
                denoiser, x0, rng, times, draws=4 * self.levels, repeats=self.repeats, cond=cond
            ),
        }

    def _print(self, found: dict[str, Nats], data: Data, origin: str, whole: bool) -> None:
        kind = "whole numbers of 8 bits" if whole else "real numbers, a density"
        print(f"{len(found['itd'].each)} items of {data.name}, {origin}; {kind}; {self.precision}")
        names = {
            "itd": f"errors of the model, {self.repeats} x {self.levels} levels",
            "gaussian": "errors of a Gaussian with the same moments",
            "variational": f"variational bound, {self.steps} steps",
        }
        for name, nats in found.items():
            bits = nats.standard_error / nats.dims / math.log(2)
            low, high = nats.ends
            print(
                f"  {names[name]:44s} {nats.mean:11.2f} ± {nats.standard_error:.2f} nats   {nats.bits_per_dim:7.4f} ± "
                f"{bits:.4f} bits per dimension   logsnr {low:.1f} to {high:.1f}"
            )

    def _print_against(self, own: dict[str, Nats], theirs: dict[str, Nats], data: Data, other: Data) -> None:
        """The areas under the curves of four ways to tell the data apart."""
        pairs: dict[str, tuple[Tensor, Tensor]] = {
            name: (own[name].each, theirs[name].each) for name in ("itd", "gaussian")
        }
        if is_whole(data) and is_whole(other):
            here, there = (compressed_nats(each.values[: self.n]).to(own["itd"].each) for each in (data, other))
            pairs["compressed size"] = here, there
            pairs["itd less compressed size"] = own["itd"].each - here, theirs["itd"].each - there
        print(f"against {len(theirs['itd'].each)} items of {other.name}: {theirs['itd'].mean:.2f} nats by the model")
        for name, (here, there) in pairs.items():
            print(f"  {name:28s} names the other item of a pair in {area_above(here, there):.3f} of pairs")

    def _save(self, found: dict[str, Nats]) -> None:
        import numpy as np

        assert self.out is not None
        with atomic_file(self.out) as part, part.open("wb") as file:
            arrays: dict[str, Any] = {name: nats.each.cpu().numpy() for name, nats in found.items()}
            np.savez(file, **arrays)
        print(f"wrote {self.out}")


def is_whole(data: Data) -> bool:
    """Whether the items are images of 8 bits."""
    import torch

    return bool(data.is_image and data.values.dtype == torch.uint8)


def area_above(here: Tensor, there: Tensor) -> float:
    """The share of pairs of which `there` is larger, equal ones half: the area under the ROC curve."""
    above = (there[:, None] > here).double() + 0.5 * (there[:, None] == here).double()
    return float(above.mean())


def compressed_nats(pixels: Tensor) -> Tensor:
    """The length of each item as compressed by zlib, in nats, float64 [N]. pixels : uint8 [N, ...]."""
    import zlib

    import torch

    sizes = [len(zlib.compress(each.contiguous().numpy().tobytes(), 9)) for each in pixels]
    return torch.tensor(sizes, dtype=torch.float64, device="cpu") * 8 * math.log(2)
