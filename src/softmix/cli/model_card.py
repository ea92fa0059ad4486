"""The model card: README.md of a run folder."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from .cite import papers_of

if TYPE_CHECKING:
    from ..train import Model


def write_card(model: Model) -> None:
    """Write README.md: data, parts, the commands that repeat the run, and the papers to cite."""
    facts, config, task = model.facts, model.config, model.config.task
    start = (
        f", from the weights {facts.start.fingerprint} of {facts.start.run} (step {facts.start.step})"
        if facts.start
        else ""
    )
    longer = [f"softmix train --out NEW --more {b - a}" for a, b in pairwise((*facts.ends, facts.steps or model.step))]
    count = f"{facts.count} items" if facts.count else "a density of items"
    named = {"net": "network", "head": "posterior head", "loss": "loss", "process": "process", "path": "path"}
    lines = [
        f"# {model.path.name}",
        "",
        f"A diffusion model trained with softmix {facts.version} on {facts.data}: {count} of shape "
        f"{tuple(facts.shape)}, fingerprint {facts.fingerprint}.",
        "",
        *(f"- {noun}: `{getattr(task, name)}`" for name, noun in named.items() if hasattr(task, name)),
        f"- {model.step} steps of {config.batch} items, seed {config.seed}, {facts.precision}{start}",
        "",
        "Repeat it from this folder, on the same data:",
        "",
        "```sh",
        "softmix train --config config.json --out NEW",
        *longer,
        "```",
        "",
        "Sample with `softmix sample`, measure with `softmix evaluate`."
        if facts.count
        else "Sample with `softmix sample`; weights and log Z: `softmix.load(RUN).result.sample(n).log_z`.",
        "",
        "```bibtex",
        *(reference.bibtex() for reference in papers_of(model)),
        "```",
        "",
    ]
    (model.path / "README.md").write_text("\n".join(lines), encoding="utf-8")
