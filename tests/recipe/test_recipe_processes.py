"""The recipes of processes: their exact rows, their controls, and their trainings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softmix import Rng
from softmix.config import dumps, from_json
from softmix.data import Data, DataError, Degraded, load
from softmix.loss import Square
from softmix.oracle import digits, pairs
from softmix.posterior import need
from softmix.posterior.ability import HasMean
from softmix.process import VP, ConstantSpeed, Flow, Immiscible, ShortestPath, uniform
from softmix.recipe import Scale, VerdictRow, frame, immiscible, last_verdict, rddm, resfusion, shift_ddpms, spd
from softmix.recipe import pairs as of_pairs
from softmix.recipe import pairs_trained as trained_pairs
from softmix.recipe.frame import Arms, Numbers, Trained, TrainedStudy, one_by_one
from softmix.recipe.images import DATA_SETS, base
from softmix.recipe.pairs import EXACT, exact_draws
from softmix.recipe.pairs_trained import Degradation, FromPair, half_way
from softmix.recipe.paper import Paper
from softmix.recipe.trainings import Training
from softmix.sampler import ddim, drive
from softmix.sampler.drive import finish
from softmix.train import Config, Run, Trainer, facts_of
from softmix.train.preset import POSTERIOR_GIVEN_Y

F64 = torch.float64
TABLES = {
    "pairs": trained_pairs.TRAININGS,
    "spd": spd.TRAININGS,
    "shift_ddpms": shift_ddpms.TRAININGS,
    "immiscible": immiscible.TRAININGS,
}


@pytest.fixture(scope="module")
def few() -> Data:
    return load("digits", limit=300)


def fashion() -> None:
    """Skip a test that needs Fashion-MNIST where it is not installed."""
    try:
        load("fashion-mnist")
    except DataError as error:
        pytest.skip(str(error))


# the exact rows of pairs


@pytest.mark.parametrize(
    ("own", "control"),
    [
        ("RDDM", "the noise levels of RDDM alone"),
        ("RDDM, sd = 0.1", "the noise levels of sd = 0.1 alone"),
        ("Resfusion without fresh noise", "the noise levels of Resfusion alone"),
    ],
)
def test_a_residual_process_is_conditional_diffusion_on_its_noise_levels(own: str, control: str) -> None:
    """From one noise: the first step has no signal of x0, 4.5e-5 of a standard deviation, in either."""
    x_in = pairs((8,)).draw(3, Rng(0, 3))[1].value
    assert x_in is not None
    one, other = (
        exact_draws(EXACT[name], pairs((8,), EXACT[name].process), x_in, 6, 4, seed=1) for name in (own, control)
    )
    elsewhere = exact_draws(EXACT["conditional diffusion"], pairs((8,)), x_in, 6, 4, seed=1)
    assert one.shape == (4, 3, 8)
    assert float((one - other).abs().max()) < 2e-3 < 5e-3 < float((one - elsewhere).abs().max())


def test_the_grid_of_a_control_has_the_noise_levels_of_the_other_process() -> None:
    row = EXACT["the noise levels of sd = 0.1 alone"]
    assert row.levels is not None
    levels, grid = row.levels.logsnr(row.levels.grid(5))[1:-1], row.grid(5)
    assert torch.allclose(row.process.logsnr(grid[1:-1]), levels, atol=1e-6) and grid[0] == 1 and grid[-1] == 0


@pytest.mark.parametrize("identity", [rddm.identity, resfusion.identity])
def test_the_identities_hold_to_rounding(identity: object) -> None:
    assert identity(0, 20, 5)["difference"] < 1e-12  # type: ignore[operator]


def test_draws_have_no_distance_and_means_have_one() -> None:
    found = of_pairs.measure_exact(("RDDM", "RDDM, draws"), 0, (1, 5))
    assert abs(found["RDDM, draws", "distance@1"]) < 2e-3 and abs(found["RDDM, draws", "distance@5"]) < 2e-3
    assert found["RDDM", "distance@1"] > 0.2 > found["RDDM", "distance@5"] > 0.02
    # the error of the mean is the least of all
    assert found["RDDM", "rmse@1"] < found["RDDM", "rmse@5"] < found["RDDM, draws", "rmse@5"]


# images of pairs


def test_the_degradations_are_what_they_say() -> None:
    x0 = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rng = Rng(0, 64)
    blurred = Degradation("blurred")(torch.ones_like(x0), rng)
    assert float(blurred.mean()) == pytest.approx(1, abs=2e-3) and float(blurred.std()) == pytest.approx(0.1, rel=0.02)
    point = torch.zeros(1, 1, 16, 16)
    point[0, 0, 8, 8] = 1.0
    spread = torch.stack([Degradation("blurred")(point, Rng(seed, 1)) for seed in range(400)]).mean(0)[0, 0]
    # a normal law with a standard deviation of 2 pixels, of which the noise of the mean is 0.005
    assert float(spread[8, 8]) == pytest.approx(1 / (2 * torch.pi * 4), abs=0.02)
    assert float(spread[8, 10] / spread[8, 8]) == pytest.approx(0.61, abs=0.4)
    dark = Degradation("dark")(x0, rng)
    light = (1 + x0) / 2
    assert float((dark - (2 * 0.25 * light**2.5 - 1)).std()) == pytest.approx(0.02, rel=0.02)
    masked = Degradation("masked")(x0, rng)
    hidden = (masked != x0).any(1)
    assert bool((hidden.flatten(1).sum(1) == 64).all()) and bool((masked[:, 0][hidden] == 0).all())
    rows = hidden.any(2).float().argmax(1)
    assert rows.min() == 0 and rows.max() == 8
    with pytest.raises(ValueError, match="there are blurred, dark, masked"):
        Degradation("wet")


def test_an_item_is_degraded_alone_as_in_a_batch() -> None:
    x0 = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for kind in trained_pairs.DEGRADATIONS:
        together = Degradation(kind)(x0, Rng(3, 5))
        assert torch.allclose(Degradation(kind)(x0[3:4], Rng(3, [3])), together[3:4], atol=1e-6)


def test_the_start_from_a_pair_is_where_half_of_the_signal_is_left() -> None:
    for process in (VP(), VP("linear")):
        assert float(process.alpha(half_way(process))) == pytest.approx(0.5, abs=1e-9)
    ways = trained_pairs.TRAININGS["conditional diffusion"].ways
    assert sum(isinstance(way, FromPair) for way in ways) == 2


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, rows in TABLES.items() for name in rows])
def test_every_training_of_a_process_trains(table: str, name: str, few: Data, tmp_path: Path) -> None:
    trained: Training = TABLES[table][name]
    if table == "spd":
        fashion()
    source = Degraded(few, Degradation("blurred")) if table == "pairs" else few
    plain = base(few.shape, DATA_SETS["digits"][2], 32 * 4, 0, batch=32).but(drop=0.0)
    config = trained.change(plain, few.shape)
    assert config.steps == 4 and config.batch == 32
    trainer = Trainer(Run(config, facts_of(source, config)), source, tmp_path)
    for _ in range(4):
        loss, norm = trainer.advance()
        assert loss == loss and norm > 0


@pytest.mark.slow
def test_a_training_of_pairs_is_measured_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_pairs, "HELD_OUT", 12)
    monkeypatch.setattr(trained_pairs, "EVALUATIONS", (1, 2))
    found = trained_pairs.train_and_measure("conditional diffusion", "digits", "blurred", tmp_path, 0, 640)
    ways = trained_pairs.TRAININGS["conditional diffusion"].ways
    for way in ways:
        for count in (1, 2):
            name = f"conditional diffusion by {way.name}"
            assert found[name, f"crps@{count}"] > 0 and 0 < found[name, f"one draw@{count}"] < 40
    # at one step all ways from noise end at the mean
    alike = [found[f"conditional diffusion by {way.name}", "crps@1"] for way in ways if not isinstance(way, FromPair)]
    assert max(alike) - min(alike) < 0.02 * max(alike)


def rows_of_pairs(kind: str) -> list[VerdictRow]:
    """The exact rows and invented ones of trained models, in which everything that is checked holds."""
    level = {"regression": 20.0, "RDDM": 22.0, "Resfusion": 22.0, "RDDM, sd = 0.1": 21.0}
    rows = []
    for name in (*trained_pairs.TRAININGS, trained_pairs.NEAR):
        own = trained_pairs.named(name, kind)
        for count in trained_pairs.EVALUATIONS:
            rows.append(VerdictRow(own, "ours", f"one draw@{count}", level.get(name, 20.0), 0.0, 3))
            soft = name.endswith("soft mixture") and not name.startswith("conditional")
            rows.append(VerdictRow(own, "ours", f"crps@{count}", 0.1 if soft else 0.2, 0.0, 3))
    return rows


@pytest.mark.parametrize(("ours", "soft"), [("RDDM", "RDDM, soft mixture"), ("Resfusion", "Resfusion, soft mixture")])
def test_the_checks_on_images_follow_the_rows(ours: str, soft: str) -> None:
    rows = rows_of_pairs("blurred")
    assert all(trained_pairs.on_images(Numbers(rows), "blurred", ours, soft).values())
    assert trained_pairs.on_images(Numbers(rows), "dark", ours, soft) == {}

    def without(name: str, metric: str, value: float) -> list[bool]:
        own = trained_pairs.named(name, "blurred")
        changed = [replace(row, value=value) if (row.name, row.metric) == (own, metric) else row for row in rows]
        return list(trained_pairs.on_images(Numbers(changed), "blurred", ours, soft).values())

    assert without("conditional diffusion", "one draw@5", 21.5) == [False, True, True]
    assert without(trained_pairs.NEAR, "one draw@2", 21.5) == [True, False, True]
    assert without(f"{soft}, eta = 0", "crps@1", 0.05) == [True, True, False]
    assert without("conditional diffusion, soft mixture", "crps@2", 0.05) == [True, True, False]


@pytest.mark.parametrize("module", [spd, immiscible, shift_ddpms])
def test_the_configuration_of_every_training_can_be_saved(module: object) -> None:
    """A run writes it, and a run that goes on reads it."""
    if module is spd:
        try:
            load("fashion-mnist", limit=1)
        except DataError as error:
            pytest.skip(str(error))
    for name, training in module.TRAININGS.items():  # type: ignore[attr-defined]
        config = training.change(base((1, 14, 14), DATA_SETS["fashion14"][2], 640, 0), (1, 14, 14))
        assert from_json(Config, json.loads(dumps(config))) == config, name


# the frame of trainings

PAPER = Paper("x", "t", "a", "v", 2020, "", "c")


def test_a_study_trains_at_full_scale_alone(tmp_path: Path) -> None:
    asked: list[Path] = []

    def measure(out: Path, progress: object) -> list[VerdictRow]:
        asked.append(out)
        return [VerdictRow("a", "floor", "m", 2.0, 0.1, 3, "elsewhere")]

    study = TrainedStudy(PAPER, lambda value: {"two": value.get(("a", "m"), 2.0) == 2}, [], trained=[])
    with_rows = replace(study, trained=[Trained("pictures", {"a": "ours"}, measure)])
    assert with_rows(Scale.quick, print).rows == () and asked == []
    (row,) = with_rows(Scale.full, print, tmp_path).rows
    assert (row.data, row.role, row.value) == ("pictures", "ours", 2.0) and asked == [tmp_path]
    unknown = replace(study, trained=[Trained("pictures", {"b": "ours"}, measure)])
    with pytest.raises(ValueError, match="a: measured, but among the roles are"):
        unknown(Scale.full, print, tmp_path)


def test_arms_with_trainings_keep_them_and_their_numbers_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds of one arm: all rows, under the name of the data, and no second measurement."""
    monkeypatch.setattr(frame, "in_processes", one_by_one)
    asked: list[tuple[Path, int]] = []

    def make(out: Path) -> list[Arms]:
        def measure(seed: int, images: int) -> dict[tuple[str, str], float]:
            asked.append((out, seed))
            return {("a", "m"): float(seed), ("a", "other"): float(images)}

        return [Arms({"a": "control"}, measure, "pictures, a", full={"images": 7}, seeds=3)]

    made = Trained.of("pictures", make)
    for _ in range(2):
        first, other = made.rows(tmp_path, print)
        assert (first.value, first.seeds, first.role, first.data) == (1.0, 3, "control", "pictures")
        assert other.value == 7
    assert asked == [(tmp_path, 0), (tmp_path, 1), (tmp_path, 2)] and list(tmp_path.iterdir()) != []


