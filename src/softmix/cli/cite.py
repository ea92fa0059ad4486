"""`softmix cite`: the papers that a run used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from .common import choose_sampler, require_sampler
from .verb import Verb

if TYPE_CHECKING:
    from ..bibliography import Reference
    from ..train import Model


@dataclass(frozen=True, kw_only=True)
class Cite(Verb):
    """Print BibTeX of every paper that a run used: of its process, network, head, loss and averages, and of the sampler
    that suits it.

    For example `softmix cite runs/photos`.
    """

    run: Positional[Path]
    """A run folder."""
    sampler: str | None = None
    """The sampler that you used, if it was another."""

    def __call__(self) -> None:
        from ..train import load

        require_sampler(self.sampler)
        print("\n".join(reference.bibtex() for reference in papers_of(load(self.run), self.sampler)))


def papers_of(model: Model, sampler: str | None = None) -> list[Reference]:
    """The papers of a model and of its sampler."""
    from ..bibliography import cited
    from ..sampler import traits

    return cited(model.config, traits(choose_sampler(sampler, None, model.sampler)))
