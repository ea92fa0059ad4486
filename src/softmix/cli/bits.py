"""`softmix bits`: the information in items, by the errors of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from .bits_measures import (
    MeasuredBits,
    Measures,
    Subject,
    is_whole,
    of_diffusers,
    of_run,
)
from .common import MAX_AVERAGE, Precision, UsageError, interrupted, load_data, option, require_positive, require_whole
from .outputs import atomic_file, require_writable_file
from .sample_diffusers import is_diffusers_folder
from .verb import Verb

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Data
    from ..info import Nats


@dataclass(frozen=True, kw_only=True)
class Bits(Verb):
    """Measure the bits in items: nats and bits per dimension of a trained model, with their standard errors.

    For example `softmix bits runs/photos` for its held-out items, `softmix bits runs/photos --report bits.html` for a
    page, and `softmix bits runs/photos --against other/` for how well the nats of an item tell the one from the other.

    Several numbers stand side by side: by the errors of the model at all noise levels (information-theoretic
    diffusion), the same for a Gaussian with the moments of the training data, and, of images, the variational bound of
    a chain; with --chain the bound of a chain that takes the whole posterior, and with --ode that of the ODE. Lower is
    better. Images are taken as whole numbers of 8 bits, other items as real numbers, whose nats are those of a density.
    """

    run: Positional[Path]
    """A run folder, a model that comes with softmix, or a folder that diffusers wrote."""
    data: Positional[str | None] = None
    """The training data of the run, if they have moved. For a folder of diffusers, items to measure."""
    n: int = 200
    """Number of held-out items."""
    levels: int = 32
    """Noise levels, in each of the repeats."""
    repeats: int = 2
    """Repeats of the integral, at least 2: they give the standard error of an item."""
    steps: int = 1000
    """Steps of the chain of the variational bound, of images, even in logsnr."""
    chain: int = 0
    """Steps of a chain that takes the whole posterior: a Normal, a mixture, or draws. 0 for none."""
    draws: int = 64
    """Draws in each step of that chain, of a posterior without a density: a mixture of them, and a Normal by their mean
    and variance in more than 16 dimensions."""
    ode: int = 0
    """Steps of the ODE, of four evaluations with a gradient each, and again with half of them. 0 for none."""
    ensemble: tuple[Path, ...] = ()
    """Other runs on the same data: at each noise level the best of all counts, chosen on training items."""
    against: str | None = None
    """Other data of the same shape: the share of pairs (an own item, another one) of which the nats name the other."""
    seed: int = 0
    """Seed of the noise."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100; of all runs of an ensemble."""
    average: int = 0
    """Take the mean of this many draws, for a model that draws."""
    precision: Precision = "fp32"
    """As in `softmix sample`."""
    out: Path | None = None
    """A .npz for the nats of each item, by the names itd, gaussian, variational, chain and ode."""
    report: Path | None = None
    """A page (.html): the numbers, where in noise the bits lie, and in which pixels. Needs softmix[report]."""
    dry_run: bool = False
    """Show the measurement in a sentence, and measure nothing."""

    def __call__(self) -> None:
        require_positive(n=self.n, levels=self.levels, steps=self.steps, draws=self.draws)
        require_whole(0, MAX_AVERAGE, average=self.average)
        require_whole(0, 100_000, chain=self.chain, ode=self.ode)
        if self.repeats < 2:
            raise UsageError(f"--repeats {self.repeats} was asked for; the standard error needs at least 2")
        if self.ode == 1:
            raise UsageError("--ode 1 was asked for; the same with half the steps needs at least 2")
        if self.given("draws") and not self.chain:
            raise UsageError(f"--draws {self.draws} was asked for; they belong to --chain")
        for name, path, ending in (("--out", self.out, ".npz"), ("--report", self.report, ".html")):
            if path is not None:
                if path.suffix.lower() != ending:
                    raise UsageError(f"{name} {path} was asked for; give a name that ends in {ending}")
                require_writable_file(path)
        if self.report is not None:
            self._require_report()
        subject = self._subject()
        for name in self.given("steps") if not subject.whole else ():
            raise UsageError(
                f"{option(name)} was asked for; {subject.train.name} holds real numbers, which have no such chain"
            )
        other = None if self.against is None else self._other(subject.train)
        if self.dry_run:
            n = min(self.n, len(subject.held_out))
            print(f"bits of {n} items, {subject.origin}, at {self.levels} levels")
            return
        with interrupted("stopped; nothing was written"):
            self._measure(subject, other)

    def _require_report(self) -> None:
        from ..evaluate.page import need_extra

        try:
            need_extra("--report")
        except ImportError as error:
            raise UsageError(str(error)) from error

    def _subject(self) -> Subject:
        if not is_diffusers_folder(self.run):
            return of_run(self.run, self.data, self.weights, self.average, self.ensemble)
        for name in self.given("weights", "average", "ensemble"):
            raise UsageError(f"{option(name)} was asked for; {self.run} is a folder of diffusers, without this option")
        if self.data is None:
            raise UsageError(f"{self.run} is a folder of diffusers: say which items to measure, bits {self.run} DATA")
        return of_diffusers(self.run, self.data, self.n)

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

    def _measure(self, subject: Subject, other: Data | None) -> None:
        from ..precision import computing
        from ..train import find_device

        device = find_device()
        asked = Measures(
            *(self.n, self.levels, self.repeats, self.steps, self.chain, self.draws, self.ode, self.seed),
            maps=self.report is not None and subject.whole,
        )
        with computing(self.precision, device, subject.denoisers[0]):
            measured = MeasuredBits(subject, asked, device)
            own = measured.of(subject.held_out)
            theirs = None if other is None else measured.of(other, everything=False)
            curve = None if self.report is None else measured.curve(subject.held_out)
        lines = self._lines(own)
        self._print(lines, subject)
        if theirs is not None and other is not None:
            self._print_against(own, theirs, subject.held_out, other)
        if self.out is not None:
            self._save(own)
        if self.report is not None and curve is not None:
            from ..evaluate.bits_page import BitsPage

            items = measured.items(subject.held_out).cpu() if subject.train.is_image else None
            page = BitsPage(
                f"The bits in {subject.held_out.name}", lines, curve, subject.whole, items, self._facts(subject)
            )
            print(f"wrote {page.write(self.report)}")

    def _lines(self, found: dict[str, Nats]) -> list[tuple[str, Nats]]:
        names = {
            "itd": f"errors of the model, {self.repeats} x {self.levels} levels",
            "gaussian": "errors of a Gaussian with the same moments",
            "variational": f"variational bound, {self.steps} steps",
            "chain": f"chain of whole posteriors, {self.chain} steps",
            "ode": f"ODE, {self.ode} steps, one probe",
            "ode half": f"ODE, {self.ode // 2} steps, one probe",
        }
        return [(names[name], nats) for name, nats in found.items()]

    def _facts(self, subject: Subject) -> dict[str, str]:
        n = min(self.n, len(subject.held_out))
        facts = {
            "model": ", ".join([subject.name, *map(str, self.ensemble)]),
            "items": f"{n} of {subject.held_out.name}, {subject.origin}",
            "numbers": "whole, of 8 bits" if subject.whole else "real, a density",
            "process": str(subject.process),
            "seed, precision": f"{self.seed}, {self.precision}",
        }
        if self.ode and subject.whole:
            facts["ODE"] = "of real numbers: uniform noise in a step of the grid"
        return facts

    def _print(self, lines: list[tuple[str, Nats]], subject: Subject) -> None:
        kind = "whole numbers of 8 bits" if subject.whole else "real numbers, a density"
        print(f"{len(lines[0][1].each)} items of {subject.held_out.name}, {subject.origin}; {kind}; {self.precision}")
        for name, nats in lines:
            bits = nats.standard_error / nats.dims / math.log(2)
            low, high = nats.ends
            print(
                f"  {name:44s} {nats.mean:11.2f} ± {nats.standard_error:.2f} nats   {nats.bits_per_dim:7.4f} ± "
                f"{bits:.4f} bits per dimension   logsnr {low:.1f} to {high:.1f}"
            )
        if self.ode and subject.whole:
            print("  the ODE is that of real numbers: uniform noise in a step of the grid was added")

    def _print_against(self, own: dict[str, Nats], theirs: dict[str, Nats], data: Data, other: Data) -> None:
        """The areas under the curves of four ways to tell the data apart."""
        from ..info import area_above, compressed_nats

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