# the spectrum


@pytest.mark.parametrize("name", ["shortest path", "cosine", "one schedule, constant speed"])
@pytest.mark.parametrize("kind", list(spd.SAMPLERS))
def test_the_variances_are_those_of_the_sampler(name: str, kind: str) -> None:
    power = torch.tensor([[20.0, 1.5], [0.3, 0.01]], dtype=F64)
    process, n = spd.ROWS[name].make(power), 40_000
    denoiser, grid = spd.Linear(process, power), uniform(process, 6)
    start = denoiser._wide(process.levels(grid[0])[1]) * Rng(0, n, "start").normal((n, 2, 2), F64)
    end = finish(drive(denoiser, spd.SAMPLERS[kind], start, grid, Rng(0, n)))
    # the variance of n numbers has a relative error of 0.7 %
    assert torch.allclose(end.var(0), spd.variances(denoiser, spd.SAMPLERS[kind], grid)[0], rtol=0.035)


def test_many_steps_reach_the_data_and_the_divergence_is_0_there() -> None:
    power = spd.power_of("digits")
    denoiser = spd.Linear(ShortestPath(power), power)
    far, near = (spd.divergence(spd.variances(denoiser, ddim, uniform(VP(), n)), power) for n in (20, 400))
    assert near < 0.01 < far and spd.divergence(power, power) == 0
    # log 2 - 1/2 for half of the variance
    assert spd.divergence(power / 2, power) == pytest.approx(64 / 2 * (torch.tensor(2.0).log().item() - 0.5), rel=1e-6)


