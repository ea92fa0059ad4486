"""Half precision with a loss scale, counts of failures, and the wish to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import softmix
from softmix.data import Data, Report
from softmix.data.store import make
from softmix.denoiser import PointHead
from softmix.loss import Square
from softmix.net import MLPSpec
from softmix.train import Batch, Config, Denoise, Run, Trainer, TrainingError, checkpoint, facts_of, training
from softmix.train.device_step import DeviceStep
from softmix.train.make import find_device, suitable_precision
from softmix.train.processes import Processes, card_of
from softmix.train.progress import FailureCount, StopRequest
from softmix.train.scale import LossScale

TRAINER = sys.modules["softmix.train.trainer"]


def points() -> Data:
    values = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), device="cpu")
    return make("points", values, None, (), Report(300))


def small(**changes: object) -> Config:
    base = Config(Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v")), batch=16, steps=12)
    return base.but(**{"precision": "fp16", **changes})  # type: ignore[arg-type]


def trainer(config: Config, sent: bool = False) -> Trainer:
    one = Trainer(Run(config, facts_of(points(), config)), points(), Path())
    one.device_step = DeviceStep(one, None) if sent else None
    return one


# the scale


def test_the_scale_doubles_every_2000_steps_and_halves_at_an_overflow() -> None:
    scale = LossScale()
    assert [scale.at(step) for step in (0, 1999, 2000, 4000, 10**6)] == [2**16, 2**16, 2**17, 2**18, 2**24]
    halved = scale.halved(2500)
    assert halved == LossScale(2.0**16, 2500)
    assert [halved.at(step) for step in (2500, 4499, 4500)] == [2**16, 2**16, 2**17]


def test_a_scale_of_1_cannot_be_halved() -> None:
    assert LossScale(2.0, 0).halved(5) == LossScale(1.0, 5)
    assert LossScale(1.0, 5).halved(6) is None


def test_the_network_computes_in_fp16() -> None:
    one, seen = trainer(small()), list[torch.dtype]()
    for module in one.model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert one.losses(torch.arange(4)).dtype == torch.float32 and torch.float16 in seen


def test_the_scale_cancels_in_the_gradient() -> None:
    """In float32 a power of two changes no bit, so that a step with a scale is the step without one."""
    plain, scaled = trainer(small(precision="fp32")), trainer(small(precision="fp32"))
    scaled.scale = LossScale()
    for _ in range(4):
        assert plain.advance() == scaled.advance()
    for a, b in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_gradient_is_computed_with_the_scale() -> None:
    """A gradient of 1e-7 is 0 in fp16. Times 2^16 it is not."""
    one, seen = trainer(small()), list[float]()
    one.optimisers.parameters()[-1].register_hook(lambda g: seen.append(float(g.abs().max())))
    one.advance()
    one.scale = LossScale(1.0)
    one.step = 0
    one.advance()
    assert seen[0] > 1000 * seen[1] > 0


def overflowing(one: Trainer, above: float) -> list[float]:
    """Make the gradient infinite as long as the scale is above a value. Returns the scales of the tries."""
    tries: list[float] = []

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        assert one.scale is not None
        tries.append(one.scale.at(one.step))
        return gradient * float("inf") if tries[-1] > above else gradient

    one.optimisers.parameters()[0].register_hook(hook)
    return tries


@pytest.mark.parametrize("sent", [False, True], ids=["host", "device"])
def test_an_overflow_halves_the_scale_and_tries_the_same_step_again(sent: bool) -> None:
    one = trainer(small(), sent)
    tries, before = overflowing(one, 2.0**14), [p.detach().clone() for p in one.optimisers.parameters()]
    while one.step == 0:
        one.advance()
        assert one.settle() is None
    assert tries == [2.0**16, 2.0**15, 2.0**14] and one.step == 1
    assert one.scale == LossScale(2.0**14, 0)
    assert any(not torch.equal(a, b) for a, b in zip(before, one.optimisers.parameters(), strict=True))


def test_the_device_and_the_host_take_the_same_steps_with_overflows() -> None:
    """The device finds the overflow when the host reads, here after four steps.

    On an accelerator the steps of the host have a learning rate of other digits. There it reads after each sent step.
    """
    host, there = trainer(small(), find_device().type != "cpu"), trainer(small(), True)
    for one in (host, there):
        overflowing(one, 2.0**15)
    while host.step < 8:
        host.advance()
        assert host.settle() is None
    while there.step < 8:
        for _ in range(min(4, 8 - there.step)):
            there.advance()
        assert there.settle() is None
    assert host.scale == there.scale == LossScale(2.0**15, 0)
    for a, b in zip(host.model.parameters(), there.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sent", [False, True], ids=["host", "device"])
def test_at_a_scale_of_1_the_policy_applies(sent: bool) -> None:
    one = trainer(small(), sent)
    one.scale = LossScale(2.0)
    tries = overflowing(one, 0.0)
    for _ in range(2 if sent else 1):
        one.advance()
        failure = one.settle()
    assert tries == [2.0, 1.0] and failure is not None and failure.loss < float("inf")


def test_a_loss_that_is_not_finite_is_no_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(small())
    right = one.losses
    monkeypatch.setattr(one, "losses", lambda items, turn: right(items, turn) * float("nan"))
    one.advance()
    assert one.settle() is not None and one.scale == LossScale()


def test_a_run_in_fp16_resumes_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first scale overflows, so that a fresh one after the kill would differ from that of the checkpoint."""
    monkeypatch.setattr(TRAINER, "LossScale", lambda base=2.0**40, since=0: LossScale(base, since))
    whole, left = tmp_path / "whole", tmp_path / "left"
    for _ in training(points(), small(), whole):
        pass
    for step in training(points(), small(), left):
        if step.step == 7:
            break
    for _ in training(points(), small(), left):
        pass
    states = [checkpoint.latest(run / "checkpoints") for run in (whole, left)]
    assert states[0] is not None and states[1] is not None
    assert states[0].state == states[1].state and states[0].state["scale"][0] < 2.0**24
    for name, tensor in states[0].tensors["model"].items():
        assert torch.equal(tensor, states[1].tensors["model"][name])


