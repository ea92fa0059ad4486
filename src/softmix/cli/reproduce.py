"""`softmix reproduce`: run the claim of a paper and print the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from .common import interrupted
from .outputs import atomic_file, require_writable_file, require_writable_folder
from .papers import find_paper
from .verb import Verb


@dataclass(frozen=True, kw_only=True)
class Reproduce(Verb):
    """Run a paper's claim against its baseline and a control, and print the verdict.

    For example `softmix reproduce smd --quick`.
    """

    paper: Positional[str]
    """A name from `softmix papers`."""
    out: Path | None = None
    """A folder for verdict.json and for finished rows, which are not computed again."""
    quick: bool = False
    """Under two minutes on two cores; else the full scale of the recipe, with at least three seeds."""
    dry_run: bool = False
    """Show the claim and run nothing."""

    def __call__(self) -> None:
        if self.out is not None:
            require_writable_folder(self.out)
            require_writable_file(self.out / "verdict.json")

        from ..recipe import Scale

        module = find_paper(self.paper)
        print(
            f"{module.PAPER.title} ({module.PAPER.venue} {module.PAPER.year}, arXiv {module.PAPER.arxiv})\n"
            f"claim: {module.PAPER.claim}\n"
        )
        if self.dry_run:
            return
        stopped = (
            f"stopped; what is in {self.out} by now is not computed again by the same command"
            if self.out is not None
            else "stopped; nothing was kept. With --out FOLDER the rows that take long are"
        )
        with interrupted(stopped):
            verdict = module.run(Scale.quick if self.quick else Scale.full, print, self.out)
        print(f"\n{verdict.table()}\n\n{verdict.verdict}: {verdict.why}\n({verdict.seconds:.0f} s)")
        if self.out is not None:
            with atomic_file(self.out / "verdict.json") as part:
                verdict.save(part)
            print(f"wrote {self.out / 'verdict.json'}")