def test_the_trained_rows_of_spd_have_the_spectrum_of_their_data() -> None:
    fashion()
    plain = base((1, 14, 14), DATA_SETS["fashion14"][2], 640, 0)
    own = spd.TRAININGS["trained, shortest path"].change(plain, (1, 14, 14)).task.process
    control = spd.TRAININGS["trained, one schedule, constant speed"].change(plain, (1, 14, 14)).task.process
    assert isinstance(control, ConstantSpeed) and control.power == tuple(own.base.power.flatten().tolist())


# shifts


def test_without_a_shift_the_blind_posterior_is_that_of_the_whole_law() -> None:
    blind, whole = shift_ddpms.Blind("prior", torch.zeros(10, 64, dtype=F64)), digits(VP("linear"))
    xt = whole.process.noise(whole.sample(7, Rng(0, 7)), 0.5, Rng(1, 7)).xt
    assert torch.allclose(blind(xt, 0.5).mean, need(whole.denoiser()(xt, 0.5), HasMean, "test").mean, atol=1e-9)


@pytest.mark.parametrize("path", ["prior", "quadratic"])
def test_the_blind_posterior_weighs_the_shifted_classes(path: str) -> None:
    u = 3 * Rng(0, 10).normal((10, 64), F64)
    blind, whole, t = shift_ddpms.Blind(path, u), shift_ddpms.law(), 0.6  # type: ignore[arg-type]
    alpha, sigma, k = (float(each) for each in (*VP("linear").levels(t), blind.process.k(t)))
    label = torch.arange(10)
    x0 = whole.means + 0.1 * Rng(1, 10).normal((10, 64), F64)
    xt = blind.process.noise(x0.reshape(10, 1, 8, 8), t, Rng(2, 10), label).xt
    covariances = alpha**2 * whole.covariances + sigma**2 * torch.eye(64, dtype=F64)
    laws = [
        torch.distributions.MultivariateNormal(alpha * whole.means[c] + k * u[c], covariances[c]) for c in range(10)
    ]
    logs = torch.stack([law.log_prob(xt.flatten(1)) for law in laws], 1) + whole.weights.log()
    found = blind(xt, t)
    assert torch.allclose(found.log_weights, logs.log_softmax(1), atol=1e-6)
    gains = alpha * whole.covariances @ torch.linalg.inv(covariances)
    means = whole.means + torch.einsum("cde,bce->bcd", gains, xt.flatten(1)[:, None] - alpha * whole.means - k * u)
    assert torch.allclose(found.mean.flatten(1), (logs.softmax(1)[..., None] * means).sum(1), atol=1e-6)


