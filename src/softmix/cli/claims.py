"""The command line: `softmix reproduce`, `papers` and `cite`."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from .common import UsageError, uses


def reproduce(paper: Positional[str], /, out: Path | None = None, quick: bool = False, dry_run: bool = False) -> None:
    """Run a paper's claim against its baseline and a control, and print the verdict.

    Args:
        paper: a name from `softmix papers`.
        out: a folder for verdict.json, and for what takes long: rows that are there are not computed again.
        quick: under two minutes on two cores; else what the claim deserves.
        dry_run: show the claim and run nothing.
    """
    from ..recipe import PAPERS, Scale

    if paper not in PAPERS:
        raise UsageError(f"there is no paper {paper!r}; softmix has {', '.join(PAPERS)} (see `softmix papers`)")
    module = PAPERS[paper]
    print(
        f"{module.PAPER.title} ({module.PAPER.venue} {module.PAPER.year}, arXiv {module.PAPER.arxiv})\n"
        f"claim: {module.PAPER.claim}\n"
    )
    if dry_run:
        return
    verdict = module.run(Scale.quick if quick else Scale.full, print, out)
    print(f"\n{verdict.table()}\n\n{verdict.verdict}: {verdict.why}\n({verdict.seconds:.0f} s)")
    if out is not None:
        verdict.save(out / "verdict.json")
        print(f"wrote {out / 'verdict.json'}")


def papers(out: Path | None = None) -> None:
    """The papers that softmix runs, their claims, and what was found.

    Args:
        out: a Markdown file to write the table to, as well.
    """
    from ..recipe import PAPERS

    table = [
        "# Papers",
        "",
        "Written by `softmix papers --out docs/papers.md`; run any by `softmix reproduce NAME`.",
        "",
    ]
    table += ["| name | paper | claim | found here |", "|---|---|---|---|"]
    for name, module in PAPERS.items():
        paper = module.PAPER
        print(
            f"{name:10s} {paper.title} ({paper.venue} {paper.year})\n"
            f"{'':10s} claim: {paper.claim}\n{'':10s} found: {module.FOUND}"
        )
        link = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv}), {paper.venue} {paper.year}"
        table.append(f"| `{name}` | {link} | {paper.claim} | {module.FOUND} |")
    if out is not None:
        out.write_text("\n".join(table) + "\n")
        print(f"wrote {out}")


def cite(run: Positional[Path], /) -> None:
    """BibTeX of what a run used.

    Args:
        run: a run folder.
    """
    from ..recipe import PAPERS
    from ..train import read_run

    config = read_run(run).config
    used = [module.PAPER for module in PAPERS.values() if uses(config, module.PAPER.name)]
    print("\n".join(paper.bibtex() for paper in used) or f"% {run} uses no paper that softmix has a recipe for")
