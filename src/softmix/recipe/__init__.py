"""The room of recipes: one short file for each paper. Its claim is run, beside a baseline and a control.

A recipe module has PAPER and run(scale, say, out) -> Verdict. It appears in PAPERS when it runs, not before.
"""

from types import ModuleType

from . import smd
from .paper import Paper, Scale, Verdict, VerdictRow

PAPERS: dict[str, ModuleType] = {"smd": smd}

__all__ = ["PAPERS", "Paper", "Scale", "Verdict", "VerdictRow"]