def test_the_posterior_of_a_given_class_is_that_of_its_gaussian() -> None:
    told, whole = shift_ddpms.Told(VP("linear")), shift_ddpms.law()
    x, label = Rng(0, 4).normal((4, 1, 8, 8), F64), torch.tensor([3, 3, 0, 9])
    alpha, sigma = (float(each) for each in VP("linear").levels(0.4))
    found = told(x, 0.4, label)
    for k, c in enumerate(label.tolist()):
        total = alpha**2 * whole.covariances[c] + sigma**2 * torch.eye(64, dtype=F64)
        gain = alpha * whole.covariances[c] @ torch.linalg.inv(total)
        right = whole.means[c] + gain @ (x[k].flatten() - alpha * whole.means[c])
        assert torch.allclose(found.mean[k].flatten(), right, atol=1e-9)
        assert torch.allclose(
            found.covariance[k], whole.covariances[c] - alpha * gain @ whole.covariances[c], atol=1e-9
        )


def test_the_classes_of_the_law_are_recognised() -> None:
    whole, label = shift_ddpms.law(), torch.arange(100) % 10
    x = whole.means[label].reshape(-1, 1, 8, 8)
    assert shift_ddpms.recognised(x, label) == 1 and shift_ddpms.recognised(x, label.roll(1)) == 0


