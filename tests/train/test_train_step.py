"""One step against formulas: examples, times, rate, clipping, AdamW, averages, precision."""

from __future__ import annotations

import itertools
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import softmix
from softmix.data import Data, Report, mirrored
from softmix.data.store import make
from softmix.denoiser import PointHead
from softmix.loss import Consistency, FeatureDrift, FeatureEnergy, Square
from softmix.net import MLPSpec, UNetSpec
from softmix.process import Noised
from softmix.rng import Rng
from softmix.train import (
    Batch,
    Config,
    Denoise,
    Optimiser,
    Run,
    StoppedError,
    Times,
    Trainer,
    TrainingError,
    facts_of,
    log_of,
    preset,
    training,
)
from softmix.train.ema import beta, gamma_of
from softmix.train.examples import item_index
from softmix.train.noise_times import times
from softmix.train.record import EarlierSettings, rate

CPU = torch.device("cpu")
MAKE = sys.modules["softmix.train.make"]
F64 = torch.float64


def points(count: int = 300, labels: bool = True) -> Data:
    """Item k is (k, -k) / count and has class k % 3."""
    k = torch.arange(count)
    values = torch.stack([k, -k], 1).float() / count
    return make("points", values, k % 3 if labels else None, ("a", "b", "c") if labels else (), Report(count))


def images(count: int = 40, channels: int = 1) -> Data:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    return make("images", values, torch.arange(count) % 4, tuple("abcd"), Report(count))


def small(**changes: object) -> Config:
    base = Config(Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v")), batch=16, steps=40)
    return base.but(precision="fp32", **changes)  # type: ignore[arg-type]


def trainer(config: Config, data: Data | None = None, out: Path | None = None) -> Trainer:
    data = data or points()
    return Trainer(Run(config, facts_of(data, config)), data, out or Path())


def batch_of(config: Config, data: Data, items: torch.Tensor, attempt: int = 0) -> Batch:
    rng = Rng(config.seed, items, f"train.{attempt}", CPU)
    return Batch(items, item_index(config.seed, len(data), items), rng, config.seed, attempt)


def examples(config: Config, data: Data, items: torch.Tensor, attempt: int = 0) -> tuple[Noised, Rng]:
    return config.task.examples(data, batch_of(config, data, items, attempt), config.task.cond_spec(data))


def times_of(config: Config, items: torch.Tensor) -> torch.Tensor:
    return times(config.task, batch_of(config, points(), items))


# which examples


def test_step_k_takes_the_items_from_k_batches_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one, seen = trainer(small(batch=5)), list[list[int]]()
    right = one.losses

    def listening(items: torch.Tensor, turn: str) -> torch.Tensor:
        seen.append(items.tolist())
        return right(items, turn)

    monkeypatch.setattr(one, "losses", listening)
    for _ in range(3):
        one.advance()
    assert seen == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]


def test_an_example_has_the_label_of_its_item() -> None:
    data = points()
    noised, _ = examples(small(classes=True, drop=0.0), data, torch.arange(300))
    number = (noised.x0[:, 0] * 300).round().long()
    assert noised.cond is not None and torch.equal(noised.cond.label, number % 3)
    assert sorted(number.tolist()) == list(range(300))


def test_each_epoch_has_every_item_once_in_an_order_of_its_own() -> None:
    found = [examples(small(), points(), torch.arange(k * 300, (k + 1) * 300))[0].x0[:, 0] for k in range(3)]
    for epoch in found:
        assert torch.equal(epoch.sort().values, points().values[:, 0])
    for one, other in itertools.combinations(found, 2):
        assert float((one == other).double().mean()) < 0.1


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 1.0])
def test_a_share_drop_of_the_labels_is_left_out(drop: float) -> None:
    noised, _ = examples(small(classes=True, drop=drop), points(), torch.arange(6000))
    assert noised.cond is not None
    share = float((noised.cond.label == -1).double().mean())
    # five standard deviations of a share of 6,000
    assert abs(share - drop) <= 5 * math.sqrt(drop * (1 - drop) / 6000)


