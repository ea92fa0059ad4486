"""The rows of few steps on images, and what the verdict makes of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softmix.data import Data, Report, load
from softmix.data.store import make
from softmix.denoiser import Network, wiener
from softmix.net import MLPSpec
from softmix.posterior import Normal, Point
from softmix.process import VP, Flow, Gaussian
from softmix.recipe import PAPERS, Scale, Verdict, VerdictRow, last_verdict, smd
from softmix.recipe.frame import Numbers, judged, rows_in, rows_of
from softmix.recipe.images import (
    COUNTS,
    DATA_SETS,
    TRAININGS,
    arms,
    base,
    best,
    best_variance,
    by,
    folder,
    near,
    real_images,
)
from softmix.recipe.smd import SOFT, silent
from softmix.rng import Rng
from softmix.train import Run, Trainer, facts_of


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=300)


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_trains(name: str, digits: Data, tmp_path: Path) -> None:
    """On the table's own net, with the steps that its share of images gives; the first loss and the last are finite."""
    trained = TRAININGS[name]
    plain = base(digits.shape, DATA_SETS["digits"][2], round(32 * 4 * trained.longer), 0, batch=32)
    config = trained.change(plain, digits.shape)
    assert config.steps == 4 * trained.longer and config.batch == 32
    trainer = Trainer(Run(config, facts_of(digits, config)), digits, tmp_path)
    for _ in range(config.steps or 0):
        loss, norm = trainer.advance()
        assert loss == loss and norm > 0
    assert (trainer.frozen is not None) == hasattr(config.task.loss, "freeze_at")


def test_controls_have_as_many_parameters(digits: Data, tmp_path: Path) -> None:
    """The silent net exactly, and the wider plain one as nearly as widths in fours allow."""

    def parameters(name: str) -> int:
        config = TRAININGS[name].change(base(digits.shape, DATA_SETS["digits"][2], 640, 0), digits.shape)
        network = Trainer(Run(config, facts_of(digits, config)), digits, tmp_path).model
        return sum(p.numel() for p in network.parameters())

    assert parameters("feature score, eta = 0") == parameters("feature score")
    assert parameters("plain, wider") == pytest.approx(parameters("feature score"), rel=0.12)
    assert parameters("plain") < 0.9 * parameters("feature score")


@pytest.mark.parametrize("process", [VP(), Flow()], ids=str)
def test_the_second_grid_falls_from_1_to_0(process: Gaussian) -> None:
    for n in (1, 2, 4, 16):
        grid = near(process, n)
        assert len(grid) == n + 1 and grid[0] == 1 and grid[-1] == 0 and bool((grid.diff() < 0).all())
    ends = process.logsnr(near(process, 4))[1:-1]
    assert torch.allclose(ends, torch.tensor([-2.0, 1.0, 4.0], dtype=torch.float64))


def never(line: str) -> None:
    pytest.fail(line)


@pytest.mark.slow
def test_a_training_is_measured_once_in_every_way(tmp_path: Path) -> None:
    """A short run on the digits: every way at every count, the floor, and nothing the second time."""
    each = [arms("plain, wider", "digits", tmp_path, 1280, 64, seeds=1), real_images("digits", tmp_path, 64)]
    runs, out = [run for one in each for run in one.runs(Scale.full)], folder(tmp_path, "digits", 1280)
    rows = rows_of(runs, lambda line: None, out)
    assert rows_of(runs, never, out) == rows
    numbers = Numbers(rows)
    for way in TRAININGS["plain, wider"].ways:
        counts = [count for count in COUNTS if (by("plain, wider", way.name), f"frechet@{count}") in numbers]
        assert counts == [count for count in COUNTS if count <= way.most]
        assert all(numbers[by("plain, wider", way.name), f"frechet@{count}"] > 0 for count in counts)
    assert numbers["plain, wider", "parameters"] > 0 and numbers["plain, wider", "training seconds"] > 0
    assert numbers["real images", "copied"] == 0.01
    by_name = {(row.name, row.metric): row for row in rows}
    assert {(row.name, row.metric): row for row in rows_in(out)} == by_name
    assert (out / "plain--wider-0" / "log.txt").read_text().startswith("plain, wider")


