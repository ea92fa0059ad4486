"""The command line: `softmix reproduce`, `papers` and `cite`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from .common import UsageError, chosen_sampler, interrupted, known_sampler
from .outputs import aside, file_to_write, folder_to_write, write_text

if TYPE_CHECKING:
    from ..bibliography import Reference
    from ..recipe import Verdict
    from ..train import Model


def reproduce(paper: Positional[str], /, out: Path | None = None, quick: bool = False, dry_run: bool = False) -> None:
    """Run a paper's claim against its baseline and a control, and print the verdict.

    Args:
        paper: a name from `softmix papers`.
        out: a folder for verdict.json, and for what takes long: rows that are there are not computed again.
        quick: under two minutes on two cores; else what the claim deserves.
        dry_run: show the claim and run nothing.
    """
    if out is not None:
        folder_to_write(out)
        file_to_write(out / "verdict.json")

    from ..recipe import Scale

    module = _named(paper)
    print(
        f"{module.PAPER.title} ({module.PAPER.venue} {module.PAPER.year}, arXiv {module.PAPER.arxiv})\n"
        f"claim: {module.PAPER.claim}\n"
    )
    if dry_run:
        return
    stopped = (
        f"stopped; what is in {out} by now is not computed again by the same command"
        if out is not None
        else "stopped; nothing was kept. With --out FOLDER the rows that take long are"
    )
    with interrupted(stopped):
        verdict = module.run(Scale.quick if quick else Scale.full, print, out)
    print(f"\n{verdict.table()}\n\n{verdict.verdict}: {verdict.why}\n({verdict.seconds:.0f} s)")
    if out is not None:
        with aside(out / "verdict.json") as part:
            verdict.save(part)
        print(f"wrote {out / 'verdict.json'}")


def papers(name: Positional[str | None] = None, /, out: Path | None = None) -> None:
    """The papers that softmix runs, their claims, and what was found; with a name, every number of that paper's last
    run at full scale.

    Args:
        name: of a paper; by default all are listed.
        out: a Markdown file for the whole, with all numbers.
    """
    if out is not None:
        file_to_write(out)

    from ..recipe import PAPERS, last_verdict

    for each in [_named(name)] if name is not None else PAPERS.values():
        paper, verdict = each.PAPER, last_verdict(each.PAPER.name)
        print(
            f"{paper.name:15s} {paper.title} ({paper.venue} {paper.year})\n"
            f"{'':15s} claim: {paper.claim}\n{'':15s} found: {_said(each, verdict)}"
        )
        if name is not None and verdict is not None:
            print(f"\n{verdict.table()}\n\n{_why(verdict)}")
    if out is not None:
        write_text(out, _page())
        print(f"wrote {out}")


def _named(name: str) -> Any:
    from ..recipe import PAPERS

    if name not in PAPERS:
        raise UsageError(f"there is no paper {name!r}; softmix has {', '.join(PAPERS)} (see `softmix papers`)")
    return PAPERS[name]


def _said(module: Any, verdict: Verdict | None) -> str:
    return f"{verdict.verdict}: {module.RESULT}" if verdict else "not run at full scale yet"


def _why(verdict: Verdict) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in verdict.machine.items())
    return f"{verdict.verdict}: {verdict.why}\n({verdict.seconds:.0f} s; {machine})"


def _page() -> str:
    """A table of the papers, and below it the numbers of each."""
    from ..recipe import PAPERS, last_verdict

    lines = [
        "# Papers",
        "",
        "Written by `softmix papers --out docs/papers.md`. Run any by `softmix reproduce NAME`, in two minutes with",
        "`--quick`. What each verdict rests on is below the table: values are means over seeds, ± is their standard",
        "deviation, and whatever was asked of the numbers is said with its answer.",
        "",
        "| name | paper | claim | found here |",
        "|---|---|---|---|",
    ]
    below: list[str] = []
    for name, module in PAPERS.items():
        paper, verdict = module.PAPER, last_verdict(name)
        link = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv}), {paper.venue} {paper.year}"
        shown = f"[`{name}`](#{name})" if verdict else f"`{name}`"
        lines.append(f"| {shown} | {link} | {paper.claim} | {_said(module, verdict)} |")
        if verdict is not None:
            below += ["", f"## {name}", "", "```text", verdict.table(), "```", "", _why(verdict)]
    return "\n".join([*lines, *below]) + "\n"


def cite(run: Positional[Path], /, sampler: str | None = None) -> None:
    """BibTeX of every paper that a run used: of its process, network, head, loss and averages, and of the sampler that
    suits it.

    Args:
        run: a run folder.
        sampler: the one that you sampled with, if it was another.
    """
    from ..train import load

    known_sampler(sampler)
    print("\n".join(reference.bibtex() for reference in used_by(load(run), sampler)))


def used_by(model: Model, sampler: str | None = None) -> list[Reference]:
    """The papers of a model and of its sampler."""
    from ..bibliography import cited
    from ..sampler import traits

    return cited(model.config, traits(chosen_sampler(sampler, None, model.sampler)))