def test_labels_are_given_only_with_classes() -> None:
    assert examples(small(), points(), torch.arange(8))[0].cond is None
    assert facts_of(points(), small()).class_names == ()
    assert facts_of(points(), small(classes=True)).class_names == ("a", "b", "c")
    assert trainer(small(classes=True)).model.classes == 3 and trainer(small()).model.classes == 0
    with pytest.raises(TrainingError, match="has no labels"):
        facts_of(points(labels=False), small(classes=True))


@pytest.mark.parametrize("what", ["seed", "attempt"])
def test_order_noise_and_times_are_others_for_another_seed_and_after_a_rollback(what: str) -> None:
    items = torch.arange(50)
    first, rng = examples(small(), points(), items)
    other = (small(seed=1), 0) if what == "seed" else (small(), 1)
    second, another = examples(other[0], points(), items, other[1])
    assert not torch.equal(first.z, second.z)
    assert not torch.equal(first.t, second.t)
    assert not torch.equal(rng.normal((50, 1)), another.normal((50, 1)))
    # a rollback shows the same items again, with other draws
    assert torch.equal(first.x0, second.x0) is (what == "attempt")
    again, _ = examples(small(), points(), items)
    assert torch.equal(first.z, again.z) and torch.equal(first.t, again.t)


def test_the_seed_decides_the_weights_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = trainer(small()), trainer(small()), trainer(small(seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (next(one.model.parameters()) for one in (a, b, c))
    assert torch.equal(first, same) and not torch.equal(first, other)


# mirrored images


@pytest.mark.parametrize("attempt", [0, 1])
def test_half_of_the_images_are_mirrored_another_half_in_each_epoch(attempt: int) -> None:
    data = images()
    plain, _ = examples(small(), data, torch.arange(400), attempt)
    turned, _ = examples(small(flip=True), data, torch.arange(400), attempt)
    mirror = plain.x0.flip(-1)
    which = (turned.x0 == mirror).flatten(1).all(1)
    assert ((turned.x0 == plain.x0).flatten(1).all(1) ^ which).all()
    assert abs(int(which.sum()) - 200) < 5 * math.sqrt(100)
    # of one item, in its ten epochs, some are and some are not
    order = torch.stack([plain.x0[k * 40 : k * 40 + 40].flatten(1).sum(1).argsort() for k in range(10)])
    each = torch.stack([which[k * 40 : k * 40 + 40][order[k]] for k in range(10)])
    assert (each.any(0) & ~each.all(0)).sum() >= 38
    assert torch.equal(plain.z, turned.z) and torch.equal(plain.t, turned.t)


def test_whether_an_image_is_mirrored_does_not_depend_on_its_batch() -> None:
    many, _ = examples(small(flip=True), images(), torch.arange(64))
    one, _ = examples(small(flip=True), images(), torch.tensor([37]))
    assert torch.equal(many.x0[37], one.x0[0])


def test_mirroring_is_independent_of_dropping_the_class() -> None:
    data, items = images(), torch.arange(2000)
    plain, _ = examples(small(), data, items)
    turned, _ = examples(small(flip=True, classes=True, drop=0.5), data, items)
    assert turned.cond is not None and turned.cond.label is not None
    which, told = (turned.x0 != plain.x0).flatten(1).any(1), turned.cond.label >= 0
    # five standard deviations of the number of agreements of two independent coins
    assert abs(int((which == told).sum()) - 1000) < 5 * math.sqrt(500)


def test_only_images_are_mirrored() -> None:
    with pytest.raises(TrainingError, match="no images to be mirrored"):
        facts_of(points(), small(flip=True))
    x0 = torch.arange(6.0).reshape(1, 1, 2, 3)
    for seed in range(4):
        assert mirrored(x0, None, Rng(seed, 1))[0].tolist() in (x0.tolist(), [[[[2, 1, 0], [5, 4, 3]]]])


# at which times


def test_times_are_the_golden_sequence_over_their_range() -> None:
    t = times_of(small(times=Times(low=0.2)), torch.arange(5000))
    assert t.dtype == F64 and float(t.min()) >= 0.2 and float(t.min()) < 0.2004 and 0.9996 < float(t.max()) < 1
    u = (t - 0.2) / 0.8
    step = (u[1:] - u[:-1]) % 1.0
    assert float((step - (math.sqrt(5) - 1) / 2).abs().max()) < 1e-9


def test_times_end_at_high() -> None:
    t = times_of(small(times=Times(low=0.2, high=0.6)), torch.arange(5000))
    assert 0.2 <= float(t.min()) < 0.2002 and 0.5998 < float(t.max()) <= 0.6
    assert float(t.mean()) == pytest.approx(0.4, abs=1e-3)
    with pytest.raises(ValueError, match=r"0 <= low < high <= 1; found 0.5 and 0.4"):
        Times(low=0.5, high=0.4)
    with pytest.raises(ValueError, match=r"high = 0\.5 is an end of t, and the times are drawn by logsnr"):
        Times("logsnr", high=0.5)
    with pytest.raises(ValueError, match=r"low = 0\.1 was given and would have no effect: .* drawn by normal"):
        Times("normal", low=0.1)
    with pytest.raises(ValueError, match=r"logsnr = \(-1\.0, 1\.0\) was given and would have no effect"):
        Times(logsnr=(-1.0, 1.0))


def test_times_even_in_logsnr_cover_the_two_numbers() -> None:
    config = small(times=Times("logsnr", logsnr=(-4.0, 6.0)))
    found = config.task.process.logsnr(times_of(config, torch.arange(5000)))
    assert float(found.min()) == pytest.approx(-4, abs=4e-3) and float(found.max()) == pytest.approx(6, abs=4e-3)
    assert float(found.mean()) == pytest.approx(1, abs=4e-3)
    assert float(found.std()) == pytest.approx(10 / math.sqrt(12), abs=4e-3)


def test_times_normal_in_logsnr_have_their_mean_and_standard_deviation() -> None:
    config = small(times=Times("normal", logsnr=(1.0, 1.5)))
    found = config.task.process.logsnr(times_of(config, torch.arange(20000)))
    assert float(found.mean()) == pytest.approx(1.0, abs=2e-3)
    assert float(found.std()) == pytest.approx(1.5, abs=5e-3)
    # a normal law's share within one standard deviation
    assert float(((found - 1.0).abs() < 1.5).double().mean()) == pytest.approx(0.6827, abs=2e-3)


# the rate


def run_of(**settings: object) -> Run:
    config = small(optimiser=Optimiser(rate=1.0, **settings))  # type: ignore[arg-type]
    return Run(config, facts_of(points(), config))


def test_the_rate_rises_stays_and_falls() -> None:
    run = run_of(warmup=4, decay=0.5)
    assert [rate(run, step, 20) for step in (0, 1, 2, 3, 4, 10)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [rate(run, step, 20) for step in (11, 15, 19, 20)] == pytest.approx([0.9, 0.5, 0.1, 0])


def test_without_warmup_and_decay_the_rate_is_one_number() -> None:
    run = run_of(warmup=0, decay=0.0)
    assert [rate(run, step, 20) for step in (0, 10, 19)] == [1, 1, 1]
    assert [rate(run_of(warmup=0, decay=1.0), step, 20) for step in (0, 5, 19)] == pytest.approx([1, 0.75, 0.05])


def test_the_rise_takes_at_most_its_share_of_the_run() -> None:
    assert rate(run_of(warmup=100), 3, 40) == 0.04
    short = run_of(warmup=100, warmup_share=0.1)
    assert [rate(short, step, 40) for step in (0, 1, 3, 4)] == [0.25, 0.5, 1, 1]
    # a long run rises as it would without a share
    assert rate(short, 49, 100_000) == rate(run_of(warmup=100), 49, 100_000) == 0.5
    assert rate(run_of(warmup=100, warmup_share=0.0), 0, 40) == 1
    # until the length is known there is nothing to take a share of
    assert rate(short, 0, None) == 0.01


def test_a_loss_that_keeps_something_has_two_trainings_that_rise_and_fall() -> None:
    run = run_of(warmup=2, decay=0.5)
    found = [rate(run, step, 20, 0.4) for step in range(21)]
    first = [rate(run, step, 8) for step in range(8)]
    second = [rate(run, step, 12) for step in range(13)]
    assert found == first + second
    # of 7 steps the first part is the 3 that cover the share
    assert rate(run, 3, 7, 0.4) == rate(run, 0, 4)


def test_a_run_that_is_made_longer_rises_and_falls_again() -> None:
    run = run_of(warmup=2, decay=0.5)
    longer = replace(run, facts=replace(run.facts, steps=30, ends=(10, 20)))
    parts = [rate(run, step, 10) for step in range(10)]
    assert [rate(longer, step, 30) for step in range(30)] == 3 * parts
    # its stages are those of the length that it was given at first
    kept = [rate(run, step, 4) for step in range(4)] + [rate(run, step, 6) for step in range(6)]
    assert [rate(longer, step, 30, 0.4) for step in range(30)] == kept + 2 * parts


def test_a_rate_that_was_changed_holds_from_its_step_on() -> None:
    run = run_of(warmup=0, decay=0.0)
    changed = replace(run, earlier=(EarlierSettings(3, 4.0, "stop"), EarlierSettings(5, 2.0, "skip")))
    assert [rate(changed, step, 10) for step in range(7)] == [4, 4, 4, 2, 2, 1, 1]
    assert [changed.nonfinite(step) for step in (2, 3, 5)] == ["stop", "skip", "stop"]


def test_the_rate_of_the_run_is_that_of_its_optimiser() -> None:
    one = trainer(small(optimiser=Optimiser(rate=0.01, warmup=4)))
    one.advance()
    assert one.optimisers._made["model"].param_groups[0]["lr"] == 0.0025
    assert one.rate() == 0.005
    feature = preset("smd", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), steps=10)
    assert trainer(feature, images()).task.freeze_at == 0.5 and trainer(small()).task.freeze_at is None


# the step itself


def gradient_of(one: Trainer, step: int) -> list[torch.Tensor]:
    batch = one.run.config.batch
    loss = one.losses(torch.arange(step * batch, (step + 1) * batch)).mean()
    return list(torch.autograd.grad(loss, one.optimisers.parameters()))


@pytest.mark.parametrize("clip", [0.05, 1e6])
@pytest.mark.parametrize("weight_decay", [0.0, 3.0])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.7)])
def test_a_step_is_adamw_on_the_clipped_gradient(clip: float, weight_decay: float, betas: tuple[float, float]) -> None:
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = (1 - r wd) w - r m / (1 - b1^k) / (sqrt(v / (1 - b2^k)) + e)
    for the gradient g, cut to the norm `clip`."""
    settings = Optimiser(rate=0.01, betas=betas, weight_decay=weight_decay, warmup=0, decay=0.0, clip=clip)
    one = trainer(small(optimiser=settings))
    first = [torch.zeros_like(p, dtype=F64) for p in one.optimisers.parameters()]
    second = [torch.zeros_like(p, dtype=F64) for p in one.optimisers.parameters()]
    for k in (1, 2, 3):
        gradient = [g.double() for g in gradient_of(one, k - 1)]
        length = math.sqrt(sum(float(g.square().sum()) for g in gradient))
        gradient = [g * min(1.0, clip / length) for g in gradient]
        expected = []
        for i, (p, g) in enumerate(zip(one.optimisers.parameters(), gradient, strict=True)):
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g.square()
            mean, square = first[i] / (1 - betas[0] ** k), second[i] / (1 - betas[1] ** k)
            expected.append((1 - 0.01 * weight_decay) * p.detach().double() - 0.01 * mean / (square.sqrt() + 1e-8))
        _, norm = one.advance()
        assert norm == pytest.approx(length, rel=1e-5)
        for p, right in zip(one.optimisers.parameters(), expected, strict=True):
            # steps are of size 1e-2; float32 in a square root of squares
            assert torch.allclose(p.detach().double(), right, rtol=1e-5, atol=2e-6)


def test_the_loss_of_a_step_is_the_mean_over_the_batch() -> None:
    one = trainer(small())
    right = float(one.losses(torch.arange(16)).detach().mean())
    assert one.advance()[0] == pytest.approx(right, rel=1e-6)


def test_a_batch_is_computed_in_as_many_parts_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(one: Trainer) -> list[int]:
        seen: list[int] = []
        right = one.losses
        monkeypatch.setattr(one, "losses", lambda items, turn: seen.append(len(items)) or right(items, turn))
        one.advance()
        return sorted(seen)

    assert sizes(trainer(small())) == [16]
    assert sizes(trainer(small(optimiser=Optimiser(accumulate=4)))) == [4, 4, 4, 4]
    laned = trainer(small(optimiser=Optimiser(accumulate=2)))
    laned.run = replace(laned.run, facts=replace(laned.run.facts, lanes=2))
    assert sizes(laned) == [4, 4, 4, 4]
    later = trainer(small())
    later.run = replace(later.run, facts=replace(later.run.facts, parts=((1, 2), (3, 8))))
    assert [later.run.parts(step) for step in (0, 1, 2, 3, 9)] == [1, 2, 2, 8, 8]
    later.step = 1
    assert sizes(later) == [8, 8]


def test_the_averages_follow_every_step() -> None:
    """a_k = b_k a + (1 - b_k) w_k, b_k = (1 - 1/k)^(gamma + 1), for each width."""
    one = trainer(small(ema=(0.05, 0.2), optimiser=Optimiser(rate=0.01, warmup=0)))
    names = [name for name, _ in one.model.named_parameters()]
    followed = {width: [p.detach().double() for p in one.optimisers.parameters()] for width in (0.05, 0.2)}
    for k in range(1, 8):
        one.advance()
        for width, held in followed.items():
            b = beta(gamma_of(width), k)
            followed[width] = [
                b * a + (1 - b) * p.detach().double() for a, p in zip(held, one.optimisers.parameters(), strict=True)
            ]
    for width, held in followed.items():
        found = one.ema.tensors(width)
        for name, right in zip(names, held, strict=True):
            assert torch.allclose(found[name].double(), right, atol=1e-6)
    assert not torch.equal(one.ema.tensors(0.05)[names[0]], one.ema.tensors(0.2)[names[0]])


def test_no_weight_changes_if_the_loss_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("loss", "gradient"):
        one = trainer(small())
        right = one.losses
        if bad == "loss":
            monkeypatch.setattr(one, "losses", lambda items, turn, right=right: right(items, turn) + float("inf"))
        else:
            one.optimisers.parameters()[0].register_hook(lambda g: g * float("nan"))
        before = [p.detach().clone() for p in one.optimisers.parameters()]
        one.advance()
        assert one.step == 0 and not any(one.optimisers.state().values())
        assert all(
            torch.equal(a, b) and b.grad is None for a, b in zip(before, one.optimisers.parameters(), strict=True)
        )


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_network_computes_in_the_precision_of_the_run(precision: str) -> None:
    one = trainer(small())
    one.run = replace(one.run, facts=replace(one.run.facts, precision=precision))  # type: ignore[arg-type]
    seen: list[torch.dtype] = []
    for module in one.model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert one.losses(torch.arange(4)).dtype == torch.float32
    assert torch.bfloat16 in seen if precision == "bf16" else set(seen) == {torch.float32}


def test_the_steps_of_this_file_are_decided_by_the_host() -> None:
    """On a machine with an accelerator too: see the fixture no_accelerator."""
    one = trainer(small())
    assert one.device == CPU
    assert one.device_step is None


@pytest.mark.parametrize("able", [True, False])
def test_the_precision_is_the_setting_or_that_of_the_machine(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: able)
    monkeypatch.setattr(MAKE, "find_device", lambda: CPU)
    asked: dict[str, Callable[[], str]] = {
        name: lambda name=name: facts_of(points(), small().but(precision=name)).precision  # type: ignore[misc]
        for name in ("auto", "bf16", "fp32")
    }
    assert asked["auto"]() == ("bf16" if able else "fp32")
    assert asked["bf16"]() == "bf16" and asked["fp32"]() == "fp32"


def test_images_are_trained_in_a_lane_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MAKE, "find_device", lambda: CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert facts_of(images(), small()).lanes == 3
    assert facts_of(images(), small(), processes=2).lanes == 6
    assert facts_of(points(), small()).lanes == 1


@pytest.mark.parametrize("loss", [FeatureEnergy(), FeatureDrift()])
def test_images_that_are_compared_are_not_divided_among_cores(
    monkeypatch: pytest.MonkeyPatch, loss: FeatureEnergy
) -> None:
    monkeypatch.setattr(MAKE, "find_device", lambda: CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    compared = preset("smd", (1, 8, 8)).but(loss=loss)
    assert facts_of(images(), compared).lanes == 1
    # a batch that is never divided is in one piece as well
    assert preset("imm", (1, 8, 8)).task.together and not preset("plain", (1, 8, 8)).task.together
    # several processes divide the batch, whoever continues the run
    assert facts_of(images(), compared, processes=2).lanes == 2


def test_the_facts_of_the_data() -> None:
    """Their spread is of items from all over the set: here the first 10,000 have none."""
    values = torch.cat([torch.zeros(10_000, 1), torch.tensor([-1.0, 1.0]).repeat(5_000)[:, None]])
    found = facts_of(make("sorted", values, None, (), Report(20_000)), small())
    assert found.data_sd == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert (found.data, found.count, found.shape, found.steps) == ("sorted", 20_000, (1,), 40)
    assert found.shown == "chosen" and found.version == softmix.__version__


# what a loss keeps


def test_the_frozen_copy_has_the_averaged_weights_and_sees_items_from_anywhere() -> None:
    data = images(600)
    config = preset("smd", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=8, steps=20, precision="fp32")
    one = trainer(config.but(optimiser=Optimiser(rate=0.01, warmup=0)), data)
    for _ in range(4):
        one.advance()
    kept, seen = one.freeze(), list[torch.Tensor]()
    averaged, raw = one.ema.tensors(0.05), one.model.state_dict()
    for name, tensor in kept.network.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, averaged[name])
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)
    assert not any(p.requires_grad for p in kept.parameters())

    class Loss:
        def freeze(self, network: nn.Module, x0: torch.Tensor) -> nn.Module:
            seen.append(x0)
            return network

    one.task = Loss()  # type: ignore[assignment]
    one.freeze()
    one.run = replace(one.run, facts=replace(one.run.facts, shown="first"))
    one.freeze()
    chosen, first = seen
    assert len(chosen) == len(first) == 512
    assert torch.equal(first.cpu(), data.x0(slice(0, 512)))
    assert not torch.equal(chosen, first)


def test_progress_is_a_share_of_the_first_length() -> None:
    one = trainer(small())
    found = []
    for step in (0, 10, 40):
        one.step = step
        found.append(one.progress)
    assert found == [0, 0.25, 1]
    one.run = replace(one.run, facts=replace(one.run.facts, steps=100, ends=(20,)))
    one.total, one.step = 100, 10
    assert one.progress == 0.5
    one.step = 50
    assert one.progress == 1
    one.run, one.total = replace(one.run, facts=replace(one.run.facts, ends=(), steps=None)), None
    assert one.progress == 0


def test_the_loss_receives_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consistency model's steps grow finer with it."""
    config = preset("consistency", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=8, steps=10)
    seen: list[float] = []
    right = Consistency.ask

    def listening(self: Consistency, denoiser: object, noised: object, rng: object, stage: object) -> torch.Tensor:
        seen.append(stage.progress)  # type: ignore[attr-defined]
        return right(self, denoiser, noised, rng, stage)  # type: ignore[arg-type]

    monkeypatch.setattr(Consistency, "ask", listening)
    one = trainer(config, images())
    one.advance()
    one.step = 5
    one.advance()
    assert seen == [0.0, 0.5]