# assigned noise


def test_the_noise_that_is_assigned_is_nearer_and_keeps_its_mean() -> None:
    found = immiscible.nearness("digits", 0, (128,))
    own, near = (immiscible.named(name, "digits") for name in ("assigned", "nearest of 4"))
    assert 7 < found[own, "nearer %@128"] < 9.5 and 0.6 < found[own, "correlation@128"] < 0.72
    # 1,792 noises have a mean within 0.024 of 0, one standard deviation
    assert abs(found[own, "moved@128"]) < 0.08 and found[near, "moved@128"] > 0.5


def test_a_start_at_the_assigned_noise_has_its_law() -> None:
    """The nearest of 4 has a mean of 0.12 to 0.15 towards the data, over seeds. That of 4,000 normal numbers has a
    standard deviation of 0.016."""
    towards = immiscible.eight().law.mean
    towards = towards / towards.norm()
    for process, least in ((Immiscible("nearest", 4, Flow()), 0.09), (Immiscible(base=Flow()), -0.07)):
        x = immiscible.own_noise(process)(process, (4000, 16), 1.0, Rng(0, 4000))
        assert float((x.double() @ towards).mean()) > least
    assert abs(float((x.double() @ towards).mean())) < 0.07


def test_the_row_with_its_own_start_begins_there() -> None:
    names = ("nearest of 4", "nearest of 4, started at its noise")
    usual, moved = (immiscible.measure(name, 0, 64, 256) for name in names)
    assert usual["loss"] == moved["loss"]
    assert all(abs(usual[f"distance@{k}"] - moved[f"distance@{k}"]) > 1e-4 for k in immiscible.COUNTS)