def written(out: Path, numbers: dict[str, float], recall: float = 0.4, slow: float = 4.0) -> None:
    """Saved numbers in which each training has one distance at all counts by its first way to sample, and 99 by the
    others."""
    place = folder(out, "fashion14", 1000)
    for name, distance in numbers.items():
        ways = TRAININGS[name].ways
        for run in arms(name, "fashion14", out, 1000, 1000, seeds=2).runs(Scale.full):
            results = {(name, "parameters"): 1.0}
            for way, count in [(each, count) for each in ways for count in each.counts]:
                first = way is ways[0]
                results[by(name, way.name), f"frechet@{count}"] = distance + run.seed if first else 99.0
                results[by(name, way.name), f"recall@{count}"] = recall if first else 1.0
            if name == "plain":
                results[by(name, "ddim"), "frechet@64"] = slow
            run.save(place, results)
    (floor,) = real_images("fashion14", out, 1000).runs(Scale.full)
    floor.save(place, {("real images", "frechet"): 0.4})


@pytest.mark.parametrize(
    ("changed", "refuted"),
    [
        ({}, ()),
        ({"feature score, eta = 0": 2.0}, ("with eta = 0",)),
        ({"consistency": 5.0}, ("at 4 their",)),
        ({"meanflow": 1.0}, ("soft mixtures are ahead", "at 4 their")),
        ({"feature score": 5.0}, ("at 8 it is",)),
    ],
)
def test_the_verdict_of_images_follows_its_rows(
    changed: dict[str, float], refuted: tuple[str, ...], tmp_path: Path
) -> None:
    numbers = dict.fromkeys(smd.IMAGE_ROWS, 20.0) | {"feature score": 3.0} | changed
    written(tmp_path, numbers)
    rows = smd.on_images(2, 1000, tmp_path, never)
    value = Numbers(rows)
    false = [text for text, true in smd.of_images(value).items() if not true]
    assert len(false) == len(refuted) and all(
        text.startswith(start) for text, start in zip(false, refuted, strict=True)
    )
    assert smd.pays(value) == ("feature score, eta = 0" not in changed and "meanflow" not in changed)
    row = next(row for row in rows if row.name == "feature score" and row.metric == "frechet@4")
    assert row.value == numbers["feature score"] + 0.5 and row.seeds == 2 and row.role == "ours"
    assert best(rows_in(folder(tmp_path, "fashion14", 1000)), "plain", 4, "recall").value == 0.4
    assert {row.data for row in rows} == {"Fashion-MNIST, 14 x 14"}
    floor = next(row for row in rows if row.name == "real images")
    assert (floor.metric, floor.value, floor.role, floor.seeds) == ("frechet@1", 0.4, "floor", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAPERS if name != "smd"])
def test_a_claim_is_run_beside_a_baseline_and_a_control(name: str) -> None:
    """At quick scale: under two minutes, all numbers finite. The kept run at full scale is of this very recipe: the
    same ways and metrics, of five seeds."""
    module = PAPERS[name]
    verdict, kept = module.run(Scale.quick, lambda line: None), last_verdict(name)
    roles = {row.role for row in verdict.rows}
    assert {"ours", "baseline", "control"} <= roles and verdict.seconds < 120
    assert all(math.isfinite(row.value) for row in verdict.rows)
    assert kept is not None
    asked, seen = ({(row.name, row.role, row.metric, row.data) for row in each.rows} for each in (verdict, kept))
    assert asked <= seen, "run: softmix reproduce NAME --out FOLDER, and keep its verdict.json"
    assert all(row.seeds in (1, 5) for row in kept.rows if (row.name, row.role, row.metric, row.data) in asked)


@pytest.mark.parametrize("name", PAPERS)
def test_what_a_paper_is_said_to_do_is_a_kept_run(name: str) -> None:
    module, kept = PAPERS[name], last_verdict(name)
    assert module.PAPER.name == name and kept is not None and kept.claim == module.PAPER.claim
    assert {"ours", "baseline", "control"} <= {row.role for row in kept.rows}
    assert not module.RESULT.startswith(("holds", "does not")), "the verdict is in the kept run"