# the log, pictures and checkpoints of a run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_tenth_of_the_run_apart_there_are_a_checkpoint_and_a_picture(tmp_path: Path) -> None:
    config = preset("plain", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=4, steps=30, keep=50)
    for _ in training(images(), config, tmp_path / "run"):
        pass
    assert names(tmp_path / "run/checkpoints") == [f"step-{k:06d}" for k in range(0, 31, 3)]
    assert names(tmp_path / "run/samples") == [f"step-{k:06d}.png" for k in range(3, 31, 3)]


def test_checkpoints_and_pictures_are_as_far_apart_as_asked_for(tmp_path: Path) -> None:
    config = preset("plain", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=4, steps=11, keep=3)
    for _ in training(images(), config.but(save=4, show=5), tmp_path / "run"):
        pass
    assert names(tmp_path / "run/checkpoints") == ["step-000004", "step-000008", "step-000011"]
    assert names(tmp_path / "run/samples") == ["step-000005.png", "step-000010.png", "step-000011.png"]


def test_every_tenth_step_and_the_last_are_in_the_log_with_the_reported_values(tmp_path: Path) -> None:
    seen = {step.step: step for step in training(points(), small(steps=23), tmp_path / "run")}
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [10, 20, 23]
    for line in lines:
        step = seen[line["step"]]
        assert line == {"step": step.step, "loss": step.loss, "norm": step.norm, "rate": step.rate}
    assert [step.total for step in seen.values()] == [23] * 23
    speeds = log_of(tmp_path / "run", "speed.jsonl")
    assert [line["step"] for line in speeds] == [10, 20, 23]
    assert all(line["images_per_second"] > 0 and set(line) == {"step", "images_per_second"} for line in speeds)


