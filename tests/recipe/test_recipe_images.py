"""Trainings on images as arms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from softmix.data import Data, Report, load
from softmix.data.store import make
from softmix.denoiser import Denoiser, Network, wiener
from softmix.loss import MeanFlow
from softmix.net import MLPSpec
from softmix.posterior import Normal
from softmix.process import VP, Flow, Gaussian, after_draw, few
from softmix.recipe import Scale, VerdictRow, images
from softmix.recipe.frame import Numbers, rows_in, rows_of
from softmix.recipe.images import DATA_SETS, arms, base, best, by, folder, real_images
from softmix.recipe.smd_grid import SOFT
from softmix.recipe.trainings import COUNTS, TRAININGS, Sampling, best_variance, near
from softmix.rng import Rng
from softmix.sampler import ddim
from softmix.train import Config, Run, Trainer, facts_of, read_run


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=300)


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_trains(name: str, digits: Data, tmp_path: Path) -> None:
    """On the network of the table, with its number of steps: every loss is finite."""
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
    """The silent network exactly, the wider plain one up to the step of 4 in width."""

    def parameters(name: str) -> int:
        config = TRAININGS[name].change(base(digits.shape, DATA_SETS["digits"][2], 640, 0), digits.shape)
        network = Trainer(Run(config, facts_of(digits, config)), digits, tmp_path).model
        return sum(p.numel() for p in network.parameters())

    assert parameters("feature score, eta = 0") == parameters("feature score")
    assert parameters("plain, wider") == pytest.approx(parameters("feature score"), rel=0.12)
    assert parameters("plain") < 0.9 * parameters("feature score")


def test_improved_meanflow_differs_from_meanflow_by_its_direction(digits: Data) -> None:
    plain = base(digits.shape, DATA_SETS["digits"][2], 640, 0)
    usual, improved = (TRAININGS[name].change(plain, digits.shape) for name in ("meanflow", "improved meanflow"))
    assert usual.task.loss == MeanFlow() and improved == usual.but(loss=MeanFlow(direction="mean", pairs=0.5))


@pytest.mark.parametrize("process", [VP(), Flow()], ids=str)
def test_the_second_grid_falls_from_1_to_0(process: Gaussian) -> None:
    for n in (1, 2, 4, 16):
        grid = near(process, n)
        assert len(grid) == n + 1 and grid[0] == 1 and grid[-1] == 0 and bool((grid.diff() < 0).all())
    ends = process.logsnr(near(process, 4))[1:-1]
    assert torch.allclose(ends, torch.tensor([-2.0, 1.0, 4.0], dtype=torch.float64, device="cpu"))


def test_a_way_is_measured_up_to_its_most_evaluations() -> None:
    way = Sampling("ddim", ddim, most=10)
    assert way.within((1, 5, 10, 11, 100)) == [1, 5, 10] and way.counts == [1, 2, 4, 8]


def never(line: str) -> None:
    pytest.fail(line)


@pytest.mark.slow
def test_a_training_is_measured_once_in_every_way(tmp_path: Path) -> None:
    """A short run on the digits: every way at every count wanted, the floor, and nothing the second time."""
    trained = arms("plain, wider", "digits", tmp_path, 1280, 64, seeds=1, batch=128, counts=(1, 4, 32))
    each = [trained, real_images("digits", tmp_path, 64)]
    runs, out = [run for one in each for run in one.runs(Scale.full)], folder(tmp_path, "digits", 1280, 128)
    rows = rows_of(runs, lambda line: None, out)
    assert rows_of(runs, never, out) == rows
    numbers = Numbers(rows)
    for way in TRAININGS["plain, wider"].ways:
        counts = [count for count in COUNTS if (by("plain, wider", way.name), f"frechet@{count}") in numbers]
        assert counts == [count for count in (1, 4, 32) if count <= way.most]
        assert all(numbers[by("plain, wider", way.name), f"frechet@{count}"] > 0 for count in counts)
    assert numbers["plain, wider", "parameters"] > 0 and numbers["plain, wider", "training seconds"] > 0
    assert numbers["real images", "copied"] == 0.01
    by_name = {(row.name, row.metric): row for row in rows}
    assert {(row.name, row.metric): row for row in rows_in(out)} == by_name
    assert (out / "plain--wider-0" / "log.txt").read_text().startswith("plain, wider")
    config = read_run(out / "plain--wider-0" / "run").config
    assert (config.batch, config.steps) == (128, 10)


def test_the_batch_and_the_counts_are_settings_of_the_numbers(tmp_path: Path) -> None:
    """The settings of a run with defaults are those of earlier versions, so that its saved numbers are found."""
    plain = arms("plain", "digits", tmp_path, 1280, 64)
    assert plain.full == {"images": 1280, "n": 64} and folder(tmp_path, "digits", 1280) == tmp_path / "digits-1280"
    other = arms("plain", "digits", tmp_path, 1280, 64, batch=512, counts=(1, 4))
    assert other.full == {"images": 1280, "n": 64, "batch": 512, "counts": (1, 4)}
    assert folder(tmp_path, "digits", 1280, 512) == tmp_path / "digits-1280-batch512"
    one, two = (each.runs(Scale.full)[0].file(tmp_path) for each in (plain, other))
    assert one != two


@pytest.mark.parametrize("name", ["plain", "consistency", "feature drift"])
def test_a_training_is_compiled_if_asked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, places = [], []

    class Enough(Exception):
        pass

    def training(data: Data, config: Config, out: Path) -> None:
        asked.append(config.compile)
        places.append(out)
        raise Enough

    monkeypatch.setattr(images, "training", training)
    for compile in (False, True):
        trained = arms(name, "digits", tmp_path, 1280, 64, compile=compile)
        assert (trained.full or {}).get("compile", False) == compile
        with pytest.raises(Enough):
            trained.runs(Scale.full)[0]()
    assert asked == [False, True] and places[0] != places[1]
    assert places[1].is_relative_to(folder(tmp_path, "digits", 1280, compile=True))


def test_the_rows_of_few_keep_their_grid_and_the_grid_after_a_draw_has_its_own() -> None:
    first, second, *_ = TRAININGS["feature drift"].ways
    assert (first.name, first.grid) == ("soft-adams", few)
    assert (second.name, second.grid) == ("soft-adams, after a draw", after_draw)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_is_measured_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    plain = images.sample

    def sample(denoiser: Denoiser, *args: Any, **kwargs: Any) -> torch.Tensor:
        devices.append((images.device_of(denoiser).type, torch.device(kwargs["device"]).type))
        return plain(denoiser, *args, **kwargs)

    monkeypatch.setattr(images, "sample", sample)
    results = images.train_and_measure("plain", "digits", tmp_path, 0, 1280, 64, 128, (1, 4))
    assert set(devices) == {("cuda", "cuda")} and results[by("plain", "best variance"), "frechet@4"] > 0


@pytest.mark.parametrize(("count", "n"), [(12, 4), (11, 5), (11_517, 5000), (3, 9), (7, 7)])
def test_the_floor_has_items_from_everywhere(count: int, n: int) -> None:
    items = images._spread_out(count, n)
    assert len(items) == min(n, count) and items[0] == 0 and len(items.unique()) == len(items)
    gaps = torch.diff(torch.cat([items, torch.tensor([count])]))
    assert int(gaps.max()) - int(gaps.min()) <= 1


def test_the_device_of_a_denoiser_is_that_of_its_weights() -> None:
    network = Network(VP(), MLPSpec(width=8, depth=1), SOFT, (2,))
    assert images.device_of(network) == next(network.parameters()).device
    assert images.device_of(network.to("meta")) == torch.device("meta")
    assert images.device_of(wiener(VP(), torch.zeros(1), torch.eye(1))) == torch.device("cpu")


# controls with a mean only


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


def test_the_best_way_is_that_of_the_least_distance_also_for_other_metrics() -> None:
    numbers = {"plain by a": (3.0, 0.1), "plain by b": (2.0, 0.2), "plain, wider by a": (1.0, 0.3)}
    rows = [
        VerdictRow(name, "baseline", f"{metric}@4", value, 0.0, 1)
        for name, values in numbers.items()
        for metric, value in zip(("frechet", "recall"), values, strict=True)
    ]
    assert (best(rows, "plain", 4).name, best(rows, "plain", 4).value) == ("plain by b", 2.0)
    assert best(rows, "plain", 4, "recall").value == 0.2
