"""A task of the caller with several modules: turns, rates, clips, buffers, names, weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import Cond, CondSpec
from softmix.data import Data, Report, Source
from softmix.data import load as load_data
from softmix.data.store import make
from softmix.denoiser import Network, PointHead
from softmix.loss import Group, Square, Stage
from softmix.net import MLPSpec
from softmix.process import VP, Noised
from softmix.rng import Rng
from softmix.train import (
    Batch,
    Config,
    Denoise,
    Facts,
    Optimiser,
    Run,
    RunError,
    Task,
    Trainer,
    TrainingError,
    checkpoint,
    data_of,
    facts_of,
    load,
    preset,
    read_run,
    training,
)
from softmix.train.blank_condition import nothing_given
from softmix.train.pictures import picture
from softmix.train.processes import Processes
from softmix.train.record import EarlierSettings
from softmix.train.trial import check_parts, trial_run

POINTS = load_data("toy:ring", limit=200)


@dataclass(frozen=True)
class Fit(Task):
    """Linear maps of x0: "model" is fitted to -x0 and each other module to its own target; a share of rivals too."""

    width: int = 2
    after: float | None = None
    together: bool = False
    seen: ClassVar[list[tuple[str, float]]] = []
    beside: ClassVar[Mapping[str, Group]] = {}
    frozen: ClassVar[tuple[str, ...]] = ()

    @property
    def whole(self) -> bool:
        return self.together

    @property
    def freeze_at(self) -> float | None:
        return self.after

    def build(self, facts: Facts) -> nn.ModuleDict:
        made: dict[str, nn.Module] = {name: nn.Linear(2, 2) for name in self.beside}
        for name in self.frozen:
            made[name].requires_grad_(False)
        # the model is the last that is built: its place says nothing
        model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, self.width), nn.Linear(self.width, 2))
        return nn.ModuleDict({**made, "model": model})

    def groups(self) -> Mapping[str, Group]:
        return self.beside

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        x = source.batch(batch.index, batch.rng)[0]
        self.seen.append((batch.turn, float(sum(p.detach().sum() for p in modules.parameters()))))
        if batch.turn != "model":
            return (modules[batch.turn](x) - 3).square().sum(1)
        beside = sum(((modules[name](x) - 100).square().sum(1) for name in self.beside), x.new_zeros(len(x)))
        return (modules["model"](x) + 1).square().sum(1) + beside

    def result(self, model: nn.Module, facts: Facts, step: int) -> nn.Module:
        return model


@dataclass(frozen=True)
class Keeping(Fit):
    after: float | None = 0.5

    def freeze(self, model: nn.Module, x0: Tensor) -> nn.Module:
        # built anew, as a module is that is made of another
        return nn.Sequential(nn.Dropout(0.5), model)


def config(task: Task | None = None, **changes: object) -> Config:
    base = Config(task or Fit(), batch=8, steps=8, save=2, precision="fp32")  # type: ignore[arg-type]
    return replace(base, **changes)  # type: ignore[arg-type]


def trainer(settings: Config | None = None, out: Path | None = None, **run: Any) -> Trainer:
    settings = settings or config()
    return Trainer(Run(settings, facts_of(POINTS, settings), **run), POINTS, out or Path())


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def change(*frozen: str, **groups: Group) -> None:
        monkeypatch.setattr(Fit, "beside", groups)
        monkeypatch.setattr(Fit, "frozen", frozen)
        monkeypatch.setattr(Fit, "seen", [])

    return change


def of(one: Trainer, name: str) -> Tensor:
    return torch.cat([p.detach().flatten() for p in one.modules[name].parameters()])


# turns


def test_two_rivals_take_their_turns_in_their_order_and_each_moves_itself_alone(
    beside: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(second=Group(rival=True), first=Group(rival=True), friend=Group())
    one = trainer()
    assert one.optimisers.turns == ("second", "first", "model")
    before, after = {name: of(one, name) for name in one.modules}, list[set[str]]()
    right = one.losses

    def listening(items: Tensor, turn: str) -> Tensor:
        after.append({name for name in before if not torch.equal(before[name], of(one, name))})
        return right(items, turn)

    monkeypatch.setattr(one, "losses", listening)
    one.advance()
    assert after == [set(), {"second"}, {"second", "first"}]
    assert [turn for turn, _ in Fit.seen] == ["second", "first", "model"]
    assert all(not torch.equal(before[name], of(one, name)) for name in before)
    assert all(p.grad is None for p in one.modules.parameters())


def test_each_module_is_clipped_by_itself_and_the_norm_is_the_models(beside: Callable[..., None]) -> None:
    beside(friend=Group(clip=0.25))
    one = trainer(config(optimiser=Optimiser(clip=0.5)))
    assert one._backward("model") > 0
    norms = {name: torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]).norm()
             for name, m in one.modules.items()}  # fmt: skip
    # the friend is far from its target: were the norm taken over both, it would be another
    assert norms["friend"] > 10 * norms["model"] > 10 * 0.5
    assert one.optimisers.clip("model") == pytest.approx(float(norms["model"]), rel=1e-5)
    for name, most in (("model", 0.5), ("friend", 0.25)):
        left = torch.cat([p.grad.flatten() for p in one.modules[name].parameters() if p.grad is not None]).norm()
        assert float(left) == pytest.approx(most, rel=1e-4)


def test_a_norm_that_is_not_finite_is_seen_in_any_module(beside: Callable[..., None]) -> None:
    beside(friend=Group())
    one = trainer()
    one._backward("model")
    next(one.modules["friend"].parameters()).grad.fill_(float("nan"))  # type: ignore[union-attr]
    assert not one.optimisers.clip("model") < float("inf")


def rates(one: Trainer, step: int) -> dict[str, float]:
    one.step = step
    one.advance()
    return {name: made.param_groups[0]["lr"] for name, made in one.optimisers._made.items()}


def test_a_rate_of_its_own_rises_and_falls_with_the_models_and_is_not_changed_with_it(
    beside: Callable[..., None],
) -> None:
    beside(own=Group(rate=0.02, rival=True), same=Group())
    # from step 4 on the model's rate is a tenth; steps before it are taken again as they were
    settings = config(optimiser=Optimiser(rate=1e-4, warmup=0, decay=0.0))
    one = trainer(settings, earlier=(EarlierSettings(4, 1e-3, "stop"),))
    assert rates(one, 2) == pytest.approx({"own": 0.02, "same": 1e-3, "model": 1e-3})
    assert rates(one, 6) == pytest.approx({"own": 0.02, "same": 1e-4, "model": 1e-4})
    falling = trainer(config(optimiser=Optimiser(rate=1e-3, warmup=4, decay=0.5)))
    assert rates(falling, 0) == pytest.approx({"own": 0.005, "same": 2.5e-4, "model": 2.5e-4})
    assert rates(falling, 7) == pytest.approx({"own": 0.005, "same": 2.5e-4, "model": 2.5e-4})


def test_moments_of_each_module_come_back(beside: Callable[..., None], tmp_path: Path) -> None:
    beside(rival=Group(rival=True), friend=Group())
    one, other = trainer(out=tmp_path), trainer(out=tmp_path)
    for _ in range(3):
        one.advance()
    one.save()
    assert {"optimizer", "optimizer-rival", "optimizer-friend"} <= checkpoint.latest(
        tmp_path / "checkpoints"
    ).tensors.keys()
    other.load()
    one.advance()
    other.advance()
    assert all(torch.equal(of(one, name), of(other, name)) for name in one.modules)


# buffers


def buffers(one: Trainer) -> list[Tensor]:
    return [buffer.clone() for buffer in one.modules.buffers()]


def test_trial_steps_restore_running_means(beside: Callable[..., None]) -> None:
    beside(rival=Group(rival=True))
    one = trainer()
    before = buffers(one)
    for attempt in (lambda: check_parts(one), lambda: trial_run(one, lambda sentence: None)):
        attempt()
        assert all(torch.equal(a, b) for a, b in zip(before, buffers(one), strict=True))
    one.advance()
    assert not all(torch.equal(a, b) for a, b in zip(before, buffers(one), strict=True))


def test_a_step_that_is_not_taken_leaves_running_means_as_they_were(
    beside: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside()
    one = trainer()
    before, right = buffers(one), one.losses
    monkeypatch.setattr(one, "losses", lambda items, turn: right(items, turn) * float("nan"))
    one.advance()
    assert one.step == 0 and all(torch.equal(a, b) for a, b in zip(before, buffers(one), strict=True))


def test_the_frozen_copy_is_used_and_not_trained_before_a_kill_and_after(
    beside: Callable[..., None], tmp_path: Path
) -> None:
    beside()
    one, other = trainer(config(Keeping()), tmp_path), trainer(config(Keeping()), tmp_path)
    for _ in range(5):
        one.advance()
    one.save()
    other.load()
    assert one.frozen is not None and other.frozen is not None
    for kept in (one.frozen, other.frozen):
        assert not any(module.training for module in kept.modules())
        assert not any(parameter.requires_grad for parameter in kept.parameters())
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).to(one.device)
    assert torch.equal(one.frozen(x), other.frozen(x))


# what cannot be


def refused(task: Task, out: Path, said: str, source: Data = POINTS, **changes: object) -> None:
    with pytest.raises(TrainingError, match=said):
        next(training(source, config(task, **changes), out / "run", parts=(type(task),)))
    assert not (out / "run").exists()


@pytest.mark.parametrize("name", ["kept", "optimizer", "optimizer-rival", "ema-0", "a b"])
def test_a_name_that_is_taken_in_a_checkpoint_is_refused(
    name: str, beside: Callable[..., None], tmp_path: Path
) -> None:
    beside(**{name: Group()})
    refused(Fit(), tmp_path, f"a module is named {name!r}, which is no name for its file")


def test_a_parameter_of_two_modules_is_refused(
    beside: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(friend=Group())

    def build(self: Fit, facts: Facts) -> nn.ModuleDict:
        one = nn.Linear(2, 2)
        return nn.ModuleDict({"model": nn.Sequential(one), "friend": nn.Sequential(one)})

    monkeypatch.setattr(Fit, "build", build)
    refused(Fit(), tmp_path, "the modules model and friend have a parameter in common")


def test_a_task_without_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fit, "build", lambda self, facts: nn.ModuleDict({"network": nn.Linear(2, 2)}))
    refused(Fit(), tmp_path, r"a run needs the module \"model\"; the task has built \['network'\]")


def test_a_module_that_is_held_as_it_is_stays_and_a_rival_of_that_kind_is_refused(
    beside: Callable[..., None], tmp_path: Path
) -> None:
    beside("eyes", eyes=Group(), friend=Group())
    one = trainer()
    before = {name: of(one, name) for name in one.modules}
    next(one.model.parameters()).requires_grad_(False)
    one = trainer()
    for _ in range(2):
        one.advance()
    assert torch.equal(of(one, "eyes"), before["eyes"])
    assert not torch.equal(of(one, "friend"), before["friend"])
    beside("eyes", eyes=Group(rival=True))
    refused(Fit(), tmp_path, "the module eyes is to be trained, and none of its parameters")


@pytest.mark.parametrize(
    "made",
    [
        lambda: Group(rate=0.0),
        lambda: Group(rate=-1.0),
        lambda: Group(clip=0.0),
        lambda: Group(weight_decay=-0.1),
        lambda: Group(betas=(0.9, 1.0)),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(made: Callable[[], Group]) -> None:
    with pytest.raises(ValueError, match="a group"):
        made()


def test_a_loss_may_not_build_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Square, "build", lambda self, network: {"model": nn.Linear(2, 2)}, raising=False)
    task = Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v"))
    refused(task, tmp_path, 'the loss has built a module named "model"')


def test_a_task_without_freeze_is_refused_before_anything_is_written(
    beside: Callable[..., None], tmp_path: Path
) -> None:
    beside()
    refused(Fit(after=0.5), tmp_path, "Fit freezes no copy of its model")
    for share in (1.0, 1.5, -0.1):
        refused(Fit(after=share), tmp_path, f"freeze_at is a share of the run.*found {share}")


def test_a_batch_that_is_compared_is_never_divided(beside: Callable[..., None], tmp_path: Path) -> None:
    beside()
    refused(Fit(together=True), tmp_path, "optimiser.accumulate is 2", optimiser=Optimiser(accumulate=2))
    with pytest.raises(ValueError, match="train with one"):
        Trainer(trainer(config(Fit(together=True))).run, POINTS, tmp_path, Processes(0, 2))


def test_a_loss_of_another_shape_is_refused_in_every_step(
    beside: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside()
    one, right = trainer(), Fit.losses
    monkeypatch.setattr(Fit, "losses", lambda self, *asked: right(self, *asked)[:, None])
    with pytest.raises(ValueError, match=r"one number for each item, here \[8\]; found the shape \[8, 1\]"):
        one.advance()


# weights of others


def run(out: Path, task: Task, until: int | None = None, **more: Any) -> None:
    for step in training(POINTS, config(task), out, parts=(Fit, Keeping), **more):
        if step.step == until:
            break


def test_a_task_of_ones_own_begins_with_weights_that_fit_and_with_no_others(
    beside: Callable[..., None], tmp_path: Path
) -> None:
    beside()
    run(tmp_path / "a", Fit())
    start = load(tmp_path / "a", parts=(Fit,))
    with pytest.raises(TrainingError, match=r"do not fit: 1\.bias, 1\.weight, 2\.weight are of another size"):
        run(tmp_path / "b", Fit(width=3), start=start)
    assert not (tmp_path / "b").exists()
    run(tmp_path / "c", Fit(), start=start)
    # killed before its first checkpoint, it reads the weights from where it began
    run(tmp_path / "d", Fit(), 1, start=start)
    for path in sorted((tmp_path / "d/checkpoints").glob("*/*")):
        path.unlink()
    for path in sorted((tmp_path / "d/checkpoints").glob("*")):
        path.rmdir()
    run(tmp_path / "d", Fit())
    c, d = (load(tmp_path / name, parts=(Fit,)) for name in "cd")
    assert c.fingerprint == d.fingerprint != start.fingerprint


def test_weights_of_another_make_are_named_when_they_are_read(
    beside: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(rival=Group(rival=True))
    run(tmp_path / "run", Fit(), 4)
    beside(foe=Group(rival=True))
    with pytest.raises(TrainingError, match=r"does not fit this configuration.*'foe'.*rival.*continue with"):
        run(tmp_path / "run", Fit())
    monkeypatch.setattr(Fit, "build", lambda self, facts: nn.ModuleDict({"model": nn.Linear(2, 2)}))
    with pytest.raises(RunError, match="does not fit its configuration"):
        load(tmp_path / "run", parts=(Fit,))


def test_a_run_without_a_denoiser_says_so_and_its_data_load(beside: Callable[..., None], tmp_path: Path) -> None:
    beside()
    run(tmp_path / "run", Fit())
    model = load(tmp_path / "run", parts=(Fit,))
    assert model.result is model.network
    for part in ("denoiser", "sampler", "process"):
        with pytest.raises(RunError, match="was trained for Fit and has no denoiser: see `result`"):
            getattr(model, part)
    with pytest.raises(RunError, match="Fit"):
        data_of(tmp_path / "run")
    assert data_of(tmp_path / "run", parts=(Fit,)).fingerprint == POINTS.fingerprint


def test_a_fingerprint_is_that_of_0_1() -> None:
    """Pictures that a model in two stages has made name it, and its network stood in it twice."""
    assert load("fashion").fingerprint == "df0a8217b6bf"


def test_a_fingerprint_of_half_precision_is_of_its_bytes(beside: Callable[..., None], tmp_path: Path) -> None:
    beside()
    run(tmp_path / "run", Fit())
    model = load(tmp_path / "run", parts=(Fit,))
    model = replace(model, network=nn.ParameterDict({"w": torch.tensor(1.0, dtype=torch.bfloat16)}))
    assert model.fingerprint == hashlib.sha256(b"w\x80\x3f").hexdigest()[:12]


def test_a_run_with_other_conditions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v"), classes=True)
    k = torch.arange(60)
    points = make("points", torch.randn(60, 2), k % 3, ("a", "b", "c"), Report(60))
    for _ in training(points, config(task), tmp_path / "run"):
        break
    assert read_run(tmp_path / "run").facts.cond_spec == CondSpec((("class", 3),))
    monkeypatch.setattr(Data, "cond", property(lambda self: CondSpec((("class", 12),))))
    with pytest.raises(
        TrainingError, match=r"with the conditions the label class \(3 classes\), and points offers .*12 classes"
    ):
        next(training(points, config(task), tmp_path / "run"))


# the conditions of a batch


class Told:
    """Points with two labels, an image of none, numbers and a context."""

    name, fingerprint, shape, is_image = "told", "0" * 12, (2,), False
    cond = CondSpec((("shoe", 3), ("size", 5)), values=2, context=4)

    def __len__(self) -> int:
        return 4000

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Any]:
        n = len(index)
        label = torch.stack([index % 3, index % 5], 1)
        return torch.randn(n, 2), Cond(label, None, torch.ones(n, 2), torch.ones(n, 3, 4))


def test_each_condition_is_dropped_on_its_own() -> None:
    task = Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v"), classes=True, drop=0.3)
    one = Batch(torch.arange(4000), torch.arange(4000), Rng(0, torch.arange(4000)))
    noised, _ = task.examples(Told(), one, Told.cond)
    cond = noised.cond
    assert isinstance(cond, Cond) and cond.label is not None and cond.value is not None and cond.mask is not None
    gone = torch.stack(
        [cond.label[:, 0] == -1, cond.label[:, 1] == -1, cond.value.isnan().all(1), ~cond.mask.any(1)]
    ).double()
    # what is there is as it was, and a part is gone as a whole
    assert torch.equal(cond.value.isnan().any(1), cond.value.isnan().all(1))
    assert torch.equal(cond.mask.any(1), cond.mask.all(1))
    there = cond.label[:, 1] != -1
    assert torch.equal(cond.label[there, 1], torch.arange(4000)[there] % 5)
    # five standard deviations of a share of 4,000 and of a correlation of independent ones
    assert bool(((gone.mean(1) - 0.3).abs() < 5 * (0.21 / 4000) ** 0.5).all())
    assert bool(((torch.corrcoef(gone) - torch.eye(4)).abs() < 5 / 4000**0.5).all())


def test_a_loss_receives_the_turn_and_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[tuple[str, set[str], float]]()
    monkeypatch.setattr(Square, "groups", {"rival": Group(rival=True)}, raising=False)
    monkeypatch.setattr(Square, "build", lambda self, network: {"rival": nn.Linear(2, 1)}, raising=False)

    def ask(self: Square, denoiser: Any, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        told.append((stage.turn, set(stage.modules), stage.progress))
        return stage.modules["rival"](noised.xt)[:, 0] + denoiser(noised.xt, noised.t).mean.sum(1)

    monkeypatch.setattr(Square, "ask", ask, raising=False)
    task = Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v"))
    one = trainer(config(task))
    one.step = 4
    one.advance()
    assert told == [("rival", {"model", "rival"}, 0.5), ("model", {"model", "rival"}, 0.5)]


def test_a_loss_in_half_precision_is_summed_in_single(
    beside: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside()
    right = Fit.losses
    monkeypatch.setattr(Fit, "losses", lambda self, *asked: right(self, *asked).bfloat16())
    one = trainer(config(batch=100))
    losses = one.losses(torch.arange(100))
    assert losses.dtype == torch.float32
    total, _ = one.advance()
    assert total == pytest.approx(float(losses.detach().double().mean()), rel=1e-6)


def test_a_rival_that_fails_is_named(
    beside: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(rival=Group(rival=True))
    right = Fit.losses

    def failing(self: Fit, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        return right(self, modules, source, batch) * (float("nan") if batch.turn == "rival" else 1.0)

    monkeypatch.setattr(Fit, "losses", failing)
    with pytest.raises(TrainingError, match=r"step 1: loss nan of rival, .*largest weight [\d.]+ in (weight|bias)\."):
        run(tmp_path / "run", Fit())


def test_a_batch_that_is_compared_and_does_not_fit_is_to_be_smaller(
    beside: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside()

    def lacking(self: Fit, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        if len(batch.items) > 2:
            raise MemoryError("out of memory")
        return right(self, modules, source, batch)

    right = Fit.losses
    monkeypatch.setattr(Fit, "losses", lacking)
    refused(Fit(together=True), tmp_path, r"train with a smaller batch \(its loss compares all 8 items\)")


def test_after_a_rollback_a_task_has_other_draws_of_the_same_items(beside: Callable[..., None]) -> None:
    beside()
    one, items = trainer(), torch.arange(8)
    first = one.batch(items)
    one.attempt = 1
    second = one.batch(items)
    assert torch.equal(first.index, second.index) and (first.attempt, second.attempt) == (0, 1)
    draws = [batch.rng.child("noise").normal((8, 3)) for batch in (first, second)]
    assert not bool((draws[0] == draws[1]).any())


def test_a_task_that_keeps_has_a_rate_that_rises_and_falls_twice(beside: Callable[..., None]) -> None:
    beside()
    one = trainer(config(Keeping(), optimiser=Optimiser(rate=1.0, warmup=0, decay=1.0)))
    found = []
    for one.step in range(8):
        found.append(one.rate())
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.25] * 2)


def test_a_batch_that_is_compared_has_one_lane(beside: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    beside()
    monkeypatch.setattr(Data, "is_image", property(lambda self: True))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert facts_of(POINTS, config(Fit()), 2).lanes == 6
    assert facts_of(POINTS, config(Fit(together=True)), 2).lanes == 1


def test_the_loss_of_every_turn_is_tried(
    beside: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(rival=Group(rival=True))
    check_parts(trainer())
    assert [turn for turn, _ in Fit.seen] == ["rival", "model"]
    right = Fit.losses

    def wrong(self: Fit, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        if batch.turn == "rival":
            raise LookupError("this rival has no data")
        return right(self, modules, source, batch)

    monkeypatch.setattr(Fit, "losses", wrong)
    with pytest.raises(LookupError, match="no data"):
        check_parts(trainer())
    refused(Fit(), tmp_path, "cannot be trained on toy:ring.*this rival has no data")


def test_weights_of_another_task_or_of_other_conditions_do_not_fit(beside: Callable[..., None], tmp_path: Path) -> None:
    beside()
    run(tmp_path / "a", Fit())
    with pytest.raises(TrainingError, match="do not fit: task: Keeping here, Fit there"):
        run(tmp_path / "b", Keeping(), start=load(tmp_path / "a", parts=(Fit,)))
    k = torch.arange(60)
    points = make("points", torch.randn(60, 2), k % 3, ("a", "b", "c"), Report(60))
    task = Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v"), classes=True)
    for _ in training(points, config(task), tmp_path / "told"):
        pass
    with pytest.raises(
        TrainingError, match=r"do not fit: conditions: no condition here, the label class \(3 classes\)"
    ):
        unconditional = replace(task, classes=False)
        next(training(points, config(unconditional), tmp_path / "c", start=load(tmp_path / "told")))
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


class Beside:
    """Images, each told itself."""

    name, fingerprint, shape, is_image, cond = "beside", "0" * 12, (1, 4, 4), True, CondSpec(image=1)

    def __len__(self) -> int:
        return 64

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond]:
        x = index[:, None, None, None] + torch.arange(16.0).reshape(1, 1, 4, 4) / 16
        return x, Cond(image=x)


def test_an_image_condition_is_mirrored_with_its_item() -> None:
    task = Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v"), drop=0.0, flip=True)
    items = torch.arange(64)
    noised, _ = task.examples(Beside(), Batch(items, items, Rng(0, items)), Beside.cond)
    assert isinstance(noised.cond, Cond) and noised.cond.image is not None
    assert torch.equal(noised.cond.image, noised.x0)
    turned = (noised.x0[:, 0, 0, 0] > noised.x0[:, 0, 0, 3]).double().mean()
    # five standard deviations of a share of 64
    assert abs(float(turned) - 0.5) < 5 * 0.5 / 8


def test_settings_are_changed_of_the_task_that_is_given_with_them() -> None:
    changed = config(Fit(width=3)).but(task=Keeping(), width=4, batch=5)
    assert changed.task == Keeping(width=4) and changed.batch == 5  # type: ignore[comparison-overlap]


def test_a_picture_is_drawn_by_the_first_process_alone(
    beside: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside()
    monkeypatch.setattr(Data, "is_image", property(lambda self: True))
    monkeypatch.setattr(Fit, "picture", lambda self, *asked: torch.ones(1))
    one = trainer()
    assert picture(one) is not None
    one.processes = Processes(1, 2)
    assert picture(one) is None


@pytest.mark.parametrize("shape", [(1, 8, 8), (6, 3)])
def test_an_image_of_which_nothing_is_known_is_on_the_grid_of_the_items(shape: tuple[int, ...]) -> None:
    told = CondSpec(image=2)
    network = Network(VP(), preset("plain", shape).task.net, PointHead(), shape, told)
    cond = nothing_given(told, shape, 3)
    assert cond is not None and cond.image is not None and cond.image.isnan().all()
    assert network(torch.zeros(3, *shape), 0.5, cond).mean.isfinite().all()
