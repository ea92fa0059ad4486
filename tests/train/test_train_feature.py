"""Training by `FeatureEnergy`: first the mean, then draws; its frozen copy, its gradients, its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import softmix
from softmix.config import dumps, loads
from softmix.data import load as load_data
from softmix.denoiser import SoftAtHighNoise, SoftHead, mean_only
from softmix.loss import Energy, FeatureDrift, FeatureEnergy, FeatureExtractor, Stage, loss_of
from softmix.loss.pairs import all_pairs
from softmix.net import Net, UNetSpec
from softmix.posterior import Implicit, Point
from softmix.process import VP, Noised
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, drive, sample, soft_adams
from softmix.sampler.drive import finish
from softmix.train import Config, Run, Trainer, facts_of, load, preset, training

F64 = torch.float64
# a share that no batch here has an item for
NONE = 1e-9


def small(**changes: object) -> Config:
    base = preset("smd", (1, 8, 8))
    net = UNetSpec(width=16, depth=1, patch=2)
    small = base.but(net=net, head=SoftHead(mean="own"), loss=FeatureEnergy(), batch=16, steps=12, save=4)
    return small.but(precision="fp32", **changes)


@pytest.fixture(scope="module")
def digits() -> softmix.data.Data:
    return load_data("digits", limit=200)


def trainer(data: softmix.data.Data, config: Config, out: Path) -> Trainer:
    return Trainer(Run(config, facts_of(data, config)), data, out)


def noised_by(one: Trainer, items: torch.Tensor) -> tuple[Noised, Rng]:
    return one.task.examples(one.source, one.batch(items), one.task.cond_spec(one.source))


def test_all_pairs_are_all_pairs() -> None:
    draws, truth = torch.randn(4, 3, 2, dtype=F64), torch.randn(5, 3, 2, dtype=F64)
    fit = [(a[:, p] - b[:, p]).square().mean().sqrt() for a in draws for b in truth for p in range(2)]
    spread = [
        (a[:, p] - b[:, p]).square().mean().sqrt()
        for i, a in enumerate(draws)
        for j, b in enumerate(draws)
        if i != j
        for p in range(2)
    ]
    right = torch.stack(fit).mean() - 0.5 * torch.stack(spread).mean()
    assert float(all_pairs(draws, truth)) == pytest.approx(float(right), rel=1e-5)


def test_the_score_of_blanks_is_the_energy_score_with_less_noise(digits: softmix.data.Data, tmp_path: Path) -> None:
    """At t = 1, with draws that do not depend on x_t: the same mean over batches as the item-wise score."""
    one = trainer(digits, small(), tmp_path)
    one.step = 12
    eyes = one.freeze().cpu()

    class Free:
        process = VP()

        def __call__(self, xt: torch.Tensor, t: object, cond: object = None) -> Implicit:
            return Implicit(lambda eta: eta.unflatten(-1, (1, 8, 8)).tanh(), len(xt), (64,), xt)

    kinds = {1.0: list[float](), 0.0: list[float]()}
    for k in range(60):
        x0 = digits.x0(torch.arange(16 * k, 16 * k + 16) % 200)
        noised = VP().noise(x0, 1.0, Rng(k, 16))
        for blank, found in kinds.items():
            loss = FeatureEnergy(blank=blank, high=1 - blank, mean=NONE, until=-19.9)
            found.append(float(loss_of(loss, Free(), noised, Rng(k, 16, "loss"), Stage(1.0, eyes)).mean()))
    pairs, items = (torch.tensor(kinds[blank]) for blank in (1.0, 0.0))
    error = float((pairs - items).std()) / 60**0.5
    assert abs(float(pairs.mean() - items.mean())) < 4 * error
    assert float(pairs.std()) < 0.8 * float(items.std())


def test_first_the_mean_then_draws(digits: softmix.data.Data, tmp_path: Path) -> None:
    """The first half moves nothing that serves draws alone; what is kept then moves no more."""
    config = small()
    one = trainer(digits, config, tmp_path)
    drawing = {name: p.detach().clone() for name, p in one.model.named_parameters() if "head.g" in name}
    for _ in range(6):
        one.advance()
    now = dict(one.model.named_parameters())
    assert drawing and one.frozen is None and all(torch.equal(now[name], p) for name, p in drawing.items())
    one.advance()
    assert isinstance(one.frozen, FeatureExtractor)
    kept = {name: p.clone() for name, p in one.frozen.state_dict().items()}
    one.advance()
    assert not any(torch.equal(now[name], p) for name, p in drawing.items())
    assert all(torch.equal(one.frozen.state_dict()[name], p) for name, p in kept.items())
    quick = replace(config.optimiser, warmup=1)
    one.run = replace(one.run, config=config.but(optimiser=quick))
    rates = [one.rate() for one.step in range(12)]
    assert rates[:6] == rates[6:] and rates[0] > rates[5]


def test_each_part_of_the_second_half_sees_its_share(digits: softmix.data.Data, tmp_path: Path) -> None:
    """Which items are asked for at which noise: the mean's below `until`, the draws' above it, blanks at t = 1."""
    one = trainer(digits, small(), tmp_path)
    eyes = one.freeze()
    noised, rng = noised_by(one, torch.arange(64))
    asked: list[torch.Tensor] = []

    def listening(xt: torch.Tensor, t: torch.Tensor, cond: object = None) -> object:
        asked.append(t)
        return one.model(xt, t)

    listening.process = one.model.process  # type: ignore[attr-defined]
    loss = FeatureEnergy(blank=0.25, high=0.5, mean=0.75)
    whole = loss_of(loss, listening, noised, rng, Stage(1.0, eyes))  # type: ignore[arg-type]
    # one call for all: the trunk runs once
    assert [len(t) for t in asked] == [48 + 16 + 32]
    mean, blank, high = asked[0].split([48, 16, 32])
    border = float(VP().time(loss.until))
    assert bool((blank == 1).all())
    assert 0 <= float(mean.min()) < 0.05 and 0.95 * border < float(mean.max()) <= border
    assert border <= float(high.min()) and float(high.max()) <= 1
    parts = [replace(loss, mean=NONE), replace(loss, blank=0.0, high=0.0)]
    alone = sum(loss_of(part, listening, noised, rng, Stage(1.0, eyes)) for part in parts)  # type: ignore[arg-type]
    assert torch.allclose(whole, alone, atol=1e-6)  # type: ignore[arg-type]


def test_a_scale_of_0_is_a_mixture_of_one(digits: softmix.data.Data, tmp_path: Path) -> None:
    """The control eta = 0: the same parameters, and draws that are all alike."""
    control = trainer(digits, small(head=SoftHead(mean="own", scale=0.0)), tmp_path).model
    soft = trainer(digits, small(), tmp_path).model
    assert [p.shape for p in control.parameters()] == [p.shape for p in soft.parameters()]
    xt = torch.randn(3, 1, 8, 8).to(next(soft.parameters()).device)
    alike, unlike = (net(xt, 0.9).draws(4, Rng(0, 3)) for net in (control, soft))
    assert torch.equal(alike[0], alike[3]) and float((unlike[0] - unlike[3]).detach().abs().mean()) > 1e-3


def test_a_run_is_loaded_before_and_after_the_change(digits: softmix.data.Data, tmp_path: Path) -> None:
    """Soft at high noise, a point at the kept mean at low noise; the same bits after a break on either side."""
    for step in training(digits, small(), tmp_path / "alone"):
        if step.step == 4:
            break
    assert not isinstance(load(tmp_path / "alone").denoiser, SoftAtHighNoise)
    for stop in (9, 99):
        for step in training(digits, small(), tmp_path / "alone"):
            if step.step == stop:
                break
    whole = softmix.train(digits, small(), tmp_path / "whole")
    broken = load(tmp_path / "alone")
    assert isinstance(whole.denoiser, SoftAtHighNoise)
    left, right = whole.denoiser.state_dict(), broken.denoiser.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    xt, process = torch.randn(3, 1, 8, 8), whole.process
    assert isinstance(whole.denoiser(xt, process.time(-6.1)), Implicit)
    point = whole.denoiser(xt, process.time(-5.9))
    assert isinstance(point, Point) and torch.equal(point.mean, whole.network(xt, process.time(-5.9)).mean)
    with pytest.raises(ValueError, match="one time for the whole batch"):
        whole.denoiser(xt, torch.tensor([0.1, 0.5, 1.0]))
    assert whole.sampler is soft_adams and sample(whole.denoiser, 3, 4, sampler=soft_adams).shape == (3, 1, 8, 8)
    assert loads(Config, dumps(whole.config)) == whole.config


def test_soft_adams_is_the_sum_of_its_parts() -> None:
    """With points it is `adams`; with draws DDIM's step of a draw, `ancestral` with eta = 0; with a mean, in many
    steps, `adams`."""
    from functools import partial

    from softmix.oracle import correlated

    exact = correlated((2,)).denoiser()
    x, times = torch.randn(5, 2, dtype=F64), VP().grid(6)
    ends = [finish(drive(mean_only(exact), way, x, times, Rng(0, 5))) for way in (soft_adams, adams)]
    assert torch.equal(*ends)
    drawn = partial(ancestral, eta=0.0)
    ends = [finish(drive(exact, way, x, times, Rng(0, 5))) for way in (soft_adams, drawn)]
    assert torch.equal(*ends)
    times = VP().grid(8)
    ways = (soft_adams, adams, partial(soft_adams, below=9), drawn)
    ends = [finish(drive(exact, way, x, times, Rng(0, 5))) for way in ways]
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[2], ends[3])


def test_senseless_settings_of_feature_energy_are_refused() -> None:
    for wrong in ({"m": 1}, {"share": 1.0}, {"blank": 1.5}):
        with pytest.raises(ValueError, match="FeatureEnergy needs"):
            FeatureEnergy(**wrong)  # type: ignore[arg-type]
    assert FeatureEnergy().proper and not FeatureEnergy(pixels=0.0).proper and Energy().proper


def test_a_loss_without_its_head_is_refused_by_the_configuration() -> None:
    for change in ({"head": SoftHead(mean="none")}, {"head": preset("plain", (1, 8, 8)).task.head}):
        with pytest.raises(ValueError, match="needs a SoftHead"):
            small().but(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a MapHead"):
        preset("meanflow", (1, 8, 8)).but(process=VP())


def test_with_compile_the_extractor_of_features_is_compiled_too(
    digits: softmix.data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def compile(function: Callable[..., object], dynamic: bool) -> Callable[..., object]:
        def compiled(*args: object) -> object:
            calls.append(function.__name__)
            return function(*args)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    one = trainer(digits, small(compile=True), tmp_path / "run")
    one.frozen = one.freeze()
    assert isinstance(one.frozen, FeatureExtractor)
    calls.clear()
    one.frozen(torch.zeros(2, 1, 8, 8))
    assert set(calls) == {"start", "run", "forward"}
    one.save()
    again = trainer(digits, small(compile=True), tmp_path / "run")
    again.load()
    calls.clear()
    again.frozen(torch.zeros(2, 1, 8, 8))  # type: ignore[misc]
    assert set(calls) == {"start", "run", "forward"}


def test_the_net_of_a_head_is_compiled_too(
    digits: softmix.data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: asked.append(function) or function)
    published = preset("published", (1, 8, 8)).but(net=UNetSpec(width=16, depth=1, patch=2), batch=4, compile=True)
    model = trainer(digits, published, tmp_path / "run").model
    nets = [each for each in model.modules() if isinstance(each, Net)]
    assert len(nets) == 2 and {function.__self__ for function in asked} >= set(nets)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_every_kind_of_input_of_a_run_is_compiled(
    digits: softmix.data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch runs a function uncompiled, with a warning alone, if it gets more kinds of input than a limit."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., object]:
        graphs.append(len(inputs))
        return graph.forward  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    torch.compiler.reset()
    softmix.train(digits, small(compile=True, loss=FeatureDrift(), steps=4), tmp_path / "first")
    first = len(graphs)
    softmix.train(digits, small(compile=True, loss=FeatureDrift(), steps=4, seed=1), tmp_path / "second")
    # both parts, and the features of draws and of x0, each by three functions, and two by a fourth
    assert first >= 14 and len(graphs) == first
    torch.compiler.reset()