def test_a_checkpoint_holds_the_scale(tmp_path: Path) -> None:
    one, other = trainer(small()), trainer(small())
    one.out = other.out = tmp_path
    one.scale = LossScale(8.0, 3)
    one.save()
    other.load()
    assert other.scale == LossScale(8.0, 3)


@pytest.mark.parametrize(("able", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_card_without_bf16_takes_fp16(able: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        # torch emulates bf16 on every card
        return able or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert suitable_precision(torch.device("cuda")) == precision


# counts of the loop


def test_failures_in_a_row_end_with_a_success_beyond_the_last_of_them() -> None:
    count = FailureCount(0)
    count.fail(6)
    assert count.failures == 1
    # a rollback to step 4: steps 5 and 6 are taken again, and step 7 fails again
    count.go_on(4)
    count.succeed(6)
    count.fail(6)
    assert count.failures == 2
    # skipped
    count.go_on(7)
    count.fail(7)
    assert count.failures == 3
    count.go_on(8)
    count.succeed(9)
    assert count.failures == 0


def test_steps_that_are_found_taken_with_a_failure_end_the_row_before_it() -> None:
    """The device is read after a failure of step 10, with steps 8 and 9 taken."""
    count = FailureCount(0)
    count.fail(6)
    count.go_on(7)
    count.fail(9)
    assert count.failures == 1


def exchanging(monkeypatch: pytest.MonkeyPatch, others: list[list[float]]) -> list[str]:
    """Two processes: the other one gives these values, one list a step. Returns the order of the calls."""
    calls: list[str] = []

    def begin(self: Processes, values: list[float]) -> Callable[[], list[float]]:
        calls.append("begin")
        sums = [a + b for a, b in zip(values, others.pop(0), strict=True)]

        def end() -> list[float]:
            calls.append("end")
            return sums

        return end

    monkeypatch.setattr(Processes, "begin_total", begin)
    return calls


def test_with_several_processes_a_wish_to_stop_is_known_one_step_later(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = exchanging(monkeypatch, [[0, 0], [15, 1], [15, 1]])
    own = [0, 0, 0]
    request = StopRequest(Processes(0, 2), lambda: own.pop(0))
    assert [request.number() for _ in range(3)] == [0, 0, 15]
    request.end()
    request.end()
    assert calls == ["begin", "begin", "end", "begin", "end", "end"]


def test_one_process_stops_at_once() -> None:
    assert StopRequest(Processes(), lambda: 2).number() == 2


def test_a_process_without_a_card_of_its_own_is_refused() -> None:
    assert card_of(1, 2) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="process 2 of this machine needs a card of its own, and there are 2"):
        card_of(2, 2)


def test_a_number_of_a_record_is_computed_when_it_is_read() -> None:
    asked: list[int] = []
    items = torch.arange(2)
    batch = Batch(items, items, softmix.Rng(0, items), progress=lambda: float(asked.append(1) or 0.5))
    assert not asked
    assert batch.progress == 0.5 and asked == [1]
    assert Batch(items, items, softmix.Rng(0, items)).progress == 0.0


def test_a_setting_of_the_graph_may_change_in_a_resumed_run(tmp_path: Path) -> None:
    for step in training(points(), small(precision="fp32"), tmp_path):
        if step.step == 3:
            break
    notes = [note for step in training(points(), small(precision="fp32", graph="off"), tmp_path) for note in step.notes]
    assert notes == ["from step 4 on graph is off; before it was auto"]
    with pytest.raises(TrainingError, match="another precision"):
        next(training(points(), small(precision="fp16"), tmp_path))
