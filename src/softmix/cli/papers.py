"""`softmix papers`: list the papers that softmix runs, with their claims and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from .common import UsageError
from .outputs import require_writable_file, write_text
from .verb import Verb

if TYPE_CHECKING:
    from ..recipe import Verdict


@dataclass(frozen=True, kw_only=True)
class Papers(Verb):
    """List the papers that softmix runs, their claims, and the verdicts. With a name, show every number of the last run
    of that paper at full scale.

    For example `softmix papers smd`.
    """

    name: Positional[str | None] = None
    """Name of a paper; by default all are listed."""
    out: Path | None = None
    """A Markdown file for the whole list, with all numbers."""

    def __call__(self) -> None:
        if self.out is not None:
            require_writable_file(self.out)

        from ..recipe import PAPERS, last_verdict

        for each in [find_paper(self.name)] if self.name is not None else PAPERS.values():
            paper, verdict = each.PAPER, last_verdict(each.PAPER.name)
            print(
                f"{paper.name:15s} {paper.title} ({paper.venue} {paper.year})\n"
                f"{'':15s} claim: {paper.claim}\n{'':14s} result: {_summary(each, verdict)}"
            )
            if self.name is not None and verdict is not None:
                print(f"\n{verdict.table()}\n\n{_reason(verdict)}")
        if self.out is not None:
            write_text(self.out, _page())
            print(f"wrote {self.out}")


def find_paper(name: str) -> Any:
    """The recipe of this name. Raises UsageError, with all names, if there is none."""
    from ..recipe import PAPERS

    if name not in PAPERS:
        raise UsageError(f"there is no paper {name!r}; softmix has {', '.join(PAPERS)} (see `softmix papers`)")
    return PAPERS[name]


def _summary(module: Any, verdict: Verdict | None) -> str:
    return f"{verdict.verdict}: {module.RESULT}" if verdict else "not run at full scale yet"


def _reason(verdict: Verdict) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in verdict.machine.items())
    return f"{verdict.verdict}: {verdict.why}\n({verdict.seconds:.0f} s; {machine})"


def _page() -> str:
    """The page docs/papers.md: a table of the papers, and below it the numbers of each."""
    from ..recipe import PAPERS, last_verdict

    lines = [
        "# Papers",
        "",
        "`softmix papers --out docs/papers.md` writes this page. `softmix reproduce NAME` runs a paper; with `--quick`",
        "it takes two minutes. The table has the claim of each paper and our verdict. Below it are the numbers of each",
        "verdict: means over seeds, ± their standard deviation. `metric@n` is the metric at n, mostly the number of",
        "evaluations. Then come the checks that decide the verdict; NOT: marks a check that failed.",
        "",
        "| name | paper | claim | result |",
        "|---|---|---|---|",
    ]
    below: list[str] = []
    for name, module in PAPERS.items():
        paper, verdict = module.PAPER, last_verdict(name)
        link = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv}), {paper.venue} {paper.year}"
        shown = f"[`{name}`](#{name})" if verdict else f"`{name}`"
        lines.append(f"| {shown} | {link} | {paper.claim} | {_summary(module, verdict)} |")
        if verdict is not None:
            below += ["", f"## {name}", "", "```text", verdict.table(), "```", "", _reason(verdict)]
    return "\n".join([*lines, *below]) + "\n"