@pytest.mark.parametrize("name", PAPERS)
def test_the_checks_of_today_make_the_kept_verdict_of_the_kept_rows(name: str) -> None:
    """At full scale, images included: the same outcome, and every sentence."""
    module, kept = PAPERS[name], last_verdict(name)
    assert kept is not None
    checks, decide = (smd.checks, smd.in_part) if module is smd else (module.run.checks, module.run.decide)
    again = judged(module.PAPER, kept.rows, checks, 0.0, decide)
    assert (again.verdict, again.why) == (kept.verdict, kept.why)


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "smd"])
def test_the_arms_of_today_are_those_of_the_kept_run(name: str) -> None:
    """Each name in its role on its data, and as many seeds; of some arms only some metrics are there."""
    kept = last_verdict(name)
    assert kept is not None
    planned = {
        (each, role, arms.data, arms.seeds)
        for arms in PAPERS[name].run.arms
        if arms.full is not None
        for each, role in arms.roles.items()
    }
    assert {(row.name, row.role, row.data, row.seeds) for row in kept.rows} <= planned


def rule_of(good: float, draws: float | None) -> str:
    """What smd says if the best mixture has this share at a mode, and draws this distance where all others have 20."""
    kept = last_verdict("smd")
    assert kept is not None
    rows = [
        replace(row, value=good) if row.metric == "good@4" and row.role == "ours" else row
        for row in kept.rows
        if row.data == "grid"
    ]
    if draws is not None:
        images = [row for row in kept.rows if row.data != "grid"]
        rows += [replace(row, value=draws if row.name == "feature score" else 20.0) for row in images]
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
def test_soft_mixtures_hold_in_part_where_the_grid_or_the_images_say_so(
    good: float, draws: float | None, outcome: str
) -> None:
    assert rule_of(good, draws) == outcome


def test_a_verdict_is_kept_whole(tmp_path: Path) -> None:
    rows = (VerdictRow("a", "ours", "error", 1.7e-9, 1e-10, 5, "here"), VerdictRow("b", "floor", "error", 0.25, 0.0, 1))
    verdict = Verdict("it is so", "holds", "it was so", rows, 2.5)
    verdict.save(tmp_path / "verdict.json")
    assert Verdict.load(tmp_path / "verdict.json") == verdict
    # what is all but nothing is not written as nothing
    assert "2e-09±1e-10" in verdict.table() and "0.250" in verdict.table()


# controls that keep a mean alone


def test_the_silent_network_knows_the_mean_at_a_latent_of_zero() -> None:
    network = Network(VP(), MLPSpec(width=32, depth=2), SOFT, (2,))
    x = Rng(0, 5).normal((5, 2))
    with torch.no_grad():
        belief, right = (
            silent(network)(x, 0.4),
            network(x, 0.4).head(torch.zeros(1, 5, *network(x, 0.4).latent_shape))[0],
        )
    assert type(belief) is Point and torch.equal(belief.mean, right)


def test_the_best_variance_of_a_gaussian_is_that_of_its_posterior() -> None:
    """x0 ~ N(0, 1): sigma^2 / (alpha^2 + sigma^2) at each time, from 500 items within 5 standard errors."""
    points = Rng(0, 2000).normal((2000, 1), torch.float64)
    exact = wiener(VP(), torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    grid = torch.tensor([0.8, 0.4, 0.0], dtype=torch.float64)
    widened = best_variance(exact, make("line", points, None, (), Report(read=2000)), grid)
    for t in (0.8, 0.4):
        belief = widened(points[:3], t)
        right = float(VP().sigma(t)) ** 2
        assert isinstance(belief, Normal) and torch.equal(belief.mean, exact(points[:3], t).mean)
        assert torch.allclose(belief.var, torch.full((3, 1), right, dtype=torch.float64), rtol=5 * (2 / 500) ** 0.5)
        assert len(set(belief.var.flatten().tolist())) == 1
