"""The recipes against their saved verdicts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from softmix.recipe import PAPERS, Scale, Verdict, VerdictRow, last_verdict, smd
from softmix.recipe.frame import Numbers, judged


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAPERS if name != "smd"])
def test_a_claim_is_run_beside_a_baseline_and_a_control(name: str) -> None:
    """At quick scale: under two minutes, all numbers finite. The saved verdict has the same arms and metrics, of
    several seeds."""
    module = PAPERS[name]
    verdict, saved = module.run(Scale.quick, lambda line: None), last_verdict(name)
    roles = {row.role for row in verdict.rows}
    assert {"ours", "baseline", "control"} <= roles and verdict.seconds < 120
    assert all(math.isfinite(row.value) for row in verdict.rows)
    assert saved is not None
    asked, seen = ({(row.name, row.role, row.metric, row.data) for row in each.rows} for each in (verdict, saved))
    assert asked <= seen, "run: softmix reproduce NAME --out FOLDER, and copy its verdict.json"
    assert all(row.seeds in (1, 3, 5) for row in saved.rows if (row.name, row.role, row.metric, row.data) in asked)


@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_has_a_saved_verdict_of_its_claim(name: str) -> None:
    module, saved = PAPERS[name], last_verdict(name)
    assert module.PAPER.name == name and saved is not None and saved.claim == module.PAPER.claim
    assert {"ours", "baseline", "control"} <= {row.role for row in saved.rows}
    assert not module.RESULT.startswith(("holds", "does not")), "the verdict itself is in the saved file"


@pytest.mark.parametrize("name", PAPERS)
def test_the_checks_of_a_recipe_give_its_saved_verdict_from_the_saved_rows(name: str) -> None:
    """At full scale, images included: the same outcome, and every sentence."""
    module, saved = PAPERS[name], last_verdict(name)
    assert saved is not None
    checks, decide = (smd.checks, smd.in_part) if module is smd else (module.run.checks, module.run.decide)
    again = judged(module.PAPER, saved.rows, checks, 0.0, decide)
    assert (again.verdict, again.why) == (saved.verdict, saved.why)


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "smd"])
def test_the_arms_of_a_recipe_are_those_of_its_saved_verdict(name: str) -> None:
    """The same name, role, data and number of seeds: three for trainings. Some arms have only some metrics."""
    saved, study = last_verdict(name), PAPERS[name].run
    assert saved is not None
    planned = {
        (each, role, arms.data, arms.seeds)
        for arms in study.arms
        if arms.full is not None
        for each, role in arms.roles.items()
    }
    for trained in getattr(study, "trained", ()):
        # the floor of trained models is measured once
        planned |= {(each, role, trained.data, n) for each, role in trained.roles.items() for n in (1, 3)}
    assert {(row.name, row.role, row.data, row.seeds) for row in saved.rows} <= planned


def decided(good: float, draws: float | None) -> str:
    """The outcome of smd: the best mixture has the share `good` at a mode, draws have the distance `draws`, all other
    samplers 20."""
    saved = last_verdict("smd")
    assert saved is not None
    rows = [
        replace(row, value=good) if row.metric == "good@4" and row.role == "ours" else row
        for row in saved.rows
        if row.data == "grid"
    ]
    if draws is not None:
        images = [row for row in saved.rows if row.data != "grid"]
        rows += [replace(row, value=draws if row.name == smd.OURS else 20.0) for row in images]
    value = Numbers(rows)
    return smd.in_part(value, smd.checks(value))


@pytest.mark.parametrize(
    ("good", "draws", "outcome"),
    [
        (0.99, None, "holds in part"),
        (0.5, None, "does not hold here"),
        (0.99, 30.0, "holds in part"),
        (0.5, 3.0, "holds in part"),
        (0.5, 30.0, "does not hold here"),
    ],
)
def test_soft_mixtures_hold_in_part_if_the_grid_or_the_images_do(
    good: float, draws: float | None, outcome: str
) -> None:
    assert decided(good, draws) == outcome


def test_a_verdict_is_saved_without_loss(tmp_path: Path) -> None:
    rows = (VerdictRow("a", "ours", "error", 1.7e-9, 1e-10, 5, "here"), VerdictRow("b", "floor", "error", 0.25, 0.0, 1))
    verdict = Verdict("it is so", "holds", "it was so", rows, 2.5)
    verdict.save(tmp_path / "verdict.json")
    assert Verdict.load(tmp_path / "verdict.json") == verdict
    # a small number is not rounded to 0
    assert "2e-09±1e-10" in verdict.table() and "0.250" in verdict.table()