def test_the_log_holds_each_step_once_though_some_are_taken_twice(tmp_path: Path) -> None:
    """Cut off after step 25 without a checkpoint of it, as by a kill: steps 21 to 25 are taken again."""
    config = small(steps=40, save=20)
    run = training(points(), config, tmp_path / "run")
    for step in itertools.islice(run, 31):
        last = step.step
    assert last == 31 and [line["step"] for line in log_of(tmp_path / "run")] == [10, 20, 30]
    # what leaving the loop would save is not there after a kill
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "run", kept)
    run.close()
    steps = [step.step for step in training(points(), config, kept)]
    assert steps == list(range(21, 41))
    for name in ("log.jsonl", "speed.jsonl"):
        assert [line["step"] for line in log_of(kept, name)] == [10, 20, 30, 40]


def test_a_damaged_log_gives_its_whole_lines(tmp_path: Path) -> None:
    assert log_of(tmp_path) == []
    (tmp_path / "log.jsonl").write_bytes(
        b'{"step": 1, "loss": 2}\nnonsense\n[1]\n{"loss": 3}\n\xff\n{"step": 2}\n{"ste'
    )
    assert log_of(tmp_path) == [{"step": 1, "loss": 2}, {"step": 2}]


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    first = training(points(), small(), tmp_path / "run")
    next(first)
    with pytest.raises(TrainingError, match="trained by another process"):
        next(training(points(), small(), tmp_path / "run"))
    first.close()
    assert next(training(points(), small(), tmp_path / "run")).step == 2


def test_a_caller_who_asks_to_stop_gets_a_checkpoint(tmp_path: Path) -> None:
    steps = []
    with pytest.raises(StoppedError, match="stopped after step 2 of 40, and saved") as stop:
        for step in training(points(), small(save=40), tmp_path / "run", lambda: 15 * (len(steps) == 2)):
            steps.append(step.step)
    assert stop.value.number == 15 and steps == [1, 2]
    assert names(tmp_path / "run/checkpoints") == ["step-000000", "step-000002"]
