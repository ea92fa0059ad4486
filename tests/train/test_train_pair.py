"""The task of two signals: its times, its weights, its data, and a small training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from softmix import Cond, training
from softmix.config import from_json, to_json
from softmix.data import Data, Degraded, Paired, Report, load
from softmix.data.store import make
from softmix.data.toys import ToyMixture
from softmix.denoiser import MapHead, MixtureHead, Network, NormalHead, SoftHead
from softmix.loss import Energy, Likelihood, PublishedSquare, Square
from softmix.loss.weight import weight
from softmix.net import DiTSpec, MLPSpec, TwoStreamsSpec
from softmix.oracle import JointProblem
from softmix.posterior import HasMean, Point, need
from softmix.process import CONTROL, JOINT, RDDM, VE, VP, TwoClocks
from softmix.rng import Rng
from softmix.sampler import along
from softmix.train import Batch, Config, DenoisePair, Optimiser, Times, facts_of
from softmix.train import load as load_run

F64 = torch.float64
NET = TwoStreamsSpec(MLPSpec(width=48, depth=2, frequencies=0))


def data_of(name: str, x: Tensor, labels: Tensor | None = None) -> Data:
    classes = () if labels is None else tuple(str(k) for k in range(int(labels.max()) + 1))
    return make(name, x.float().contiguous(), labels, classes, Report(read=len(x)))


def correlated() -> JointProblem:
    """Unit normal x and y in two dimensions each, with correlations of 0.8: the error of E[x | y] is 0.36."""
    covariance = torch.eye(4, dtype=F64) + 0.8 * torch.eye(2, dtype=F64).repeat(2, 2) - 0.8 * torch.eye(4, dtype=F64)
    law = ToyMixture(
        "normal", torch.ones(1).double(), torch.zeros(1, 4).double(), torch.linalg.cholesky(covariance)[None]
    )
    return JointProblem("normal", law, TwoClocks(VP(), (2, 2), 1), (4,))


def points(n: int = 8000) -> Paired:
    z, _ = correlated().draw(n, Rng(1, n))
    return Paired(data_of("x", z[:, :2]), data_of("y", z[:, 2:]))


def batch(n: int = 64, first: int = 0) -> Batch:
    items = torch.arange(first, first + n)
    return Batch(items, items, Rng(0, items))


# times


def test_independent_times_cover_the_square_evenly_in_every_batch() -> None:
    """In each cell of a grid of 4 x 4 there are 256 / 16 pairs, give or take 5, for three batches."""
    task = DenoisePair(net=NET, times=Times(low=0.0))
    for first in (0, 256, 10_000):
        t = task.pairs_of_times(batch(256, first))
        cells = (t * 4).long().clamp(max=3) @ torch.tensor([4, 1])
        counts = cells.bincount(minlength=16)
        assert t.shape == (256, 2) and int((counts - 16).abs().max()) <= 5
        assert abs(float(torch.corrcoef(t.T)[0, 1])) < 0.1


@pytest.mark.parametrize(
    "law", [Times(low=0.01), Times("logsnr", logsnr=(-4.0, 6.0)), Times("normal", logsnr=(0.0, 2.0))]
)
def test_the_times_of_each_kind_of_model(law: Times) -> None:
    t = {
        clocks: DenoisePair(net=NET, times=law, clocks=clocks).pairs_of_times(batch())  # type: ignore[arg-type]
        for clocks in ("tied", "control", "estimation", "independent")
    }
    least = DenoisePair(net=NET, times=law).least
    assert torch.equal(t["tied"][:, 0], t["tied"][:, 1])
    assert torch.equal(t["control"][:, 0], t["tied"][:, 0]) and set(t["control"][:, 1].tolist()) == {least}
    assert torch.equal(t["estimation"][:, 1], t["tied"][:, 0]) and set(t["estimation"][:, 0].tolist()) == {least}
    assert min(float(each.min()) for each in t.values()) >= least > 0
    assert not torch.equal(t["independent"][:, 0], t["independent"][:, 1])


def test_a_clean_signal_is_told_the_least_time() -> None:
    source = points(100)
    task = DenoisePair(net=NET, times=Times(low=0.02))
    model = task.build(facts_of(source, Config(task, steps=1)))["model"]
    assert isinstance(model, Network) and isinstance(model.process, TwoClocks)
    clean = model.process.logsnr(torch.zeros(1, 2, dtype=F64))
    assert clean.tolist() == [[float(VP().logsnr(0.02))] * 2]


# losses


def made(process: object = None) -> tuple[TwoClocks, object, Tensor]:
    clocks = TwoClocks(process or VP(), (1, 3), 3)  # type: ignore[arg-type]
    x0 = Rng(0, 5).normal((5, 4, 2, 2), F64)
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    return clocks, clocks.noise(x0, torch.stack([t, 1 - t], 1), Rng(1, 5)), Rng(2, 5).normal((5, 4, 2, 2), F64)


@pytest.mark.parametrize("name", ["min-snr", "v", "x0"])
def test_each_signal_has_the_weight_of_its_own_level(name: str) -> None:
    """The mean over all elements of w (x0' - x0)^2, with w at the level of the signal."""
    clocks, noised, guess = made()
    found = Square(name)(Point(guess), noised, Rng(3, 5))  # type: ignore[arg-type]
    right = torch.zeros(5, dtype=F64)
    for stream in (0, 1):
        error = (clocks.part(guess, stream) - clocks.part(noised.x0, stream)).square().flatten(1)  # type: ignore[attr-defined]
        level = clocks.base.logsnr(noised.t[:, stream])  # type: ignore[attr-defined]
        right = right + weight(name, level) * error.sum(1) / 16  # type: ignore[arg-type]
    assert torch.allclose(found, right)
    assert torch.allclose(PublishedSquare(name)(Point(guess), noised, Rng(3, 5)), right)  # type: ignore[arg-type]


def test_the_energy_score_of_two_clocks_is_that_of_scaled_pairs() -> None:
    """With the root of the weights as a factor of draws and truth, and no weight."""
    clocks, noised, guess = made()
    t = noised.t  # type: ignore[attr-defined]
    root = weight("v", clocks.element_logsnr(t)).sqrt()
    law = NormalLaw(guess)
    found = Energy(m=3, weight="v")(law, noised, Rng(4, 5))  # type: ignore[arg-type]
    scaled = replace(noised, x0=root * noised.x0, process=VP(), t=t[:, 0])  # type: ignore[attr-defined, type-var]
    right = Energy(m=3, weight="x0")(NormalLaw(guess, root), scaled, Rng(4, 5))  # type: ignore[arg-type]
    assert torch.allclose(found, right)


class NormalLaw(Point):
    """Draws around a mean, with a factor."""

    def __init__(self, mean: Tensor, factor: Tensor | float = 1.0):
        super().__init__(mean)
        self.factor = factor

    def draws(self, m: int, rng: Rng) -> Tensor:
        z = rng.normal((len(self.mean), m, *self.mean.shape[1:]), F64).transpose(0, 1)
        return self.factor * (self.mean + 0.3 * z)


def test_losses_of_one_clock_are_as_before() -> None:
    noised = VP().noise(Rng(0, 4).normal((4, 3)), torch.linspace(0.2, 0.8, 4, dtype=F64), Rng(1, 4))
    guess = Rng(2, 4).normal((4, 3))
    right = weight("v", noised.logsnr.float()) * (guess - noised.x0).square().mean(1)
    assert torch.equal(Square("v")(Point(guess), noised, Rng(0, 4)), right)


# data


def test_the_second_item_of_a_pair_becomes_the_second_signal() -> None:
    images = load("digits")
    source = Degraded(images, lambda x0, rng: torch.cat([x0, -x0], 1))
    task = DenoisePair(net=TwoStreamsSpec(DiTSpec(width=16, depth=1)), classes=True, drop=0.5)
    facts = facts_of(source, Config(task, steps=1))
    model = task.build(facts)["model"]
    assert isinstance(model, Network) and model.shape == (3, 8, 8) and model.cond.parts == ("label",)
    assert isinstance(model.process, TwoClocks) and model.process.sizes == (1, 2)
    noised, _ = task.examples(source, batch(200), model.cond, model.process)
    x0 = images.x0()[:200]
    assert torch.equal(noised.x0, torch.cat([x0, x0, -x0], 1))
    assert isinstance(noised.cond, Cond) and noised.cond.parts == ("label",) and noised.cond.label is not None
    assert images.labels is not None
    kept = noised.cond.label >= 0
    assert torch.equal(noised.cond.label[kept], images.labels[:200][kept]) and 60 < int(kept.sum()) < 140


def test_data_without_a_second_signal_are_refused() -> None:
    for source in (load("digits"), data_of("points", torch.zeros(10, 2) + torch.arange(10)[:, None])):
        with pytest.raises(ValueError, match="pairs of images, or of points, were expected"):
            DenoisePair(net=NET).cond_spec(source)


def test_parts_that_do_not_fit_two_clocks_are_refused() -> None:
    for loss in (Likelihood(),):
        with pytest.raises(ValueError, match="takes the losses Square, PublishedSquare and Energy"):
            DenoisePair(net=NET, loss=loss)
    for head in (MapHead(), MixtureHead(3), NormalHead("item")):
        with pytest.raises(ValueError, match="takes PointHead, SoftHead and"):
            DenoisePair(net=NET, head=head)
    with pytest.raises(ValueError, match="takes VP, VE or Flow; found RDDM"):
        DenoisePair(net=NET, process=RDDM())


def test_the_configuration_survives_json() -> None:
    for task in (
        DenoisePair(net=NET, clocks="tied", process=VE()),
        DenoisePair(head=SoftHead(), loss=Energy(weight="min-snr")),
    ):
        config = Config(task, steps=3)
        assert from_json(Config, to_json(config)) == config


# a small training


def trained(task: DenoisePair, out: Path, steps: int = 300) -> object:
    config = Config(task, batch=128, steps=steps, precision="fp32", optimiser=Optimiser(rate=3e-3))
    for _ in training(points(), config, out):
        pass
    return load_run(out).denoiser


def off(denoiser: object, stream: int, seed: int = 0) -> float:
    """The mean squared error of one signal at time 1 given the other one, over that of the exact mean."""
    problem, n = correlated(), 4000
    z, _ = problem.draw(n, Rng(9, n))
    t = torch.tensor([[1.0, 0.0]] if stream == 0 else [[0.0, 1.0]], dtype=F64)
    state = problem.process.noise(z, t, Rng(10, n)).xt
    own = slice(2) if stream == 0 else slice(2, 4)

    def error(model: object, state: Tensor) -> float:
        mean = need(model(state, t), HasMean, "test").mean  # type: ignore[operator]
        return float((mean.double() - z)[:, own].square().mean())

    with torch.no_grad():
        return error(denoiser, state.float()) / error(problem.denoiser(), state)


@pytest.mark.slow
def test_independent_times_learn_every_task_and_tied_times_do_not(tmp_path: Path) -> None:
    """Errors over those of the exact mean after 300 steps: independent 1.12 and 1.14, tied 1.98 and 2.01; a model that
    ignores the condition has 2.8."""
    free = trained(DenoisePair(net=NET), tmp_path / "free")
    tied = trained(DenoisePair(net=NET, clocks="tied"), tmp_path / "tied")
    for stream in (0, 1):
        assert off(free, stream) < 1.3 and off(tied, stream) > 1.6


@pytest.mark.slow
def test_a_model_for_control_alone_learns_control_alone(tmp_path: Path) -> None:
    """1.13 for x given y, and 2.8 for y given x, of which it has learned nothing."""
    model = trained(DenoisePair(net=NET, clocks="control"), tmp_path / "control")
    assert off(model, 0) < 1.3 and off(model, 1) > 2


def test_a_run_is_saved_and_walks_its_paths(tmp_path: Path) -> None:
    model = trained(DenoisePair(net=NET, head=SoftHead(mean="none"), loss=Energy(m=2, weight="v")), tmp_path / "run", 8)
    x, y = along(model, JOINT, 3, 2)  # type: ignore[arg-type]
    assert x.shape == (3, 2) and y.shape == (3, 2) and bool(torch.cat([x, y]).isfinite().all())
    assert along(model, CONTROL, 3, 2, y=y)[0].shape == (3, 2)  # type: ignore[arg-type]