# the page of the processes


def cells(name: str, rows: dict[str, tuple[str, str]], kind: str, counts: tuple[float, ...], digits: str) -> list[str]:
    """The cells of lines of a table: of each row (arm, prefix of the line) the numbers of the saved verdict."""
    saved = last_verdict(name)
    assert saved is not None
    value = Numbers(saved.rows)
    return [
        f"| {line} | "
        + " | ".join(format(value[arm, f"{metric}@{count}"], digits).rstrip(".") for count in counts)
        + " |"
        for arm, (line, metric) in rows.items()
        if metric == kind
    ]


def test_the_tables_of_the_page_are_those_of_the_verdicts() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rooms" / "process.md").read_text(encoding="utf-8")
    spectrum = {
        spd.named(arm, "fashion-mnist"): (line, "ancestral")
        for arm, line in {
            "shortest path": "shortest path",
            "one schedule, constant speed": "one schedule, constant speed",
            "cosine": "cosine",
            "linear": "linear",
            "path of S^1.5": "the path of S^1.5",
        }.items()
    }
    wanted = cells("spd", spectrum, "ancestral", spd.COUNTS, "#.3g")
    shift = {
        "prior shift by 5 class means": ('"prior" | 1 - alpha | 5 class means', "accuracy"),
        "prior shift by class means": ('"prior" | 1 - alpha | class means', "accuracy"),
        "quadratic shift by 5 class means": (
            '"quadratic", the published default | alpha (1 - alpha) | 5 class means',
            "accuracy",
        ),
        "quadratic shift by class means": ('"quadratic" | alpha (1 - alpha) | class means', "accuracy"),
        "class given": ("a network that is given the class | |", "accuracy"),
    }
    wanted += cells("shift_ddpms", shift, "accuracy", (20,), ".3f")
    steps = {
        "RDDM, sd = 0.1": ("`RDDM(sd=0.1)` by `ddim`", "distance"),
        "the noise levels of sd = 0.1 alone": (
            "`VP()` on the noise levels of `RDDM(sd=0.1)`, by `ddim`",
            "distance",
        ),
    }
    for line in cells("rddm", steps, "distance", of_pairs.FEW, ".4f"):
        first, *others = line.rsplit(" | ", 3)
        wanted.append(" | ".join([first, f"{float(others[0]):.3f}", *others[1:]]))
    fields = {
        "exact fields": ("exact", "kl"),
        "wrong velocity": ("an error of the velocity", "kl"),
        "wrong noise": ("an error of the noise", "kl"),
    }
    wanted += cells("stochastic_interpolants", fields, "kl", (0, 0.1, 0.3, 1, 10), ".3f")
    bands = {
        "uniform": ("uniform", "adams distance"),
        "non-uniform, one network": ("bands, one network", "adams distance"),
        "multi-scale": ("bands, smaller networks", "adams distance"),
        "coarse band first": ("the coarse band first, one network", "adams distance"),
    }
    wanted += cells("non_uniform", bands, "adams distance", (4, 8, 16, 32, 64), ".3f")
    assert [line for line in wanted if line not in page] == []


def test_the_residual_is_trained_with_one_weight_at_all_noise_levels(few: Data) -> None:
    """An error of the residual is one of x0. A soft mixture has a score of its own."""
    plain = base(few.shape, DATA_SETS["digits"][2], 640, 0)
    for name, right in (("RDDM", "x0"), ("RDDM, sd = 0.1", "x0"), ("Resfusion", "v"), ("conditional diffusion", "v")):
        assert trained_pairs.TRAININGS[name].change(plain, few.shape).task.loss == Square(right)  # type: ignore[arg-type]
    assert trained_pairs.TRAININGS["RDDM, soft mixture"].change(plain, few.shape).task.loss == POSTERIOR_GIVEN_Y
